//! Preparing: what is done once with a model that this machine has not seen, in a process apart.
//!
//! An uploaded model is a program by a stranger. Loading one has been seen to abort the library, to hang it, and to take
//! any amount of memory, and there is no way to end a load in one's own process. So a child (`child.rs`) loads it first,
//! bounded in memory and time and without a network: what goes wrong there is a verdict on the content and touches nobody
//! else. The same child writes the optimised model in ORT format, which the server then maps in a fraction of the time and
//! the memory, runs it on made-up data (`probe.rs`) and measures what all of it takes. `cache.rs` keeps the result under the
//! content's hash.
//!
//! A child is used again as long as nothing goes wrong: starting one costs more than preparing a small model. That a model
//! crashes, or takes too much memory, is believed only of a child that has seen no other model.
//!
//! What always holds: no more children than threads here; each ends with its thread, with this process, and after a few
//! idle seconds.

mod cache;
mod child;
mod platform;
mod probe;
mod sandbox;

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::session::SessionError;

pub use cache::{Cache, CacheError, Prepared};
pub use child::run as run_child;
pub use platform::Platform;
pub use probe::{answered, ones};

/// The hidden command that makes a process of this binary a child.
pub const COMMAND: &str = "prepare";

/// What a child takes before it has a model: ONNX Runtime's own. Measured: 9 MB.
const CHILD: u64 = 10 << 20;

/// What a child takes beside what a model is estimated to.
pub const SLACK: u64 = 2 << 20;

/// How long a child without work is kept: the models of a deployment arrive one after another.
const IDLE: Duration = Duration::from_secs(5);

/// What a child is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The uploaded model, ONNX or ORT format.
    pub model: PathBuf,
    /// Bytes of it and of its external data.
    pub weights: u64,
    pub is_ort_format: bool,
    /// Where to write the prepared form, when there is a place for it.
    pub prepared: Option<PathBuf>,
    /// Bytes that the child may take for this.
    pub memory: u64,
    /// Whether to run the model; without it, less is known.
    pub probe: bool,
}

/// What a child found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Whether the prepared form was written and answers as the uploaded one does. What follows is of the form that is to be
    /// served.
    pub prepared: bool,
    /// Private bytes of a session that has run.
    pub private: u64,
    /// Private bytes while the session is created, at the most.
    pub load_peak: u64,
    /// Working memory of a run of one row; `None` when the model could not be run on made-up data.
    pub run_peak: Option<u64>,
    /// Whether rows joined along the first axis are answered as they are alone; `None` when that cannot be known.
    pub independent_rows: Option<bool>,
}

/// What a child says, a line each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    /// The job has been read; from here on the child's fate is the model's doing.
    Started,
    /// The model has been loaded; from here on it is run.
    Loaded,
    Done(Findings),
    Rejected(String),
    Unsupported(String),
    OutOfMemory,
    NoDescriptors,
}

/// Why a model was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{stage} the model ends ONNX Runtime with {signal}")]
    Crashed { stage: &'static str, signal: String },
    /// No code does this to itself: the kernel does, where memory is short.
    #[error("the system killed the process that prepared the model, as it does when there is no memory left")]
    Killed,
    #[error("loading the model does not end within {0:?} (--prepare-timeout)")]
    TimedOut(Duration),
    #[error("loading the model takes more than {0} bytes, which a model of its size has no use for (--prepare-memory)")]
    MemoryBomb(u64),
    /// Not the model's fault.
    #[error("no process to prepare models in could be started: {0}")]
    NoChild(Arc<io::Error>),
    #[error("the server is stopping")]
    Stopping,
}

/// How children are started and bounded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// ONNX Runtime's library, when it is named explicitly.
    pub library: Option<PathBuf>,
    /// Children at a time.
    pub processes: usize,
    /// The longest that a child may take for a model.
    pub timeout: Duration,
}

/// Prepares models. Its threads and their children end when it is dropped.
#[derive(Debug)]
pub struct Preparer {
    requests: Sender<Request>,
    /// Children that wait for work: their memory is in use already.
    idle: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Request {
    job: Job,
    result: oneshot::Sender<Result<Findings, PrepareError>>,
}

impl Preparer {
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let (requests, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let idle = Arc::new(AtomicUsize::new(0));
        for _ in 0..settings.processes {
            let (receiver, settings, idle) = (Arc::clone(&receiver), settings.clone(), Arc::clone(&idle));
            thread::Builder::new()
                .name("prepare".to_owned())
                .spawn(move || serve(&receiver, &settings, &idle))?;
        }
        Ok(Self { requests, idle })
    }

    /// Bytes that the next job takes beside its model: those of a child, unless one waits.
    pub fn start_cost(&self) -> u64 {
        if self.idle.load(Ordering::Relaxed) > 0 {
            0
        } else {
            CHILD
        }
    }

    /// Does `job` in a child, when one is free.
    pub async fn prepare(&self, job: Job) -> Result<Findings, PrepareError> {
        self.begin(job)?.await.map_err(|_| PrepareError::Stopping)?
    }

    /// As [`Self::prepare`], on a thread that may wait.
    pub fn prepare_blocking(&self, job: Job) -> Result<Findings, PrepareError> {
        self.begin(job)?.blocking_recv().map_err(|_| PrepareError::Stopping)?
    }

