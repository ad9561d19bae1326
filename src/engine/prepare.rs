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
mod queue;
mod sandbox;

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::session::SessionError;

use queue::{Next, Queue};

pub use cache::{Cache, CacheError, Prepared};
pub use child::run as run_child;
pub use platform::Platform;
pub use probe::{answered, ones};

/// The hidden command that makes a process of this binary a child.
pub const COMMAND: &str = "prepare";

/// What a child takes before it has a model: ONNX Runtime's own. Measured: 9 MB.
pub const CHILD: u64 = 10 << 20;

/// What a child takes beside what a model is estimated to, with pages that it has freed and not given back yet.
pub const SLACK: u64 = 5 << 20;

/// The longest line that a child may say: what ONNX Runtime says of a model repeats names of it, and has been seen to go on.
const LONGEST_LINE: usize = 4 << 20;

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
    #[error("loading the model does not end within {0:?} (--prepare-timeout)")]
    TimedOut(Duration),
    #[error("loading the model takes more than {0} bytes, which a model of its size has no use for (--prepare-memory)")]
    MemoryBomb(u64),
    /// Not the model's fault: nothing in a child sends it that signal.
    #[error("the system ends the processes that prepare the model, as it does when memory is short")]
    Killed,
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
    requests: Arc<Queue<Request>>,
}

#[derive(Debug)]
struct Request {
    job: Job,
    result: oneshot::Sender<Outcome>,
}

type Outcome = Result<Findings, PrepareError>;

impl Preparer {
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let preparer = Self {
            requests: Arc::new(Queue::new()),
        };
        for _ in 0..settings.processes {
            let (requests, settings) = (Arc::clone(&preparer.requests), settings.clone());
            thread::Builder::new()
                .name("prepare".to_owned())
                .spawn(move || serve(&requests, &settings))?;
        }
        Ok(preparer)
    }

    /// Bytes that the next job takes beside its model: those of a child, unless one waits.
    pub fn start_cost(&self) -> u64 {
        // Its memory is in use already.
        if self.requests.has_idle_child() { 0 } else { CHILD }
    }

    /// Does `job` in a child, when one is free.
    pub async fn prepare(&self, job: Job) -> Result<Findings, PrepareError> {
        self.begin(job).await.map_err(|_| PrepareError::Stopping)?
    }

    /// As [`Self::prepare`], on a thread that may wait.
    pub fn prepare_blocking(&self, job: Job) -> Result<Findings, PrepareError> {
        self.begin(job).blocking_recv().map_err(|_| PrepareError::Stopping)?
    }

    fn begin(&self, job: Job) -> oneshot::Receiver<Outcome> {
        let (result, receiver) = oneshot::channel();
        self.requests.push(Request { job, result });
        receiver
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.requests.close();
    }
}

/// What a thread does: hands jobs to its child.
fn serve(requests: &Queue<Request>, settings: &Settings) {
    let mut child: Option<Process> = None;
    let mut done: Option<(oneshot::Sender<Outcome>, Outcome)> = None;
    loop {
        let last = done.take();
        let tell = || {
            if let Some((result, outcome)) = last {
                let _ = result.send(outcome);
            }
        };
        let next = match &child {
            None => {
                tell();
                requests.next()
            }
            Some(_) => requests.next_within(IDLE, tell),
        };
        match next {
            Next::Job(request) if request.result.is_closed() => {}
            Next::Job(request) => {
                let outcome = prepare(&mut child, &request.job, settings.timeout, || Process::start(settings));
                done = Some((request.result, outcome));
            }
            Next::Idle => child = None,
            Next::Closed => return,
        }
    }
}

