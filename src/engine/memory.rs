//! The memory budget: a ledger of what models and requests may take, so that "no room" is known before memory is touched.
//!
//! Asking the kernel alone answers too late and everybody at once: two loads that each fit would both pass and together be
//! killed. A ledger alone drifts: allocators round up, other processes share the limit. So there are both. Whoever wants
//! memory holds a reservation, from before it is touched until it is free again. While the reservations leave plenty of
//! room, they decide; nearer to the limit, what is really in use is looked at, and to that is added what was promised
//! and is not in use yet: loads under way, and what models have to leave free.
//!
//! A model leaves free what requests are to find, and what it takes to prepare and load another one of its kind in its place:
//! more than the model itself takes. Half of that may go to the difference between what the ledger says and what the
//! allocator gave back, when a model comes in the place of one that was unloaded.
//!
//! What always holds: what was admitted was within the limit when it was; a reservation that is refused leaves nothing
//! behind, and a model that is refused has room when one as large has been unloaded (MM-18); the ledger is locked to move
//! numbers, never while the system is asked.

mod admission;
mod data_bound;
mod ledger;
mod limits;
mod position;
mod reservation;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ledger::{Ledger, percent};
use position::{Asked, Stays};

pub use data_bound::{DataBound, MappedFile, bound_data, mapped_data};
pub use limits::{Limit, Usage, raise_open_files, resident_anonymous, system_limit};
pub use reservation::{Loaded, Loading, Working};

/// Refused: it would not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} bytes are needed and {available} of {limit} are free; unload a model and try again, or raise \
     --memory-limit"
)]
pub struct NoRoom {
    pub needed: u64,
    pub available: u64,
    pub limit: u64,
}

/// What a budget is made with.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Bytes for everything, and where to see how much is used; `None` for no limit.
    pub limit: Option<Limit>,
    /// Bytes that requests are to find free whatever is loaded.
    pub reserve: u64,
    /// Percent of mapped weights that must fit into memory. The system can drop them and read them again, which makes
    /// runs wait for the disk.
    pub mapped_percent: u64,
    /// Runs that may go on at once.
    pub runs: u64,
    /// How long a load that does not fit waits for loads under way, which may turn out to take less than they reserved.
    pub load_patience: Duration,
}

impl Bounds {
    /// What is never given away.
    fn margin(&self) -> u64 {
        self.reserve / 4
    }
}

/// The ledger. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    data_bound: Arc<DataBound>,
    /// What the process took before there was any model.
    base: u64,
    ledger: Mutex<Ledger>,
    /// A load has ended, one way or the other.
    settled: Condvar,
}

/// What a loaded model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Bytes that are this process's alone.
    pub private: u64,
    /// Bytes of weights that are mapped from a file.
    pub mapped: u64,
    /// Bytes that a run takes.
    pub workspace: u64,
}

/// What a load asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Private bytes while it goes on, at the most.
    pub peak: u64,
    /// Private bytes that the model is expected to take.
    pub private: u64,
    /// Bytes of weights that will be mapped.
    pub mapped: u64,
    /// What has to stay possible.
    pub another: Another,
}

/// What it takes to come by another model of the same kind, when it is not known yet and one has been unloaded for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Another {
    /// Bytes at the most.
    pub peak: u64,
    /// Bytes that have to be taken first, by the process that prepares it.
    pub child: u64,
}

/// Where the budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// For models: loaded, and being loaded.
    pub models: u64,
    /// Mapped weights, not in `models`.
    pub mapped: u64,
    pub requests: u64,
    /// `u64::MAX` when there is none.
    pub limit: u64,
}

/// The part of the limit, one of so many, that is kept free at the most to come by another model.
const MOST_FOR_ANOTHER: u64 = 24;

/// As [`Bounds::load_patience`], of a request.
const PATIENCE: Duration = Duration::from_secs(5);

