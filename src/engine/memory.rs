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

mod limits;
mod position;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::allocator;

use position::{Asked, Decision, Position, Stays};

pub use limits::{DataBound, Limit, MappedFile, Usage, bound_data, raise_open_files, resident_anonymous, system_limit};

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

/// Bytes, by what they are for.
#[derive(Debug, Default)]
struct Ledger {
    /// Sessions that exist.
    loaded: u64,
    /// Loads under way, at their peak.
    loading: u64,
    /// Mapped weights of sessions that exist.
    mapped: u64,
    /// Requests under way beyond what every thread may take.
    requests: u64,
    /// Bytes of models that were unloaded, less those of models that have been loaded since.
    vacated: u64,
    /// Working memories of one run of the models that are loaded, with how many models have it.
    workspaces: BTreeMap<u64, u64>,
    /// Raised whenever something above grows or moves: whoever has looked at the system before then has to look again.
    epoch: u64,
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

impl Ledger {
    /// What all of it comes to.
    fn planned(&self, bounds: &Bounds) -> u64 {
        self.loaded
            .saturating_add(self.loading)
            .saturating_add(self.mapped_charge(bounds))
            .saturating_add(self.requests)
    }

    fn mapped_charge(&self, bounds: &Bounds) -> u64 {
        percent(self.mapped, bounds.mapped_percent)
    }

    /// What requests are to find: the largest run, on every thread that may run one.
    fn floor(&self, bounds: &Bounds) -> u64 {
        let largest = self.workspaces.last_key_value().map_or(0, |(&bytes, _)| bytes);
        bounds.reserve.max(largest.saturating_mul(bounds.runs))
    }

    /// What has to be free beside a model of `bytes` when coming by another of its kind takes `another` bytes more.
    fn spare(&self, bounds: &Bounds, bytes: u64, another: u64) -> u64 {
        let floor = self.floor(bounds).saturating_sub(self.requests).max(another);
        // No two are measured to the byte.
        let is_in_place_of_another = self.vacated >= bytes - bytes / 64;
        if is_in_place_of_another { floor / 2 } else { floor }
    }

    fn add_workspace(&mut self, bytes: u64) {
        *self.workspaces.entry(bytes).or_default() += 1;
    }

    fn remove_workspace(&mut self, bytes: u64) {
        if let Some(count) = self.workspaces.get_mut(&bytes) {
            *count -= 1;
            if *count == 0 {
                self.workspaces.remove(&bytes);
            }
        }
    }
}

fn percent(bytes: u64, percent: u64) -> u64 {
    (bytes / 100).saturating_mul(percent)
}

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

