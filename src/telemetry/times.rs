//! The times of the steps of one request, for its line in the log and for its trace.
//!
//! Most requests have none of this: only a request that was chosen at its arrival is timed step by
//! step. The threads that answer it add their steps.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::recorder::Phase;

/// A step of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The wait for the load of the model.
    Load,
    Phase(Phase),
}

impl Step {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Phase(phase) => phase.label(),
        }
    }
}

/// Start and end of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepTime {
    pub step: Step,
    pub start: Instant,
    pub end: Instant,
    /// Number of requests that the step answered together.
    pub requests: usize,
}

/// The times of one request.
#[derive(Debug, Default)]
pub struct RequestTimes(Mutex<Vec<StepTime>>);

impl RequestTimes {
    /// Adds a step that ends now.
    pub fn end(&self, step: Step, start: Instant) {
        self.add(StepTime {
            step,
            start,
            end: Instant::now(),
            requests: 1,
        });
    }

    pub fn add(&self, time: StepTime) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    }

    /// The steps so far, in the order of their ends.
    pub fn steps(&self) -> Vec<StepTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Milliseconds of all of `steps` that are `step`, with three decimals; `None` if there are none.
pub fn milliseconds(steps: &[StepTime], step: Step) -> Option<f64> {
    let mut times = steps.iter().filter(|time| time.step == step).peekable();
    times.peek()?;
    let sum: Duration = times.map(|time| time.end.saturating_duration_since(time.start)).sum();
    Some(as_milliseconds(sum))
}

/// Milliseconds with three decimals, for the log.
pub fn as_milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_one_kind_are_added() {
        let (times, start) = (RequestTimes::default(), Instant::now());
        let step = |step, from: u64, to: u64| StepTime {
            step,
            start: start + Duration::from_micros(from),
            end: start + Duration::from_micros(to),
            requests: 1,
        };
        times.add(step(Step::Phase(Phase::Run), 0, 1_500));
        times.add(step(Step::Load, 0, 10));
        times.add(step(Step::Phase(Phase::Run), 2_000, 2_001));
        let steps = times.steps();
        assert_eq!(milliseconds(&steps, Step::Phase(Phase::Run)), Some(1.501));
        assert_eq!(milliseconds(&steps, Step::Load), Some(0.01));
        assert_eq!(milliseconds(&steps, Step::Phase(Phase::Queue)), None);
    }
}
