//! The present state of the server, which other parts know and the metrics only show.

use super::ListedModel;

/// The present state of the server, as other parts know it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// All listed models.
    pub models: Vec<ListedModel>,
    /// Requests that run on the compute threads, and requests that wait for them.
    pub running: u64,
    pub waiting: u64,
    /// Number of compute threads.
    pub threads: u64,
    pub stuck_runs: u64,
    pub stuck_models: u64,
    /// Runs that were stuck so far.
    pub stuck_total: u64,
    /// Bytes of the memory ledger; `limit` is `None` without a limit.
    pub reserved: u64,
    pub mapped: u64,
    pub requests: u64,
    pub limit: Option<u64>,
    /// Bytes of the limit that models may still take.
    pub free: Option<u64>,
    /// Private bytes of the process.
    pub process: u64,
    pub shared_constants: u64,
    pub shared_bytes: u64,
    pub shared_saved: u64,
    /// Number and bytes of the unpacked models of a store.
    pub archives: Option<(u64, u64)>,
    /// Bytes of prepared models on disk.
    pub prepared: Option<u64>,
}

impl Facts {
    /// The share of the memory limit that models cannot take any more.
    pub fn used_memory(&self) -> Option<f64> {
        let limit = self.limit.filter(|&limit| limit > 0)?;
        Some(1.0 - self.free? as f64 / limit as f64)
    }
}
