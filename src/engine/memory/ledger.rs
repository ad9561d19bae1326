//! The sums in the ledger, and what follows from them alone. Numbers only: whoever changes them holds the lock.

use std::collections::BTreeMap;

use super::{Bounds, Footprint};

/// Bytes, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Sessions that exist.
    pub(super) loaded: u64,
    /// Loads under way, at their peak.
    pub(super) loading: u64,
    /// Mapped weights of sessions that exist.
    pub(super) mapped: u64,
    /// Requests under way beyond what every thread may take.
    pub(super) requests: u64,
    /// Bytes of models that were unloaded, less those of models that have been loaded since.
    pub(super) vacated: u64,
    /// Working memories of one run of the models that are loaded, with how many models have it.
    pub(super) workspaces: BTreeMap<u64, u64>,
    /// Raised whenever something above grows or moves: whoever has looked at the system before then has to look again. Not by
    /// requests within what is kept free for them, which come at any rate: looking would never end.
    pub(super) epoch: u64,
    /// Loads that have ended and models that were unloaded: whoever was refused before may find room now.
    pub(super) ends: u64,
}

impl Ledger {
    /// What all of it comes to.
    pub(super) fn planned(&self, bounds: &Bounds) -> u64 {
        self.loaded
            .saturating_add(self.loading)
            .saturating_add(self.mapped_charge(bounds))
            .saturating_add(self.requests)
    }

    pub(super) fn mapped_charge(&self, bounds: &Bounds) -> u64 {
        percent(self.mapped, bounds.mapped_percent)
    }

    /// What requests are to find: the largest run, on every thread that may run one.
    pub(super) fn floor(&self, bounds: &Bounds) -> u64 {
        let largest = self.workspaces.last_key_value().map_or(0, |(&bytes, _)| bytes);
        bounds.reserve.max(largest.saturating_mul(bounds.runs))
    }

    /// What has to be free beside a model of `bytes` when coming by another of its kind takes `another` bytes more.
    pub(super) fn spare(&self, bounds: &Bounds, bytes: u64, another: u64) -> u64 {
        let floor = self.floor(bounds).saturating_sub(self.requests).max(another);
        // No two are measured to the byte.
        let is_in_place_of_another = self.vacated >= bytes - bytes / 64;
        if is_in_place_of_another { floor / 2 } else { floor }
    }

    pub(super) fn add_workspace(&mut self, bytes: u64) {
        *self.workspaces.entry(bytes).or_default() += 1;
    }

    pub(super) fn remove_workspace(&mut self, bytes: u64) {
        if let Some(count) = self.workspaces.get_mut(&bytes) {
            *count -= 1;
            if *count == 0 {
                self.workspaces.remove(&bytes);
            }
        }
    }
}

impl Footprint {
    /// What it comes to beside other models.
    pub(super) fn total(&self, bounds: &Bounds) -> u64 {
        self.private.saturating_add(percent(self.mapped, bounds.mapped_percent))
    }
}

pub(super) fn percent(bytes: u64, percent: u64) -> u64 {
    (bytes / 100).saturating_mul(percent)
}
