//! A request in its lane, with its types erased, so that requests of all content types wait and
//! run together.
//!
//! Invariants: a request is answered once, or not at all if its caller has left; it keeps its model
//! loaded.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::caller::{Caller, CallerHandle};
use crate::engine::InferenceError;
use crate::engine::memory::RequestMemory;
use crate::engine::run::batch;
use crate::engine::run::model::{Model, ModelBudget, RequestBudget, Work};
use crate::engine::run::placement::{is_long, thread_time};
use crate::engine::run::pool::PoolError;
use crate::telemetry::recorder::Phase;
use crate::telemetry::times::{RequestTimes, Step};
use crate::tensor::{Inputs, Value};

/// A request in its lane.
pub struct PendingRequest {
    /// Keeps the model loaded.
    pub(super) handle: Arc<dyn AsRef<Model> + Send + Sync>,
    pub(super) request: Box<dyn ErasedRequest>,
    pub(super) caller: Arc<Caller>,
    deadline: Instant,
    /// Time at which the request was queued.
    queued: Instant,
    /// Bytes of the request body.
    pub(super) size: usize,
    /// The request ran inline first, because it was expected to be short, and was ended because the
    /// clock showed that it was not.
    was_ended_inline: bool,
    decoded: Option<DecodedRequest>,
}

pub(super) struct DecodedRequest {
    pub(super) inputs: Inputs,
    /// `Some` if the request may be part of a batch.
    pub(super) rows: Option<NonZeroUsize>,
    took: Duration,
    /// Memory that the whole request is expected to need, from decoding to the response.
    _memory: Option<RequestMemory>,
}

/// The typed part of a request. It sends one answer: in `decode` if that returns `None`, otherwise
/// in one of the other methods.
pub(super) trait ErasedRequest: Send {
    fn decode(&mut self, budget: &dyn RequestBudget) -> Option<Inputs>;
    fn outputs(&self) -> Option<&[usize]>;
    /// Like [`Work::further`].
    fn further(&self) -> &[Inputs];
    /// Like [`Work::apart`].
    fn apart(&self, outputs: Option<&[Value]>) -> Option<usize>;
    /// Like [`Work::times`].
    fn times(&self) -> Option<&RequestTimes>;
    fn answer(&mut self, runs: Result<&[Vec<Value>], InferenceError>);
    /// Sends an error instead.
    fn refuse(&mut self, error: InferenceError);
}

struct TypedRequest<W: Work> {
    work: W,
    plan: Option<W::Plan>,
    sender: Option<oneshot::Sender<Result<W::Answer, W::Error>>>,
}

impl<W: Work> TypedRequest<W> {
    fn send(&mut self, answer: Result<W::Answer, W::Error>) {
        if let Some(sender) = self.sender.take() {
            // The caller may have left.
            let _ = sender.send(answer);
        }
    }
}

impl<W: Work> ErasedRequest for TypedRequest<W> {
    fn decode(&mut self, budget: &dyn RequestBudget) -> Option<Inputs> {
        match guarded(|| self.work.decode(budget)) {
            Ok((inputs, plan)) => {
                self.plan = Some(plan);
                Some(inputs)
            }
            Err(error) => {
                self.send(Err(error));
                None
            }
        }
    }

    fn outputs(&self) -> Option<&[usize]> {
        self.plan.as_ref().and_then(W::outputs)
    }

    fn further(&self) -> &[Inputs] {
        self.plan.as_ref().map(W::further).unwrap_or_default()
    }

    fn apart(&self, outputs: Option<&[Value]>) -> Option<usize> {
        self.work.apart(self.plan.as_ref()?, outputs)
    }

    fn times(&self) -> Option<&RequestTimes> {
        self.work.times()
    }

    fn answer(&mut self, runs: Result<&[Vec<Value>], InferenceError>) {
        let Some(plan) = self.plan.take() else { return };
        let started = self.work.times().map(|_| std::time::Instant::now());
        let answer = match runs {
            Ok(runs) => guarded(|| self.work.encode(plan, runs)),
            Err(error) => Err(error.into()),
        };
        // Before the caller gets the answer, and writes the record of the request.
        if let (Some(times), Some(started)) = (self.work.times(), started) {
            times.end(Step::Phase(Phase::Write), started);
        }
        self.send(answer);
    }

    fn refuse(&mut self, error: InferenceError) {
        self.send(Err(error.into()));
    }
}

