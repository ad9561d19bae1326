//! A model's dispatch on a compute thread: runs one request, or several as a batch.
//!
//! ```text
//! take a request -> decode -> take more, decode -> join -> run -> split -> encode and answer each
//!                             (while more wait and batching pays off)
//! ```
//!
//! Invariants:
//! - A request whose caller has left, or whose deadline has passed, does not start.
//! - A run is cancelled when no caller waits for any of its requests any more, and given up when it
//!   does not end then (`stuck.rs`).
//! - Invalid data of one request fails that request alone; if necessary, each request of a batch
//!   runs again by itself. This is safe because models have no state that a run could change.

mod batcher;
mod caller;
mod request;

use std::num::NonZeroUsize;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::InferenceError;
use crate::engine::memory::allocator;
use crate::engine::onnxruntime::session::RunError;
use crate::engine::run::batch;
use crate::engine::run::batch_limit::BatchLimit;
use crate::engine::run::crash;
use crate::engine::run::model::Model;
use crate::engine::run::placement::thread_time;
use crate::engine::run::pool::{Dispatch, Job, Queued, Slot};
use crate::engine::run::records;
use crate::engine::run::stuck::TrackedRun;
use crate::telemetry::recorder::Phase;
use crate::tensor::{Tensor, Value};

use caller::CancellableRun;
use request::{DecodedRequest, ReadyRequest};

pub use batcher::Batcher;
pub use request::{PendingRequest, guarded};

impl Job for PendingRequest {
    fn run(queued: Queued<Self>, dispatch: &Dispatch<Self>) {
        let handle = Arc::clone(&queued.job.handle);
        let model = (*handle).as_ref();
        let _mark = crash::CrashMarker::new(model.content().short());
        let (size, peak) = allocator::with_peak(|| serve(queued.job, model, dispatch));
        if let Some(size) = size {
            model.resident.stats.record_memory(peak, size);
        }
    }
}

/// Answers a request, together with others if that pays off. Returns the bytes of their bodies, or
/// `None` if nothing ran.
fn serve(job: PendingRequest, model: &Model, dispatch: &Dispatch<PendingRequest>) -> Option<usize> {
    let first = job.ready(model)?;
    let members = match (&model.batcher, first.decoded.rows) {
        (Some(batcher), Some(rows)) => collect(first, rows, model, batcher, dispatch),
        (None, _) | (_, None) => vec![first],
    };
    let size = members.iter().map(|member| member.pending.size).sum();
    match <[ReadyRequest; 1]>::try_from(members) {
        Ok([only]) => only.run_alone(model, dispatch),
        Err(members) => run_together(members, model, dispatch),
    }
    Some(size)
}

/// Takes waiting requests that can join `first`, as long as that pays off.
fn collect(
    first: ReadyRequest,
    rows: NonZeroUsize,
    model: &Model,
    batcher: &Batcher,
    dispatch: &Dispatch<PendingRequest>,
) -> Vec<ReadyRequest> {
    let mut members = vec![first];
    let share = dispatch.share();
    if share < 2 {
        return members;
    }
    let Some(limit) = batcher.with_batch_limit(BatchLimit::rows) else {
        return members;
    };
    let mut rows = rows.get();
    let mut others = Vec::new();
    // Each request has at least one row.
    for _ in 1..share.min(limit) {
        if rows >= limit {
            break;
        }
        let Some(next) = dispatch.take() else { break };
        let Some(next) = next.filter_map(|pending| pending.ready(model)) else {
            continue;
        };
        match next.job.decoded.rows {
            Some(more) if rows + more.get() <= limit && next.job.goes_with(&members[0]) => {
                rows += more.get();
                members.push(next.job);
            }
            Some(_) | None => others.push(next.map(ReadyRequest::into_pending)),
        }
    }
    dispatch.put_back(others);
    members
}

impl ReadyRequest {
    fn run_alone(self, model: &Model, dispatch: &Dispatch<PendingRequest>) {
        let times = self.pending.request.times();
        let (started, mut phases) = (thread_time(), model.recorder.work(times.is_some()));
        let DecodedRequest { inputs, rows, .. } = &self.decoded;
        let run = CancellableRun::start([&self.pending], tracked(model, 1, dispatch)).and_then(|run| {
            let Some(run) = run else { return Ok(None) };
            let request = &self.pending.request;
            let session = model.session_for(|| dispatch.core_use());
            let signature = model.signature();
            run.execute(|cancel| {
                Ok(records::run(
                    signature,
                    inputs,
                    request.further(),
                    |outputs| request.apart(outputs),
                    |inputs| model.run_session(&session, &inputs.tensors, &inputs.optional, request.outputs(), cancel),
                )?)
            })
            .map(Some)
        });
        if !matches!(run, Ok(None)) {
            phases.end(Phase::Run, times);
        }
        let took = thread_time().saturating_sub(started);
        match run {
            Ok(None) => {}
            Ok(Some(runs)) => {
                match (rows, runs.as_slice()) {
                    (None, _) => {}
                    (Some(rows), [_]) => note(model, |limit| {
                        limit.record(rows.get(), inputs.byte_len(), nanoseconds(took))
                    }),
                    // The run for all records returned another number of rows.
                    (Some(_), _) => disable_batching(model),
                }
                self.answer(model, took, Ok(&runs));
            }
            Err(error) => self.answer(model, took, Err(error)),
        }
    }
}

