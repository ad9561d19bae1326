//! Which models a container has, and which of them go when there is no room: decisions without I/O.
//!
//! | state | becomes | when |
//! |---|---|---|
//! | absent | loading | somebody asks |
//! | loading | loaded, absent | the load went well, or not |
//! | loaded | unloading | room is needed and nobody uses it, or nothing is to be kept |
//! | loaded | unloading | the container says that it is not, or was started again: only its files are to go |
//! | unloading | absent | the container has answered, and the files are gone |
//!
//! What always holds: a name has one state, so a load and an unload of one name never overlap; a model that somebody uses, or
//! waits for, is never chosen to go. Whoever uses one holds the number of that stay: one that ended counts no longer.

use std::collections::HashMap;

use tokio::sync::watch;

use super::files::Placed;
use crate::endpoint::error::RuntimeError;
use crate::store::Name;

/// What became of a load, for those who wait: nothing yet, or how it ended.
pub(super) type Outcome = Option<Result<(), RuntimeError>>;

/// A model's stay, from the beginning of its load on.
pub(super) type Stay = u64;

#[derive(Debug, Default)]
pub(super) struct Directory {
    models: HashMap<Name, Model>,
    /// Of the container that those which are loaded were loaded into.
    generation: u64,
    stays: u64,
    clock: u64,
    /// Unloads that have ended.
    freed: u64,
}

#[derive(Debug)]
struct Model {
    stay: Stay,
    state: State,
    users: usize,
    used: u64,
    files: Option<Placed>,
    /// Ends with the state it was made for.
    ended: watch::Sender<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Loading {
        /// Whether the container is at it.
        posted: bool,
    },
    Loaded,
    Unloading,
}

/// What somebody finds who asks for a model.
#[derive(Debug)]
pub(super) enum Found {
    Loaded(Stay),
    /// Is counted as a user; so is the one who begins to load.
    Loading(Stay, watch::Receiver<Outcome>),
    /// Must begin to load.
    Absent(Stay, watch::Receiver<Outcome>),
    /// Asks again when the sender is gone.
    Unloading(watch::Receiver<Outcome>),
}

/// How there may be room for a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Something was unloaded meanwhile.
    Freed,
    /// These are to be unloaded.
    Unload(Vec<Name>),
    /// Others are in use, or on their way.
    Wait,
    /// There is nothing else.
    Nothing,
}

impl Directory {
    /// The container is of that generation. What was loaded into one before it is gone: returns the names whose files
    /// are to be removed, which are unloading until then.
    pub fn see(&mut self, generation: u64) -> Vec<Name> {
        if generation <= self.generation {
            return Vec::new();
        }
        self.generation = generation;
        let mut gone = Vec::new();
        for (name, model) in &mut self.models {
            if model.state == State::Loaded {
                model.state = State::Unloading;
                gone.push(name.clone());
            }
        }
        gone
    }

    /// Somebody wants to use `name`.
    pub fn arrive(&mut self, name: &Name) -> Found {
        self.clock += 1;
        let clock = self.clock;
        if let Some(model) = self.models.get_mut(name) {
            if model.state == State::Unloading {
                return Found::Unloading(model.ended.subscribe());
            }
            model.users += 1;
            model.used = clock;
            return match model.state {
                State::Loaded => Found::Loaded(model.stay),
                _ => Found::Loading(model.stay, model.ended.subscribe()),
            };
        }
        self.stays += 1;
        let (ended, outcome) = watch::channel(None);
        let model = Model {
            stay: self.stays,
            state: State::Loading { posted: false },
            users: 1,
            used: clock,
            files: None,
            ended,
        };
        self.models.insert(name.clone(), model);
        Found::Absent(self.stays, outcome)
    }

    /// Somebody does not use it any more. True if it was the last one of a model that is loaded.
    pub fn leave(&mut self, name: &Name, stay: Stay) -> bool {
        self.clock += 1;
        let clock = self.clock;
        match self.stay(name, stay) {
            Some(model) => {
                model.users -= 1;
                model.used = clock;
                model.users == 0 && model.state == State::Loaded
            }
            None => false,
        }
    }

