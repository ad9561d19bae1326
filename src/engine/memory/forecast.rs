//! The memory of a server that does not run, for `longshore plan`.
//!
//! A forecast has the ledger of a budget and asks the same pure decisions (`position.rs`), so that
//! a planned server admits and refuses as a real one does. Only the reading of the system differs:
//! no memory is in use that could be read, so an estimate stands in for it.

use super::ledger::MemoryLedger;
use super::position::{Decision, ReservationRequest};
use super::{BudgetConfig, Footprint, LoadNeeds, LoadRequest, MemoryLimit, MemoryUsage, NoRoom, Replacement};
use crate::engine::load::prepare::{CHILD, SLACK};

/// Private bytes of a worker before it has a model, and of its supervisor. `scripts/plan-check`
/// prints them: 12 MiB and 3 MiB.
const PROCESSES: u64 = 15 << 20;

/// Part of the private memory of sessions by which the allocator rounds it up in the end. Measured
/// with `scripts/plan-check`: a twentieth for models of 1 MB. `Position::decide` is more careful,
/// because it does not look at the memory in use.
const ROUNDING: u64 = 16;

/// The options of a planned server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastConfig {
    /// `--memory-limit`, in bytes.
    pub limit: u64,
    /// `--memory-reserve`, in bytes.
    pub reserve: u64,
    /// `--mapped-weights`, in percent.
    pub mapped_percent: u64,
    /// `--threads`, which is also the number of HTTP threads.
    pub threads: usize,
}

/// The memory that a model costs a server, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelCost {
    /// Private memory of the loaded model.
    pub private: u64,
    /// Weights that are mapped from a file.
    pub mapped: u64,
    /// Peak of private bytes while the session is created.
    pub load_peak: u64,
    /// Memory of one run.
    pub run: u64,
    /// Memory of the child process that prepares the model at its first load.
    pub prepare: u64,
}

impl ModelCost {
    /// Bytes of the loaded model.
    pub fn resident(&self) -> u64 {
        self.private.saturating_add(self.mapped)
    }

    /// The memory of a model of which only the bytes of its weights are known. The weights count in
    /// full, as those of a model that is not prepared yet.
    pub fn estimated(weights: u64) -> Self {
        const SMALL_SESSION: u64 = 100 << 10;
        const RUN: u64 = 64 << 10;
        Self {
            private: SMALL_SESSION,
            mapped: weights,
            load_peak: super::load_estimate(weights, false),
            run: RUN,
            prepare: super::load_estimate(weights, false)
                .saturating_add(weights)
                .saturating_add(CHILD + SLACK),
        }
    }

    fn footprint(&self) -> Footprint {
        Footprint {
            private: self.private,
            mapped: self.mapped,
            workspace: self.run,
        }
    }

    fn load(&self) -> LoadRequest {
        LoadRequest {
            peak: self.load_peak,
            private: self.private,
            mapped: self.mapped,
            replacement: Replacement {
                peak: self.prepare.saturating_sub(CHILD),
                child: CHILD,
            },
        }
    }
}

/// An admitted load of a planned server. It ends with [`MemoryForecast::loaded`].
#[derive(Debug, Clone, Copy)]
pub struct ForecastLoad {
    peak: u64,
}

/// The ledger of a planned server.
#[derive(Debug)]
pub struct MemoryForecast {
    config: BudgetConfig,
    limit: u64,
    ledger: MemoryLedger,
}

impl MemoryForecast {
    pub fn new(config: &ForecastConfig) -> Self {
        Self {
            config: BudgetConfig {
                limit: Some(MemoryLimit {
                    bytes: config.limit,
                    usage: MemoryUsage::Processes,
                }),
                reserve: config.reserve,
                mapped_percent: config.mapped_percent,
                runs: 3 * config.threads as u64,
                load_patience: std::time::Duration::ZERO,
            },
            limit: config.limit,
            ledger: MemoryLedger::default(),
        }
    }

    /// Bytes for models: the limit without the processes and the request headroom.
    pub fn for_models(&self) -> u64 {
        self.limit.saturating_sub(PROCESSES).saturating_sub(self.config.reserve)
    }

    /// Reserves the memory to prepare a model at its first load. Ends with
    /// [`prepared`](Self::prepared).
    pub fn prepare(&mut self, cost: &ModelCost) -> Result<(), NoRoom> {
        self.decide(self.ledger.preparation(&self.config, cost.prepare, cost.mapped))?;
        self.ledger.loading += cost.prepare;
        Ok(())
    }

    pub fn prepared(&mut self, cost: &ModelCost) {
        self.ledger.loading -= cost.prepare;
    }

