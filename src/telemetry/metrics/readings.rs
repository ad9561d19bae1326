//! The state that one reading of the metrics leaves for the next one, which counts from there.

use std::time::{Duration, Instant};

use super::Facts;
use super::busiest::Busiest;
use super::window::Window;
use crate::telemetry::latency::LatencySnapshot;
use crate::telemetry::recorder::{Phase, Totals};

/// The signals for scaling, of the last minute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signals {
    /// The wait for a compute thread: its 99th percentile.
    pub queue_wait: Duration,
    /// The time that the compute threads were busy, over the time that they have.
    pub saturation: f64,
    /// The larger one of two figures. The first is the number of requests that ran or waited, for
    /// each compute thread: the saturation, and the time of the waits in the same unit. The second
    /// is the turnover of the memory: evicted models over models in memory.
    pub load: f64,
}

/// The state of earlier readings.
#[derive(Debug)]
pub(super) struct Readings {
    #[cfg(test)]
    start: Instant,
    pub phases: [Window<LatencySnapshot>; Phase::ALL.len()],
    busy: Window<Duration>,
    evictions: Window<u64>,
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
            #[cfg(test)]
            start: now,
            phases: std::array::from_fn(|_| window()),
            busy: Window::new(now, Duration::ZERO),
            evictions: Window::new(now, 0),
            loads: window(),
            unloads: window(),
            busiest: Busiest::new(busiest),
        }
    }

    /// Takes the signals for scaling at `now`. `evictions` is the number of all models that were
    /// unloaded for lack of memory.
    pub fn signals(&mut self, totals: &Totals, facts: &Facts, evictions: u64, now: Instant) -> Signals {
        let queue = &totals.phases[Phase::Queue as usize];
        let (earlier, queue_time) = self.phases[Phase::Queue as usize].advance(now, queue);
        let waits = queue.since(earlier);
        let (earlier, busy_time) = self.busy.advance(now, &totals.busy);
        let busy = totals.busy.saturating_sub(*earlier);
        let (earlier, _) = self.evictions.advance(now, &evictions);
        let evicted = evictions.saturating_sub(*earlier);

        let share = |used: Duration, time: Duration| {
            let available = time.as_secs_f64() * facts.threads.max(1) as f64;
            if available > 0.0 {
                used.as_secs_f64() / available
            } else {
                0.0
            }
        };
        let saturation = share(busy, busy_time).min(1.0);
        let turnover = evicted as f64 / facts.models.len().max(1) as f64;
        Signals {
            queue_wait: waits.quantile(0.99).unwrap_or_default(),
            saturation,
            load: (saturation + share(waits.sum, queue_time)).max(turnover),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::latency::Latencies;
    use crate::telemetry::metrics::ListedModel;

    /// The signals of a server with 4 compute threads and 10 models, in the first 20 seconds.
    fn signals(busy: u64, waits: &[u64], evictions: u64) -> Signals {
        let mut readings = Readings::new(1);
        let latencies = Latencies::default();
        for &seconds in waits {
            latencies.record(Duration::from_secs(seconds));
        }
        let mut totals = Totals {
            busy: Duration::from_secs(busy),
            ..Totals::default()
        };
        totals.phases[Phase::Queue as usize] = latencies.snapshot();
        let model = |index: usize| ListedModel {
            name: index.to_string(),
            target_model: None,
            memory: None,
            stats: std::sync::Arc::default(),
        };
        let facts = Facts {
            threads: 4,
            models: (0..10).map(model).collect(),
            ..Facts::default()
        };
        let later = readings.start + Duration::from_secs(20);
        readings.signals(&totals, &facts, evictions, later)
    }

    #[test]
    fn the_load_is_the_larger_one_of_the_threads_and_of_the_memory() {
        // Seconds of work and of waits in the 80 seconds that the threads have; evicted models.
        let table: [(u64, &[u64], u64, f64); 6] = [
            (0, &[], 0, 0.0),
            (40, &[], 0, 0.5),
            (40, &[10, 10], 0, 0.75),
            (80, &[40, 40, 80], 0, 3.0),
            (40, &[], 9, 0.9),
            (40, &[40], 9, 1.0),
        ];
        for (busy, waits, evictions, expected) in table {
            let load = signals(busy, waits, evictions).load;
            assert!((load - expected).abs() < 1e-3, "{load} instead of {expected}");
        }
    }

    #[test]
    fn evictions_count_for_a_minute() {
        let mut readings = Readings::new(1);
        let (totals, facts) = (Totals::default(), Facts::default());
        let start = readings.start;
        let mut load = |second, evictions| {
            let now = start + Duration::from_secs(second);
            readings.signals(&totals, &facts, evictions, now).load
        };
        assert_eq!(
            [load(10, 5), load(40, 5), load(70, 5), load(101, 5)],
            [5.0, 5.0, 0.0, 0.0]
        );
    }
}
