//! The memory budget: admits loads and requests before they touch memory.
//!
//! Asking the kernel alone answers too late: two concurrent loads that each fit would both pass,
//! and together they would be killed. A ledger alone drifts, because allocators round up and other
//! processes share the limit. So the budget uses both. A load, a model or a request holds a
//! reservation from before it touches memory until that memory is free again. Far from the limit,
//! the reservations alone decide. Near the limit, admission adds what is in use to what is promised
//! but not in use yet: loads in progress and the headroom of loaded models.
//!
//! Admission keeps headroom for two things: running requests, and preparing and loading a
//! replacement of the same size, which takes more than the model itself. A model that replaces an
//! unloaded one may use half of that headroom, because the allocator does not return every byte of
//! the old model.
//!
//! Invariants:
//! - An admitted reservation was within the limit when it was admitted.
//! - A refused reservation leaves nothing behind.
//! - A refused model fits once a model of the same size is unloaded (MM-18).
//! - The ledger's lock is held to move numbers, never while the system is asked.

mod admission;
pub(in crate::engine) mod allocator;
mod data_bound;
mod forecast;
mod ledger;
mod limits;
mod position;
mod reservation;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ledger::{MemoryLedger, percent};
use position::{ReservationRequest, ResidentMemory};

pub use data_bound::{DataLimit, MappedFile, limit_data, mapped_data};
pub use forecast::{ForecastConfig, ForecastLoad, MemoryForecast, ModelCost};
pub use limits::{MemoryLimit, MemoryUsage, private_memory_of, raise_open_files, resident_anonymous, system_limit};
pub use reservation::{LoadReservation, ModelReservation, RequestMemory};

/// Error of a reservation that does not fit.
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

/// The configuration of a [`Budget`].
#[derive(Debug, Clone)]
pub struct BudgetConfig {
    /// Bytes for the whole process, and where to read how much is used; `None` for no limit.
    pub limit: Option<MemoryLimit>,
    /// Bytes of headroom for requests, whatever is loaded.
    pub reserve: u64,
    /// Percent of mapped weights that must fit into memory. The system can drop and reread the
    /// rest, but runs then wait for the disk.
    pub mapped_percent: u64,
    /// Maximum number of concurrent runs.
    pub runs: u64,
    /// Time that a load that does not fit waits for loads in progress, which may turn out to need
    /// less than they reserved.
    pub load_patience: Duration,
}

impl BudgetConfig {
    /// Bytes that no reservation may use.
    fn margin(&self) -> u64 {
        self.reserve / 4
    }
}

/// The memory budget. Clones share one ledger.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<SharedBudget>,
}

struct SharedBudget {
    config: BudgetConfig,
    data_bound: Arc<DataLimit>,
    /// Bytes that the process used before it loaded a model.
    base: u64,
    ledger: Mutex<MemoryLedger>,
    /// Notified when a load ends, successfully or not, and when a model is unloaded.
    settled: Condvar,
    /// Frees memory that models can do without ([`Budget::free_first`]).
    spare: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl fmt::Debug for SharedBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBudget")
            .field("config", &self.config)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

/// Memory of a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Private bytes of this process.
    pub private: u64,
    /// Bytes of weights that are mapped from a file.
    pub mapped: u64,
    /// Bytes that a run needs.
    pub workspace: u64,
}

/// A request to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadRequest {
    /// Peak of private bytes during the load.
    pub peak: u64,
    /// Private bytes that the model is expected to keep.
    pub private: u64,
    /// Bytes of weights that the load will map.
    pub mapped: u64,
    /// The replacement that must still fit afterwards.
    pub replacement: Replacement,
}

/// Cost of loading an unknown model of the same kind after this one is unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replacement {
    /// Peak bytes of the load.
    pub peak: u64,
    /// Additional bytes of the child process that prepares the replacement.
    pub child: u64,
}

