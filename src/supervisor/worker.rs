//! The worker's end of the connection to the supervisor: the state it inherits, and its reports.

use std::fs::OpenOptions;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

use super::liveness;
use super::protocol::{
    FromWorker, MAX_CONTENTS, MAX_MESSAGE, ManifestParts, ToWorker, manifest_parts, receive_start, send_to,
};
use crate::catalog::{Journal, Record};
use crate::engine::{self, Culprit};

/// Reasons why a process cannot be a worker.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("`longshore worker` is started by `longshore serve`, never by hand")]
    NoSupervisor,
    #[error("read the messages of the supervisor")]
    Channel(#[from] io::Error),
    #[error("the supervisor sent no listening socket")]
    NoListener,
}

/// The state with which a worker starts, in addition to the listening socket.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// The number of earlier workers.
    pub restarts: u64,
    /// The models of the last worker, in the order in which to load them again.
    pub models: Vec<Record>,
    /// Contents that must not be loaded.
    pub refused: Vec<RefusedContent>,
    /// `None` without a supervisor.
    pub link: Option<Arc<SupervisorLink>>,
}

/// Content that must not be loaded.
#[derive(Debug)]
pub struct RefusedContent {
    /// A `ContentHash::short`.
    pub content: u64,
    pub reason: String,
    pub remaining: Duration,
}

/// The connection to the supervisor.
#[derive(Debug)]
pub struct SupervisorLink {
    socket: OwnedFd,
    /// Locked while a record is sent, which may take several messages.
    record: Mutex<()>,
}

/// Makes this process the worker of its parent. Call it first in `main`, before any thread starts.
/// Without `core_dumps`, a crash writes no dump of its memory.
pub fn join(core_dumps: bool) -> Result<(TcpListener, Inheritance), JoinError> {
    if !core_dumps {
        forbid_core_dumps();
    }
    // Without the supervisor, loads would go unrecorded and signals would not reach this process.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // Otherwise process listings show the name "exe".
    rustix::thread::set_name(c"longshore").map_err(io::Error::from)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    // Children must not inherit the socket.
    rustix::stdio::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?).map_err(io::Error::from)?;

    let mut buffer = vec![0; MAX_MESSAGE];
    let (first, descriptor) = receive_start(&socket, &mut buffer).map_err(|error| {
        if error.raw_os_error() == Some(libc::ENOTSOCK) {
            JoinError::NoSupervisor
        } else {
            JoinError::Channel(error)
        }
    })?;
    let (ToWorker::Start { restarts, supervisor }, Some(descriptor)) = (first, descriptor) else {
        return Err(JoinError::NoListener);
    };
    // The supervisor ended before the signal for its death was set.
    if parent_id() != supervisor {
        return Err(JoinError::NoSupervisor);
    }
    let (mut models, mut refused, mut manifest) = (Vec::new(), Vec::new(), ManifestParts::default());
    loop {
        match receive_start(&socket, &mut buffer)?.0 {
            ToWorker::ManifestPart(part) => manifest.push(&part),
            ToWorker::Model(record) => models.push(manifest.complete(record.into_owned())),
            ToWorker::Refuse(refusal) => refused.push(RefusedContent {
                content: refusal.content,
                reason: refusal.reason,
                remaining: Duration::from_millis(refusal.milliseconds),
            }),
            ToWorker::Start { .. } => return Err(JoinError::NoListener),
            ToWorker::Go => break,
        }
    }
    engine::report_crashes_to(socket.try_clone()?)?;
    let inheritance = Inheritance {
        restarts,
        models,
        refused,
        link: Some(Arc::new(SupervisorLink {
            socket,
            record: Mutex::default(),
        })),
    };
    Ok((TcpListener::from(descriptor), inheritance))
}

/// Disables core dumps. The supervisor learns of a crash only after the dump, and dumps of many
/// models take seconds and gigabytes each. Docker enables them by default.
fn forbid_core_dumps() {
    /// The size of a dump: too short to be written. With 0 bytes the kernel would still start a
    /// program that takes dumps, where the system has one; this value prevents that, too.
    const BYTES: u64 = 1;
    let limit = getrlimit(Resource::Core);
    let current = Some(limit.maximum.map_or(BYTES, |most| most.min(BYTES)));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current, ..limit }) {
        tracing::debug!(%error, "forbid core dumps");
    }
}

impl SupervisorLink {
    /// Reports that this worker answers requests.
    pub fn ready(&self) {
        self.send(&FromWorker::Ready);
    }

    /// Sends heartbeats while `progress` changes, as often as a supervisor with this `timeout`
    /// expects.
    pub fn keep_alive(
        self: &Arc<Self>,
        timeout: Duration,
        progress: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<()> {
        let link = Arc::clone(self);
        let beat = move || {
            let mut before = progress();
            loop {
                thread::sleep(liveness::pause(timeout));
                let now = progress();
                if now != before {
                    // A full socket is as good: the supervisor has other messages to read.
                    let _ = send_to(&link.socket, &FromWorker::Alive, SendFlags::DONTWAIT);
                    before = now;
                }
            }
        };
        thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(beat)
            .map(drop)
    }

    /// Requests a replacement for this worker, which ends: runs of `culprits` are stuck.
    pub fn replace(&self, culprits: Vec<Culprit>) {
        self.send(&FromWorker::Replace { culprits });
    }

    /// Reports that this worker takes no new connections, and that the server stops.
    pub fn stopping(&self) {
        self.send(&FromWorker::Stopping);
    }

    fn send(&self, message: &FromWorker) {
        if let Err(error) = send_to(&self.socket, message, SendFlags::empty()) {
            tracing::warn!(%error, "a report to the supervisor failed; a restart would not restore the current state");
        }
    }
}

impl Journal for SupervisorLink {
    fn loaded(&self, record: Record) {
        let _alone = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        for part in manifest_parts(record.manifest.as_deref()) {
            self.send(&FromWorker::ManifestPart(part.to_owned()));
        }
        self.send(&FromWorker::Loaded(record));
    }

    fn unloaded(&self, name: &str) {
        self.send(&FromWorker::Unloaded { name: name.to_owned() });
    }

    fn used(&self, contents: &[u64]) {
        for contents in contents.chunks(MAX_CONTENTS) {
            let contents = contents.to_vec();
            self.send(&FromWorker::Used { contents });
        }
    }
}