/// Turns a panic into an error of this request alone.
pub fn guarded<T, E: From<InferenceError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(InferenceError::from(PoolError::Panicked).into()))
}

impl PendingRequest {
    /// Creates a request to `model`, the caller's handle to it, and the receiver of its answer.
    #[expect(
        clippy::type_complexity,
        reason = "three values that are only used together, in one place"
    )]
    pub fn new<W: Work>(
        model: &(impl AsRef<Model> + Clone + Send + Sync + 'static),
        size: usize,
        deadline: Instant,
        was_ended_inline: bool,
        work: W,
    ) -> (Self, CallerHandle, oneshot::Receiver<Result<W::Answer, W::Error>>) {
        let (sender, receiver) = oneshot::channel();
        let caller = Arc::new(Caller::default());
        let pending = Self {
            handle: Arc::new(model.clone()),
            request: Box::new(TypedRequest {
                work,
                plan: None,
                sender: Some(sender),
            }),
            caller: Arc::clone(&caller),
            deadline,
            queued: Instant::now(),
            size,
            was_ended_inline,
            decoded: None,
        };
        (pending, CallerHandle(caller), receiver)
    }

    pub(super) fn is_wanted(&self) -> bool {
        Instant::now() < self.deadline && !self.caller.state().left
    }

    /// Decodes the request, unless that is done. Returns `None` if no run is needed: the caller has
    /// left, or the request has been answered.
    pub(super) fn ready(mut self, model: &Model) -> Option<ReadyRequest> {
        if !self.is_wanted() {
            return None;
        }
        // The request may have been queued before the model's runs were found to be stuck.
        if let Err(stuck) = model.standing.check() {
            self.request.refuse(stuck);
            return None;
        }
        let decoded = match self.decoded.take() {
            Some(decoded) => decoded,
            None => {
                let is_timed = self.request.times().is_some();
                model.recorder.phase_since(Phase::Queue, self.queued.into_std());
                if let Some(times) = self.request.times() {
                    times.end(Step::Phase(Phase::Queue), self.queued.into_std());
                }
                let (started, mut phases) = (thread_time(), model.recorder.work(is_timed));
                let memory = match model.resident.reserve_request(self.size) {
                    Ok(memory) => memory,
                    Err(refused) => {
                        self.request.refuse(refused.into());
                        return None;
                    }
                };
                let inputs = self.request.decode(&ModelBudget {
                    model,
                    deadline: self.deadline,
                })?;
                phases.end(Phase::Parse, self.request.times());
                // A run has one value of each optional input, so such a request cannot be joined.
                let is_one_run = self.request.further().is_empty() && self.request.apart(None).is_none();
                let is_joint = inputs.optional.is_empty() && is_one_run;
                let batcher = model.batcher.as_ref().filter(|_| is_joint);
                let outputs = self.request.outputs();
                DecodedRequest {
                    rows: batcher.and_then(|batcher| batcher.batching.rows(&inputs.tensors, outputs)),
                    inputs,
                    _memory: memory,
                    took: thread_time().saturating_sub(started),
                }
            }
        };
        Some(ReadyRequest { pending: self, decoded })
    }
}

/// A decoded request.
pub(super) struct ReadyRequest {
    pub(super) pending: PendingRequest,
    pub(super) decoded: DecodedRequest,
}

impl ReadyRequest {
    pub(super) fn into_pending(self) -> PendingRequest {
        PendingRequest {
            decoded: Some(self.decoded),
            ..self.pending
        }
    }

    pub(super) fn goes_with(&self, other: &Self) -> bool {
        self.pending.request.outputs() == other.pending.request.outputs()
            && batch::go_together(&self.decoded.inputs.tensors, &other.decoded.inputs.tensors)
    }

    /// Answers the request, and records what it took in total.
    pub(super) fn answer(mut self, model: &Model, ran: Duration, runs: Result<&[Vec<Value>], InferenceError>) {
        let (started, mut phases) = (thread_time(), model.recorder.work(false));
        // The inputs are not needed any more, and are at least as large as the body.
        self.decoded.inputs = Inputs::default();
        self.pending.request.answer(runs);
        phases.end(Phase::Write, None);
        let took = self.decoded.took + ran + thread_time().saturating_sub(started);
        let stats = &model.resident.stats;
        stats.record_exactly(took, self.pending.size);
        // On a busy machine, the inline thread may merely have been interrupted.
        if self.pending.was_ended_inline && is_long(took) {
            stats.disable_inline();
        }
    }
}
