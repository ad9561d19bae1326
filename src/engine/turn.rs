//! A model's turn on a compute thread: one request, or several as a batch.
//!
//! ```text
//! take a request -> decode -> take more, decode -> join -> run -> split -> encode each -> answer each
//!                             (while some wait and it pays)
//! ```
//!
//! What always holds: a request whose caller has left, or whose deadline has passed, is not started; a run is ended when
//! nobody waits for any of its requests any more; one request's bad data is answered to that request alone, if need be
//! by running each of a batch again by itself. Models have no state that a run could change.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::InferenceError;
use super::allocator;
use super::batch::{self, Batching};
use super::crash;
use super::knee::Knee;
use super::memory::Working;
use super::model::{Model, Work};
use super::placement::{is_long, thread_time};
use super::pool::{Job, PoolError, Queued, Turn};
use super::session::{Cancel, RunError};
use crate::tensor::{Signature, Tensor, Value};

/// What a model needs to have batches.
#[derive(Debug)]
pub struct Batcher {
    batching: Batching,
    /// `None` once the model has turned out not to keep rows apart.
    knee: Mutex<Option<Knee>>,
}

/// Batches so far.
#[derive(Debug, Default)]
pub struct Batches {
    pub runs: AtomicU64,
    pub requests: AtomicU64,
}

impl Batcher {
    pub fn new(batching: Batching) -> Self {
        let knee = Mutex::new(Some(Knee::new(batching.max_rows)));
        Self { batching, knee }
    }

    fn with_knee<T>(&self, work: impl FnOnce(&mut Knee) -> T) -> Option<T> {
        // Held for a little arithmetic.
        let mut knee = self.knee.lock().unwrap_or_else(PoisonError::into_inner);
        knee.as_mut().map(work)
    }

    /// Returns whether it was on until now.
    fn turn_off(&self) -> bool {
        self.knee
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }
}

/// A request in its lane.
pub struct Pending {
    /// Keeps the model loaded.
    lent: Arc<dyn AsRef<Model> + Send + Sync>,
    request: Box<dyn Request>,
    caller: Arc<Caller>,
    deadline: Instant,
    /// Bytes of the body.
    size: usize,
    /// It was expected to be short, and ended where it was because it was not, by the clock.
    was_ended: bool,
    decoded: Option<Decoded>,
}

struct Decoded {
    inputs: Vec<Tensor>,
    /// When it may be part of a batch.
    rows: Option<NonZeroUsize>,
    took: Duration,
    /// What all of the request is expected to take, from its decoding to its answer.
    _memory: Option<Working>,
}

