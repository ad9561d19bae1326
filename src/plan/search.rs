//! The search for the number and the type of servers that a target needs.
//!
//! With consistent hashing, more servers do not make a fleet slower or colder. So the smallest
//! number that meets a target is found by bisection between the numbers that the table shows. With
//! round robin they may, because each server has every model: the table has to show all numbers.

use super::fleet::{FleetConfig, Outcome, simulate};
use super::instances::InstanceType;
use super::models::FleetModels;
use super::traffic::Traffic;

/// The bounds that a fleet has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Target {
    /// Longest 99th percentile of the latency, in nanoseconds.
    pub p99: Option<u64>,
    /// Largest share of requests that wait for a load.
    pub cold: Option<f64>,
}

impl Target {
    pub fn is_set(&self) -> bool {
        self.p99.is_some() || self.cold.is_some()
    }

    /// Whether the fleet answers all requests, and as the target says.
    pub fn is_met(&self, outcome: &Outcome) -> bool {
        !outcome.is_overloaded
            && outcome.failed == 0
            && outcome.requests > 0
            && self
                .p99
                .is_none_or(|most| outcome.p99.is_some_and(|found| found <= most))
            && self.cold.is_none_or(|most| outcome.cold_share() <= most)
    }
}

/// A type of server to plan with.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub instance: InstanceType,
    /// Price of one for an hour.
    pub price: Option<f64>,
    /// The fleet, whatever its number of servers.
    pub fleet: FleetConfig,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The index of the candidate.
    pub candidate: usize,
    pub servers: u32,
    pub outcome: Outcome,
    /// Price of all servers for an hour.
    pub price: Option<f64>,
    pub is_met: bool,
}

/// The numbers of servers that a table shows: all to 8, then four for each doubling.
pub fn counts(most: u32, are_all: bool) -> Vec<u32> {
    let shown = |count: u32| {
        let step = 1 << count.ilog2().saturating_sub(2);
        are_all || count == most || count.is_multiple_of(step)
    };
    (1..=most).filter(|&count| shown(count)).collect()
}

/// Simulates each candidate with the numbers of servers in `counts`, which increase, and with those
/// between two of them that the search for the smallest number needs. Calls `progress` before each
/// simulation. The rows are in the order of candidates and servers.
pub fn search(
    candidates: &[Candidate],
    counts: &[u32],
    target: &Target,
    models: &FleetModels,
    traffic: &Traffic,
    mut progress: impl FnMut(&Candidate, u32),
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let mut simulated = |servers: u32| {
            progress(candidate, servers);
            let config = FleetConfig {
                servers,
                ..candidate.fleet.clone()
            };
            let outcome = simulate(&config, models, traffic);
            Row {
                candidate: index,
                servers,
                is_met: target.is_met(&outcome),
                outcome,
                price: candidate.price.map(|price| price * f64::from(servers)),
            }
        };
        let mut own: Vec<Row> = counts.iter().map(|&servers| simulated(servers)).collect();
        let met = own.iter().position(|row| row.is_met);
        if target.is_set()
            && let Some(met) = met.filter(|met| *met > 0)
        {
            let (mut low, mut high) = (own[met - 1].servers, own[met].servers);
            while high - low > 1 {
                let row = simulated(low + (high - low) / 2);
                if row.is_met {
                    high = row.servers;
                } else {
                    low = row.servers;
                }
                own.push(row);
            }
        }
        own.sort_by_key(|row| row.servers);
        rows.append(&mut own);
    }
    rows
}

/// The row that meets the target for the lowest price; without prices, with the least memory. All
/// candidates have a price, or none.
pub fn choice<'a>(rows: &'a [Row], candidates: &[Candidate]) -> Option<&'a Row> {
    let met = rows.iter().filter(|row| row.is_met);
    met.min_by(|one, other| {
        let memory = |row: &Row| u128::from(candidates[row.candidate].instance.memory) * u128::from(row.servers);
        let by_price = match (one.price, other.price) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            _ => std::cmp::Ordering::Equal,
        };
        by_price.then_with(|| memory(one).cmp(&memory(other)))
    })
}
