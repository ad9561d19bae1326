//! A model's turn on a compute thread: one request, or several as a batch.
//!
//! ```text
//! take a request -> decode -> take more, decode -> join -> run -> split -> encode each -> answer each
//!                             (while some wait and it pays)
//! ```
//!
//! What always holds: a request whose caller has left, or whose deadline has passed, is not
//! started; a run is ended when nobody waits for any of its requests any more, and given up when it
//! does not end then (`stuck.rs`); one request's bad data is answered to that request alone, if
//! need be by running each of a batch again by itself. Models have no state that a run could
//! change.

mod batcher;
mod caller;
mod request;

use std::num::NonZeroUsize;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::InferenceError;
use super::allocator;
use super::batch;
use super::batch_limit::BatchLimit;
use super::crash;
use super::model::Model;
use super::placement::thread_time;
use super::pool::{Job, Queued, Seat, Turn};
use super::records;
use super::session::RunError;
use super::stuck::Tracked;
use crate::tensor::{Tensor, Value};

use caller::Run;
use request::{Decoded, Ready};

pub use batcher::{Batcher, Batches};
pub use request::{Pending, guarded};

impl Job for Pending {
    fn run(queued: Queued<Self>, turn: &Turn<Self>) {
        let lent = Arc::clone(&queued.job.lent);
        let model = (*lent).as_ref();
        let _mark = crash::CrashMarker::new(model.content().short());
        let (size, peak) = allocator::with_peak(|| serve(queued.job, model, turn));
        if let Some(size) = size {
            model.resident.pace.record_memory(peak, size);
        }
    }
}

/// Answers a request, and others with it when that pays. Returns the bytes of their bodies; `None`
/// when nothing ran.
fn serve(job: Pending, model: &Model, turn: &Turn<Pending>) -> Option<usize> {
    let first = job.ready(model)?;
    let members = match (&model.batcher, first.decoded.rows) {
        (Some(batcher), Some(rows)) => collect(first, rows, model, batcher, turn),
        (None, _) | (_, None) => vec![first],
    };
    let size = members.iter().map(|member| member.pending.size).sum();
    match <[Ready; 1]>::try_from(members) {
        Ok([only]) => only.run_alone(model, turn),
        Err(members) => run_together(members, model, turn),
    }
    Some(size)
}

/// Takes what waits and goes with `first`, as far as that pays.
fn collect(first: Ready, rows: NonZeroUsize, model: &Model, batcher: &Batcher, turn: &Turn<Pending>) -> Vec<Ready> {
    let mut members = vec![first];
    let share = turn.share();
    if share < 2 {
        return members;
    }
    let Some(limit) = batcher.with_batch_limit(BatchLimit::rows) else {
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

impl Ready {
    fn run_alone(self, model: &Model, turn: &Turn<Pending>) {
        let started = thread_time();
        let Decoded { inputs, rows, .. } = &self.decoded;
        let run = Run::start([&self.pending], tracked(model, 1, turn)).and_then(|run| {
            let Some(run) = run else { return Ok(None) };
            let request = &self.pending.request;
            let signature = model.signature();
            run.execute(|cancel| {
                Ok(records::run(
                    signature,
                    inputs,
                    request.further(),
                    |outputs| request.apart(outputs),
                    |inputs| {
                        let session = &model.resident.session;
                        session.run_given(&inputs.tensors, &inputs.optional, request.outputs(), cancel)
                    },
                )?)
            })
            .map(Some)
        });
        let took = thread_time().saturating_sub(started);
        match run {
            Ok(None) => {}
            Ok(Some(runs)) => {
                match (rows, runs.as_slice()) {
                    (None, _) => {}
                    (Some(rows), [_]) => note(model, |limit| {
                        limit.record(rows.get(), inputs.byte_len(), nanoseconds(took))
                    }),
                    // The run for all of them gave another number of rows.
                    (Some(_), _) => turn_off_batches(model),
                }
                self.answer(model, took, Ok(&runs));
            }
            Err(error) => self.answer(model, took, Err(error)),
        }
    }
}

/// Runs several requests as one, or each alone when that does not work.
fn run_together(members: Vec<Ready>, model: &Model, turn: &Turn<Pending>) {
    let started = thread_time();
    let rows: Vec<usize> = members
        .iter()
        .map(|member| member.decoded.rows.map_or(0, NonZeroUsize::get))
        .collect();
    let outcome = joined_run(&members, &rows, model, turn);
    let took = thread_time().saturating_sub(started);
    match outcome {
        Outcome::Outputs(outputs) => {
            model.batches.runs.fetch_add(1, Ordering::Relaxed);
            model
                .batches
                .requests
                .fetch_add(members.len() as u64, Ordering::Relaxed);
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
        Outcome::Unwanted => return,
        Outcome::Failed => note(model, BatchLimit::failed),
        Outcome::Indivisible => turn_off_batches(model),
    }
    for member in members {
        if member.pending.is_wanted() {
            member.run_alone(model, turn);
        }
    }
}

fn turn_off_batches(model: &Model) {
    if model.batcher.as_ref().is_some_and(Batcher::turn_off) {
        tracing::warn!(
            content = %model.content(),
            "a run gave another number of rows than it was given: this model has no batches any more"
        );
    }
}

/// A run of `requests` requests on the turn's thread.
fn tracked(model: &Model, requests: usize, turn: &Turn<Pending>) -> Arc<Tracked> {
    let seat: Arc<Seat<Pending>> = Arc::clone(turn.seat());
    model.stuck.track(&model.standing, requests, seat)
}

fn note(model: &Model, what: impl FnOnce(&mut BatchLimit)) {
    if let Some(batcher) = &model.batcher {
        batcher.with_batch_limit(what);
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

fn joined_run(members: &[Ready], rows: &[usize], model: &Model, turn: &Turn<Pending>) -> Outcome {
    let tracked = tracked(model, members.len(), turn);
    let run = match Run::start(members.iter().map(|member| &member.pending), tracked) {
        Ok(Some(run)) => run,
        Ok(None) => return Outcome::Unwanted,
        Err(_) => return Outcome::Failed,
    };
    let requests: Vec<&[Tensor]> = members.iter().map(|member| &*member.decoded.inputs.tensors).collect();
    let Some(inputs) = batch::join(&requests) else {
        return Outcome::Failed;
    };
    let wanted = members.first().and_then(|member| member.pending.request.outputs());
    match run.execute(|cancel| Ok(model.resident.session.run(&inputs, wanted, cancel)?)) {
        Ok(outputs) => batch::split(&outputs, rows).map_or(Outcome::Indivisible, Outcome::Outputs),
        Err(InferenceError::Run(RunError::Cancelled)) => Outcome::Unwanted,
        Err(
            InferenceError::Run(_) | InferenceError::Pool(_) | InferenceError::NoRoom(_) | InferenceError::Stuck { .. },
        ) => Outcome::Failed,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
