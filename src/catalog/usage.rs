//! Reports to the journal which models are in use, so that a restart restores these first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::model_engine::{LoadedModel, ModelEngine};
use super::{Catalog, CatalogEntry};

/// Time between two reports. A crash loses the use since the last one.
const INTERVAL: Duration = Duration::from_secs(1);

/// Entries that requests have used since the last report, without duplicates.
#[derive(Debug)]
pub(super) struct RecentUse<M>(
    /// Locked only by the first request to a model after a report, and by the report.
    Mutex<Vec<Arc<CatalogEntry<M>>>>,
);

impl<M> Default for RecentUse<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M: LoadedModel> RecentUse<M> {
    pub(super) fn note(&self, entry: &Arc<CatalogEntry<M>>) {
        if entry.note_use() {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push(Arc::clone(entry));
        }
    }

    /// Takes the contents that were used, and starts the next report.
    pub(super) fn take(&self) -> Vec<u64> {
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

impl<E: ModelEngine> Catalog<E> {
    /// Reports periodically which models are in use. Runs forever, unless there is no journal.
    pub async fn report_use(self: Arc<Self>) {
        let Some(journal) = &self.settings.journal else { return };
        loop {
            tokio::time::sleep(INTERVAL).await;
            let contents = self.recent_use.take();
            if !contents.is_empty() {
                journal.used(&contents);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ModelSlot, Record};
    use crate::engine::{ContentHash, Model};

    fn entry(digit: char) -> Arc<CatalogEntry<Model>> {
        let record = Record {
            name: digit.to_string(),
            url: String::new(),
            target_model: None,
            content: ContentHash::parse(&digit.to_string().repeat(64)).unwrap(),
            manifest: None,
        };
        CatalogEntry::new(record, ModelSlot::Restored, None, Arc::default())
    }

    #[test]
    fn a_report_lists_each_content_used_since_the_last_report_once() {
        let (recent_use, one, other, same) = (RecentUse::default(), entry('1'), entry('2'), entry('1'));
        assert_eq!(recent_use.take(), [0u64; 0]);
        for entry in [&one, &other, &one, &same] {
            recent_use.note(entry);
        }
        let mut expected = [one.content.short(), other.content.short()];
        expected.sort_unstable();
        assert_eq!(recent_use.take(), expected);
        assert_eq!(recent_use.take(), [0u64; 0]);
        recent_use.note(&other);
        assert_eq!(recent_use.take(), [other.content.short()]);
    }
}
