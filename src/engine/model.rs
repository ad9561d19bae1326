//! A loaded model, and the way of a request to it: here and now, or on a compute thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::InferenceError;
use super::content::ContentHash;
use super::memory::Reservation;
use super::placement::{self, Pace, Stopwatch};
use super::pool::{Lane, PoolError};
use super::session::{Cancel, RunError, Session};
use super::watchdog::{Watchdog, Watched};
use crate::tensor::{Signature, Tensor, Value};

/// A loaded model. Runs for any number of callers at once.
#[derive(Debug)]
pub struct Model {
    pub(super) content: ContentHash,
    pub(super) session: Session,
    pub(super) lane: Lane,
    pub(super) pace: Pace,
    pub(super) watchdog: Arc<Watchdog>,
    pub(super) reservation: Reservation,
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
        self.session.signature()
    }

    /// What the model's files hold.
    pub fn content(&self) -> &ContentHash {
        &self.content
    }

    /// Bytes that the model was measured to take.
    pub fn memory(&self) -> u64 {
        self.reservation.bytes()
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
        let stays = placement::stays(this.pace.expected(), size);
        if stays {
            let stopwatch = this.pace.stopwatch();
            let guarded =
                |cancel: &Cancel| catch_unwind(AssertUnwindSafe(|| this.timed(stopwatch, cancel, size, &work)));
            if let Watched::Done(result) = this.watchdog.watch(guarded)? {
                return result
                    .map(|(result, _)| result)
                    .map_err(|_| InferenceError::Pool(PoolError::Panicked));
            }
            this.pace.suspect();
        }
        let cancel = Arc::new(Cancel::new()?);
        let _cancel_on_drop = CancelOnDrop(Arc::clone(&cancel));
        let lent = model.clone();
        let job = move || {
            let this = lent.as_ref();
            let (result, took) = this.timed(Stopwatch::exact(), &cancel, size, &work);
            // The watchdog goes by the clock; on a busy machine the thread may only have been interrupted.
            if stays && placement::is_long(took) {
                this.pace.distrust();
            }
            result
        };
        Ok(this.lane.run(Some(deadline), job).await?)
    }

    fn timed<T>(
        &self,
        stopwatch: Stopwatch,
        cancel: &Cancel,
        size: usize,
        work: impl Fn(&Runner<'_>) -> T,
    ) -> (T, Duration) {
        let result = work(&Runner {
            session: &self.session,
            cancel,
        });
        (result, self.pace.record(stopwatch, size))
    }
}

/// Ends the run when nobody waits for it any more; a run that is over does not notice.
struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
