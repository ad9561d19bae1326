//! Decides the result of a job: which failures of a child are the model's fault, which are the
//! machine's, and which justify another attempt in a new child.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;

use super::PrepareError;
use super::process::{ChildFailure, ChildProcess};
use super::protocol::{ChildReport, Findings, PrepareJob};
use crate::engine::onnxruntime::session::SessionError;

/// Runs `job` in `child`, or in a new one from `start`. Leaves a child that can take the next job,
/// or none.
pub(super) fn prepare(
    child: &mut Option<ChildProcess>,
    job: &PrepareJob,
    timeout: Duration,
    start: impl Fn() -> io::Result<ChildProcess>,
) -> Result<Findings, PrepareError> {
    let mut job = job.clone();
    let mut was_killed = false;
    loop {
        // A child's limits are those of its first job.
        let (mut process, is_new) = match child.take().filter(|process| process.accepts(&job)) {
            Some(process) => (process, false),
            None => (start().map_err(no_child)?, true),
        };
        match process.ask(&job, Instant::now() + timeout) {
            Ok(ChildReport::Done(findings)) => {
                *child = Some(process);
                return Ok(findings);
            }
            Ok(ChildReport::Rejected(message)) => {
                *child = Some(process);
                return Err(SessionError::Rejected(message).into());
            }
            Ok(ChildReport::Unsupported(message)) => {
                *child = Some(process);
                return Err(SessionError::Unsupported(message).into());
            }
            Ok(ChildReport::NoDescriptors) => {
                *child = Some(process);
                return Err(SessionError::NoDescriptors.into());
            }
            // The child's other memory may be corrupt, or merely in the way.
            Ok(ChildReport::OutOfMemory) if is_new => return Err(SessionError::OutOfMemory.into()),
            Err(ChildFailure::Lost(error)) => return Err(no_child(error)),
            Err(ChildFailure::TimedOut { loaded: false }) => return Err(PrepareError::TimedOut(timeout)),
            // The model loads, but does not run on generated data. Real data may work.
            Err(ChildFailure::TimedOut { loaded: true }) if job.probe => job.probe = false,
            Err(ChildFailure::TimedOut { loaded: true }) => return Err(PrepareError::TimedOut(timeout)),
            // The prepared form is too large: leave constants as they are, or write no form.
            Err(ChildFailure::Ended {
                status: Some(status), ..
            }) if status.signal() == Some(Signal::XFSZ.as_raw()) && job.fold => job.fold = false,
            Err(ChildFailure::Ended {
                status: Some(status), ..
            }) if status.signal() == Some(Signal::XFSZ.as_raw()) && job.prepared.take().is_some() => {}
            Err(ChildFailure::Ended {
                status: Some(status), ..
            }) if is_new && status.signal() == Some(Signal::KILL.as_raw()) => {
                if was_killed {
                    return Err(PrepareError::Killed);
                }
                was_killed = true;
            }
            Err(ChildFailure::Ended {
                started: true,
                loaded,
                status,
            }) if is_new => {
                return Err(PrepareError::Crashed {
                    stage: if loaded { "running" } else { "loading" },
                    signal: status.map_or_else(|| "an invalid report".to_owned(), |status| status.to_string()),
                });
            }
            Err(ChildFailure::Ended { started: false, .. } | ChildFailure::Io) if is_new => {
                return Err(PrepareError::NoChild(Arc::new(io::Error::other(
                    "it ended before it had a job; is ONNX Runtime's library readable?",
                ))));
            }
            // Retry alone in a new child. `ask` does not return the reports that do not end a job.
            Ok(ChildReport::OutOfMemory | ChildReport::Ready(_) | ChildReport::Started | ChildReport::Loaded)
            | Err(ChildFailure::Ended { .. } | ChildFailure::Io) => {}
        }
    }
}

fn no_child(error: io::Error) -> PrepareError {
    let exhausted = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    if exhausted.contains(&error.raw_os_error()) {
        SessionError::NoDescriptors.into()
    } else {
        PrepareError::NoChild(Arc::new(error))
    }
}
