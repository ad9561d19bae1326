//! The state of one simulated server: which models are in memory and on disk, and who waits.
//!
//! It decides as the server does: [`MemoryForecast`] is the ledger of `engine`, and [`Evicted`]
//! the rule of `catalog` for the models that an eviction unloads. `fleet.rs` has the clock.
//!
//! Differences from the server: a load that presses for memory unloads a busy model at once, and
//! does not wait for the last request of that model. Models are not replaced by new versions.

use std::collections::VecDeque;

use super::models::FleetModels;
use super::recency::Recency;
use crate::catalog::Evicted;
use crate::engine::{ForecastConfig, ForecastLoad, MemoryForecast, NoRoom};

/// The options of each server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    pub memory: ForecastConfig,
    /// Processor cores, of which each runs one model at a time.
    pub cores: u32,
    /// `--load-threads`.
    pub load_threads: u32,
    /// Nanoseconds for which a load without memory waits for other loads before it evicts models.
    pub patience: u64,
    /// `--archive-cache-size`, in bytes.
    pub disk: u64,
}

/// The state of a name on a server.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    /// Requests that hold the model.
    users: u32,
    /// First of the requests that wait for its load, plus one.
    waiting: u32,
    is_pending: bool,
}

/// Ways in which a load that lacks memory may get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// It waits for loads in progress, if there are any.
    Patient,
    /// It evicts idle models.
    Evicting,
    /// It evicts a busy model if no other is left.
    Pressing,
}

/// Result of an attempt to begin a step of a load.
#[derive(Debug)]
pub enum Admission<T> {
    Admitted(T),
    /// Loads in progress may turn out to need less than they reserved.
    InTheWay,
    /// All other models have requests.
    Wait,
    /// The model fits no empty server.
    TooLarge,
}

#[derive(Debug)]
pub struct Server {
    names: Vec<Name>,
    memory: MemoryForecast,
    loaded: Recency,
    /// Loaded names of each content.
    sessions: Vec<u32>,
    /// Loaded contents of each family.
    relatives: Vec<u32>,
    disk: Recency,
    disk_left: u64,
    /// Requests whose model is loaded and that wait for a core.
    pub queue: VecDeque<u32>,
    /// Models that wait for a thread to load them.
    pub load_queue: VecDeque<u32>,
    pub running: u32,
    pub loading: u32,
    /// Number of unloads because of memory.
    pub evictions: u64,
}

impl Server {
    pub fn new(config: &ServerConfig, models: &FleetModels) -> Self {
        Self {
            names: vec![Name::default(); models.names()],
            memory: MemoryForecast::new(&config.memory),
            loaded: Recency::new(models.names()),
            sessions: vec![0; models.costs.len()],
            relatives: vec![0; models.families.len()],
            disk: Recency::new(models.names()),
            disk_left: config.disk,
            queue: VecDeque::new(),
            load_queue: VecDeque::new(),
            running: 0,
            loading: 0,
            evictions: 0,
        }
    }

    fn name(&mut self, name: u32) -> &mut Name {
        &mut self.names[name as usize]
    }

    pub fn resident(&self) -> usize {
        self.loaded.len()
    }

    pub fn is_loaded(&self, name: u32) -> bool {
        self.loaded.contains(name)
    }

    /// Lends a loaded model to a request.
    pub fn hold(&mut self, name: u32) {
        self.loaded.touch(name);
        self.name(name).users += 1;
    }

    pub fn release(&mut self, name: u32) {
        self.name(name).users -= 1;
    }

    /// Adds a request to those that wait for a load; `next` is where the list goes on. Returns
    /// whether it is the first, which starts the load.
    pub fn wait_for(&mut self, name: u32, request: u32, next: &mut u32) -> bool {
        let name = self.name(name);
        *next = name.waiting;
        name.waiting = request + 1;
        !std::mem::replace(&mut name.is_pending, true)
    }

    /// Ends the pending load of a name and takes the list of requests that wait for it.
    pub fn end_pending(&mut self, name: u32) -> u32 {
        let name = self.name(name);
        name.is_pending = false;
        std::mem::take(&mut name.waiting)
    }

    /// Whether the files and the prepared form of a model are on disk.
    pub fn is_on_disk(&mut self, name: u32) -> bool {
        let is_there = self.disk.contains(name);
        if is_there {
            self.disk.touch(name);
        }
        is_there
    }

    /// Puts a model on disk, and deletes the models there that were not loaded for the longest time.
    pub fn put_on_disk(&mut self, name: u32, models: &FleetModels) {
        if self.disk.contains(name) {
            return self.disk.touch(name);
        }
        let needed = models.cost(name).disk;
        while self.disk_left < needed {
            let Some(oldest) = self.disk.oldest() else { return };
            self.disk.remove(oldest);
            self.disk_left += models.cost(oldest).disk;
        }
        self.disk_left -= needed;
        self.disk.touch(name);
    }

    /// Reserves the memory of a preparation, and evicts models for it.
    pub fn admit_preparation(&mut self, name: u32, models: &FleetModels, pressure: Pressure) -> Admission<()> {
        let cost = models.cost(name).memory;
        self.admit(name, models, pressure, |memory| memory.prepare(&cost))
    }

