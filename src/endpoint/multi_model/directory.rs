//! The models of a container and the choice of models to unload, without I/O.
//!
//! | state | becomes | when |
//! |---|---|---|
//! | absent | loading | a request arrives |
//! | loading | loaded | the load succeeded |
//! | loading | unloading | the load failed, or the container ended meanwhile: only the files are removed |
//! | loaded | unloading | memory is needed and the model is idle, or models are not kept |
//! | loaded | unloading | the container has lost the model or restarted: only the files are removed |
//! | unloading | absent | the container has answered and the files are removed |
//!
//! Invariants:
//! - A model has one state, so a load and an unload of one model never overlap.
//! - A model that a request uses or waits for is never chosen for unloading.
//! - Each user of a model holds the id of the model's residency. The id of an ended residency has
//!   no effect.

use std::collections::HashMap;

use tokio::sync::watch;

use super::files::PlacedFiles;
use crate::endpoint::error::RuntimeError;
use crate::page::state::HeldModel;
use crate::store::Name;

/// The result of a load, for the requests that wait for it; `None` while it runs.
pub(super) type Outcome = Option<Result<(), RuntimeError>>;

/// The id of one residency of a model, from the start of its load to the end of its unload.
pub(super) type ResidencyId = u64;

#[derive(Debug, Default)]
pub(super) struct Directory {
    models: HashMap<Name, ModelEntry>,
    /// The container's generation in which the loaded models were loaded.
    generation: u64,
    residencies: u64,
    clock: u64,
    /// The number of completed unloads.
    freed: u64,
}

#[derive(Debug)]
struct ModelEntry {
    residency: ResidencyId,
    state: ModelState,
    users: usize,
    used: u64,
    files: Option<PlacedFiles>,
    /// Reports the result of the load, and closes when the unload has ended.
    ended: watch::Sender<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelState {
    Loading {
        /// Whether the container is processing the load request.
        posted: bool,
    },
    Loaded,
    Unloading,
}

/// The result of looking up a model.
#[derive(Debug)]
pub(super) enum Lookup {
    Loaded(ResidencyId),
    /// Another request has started the load. The caller counts as a user, here and in `Absent`.
    Loading(ResidencyId, watch::Receiver<Outcome>),
    /// The caller must start the load.
    Absent(ResidencyId, watch::Receiver<Outcome>),
    /// The caller must look up the model again when the channel is closed.
    Unloading(watch::Receiver<Outcome>),
}

/// The next step to free memory for a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EvictionStep {
    /// Another unload has completed. Try the load again.
    Freed,
    /// Unload these models.
    Unload(Vec<Name>),
    /// Other models are in use, or the container is loading or unloading them. Wait for a change.
    Wait,
    /// The container holds no other model.
    Nothing,
}

impl Directory {
    /// Records the container's generation. Models of an earlier generation are gone: marks them as
    /// unloading and returns their names, so that the caller removes their files.
    pub fn set_generation(&mut self, generation: u64) -> Vec<Name> {
        if generation <= self.generation {
            return Vec::new();
        }
        self.generation = generation;
        let mut gone = Vec::new();
        for (name, model) in &mut self.models {
            if model.state == ModelState::Loaded {
                model.state = ModelState::Unloading;
                gone.push(name.clone());
            }
        }
        gone
    }

    /// Looks up `name` for a request that wants to use it.
    pub fn acquire(&mut self, name: &Name) -> Lookup {
        self.clock += 1;
        let clock = self.clock;
        if let Some(model) = self.models.get_mut(name) {
            if model.state == ModelState::Unloading {
                return Lookup::Unloading(model.ended.subscribe());
            }
            model.users += 1;
            model.used = clock;
            return match model.state {
                ModelState::Loaded => Lookup::Loaded(model.residency),
                _ => Lookup::Loading(model.residency, model.ended.subscribe()),
            };
        }
        self.residencies += 1;
        let (ended, outcome) = watch::channel(None);
        let model = ModelEntry {
            residency: self.residencies,
            state: ModelState::Loading { posted: false },
            users: 1,
            used: clock,
            files: None,
            ended,
        };
        self.models.insert(name.clone(), model);
        Lookup::Absent(self.residencies, outcome)
    }

    /// Ends one use of a model. True if the model is loaded and now idle.
    pub fn release(&mut self, name: &Name, residency: ResidencyId) -> bool {
        self.clock += 1;
        let clock = self.clock;
        match self.entry(name, residency) {
            Some(model) => {
                model.users -= 1;
                model.used = clock;
                model.users == 0 && model.state == ModelState::Loaded
            }
            None => false,
        }
    }

    /// Records that the container is processing the load request, or has answered.
    pub fn set_posted(&mut self, name: &Name, residency: ResidencyId, posted: bool) {
        if let Some(model) = self.entry(name, residency) {
            model.state = ModelState::Loading { posted };
        }
    }

