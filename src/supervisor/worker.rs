//! The worker's end: what it is given at its start, and what it tells.

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

/// Why a process is no worker.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("`longshore worker` is started by `longshore serve`, never by hand")]
    NoSupervisor,
    #[error("hear from the supervisor")]
    Channel(#[from] io::Error),
    #[error("the supervisor sent no listening socket")]
    NoListener,
}

/// What a worker starts with, beside the listening socket.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// How many workers there were before.
    pub restarts: u64,
    /// What they had loaded, in the order in which it is to be loaded again.
    pub models: Vec<Record>,
    /// Contents that are not to be loaded.
    pub refused: Vec<Refused>,
    /// Absent where there is no supervisor.
    pub link: Option<Arc<Link>>,
}

/// Content that is not to be loaded.
#[derive(Debug)]
pub struct Refused {
    /// A `ContentHash::short`.
    pub content: u64,
    pub reason: String,
    pub remaining: Duration,
}

/// The way to the supervisor.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    /// Held while a record is sent, which may be several messages.
    record: Mutex<()>,
}

/// Makes this process a worker of the one that has started it. First of all in `main`: no thread
/// may have been started. Without `core_dumps` a crash is not followed by a dump of its memory.
pub fn join(core_dumps: bool) -> Result<(TcpListener, Inheritance), JoinError> {
    if !core_dumps {
        forbid_core_dumps();
    }
    // Without the supervisor nobody would hear of what is loaded, nor stop this process.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // Else it is called "exe" where processes are listed.
    rustix::thread::set_name(c"longshore").map_err(io::Error::from)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    // Children are not to inherit it.
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
    // Gone before its death could be asked for.
    if parent_id() != supervisor {
        return Err(JoinError::NoSupervisor);
    }
    let (mut models, mut refused, mut manifest) = (Vec::new(), Vec::new(), ManifestParts::default());
    loop {
        match receive_start(&socket, &mut buffer)?.0 {
            ToWorker::ManifestPart(part) => manifest.push(&part),
            ToWorker::Model(record) => models.push(manifest.complete(record.into_owned())),
            ToWorker::Refuse(refusal) => refused.push(Refused {
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
        link: Some(Arc::new(Link {
            socket,
            record: Mutex::default(),
        })),
    };
    Ok((TcpListener::from(descriptor), inheritance))
}

/// The supervisor hears of a crash when the dump is written, and dumps of many models take seconds
/// and gigabytes each. Under Docker they are on by default.
fn forbid_core_dumps() {
    /// Of a file that is too short for anything to be written. Of 0 bytes the kernel would still
    /// start a program that takes dumps, where the system has one; this value keeps it from that,
    /// too.
    const BYTES: u64 = 1;
    let limit = getrlimit(Resource::Core);
    let current = Some(limit.maximum.map_or(BYTES, |most| most.min(BYTES)));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current, ..limit }) {
        tracing::debug!(%error, "forbid core dumps");
    }
}

impl Link {
    /// Tells that this worker answers requests.
    pub fn ready(&self) {
        self.tell(&FromWorker::Ready);
    }

    /// Sends a sign of life as often as a supervisor expects that kills a worker which was silent
    /// for `timeout`, while `progress` counts on.
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
                    // One that does not find room is as good as sent: the supervisor has others to
                    // read.
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

    /// Asks for another worker in the place of this one, which ends: runs of `culprits` are stuck.
    pub fn replace(&self, culprits: Vec<Culprit>) {
        self.tell(&FromWorker::Replace { culprits });
    }

    /// Tells that this worker takes no new connections, so nobody should.
    pub fn stopping(&self) {
        self.tell(&FromWorker::Stopping);
    }

    fn tell(&self, message: &FromWorker) {
        if let Err(error) = send_to(&self.socket, message, SendFlags::empty()) {
            tracing::warn!(%error, "the supervisor could not be told; a restart would not be as before");
        }
    }
}

impl Journal for Link {
    fn loaded(&self, record: Record) {
        let _alone = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        for part in manifest_parts(record.manifest.as_deref()) {
            self.tell(&FromWorker::ManifestPart(part.to_owned()));
        }
        self.tell(&FromWorker::Loaded(record));
    }

    fn unloaded(&self, name: &str) {
        self.tell(&FromWorker::Unloaded { name: name.to_owned() });
    }

    fn used(&self, contents: &[u64]) {
        for contents in contents.chunks(MAX_CONTENTS) {
            let contents = contents.to_vec();
            self.tell(&FromWorker::Used { contents });
        }
    }
}
