//! The entry of a name in the directory, and the handles that requests hold on its model.
//!
//! Invariants: a closed entry gives out no more handles. The unload takes the model out of the
//! entry after the last handle is dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::demand::Origin;
use super::model_engine::LoadedModel;
use super::served::ServedModel;
use super::state::{Action, ModelOperation, ModelState, action};
use super::{Record, shortened};
use crate::engine::{ContentHash, InferenceError, Model, Standing};
use crate::handler::Handler;
use crate::telemetry::models::ModelStats;

/// A model under its name.
#[derive(Debug)]
pub(super) struct CatalogEntry<M> {
    pub(super) url: String,
    pub(super) target_model: Option<String>,
    pub(super) content: ContentHash,
    /// Manifest of the [`Record`], for a restored model that still has to be loaded.
    pub(super) manifest: Option<String>,
    /// A blocking lock, held only to look at the slot or to clone or take its `Arc`; an async lock
    /// would cost more than it saves. The variant changes only under the directory's lock of the
    /// name.
    pub(super) model: Mutex<ModelSlot<M>>,
    /// The model whose place a prepared one has taken, while requests may still run in it.
    replaced: Mutex<Option<Arc<ServedModel<M>>>>,
    /// One token for each handle. Closed when the unload begins.
    pub(super) users: TaskTracker,
    /// `Some` for a model from the store.
    pub(super) origin: Option<Origin>,
    /// Whether a request has used the model since the last report of use.
    was_used: AtomicBool,
    pub(super) unload_progress: UnloadProgress,
    /// Statistics of the model's requests.
    pub(super) stats: Arc<ModelStats>,
}

/// Progress of the unload that closed an entry.
#[derive(Debug, Default)]
pub(super) struct UnloadProgress {
    /// The journal has recorded the unload.
    pub(super) is_reported: AtomicBool,
    /// A task is waiting to free the model after its last handle.
    pub(super) is_followed: AtomicBool,
    /// Held while the model is freed.
    pub(super) freeing: tokio::sync::Mutex<()>,
    /// Bytes that were freed.
    pub(super) freed: AtomicU64,
}

/// Public state of a loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The `url` of the load request.
    pub url: String,
    /// Number of runs that cannot be ended. While there are any, the model refuses requests.
    pub stuck_runs: usize,
    standing: Option<Arc<Standing>>,
}

impl ModelInfo {
    /// Returns the error with which the model refuses requests, if it does.
    pub fn check(&self) -> Result<(), InferenceError> {
        self.standing.as_ref().map_or(Ok(()), |standing| standing.check())
    }
}

impl<M: LoadedModel> CatalogEntry<M> {
    pub(super) fn new(record: Record, slot: ModelSlot<M>, origin: Option<Origin>, stats: Arc<ModelStats>) -> Arc<Self> {
        Arc::new(Self {
            url: record.url,
            target_model: record.target_model,
            content: record.content,
            manifest: record.manifest,
            model: Mutex::new(slot),
            replaced: Mutex::default(),
            users: TaskTracker::new(),
            origin,
            was_used: AtomicBool::new(false),
            unload_progress: UnloadProgress::default(),
            stats,
        })
    }

    /// Bytes that an unload would free; 0 if the model is not in memory.
    pub(super) fn charge(&self) -> u64 {
        match &*self.slot() {
            ModelSlot::Loaded(served) => served.model.charge() + self.replaced_charge(),
            ModelSlot::Restored | ModelSlot::Empty => self.replaced_charge(),
        }
    }

    fn replaced_charge(&self) -> u64 {
        let replaced = self.replaced();
        replaced.as_ref().map_or(0, |served| served.model.charge())
    }

    /// Creates the entry of a loaded model, and a handle taken before any unload can close the
    /// entry.
    pub(super) fn loaded(
        mut record: Record,
        served: ServedModel<M>,
        origin: Option<Origin>,
        stats: Arc<ModelStats>,
    ) -> (Arc<Self>, Handle<M>) {
        let served = Arc::new(served.called(shortened(&record.name), record.target_model.clone()));
        record.manifest = None;
        let entry = Self::new(record, ModelSlot::Loaded(Arc::clone(&served)), origin, stats);
        let handle = Handle {
            served,
            is_cold: false,
            token: entry.users.token(),
            entry: Arc::clone(&entry),
        };
        (entry, handle)
    }

    pub(super) fn describe(&self) -> ModelInfo {
        let standing = self.standing();
        ModelInfo {
            url: self.url.clone(),
            stuck_runs: standing.as_ref().map_or(0, |standing| standing.runs()),
            standing,
        }
    }