/// The numbers of a load that admission compares with the limit.
#[derive(Debug, Clone, Copy)]
struct LoadNeeds {
    /// Peak of the load.
    peak: u64,
    /// Bytes that are expected to stay.
    resident: u64,
    /// Bytes that loading a replacement would need in addition.
    replacement: u64,
    /// Bytes of the child process that prepares the replacement.
    child: u64,
}

impl LoadRequest {
    fn needs(&self, config: &BudgetConfig, limit: u64) -> LoadNeeds {
        let mapped = percent(self.mapped, config.mapped_percent);
        let resident = self.private.saturating_add(mapped);
        let replacement = self.replacement.peak.saturating_sub(resident);
        LoadNeeds {
            peak: resident.max(self.peak.saturating_add(mapped)),
            resident,
            // With large models, few fit; headroom for a multiple of one would waste memory.
            replacement: replacement.min(limit / REPLACEMENT_DIVISOR),
            child: self.replacement.child,
        }
    }
}

impl LoadNeeds {
    fn request(&self, config: &BudgetConfig, ledger: &MemoryLedger) -> ReservationRequest {
        let headroom = ledger.headroom(config, self.resident, self.replacement);
        ReservationRequest {
            peak: self.peak,
            resident: Some(ResidentMemory {
                bytes: self.resident,
                headroom: headroom.saturating_add(self.child),
            }),
        }
    }
}

/// Current state of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// Bytes of loaded models and of loads in progress.
    pub models: u64,
    /// Bytes of mapped weights; not part of `models`.
    pub mapped: u64,
    pub requests: u64,
    /// Bytes; `u64::MAX` when there is no limit.
    pub limit: u64,
}

/// The headroom for a replacement is at most the limit divided by this.
const REPLACEMENT_DIVISOR: u64 = 24;

/// Time that a request waits for loads in progress, like [`BudgetConfig::load_patience`] for loads.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

impl Budget {
    /// Creates an empty budget for a process that uses `base` bytes before it loads a model.
    pub fn new(config: BudgetConfig, data_bound: DataLimit, base: u64) -> Self {
        Self {
            shared: Arc::new(SharedBudget {
                config,
                data_bound: Arc::new(data_bound),
                base,
                ledger: Mutex::default(),
                settled: Condvar::new(),
                spare: OnceLock::new(),
            }),
        }
    }

    /// Has `free` called before a load is refused. It frees memory that models can do without, and
    /// returns whether there was any. Only the first call has an effect.
    pub fn free_first(&self, free: impl Fn() -> bool + Send + Sync + 'static) {
        // A second value is dropped.
        let _ = self.shared.spare.set(Box::new(free));
    }

    /// Reserves the memory of a load. Waits a while if only loads in progress are in the way: call
    /// it on a thread for loads.
    pub fn load(&self, load: &LoadRequest) -> Result<LoadReservation, NoRoom> {
        self.make_room(self.shared.config.load_patience, || self.load_now(load))
    }

    /// Reserves the memory of a load without waiting.
    pub fn load_now(&self, load: &LoadRequest) -> Result<LoadReservation, NoRoom> {
        let config = &self.shared.config;
        let needs = load.needs(config, self.limit());
        let LoadNeeds { peak, resident, .. } = needs;
        let request = |ledger: &MemoryLedger| needs.request(config, ledger);
        let released = self.admit(request, |ledger| ledger.begin_load(&needs))?;
        Ok(LoadReservation {
            budget: self.clone(),
            peak,
            resident,
            released,
        })
    }

    fn preparation(&self, peak: u64) -> LoadReservation {
        LoadReservation {
            budget: self.clone(),
            peak,
            resident: 0,
            released: 0,
        }
    }

    fn admit_preparation(&self, peak: u64, weights: u64) -> Result<(), NoRoom> {
        let config = &self.shared.config;
        let request = |ledger: &MemoryLedger| ledger.preparation(config, peak, weights);
        self.admit(request, |ledger| ledger.loading += peak)
    }

