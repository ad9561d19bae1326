//! Reservations of a load, of a loaded model and of a request. Each is released on drop.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ledger::MemoryLedger;
use super::position::{ReservationRequest, ResidentMemory};
use super::{Budget, Footprint, NoRoom};

/// Reservation of a load in progress; released on drop.
#[derive(Debug)]
pub struct LoadReservation {
    pub(super) budget: Budget,
    pub(super) peak: u64,
    /// Bytes that were expected to stay.
    pub(super) resident: u64,
    /// Released bytes that this load uses.
    pub(super) released: u64,
}

impl LoadReservation {
    /// Converts the reservation when the load has produced a model with this `footprint`. If the
    /// model does not fit after all, the caller has to drop it; the returned reservation covers it
    /// until then.
    pub fn settle(mut self, footprint: Footprint) -> Result<ModelReservation, (NoRoom, ModelReservation)> {
        let budget = self.budget.clone();
        let config = &budget.shared.config;
        let (reserved, expected) = (std::mem::take(&mut self.peak), self.resident);
        let released = std::mem::take(&mut self.released);
        let taken = footprint.total(config);
        let mut ledger = budget.ledger();
        ledger.settle(reserved, footprint);
        ledger.epoch += 1;
        drop(ledger);
        // Also notifies waiting loads and requests.
        drop(self);
        let mut loaded = ModelReservation {
            budget: budget.clone(),
            footprint,
            releases: AtomicU64::new(taken),
        };
        if taken <= expected {
            return Ok(loaded);
        }
        // The model exists already, so the check treats it as its own replacement.
        let request = |ledger: &MemoryLedger| ReservationRequest {
            peak: 0,
            resident: Some(ResidentMemory {
                bytes: 0,
                headroom: ledger.headroom(config, 0, 0),
            }),
        };
        match budget.admit(request, |_| ()) {
            Ok(()) => Ok(loaded),
            Err(refused) => {
                // Leave as many released bytes as the load found.
                *loaded.releases.get_mut() = released;
                let needed = taken;
                Err((NoRoom { needed, ..refused }, loaded))
            }
        }
    }
}

impl Drop for LoadReservation {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.loading -= self.peak;
        ledger.released += self.released;
        ledger.epoch += 1;
        ledger.ends += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// Reservation of a loaded model. Released on drop, so drop it after the model.
#[derive(Debug)]
pub struct ModelReservation {
    budget: Budget,
    footprint: Footprint,
    /// Bytes that this model leaves for its replacement. Atomic, because models share their
    /// reservation.
    releases: AtomicU64,
}

impl ModelReservation {
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Bytes that count against the limit.
    pub fn charge(&self) -> u64 {
        self.footprint.total(&self.budget.shared.config)
    }

    /// Moves `part` of the reservation, or what there is of it, to another one.
    pub fn split_off(&mut self, part: Footprint) -> Self {
        let part = Footprint {
            private: part.private.min(self.footprint.private),
            mapped: part.mapped.min(self.footprint.mapped),
            workspace: 0,
        };
        self.footprint.private -= part.private;
        self.footprint.mapped -= part.mapped;
        let releases = part.total(&self.budget.shared.config).min(*self.releases.get_mut());
        *self.releases.get_mut() -= releases;
        // The drop of the part removes its workspace of 0 bytes.
        self.budget.ledger().add_workspace(0);
        Self {
            budget: self.budget.clone(),
            footprint: part,
            releases: AtomicU64::new(releases),
        }
    }

    /// Leaves no memory for a replacement, because the replacement is loaded already.
    pub fn leave_nothing(&self) {
        self.releases.store(0, Ordering::Relaxed);
    }

    /// Reserves the memory of a request to the model.
    pub fn request(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.budget.request(bytes)
    }
}

impl Drop for ModelReservation {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.release(self.footprint, self.releases.load(Ordering::Relaxed));
        ledger.epoch += 1;
        ledger.ends += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// Reservation of a request; released on drop.
#[derive(Debug)]
pub struct RequestMemory {
    pub(super) budget: Budget,
    pub(super) bytes: u64,
}

impl RequestMemory {
    /// Reserves `more` bytes.
    pub fn grow(&mut self, more: u64) -> Result<(), NoRoom> {
        self.budget.enter_request(more)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for RequestMemory {
    fn drop(&mut self) {
        self.budget.ledger().requests -= self.bytes;
    }
}
