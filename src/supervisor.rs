//! The first of two processes: it holds the listening socket and starts the one that serves, as
//! often as that takes.
//!
//! A request can end the process that runs its model (`engine/crash.rs`). In one process with a
//! thousand models, that would take all of them away from a platform that believes them loaded. So
//! what must survive is kept where no model runs: the socket, whose backlog holds callers while
//! there is no worker; the list of the loaded models, which the worker reports before it answers;
//! and the kills of each content. A worker that is killed is followed by another that lists the
//! same models at once and loads them again, those that were in use first. When a model is to
//! blame, the next worker starts at once and refuses that content for a while; only kills without a
//! known culprit are followed by pauses. A worker that is alive and useless is replaced, too: it
//! asks for that when runs that cannot be ended take too much of it, and it is killed when its HTTP
//! threads have given no sign of life for `--worker-timeout` (`liveness.rs`).
//!
//! ```text
//! supervisor                                       worker
//! bind, start        -- Start + listener -->
//!                    -- Model*, Refuse*, Go -->    listens, restores
//!                    <-- Ready, Loaded, Unloaded, Used, Alive --
//!                    <-- Replace --               drains for a moment, ends
//! SIGTERM, SIGINT    == the same signal ==>        drains
//!                    <-- Stopping --
//!                    <-- a note of a crash --      dies
//! ```
//!
//! What always holds: this process has one thread and neither ONNX Runtime nor requests in it; it
//! ends as its worker ends by itself, and says nothing after a worker that has said why; a worker
//! does not outlive it. As process 1 of a container it waits for orphans, too (ST-2).

mod ledger;
mod liveness;
mod protocol;
mod restart;
mod worker;

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::runtime;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::catalog::Record;
use crate::connections;
use crate::engine::{CrashReport, Culprit};
pub use ledger::RefusalTimes;
use ledger::{Cause, Ledger};
use liveness::Liveness;
pub use liveness::pause as heartbeat;
use protocol::{FromWorker, MAX_MESSAGE, ManifestParts, Received, Refusal, ToWorker, manifest_parts};
use restart::{Culprit as Blame, Ended, How, Next, Row};
pub use worker::{Inheritance, JoinError, Link, Refused, join};

/// The command of the second process.
pub const WORKER_COMMAND: &str = "worker";

/// This program, also when its file has been replaced since.
const EXECUTABLE: &str = "/proc/self/exe";

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("start a worker; --supervise=false does without")]
    Start(#[source] io::Error),
    #[error("supervise a worker")]
    System(#[from] io::Error),
    #[error("the worker was killed by {signal} before it could serve, as those before it; there will be no other")]
    NeverReady { signal: String },
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// What follows the command on the line, for the worker's.
    pub arguments: Vec<OsString>,
    /// How long content that has killed workers is refused; `None` refuses none.
    pub refusals: Option<RefusalTimes>,
    /// How long a worker may give no sign of life; `None` for as long as it likes.
    pub worker_timeout: Option<Duration>,
}

/// Serves on `listener` by a worker, or one after the other, and returns the exit code of the last.
pub fn run(listener: TcpListener, settings: Settings) -> Result<i32, SuperviseError> {
    // By which its worker knows it, whatever the program's file is called.
    rustix::thread::set_name(c"longshore").map_err(io::Error::from)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::new(listener, settings)?;
        let ended = supervisor.supervise().await;
        if let Some(listener) = supervisor.listener.take() {
            // No worker has emptied it.
            connections::turn_away(listener);
        }
        ended
    })
}

struct Supervisor {
    settings: Settings,
    /// Dropped when the worker says that it stops: it refuses connections then, and so must the
    /// socket.
    listener: Option<TcpListener>,
    ledger: Ledger,
    stopping: bool,
    restarts: u64,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    child: unix::Signal,
}

struct Worker {
    pid: Pid,
    socket: UnixDatagram,
    started: Instant,
    told: Told,
}

/// What a worker has told.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    note: Option<CrashReport>,
    /// It has asked for another one in its place: runs of these contents are stuck.
    replace: Option<Vec<Culprit>>,
    liveness: Liveness,
    /// Of the next record.
    manifest: ManifestParts,
    /// It was killed for its silence.
    was_silent: bool,
}

