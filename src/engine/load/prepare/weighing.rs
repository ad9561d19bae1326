//! Measures whether a model costs less with its large constants as they were uploaded
//! (`folding.rs`).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::child::{ExaminedForm, Timer, form_bytes, prepared_form};
use super::folding::{self, DECIDED_BY_DATA, FormCost};
use super::protocol::PrepareJob;
use super::{probe, sandbox};
use crate::engine::load::onnx_file::{self, ScanError};
use crate::engine::memory::allocator;
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::onnxruntime::session::{Cancel, Session, SessionError};
use crate::tensor::Tensor;

/// Whether the model is served with its large constants as they were uploaded. `examined` is the
/// prepared form.
pub(super) fn should_stay_unfolded(
    environment: &Environment,
    timer: &Timer,
    job: &PrepareJob,
    prepared: &Path,
    examined: &mut ExaminedForm,
) -> bool {
    let folded = &examined.findings;
    let form = prepared_form(job, prepared, folded);
    let bytes = form_bytes(job, form);
    if job.is_ort_format || folded.run_peak.is_none() || !folding::has_grown(bytes, job.weights) {
        return false;
    }
    let header = File::open(&job.model)
        .map_err(ScanError::from)
        .and_then(|file| onnx_file::header(&file));
    let is_decided_by_data = header.map_or(true, |header| {
        DECIDED_BY_DATA
            .iter()
            .any(|operator| header.operators.contains_key(*operator))
    });
    if is_decided_by_data {
        return false;
    }
    // Memory is reserved for one session.
    examined.open = None;
    let unfolded = || Session::open_unfolded(environment, &job.model, job.weights);
    let Some(small) = cost(timer, unfolded) else {
        return false;
    };
    let _allowed = sandbox::allow_mapping(bytes);
    let open = || Session::open(environment, form, job.weights);
    let folded = cost(timer, open).map(|cost| FormCost {
        bytes: cost.bytes.saturating_add(folded.mapped),
        ..cost
    });
    allocator::give_back();
    folded.is_some_and(|folded| folding::is_cheaper_unfolded(folded, small))
}

/// Measures the cost of the session that `open` creates, without its mapped file.
fn cost(timer: &Timer, open: impl FnOnce() -> Result<Session, SessionError>) -> Option<FormCost> {
    /// Number of runs; the fastest had the fewest disturbances.
    const RUNS: u32 = 5;
    let before = allocator::thread_balance();
    let session = open().ok()?;
    let cancel = Arc::new(Cancel::new().ok()?);
    let timed = || {
        let run = |inputs: &[Tensor]| session.run(inputs, None, &cancel).is_ok();
        let data = probe::answered(session.signature(), run)?;
        let mut times = Vec::new();
        let ((), peak) = allocator::with_peak(|| {
            for _ in 0..RUNS {
                let start = thread_time();
                if session.run(&data, None, &cancel).is_ok() {
                    times.push(thread_time().saturating_sub(start));
                }
            }
        });
        Some((*times.iter().min()?, peak))
    };
    let (run, peak) = timer.limited(&cancel, timed)?;
    let private = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
    Some(FormCost {
        bytes: private.saturating_add(peak),
        run,
    })
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
