//! A proxy that makes faults: what stands between a server and its store when the network is bad, or the store is.
//!
//! It speaks HTTP/1.1 with connections that are kept, does to a request what the first [`Rule`] that is about it says, and
//! keeps a record of all of them. A request that is held stays in flight until the test says otherwise, so that tests go
//! by order and not by time.

mod exchange;
mod gate;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::PATIENCE;
use gate::Gate;

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with an error as S3 writes them: status and code.
    Error(u16, &'static str),
    /// It is answered after this time.
    Delay(Duration),
    /// Of the answer's body come so many bytes at a time, with this time between them.
    Trickle(usize, Duration),
    /// The connection ends behind so many bytes of the answer's body.
    Cut(usize),
    /// It is not answered until [`Proxy::release`].
    Hold,
    /// So many bytes of the answer's body come, and the rest after [`Proxy::release`].
    HoldAfter(usize),
}

impl Fault {
    pub const DENIED: Self = Self::Error(403, "AccessDenied");
    pub const INTERNAL: Self = Self::Error(500, "InternalError");
    pub const SLOW_DOWN: Self = Self::Error(503, "SlowDown");
}

/// A fault, and the requests that meet with it.
#[derive(Debug, Clone)]
#[must_use]
pub struct Rule {
    fault: Fault,
    method: Option<&'static str>,
    part: String,
    times: u64,
}

impl Rule {
    /// Every request meets with `fault`.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            method: None,
            part: String::new(),
            times: u64::MAX,
        }
    }

    pub fn method(self, method: &'static str) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// Only requests whose path, without percent signs, ends in `key`.
    pub fn on(self, key: &str) -> Self {
        Self {
            part: key.to_owned(),
            ..self
        }
    }

    /// Only the first `times` of them.
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    fn is_about(&self, seen: &Seen) -> bool {
        self.times > 0 && self.method.is_none_or(|method| method == seen.method) && seen.path.ends_with(&self.part)
    }
}

/// A request that came, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// `/bucket/key`, without percent signs.
    pub path: String,
    pub query: String,
    pub range: Option<String>,
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
    /// Of the answer, once it has begun.
    pub status: Option<u16>,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
}

#[derive(Debug)]
pub struct Proxy {
    gate: Gate,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// By the client's address.
    connections: HashMap<SocketAddr, TcpStream>,
    refuses: bool,
    held: usize,
    releases: u64,
    over: bool,
}

impl Shared {
    /// A test that fails while it holds the lock is no reason for others to fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether connections are still accepted.
    fn keep(&self, client: SocketAddr, stream: TcpStream) -> bool {
        let mut state = self.state();
        let accepts = !state.refuses;
        if accepts {
            state.connections.insert(client, stream);
        }
        accepts
    }

    /// Puts a request on record, and finds the rule that is about it.
    fn begin(&self, seen: Seen) -> (usize, Option<Fault>) {
        let mut state = self.state();
        let rule = state.rules.iter_mut().find(|rule| rule.is_about(&seen));
        let fault = rule.map(|rule| {
            rule.times -= 1;
            rule.fault
        });
        state.seen.push(seen);
        (state.seen.len() - 1, fault)
    }

    fn note(&self, at: usize, change: impl FnOnce(&mut Seen)) {
        // Gone, when the record was cleared meanwhile.
        if let Some(seen) = self.state().seen.get_mut(at) {
            change(seen);
        }
    }

    /// Returns at the next release.
    fn hold(&self) {
        let mut state = self.state();
        let releases = state.releases;
        state.held += 1;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.releases == releases && !state.over)
            .unwrap_or_else(PoisonError::into_inner);
        state.held -= 1;
    }
}

impl Proxy {
    /// A proxy before the server at `upstream`, which has no rules yet.
    pub fn before(upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let gate = Gate::new({
            let shared = Arc::clone(&shared);
            move |stream: TcpStream, client| {
                if !shared.keep(client, stream.try_clone().unwrap()) {
                    return;
                }
                // A client that goes away, or a server that does: the test sees it from where it stands.
                let _ = exchange::serve(&shared, &stream);
                let _ = stream.shutdown(Shutdown::Both);
                shared.state().connections.remove(&client);
            }
        });
        gate.open();
        Self { gate, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.gate.address()
    }

    /// Adds a rule. Earlier ones go first.
    pub fn rule(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Drops all rules. What is held stays held.
    pub fn no_rules(&self) {
        self.shared.state().rules.clear();
    }

    /// Waits until so many requests are held.
    #[track_caller]
    pub fn wait_for_held(&self, count: usize) {
        let state = self.shared.state();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.held < count)
            .unwrap_or_else(PoisonError::into_inner);
        let (held, seen) = (state.held, state.seen.clone());
        drop(state);
        assert!(held >= count, "{held} requests are held, of {seen:#?}");
    }

    /// What is held goes on, and nothing is held any more.
    pub fn release(&self) {
        let mut state = self.shared.state();
        state
            .rules
            .retain(|rule| !matches!(rule.fault, Fault::Hold | Fault::HoldAfter(_)));
        state.releases += 1;
        self.shared.changed.notify_all();
    }

    /// Ends all connections, and refuses new ones.
    pub fn refuse_connections(&self) {
        self.gate.close();
        self.hang_up();
    }

    /// Accepts connections again, at the same address.
    pub fn accept_connections(&self) {
        self.shared.state().refuses = false;
        self.gate.open();
    }

    fn hang_up(&self) {
        let mut state = self.shared.state();
        state.refuses = true;
        for connection in state.connections.values() {
            // It may be gone.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// The requests so far whose path ends in `key`.
    pub fn requests_of(&self, key: &str) -> Vec<Seen> {
        let mut seen = self.requests();
        seen.retain(|seen| seen.path.ends_with(key));
        seen
    }

    /// Bytes that were sent of the object, in whatever pieces.
    pub fn bytes_of(&self, key: &str) -> u64 {
        let gets = self.requests_of(key).into_iter();
        gets.filter(|seen| matches!(seen.status, Some(200 | 206)))
            .map(|seen| seen.sent)
            .sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.close();
        self.shared.state().over = true;
        self.shared.changed.notify_all();
        self.hang_up();
    }
}
