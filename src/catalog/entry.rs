//! A name's entry in the directory, and the handles by which its model is lent.
//!
//! What always holds: an entry that is closed lends nothing more; its model is taken out by whoever
//! unloads it, after the last handle is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::demand::Origin;
use super::served::Served;
use super::{Record, shortened};
use crate::engine::{ContentHash, InferenceError, Model, Standing};
use crate::handler::Handler;

/// A model under its name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) url: String,
    pub(super) target_model: Option<String>,
    pub(super) content: ContentHash,
    /// The manifest of the [`Record`], for a model that is to be loaded again.
    pub(super) manifest: Option<String>,
    /// Locked only to look at it, to clone or to take the `Arc`: an async lock would cost more than
    /// it saves. What it is changes only under the name's lock of the directory.
    pub(super) model: Mutex<Slot>,
    /// A token per handle; closed when the unload begins.
    pub(super) users: TaskTracker,
    /// Of a model that came out of the store.
    pub(super) origin: Option<Origin>,
    /// Whether a request has used it since the last report of use.
    was_used: AtomicBool,
    pub(super) leaving: Leaving,
}

/// How far an unload has come that has closed the entry.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// The journal has heard of it.
    pub(super) is_reported: AtomicBool,
    /// A task frees the model when its last handle is gone.
    pub(super) is_followed: AtomicBool,
    /// Held while the model is freed.
    pub(super) freeing: tokio::sync::Mutex<()>,
}

/// What is known of a loaded model.
#[derive(Debug, Clone)]
pub struct Description {
    /// As given at the load.
    pub url: String,
    /// Runs that cannot be ended, for which it takes no requests.
    pub stuck_runs: usize,
    standing: Option<Arc<Standing>>,
}

impl Description {
    /// Refuses as the model does.
    pub fn check(&self) -> Result<(), InferenceError> {
        self.standing.as_ref().map_or(Ok(()), |standing| standing.check())
    }
}

impl Entry {
    pub(super) fn new(record: Record, slot: Slot, origin: Option<Origin>) -> Arc<Self> {
        Arc::new(Self {
            url: record.url,
            target_model: record.target_model,
            content: record.content,
            manifest: record.manifest,
            model: Mutex::new(slot),
            users: TaskTracker::new(),
            origin,
            was_used: AtomicBool::new(false),
            leaving: Leaving::default(),
        })
    }

    /// Bytes that an unload frees, while the model is loaded.
    pub(super) fn charge(&self) -> u64 {
        match &*self.slot() {
            Slot::Loaded(served) => served.model.charge(),
            Slot::Restored | Slot::Empty => 0,
        }
    }

    /// The entry of `model`, and a handle from before anybody can close it.
    pub(super) fn loaded(mut record: Record, served: Served, origin: Option<Origin>) -> (Arc<Self>, Handle) {
        let served = Arc::new(served.called(shortened(&record.name)));
        record.manifest = None;
        let entry = Self::new(record, Slot::Loaded(Arc::clone(&served)), origin);
        let handle = Handle {
            served,
            _token: entry.users.token(),
            entry: Arc::clone(&entry),
        };
        (entry, handle)
    }

    pub(super) fn describe(&self) -> Description {
        let standing = self.standing();
        Description {
            url: self.url.clone(),
            stuck_runs: standing.as_ref().map_or(0, |standing| standing.runs()),
            standing,
        }
    }

    /// How the model's runs stand, while it is loaded.
    pub(super) fn standing(&self) -> Option<Arc<Standing>> {
        match &*self.slot() {
            Slot::Loaded(served) => Some(Arc::clone(served.model.standing())),
            Slot::Restored | Slot::Empty => None,
        }
    }

    pub(super) fn lend(self: &Arc<Self>) -> Lent {
        let token = self.users.token();
        // Asked for after the token is taken: an unload that closes later waits for this token.
        if self.users.is_closed() {
            return Lent::Nothing;
        }
        match &*self.slot() {
            Slot::Loaded(served) => Lent::Model(Handle {
                served: Arc::clone(served),
                entry: Arc::clone(self),
                _token: token,
            }),
            Slot::Restored => Lent::Restored,
            Slot::Empty => Lent::Nothing,
        }
    }

    /// Notes that a request uses it. Returns whether that is the first time since the last report.
    pub(super) fn note_use(&self) -> bool {
        // Looked at first: threads that only read disturb each other less than threads that write.
        !self.was_used.load(Ordering::Relaxed) && !self.was_used.swap(true, Ordering::Relaxed)
    }

    /// Begins another report.
    pub(super) fn forget_use(&self) {
        self.was_used.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_to_be_loaded(&self) -> bool {
        !self.users.is_closed() && matches!(*self.slot(), Slot::Restored)
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) enum Slot {
    Loaded(Arc<Served>),
    /// Was loaded before the process was restarted, and is to be loaded again.
    Restored,
    /// Taken out by the unload.
    Empty,
}

/// What a request finds.
pub(super) enum Lent {
    Model(Handle),
    /// To be loaded first.
    Restored,
    Nothing,
}

/// A loaded model, lent: it stays loaded until the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Handle {
    // Declared in the order in which they must be dropped: an unload takes the model when it has
    // seen the last token.
    served: Arc<Served>,
    pub(super) entry: Arc<Entry>,
    _token: TaskTrackerToken,
}

impl AsRef<Model> for Handle {
    fn as_ref(&self) -> &Model {
        &self.served.model
    }
}

impl Handle {
    /// The handler that reads and writes the bodies of the model's requests.
    pub fn handler(&self) -> &Arc<Handler> {
        &self.served.handler
    }

    /// The Target-Model header of the load.
    pub fn target_model(&self) -> Option<&str> {
        self.entry.target_model.as_deref()
    }
}
