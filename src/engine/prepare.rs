//! Preparing: what is done once with a model that this machine has not seen, in a process apart.
//!
//! An uploaded model is a program by a stranger. Loading one has been seen to abort the library, to
//! hang it, and to take any amount of memory, and there is no way to end a load in one's own
//! process. So a child (`child.rs`) loads it first, bounded in memory and time and without a
//! network: what goes wrong there is a verdict on the content and touches nobody else. The same
//! child writes the optimised model in ORT format, which the server then maps in a fraction of the
//! time and the memory, runs it on made-up data (`probe.rs`) and measures what all of it takes.
//! `cache.rs` keeps the result under the content's hash.
//!
//! A child is used again as long as nothing goes wrong: starting one costs more than preparing a
//! small model. That a model crashes, or takes too much memory, is believed only of a child that
//! has seen no other model.
//!
//! What always holds: no more children than threads here; each ends with its thread, with this
//! process, and after a few idle seconds.

mod cache;
mod child;
mod folding;
mod home;
mod mapping;
mod platform;
mod probe;
mod process;
mod protocol;
mod queue;
mod sandbox;
#[cfg(test)]
mod tests;
mod trial;
mod verdict;
mod weighing;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::runtime::Libraries;
use super::session::SessionError;

use process::Process;
use queue::{Next, Queue};
use verdict::prepare;

pub use cache::{Cache, CacheError, Prepared, free_bytes, is_in_memory};
pub use child::run as run_child;
pub use platform::Platform;
pub use probe::{answered, ones};
pub use protocol::{Findings, Job};
pub use sandbox::hide;

/// The hidden command that makes a process of this binary a child.
pub const COMMAND: &str = "prepare";

/// What a child takes before it has a model: ONNX Runtime's own. Measured: 9 MB.
pub const CHILD: u64 = 10 << 20;

/// What a child takes beside what a model is estimated to, with pages that it has freed and not
/// given back yet.
pub const SLACK: u64 = 5 << 20;

/// How long a child without work is kept: the models of a deployment arrive one after another.
const IDLE: Duration = Duration::from_secs(5);

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
    pub libraries: Libraries,
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
                let outcome = prepare(&mut child, &request.job, settings.timeout, || {
                    Process::start(settings, request.job.place())
                });
                done = Some((request.result, outcome));
            }
            Next::Idle => child = None,
            Next::Closed => return,
        }
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