    pub fn end_preparation(&mut self, name: u32, models: &FleetModels) {
        self.memory.prepared(&models.cost(name).memory);
    }

    /// Reserves the memory of a load, and evicts models for it. `None` if the session exists.
    pub fn admit_load(
        &mut self,
        name: u32,
        models: &FleetModels,
        pressure: Pressure,
    ) -> Admission<Option<ForecastLoad>> {
        if self.sessions[models.contents[name as usize] as usize] > 0 {
            return Admission::Admitted(None);
        }
        let cost = models.cost(name).memory;
        self.admit(name, models, pressure, |memory| memory.load(&cost).map(Some))
    }

    /// Ends a load. The model is in memory then.
    pub fn end_load(&mut self, name: u32, load: Option<ForecastLoad>, models: &FleetModels) {
        let (content, cost) = (models.contents[name as usize] as usize, models.cost(name));
        match load {
            Some(load) if self.sessions[content] == 0 => self.memory.loaded(load, &cost.memory),
            // A name with the same content was loaded meanwhile.
            Some(load) => {
                self.memory.loaded(load, &cost.memory);
                self.memory.unload(&cost.memory);
            }
            None => {}
        }
        if self.sessions[content] == 0 {
            if load.is_none() {
                // The session of the other name was unloaded meanwhile; its memory is still free.
                if let Ok(load) = self.memory.load(&cost.memory) {
                    self.memory.loaded(load, &cost.memory);
                } else {
                    return;
                }
            }
            if let Some(family) = cost.family.map(|family| family as usize) {
                self.relatives[family] += 1;
                if self.relatives[family] == 1 {
                    self.memory.add_shared(models.families[family]);
                }
            }
        }
        self.sessions[content] += 1;
        self.loaded.touch(name);
    }

    fn admit<T>(
        &mut self,
        name: u32,
        models: &FleetModels,
        pressure: Pressure,
        attempt: impl Fn(&mut MemoryForecast) -> Result<T, NoRoom>,
    ) -> Admission<T> {
        loop {
            let refused = match attempt(&mut self.memory) {
                Ok(admitted) => return Admission::Admitted(admitted),
                Err(refused) => refused,
            };
            if refused.needed > self.memory.for_models() {
                return Admission::TooLarge;
            }
            if pressure == Pressure::Patient && self.memory.is_loading() {
                return Admission::InTheWay;
            }
            let missing = refused.needed.saturating_sub(refused.available);
            if self.evict(name, missing, models, pressure == Pressure::Pressing) == 0 {
                return Admission::Wait;
            }
        }
    }

    /// Unloads the models that were not used for the longest time, except `name`, until `missing`
    /// bytes are free. Returns the number of models.
    fn evict(&mut self, name: u32, missing: u64, models: &FleetModels, is_pressing: bool) -> u64 {
        let mut evicted = Evicted::default();
        for is_busy in [false, true] {
            let mut next = self.loaded.oldest();
            while let Some(victim) = next.filter(|_| evicted.takes_next(missing, is_busy, is_pressing)) {
                next = self.loaded.after(victim);
                if victim != name && (self.names[victim as usize].users > 0) == is_busy {
                    evicted.count += 1;
                    evicted.bytes += models.cost(victim).memory.resident();
                    self.unload(victim, models);
                }
            }
        }
        self.evictions += evicted.count;
        evicted.count
    }

    fn unload(&mut self, name: u32, models: &FleetModels) {
        let (content, cost) = (models.contents[name as usize] as usize, models.cost(name));
        self.loaded.remove(name);
        self.sessions[content] -= 1;
        if self.sessions[content] > 0 {
            return;
        }
        self.memory.unload(&cost.memory);
        if let Some(family) = cost.family.map(|family| family as usize) {
            self.relatives[family] -= 1;
            if self.relatives[family] == 0 {
                self.memory.remove_shared(models.families[family]);
            }
        }
    }