impl Budget {
    /// A budget with nothing reserved, of a process that takes `base` bytes as it is.
    pub fn new(bounds: Bounds, data_bound: DataBound, base: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                bounds,
                data_bound: Arc::new(data_bound),
                base,
                ledger: Mutex::default(),
                settled: Condvar::new(),
            }),
        }
    }

    /// Reserves what `load` takes, or says why not. Waits a while for other loads when only they are in the way: call it on a
    /// thread that may wait.
    pub fn load(&self, load: &Load) -> Result<Loading, NoRoom> {
        let bounds = &self.shared.bounds;
        let mapped = percent(load.mapped, bounds.mapped_percent);
        let stays = load.private.saturating_add(mapped);
        let peak = stays.max(load.peak.saturating_add(mapped));
        // Keeping a multiple of large models free would be a waste where few of them fit.
        let another = load
            .another
            .peak
            .saturating_sub(stays)
            .min(self.limit() / MOST_FOR_ANOTHER);
        let asked = |ledger: &Ledger| Asked {
            peak,
            stays: Some(Stays {
                bytes: stays,
                spare: ledger.spare(bounds, stays, another).saturating_add(load.another.child),
            }),
        };
        let vacated = self.patiently(bounds.load_patience, || {
            self.admit(asked, |ledger| {
                ledger.loading += peak;
                let vacated = ledger.vacated.min(stays);
                ledger.vacated -= vacated;
                vacated
            })
        })?;
        Ok(Loading {
            budget: self.clone(),
            peak,
            stays,
            vacated,
        })
    }

    fn preparation(&self, peak: u64) -> Loading {
        Loading {
            budget: self.clone(),
            peak,
            stays: 0,
            vacated: 0,
        }
    }

    fn admit_preparation(&self, peak: u64, weights: u64) -> Result<(), NoRoom> {
        let margin = self.shared.bounds.margin();
        let asked = |ledger: &Ledger| Asked {
            // A little more than it takes, unless it comes in the place of another: that little may have gone meanwhile.
            peak: if ledger.vacated < weights / 2 {
                peak.saturating_add(margin)
            } else {
                peak
            },
            stays: None,
        };
        self.admit(asked, |ledger| ledger.loading += peak)
    }

    /// Reserves what preparing a model of so many `weights` takes, as [`Self::load`] does.
    pub fn prepare(&self, peak: u64, weights: u64) -> Result<Loading, NoRoom> {
        self.patiently(self.shared.bounds.load_patience, || {
            self.admit_preparation(peak, weights)
        })?;
        Ok(self.preparation(peak))
    }

    /// As much of `most` bytes for a preparation as there is, but no less than `least`; says how much. Waits as
    /// [`Self::load`] does.
    pub fn prepare_up_to(&self, least: u64, most: u64) -> Result<(Loading, u64), NoRoom> {
        let peak = self.patiently(self.shared.bounds.load_patience, || {
            std::iter::successors(Some(most), |size| Some(size - size.div_ceil(4)))
                .take_while(|&size| size > least)
                .find(|&size| self.admit_preparation(size, 0).is_ok())
                .map_or_else(|| self.admit_preparation(least, 0).map(|()| least), Ok)
        })?;
        Ok((self.preparation(peak), peak))
    }

    /// Makes room for a file of so many bytes to be mapped, however much of it will be in memory.
    pub fn map_file(&self, bytes: u64) -> MappedFile {
        self.shared.data_bound.map(bytes)
    }

    /// Reserves the memory of a request, or says why not at once.
    pub fn request_now(&self, bytes: u64) -> Result<Working, NoRoom> {
        let mut working = Working {
            budget: self.clone(),
            bytes: 0,
        };
        working.grow(bytes)?;
        Ok(working)
    }

    /// Reserves the memory of a request. Waits a while for loads when only they are in the way: call it on a thread that may
    /// wait.
    pub fn request(&self, bytes: u64) -> Result<Working, NoRoom> {
        self.patiently(PATIENCE, || self.enter_request(bytes))?;
        Ok(Working {
            budget: self.clone(),
            bytes,
        })
    }

    fn enter_request(&self, bytes: u64) -> Result<(), NoRoom> {
        let mut ledger = self.ledger();
        let floor = ledger.floor(&self.shared.bounds);
        // Kept free for this, unless a preparation has it.
        if ledger.requests.saturating_add(bytes) <= floor && ledger.loading == 0 {
            ledger.requests += bytes;
            return Ok(());
        }
        drop(ledger);
        let asked = |_: &Ledger| Asked {
            peak: bytes,
            stays: None,
        };
        self.admit(asked, |ledger| ledger.requests += bytes)
    }

    pub fn reserved(&self) -> Reserved {
        let ledger = self.ledger();
        Reserved {
            models: ledger.loaded + ledger.loading,
            mapped: ledger.mapped,
            requests: ledger.requests,
            limit: self.limit(),
        }
    }

    /// Bytes for everything that is not the process itself.
    pub fn for_models(&self) -> u64 {
        self.limit()
            .saturating_sub(self.shared.base)
            .saturating_sub(self.shared.bounds.reserve)
    }

    fn limit(&self) -> u64 {
        self.shared.bounds.limit.as_ref().map_or(u64::MAX, |limit| limit.bytes)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while the ledger is locked, and every state of it is a valid one.
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a load is expected to take at its peak, before anything is known but the file.
///
/// The factors are measured with ONNX Runtime 1.31 over models from 27 KB to 100 MB: loading a model from ONNX takes up to
/// three times its file, tree ensembles 5.3 times.
pub fn load_estimate(weights: u64, has_trees: bool) -> u64 {
    const FIXED: u64 = 100 << 10;
    percent(weights, if has_trees { 530 } else { 300 }).saturating_add(FIXED)
}