    /// Reserves the memory of a load.
    pub fn load(&mut self, cost: &ModelCost) -> Result<ForecastLoad, NoRoom> {
        let needs = cost.load().needs(&self.config, self.limit);
        self.decide(needs.request(&self.config, &self.ledger))?;
        self.ledger.begin_load(&needs);
        let LoadNeeds { peak, .. } = needs;
        Ok(ForecastLoad { peak })
    }

    /// Ends a load: the model keeps its footprint.
    pub fn loaded(&mut self, load: ForecastLoad, cost: &ModelCost) {
        self.ledger.settle(load.peak, cost.footprint());
    }

    /// Bytes of a loaded model that count against the limit.
    pub fn counted(&self, cost: &ModelCost) -> u64 {
        cost.footprint().total(&self.config)
    }

    pub fn unload(&mut self, cost: &ModelCost) {
        let footprint = cost.footprint();
        self.ledger.release(footprint, footprint.total(&self.config));
    }

    /// Adds bytes that several models share, without a decision.
    pub fn add_shared(&mut self, bytes: u64) {
        self.ledger.mapped += bytes;
    }

    pub fn remove_shared(&mut self, bytes: u64) {
        self.ledger.mapped -= bytes;
    }

    /// Whether loads or preparations are in progress.
    pub fn is_loading(&self) -> bool {
        self.ledger.loading > 0
    }

    /// Bytes of models and of loads in progress.
    pub fn reserved(&self) -> u64 {
        self.ledger.loaded + self.ledger.loading + self.ledger.mapped
    }

    fn decide(&self, request: ReservationRequest) -> Result<(), NoRoom> {
        let position = self.ledger.position(&self.config, PROCESSES, self.limit, request);
        match position.decide() {
            Decision::Admit => Ok(()),
            Decision::CheckUsage => {
                let loaded = self.ledger.loaded;
                position.decide_by_usage(PROCESSES + loaded + loaded / ROUNDING + self.ledger.requests)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn forecast(limit: u64) -> MemoryForecast {
        MemoryForecast::new(&ForecastConfig {
            limit,
            reserve: 8 * MIB,
            mapped_percent: 100,
            threads: 2,
        })
    }

    fn cost(private: u64, mapped: u64) -> ModelCost {
        ModelCost {
            private,
            mapped,
            load_peak: private,
            run: 0,
            prepare: 0,
        }
    }

    /// Loads equal models until one is refused, and returns their number.
    fn fill(memory: &mut MemoryForecast, cost: &ModelCost) -> u64 {
        let mut count = 0;
        while let Ok(load) = memory.load(cost) {
            memory.loaded(load, cost);
            count += 1;
        }
        count
    }

    #[test]
    fn a_full_server_has_room_for_a_model_after_an_unload() {
        for (private, mapped) in [(MIB, 0), (MIB / 10, MIB), (0, 3 * MIB), (40 * MIB, MIB)] {
            let (mut memory, cost) = (forecast(256 * MIB), cost(private, mapped));
            let count = fill(&mut memory, &cost);
            assert!(count > 0 && count * cost.resident() < 256 * MIB);
            memory.unload(&cost);
            let load = memory.load(&cost).unwrap();
            memory.loaded(load, &cost);
            assert_eq!(memory.reserved(), count * cost.resident());
        }
    }

    #[test]
    fn private_memory_counts_with_what_the_allocator_rounds_up() {
        let count = |private, mapped| fill(&mut forecast(512 * MIB), &cost(private, mapped));
        let (private, mapped) = (count(MIB, 0), count(0, MIB));
        let expected = private + private / ROUNDING;
        assert!(expected.abs_diff(mapped) <= 2, "{private} {mapped}");
    }

    #[test]
    fn mapped_weights_count_by_their_percentage() {
        let cost = cost(0, MIB);
        let counts = [100, 50].map(|mapped_percent| {
            let mut memory = forecast(512 * MIB);
            memory.config.mapped_percent = mapped_percent;
            assert_eq!(memory.counted(&cost), MIB / 100 * mapped_percent);
            fill(&mut memory, &cost)
        });
        assert!(counts[1].abs_diff(2 * counts[0]) <= 2, "{counts:?}");
    }

    #[test]
    fn a_preparation_takes_memory_only_while_it_runs() {
        let mut memory = forecast(128 * MIB);
        let cost = ModelCost {
            prepare: 30 * MIB,
            ..cost(0, MIB)
        };
        memory.prepare(&cost).unwrap();
        assert_eq!(memory.reserved(), 30 * MIB);
        memory.prepared(&cost);
        assert_eq!(memory.reserved(), 0);
    }
}
