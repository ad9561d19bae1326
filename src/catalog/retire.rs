//! The end of an entry: closed to requests, then free when its last handle is gone.
//!
//! | who holds the model | the unload |
//! |---|---|
//! | nobody | frees it and ends |
//! | requests | waits for them, for `unload_timeout` at most ([`CatalogError::StillBusy`]) |
//! | runs that are stuck, and nobody else | does not wait: a run that cannot be ended may take hours ([`CatalogError::StillHeld`]) |
//!
//! What always holds: a closed entry's model is freed when its last handle is gone, by the unload
//! that waits for it or by a task that goes on after that unload; its memory is reserved until
//! then. A closed entry stays under its name, so that a further unload can say how things are,
//! until that unload succeeds or a load takes the name.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task;
use tokio::time::{Instant, timeout};

use super::{Catalog, CatalogError, Entry, Slot, shortened};
use crate::engine::Engine;

/// How often an unload that waits looks whether only stuck runs are left.
const LOOK: Duration = Duration::from_millis(20);

/// Whoever holds a closed entry's model.
enum Holders {
    Nobody,
    StuckRuns(usize),
    Requests,
}

impl Catalog {
    /// Closes the entry to requests, waits for the last handle, and frees the model.
    pub(super) async fn retire(&self, name: &str, entry: &Arc<Entry>) -> Result<(), CatalogError> {
        entry.users.close();
        let waited = self.settings.unload_timeout;
        let error = match entry.holders_after(waited).await {
            Holders::Nobody => {
                free(&self.engine, entry).await;
                self.report_unloaded(name, entry);
                return Ok(());
            }
            Holders::StuckRuns(runs) => CatalogError::StillHeld {
                name: name.to_owned(),
                runs,
                bytes: entry.charge(),
            },
            Holders::Requests => CatalogError::StillBusy {
                name: name.to_owned(),
                waited,
            },
        };
        // As gone as it can be: a restarted process must not bring it back.
        self.report_unloaded(name, entry);
        self.free_later(name, entry);
        Err(error)
    }

    fn report_unloaded(&self, name: &str, entry: &Entry) {
        if let Some(journal) = &self.settings.journal
            && !entry.leaving.is_reported.swap(true, Ordering::Relaxed)
        {
            journal.unloaded(name);
        }
    }

    /// Frees the model when its last handle is gone, whoever waits for that.
    fn free_later(&self, name: &str, entry: &Arc<Entry>) {
        if entry.leaving.is_followed.swap(true, Ordering::Relaxed) {
            return;
        }
        let (engine, entry, name) = (Arc::clone(&self.engine), Arc::clone(entry), shortened(name));
        let started = Instant::now();
        task::spawn(async move {
            entry.users.wait().await;
            let memory_bytes = entry.charge();
            free(&engine, &entry).await;
            let held_seconds = started.elapsed().as_secs();
            tracing::info!(
                model = name,
                memory_bytes,
                held_seconds,
                "the memory of an unloaded model is free"
            );
        });
    }
}

/// Frees the model of an entry that nobody holds. Ends when that is done, by this call or another
/// one.
async fn free(engine: &Engine, entry: &Entry) {
    let _freeing = entry.leaving.freeing.lock().await;
    let slot = std::mem::replace(&mut *entry.slot(), Slot::Empty);
    if let Slot::Loaded(served) = slot
        && let Some(served) = Arc::into_inner(served)
    {
        engine.unload(served.model).await;
    }
}

impl Entry {
    /// Waits until nobody holds the model of this closed entry, or only stuck runs do, or
    /// `patience` is over.
    async fn holders_after(&self, patience: Duration) -> Holders {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if timeout(LOOK.min(left), self.users.wait()).await.is_ok() {
                return Holders::Nobody;
            }
            if let Some(standing) = self.standing()
                && standing.requests() >= self.users.len()
            {
                return Holders::StuckRuns(standing.runs());
            }
            if left.is_zero() {
                return Holders::Requests;
            }
        }
    }
}