/// The part of a request that knows its types. It answers once: in `decode` when that returns nothing, else in one of
/// the others.
trait Request: Send {
    fn decode(&mut self, signature: &Signature) -> Option<Vec<Tensor>>;
    fn outputs(&self) -> Option<&[usize]>;
    fn answer(&mut self, signature: &Signature, outputs: Result<&[Value], InferenceError>);
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
    fn decode(&mut self, signature: &Signature) -> Option<Vec<Tensor>> {
        match guarded(|| self.work.decode(signature)) {
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

    fn answer(&mut self, signature: &Signature, outputs: Result<&[Value], InferenceError>) {
        let Some(plan) = self.plan.take() else { return };
        let answer = match outputs {
            Ok(outputs) => guarded(|| self.work.encode(plan, signature, outputs)),
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

    fn is_wanted(&self) -> bool {
        Instant::now() < self.deadline && !self.caller.state().left
    }

    /// Decodes the request unless that is done. `None` when it needs no run: nobody waits for it, or it has been answered.
    fn ready(mut self, model: &Model) -> Option<Ready> {
        if !self.is_wanted() {
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
                let inputs = self.request.decode(model.signature())?;
                let batcher = model.batcher.as_ref();
                Decoded {
                    rows: batcher.and_then(|batcher| batcher.batching.rows(&inputs, self.request.outputs())),
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
struct Ready {
    pending: Pending,
    decoded: Decoded,
}

impl Ready {
    fn into_pending(self) -> Pending {
        Pending {
            decoded: Some(self.decoded),
            ..self.pending
        }
    }

    fn goes_with(&self, other: &Self) -> bool {
        self.pending.request.outputs() == other.pending.request.outputs()
            && batch::go_together(&self.decoded.inputs, &other.decoded.inputs)
    }

    /// Answers, and notes what the request took beside its run.
    fn answer(mut self, model: &Model, ran: Duration, outputs: Result<&[Value], InferenceError>) {
        let started = thread_time();
        // Not needed any more, and as large as the body at least.
        self.decoded.inputs = Vec::new();
        self.pending.request.answer(model.signature(), outputs);
        let took = self.decoded.took + ran + thread_time().saturating_sub(started);
        let pace = &model.resident.pace;
        pace.record_exactly(took, self.pending.size);
        // On a busy machine the thread may only have been interrupted.
        if self.pending.was_ended && is_long(took) {
            pace.distrust();
        }
    }

    fn run_alone(self, model: &Model) {
        let started = thread_time();
        let Decoded { inputs, rows, .. } = &self.decoded;
        let run = Run::start([&self.pending]).and_then(|run| {
            let Some(run) = run else { return Ok(None) };
            let outputs = self.pending.request.outputs();
            guarded(|| Ok(model.resident.session.run(inputs, outputs, &run.cancel)?)).map(Some)
        });
        let took = thread_time().saturating_sub(started);
        match run {
            Ok(None) => {}
            Ok(Some(outputs)) => {
                if let (Some(batcher), Some(rows)) = (&model.batcher, rows) {
                    batcher.with_knee(|knee| knee.record(rows.get(), bytes(inputs), nanoseconds(took)));
                }
                self.answer(model, took, Ok(&outputs));
            }
            Err(error) => self.answer(model, took, Err(error)),
        }
    }
}

impl Job for Pending {
    fn run(queued: Queued<Self>, turn: &Turn<'_, Self>) {
        let lent = Arc::clone(&queued.job.lent);
        let model = (*lent).as_ref();
        let _mark = crash::Mark::new(model.content().short());
        let (size, peak) = allocator::with_peak(|| serve(queued.job, model, turn));
        if let Some(size) = size {
            model.resident.pace.record_memory(peak, size);
        }
    }
}

/// Answers a request, and others with it when that pays. Returns the bytes of their bodies; `None` when nothing ran.
fn serve(job: Pending, model: &Model, turn: &Turn<'_, Pending>) -> Option<usize> {
    let first = job.ready(model)?;
    let members = match (&model.batcher, first.decoded.rows) {
        (Some(batcher), Some(rows)) => collect(first, rows, model, batcher, turn),
        (None, _) | (_, None) => vec![first],
    };
    let size = members.iter().map(|member| member.pending.size).sum();
    match <[Ready; 1]>::try_from(members) {
        Ok([only]) => only.run_alone(model),
        Err(members) => run_together(members, model),
    }
    Some(size)
}

/// Takes what waits and goes with `first`, as far as that pays.
fn collect(first: Ready, rows: NonZeroUsize, model: &Model, batcher: &Batcher, turn: &Turn<'_, Pending>) -> Vec<Ready> {
    let mut members = vec![first];
    let share = turn.share();
    if share < 2 {
        return members;
    }
    let Some(limit) = batcher.with_knee(Knee::rows) else {
        return members;
    };
    let mut rows = rows.get();
    let mut others = Vec::new();
    // A request has a row at least.
    for _ in 1..share.min(limit) {
        if rows >= limit {
            break;
        }
        let Some(next) = turn.take() else { break };
        let Some(next) = next.filter_map(|pending| pending.ready(model)) else {
            continue;
        };
        match next.job.decoded.rows {
            Some(more) if rows + more.get() <= limit && next.job.goes_with(&members[0]) => {
                rows += more.get();
                members.push(next.job);
            }
            Some(_) | None => others.push(next.map(Ready::into_pending)),
        }
    }
    turn.put_back(others);
    members
}

/// Runs several requests as one, or each alone when that does not work.
fn run_together(members: Vec<Ready>, model: &Model) {
    let started = thread_time();
    let rows: Vec<usize> = members
        .iter()
        .map(|member| member.decoded.rows.map_or(0, NonZeroUsize::get))
        .collect();
    let outcome = joined_run(&members, &rows, model);
    let took = thread_time().saturating_sub(started);
    match outcome {
        Outcome::Outputs(outputs) => {
            model.batches.runs.fetch_add(1, Ordering::Relaxed);
            model
                .batches
                .requests
                .fetch_add(members.len() as u64, Ordering::Relaxed);
            note(model, |knee| {
                let bytes = members.iter().map(|member| bytes(&member.decoded.inputs)).sum();
                knee.record(rows.iter().sum(), bytes, nanoseconds(took));
                knee.succeeded();
            });
            for (member, outputs) in members.into_iter().zip(outputs) {
                member.answer(model, took, Ok(&outputs));
            }
            return;
        }
        Outcome::Unwanted => return,
        Outcome::Failed => note(model, Knee::failed),
        Outcome::Indivisible => {
            if model.batcher.as_ref().is_some_and(Batcher::turn_off) {
                tracing::warn!(
                    content = %model.content(),
                    "a batch gave another number of rows than it was given: this model has no batches any more"
                );
            }
        }
    }
    for member in members {
        if member.pending.is_wanted() {
            member.run_alone(model);
        }
    }
}

fn note(model: &Model, what: impl FnOnce(&mut Knee)) {
    if let Some(batcher) = &model.batcher {
        batcher.with_knee(what);
    }
}

enum Outcome {
    /// For each request its own.
    Outputs(Vec<Vec<Value>>),
    /// Nobody waits for any of them.
    Unwanted,
    Failed,
    /// The rows that came out are not those that went in.
    Indivisible,
}

fn joined_run(members: &[Ready], rows: &[usize], model: &Model) -> Outcome {
    let run = match Run::start(members.iter().map(|member| &member.pending)) {
        Ok(Some(run)) => run,
        Ok(None) => return Outcome::Unwanted,
        Err(_) => return Outcome::Failed,
    };
    let requests: Vec<&[Tensor]> = members.iter().map(|member| &*member.decoded.inputs).collect();
    let Some(inputs) = batch::join(&requests) else {
        return Outcome::Failed;
    };
    let wanted = members.first().and_then(|member| member.pending.request.outputs());
    match guarded(|| Ok(model.resident.session.run(&inputs, wanted, &run.cancel)?)) {
        Ok(outputs) => batch::split(&outputs, rows).map_or(Outcome::Indivisible, Outcome::Outputs),
        Err(InferenceError::Run(RunError::Cancelled)) => Outcome::Unwanted,
        Err(InferenceError::Run(_) | InferenceError::Pool(_) | InferenceError::NoRoom(_)) => Outcome::Failed,
    }
}

fn bytes(inputs: &[Tensor]) -> usize {
    inputs.iter().map(Tensor::byte_len).sum()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether somebody waits for a request, and the run that it is part of.
#[derive(Debug, Default)]
struct Caller(Mutex<CallerState>);

#[derive(Debug, Default)]
struct CallerState {
    left: bool,
    run: Option<Arc<Run>>,
}

impl Caller {
    fn state(&self) -> MutexGuard<'_, CallerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's hold on its request. Dropping it says that nobody waits any more.
#[derive(Debug)]
#[must_use]
pub struct Hold(Arc<Caller>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.left = true;
        let run = state.run.take();
        drop(state);
        if let Some(run) = run {
            run.leave();
        }
    }
}

/// A run that goes on for as long as somebody waits for one of its requests.
#[derive(Debug)]
struct Run {
    cancel: Cancel,
    waiting: AtomicUsize,
}

impl Run {
    /// `None` when nobody waits.
    fn start<'a>(requests: impl IntoIterator<Item = &'a Pending>) -> Result<Option<Arc<Self>>, InferenceError> {
        let run = Arc::new(Self {
            cancel: Cancel::new()?,
            // Counted among those who wait until all of them are in.
            waiting: AtomicUsize::new(1),
        });
        for request in requests {
            let mut state = request.caller.state();
            if !state.left {
                run.waiting.fetch_add(1, Ordering::Relaxed);
                state.run = Some(Arc::clone(&run));
            }
        }
        let is_wanted = !run.leave();
        Ok(is_wanted.then_some(run))
    }

    /// One fewer waits. Returns whether none does now.
    fn leave(&self) -> bool {
        let is_last = self.waiting.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            self.cancel.cancel();
        }
        is_last
    }
}
