//! A loaded model, and the way of a request to it: here and now, or on a compute thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::time::Instant;

use super::InferenceError;
use super::content::ContentHash;
use super::placement;
use super::pool::{Lane, PoolError};
use super::resident::Resident;
use super::session::{Cancel, RunError, Session};
use super::watchdog::{Watchdog, Watched};
use crate::tensor::{Signature, Tensor, Value};

/// A loaded model. Runs for any number of callers at once.
#[derive(Debug)]
pub struct Model {
    pub(super) resident: Arc<Resident>,
    pub(super) lane: Lane,
    pub(super) watchdog: Arc<Watchdog>,
}

/// What a job on the compute threads may use of its model.
pub struct Runner<'a> {
    session: &'a Session,
    cancel: &'a Cancel,
}

impl Runner<'_> {
    pub fn signature(&self) -> &Signature {
        self.session.signature()
    }

    /// See [`Model::signature`]; `outputs` are indices into the signature's outputs, `None` for all.
    pub fn run(&self, inputs: &[Tensor], outputs: Option<&[usize]>) -> Result<Vec<Value>, RunError> {
        self.session.run(inputs, outputs, self.cancel)
    }
}

impl Model {
    pub fn signature(&self) -> &Signature {
        self.resident.session.signature()
    }

    /// What the model's files hold.
    pub fn content(&self) -> &ContentHash {
        &self.resident.content
    }

    /// Bytes of memory that the model was measured to take, shared with all models of the same content. Mapped weights are
    /// not among them.
    pub fn memory(&self) -> u64 {
        self.resident.footprint().private
    }

    /// Does `work` for a request of `size` bytes: here and now when that is expected to be short, else on a compute
    /// thread when it is this model's turn. At `deadline` the result is [`PoolError::Deadline`] and a run that goes on is
    /// ended. Work on a compute thread holds a clone of `model`, and so keeps it loaded, until it is over, which may be
    /// later than this future ends.
    ///
    /// Work that turns out to be long where it was expected to be short is ended and done again on a compute thread, so
    /// `work` may be called twice; models have no state that a run could change.
    ///
    /// # Cancel safety
    /// Dropping the future ends a run that goes on and gives the place in the queue back. The HTTP server does not drop
    /// a handler when its client leaves: there the deadline is what ends the work.
    pub async fn run<T: Send + 'static>(
        model: &(impl AsRef<Model> + Clone + Send + 'static),
        size: usize,
        deadline: Instant,
        work: impl Fn(&Runner<'_>) -> T + Send + 'static,
    ) -> Result<T, InferenceError> {
        let this = model.as_ref();
        if placement::stays(this.resident.pace.expected(), size) {
            let started = placement::thread_time();
            let guarded = |cancel: &Cancel| catch_unwind(AssertUnwindSafe(|| this.timed(cancel, size, &work)));
            if let Watched::Done(result) = this.watchdog.watch(guarded)? {
                return result.map_err(|_| InferenceError::Pool(PoolError::Panicked));
            }
            // The watchdog looks at the clock; on a busy machine the thread may only have been interrupted.
            if placement::is_long(placement::thread_time().saturating_sub(started)) {
                this.resident.pace.distrust();
            }
        }
        let cancel = Arc::new(Cancel::new()?);
        let _cancel_on_drop = CancelOnDrop(Arc::clone(&cancel));
        let lent = model.clone();
        let job = move || lent.as_ref().timed(&cancel, size, &work);
        Ok(this.lane.run(Some(deadline), job).await?)
    }

    fn timed<T>(&self, cancel: &Cancel, size: usize, work: impl Fn(&Runner<'_>) -> T) -> T {
        let started = placement::thread_time();
        let result = work(&Runner {
            session: &self.resident.session,
            cancel,
        });
        self.resident
            .pace
            .record(placement::thread_time().saturating_sub(started), size);
        result
    }
}

/// Ends the run when nobody waits for it any more; a run that is over does not notice.
struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
