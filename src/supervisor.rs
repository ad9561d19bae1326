//! The supervisor, the first of two processes: it holds the listening socket, and starts the worker
//! that serves requests, as often as necessary.
//!
//! A request can crash the process that runs its model (`engine/run/crash.rs`). In one process
//! with a thousand models, a crash would remove all of them while the platform believes them
//! loaded. So the state that must survive lives where no model runs: the socket, whose backlog
//! holds clients while there is no worker; the list of the loaded models, which the worker reports
//! before it answers; and the kills of each content.
//!
//! A killed worker is followed by another one, which lists the same models at once and loads them
//! again, the most recently used first. When a model is to blame, the next worker starts at once
//! and refuses that content for a while. Pauses follow only kills without a known culprit. A worker
//! that lives but cannot serve is replaced, too: it requests its replacement when stuck runs hold
//! too much of it, and the supervisor kills it when its HTTP threads have sent no heartbeat for
//! `--worker-timeout` (`liveness.rs`).
//!
//! ```text
//! supervisor                                       worker
//! bind, start        -- Start + listener -->
//!                    -- Model*, Refuse*, Go -->    listens, restores
//!                    <-- Ready, Loaded, Unloaded, Used, Alive --
//!                    <-- Replace --               drains for a moment, ends
//! SIGTERM, SIGINT    == the same signal ==>        drains
//!                    <-- Stopping --
//!                    <-- a crash report --         dies
//! ```
//!
//! Invariants: this process has one thread, and neither ONNX Runtime nor requests in it. It ends
//! with its worker when that exits by itself, and prints nothing after a worker that has reported
//! the reason. A worker does not outlive the supervisor. As process 1 of a container, the
//! supervisor also waits for orphans (ST-2).

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
use ledger::{KillCause, Ledger};
use liveness::Liveness;
pub use liveness::pause as heartbeat;
use protocol::{ContentRefusal, FromWorker, MAX_MESSAGE, ManifestParts, Received, ToWorker, manifest_parts};
use restart::{Blame, EndedWorker, NextStep, WorkerEnd, WorkerRestarts};
pub use worker::{Inheritance, JoinError, RefusedContent, SupervisorLink, join};

/// The command of the worker process.
pub const WORKER_COMMAND: &str = "worker";

/// The running program, even when its file has been replaced since.
const EXECUTABLE: &str = "/proc/self/exe";

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("start a worker; --supervise=false serves without one")]
    Start(#[source] io::Error),
    #[error("supervise a worker")]
    System(#[from] io::Error),
    #[error(
        "the worker was killed by {signal} during startup {} times in a row; giving up",
        restart::UNREADY
    )]
    NeverReady { signal: String },
}

#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    /// Arguments after the command, passed on to the worker.
    pub arguments: Vec<OsString>,
    /// Time for which content that has killed workers is refused; `None` refuses none.
    pub refusals: Option<RefusalTimes>,
    /// Longest time without a heartbeat of the worker; `None` for no limit.
    pub worker_timeout: Option<Duration>,
}

/// Serves on `listener` with one worker after the other. Returns the exit code of the last one.
pub fn run(listener: TcpListener, settings: SupervisorConfig) -> Result<i32, SuperviseError> {
    // The worker recognizes its supervisor by this name, which does not depend on the program's
    // file name.
    rustix::thread::set_name(c"longshore").map_err(io::Error::from)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::new(listener, settings)?;
        let ended = supervisor.supervise().await;
        if let Some(listener) = supervisor.listener.take() {
            // No worker has emptied the backlog.
            connections::turn_away(listener);
        }
        ended
    })
}

struct Supervisor {
    settings: SupervisorConfig,
    /// Dropped when the worker reports that it stops: it refuses connections then, and so must this
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
    report: WorkerReport,
}

/// The reports of a worker so far.
#[derive(Debug, Default)]
struct WorkerReport {
    ready: bool,
    note: Option<CrashReport>,
    /// The worker requested its replacement, because runs of these contents are stuck.
    replace: Option<Vec<Culprit>>,
    liveness: Liveness,
    /// The manifest of the next record.
    manifest: ManifestParts,
    /// Whether the worker was killed because its heartbeats stopped.
    was_silent: bool,
}