    /// Fills the disk and the memory with models, of which the last is used most, as after a long
    /// time of traffic.
    pub fn fill(&mut self, names: impl Iterator<Item = u32> + Clone, models: &FleetModels) {
        for name in names.clone() {
            self.put_on_disk(name, models);
        }
        for name in names {
            if let Admission::Admitted(load) = self.admit_load(name, models, Pressure::Pressing) {
                self.end_load(name, load, models);
            }
        }
        self.evictions = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::ModelCost;
    use crate::plan::models::{ContentCost, ModelTimes};
    use crate::plan::times::Times;

    const MIB: u64 = 1 << 20;

    fn models(sizes: &[u64]) -> FleetModels {
        let cost = |mebibytes: &u64| ContentCost {
            memory: ModelCost {
                mapped: mebibytes * MIB,
                ..ModelCost::default()
            },
            disk: MIB,
            family: None,
        };
        let times = ModelTimes {
            first: Times::constant(1),
            load: Times::constant(1),
            run: Times::constant(1),
        };
        FleetModels {
            contents: (0..).take(sizes.len()).collect(),
            costs: sizes.iter().map(cost).collect(),
            families: Vec::new(),
            times,
        }
    }

    fn server(models: &FleetModels, mebibytes: u64, disk: u64) -> Server {
        let config = ServerConfig {
            memory: ForecastConfig {
                limit: mebibytes * MIB,
                reserve: 8 * MIB,
                threads: 1,
            },
            cores: 1,
            load_threads: 1,
            patience: 0,
            disk: disk * MIB,
        };
        Server::new(&config, models)
    }

    fn load(server: &mut Server, name: u32, models: &FleetModels) -> bool {
        let Admission::Admitted(load) = server.admit_load(name, models, Pressure::Patient) else {
            return false;
        };
        server.end_load(name, load, models);
        true
    }

    fn loaded(server: &Server, models: &FleetModels) -> Vec<u32> {
        (0..models.names() as u32)
            .filter(|&name| server.is_loaded(name))
            .collect()
    }

    #[test]
    fn a_busy_model_is_unloaded_last_and_only_under_pressure() {
        let models = models(&[40, 40, 40]);
        let mut server = server(&models, 128, 100);
        assert!(load(&mut server, 0, &models) && load(&mut server, 1, &models));
        server.hold(0);
        server.hold(1);
        server.release(1);
        assert!(load(&mut server, 2, &models));
        assert_eq!(loaded(&server, &models), [0, 2], "0 is older and busy");
        server.hold(2);
        assert!(matches!(
            server.admit_load(1, &models, Pressure::Evicting),
            Admission::Wait
        ));
        assert!(matches!(
            server.admit_load(1, &models, Pressure::Pressing),
            Admission::Admitted(_)
        ));
        assert_eq!(loaded(&server, &models), [2]);
    }

    #[test]
    fn a_patient_load_waits_for_loads_in_progress() {
        let models = models(&[40, 40, 40]);
        let mut server = server(&models, 128, 100);
        assert!(load(&mut server, 0, &models));
        let Admission::Admitted(pending) = server.admit_load(1, &models, Pressure::Patient) else {
            panic!("two models fit");
        };
        let waits = server.admit_load(2, &models, Pressure::Patient);
        assert!(matches!(waits, Admission::InTheWay));
        assert_eq!(loaded(&server, &models), [0]);
        server.end_load(1, pending, &models);
        assert!(load(&mut server, 2, &models));
        assert_eq!(loaded(&server, &models), [1, 2]);
    }

    #[test]
    fn a_model_larger_than_the_memory_is_refused_for_ever() {
        let models = models(&[40, 400]);
        let mut server = server(&models, 128, 100);
        assert!(load(&mut server, 0, &models));
        assert!(matches!(
            server.admit_load(1, &models, Pressure::Pressing),
            Admission::TooLarge
        ));
        assert_eq!(loaded(&server, &models), [0]);
    }

    #[test]
    fn names_with_one_content_and_relatives_cost_once() {
        let mut models = models(&[30, 10, 10]);
        models.contents = vec![0, 0, 1, 2];
        models.families = vec![30 * MIB];
        for cost in &mut models.costs[1..] {
            cost.family = Some(0);
        }
        let mut server = server(&models, 512, 100);
        let mut reserved = Vec::new();
        for name in 0..4 {
            assert!(load(&mut server, name, &models));
            reserved.push(server.memory.reserved().div_ceil(MIB));
        }
        assert_eq!(reserved, [30, 30, 70, 80]);
        for name in 0..4 {
            server.unload(name, &models);
            reserved[name as usize] = server.memory.reserved().div_ceil(MIB);
        }
        assert_eq!(reserved, [80, 50, 40, 0]);
    }

    #[test]
    fn the_disk_forgets_the_model_that_was_not_loaded_for_the_longest_time() {
        let models = models(&[1, 1, 1]);
        let mut server = server(&models, 64, 2);
        server.put_on_disk(0, &models);
        server.put_on_disk(1, &models);
        assert!(server.is_on_disk(0));
        server.put_on_disk(2, &models);
        let there: Vec<u32> = (0..3).filter(|&name| server.disk.contains(name)).collect();
        assert_eq!(there, [0, 2]);
    }

    proptest! {
        /// The naive model keeps a vector in the order of use, and unloads from its front.
        #[test]
        fn idle_models_are_unloaded_in_the_order_of_use(
            sizes in prop::collection::vec(1u64..30, 12),
            uses in prop::collection::vec(0u32..12, 1..120),
        ) {
            let models = models(&sizes);
            let mut server = server(&models, 128, 100);
            let mut naive: Vec<u32> = Vec::new();
            for name in uses {
                if !server.is_loaded(name) {
                    prop_assert!(load(&mut server, name, &models));
                }
                server.hold(name);
                server.release(name);
                naive.retain(|other| *other != name);
                naive.push(name);
                let kept = loaded(&server, &models).len();
                naive.drain(..naive.len() - kept);
                let mut expected = naive.clone();
                expected.sort_unstable();
                prop_assert_eq!(loaded(&server, &models), expected);
            }
        }
    }
}
