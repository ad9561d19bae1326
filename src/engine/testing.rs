//! Parts of an engine, for the tests of other layers.

use std::time::Duration;

use super::memory::{BudgetConfig, DataLimit};

pub use super::memory::{Budget, LoadRequest};

/// A budget that admits everything, and counts it.
pub fn budget() -> Budget {
    let config = BudgetConfig {
        limit: None,
        reserve: 0,
        mapped_percent: 100,
        load_patience: Duration::ZERO,
        runs: 1,
    };
    Budget::new(config, DataLimit::new(None).unwrap(), 0)
}