/// Runs several requests as one, or each alone if that fails.
fn run_together(members: Vec<ReadyRequest>, model: &Model, dispatch: &Dispatch<PendingRequest>) {
    let is_timed = members.iter().any(|member| member.pending.request.times().is_some());
    let (started, mut phases) = (thread_time(), model.recorder.work(is_timed));
    let rows: Vec<usize> = members
        .iter()
        .map(|member| member.decoded.rows.map_or(0, NonZeroUsize::get))
        .collect();
    let outcome = joined_run(&members, &rows, model, dispatch);
    let took = thread_time().saturating_sub(started);
    match outcome {
        JoinedOutcome::Outputs(outputs) => {
            phases.end_of(Phase::Run, members.iter().map(|member| member.pending.request.times()));
            model.recorder.batch(members.len() as u64);
            note(model, |limit| {
                let bytes = members.iter().map(|member| member.decoded.inputs.byte_len()).sum();
                limit.record(rows.iter().sum(), bytes, nanoseconds(took));
                limit.succeeded();
            });
            for (member, outputs) in members.into_iter().zip(outputs) {
                member.answer(model, took, Ok(slice::from_ref(&outputs)));
            }
            return;
        }
        JoinedOutcome::Unwanted => return,
        JoinedOutcome::Failed => note(model, BatchLimit::failed),
        JoinedOutcome::Indivisible => disable_batching(model),
    }
    for member in members {
        if member.pending.is_wanted() {
            member.run_alone(model, dispatch);
        }
    }
}

fn disable_batching(model: &Model) {
    if model.batcher.as_ref().is_some_and(Batcher::turn_off) {
        tracing::warn!(
            model = model.standing.name(),
            target_model = model.standing.target_model(),
            content = %model.content(),
            "batch output row count does not match its input; batching disabled for this model"
        );
    }
}

/// Tracks a run of `requests` requests on the dispatch's thread.
fn tracked(model: &Model, requests: usize, dispatch: &Dispatch<PendingRequest>) -> Arc<TrackedRun> {
    let slot: Arc<Slot<PendingRequest>> = Arc::clone(dispatch.slot());
    model.stuck.track(&model.standing, requests, slot)
}

fn note(model: &Model, what: impl FnOnce(&mut BatchLimit)) {
    if let Some(batcher) = &model.batcher {
        batcher.with_batch_limit(what);
    }
}

enum JoinedOutcome {
    /// The outputs of each request.
    Outputs(Vec<Vec<Value>>),
    /// No caller waits for any of them.
    Unwanted,
    Failed,
    /// The outputs have another number of rows than the inputs.
    Indivisible,
}

fn joined_run(
    members: &[ReadyRequest],
    rows: &[usize],
    model: &Model,
    dispatch: &Dispatch<PendingRequest>,
) -> JoinedOutcome {
    let tracked = tracked(model, members.len(), dispatch);
    let run = match CancellableRun::start(members.iter().map(|member| &member.pending), tracked) {
        Ok(Some(run)) => run,
        Ok(None) => return JoinedOutcome::Unwanted,
        Err(_) => return JoinedOutcome::Failed,
    };
    let requests: Vec<&[Tensor]> = members.iter().map(|member| &*member.decoded.inputs.tensors).collect();
    let Some(inputs) = batch::join(&requests) else {
        return JoinedOutcome::Failed;
    };
    let wanted = members.first().and_then(|member| member.pending.request.outputs());
    let session = model.session_for(|| dispatch.core_use());
    match run.execute(|cancel| Ok(model.run_session(&session, &inputs, &[], wanted, cancel)?)) {
        Ok(outputs) => batch::split(&outputs, rows).map_or(JoinedOutcome::Indivisible, JoinedOutcome::Outputs),
        Err(InferenceError::Run(RunError::Cancelled)) => JoinedOutcome::Unwanted,
        Err(
            InferenceError::Run(_) | InferenceError::Pool(_) | InferenceError::NoRoom(_) | InferenceError::Stuck { .. },
        ) => JoinedOutcome::Failed,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