impl Supervisor {
    fn new(listener: TcpListener, settings: SupervisorConfig) -> io::Result<Self> {
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
        let mut restarts = WorkerRestarts::default();
        loop {
            let Some(mut worker) = self.start().await? else {
                return Ok(0);
            };
            let how = self.watch_worker(&mut worker).await?;
            // A crash report counts only if the worker died of that signal.
            let report = worker.report;
            let note = report.note.filter(|note| how == WorkerEnd::Killed(note.signal));
            let refused = note.and_then(|note| {
                self.ledger
                    .killed(note.content, KillCause::Signal(note.signal), Instant::now())
            });
            let next = restarts.next(EndedWorker {
                how,
                was_ready: report.ready,
                lived: worker.started.elapsed(),
                stopping: self.stopping,
                requested_replacement: report.replace.is_some(),
                culprit: match (note, refused) {
                    (None, _) => Blame::Unknown,
                    (Some(_), None) => Blame::Known,
                    (Some(_), Some(_)) => Blame::Refused,
                },
            });
            let signal = match how {
                WorkerEnd::Exited(_) => String::new(),
                WorkerEnd::Killed(signal) => signal_name(signal),
            };
            match next {
                NextStep::End(code) => {
                    if let WorkerEnd::Killed(_) = how {
                        tracing::warn!(signal, "the worker was killed while it was stopping");
                    }
                    return Ok(code);
                }
                NextStep::GiveUp => return Err(SuperviseError::NeverReady { signal }),
                NextStep::Restart { after } => {
                    match report.replace {
                        Some(culprits) => self.blame_stuck(&culprits),
                        None if report.was_silent => tracing::error!("starting another worker"),
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

    /// Starts a worker; `None` when the server stops before there is one.
    async fn start(&mut self) -> Result<Option<Worker>, SuperviseError> {
        const TRIES: u32 = 5;
        const PAUSE: Duration = Duration::from_secs(1);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.spawn() {
                Ok(worker) => return Ok(Some(worker)),
                // The cause of the last kill, such as a lack of memory, may also prevent this start
                // for a while.
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
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_else(|| "longshore".into());
        let worker = Command::new(EXECUTABLE)
            .arg0(name)
            .arg(WORKER_COMMAND)
            .args(&self.settings.arguments)
            .stdin(Stdio::from(theirs))
            // Ctrl-C in a terminal reaches the whole process group, and a second SIGINT means "at
            // once".
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(worker.id()).ok().and_then(Pid::from_raw);
        Ok(Worker {
            pid: pid.ok_or_else(|| io::Error::other("a process without an id"))?,
            socket: nonblocking(ours)?,
            started: Instant::now(),
            report: WorkerReport::default(),
        })
    }

    /// Serves the messages and signals of `worker` until it has ended.
    async fn watch_worker(&mut self, worker: &mut Worker) -> io::Result<WorkerEnd> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let now = Instant::now();
        let (models, refusals) = (self.ledger.models(now), self.ledger.refusals(now));
        let listener = self.listener.as_ref().map(TcpListener::try_clone).transpose()?;
        let Worker {
            pid, socket, report, ..
        } = worker;
        let timeout = self.settings.worker_timeout;
        let mut checks = interval(liveness::pause(timeout.unwrap_or_default()));
        // A late check counts as one check.
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                        tracing::debug!(%error, "the worker did not take its start messages");
                    }
                }
                received = receive(socket, &mut buffer), if open => match received {
                    Ok(Some(received)) => self.handle_message(received, report),
                    Ok(None) => open = false,
                    Err(error) => {
                        tracing::error!(%error, "a message of the worker cannot be read");
                        open = false;
                    }
                },
                _ = checks.tick(), if timeout.is_some() && !self.stopping && !report.was_silent => {
                    if report.liveness.check() {
                        report.was_silent = true;
                        end_silent(*pid, timeout.unwrap_or_default());
                    }
                }
                _ = self.child.recv() => {
                    if let Some(how) = reap(*pid) {
                        // The worker's last messages.
                        while let Ok(Some(received)) = protocol::receive_from(&*socket, &mut buffer) {
                            self.handle_message(received, report);
                        }
                        return Ok(how);
                    }
                }
            }
        }
    }

    fn handle_message(&mut self, received: Received, report: &mut WorkerReport) {
        match received {
            Received::Message(FromWorker::Ready) => {
                report.ready = true;
                report.liveness.heard();
            }
            Received::Message(FromWorker::ManifestPart(part)) => report.manifest.push(&part),
            Received::Message(FromWorker::Loaded(record)) => self.ledger.loaded(report.manifest.complete(record)),
            Received::Message(FromWorker::Unloaded { name }) => self.ledger.unloaded(&name),
            Received::Message(FromWorker::Used { contents }) => self.ledger.used(&contents),
            Received::Message(FromWorker::Alive) => report.liveness.heard(),
            Received::Message(FromWorker::Replace { culprits }) => report.replace = Some(culprits),
            // A signal to the worker alone means the whole server.
            Received::Message(FromWorker::Stopping) => {
                self.stopping = true;
                self.listener = None;
            }
            // When several threads crash, the first report is the cause.
            Received::Crash(crash) => report.note = report.note.or(Some(crash)),
        }
    }

    fn stop(&mut self, worker: Pid, signal: Signal) {
        self.stopping = true;
        // The worker has not been waited for, so the id still belongs to it.
        if let Err(error) = kill_process(worker, signal) {
            tracing::warn!(%error, "pass the signal on");
        }
    }

    /// Logs the kill of a worker, and the models to blame.
    fn log_kill(&self, note: Option<CrashReport>, refused: Option<Duration>, signal: &str) {
        let Some(note) = note else {
            tracing::error!(
                signal,
                "the worker was killed, but not by a known model; starting another"
            );
            return;
        };
        let refused_seconds = refused.map(|refused| refused.as_secs_f64());
        let models = listed(&self.ledger.names(note.content));
        let target_models = listed(&self.ledger.target_models(note.content));
        let content = written(note.content);
        tracing::error!(
            signal,
            ?models,
            ?target_models,
            content,
            refused_seconds,
            "the worker was killed by a model; starting another"
        );
    }

    /// Records and logs the stuck runs of `culprits`, for which a worker was replaced.
    fn blame_stuck(&mut self, culprits: &[Culprit]) {
        for culprit in culprits {
            let refused = self.ledger.killed(culprit.content, KillCause::Stuck, Instant::now());
            tracing::error!(
                models = ?listed(&self.ledger.names(culprit.content)),
                target_models = ?listed(&self.ledger.target_models(culprit.content)),
                content = written(culprit.content),
                stuck_runs = culprit.runs,
                refused_seconds = refused.map(|refused| refused.as_secs_f64()),
                "the worker was replaced because runs of a model could not be ended"
            );
        }
        tracing::error!("the worker was replaced because of stuck runs; starting another");
    }

    /// Waits for `pause`, and returns whether the server is to stop.
    async fn stopped_within(&mut self, pause: Duration) -> bool {
        let end = tokio::time::sleep(pause);
        tokio::select! {
            // Signals that have arrived are handled also before a pause of zero.
            biased;
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            () = end => self.stopping,
        }
    }
}

/// Registers `socket` with the runtime. The type stands for a datagram socket and this one is not,
/// but it keeps messages apart as well, and the type only determines how the runtime waits: all
/// reading and writing happens in `protocol`.
fn nonblocking(socket: OwnedFd) -> io::Result<UnixDatagram> {
    let socket = std::os::unix::net::UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

/// Sends a new worker its start messages.
async fn hand_over(
    socket: &UnixDatagram,
    restarts: u64,
    listener: Option<TcpListener>,
    models: Vec<Arc<Record>>,
    refusals: Vec<ContentRefusal>,
) -> io::Result<()> {
    let Some(listener) = listener else {
        return Err(io::Error::other("the server is stopping"));
    };
    let start = ToWorker::Start {
        restarts,
        supervisor: process::id(),
    };
    // The first message meets an empty socket, so it cannot block.
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

/// Reaps all ended children; as process 1, orphans are among them (ST-2). Returns how `worker`
/// ended, if it has.
fn reap(worker: Pid) -> Option<WorkerEnd> {
    let mut how = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == worker {
            how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(WorkerEnd::Exited(code)),
                (None, Some(signal)) => Some(WorkerEnd::Killed(signal)),
                (None, None) => how,
            };
        }
    }
    how
}

/// Kills a worker whose heartbeats have stopped.
fn end_silent(worker: Pid, timeout: Duration) {
    tracing::error!(
        "no heartbeat from the worker for {timeout:?} (--worker-timeout): its HTTP threads are blocked, or its process is \
         stopped; killing it"
    );
    // The worker has not been waited for, so the id still belongs to it.
    if let Err(error) = kill_process(worker, Signal::KILL) {
        tracing::warn!(%error, "kill the worker");
    }
}

/// Formats a `ContentHash::short` like the beginning of the full hash.
fn written(content: u64) -> String {
    format!("{:016x}", content.swap_bytes())
}

/// The first names, for the log.
fn listed(names: &[&str]) -> Vec<String> {
    const MAX_NAMES: usize = 10;
    let mut listed: Vec<String> = names.iter().take(MAX_NAMES).map(|name| (*name).to_owned()).collect();
    if names.len() > MAX_NAMES {
        listed.push(format!("and {} more", names.len() - MAX_NAMES));
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
