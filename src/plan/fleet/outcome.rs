//! The result of a simulation.

use super::Fleet;
use crate::plan::server::Server;

/// A fleet is overloaded by loads if more than this part of the counted requests is without an
/// answer when the last one arrives, and if their answers take more than this part of the time of
/// all. A burst of requests is answered soon; a single slow load is one request.
const MOST_LEFT: u64 = 50;

/// Result of a simulation. Counts are those after the warm-up.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub requests: u64,
    /// Requests that waited for a load.
    pub cold: u64,
    /// Requests without memory for their model.
    pub failed: u64,
    /// Mean number of models in memory, of all servers together.
    pub resident: f64,
    /// Quantiles of the times from arrival to answer, in nanoseconds; `None` without an answer.
    pub p50: Option<u64>,
    pub p99: Option<u64>,
    /// Answers a second.
    pub rate: f64,
    /// Share of the time of all cores that runs take.
    pub busy: f64,
    /// Requests of the busiest server over the mean of all.
    pub imbalance: f64,
    pub evictions: u64,
    /// Whether the requests came faster than the fleet answers.
    pub is_overloaded: bool,
}

impl Fleet<'_> {
    pub(super) fn outcome(self) -> Outcome {
        let seconds = self.answered_at.saturating_sub(self.since.unwrap_or(self.answered_at)) as f64 / 1e9;
        let servers = f64::from(self.config.servers);
        let cores = servers * f64::from(self.config.server.cores);
        let (readings, resident) = self.readings;
        let per = |value: f64, base: f64| if base > 0.0 { value / base } else { 0.0 };
        let most = self.shares.iter().copied().max().unwrap_or_default() as f64;
        let evictions: u64 = self.servers.iter().map(|server| server.evictions).sum();
        let resident = match readings {
            0 => self.servers.iter().map(Server::resident).sum::<usize>() as f64,
            _ => resident as f64 / readings as f64,
        };
        Outcome {
            requests: self.latencies.count() + self.failed,
            cold: self.cold,
            failed: self.failed,
            resident,
            p50: self.latencies.quantile(0.5),
            p99: self.latencies.quantile(0.99),
            rate: per(self.answered as f64, seconds),
            busy: per(self.busy as f64 / 1e9, seconds * cores),
            imbalance: per(most * servers, self.shares.iter().sum::<u64>() as f64),
            evictions: evictions - self.evicted_before,
            is_overloaded: self.is_overloaded(),
        }
    }

    /// Whether the runs of a server's requests need more than its cores, or the loads never end.
    /// One request on each core and on each load thread is normal.
    fn is_overloaded(&self) -> bool {
        // Clients wait for their answers, so they cannot send too fast.
        if self.arrivals.clients().is_some() {
            return false;
        }
        let (last, open) = self.last;
        let cores = u64::from(self.config.server.cores);
        let span = last.saturating_sub(self.since.unwrap_or(last));
        let most = self.shares.iter().copied().max().unwrap_or_default();
        let work = most.saturating_sub(cores) as f64 * self.models.times.run.mean();
        let threads = (cores + u64::from(self.config.server.load_threads)) * u64::from(self.config.servers);
        let counted: u64 = self.shares.iter().sum();
        let left = self.answered_at.saturating_sub(last);
        let is_growing = u64::from(open) > threads + counted / MOST_LEFT && left > span / MOST_LEFT;
        work > cores as f64 * span as f64 || is_growing
    }
}

impl Outcome {
    /// Share of the requests that waited for a load, or were refused.
    pub fn cold_share(&self) -> f64 {
        match self.requests {
            0 => 0.0,
            requests => (self.cold + self.failed) as f64 / requests as f64,
        }
    }
}