    fn begin(&self, job: Job) -> Result<oneshot::Receiver<Result<Findings, PrepareError>>, PrepareError> {
        let (result, receiver) = oneshot::channel();
        let request = Request { job, result };
        self.requests.send(request).map_err(|_| PrepareError::Stopping)?;
        Ok(receiver)
    }
}

/// What a thread does: hands jobs to its child.
fn serve(requests: &Mutex<Receiver<Request>>, settings: &Settings, idle: &AtomicUsize) {
    let mut child: Option<Process> = None;
    loop {
        let waits = usize::from(child.is_some());
        idle.fetch_add(waits, Ordering::Relaxed);
        let request = {
            let requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
            match &child {
                // Whoever has no child waits as long as it takes, and holds nobody up: without a request there is
                // nothing to do but to end an idle child, which is not urgent.
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => requests.recv_timeout(IDLE),
            }
        };
        idle.fetch_sub(waits, Ordering::Relaxed);
        match request {
            Ok(request) if request.result.is_closed() => {}
            Ok(request) => {
                let result = prepare(&mut child, &request.job, settings);
                let _ = request.result.send(result);
            }
            Err(RecvTimeoutError::Timeout) => child = None,
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Does `job` in `child`, or in a new one; leaves a child that is good for the next job, or none.
fn prepare(child: &mut Option<Process>, job: &Job, settings: &Settings) -> Result<Findings, PrepareError> {
    let mut job = job.clone();
    loop {
        let (mut process, is_new) = match child.take() {
            Some(process) => (process, false),
            None => (Process::start(settings).map_err(no_child)?, true),
        };
        match process.ask(&job, Instant::now() + settings.timeout) {
            Ok(Report::Done(findings)) => {
                *child = Some(process);
                return Ok(findings);
            }
            Ok(Report::Rejected(message)) => {
                *child = Some(process);
                return Err(SessionError::Rejected(message).into());
            }
            Ok(Report::Unsupported(message)) => {
                *child = Some(process);
                return Err(SessionError::Unsupported(message).into());
            }
            Ok(Report::NoDescriptors) => {
                *child = Some(process);
                return Err(SessionError::NoDescriptors.into());
            }
            // Whatever else the child's memory holds may be in pieces, or merely in the way.
            Ok(Report::OutOfMemory) if is_new => return Err(SessionError::OutOfMemory.into()),
            Err(Failure::TimedOut { loaded: false }) => return Err(PrepareError::TimedOut(settings.timeout)),
            // It loads, but it does not run on what was made up: real data will tell.
            Err(Failure::TimedOut { loaded: true }) if job.probe => job.probe = false,
            Err(Failure::TimedOut { loaded: true }) => return Err(PrepareError::TimedOut(settings.timeout)),
            Err(Failure::Ended {
                started: true,
                loaded,
                status,
            }) if is_new => {
                if status.is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw())) {
                    return Err(PrepareError::Killed);
                }
                return Err(PrepareError::Crashed {
                    stage: if loaded { "running" } else { "loading" },
                    signal: status.map_or_else(|| "an unknown status".to_owned(), |status| status.to_string()),
                });
            }
            Err(Failure::Ended { started: false, .. } | Failure::Io) if is_new => {
                return Err(PrepareError::NoChild(Arc::new(io::Error::other(
                    "it ended before it had work; is ONNX Runtime's library readable?",
                ))));
            }
            // Again, alone in a new child. Reports without an end do not come out of `ask`.
            Ok(Report::OutOfMemory | Report::Started | Report::Loaded) | Err(Failure::Ended { .. } | Failure::Io) => {}
        }
    }
}

fn no_child(error: io::Error) -> PrepareError {
    let exhausted = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    if exhausted.contains(&error.raw_os_error()) {
        SessionError::NoDescriptors.into()
    } else {
        PrepareError::NoChild(Arc::new(error))
    }
}

/// A child, killed when it is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// What was read of the line that is being written.
    line: Vec<u8>,
}

/// Why a child has said nothing that ends a job.
#[derive(Debug)]
enum Failure {
    TimedOut {
        loaded: bool,
    },
    Ended {
        started: bool,
        loaded: bool,
        status: Option<ExitStatus>,
    },
    Io,
}

impl Process {
    fn start(settings: &Settings) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND);
        if let Some(library) = &settings.library {
            command.arg("--onnxruntime").arg(library);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                input,
                output,
                line: Vec::new(),
            }),
            _ => Err(io::Error::other("a pipe is missing")),
        }
    }

    /// Hands `job` over and reads until the report that ends it.
    fn ask(&mut self, job: &Job, deadline: Instant) -> Result<Report, Failure> {
        let mut text = serde_json::to_vec(job).map_err(|_| Failure::Io)?;
        text.push(b'\n');
        let (mut started, mut loaded) = (false, false);
        if self.input.write_all(&text).is_err() {
            return Err(self.ended(started, loaded));
        }
        loop {
            match self.report(deadline) {
                Ok(Some(Report::Started)) => started = true,
                Ok(Some(Report::Loaded)) => loaded = true,
                Ok(Some(report)) => return Ok(report),
                Ok(None) => return Err(self.ended(started, loaded)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::TimedOut { loaded }),
                Err(_) => return Err(Failure::Io),
            }
        }
    }

    /// The next line; `None` at the end.
    fn report(&mut self, deadline: Instant) -> io::Result<Option<Report>> {
        loop {
            if let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let ready = poll(&mut [PollFd::new(&self.output, PollFlags::IN)], timeout.as_ref());
            match ready {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut buffer = [0; 4096];
            match self.output.read(&mut buffer)? {
                0 => return Ok(None),
                read => self.line.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn ended(&mut self, started: bool, loaded: bool) -> Failure {
        // Its end of the pipe is closed: it has ended, or does so now.
        let _ = self.child.kill();
        Failure::Ended {
            started,
            loaded,
            status: self.child.wait().ok(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes what a child may have left of a file that nobody wants.
pub fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "remove an unfinished file");
    }
}