    /// The container begins to load it, or has answered.
    pub fn set_posted(&mut self, name: &Name, stay: Stay, posted: bool) {
        if let Some(model) = self.stay(name, stay) {
            model.state = State::Loading { posted };
        }
    }

    /// Its files, which stay for as long as it does.
    pub fn set_files(&mut self, name: &Name, stay: Stay, files: Placed) {
        if let Some(model) = self.stay(name, stay) {
            model.files = Some(files);
        }
    }

    /// A load into the container of `generation` went well. False if that container has ended since: the files are to be
    /// removed, and those who wait will ask again.
    pub fn loaded(&mut self, name: &Name, stay: Stay, generation: u64) -> bool {
        let current = self.generation == generation;
        if let Some(model) = self.stay(name, stay) {
            model.state = match current {
                true => State::Loaded,
                false => State::Unloading,
            };
            if current {
                model.ended.send_replace(Some(Ok(())));
            }
        }
        current
    }

    /// A load went wrong. Its files are to be removed before those who wait are told.
    pub fn failed(&mut self, name: &Name, stay: Stay) -> Option<Placed> {
        let model = self.stay(name, stay)?;
        model.state = State::Unloading;
        model.files.take()
    }

    /// The container says that a model is not loaded. True if its files are to be removed.
    pub fn lost(&mut self, name: &Name, stay: Stay) -> bool {
        match self.stay(name, stay) {
            Some(model) if model.state == State::Loaded => {
                model.state = State::Unloading;
                true
            }
            _ => false,
        }
    }

    /// Unloads a model that nobody uses. False if somebody does, or it is not loaded.
    pub fn begin_unload(&mut self, name: &Name) -> bool {
        match self.models.get_mut(name) {
            Some(model) if model.state == State::Loaded && model.users == 0 => {
                model.state = State::Unloading;
                true
            }
            _ => false,
        }
    }

    /// The files of a model that is unloading.
    pub fn take_files(&mut self, name: &Name) -> Option<Placed> {
        self.models.get_mut(name)?.files.take()
    }

    /// The end of an unload, or of what remained of a load that failed for the reason that those who wait are given.
    pub fn unloaded(&mut self, name: &Name, error: Option<RuntimeError>) {
        self.freed += 1;
        if let (Some(model), Some(error)) = (self.models.remove(name), error) {
            model.ended.send_replace(Some(Err(error)));
        }
    }

    /// Unloads that have ended: room that `make_room` is to take into account.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// What to do for a model that found no room when `freed` unloads had ended. Up to `count` of those that were not used
    /// for the longest time are marked as unloading.
    pub fn make_room(&mut self, stay: Stay, freed: u64, count: usize) -> Room {
        if self.freed != freed {
            return Room::Freed;
        }
        let names = self.idle(count);
        if !names.is_empty() {
            for name in &names {
                self.begin_unload(name);
            }
            return Room::Unload(names);
        }
        let others = self.models.values().filter(|model| model.stay != stay);
        let mut others = others.map(|model| model.state);
        match others.any(|state| state != State::Loading { posted: false }) {
            true => Room::Wait,
            false => Room::Nothing,
        }
    }

    /// How many are loaded and not used.
    pub fn idle_count(&self) -> usize {
        self.models.values().filter(|model| is_idle(model)).count()
    }

    /// Whether it is loaded or about to be.
    pub fn has(&self, name: &Name) -> bool {
        self.models
            .get(name)
            .is_some_and(|model| model.state != State::Unloading)
    }

    fn idle(&self, count: usize) -> Vec<Name> {
        let mut idle: Vec<_> = self.models.iter().filter(|(_, model)| is_idle(model)).collect();
        idle.sort_unstable_by_key(|(_, model)| model.used);
        idle.into_iter().take(count).map(|(name, _)| name.clone()).collect()
    }

    fn stay(&mut self, name: &Name, stay: Stay) -> Option<&mut Model> {
        self.models.get_mut(name).filter(|model| model.stay == stay)
    }
}

fn is_idle(model: &Model) -> bool {
    model.state == State::Loaded && model.users == 0
}

#[cfg(test)]
mod tests;
