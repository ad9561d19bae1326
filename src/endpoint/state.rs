//! The control plane's records, in memory and in the state file.
//!
//! Records are replaced, never changed in place. Readers take the current records without waiting.
//! A change is made to a copy and written to the file; only then does the copy replace the
//! records, and only then is the change acknowledged. So a change that could not be written has
//! not happened, and the lock on the records is held only while a pointer is copied.

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

/// The records and their file.
#[derive(Debug)]
pub struct State {
    kept: Arc<Kept>,
    /// Serializes changes. Held while the file is written; readers do not wait for it.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Kept {
    arns: Arns,
    /// Never held across an `await`.
    records: RwLock<Arc<Records>>,
    file: Option<StateFile>,
}

impl State {
    /// State that ends with the process.
    pub fn in_memory(arns: Arns) -> Self {
        Self::new(arns, Records::default(), None)
    }

    /// State in the file at `path`, which is created if it does not exist. Blocks.
    ///
    /// The file's endpoints are not deployed yet: see [`undeployed`](Self::undeployed).
    pub fn open(path: PathBuf, arns: Arns) -> Result<Self, StateError> {
        let file = StateFile::new(path);
        let records = file.read(&arns)?.unwrap_or_default();
        // Fails now, not at the first change, if the file cannot be written.
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

    /// The current records.
    pub fn records(&self) -> Arc<Records> {
        self.kept.records()
    }

    /// The endpoints to deploy at the start: those of the file and those of the command line.
    pub fn undeployed(&self) -> Vec<Deployment> {
        let records = self.records();
        let creating = records
            .endpoints
            .values()
            .filter(|endpoint| endpoint.phase == Phase::Creating);
        creating.map(|endpoint| endpoint.desired.deployment.clone()).collect()
    }

    /// Adds an endpoint that the command line declares. Used at the start.
    pub async fn declare(&self, deployment: Deployment) -> Result<(), AwsError> {
        let _turn = self.turn.lock().await;
        let mut records = Records::clone(&self.records());
        records.declare(deployment, &self.kept.arns, now())?;
        self.kept.keep(records);
        Ok(())
    }

    /// Answers a request, given its `X-Amz-Target` and its body.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a change may be recorded whose effect is then lost, and the endpoint would
    /// never follow it. Run the future to its end.
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

    /// Records how an [effect](super::control::Effect) on `endpoint` ended; `Err` holds the
    /// reason.
    pub async fn settle(&self, endpoint: &str, outcome: Result<(), String>) {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let mut records = Records::clone(&self.records());
        records.settle(endpoint, outcome, now());
        // The outcome is a fact, even if it cannot be written. The next successful write includes
        // it.
        if let Err(error) = self.write(records, turn, Unwritten::Kept).await {
            tracing::error!("{error}");
        }
    }

    /// Writes `records` and makes them current. Holds the lock `turn` until then, even if the
    /// caller is dropped.
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

/// Whether records that could not be written become current.
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

/// The current time in seconds since the epoch, rounded to milliseconds as AWS does.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}
