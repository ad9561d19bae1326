//! A request in its lane: its types hidden, so that requests of all content types wait and run
//! together.
//!
//! What always holds: a request is answered once, or not at all when nobody waits for it; it keeps
//! its model loaded.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::caller::{Caller, Hold};
use crate::engine::InferenceError;
use crate::engine::batch;
use crate::engine::memory::Working;
use crate::engine::model::{Ledger, Model, Work};
use crate::engine::placement::{is_long, thread_time};
use crate::engine::pool::PoolError;
use crate::tensor::{Inputs, Value};

/// A request in its lane.
pub struct Pending {
    /// Keeps the model loaded.
    pub(super) lent: Arc<dyn AsRef<Model> + Send + Sync>,
    pub(super) request: Box<dyn Request>,
    pub(super) caller: Arc<Caller>,
    deadline: Instant,
    /// Bytes of the body.
    pub(super) size: usize,
    /// It was expected to be short, and ended where it was because it was not, by the clock.
    was_ended: bool,
    decoded: Option<Decoded>,
}

pub(super) struct Decoded {
    pub(super) inputs: Inputs,
    /// When it may be part of a batch.
    pub(super) rows: Option<NonZeroUsize>,
    took: Duration,
    /// What all of the request is expected to take, from its decoding to its answer.
    _memory: Option<Working>,
}

/// The part of a request that knows its types. It answers once: in `decode` when that returns
/// nothing, else in one of the others.
pub(super) trait Request: Send {
    fn decode(&mut self, ledger: &dyn Ledger) -> Option<Inputs>;
    fn outputs(&self) -> Option<&[usize]>;
    /// As [`Work::further`].
    fn further(&self) -> &[Inputs];
    /// As [`Work::apart`].
    fn apart(&self, outputs: Option<&[Value]>) -> Option<usize>;
    fn answer(&mut self, runs: Result<&[Vec<Value>], InferenceError>);
    /// Instead of all of these.
    fn refuse(&mut self, error: InferenceError);
}

struct Typed<W: Work> {
    work: W,
    plan: Option<W::Plan>,
    sender: Option<oneshot::Sender<Result<W::Answer, W::Error>>>,
}

impl<W: Work> Typed<W> {
    fn send(&mut self, answer: Result<W::Answer, W::Error>) {
        if let Some(sender) = self.sender.take() {
            // Whoever has left does not care.
            let _ = sender.send(answer);
        }
    }
}

impl<W: Work> Request for Typed<W> {
    fn decode(&mut self, ledger: &dyn Ledger) -> Option<Inputs> {
        match guarded(|| self.work.decode(ledger)) {
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

    fn answer(&mut self, runs: Result<&[Vec<Value>], InferenceError>) {
        let Some(plan) = self.plan.take() else { return };
        let answer = match runs {
            Ok(runs) => guarded(|| self.work.encode(plan, runs)),
            Err(error) => Err(error.into()),
        };
        self.send(answer);
    }

    fn refuse(&mut self, error: InferenceError) {
        self.send(Err(error.into()));
    }
}

/// One request's panic is its own.
pub fn guarded<T, E: From<InferenceError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(InferenceError::from(PoolError::Panicked).into()))
}

impl Pending {
    /// A request to `model`, the caller's hold on it, and where its answer will be.
    #[expect(
        clippy::type_complexity,
        reason = "three things that exist for each other; no other place has them"
    )]
    pub fn new<W: Work>(
        model: &(impl AsRef<Model> + Clone + Send + Sync + 'static),
        size: usize,
        deadline: Instant,
        was_ended: bool,
        work: W,
    ) -> (Self, Hold, oneshot::Receiver<Result<W::Answer, W::Error>>) {
        let (sender, receiver) = oneshot::channel();
        let caller = Arc::new(Caller::default());
        let pending = Self {
            lent: Arc::new(model.clone()),
            request: Box::new(Typed {
                work,
                plan: None,
                sender: Some(sender),
            }),
            caller: Arc::clone(&caller),
            deadline,
            size,
            was_ended,
            decoded: None,
        };
        (pending, Hold(caller), receiver)
    }

    pub(super) fn is_wanted(&self) -> bool {
        Instant::now() < self.deadline && !self.caller.state().left
    }

    /// Decodes the request unless that is done. `None` when it needs no run: nobody waits for it,
    /// or it has been answered.
    pub(super) fn ready(mut self, model: &Model) -> Option<Ready> {
        if !self.is_wanted() {
            return None;
        }
        // The request came before the model's runs were found to be stuck.
        if let Err(stuck) = model.standing.check() {
            self.request.refuse(stuck);
            return None;
        }
        let decoded = match self.decoded.take() {
            Some(decoded) => decoded,
            None => {
                let started = thread_time();
                let memory = match model.resident.reserve_request(self.size) {
                    Ok(memory) => memory,
                    Err(refused) => {
                        self.request.refuse(refused.into());
                        return None;
                    }
                };
                let inputs = self.request.decode(&*model.resident)?;
                // Others have not given the same optional inputs, and a run has one value of each.
                let is_one_run = self.request.further().is_empty() && self.request.apart(None).is_none();
                let is_joint = inputs.optional.is_empty() && is_one_run;
                let batcher = model.batcher.as_ref().filter(|_| is_joint);
                let outputs = self.request.outputs();
                Decoded {
                    rows: batcher.and_then(|batcher| batcher.batching.rows(&inputs.tensors, outputs)),
                    inputs,
                    _memory: memory,
                    took: thread_time().saturating_sub(started),
                }
            }
        };
        Some(Ready { pending: self, decoded })
    }
}

/// A decoded request.
pub(super) struct Ready {
    pub(super) pending: Pending,
    pub(super) decoded: Decoded,
}

impl Ready {
    pub(super) fn into_pending(self) -> Pending {
        Pending {
            decoded: Some(self.decoded),
            ..self.pending
        }
    }

    pub(super) fn goes_with(&self, other: &Self) -> bool {
        self.pending.request.outputs() == other.pending.request.outputs()
            && batch::go_together(&self.decoded.inputs.tensors, &other.decoded.inputs.tensors)
    }

    /// Answers, and notes what the request took beside its run.
    pub(super) fn answer(mut self, model: &Model, ran: Duration, runs: Result<&[Vec<Value>], InferenceError>) {
        let started = thread_time();
        // Not needed any more, and as large as the body at least.
        self.decoded.inputs = Inputs::default();
        self.pending.request.answer(runs);
        let took = self.decoded.took + ran + thread_time().saturating_sub(started);
        let pace = &model.resident.pace;
        pace.record_exactly(took, self.pending.size);
        // On a busy machine the thread may only have been interrupted.
        if self.pending.was_ended && is_long(took) {
            pace.distrust();
        }
    }
}
