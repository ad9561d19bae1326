//! Preparation of models that this machine has not seen, once per model and in a child process.
//!
//! An uploaded model is a program written by a stranger. Loading one can abort the library, hang
//! it, or use any amount of memory, and a process cannot stop a load of its own. So a child process
//! (`child.rs`) loads the model first, with limits on memory and time and without a network. A
//! failure there is a verdict on the content and affects no other model.
//!
//! The child also writes the optimised model in ORT format, which the server then maps in a
//! fraction of the time and the memory. It runs the model on generated data (`probe.rs`) and
//! measures the memory of each step. `cache.rs` stores the result under the content's hash.
//!
//! A child is reused as long as nothing goes wrong, because starting one costs more than preparing
//! a small model. A crash or an excess of memory counts against a model only if its child has seen
//! no other model.
//!
//! Invariants: there are at most as many children as threads here; each child ends with its thread,
//! with this process, and after a few idle seconds.

mod cache;
mod child;
mod constant_use;
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
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::engine::onnxruntime::runtime::Libraries;
use crate::engine::onnxruntime::session::SessionError;

use process::ChildProcess;
use queue::{NextJob, Queue};
use verdict::prepare;

#[cfg(test)]
pub use cache::ConstantFile;
pub use cache::{Prepared, PreparedCache, StoredConstant, StoredConstants, examined_constants};
pub use child::run as run_child;
pub use home::CONSTANTS;
pub use platform::Platform;
pub use probe::{answered, ones};
pub use protocol::{Findings, PrepareJob};
pub use sandbox::hide;

/// The hidden command that starts this binary as a child.
pub const COMMAND: &str = "prepare";

/// Bytes of a child before it has a model, which ONNX Runtime uses. Measured: 9 MB.
pub const CHILD: u64 = 10 << 20;

/// Bytes of an idle child that has had several models. Measured: 11.2 MB, and 14.6 MB in a debug
/// build. A value that is too small leaves too little for the replacement of an unloaded model.
const GROWN_CHILD: u64 = 29 << 19;

/// Bytes that a child needs on top of the estimate for a model, including pages that it has freed
/// but not returned yet.
pub const SLACK: u64 = 5 << 20;

/// Time that an idle child is kept: the models of a deployment arrive one after another.
const IDLE: Duration = Duration::from_secs(5);

/// Reason why a model was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{stage} the model crashed ONNX Runtime with {signal}")]
    Crashed { stage: &'static str, signal: String },
    #[error("loading the model took longer than {0:?}; raise --prepare-timeout if the model is sound")]
    TimedOut(Duration),
    #[error("loading the model needed more than {0} bytes, the limit for a model of this size; raise --prepare-memory")]
    MemoryBomb(u64),
    /// Not the model's fault: nothing in a child sends this signal to it.
    #[error("the system killed the processes that prepare the model, as it does when memory is short")]
    Killed,
    /// Not the model's fault.
    #[error("failed to start a process that prepares models: {0}")]
    NoChild(Arc<io::Error>),
    #[error("the server is stopping")]
    Stopping,
}

/// The libraries, number and time limit of children.
#[derive(Debug, Clone)]
pub struct ChildConfig {
    pub libraries: Libraries,
    /// Maximum number of children.
    pub processes: usize,
    /// Time limit of a child for one model.
    pub timeout: Duration,
}

/// Prepares models. Its threads and their children end when it is dropped.
#[derive(Debug)]
pub struct Preparer {
    requests: Arc<Queue<PrepareRequest>>,
}

#[derive(Debug)]
struct PrepareRequest {
    job: PrepareJob,
    result: oneshot::Sender<PrepareOutcome>,
}

type PrepareOutcome = Result<Findings, PrepareError>;

impl Preparer {
    pub fn start(config: &ChildConfig) -> io::Result<Self> {
        let preparer = Self {
            requests: Arc::new(Queue::new()),
        };
        for _ in 0..config.processes {
            let (requests, config) = (Arc::clone(&preparer.requests), config.clone());
            thread::Builder::new()
                .name("prepare".to_owned())
                .spawn(move || serve(&requests, &config))?;
        }
        Ok(preparer)
    }

    /// Bytes that the next job takes beyond those in use, if its model needs `memory` bytes in a
    /// new child.
    pub fn next_job(&self, memory: u64) -> u64 {
        job_beside(self.requests.idle_child(), memory)
    }

    /// Bytes by which the children grow before a later job has its model.
    pub fn child_growth(&self) -> u64 {
        let growth = |idle| GROWN_CHILD.saturating_sub(idle);
        self.requests.idle_child().map_or(CHILD, growth)
    }

    /// Runs `job` in a child, as soon as one is free.
    pub async fn prepare(&self, job: PrepareJob) -> Result<Findings, PrepareError> {
        self.begin(job).await.map_err(|_| PrepareError::Stopping)?
    }

    /// Like [`Self::prepare`], on a thread that may block.
    pub fn prepare_blocking(&self, job: PrepareJob) -> Result<Findings, PrepareError> {
        self.begin(job).blocking_recv().map_err(|_| PrepareError::Stopping)?
    }

    fn begin(&self, job: PrepareJob) -> oneshot::Receiver<PrepareOutcome> {
        let (result, receiver) = oneshot::channel();
        self.requests.push(PrepareRequest { job, result });
        receiver
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.requests.close();
    }
}

/// Bytes that a job takes beyond the `idle` bytes of a child that is there already.
fn job_beside(idle: Option<u64>, memory: u64) -> u64 {
    // What a child keeps beyond its slack is of no use to the next model.
    let usable = idle.unwrap_or(0).min(CHILD + SLACK);
    CHILD.saturating_add(memory).saturating_sub(usable)
}

/// The main loop of a thread: hands jobs to its child.
fn serve(requests: &Queue<PrepareRequest>, config: &ChildConfig) {
    let mut child: Option<ChildProcess> = None;
    let mut done: Option<(oneshot::Sender<PrepareOutcome>, PrepareOutcome)> = None;
    loop {
        let last = done.take();
        let report_last = || {
            if let Some((result, outcome)) = last {
                let _ = result.send(outcome);
            }
        };
        let next = match &child {
            None => {
                report_last();
                requests.next()
            }
            Some(child) => requests.next_within(IDLE, child.memory(), report_last),
        };
        match next {
            NextJob::Job(request) if request.result.is_closed() => {}
            NextJob::Job(request) => {
                let outcome = prepare(&mut child, &request.job, config.timeout, || {
                    ChildProcess::start(config, request.job.place())
                });
                done = Some((request.result, outcome));
            }
            NextJob::Idle => child = None,
            NextJob::Closed => return,
        }
    }
}