    /// State of the model's runs, if the model is in memory.
    pub(super) fn standing(&self) -> Option<Arc<Standing>> {
        match &*self.slot() {
            ModelSlot::Loaded(served) => Some(Arc::clone(served.model.standing())),
            ModelSlot::Restored | ModelSlot::Empty => None,
        }
    }

    pub(super) fn lookup(self: &Arc<Self>) -> Lookup<M> {
        let token = self.users.token();
        // Checked after the token is taken: an unload that closes later waits for this token.
        let slot = self.slot();
        match (action(self.state_with(&slot), ModelOperation::Invoke), &*slot) {
            (Action::Answer, ModelSlot::Loaded(served)) => Lookup::Model(Handle {
                served: Arc::clone(served),
                entry: Arc::clone(self),
                is_cold: false,
                token,
            }),
            (Action::LoadAgain, _) => Lookup::Restored,
            _ => Lookup::Nothing,
        }
    }

    pub(super) fn state(&self) -> ModelState {
        self.state_with(&self.slot())
    }

    fn state_with(&self, slot: &ModelSlot<M>) -> ModelState {
        match slot {
            _ if self.users.is_closed() => ModelState::Unloading,
            ModelSlot::Loaded(_) => ModelState::Loaded,
            ModelSlot::Restored => ModelState::Restored,
            ModelSlot::Empty => ModelState::Unloading,
        }
    }

    /// Records a use by a request. Returns whether it is the first use since the last report.
    pub(super) fn note_use(&self) -> bool {
        // Read first: reads of a shared cache line contend less than writes.
        !self.was_used.load(Ordering::Relaxed) && !self.was_used.swap(true, Ordering::Relaxed)
    }

    /// Clears the mark of use, for the next report.
    pub(super) fn forget_use(&self) {
        self.was_used.store(false, Ordering::Relaxed);
    }

    /// Puts `served` in the place of the model, which is kept for the requests that run in it. Call
    /// it under the directory's lock of the name.
    pub(super) fn replace_model(&self, served: ServedModel<M>) {
        let mut slot = self.slot();
        let old = std::mem::replace(&mut *slot, ModelSlot::Loaded(Arc::new(served)));
        drop(slot);
        if let ModelSlot::Loaded(old) = old {
            old.model.note_replaced();
            *self.replaced() = Some(old);
        }
    }

    pub(super) fn has_replaced(&self) -> bool {
        self.replaced().is_some()
    }

    /// Takes out the replaced model if no request runs in it.
    pub(super) fn take_replaced(&self) -> Option<ServedModel<M>> {
        let mut replaced = self.replaced();
        // It cannot get more references: the slot has another model.
        let is_unused = replaced.as_ref().is_some_and(|served| Arc::strong_count(served) == 1);
        is_unused.then(|| replaced.take()).flatten().and_then(Arc::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, Option<Arc<ServedModel<M>>>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, ModelSlot<M>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) enum ModelSlot<M> {
    Loaded(Arc<ServedModel<M>>),
    /// The model was loaded before the process restarted, and has to be loaded again.
    Restored,
    /// An unload has taken the model out.
    Empty,
}

/// Result of a lookup by name.
pub(super) enum Lookup<M> {
    Model(Handle<M>),
    /// The model has to be loaded first.
    Restored,
    Nothing,
}

/// A handle to a loaded model. The model stays loaded until its last handle is dropped.
#[derive(Debug)]
pub struct Handle<M = Model> {
    // Fields drop in this order, and the token must be last: an unload takes the model after the
    // last token is dropped.
    served: Arc<ServedModel<M>>,
    pub(super) entry: Arc<CatalogEntry<M>>,
    /// Whether the request had to wait until the model was loaded.
    is_cold: bool,
    token: TaskTrackerToken,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            served: Arc::clone(&self.served),
            entry: Arc::clone(&self.entry),
            is_cold: self.is_cold,
            token: self.token.clone(),
        }
    }
}

impl<M> AsRef<M> for Handle<M> {
    fn as_ref(&self) -> &M {
        &self.served.model
    }
}

impl<M> Handle<M> {
    /// The handler that decodes and encodes the bodies of the model's requests.
    pub fn handler(&self) -> &Arc<Handler> {
        &self.served.handler
    }

    /// Marks the handle of a request that had to wait until the model was loaded.
    pub(super) fn after_load(self) -> Self {
        Self { is_cold: true, ..self }
    }

    /// Whether the request had to wait until the model was loaded.
    pub fn is_cold(&self) -> bool {
        self.is_cold
    }

    /// Statistics of the model's requests.
    pub fn stats(&self) -> &ModelStats {
        &self.entry.stats
    }

    /// The Target-Model header of the load request.
    pub fn target_model(&self) -> Option<&str> {
        self.entry.target_model.as_deref()
    }
}
