//! The models of a fleet and what they cost.

use super::times::Times;
use crate::engine::ModelCost;

/// The models of a fleet. Names with the same content share one session on a server.
#[derive(Debug, Clone)]
pub struct FleetModels {
    /// For each name, the number of its content.
    pub contents: Vec<u32>,
    pub costs: Vec<ContentCost>,
    /// Bytes that the contents of a family have in common, once for each server.
    pub families: Vec<u64>,
    pub times: ModelTimes,
}

/// The cost of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentCost {
    /// Its memory without what its family shares.
    pub memory: ModelCost,
    /// Bytes on a server's disk: the files from the store.
    pub disk: u64,
    /// The number of its family, if it has relatives.
    pub family: Option<u32>,
}

/// The durations of what a server does with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTimes {
    /// Download and preparation of a model that a server has never had.
    pub first: Times,
    /// Load of a model whose prepared form is on disk.
    pub load: Times,
    /// A run, with the work around it.
    pub run: Times,
}

impl FleetModels {
    /// `names` equal models with a content each.
    pub fn equal(names: usize, cost: ContentCost, times: ModelTimes) -> Self {
        Self {
            contents: (0..).take(names).collect(),
            costs: vec![cost; names],
            families: Vec::new(),
            times,
        }
    }

    pub fn names(&self) -> usize {
        self.contents.len()
    }

    pub fn cost(&self, name: u32) -> &ContentCost {
        &self.costs[self.contents[name as usize] as usize]
    }
}