    /// Reserves the memory to prepare a model of `weights` bytes. Waits as [`Self::load`] does.
    pub fn prepare(&self, peak: u64, weights: u64) -> Result<LoadReservation, NoRoom> {
        self.make_room(self.shared.config.load_patience, || {
            self.admit_preparation(peak, weights)
        })?;
        Ok(self.preparation(peak))
    }

    /// Reserves as much as possible for a preparation, between `least` and `most` bytes, and
    /// returns the number of bytes. Waits as [`Self::load`] does.
    pub fn prepare_up_to(&self, least: u64, most: u64) -> Result<(LoadReservation, u64), NoRoom> {
        let peak = self.make_room(self.shared.config.load_patience, || {
            std::iter::successors(Some(most), |size| Some(size - size.div_ceil(4)))
                .take_while(|&size| size > least)
                .find(|&size| self.admit_preparation(size, 0).is_ok())
                .map_or_else(|| self.admit_preparation(least, 0).map(|()| least), Ok)
        })?;
        Ok((self.preparation(peak), peak))
    }

    /// Raises the process's data limit for a mapped file of `bytes` bytes, however much of it will
    /// be resident.
    pub fn map_file(&self, bytes: u64) -> MappedFile {
        self.shared.data_bound.map(bytes)
    }

    /// Reserves the memory of a request without waiting.
    pub fn request_now(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        let mut working = RequestMemory {
            budget: self.clone(),
            bytes: 0,
        };
        working.grow(bytes)?;
        Ok(working)
    }

    /// Reserves the memory of a request. Waits a while if only loads in progress are in the way:
    /// call it on a thread that may block.
    pub fn request(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.wait_for_memory(REQUEST_WAIT, || self.enter_request(bytes))?;
        Ok(RequestMemory {
            budget: self.clone(),
            bytes,
        })
    }

    fn enter_request(&self, bytes: u64) -> Result<(), NoRoom> {
        let mut ledger = self.ledger();
        let request_headroom = ledger.request_headroom(&self.shared.config);
        // The headroom is kept for this case, unless a preparation uses it.
        if ledger.requests.saturating_add(bytes) <= request_headroom && ledger.loading == 0 {
            ledger.requests += bytes;
            return Ok(());
        }
        drop(ledger);
        let request = |_: &MemoryLedger| ReservationRequest {
            peak: bytes,
            resident: None,
        };
        self.admit(request, |ledger| ledger.requests += bytes)
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

    /// Bytes of the limit that models may still take: neither in use nor promised, nor kept free
    /// for requests. `None` without a limit. Asks the system what is in use.
    pub fn free(&self) -> Option<u64> {
        let limit = self.shared.config.limit.as_ref()?;
        let used = limit.usage.now();
        let ledger = self.ledger();
        let headroom = ledger.request_headroom(&self.shared.config);
        let request = ReservationRequest {
            peak: 0,
            resident: Some(ResidentMemory {
                bytes: 0,
                headroom: headroom.saturating_sub(ledger.requests),
            }),
        };
        Some(self.position(&ledger, limit.bytes, request).free(used))
    }

    /// Bytes for models: the limit without the process's base and the request headroom.
    pub fn for_models(&self) -> u64 {
        self.limit()
            .saturating_sub(self.shared.base)
            .saturating_sub(self.shared.config.reserve)
    }

    fn limit(&self) -> u64 {
        self.shared.config.limit.as_ref().map_or(u64::MAX, |limit| limit.bytes)
    }

    fn ledger(&self) -> MutexGuard<'_, MemoryLedger> {
        // Nothing panics while the ledger is locked, and every state of it is valid.
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Estimates the peak of a load when only the file is known.
///
/// The factors were measured with ONNX Runtime 1.31 over models from 27 KB to 100 MB: loading a
/// model from ONNX takes up to three times its file, tree ensembles 5.3 times.
pub fn load_estimate(weights: u64, has_trees: bool) -> u64 {
    const FIXED: u64 = 100 << 10;
    percent(weights, if has_trees { 530 } else { 300 }).saturating_add(FIXED)
}