impl Supervisor {
    fn new(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        Ok(Self {
            ledger: Ledger::new(settings.refusals),
            settings,
            listener: Some(listener),
            stopping: false,
            restarts: 0,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn supervise(&mut self) -> Result<i32, SuperviseError> {
        let mut row = Row::default();
        loop {
            let Some(mut worker) = self.start().await? else {
                return Ok(0);
            };
            let how = self.attend(&mut worker).await?;
            // A note of a crash that did not come to pass is none.
            let told = worker.told;
            let note = told.note.filter(|note| how == How::Killed(note.signal));
            let refused = note.and_then(|note| {
                self.ledger
                    .killed(note.content, Cause::Signal(note.signal), Instant::now())
            });
            let next = row.next(Ended {
                how,
                was_ready: told.ready,
                lived: worker.started.elapsed(),
                stopping: self.stopping,
                asked: told.replace.is_some(),
                culprit: match (note, refused) {
                    (None, _) => Blame::Unknown,
                    (Some(_), None) => Blame::Known,
                    (Some(_), Some(_)) => Blame::Refused,
                },
            });
            let signal = match how {
                How::Exited(_) => String::new(),
                How::Killed(signal) => signal_name(signal),
            };
            match next {
                Next::End(code) => {
                    if let How::Killed(_) = how {
                        tracing::warn!(signal, "the worker was killed when it was to stop");
                    }
                    return Ok(code);
                }
                Next::GiveUp => return Err(SuperviseError::NeverReady { signal }),
                Next::Restart { after } => {
                    match told.replace {
                        Some(culprits) => self.blame_stuck(&culprits),
                        None if told.was_silent => tracing::error!("starting another worker"),
                        None => self.log_kill(note, refused, &signal),
                    }
                    self.restarts += 1;
                    if self.stopped_within(after).await {
                        return Ok(0);
                    }
                }
            }
        }
    }

    /// Starts a worker; `None` when it is to stop before there is one.
    async fn start(&mut self) -> Result<Option<Worker>, SuperviseError> {
        const TRIES: u32 = 5;
        const PAUSE: Duration = Duration::from_secs(1);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.spawn() {
                Ok(worker) => return Ok(Some(worker)),
                // What has killed the last one, memory that was short, may be why there cannot be a
                // next one yet.
                Err(error) if self.restarts > 0 && tries < TRIES => {
                    tracing::warn!(%error, "no worker could be started; trying again");
                    if self.stopped_within(PAUSE).await {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(SuperviseError::Start(error)),
            }
        }
    }

    fn spawn(&self) -> io::Result<Worker> {
        let (ours, theirs) = protocol::pair()?;
        let mut words = env::args_os();
        let name = words.next().unwrap_or_else(|| "longshore".into());
        let worker = Command::new(EXECUTABLE)
            .arg0(name)
            .arg(WORKER_COMMAND)
            .args(&self.settings.arguments)
            .stdin(Stdio::from(theirs))
            // Ctrl-C at a terminal reaches a whole group, and a second SIGINT means "at once".
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(worker.id()).ok().and_then(Pid::from_raw);
        Ok(Worker {
            pid: pid.ok_or_else(|| io::Error::other("a process without an id"))?,
            socket: watched(ours)?,
            started: Instant::now(),
            told: Told::default(),
        })
    }

    /// Does what `worker` needs until it has ended.
    async fn attend(&mut self, worker: &mut Worker) -> io::Result<How> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let now = Instant::now();
        let (models, refusals) = (self.ledger.models(now), self.ledger.refusals(now));
        let listener = self.listener.as_ref().map(TcpListener::try_clone).transpose()?;
        let Worker { pid, socket, told, .. } = worker;
        let timeout = self.settings.worker_timeout;
        let mut looks = interval(liveness::pause(timeout.unwrap_or_default()));
        // A look that comes late is one look.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut handover = pin!(hand_over(socket, self.restarts, listener, models, refusals));
        let (mut handing_over, mut open) = (true, true);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => self.stop(*pid, Signal::TERM),
                _ = self.interrupt.recv() => self.stop(*pid, Signal::INT),
                handed_over = &mut handover, if handing_over => {
                    handing_over = false;
                    if let Err(error) = handed_over {
                        // The worker has ended, or is about to.
                        tracing::debug!(%error, "the worker took no start");
                    }
                }
                received = receive(socket, &mut buffer), if open => match received {
                    Ok(Some(received)) => self.hear(received, told),
                    Ok(None) => open = false,
                    Err(error) => {
                        tracing::error!(%error, "the worker is not understood");
                        open = false;
                    }
                },
                _ = looks.tick(), if timeout.is_some() && !self.stopping && !told.was_silent => {
                    if told.liveness.look() {
                        told.was_silent = true;
                        end_silent(*pid, timeout.unwrap_or_default());
                    }
                }
                _ = self.child.recv() => {
                    if let Some(how) = reap(*pid) {
                        // What it said last.
                        while let Ok(Some(received)) = protocol::receive_from(&*socket, &mut buffer) {
                            self.hear(received, told);
                        }
                        return Ok(how);
                    }
                }
            }
        }
    }

    fn hear(&mut self, received: Received, told: &mut Told) {
        match received {
            Received::Message(FromWorker::Ready) => {
                told.ready = true;
                told.liveness.heard();
            }
            Received::Message(FromWorker::ManifestPart(part)) => told.manifest.push(&part),
            Received::Message(FromWorker::Loaded(record)) => self.ledger.loaded(told.manifest.complete(record)),
            Received::Message(FromWorker::Unloaded { name }) => self.ledger.unloaded(&name),
            Received::Message(FromWorker::Used { contents }) => self.ledger.used(&contents),
            Received::Message(FromWorker::Alive) => told.liveness.heard(),
            Received::Message(FromWorker::Replace { culprits }) => told.replace = Some(culprits),
            // Whoever told it, told all of the server.
            Received::Message(FromWorker::Stopping) => {
                self.stopping = true;
                self.listener = None;
            }
            // When threads crash together, the first is the cause.
            Received::Crash(crash) => told.note = told.note.or(Some(crash)),
        }
    }

    fn stop(&mut self, worker: Pid, signal: Signal) {
        self.stopping = true;
        // It has not been waited for, so the id is still its own.
        if let Err(error) = kill_process(worker, signal) {
            tracing::warn!(%error, "pass the signal on");
        }
    }

    /// Logs that a worker was killed, and by which model.
    fn log_kill(&self, note: Option<CrashReport>, refused: Option<Duration>, signal: &str) {
        let Some(note) = note else {
            tracing::error!(
                signal,
                "the worker was killed, by no model that is known; starting another"
            );
            return;
        };
        let refused_seconds = refused.map(|refused| refused.as_secs_f64());
        let models = listed(&self.ledger.names(note.content));
        let content = written(note.content);
        tracing::error!(
            signal,
            ?models,
            content,
            refused_seconds,
            "the worker was killed by a model; starting another"
        );
    }

    /// Notes that runs of `culprits` were stuck in a worker that was replaced for that, and logs
    /// it.
    fn blame_stuck(&mut self, culprits: &[Culprit]) {
        for culprit in culprits {
            let refused = self.ledger.killed(culprit.content, Cause::Stuck, Instant::now());
            tracing::error!(
                models = ?listed(&self.ledger.names(culprit.content)),
                content = written(culprit.content),
                stuck_runs = culprit.runs,
                refused_seconds = refused.map(|refused| refused.as_secs_f64()),
                "the worker was replaced for runs of a model that could not be ended"
            );
        }
        tracing::error!("the worker was replaced for stuck runs; starting another");
    }

    /// Waits, and returns whether it is to stop.
    async fn stopped_within(&mut self, pause: Duration) -> bool {
        let end = tokio::time::sleep(pause);
        tokio::select! {
            // A signal that has come is looked at before a pause of nothing.
            biased;
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            () = end => self.stopping,
        }
    }
}

/// `socket` for this process's one thread. It is no datagram socket, but one that keeps messages
/// apart, too, and the type only says how it is waited for: what is read and written is up to
/// `protocol`.
fn watched(socket: OwnedFd) -> io::Result<UnixDatagram> {
    let socket = std::os::unix::net::UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

/// Tells a new worker what it is to know.
async fn hand_over(
    socket: &UnixDatagram,
    restarts: u64,
    listener: Option<TcpListener>,
    models: Vec<Arc<Record>>,
    refusals: Vec<Refusal>,
) -> io::Result<()> {
    let Some(listener) = listener else {
        return Err(io::Error::other("it is to stop"));
    };
    let start = ToWorker::Start {
        restarts,
        supervisor: process::id(),
    };
    // The first message finds an empty socket.
    protocol::send_with(socket, &start, listener.as_fd())?;
    let models = models.iter().flat_map(|record| {
        let parts = manifest_parts(record.manifest.as_deref()).map(|part| ToWorker::ManifestPart(Cow::Borrowed(part)));
        parts.chain([ToWorker::Model(Cow::Borrowed(&**record))])
    });
    let refusals = refusals.into_iter().map(ToWorker::Refuse);
    for message in models.chain(refusals).chain([ToWorker::Go]) {
        let send = || protocol::send_to(socket, &message, SendFlags::DONTWAIT);
        socket.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

async fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let receive = || protocol::receive_from(socket, buffer);
    socket.async_io(Interest::READABLE, receive).await
}

/// Waits for all children that have ended; as process 1 those are not only our own (ST-2). Returns
/// how `worker` ended, if it has.
fn reap(worker: Pid) -> Option<How> {
    let mut how = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == worker {
            how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(How::Exited(code)),
                (None, Some(signal)) => Some(How::Killed(signal)),
                (None, None) => how,
            };
        }
    }
    how
}

/// Kills a worker that gives no sign of life.
fn end_silent(worker: Pid, timeout: Duration) {
    tracing::error!(
        "the worker has given no sign of life for {timeout:?} (--worker-timeout): its HTTP threads are held up, or it is \
         stopped; it is killed"
    );
    // It has not been waited for, so the id is still its own.
    if let Err(error) = kill_process(worker, Signal::KILL) {
        tracing::warn!(%error, "kill the worker");
    }
}

/// A `ContentHash::short` as the hash begins where it is written out.
fn written(content: u64) -> String {
    format!("{:016x}", content.swap_bytes())
}

/// Some of the names, for the log.
fn listed(names: &[&str]) -> Vec<String> {
    const MOST: usize = 10;
    let mut listed: Vec<String> = names.iter().take(MOST).map(|name| (*name).to_owned()).collect();
    if names.len() > MOST {
        listed.push(format!("and {} more", names.len() - MOST));
    }
    listed
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGTERM => "SIGTERM",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
