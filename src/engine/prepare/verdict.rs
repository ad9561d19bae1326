//! What becomes of a job: which end of a child is the model's doing, which the machine's, and which is worth another child.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;

use super::PrepareError;
use super::process::{Failure, Process};
use super::protocol::{Findings, Job, Report};
use crate::engine::session::SessionError;

/// Does `job` in `child`, or in a new one that `start` makes; leaves a child that is good for the next job, or none.
pub(super) fn prepare(
    child: &mut Option<Process>,
    job: &Job,
    timeout: Duration,
    start: impl Fn() -> io::Result<Process>,
) -> Result<Findings, PrepareError> {
    let mut job = job.clone();
    let mut was_killed = false;
    loop {
        // The limits of a child are those of its first job.
        let (mut process, is_new) = match child.take().filter(|process| process.has_room_for(&job)) {
            Some(process) => (process, false),
            None => (start().map_err(no_child)?, true),
        };
        match process.ask(&job, Instant::now() + timeout) {
            Ok(Report::Done(findings)) => {
                *child = Some(process);
                return Ok(findings);
            }
            Ok(Report::Rejected(message)) => {
                *child = Some(process);
                return Err(SessionError::Rejected(message).into());
            }
            Ok(Report::Unsupported(message)) => {
                *child = Some(process);
                return Err(SessionError::Unsupported(message).into());
            }
            Ok(Report::NoDescriptors) => {
                *child = Some(process);
                return Err(SessionError::NoDescriptors.into());
            }
            // Whatever else the child's memory holds may be in pieces, or merely in the way.
            Ok(Report::OutOfMemory) if is_new => return Err(SessionError::OutOfMemory.into()),
            Err(Failure::Lost(error)) => return Err(no_child(error)),
            Err(Failure::TimedOut { loaded: false }) => return Err(PrepareError::TimedOut(timeout)),
            // It loads, but it does not run on what was made up: real data will tell.
            Err(Failure::TimedOut { loaded: true }) if job.probe => job.probe = false,
            Err(Failure::TimedOut { loaded: true }) => return Err(PrepareError::TimedOut(timeout)),
            // The prepared form is larger than any should be: constants are left as they are, or there is to be none.
            Err(Failure::Ended {
                status: Some(status), ..
            }) if status.signal() == Some(Signal::XFSZ.as_raw()) && job.fold => job.fold = false,
            Err(Failure::Ended {
                status: Some(status), ..
            }) if status.signal() == Some(Signal::XFSZ.as_raw()) && job.prepared.take().is_some() => {}
            Err(Failure::Ended {
                status: Some(status), ..
            }) if is_new && status.signal() == Some(Signal::KILL.as_raw()) => {
                if was_killed {
                    return Err(PrepareError::Killed);
                }
                was_killed = true;
            }
            Err(Failure::Ended {
                started: true,
                loaded,
                status,
            }) if is_new => {
                return Err(PrepareError::Crashed {
                    stage: if loaded { "running" } else { "loading" },
                    signal: status.map_or_else(|| "an answer without sense".to_owned(), |status| status.to_string()),
                });
            }
            Err(Failure::Ended { started: false, .. } | Failure::Io) if is_new => {
                return Err(PrepareError::NoChild(Arc::new(io::Error::other(
                    "it ended before it had work; is ONNX Runtime's library readable?",
                ))));
            }
            // Again, alone in a new child. Reports without an end do not come out of `ask`.
            Ok(Report::OutOfMemory | Report::Ready(_) | Report::Started | Report::Loaded)
            | Err(Failure::Ended { .. } | Failure::Io) => {}
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