    /// Records the model's files, which live as long as its residency.
    pub fn set_files(&mut self, name: &Name, residency: ResidencyId, files: PlacedFiles) {
        if let Some(model) = self.entry(name, residency) {
            model.files = Some(files);
        }
    }

    /// Records a successful load into the container of `generation`. False if that container has
    /// ended since: the caller removes the files, and waiting requests look up the model again.
    pub fn loaded(&mut self, name: &Name, residency: ResidencyId, generation: u64) -> bool {
        let current = self.generation == generation;
        if let Some(model) = self.entry(name, residency) {
            model.state = match current {
                true => ModelState::Loaded,
                false => ModelState::Unloading,
            };
            if current {
                model.ended.send_replace(Some(Ok(())));
            }
        }
        current
    }

    /// Records a failed load. The caller removes the files before waiting requests see the
    /// failure.
    pub fn failed(&mut self, name: &Name, residency: ResidencyId) -> Option<PlacedFiles> {
        let model = self.entry(name, residency)?;
        model.state = ModelState::Unloading;
        model.files.take()
    }

    /// Records that the container has lost a model. True if the caller must remove its files.
    pub fn lost(&mut self, name: &Name, residency: ResidencyId) -> bool {
        match self.entry(name, residency) {
            Some(model) if model.state == ModelState::Loaded => {
                model.state = ModelState::Unloading;
                true
            }
            _ => false,
        }
    }

    /// Marks a loaded, idle model as unloading. False if it is in use or not loaded.
    pub fn begin_unload(&mut self, name: &Name) -> bool {
        match self.models.get_mut(name) {
            Some(model) if model.state == ModelState::Loaded && model.users == 0 => {
                model.state = ModelState::Unloading;
                true
            }
            _ => false,
        }
    }

    /// Takes the files of a model that is unloading.
    pub fn take_files(&mut self, name: &Name) -> Option<PlacedFiles> {
        self.models.get_mut(name)?.files.take()
    }

    /// Records the end of an unload. After a failed load, `error` goes to the waiting requests.
    pub fn unloaded(&mut self, name: &Name, error: Option<RuntimeError>) {
        self.freed += 1;
        if let (Some(model), Some(error)) = (self.models.remove(name), error) {
            model.ended.send_replace(Some(Err(error)));
        }
    }

    /// The number of completed unloads, for a later call of `plan_eviction`.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Chooses the next step for a load that found no memory after `freed` completed unloads.
    /// Marks up to `count` least recently used idle models as unloading.
    pub fn plan_eviction(&mut self, residency: ResidencyId, freed: u64, count: usize) -> EvictionStep {
        if self.freed != freed {
            return EvictionStep::Freed;
        }
        let names = self.idle(count);
        if !names.is_empty() {
            for name in &names {
                self.begin_unload(name);
            }
            return EvictionStep::Unload(names);
        }
        let others = self.models.values().filter(|model| model.residency != residency);
        let mut others = others.map(|model| model.state);
        match others.any(|state| state != ModelState::Loading { posted: false }) {
            true => EvictionStep::Wait,
            false => EvictionStep::Nothing,
        }
    }

    /// The number of loaded, idle models.
    pub fn idle_count(&self) -> usize {
        self.models.values().filter(|model| is_idle(model)).count()
    }

    /// All models, by name.
    pub fn held(&self) -> Vec<HeldModel> {
        let held = self.models.iter().map(|(name, model)| HeldModel {
            name: name.to_string(),
            state: match model.state {
                ModelState::Loading { .. } => "loading",
                ModelState::Loaded => "loaded",
                ModelState::Unloading => "unloading",
            }
            .to_owned(),
            users: model.users,
        });
        let mut held: Vec<_> = held.collect();
        held.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        held
    }

    /// Whether the model is loaded or being loaded.
    pub fn has(&self, name: &Name) -> bool {
        self.models
            .get(name)
            .is_some_and(|model| model.state != ModelState::Unloading)
    }

    fn idle(&self, count: usize) -> Vec<Name> {
        let mut idle: Vec<_> = self.models.iter().filter(|(_, model)| is_idle(model)).collect();
        idle.sort_unstable_by_key(|(_, model)| model.used);
        idle.into_iter().take(count).map(|(name, _)| name.clone()).collect()
    }

    fn entry(&mut self, name: &Name, residency: ResidencyId) -> Option<&mut ModelEntry> {
        self.models.get_mut(name).filter(|model| model.residency == residency)
    }
}

fn is_idle(model: &ModelEntry) -> bool {
    model.state == ModelState::Loaded && model.users == 0
}

#[cfg(test)]
mod tests;
