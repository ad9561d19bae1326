//! What is held of the budget: by a load, by a loaded model, by a request. Each gives back on drop what it holds.

use super::ledger::Ledger;
use super::position::{Asked, Stays};
use super::{Budget, Footprint, NoRoom};

/// A load under way; given back on drop.
#[derive(Debug)]
pub struct Loading {
    pub(super) budget: Budget,
    pub(super) peak: u64,
    /// Bytes that were expected to stay.
    pub(super) stays: u64,
    /// Bytes that others had vacated for it.
    pub(super) vacated: u64,
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

impl Drop for Loading {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        ledger.loading -= self.peak;
        ledger.vacated += self.vacated;
        ledger.epoch += 1;
        ledger.ends += 1;
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
        self.footprint.total(&self.budget.shared.bounds)
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
        ledger.ends += 1;
        drop(ledger);
        self.budget.shared.settled.notify_all();
    }
}

/// What a request takes; given back on drop.
#[derive(Debug)]
pub struct Working {
    pub(super) budget: Budget,
    pub(super) bytes: u64,
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
