//! The state of one simulated server: which models are in memory and on disk, and who waits.
//!
//! It decides as the server does: [`MemoryForecast`] is the ledger of `engine`, and [`Evicted`]
//! the rule of `catalog` for the models that an eviction unloads. `fleet.rs` has the clock.
//!
//! Differences from the server: a load that presses for memory unloads a busy model at once, and
//! does not wait for the last request of that model. Models are not replaced by new versions.

#[cfg(test)]
mod tests;

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
    /// Nanoseconds for which a request waits for the memory of its model: `--request-timeout`.
    pub timeout: u64,
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

impl<T> Admission<T> {
    pub fn map<U>(self, admitted: impl FnOnce(T) -> U) -> Admission<U> {
        match self {
            Self::Admitted(value) => Admission::Admitted(admitted(value)),
            Self::InTheWay => Admission::InTheWay,
            Self::Wait => Admission::Wait,
            Self::TooLarge => Admission::TooLarge,
        }
    }
}

/// One simulated server.
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

    /// Bytes for models.
    pub fn for_models(&self) -> u64 {
        self.memory.for_models()
    }

    /// Bytes of the loaded model that count against the limit.
    pub fn counted(&self, name: u32, models: &FleetModels) -> u64 {
        self.memory.counted(&models.cost(name).memory)
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

    /// Puts a model on disk, and deletes models there that were not loaded for the longest time.
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
        if let Some(load) = load {
            self.memory.loaded(load, &cost.memory);
            if self.sessions[content] > 0 {
                // A name with the same content was loaded meanwhile.
                self.memory.unload(&cost.memory);
            }
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
                    evicted.bytes += self.counted(victim, models);
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
