//! Which models are in use, told to the journal now and then: after a restart those are loaded
//! again first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Catalog, Entry};

/// Time between two reports. What was used since the last one is not known after a crash.
const INTERVAL: Duration = Duration::from_secs(1);

/// The entries that requests have used since the last report, each once.
#[derive(Debug, Default)]
pub(super) struct Lately(
    /// Locked by the first request to a model after a report, and by the report.
    Mutex<Vec<Arc<Entry>>>,
);

impl Lately {
    pub(super) fn note(&self, entry: &Arc<Entry>) {
        if entry.note_use() {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push(Arc::clone(entry));
        }
    }

    /// The contents that were used, and begins another report.
    fn take(&self) -> Vec<u64> {
        let entries = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for entry in &entries {
            entry.forget_use();
        }
        let mut contents: Vec<u64> = entries.iter().map(|entry| entry.content.short()).collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }
}

impl Catalog {
    /// Reports which models are in use, again and again. Does not end, unless there is no journal.
    pub async fn report_use(self: Arc<Self>) {
        let Some(journal) = &self.settings.journal else { return };
        loop {
            tokio::time::sleep(INTERVAL).await;
            let contents = self.lately.take();
            if !contents.is_empty() {
                journal.used(&contents);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Record, Slot};
    use crate::engine::ContentHash;

    fn entry(digit: char) -> Arc<Entry> {
        let record = Record {
            name: digit.to_string(),
            url: String::new(),
            target_model: None,
            content: ContentHash::parse(&digit.to_string().repeat(64)).unwrap(),
            manifest: None,
        };
        Entry::new(record, Slot::Restored, None)
    }

    #[test]
    fn a_report_names_each_content_that_was_used_since_the_last_one_once() {
        let (lately, one, other, same) = (Lately::default(), entry('1'), entry('2'), entry('1'));
        assert_eq!(lately.take(), [0u64; 0]);
        for entry in [&one, &other, &one, &same] {
            lately.note(entry);
        }
        let mut expected = [one.content.short(), other.content.short()];
        expected.sort_unstable();
        assert_eq!(lately.take(), expected);
        assert_eq!(lately.take(), [0u64; 0]);
        lately.note(&other);
        assert_eq!(lately.take(), [other.content.short()]);
    }
}
