//! The state that one reading of the metrics leaves for the next one, which counts from there.

use std::time::{Duration, Instant};

use super::Facts;
use super::busiest::Busiest;
use super::window::Window;
use crate::telemetry::latency::LatencySnapshot;
use crate::telemetry::recorder::{Phase, Totals};

/// The state of earlier readings.
#[derive(Debug)]
pub(super) struct Readings {
    pub phases: [Window<LatencySnapshot>; Phase::ALL.len()],
    busy: Window<Duration>,
    pub loads: Window<LatencySnapshot>,
    pub unloads: Window<LatencySnapshot>,
    pub busiest: Busiest,
}

impl Readings {
    /// Starts now, with the `busiest` models to be chosen.
    pub fn new(busiest: usize) -> Self {
        let now = Instant::now();
        let window = || Window::new(now, LatencySnapshot::default());
        Self {
            phases: std::array::from_fn(|_| window()),
            busy: Window::new(now, Duration::ZERO),
            loads: window(),
            unloads: window(),
            busiest: Busiest::new(busiest),
        }
    }

    /// The wait for a compute thread (its 99th percentile) and the saturation of these threads, in
    /// the last minute.
    pub fn signals(&mut self, totals: &Totals, facts: &Facts, now: Instant) -> (Duration, f64) {
        let queue = &totals.phases[Phase::Queue as usize];
        let recent = queue.since(self.phases[Phase::Queue as usize].advance(now, queue).0);
        let (earlier, time) = self.busy.advance(now, &totals.busy);
        let busy = totals.busy.saturating_sub(*earlier).as_secs_f64();
        let available = time.as_secs_f64() * facts.threads.max(1) as f64;
        let saturation = if available > 0.0 {
            (busy / available).min(1.0)
        } else {
            0.0
        };
        (recent.quantile(0.99).unwrap_or_default(), saturation)
    }
}