/// Does `job` in `child`, or in a new one that `start` makes; leaves a child that is good for the next job, or none.
fn prepare(
    child: &mut Option<Process>,
    job: &Job,
    timeout: Duration,
    start: impl Fn() -> io::Result<Process>,
) -> Result<Findings, PrepareError> {
    let mut job = job.clone();
    let mut was_killed = false;
    loop {
        let (mut process, is_new) = match child.take() {
            Some(process) => (process, false),
            None => (start().map_err(no_child)?, true),
        };
        match process.ask(&job, Instant::now() + timeout) {
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
            Err(Failure::TimedOut { loaded: false }) => return Err(PrepareError::TimedOut(timeout)),
            // It loads, but it does not run on what was made up: real data will tell.
            Err(Failure::TimedOut { loaded: true }) if job.probe => job.probe = false,
            Err(Failure::TimedOut { loaded: true }) => return Err(PrepareError::TimedOut(timeout)),
            // The prepared form is larger than any should be: there is to be none.
            Err(Failure::Ended {
                status: Some(status), ..
            }) if status.signal() == Some(Signal::XFSZ.as_raw()) && job.prepared.take().is_some() => {}
            Err(Failure::Ended {
                status: Some(status), ..
            }) if is_new && status.signal() == Some(Signal::KILL.as_raw()) => {
                if was_killed {
                    return Err(PrepareError::Killed);
                }
                was_killed = true;
            }
            Err(Failure::Ended {
                started: true,
                loaded,
                status,
            }) if is_new => {
                return Err(PrepareError::Crashed {
                    stage: if loaded { "running" } else { "loading" },
                    signal: status.map_or_else(|| "an answer without sense".to_owned(), |status| status.to_string()),
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
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> io::Result<Self> {
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
                // The model has got the better of it.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(Failure::Ended {
                        started,
                        loaded,
                        status: None,
                    });
                }
                Err(_) => return Err(Failure::Io),
            }
        }
    }

    /// The next line; `None` at the end.
    fn report(&mut self, deadline: Instant) -> io::Result<Option<Report>> {
        loop {
            if let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                let report = serde_json::from_slice(&line);
                return report.map(Some).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            if self.line.len() > LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn job() -> Job {
        Job {
            model: "/models/m.onnx".into(),
            weights: 1,
            is_ort_format: false,
            prepared: Some("/cache/new".into()),
            memory: 1,
            probe: true,
        }
    }

    fn findings() -> Findings {
        Findings {
            prepared: true,
            private: 1,
            load_peak: 2,
            run_peak: None,
            independent_rows: Some(true),
        }
    }

    fn line(report: &Report) -> String {
        serde_json::to_string(report).unwrap()
    }

    /// A child that does as `script` says; `$DONE` is the report of success.
    fn child(script: &str) -> Process {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .env("STARTED", line(&Report::Started))
            .env("LOADED", line(&Report::Loaded))
            .env("DONE", line(&Report::Done(findings())))
            .env("NO_MEMORY", line(&Report::OutOfMemory));
        Process::spawn(&mut shell).unwrap()
    }

    const GOOD: &str = r#"while read job; do echo "$STARTED"; echo "$LOADED"; echo "$DONE"; done"#;

    /// What comes of a job when the first child, which is new, and the ones after it do as they are told; and whether one is
    /// left for the next job.
    fn outcome(scripts: &[&str], timeout: Duration) -> (Result<Findings, String>, usize, bool) {
        let (started, mut left) = (Cell::new(0), None);
        let start = || {
            started.set(started.get() + 1);
            Ok(child(scripts[started.get() - 1]))
        };
        let result = prepare(&mut left, &job(), timeout, start);
        (result.map_err(|error| error.to_string()), started.get(), left.is_some())
    }

    #[test]
    fn a_child_that_says_what_it_found_is_used_again() {
        let mut kept = None;
        for _ in 0..3 {
            let start = || Ok(child(GOOD));
            assert_eq!(prepare(&mut kept, &job(), LONG, start).unwrap(), findings());
            let id = kept.as_ref().unwrap().child.id();
            prepare(&mut kept, &job(), LONG, || panic!("there is one")).unwrap();
            assert_eq!(kept.as_ref().unwrap().child.id(), id);
        }
    }

    #[test]
    fn reports_may_come_in_pieces_and_together() {
        let script = r#"read job; printf "%.5s" "$STARTED"; sleep 0.05; printf "%s\n" "${STARTED#?????}"
            printf "%s\n%s\n" "$LOADED" "$DONE"; read more"#;
        assert_eq!(outcome(&[script], LONG), (Ok(findings()), 1, true));
    }

    #[test]
    fn what_a_new_child_dies_of_is_the_models_fault_once_it_has_begun() {
        let table = [
            (
                r#"read job; echo "$STARTED"; kill -SEGV $$"#,
                "loading the model ends ONNX Runtime with signal: 11",
            ),
            (
                r#"read job; echo "$STARTED"; echo "$LOADED"; kill -ABRT $$"#,
                "running the model ends ONNX Runtime with signal: 6",
            ),
            (
                r#"read job; echo "$STARTED"; exit 3"#,
                "loading the model ends ONNX Runtime with exit status: 3",
            ),
            (
                r#"read job; echo "$STARTED"; echo nonsense; read more"#,
                "loading the model ends ONNX Runtime with an answer without sense",
            ),
            (
                r#"read job; echo "$STARTED"; head -c 5000000 /dev/zero; read more"#,
                "loading the model ends ONNX Runtime with an answer without sense",
            ),
            (
                r#"read job; echo "$STARTED"; echo "$NO_MEMORY"; read more"#,
                "there was no memory left to load the model",
            ),
            ("exit 1", "no process to prepare models in could be started"),
            ("read job; exit 1", "no process to prepare models in could be started"),
        ];
        for (script, expected) in table {
            let (result, started, left) = outcome(&[script], LONG);
            let reason = result.unwrap_err();
            assert!(reason.starts_with(expected), "{script}: {reason}");
            assert_eq!((started, left), (1, false), "{script}");
        }
    }

    #[test]
    fn what_goes_wrong_in_a_child_that_has_seen_another_model_is_tried_again_in_a_new_one() {
        for script in [
            r#"read job; echo "$STARTED"; kill -SEGV $$"#,
            r#"read job; echo "$STARTED"; echo "$NO_MEMORY"; read more"#,
            r#"read job; echo nonsense; read more"#,
            "exit 1",
        ] {
            let mut used = Some(child(script));
            let result = prepare(&mut used, &job(), LONG, || Ok(child(GOOD)));
            assert_eq!(result.unwrap(), findings(), "{script}");
            assert!(used.is_some());
        }
    }

    #[test]
    fn a_load_without_end_is_ended_and_a_run_without_end_only_means_that_less_is_known() {
        let short = Duration::from_millis(300);
        let forever = r#"read job; echo "$STARTED"; exec sleep 1000"#;
        let (result, started, left) = outcome(&[forever], short);
        assert!(result.unwrap_err().contains("--prepare-timeout"));
        assert_eq!((started, left), (1, false));

        let runs = r#"read job; echo "$STARTED"; echo "$LOADED"; exec sleep 1000"#;
        let not_asked = r#"read job; case "$job" in *'"probe":false'*) echo "$DONE";; esac; read more"#;
        let started = Cell::new(0);
        let start = || {
            started.set(started.get() + 1);
            Ok(child(if started.get() == 1 { runs } else { not_asked }))
        };
        // Long enough for a shell to start on a busy machine.
        let result = prepare(&mut None, &job(), Duration::from_secs(3), start);
        assert_eq!((result.unwrap(), started.get()), (findings(), 2));
    }

    #[test]
    fn a_model_whose_prepared_form_is_too_large_has_none() {
        let too_large = r#"read job; echo "$STARTED"; kill -XFSZ $$"#;
        let not_written = r#"read job; case "$job" in *'"prepared":null'*) echo "$DONE";; esac; read more"#;
        assert_eq!(outcome(&[too_large, not_written], LONG), (Ok(findings()), 2, true));
    }

    #[test]
    fn a_child_that_the_system_kills_says_nothing_of_the_model() {
        let killed = r#"read job; echo "$STARTED"; kill -KILL $$"#;
        assert_eq!(outcome(&[killed, GOOD], LONG), (Ok(findings()), 2, true));
        let (result, started, left) = outcome(&[killed, killed], LONG);
        assert!(result.unwrap_err().contains("memory is short"));
        assert_eq!((started, left), (2, false));
    }

    #[test]
    fn a_child_does_not_outlive_its_owner() {
        let child = child(GOOD);
        let process = format!("/proc/{}", child.child.id());
        assert!(Path::new(&process).exists());
        drop(child);
        assert!(!Path::new(&process).exists());
    }
}
