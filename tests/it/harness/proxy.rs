//! A proxy between a server and its store, which injects the faults of a bad network or store.
//!
//! It speaks HTTP/1.1 with persistent connections, applies the first [`Rule`] that matches a
//! request, and records all requests. A held request stays in flight until the test releases it,
//! so that tests depend on order and not on time.

mod exchange;
mod gate;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::PATIENCE;
use gate::Gate;

/// A fault that the proxy applies to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Responds with an error in S3's form: status and code.
    Error(u16, &'static str),
    /// Forwards the request after this time.
    Delay(Duration),
    /// Sends the response body in pieces of this many bytes, with this pause before each.
    Trickle(usize, Duration),
    /// Closes the connection after this many bytes of the response body.
    Cut(usize),
    /// Forwards the request only after [`Proxy::release`].
    Hold,
    /// Sends this many bytes of the response body, and the rest after [`Proxy::release`].
    HoldAfter(usize),
}

impl Fault {
    pub const DENIED: Self = Self::Error(403, "AccessDenied");
    pub const INTERNAL: Self = Self::Error(500, "InternalError");
    pub const SLOW_DOWN: Self = Self::Error(503, "SlowDown");
}

/// A fault, and the requests that it applies to.
#[derive(Debug, Clone)]
#[must_use]
pub struct Rule {
    fault: Fault,
    method: Option<&'static str>,
    part: String,
    times: u64,
}

impl Rule {
    /// Applies `fault` to every request.
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

    /// Restricts the rule to requests whose percent-decoded path ends in `key`.
    pub fn on(self, key: &str) -> Self {
        Self {
            part: key.to_owned(),
            ..self
        }
    }

    /// Restricts the rule to the first `times` requests that match.
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    fn matches(&self, seen: &Seen) -> bool {
        self.times > 0 && self.method.is_none_or(|method| method == seen.method) && seen.path.ends_with(&self.part)
    }
}

/// A recorded request and the outcome of its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// `/bucket/key`, percent-decoded.
    pub path: String,
    pub query: String,
    pub range: Option<String>,
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
    /// Status of the response, once it has begun.
    pub status: Option<u16>,
    /// Bytes of the response body that were sent.
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
    state: Mutex<ProxyState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ProxyState {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// Open connections by the client's address.
    connections: HashMap<SocketAddr, TcpStream>,
    refuses: bool,
    held: usize,
    releases: u64,
    over: bool,
}

impl Shared {
    /// Locks the state. A test that panics with the lock held must not fail other threads.
    fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection; returns false if the proxy refuses connections.
    fn keep(&self, client: SocketAddr, stream: TcpStream) -> bool {
        let mut state = self.state();
        let accepts = !state.refuses;
        if accepts {
            state.connections.insert(client, stream);
        }
        accepts
    }

    /// Records a request, and finds the fault that applies to it.
    fn begin(&self, seen: Seen) -> (usize, Option<Fault>) {
        let mut state = self.state();
        let rule = state.rules.iter_mut().find(|rule| rule.matches(&seen));
        let fault = rule.map(|rule| {
            rule.times -= 1;
            rule.fault
        });
        state.seen.push(seen);
        (state.seen.len() - 1, fault)
    }

    fn note(&self, at: usize, change: impl FnOnce(&mut Seen)) {
        // The test may have cleared the record meanwhile.
        if let Some(seen) = self.state().seen.get_mut(at) {
            change(seen);
        }
    }

    /// Blocks until the next release.
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
    /// A proxy without rules in front of the server at `upstream`.
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
                // The client or the server may close its connection; the test sees that itself.
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

    /// Adds a rule. Earlier rules take precedence.
    pub fn rule(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Drops all rules. Held requests stay held.
    pub fn no_rules(&self) {
        self.shared.state().rules.clear();
    }

    /// Waits until at least `count` requests are held.
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

    /// Releases all held requests, and drops the rules that hold requests.
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
            // The client may have closed it.
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

    /// Total bytes of the object that were sent, over all requests.
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
