//! What the control plane knows, between requests and between runs.
//!
//! Records are replaced, never changed in place: those who read take what there is and wait for nobody, while a change is
//! made to a copy, written to the file, and only then kept and acknowledged. So a change that could not be written has not
//! happened, and the lock is held for as long as it takes to copy a pointer.

mod file;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task;

use super::control::{Answer, Arns, AwsError, Call, ChangeCall, Context, Phase, Records, StatusSource};
use super::spec::Deployment;

pub use file::StateError;
use file::StateFile;

#[derive(Debug)]
pub struct State {
    kept: Arc<Kept>,
    /// Whose turn it is to change: taken across the writing of the file, which those who read do not wait for.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Kept {
    arns: Arns,
    /// Not held while anything is waited for.
    records: RwLock<Arc<Records>>,
    file: Option<StateFile>,
}

impl State {
    /// One that ends with the process.
    pub fn in_memory(arns: Arns) -> Self {
        Self::new(arns, Records::default(), None)
    }

    /// One that outlives the process, in the file at `path`, which is made when there is none. Blocks.
    ///
    /// All endpoints are yet to be deployed: see [`undeployed`](Self::undeployed).
    pub fn open(path: PathBuf, arns: Arns) -> Result<Self, StateError> {
        let file = StateFile::new(path);
        let records = file.read(&arns)?.unwrap_or_default();
        // Whoever cannot write it is to hear of it now.
        file.write(&records)?;
        Ok(Self::new(arns, records, Some(file)))
    }

    fn new(arns: Arns, records: Records, file: Option<StateFile>) -> Self {
        let records = RwLock::new(Arc::new(records));
        Self {
            kept: Arc::new(Kept { arns, records, file }),
            turn: Arc::default(),
        }
    }

    /// What is known now.
    pub fn records(&self) -> Arc<Records> {
        self.kept.records()
    }

    /// Endpoints that wait to be deployed, for the start: those of the file, and those that were declared.
    pub fn undeployed(&self) -> Vec<Deployment> {
        let records = self.records();
        let creating = records
            .endpoints
            .values()
            .filter(|endpoint| endpoint.phase == Phase::Creating);
        creating.map(|endpoint| endpoint.desired.deployment.clone()).collect()
    }

    /// Adds an endpoint that the command line declares. For the start.
    pub async fn declare(&self, deployment: Deployment) -> Result<(), AwsError> {
        let _turn = self.turn.lock().await;
        let mut records = Records::clone(&self.records());
        records.declare(deployment, &self.kept.arns, now())?;
        self.kept.keep(records);
        Ok(())
    }

    /// Answers a request: its `X-Amz-Target` and its body.
    ///
    /// # Cancel safety
    ///
    /// A change may be made whose effect is then never given out: the endpoint would stay as it is. To be run to its end.
    pub async fn answer(&self, target: &str, body: &[u8], fleet: &dyn StatusSource) -> Result<Answer, AwsError> {
        let context = Context {
            arns: &self.kept.arns,
            now: now(),
            fleet,
        };
        match Call::parse(target, body)? {
            Call::Read(call) => {
                let body = call.answer(&context, &self.records())?;
                Ok(Answer { body, effect: None })
            }
            Call::Change(call) => self.change(&call, &context).await,
        }
    }

    async fn change(&self, call: &ChangeCall, context: &Context<'_>) -> Result<Answer, AwsError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let mut records = Records::clone(&self.records());
        let answer = call.answer(context, &mut records)?;
        self.write(records, turn, Unwritten::Dropped).await.map_err(|error| {
            tracing::error!("{error}");
            AwsError::Internal(error.to_string())
        })?;
        Ok(answer)
    }

    /// Notes how an [effect](super::control::Effect) on `endpoint` ended; `Err` holds the reason.
    pub async fn settle(&self, endpoint: &str, outcome: Result<(), String>) {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let mut records = Records::clone(&self.records());
        records.settle(endpoint, outcome, now());
        // It is so, whether or not it can be written down; the next change that can be has it in it.
        if let Err(error) = self.write(records, turn, Unwritten::Kept).await {
            tracing::error!("{error}");
        }
    }

    /// Writes `records` and makes them what is known. The turn ends with that, even when nobody waits for it any more.
    async fn write(&self, records: Records, turn: OwnedMutexGuard<()>, unwritten: Unwritten) -> Result<(), StateError> {
        if self.kept.file.is_none() {
            self.kept.keep(records);
            return Ok(());
        }
        let kept = Arc::clone(&self.kept);
        let written = task::spawn_blocking(move || {
            let _turn = turn;
            let written = match &kept.file {
                Some(file) => file.write(&records),
                None => Ok(()),
            };
            if written.is_ok() || unwritten == Unwritten::Kept {
                kept.keep(records);
            }
            written
        });
        written.await.unwrap_or(Err(StateError::Stopping))
    }
}

/// What becomes of records that could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unwritten {
    Kept,
    Dropped,
}

impl Kept {
    fn records(&self) -> Arc<Records> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&records)
    }

    fn keep(&self, records: Records) {
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(records);
    }
}

/// Seconds since the epoch, to the millisecond, as AWS gives them.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}
