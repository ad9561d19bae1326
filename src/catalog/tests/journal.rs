//! A journal in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::catalog::{Journal, Record};

#[derive(Debug, Default)]
pub struct TestJournal(Mutex<JournalState>);

#[derive(Debug, Default)]
struct JournalState {
    /// `+name` for a load, `-name` for an unload.
    lines: Vec<String>,
    records: BTreeMap<String, Record>,
}

impl TestJournal {
    fn state(&self) -> MutexGuard<'_, JournalState> {
        self.0.lock().unwrap()
    }

    pub fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    pub fn clear_lines(&self) {
        self.state().lines.clear();
    }

    /// The names that a restarted server would list.
    pub fn names(&self) -> Vec<String> {
        self.state().records.keys().cloned().collect()
    }

    pub fn record(&self, name: &str) -> Option<Record> {
        self.state().records.get(name).cloned()
    }
}

impl Journal for TestJournal {
    fn loaded(&self, record: Record) {
        let mut state = self.state();
        state.lines.push(format!("+{}", record.name));
        state.records.insert(record.name.clone(), record);
    }

    fn unloaded(&self, name: &str) {
        let mut state = self.state();
        state.lines.push(format!("-{name}"));
        state.records.remove(name);
    }

    fn used(&self, _: &[u64]) {}
}