    /// Tries `admit` until nothing is in the way that will be out of it by itself, or too long.
    fn patiently<T>(&self, patience: Duration, admit: impl Fn() -> Result<T, NoRoom>) -> Result<T, NoRoom> {
        let deadline = Instant::now() + patience;
        loop {
            let refused = match admit() {
                Ok(admitted) => return Ok(admitted),
                Err(refused) => refused,
            };
            let ledger = self.ledger();
            let left = deadline.saturating_duration_since(Instant::now());
            if ledger.loading == 0 || left.is_zero() {
                return Err(refused);
            }
            let epoch = ledger.epoch;
            let unchanged = |ledger: &mut Ledger| ledger.epoch == epoch;
            drop(
                self.shared
                    .settled
                    .wait_timeout_while(ledger, left, unchanged)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
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

    /// Does `enter` when what is asked for, which depends on where the ledger stands, fits.
    fn admit<T>(&self, asked: impl Fn(&Ledger) -> Asked, enter: impl Fn(&mut Ledger) -> T) -> Result<T, NoRoom> {
        let Some(limit) = &self.shared.bounds.limit else {
            return Ok(enter(&mut self.ledger()));
        };
        let mut seen: Option<(u64, Option<u64>)> = None;
        let mut purged = false;
        loop {
            let mut ledger = self.ledger();
            let position = self.position(&ledger, limit.bytes, asked(&ledger));
            let decision = match (position.decide(), seen) {
                (Decision::Admit, _) => Ok(()),
                (Decision::Look, Some((epoch, used))) if epoch == ledger.epoch => match used {
                    Some(used) => position.decide_by(used),
                    None => position.decide_blindly(),
                },
                (Decision::Look, _) => {
                    let epoch = ledger.epoch;
                    drop(ledger);
                    seen = Some((epoch, limit.usage.now()));
                    continue;
                }
            };
            match decision {
                Ok(()) => {
                    ledger.epoch += 1;
                    return Ok(enter(&mut ledger));
                }
                Err(refused) if purged => return Err(refused),
                Err(_) => {
                    // Freed memory that the allocator still holds is no reason to refuse.
                    drop(ledger);
                    allocator::give_back();
                    purged = true;
                    seen = None;
                }
            }
        }
    }

    fn position(&self, ledger: &Ledger, limit: u64, asked: Asked) -> Position {
        let bounds = &self.shared.bounds;
        Position {
            limit,
            base: self.shared.base,
            planned: ledger.planned(bounds),
            loaded: ledger.loaded,
            promised: ledger.loading.saturating_add(ledger.mapped_charge(bounds)),
            margin: bounds.margin(),
            asked,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while the ledger is locked, and every state of it is a valid one.
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load under way; given back on drop.
#[derive(Debug)]
pub struct Loading {
    budget: Budget,
    peak: u64,
    /// Bytes that were expected to stay.
    stays: u64,
    /// Bytes that others had vacated for it.
    vacated: u64,
}

impl Loading {
    /// The load has ended with a model that takes `footprint`. When that turns out not to fit beside the others, the caller
    /// is told to give the model up; the reservation tells the truth until then.
    pub fn settle(mut self, footprint: Footprint) -> Result<Loaded, (NoRoom, Loaded)> {
        let budget = self.budget.clone();
        let bounds = &budget.shared.bounds;
        let (reserved, expected) = (std::mem::take(&mut self.peak), self.stays);
        let vacated = std::mem::take(&mut self.vacated);
        let taken = footprint.total(bounds);
        let mut ledger = budget.ledger();
        ledger.loading -= reserved;
        ledger.loaded += footprint.private;
        ledger.mapped += footprint.mapped;
        ledger.add_workspace(footprint.workspace);
        ledger.epoch += 1;
        drop(ledger);
        // Tells those who wait, too.
        drop(self);
        let mut loaded = Loaded {
            budget: budget.clone(),
            footprint,
            vacates: taken,
        };
        if taken <= expected {
            return Ok(loaded);
        }
        // It is there already: as one that came in the place of itself.
        let asked = |ledger: &Ledger| Asked {
            peak: 0,
            stays: Some(Stays {
                bytes: 0,
                spare: ledger.spare(bounds, 0, 0),
            }),
        };
        match budget.admit(asked, |_| ()) {
            Ok(()) => Ok(loaded),
            Err(refused) => {
                // It leaves what it has found.
                loaded.vacates = vacated;
                let needed = taken;
                Err((NoRoom { needed, ..refused }, loaded))
            }
        }
    }
}

impl Footprint {
    /// What it comes to beside other models.
    fn total(&self, bounds: &Bounds) -> u64 {
        self.private.saturating_add(percent(self.mapped, bounds.mapped_percent))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.loading -= self.peak;
        ledger.vacated += self.vacated;
        ledger.epoch += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// What a loaded model takes; given back on drop, so it is dropped after the model.
#[derive(Debug)]
pub struct Loaded {
    budget: Budget,
    footprint: Footprint,
    /// Bytes that the next model will find vacated.
    vacates: u64,
}

impl Loaded {
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// What it counts for against the limit.
    pub fn charge(&self) -> u64 {
        let mapped = percent(self.footprint.mapped, self.budget.shared.bounds.mapped_percent);
        self.footprint.private.saturating_add(mapped)
    }

    /// Reserves the memory of a request to the model.
    pub fn request(&self, bytes: u64) -> Result<Working, NoRoom> {
        self.budget.request(bytes)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.loaded -= self.footprint.private;
        ledger.mapped -= self.footprint.mapped;
        ledger.remove_workspace(self.footprint.workspace);
        ledger.vacated = ledger.vacated.saturating_add(self.vacates);
        ledger.epoch += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// What a request takes; given back on drop.
#[derive(Debug)]
pub struct Working {
    budget: Budget,
    bytes: u64,
}

impl Working {
    /// Takes `more` bytes.
    pub fn grow(&mut self, more: u64) -> Result<(), NoRoom> {
        self.budget.enter_request(more)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.budget.ledger().requests -= self.bytes;
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
