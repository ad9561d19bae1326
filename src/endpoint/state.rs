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

use super::control::{
    ActionCall, ActionContext, ActionResponse, Arns, ChangeCall, ControlError, EndpointPhase, Records, StatusSource,
};
use super::spec::Deployment;

pub use file::StateError;
use file::StateFile;

/// The records and their file.
#[derive(Debug)]
pub struct ControlState {
    inner: Arc<StateInner>,
    /// Serializes changes. Held while the file is written; readers do not wait for it.
    change_lock: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct StateInner {
    arns: Arns,
    /// Never held across an `await`.
    records: RwLock<Arc<Records>>,
    file: Option<StateFile>,
}

impl ControlState {
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
            inner: Arc::new(StateInner { arns, records, file }),
            change_lock: Arc::default(),
        }
    }

    /// The current records.
    pub fn records(&self) -> Arc<Records> {
        self.inner.records()
    }

    /// The endpoints to deploy at the start: those of the file and those of the command line.
    pub fn undeployed(&self) -> Vec<Deployment> {
        let records = self.records();
        let creating = records
            .endpoints
            .values()
            .filter(|endpoint| endpoint.phase == EndpointPhase::Creating);
        creating.map(|endpoint| endpoint.desired.deployment.clone()).collect()
    }

    /// Adds an endpoint that the command line declares. Used at the start.
    pub async fn declare(&self, deployment: Deployment) -> Result<(), ControlError> {
        let _guard = self.change_lock.lock().await;
        let mut records = Records::clone(&self.records());
        records.declare(deployment, &self.inner.arns, now())?;
        self.inner.keep(records);
        Ok(())
    }

    /// Answers a request, given its `X-Amz-Target` and its body.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a change may be recorded whose effect is then lost, and the endpoint would
    /// never follow it. Run the future to its end.
    pub async fn answer(
        &self,
        target: &str,
        body: &[u8],
        fleet: &dyn StatusSource,
    ) -> Result<ActionResponse, ControlError> {
        let context = ActionContext {
            arns: &self.inner.arns,
            now: now(),
            fleet,
        };
        match ActionCall::parse(target, body)? {
            ActionCall::Read(call) => {
                let body = call.answer(&context, &self.records())?;
                Ok(ActionResponse { body, effect: None })
            }
            ActionCall::Change(call) => self.change(&call, &context).await,
        }
    }

    async fn change(&self, call: &ChangeCall, context: &ActionContext<'_>) -> Result<ActionResponse, ControlError> {
        let guard = Arc::clone(&self.change_lock).lock_owned().await;
        let mut records = Records::clone(&self.records());
        let answer = call.answer(context, &mut records)?;
        self.write(records, guard, OnWriteFailure::Drop)
            .await
            .map_err(|error| {
                tracing::error!("{error}");
                ControlError::Internal(error.to_string())
            })?;
        Ok(answer)
    }

    /// Records how an [effect](super::control::Effect) on `endpoint` ended; `Err` holds the
    /// reason.
    pub async fn settle(&self, endpoint: &str, outcome: Result<(), String>) {
        let guard = Arc::clone(&self.change_lock).lock_owned().await;
        let mut records = Records::clone(&self.records());
        records.settle(endpoint, outcome, now());
        // The outcome is a fact, even if it cannot be written. The next successful write includes
        // it.
        if let Err(error) = self.write(records, guard, OnWriteFailure::Keep).await {
            tracing::error!("{error}");
        }
    }

    /// Writes `records` and makes them current. Holds the lock `guard` until then, even if the
    /// caller is dropped.
    async fn write(
        &self,
        records: Records,
        guard: OwnedMutexGuard<()>,
        on_failure: OnWriteFailure,
    ) -> Result<(), StateError> {
        if self.inner.file.is_none() {
            self.inner.keep(records);
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let written = task::spawn_blocking(move || {
            let _guard = guard;
            let written = match &inner.file {
                Some(file) => file.write(&records),
                None => Ok(()),
            };
            if written.is_ok() || on_failure == OnWriteFailure::Keep {
                inner.keep(records);
            }
            written
        });
        written.await.unwrap_or(Err(StateError::Stopping))
    }
}

/// Whether records that could not be written become current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnWriteFailure {
    Keep,
    Drop,
}

impl StateInner {
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
