//! The sums in the ledger and their arithmetic. Callers hold the budget's lock.

use std::collections::BTreeMap;

use super::position::{Position, ReservationRequest};
use super::{BudgetConfig, Footprint, LoadNeeds};

/// Reserved bytes, by purpose.
#[derive(Debug, Default)]
pub(super) struct MemoryLedger {
    /// Private bytes of existing sessions.
    pub(super) loaded: u64,
    /// Peaks of loads in progress.
    pub(super) loading: u64,
    /// Mapped weights of existing sessions.
    pub(super) mapped: u64,
    /// Bytes of requests in progress.
    pub(super) requests: u64,
    /// Bytes of unloaded models, minus those of models that have been loaded since.
    pub(super) released: u64,
    /// Bytes that one run needs, of each loaded model, with the number of models that need as
    /// many.
    pub(super) workspaces: BTreeMap<u64, u64>,
    /// Increases whenever a number above grows or moves; a reading of the system from an earlier
    /// epoch is out of date. Requests within their headroom do not increase it: they arrive at any
    /// rate, and admission would never get an up-to-date reading.
    pub(super) epoch: u64,
    /// Number of loads that have ended and models that were unloaded. A refused request may fit
    /// after it increases.
    pub(super) ends: u64,
}

impl MemoryLedger {
    /// Sum of all reservations.
    pub(super) fn planned(&self, config: &BudgetConfig) -> u64 {
        self.loaded
            .saturating_add(self.loading)
            .saturating_add(self.mapped_charge(config))
            .saturating_add(self.requests)
    }

    pub(super) fn mapped_charge(&self, config: &BudgetConfig) -> u64 {
        percent(self.mapped, config.mapped_percent)
    }

    /// Headroom for requests: the largest run on every thread that may run one.
    pub(super) fn request_headroom(&self, config: &BudgetConfig) -> u64 {
        let largest = self.workspaces.last_key_value().map_or(0, |(&bytes, _)| bytes);
        config.reserve.max(largest.saturating_mul(config.runs))
    }

    /// Bytes that must stay free next to a model of `bytes` bytes, when loading a replacement needs
    /// `replacement` bytes more.
    pub(super) fn headroom(&self, config: &BudgetConfig, bytes: u64, replacement: u64) -> u64 {
        let request_headroom = self
            .request_headroom(config)
            .saturating_sub(self.requests)
            .max(replacement);
        // Two models are never measured to the byte.
        let is_replacement = self.released >= bytes - bytes / 64;
        if is_replacement {
            request_headroom / 2
        } else {
            request_headroom
        }
    }

    /// The request to prepare a model of `weights` bytes with `peak` bytes.
    pub(super) fn preparation(&self, config: &BudgetConfig, peak: u64, weights: u64) -> ReservationRequest {
        ReservationRequest {
            // The margin covers memory that vanishes meanwhile; a replacement does not need it,
            // because a model of its size was just released.
            peak: if self.released < weights / 2 {
                peak.saturating_add(config.margin())
            } else {
                peak
            },
            resident: None,
        }
    }

    /// The inputs of the decision about `request`.
    pub(super) fn position(
        &self,
        config: &BudgetConfig,
        base: u64,
        limit: u64,
        request: ReservationRequest,
    ) -> Position {
        Position {
            limit,
            base,
            planned: self.planned(config),
            loaded: self.loaded,
            promised: self.loading.saturating_add(self.mapped_charge(config)),
            margin: config.margin(),
            request,
        }
    }

    /// Enters an admitted load. Returns the released bytes that it uses.
    pub(super) fn begin_load(&mut self, needs: &LoadNeeds) -> u64 {
        self.loading += needs.peak;
        let released = self.released.min(needs.resident);
        self.released -= released;
        released
    }

    /// Replaces the reservation of a load by that of its model.
    pub(super) fn settle(&mut self, reserved: u64, footprint: Footprint) {
        self.loading -= reserved;
        self.loaded += footprint.private;
        self.mapped += footprint.mapped;
        self.add_workspace(footprint.workspace);
    }

    /// Removes an unloaded model, which leaves `releases` bytes for its replacement.
    pub(super) fn release(&mut self, footprint: Footprint, releases: u64) {
        self.loaded -= footprint.private;
        self.mapped -= footprint.mapped;
        self.remove_workspace(footprint.workspace);
        self.released = self.released.saturating_add(releases);
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
    /// Bytes that count against the limit.
    pub(super) fn total(&self, config: &BudgetConfig) -> u64 {
        self.private.saturating_add(percent(self.mapped, config.mapped_percent))
    }
}

pub(super) fn percent(bytes: u64, percent: u64) -> u64 {
    (bytes / 100).saturating_mul(percent)
}
