//! Retiring an entry: closes it to requests, then frees the model after its last handle.
//!
//! | the model is held by | the unload |
//! |---|---|
//! | nothing | frees it and ends |
//! | requests | waits for them, for `unload_timeout` at most ([`CatalogError::StillBusy`]) |
//! | stuck runs only | does not wait: a run that cannot be ended may take hours ([`CatalogError::StillHeld`]) |
//!
//! Invariants:
//! - The model of a closed entry is freed after its last handle is dropped, by the unload that
//!   waits for it or by a task that outlives that unload. Its memory is reserved until then.
//! - A closed entry stays under its name, so that a further unload can report the state, until
//!   that unload succeeds or a load takes the name.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task;
use tokio::time::{Instant, timeout};

use super::model_engine::{LoadedModel, ModelEngine};
use super::state::End;
use super::{Catalog, CatalogEntry, CatalogError, ModelSlot, shortened};

/// Interval at which a waiting unload checks whether only stuck runs are left.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Holders of a closed entry's model.
enum Holders {
    None,
    StuckRuns(usize),
    Requests,
}

impl<E: ModelEngine> Catalog<E> {
    /// Closes the entry to requests, waits for the last handle, and frees the model.
    pub(super) async fn retire(&self, name: &str, entry: &Arc<CatalogEntry<E::Model>>) -> Result<(), CatalogError> {
        entry.users.close();
        let waited = self.settings.unload_timeout;
        let error = match entry.holders_after(waited).await {
            Holders::None => {
                free(&self.engine, entry).await;
                self.record_unload(End::Unloaded, name, entry);
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
        self.record_unload(End::StillHeld, name, entry);
        self.free_later(name, entry);
        Err(error)
    }

    /// Records the unload of a closed entry, once.
    fn record_unload(&self, end: End, name: &str, entry: &CatalogEntry<E::Model>) {
        if !entry.unload_progress.is_reported.swap(true, Ordering::Relaxed) {
            self.record(end, name, None);
        }
    }

    /// Spawns a task that frees the model after its last handle, even if no unload waits for it.
    fn free_later(&self, name: &str, entry: &Arc<CatalogEntry<E::Model>>) {
        if entry.unload_progress.is_followed.swap(true, Ordering::Relaxed) {
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
                target_model = entry.target_model,
                memory_bytes,
                held_seconds,
                "memory of an unloaded model freed"
            );
        });
    }
}

/// Frees the model of an entry without handles. Returns when it is freed, by this call or by a
/// concurrent one.
async fn free<E: ModelEngine>(engine: &Arc<E>, entry: &CatalogEntry<E::Model>) {
    let _freeing = entry.unload_progress.freeing.lock().await;
    let mut freed = 0;
    if let Some(replaced) = entry.take_replaced() {
        freed += engine.unload(replaced.model).await;
    }
    let slot = std::mem::replace(&mut *entry.slot(), ModelSlot::Empty);
    if let ModelSlot::Loaded(served) = slot
        && let Some(served) = Arc::into_inner(served)
    {
        freed += engine.unload(served.model).await;
        entry.unload_progress.freed.store(freed, Ordering::Relaxed);
    }
}

impl<M: LoadedModel> CatalogEntry<M> {
    /// Waits until this closed entry has no holders or only stuck runs, or `limit` has passed.
    async fn holders_after(&self, limit: Duration) -> Holders {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if timeout(CHECK_INTERVAL.min(left), self.users.wait()).await.is_ok() {
                return Holders::None;
            }
            // Counted first: a request that ends after this is not a stuck one.
            let holders = self.users.len();
            if let Some(standing) = self.standing()
                && let runs @ 1.. = standing.runs()
                && standing.requests() >= holders
            {
                return Holders::StuckRuns(runs);
            }
            if left.is_zero() {
                return Holders::Requests;
            }
        }
    }
}
