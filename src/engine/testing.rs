//! Parts of an engine, for the tests of other layers.

use std::time::Duration;

use super::memory::{BudgetConfig, DataLimit, MemoryLimit, MemoryUsage};

pub use super::memory::{Budget, LoadRequest};

/// A budget that admits everything, and counts it.
pub fn budget() -> Budget {
    limited(None)
}

/// A budget of `bytes` bytes.
pub fn budget_of(bytes: u64) -> Budget {
    limited(Some(MemoryLimit {
        bytes,
        usage: MemoryUsage::Group2("nowhere".into()),
    }))
}

fn limited(limit: Option<MemoryLimit>) -> Budget {
    let config = BudgetConfig {
        limit,
        reserve: 0,
        mapped_percent: 100,
        load_patience: Duration::ZERO,
        runs: 1,
    };
    Budget::new(config, DataLimit::new(None).unwrap(), 0)
}
