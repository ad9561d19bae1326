//! Whole flows of the catalog, with an engine that ends loads and unloads as the test decides.

mod cancels;
pub(super) mod engine;
mod journal;
mod later;
mod loads;
mod overlaps;
mod random;
mod rehearsals;
mod restores;
mod states;
mod statistics;
mod tokenizers;
mod unloads;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task;
use tokio::time::Instant;

use super::{Catalog, CatalogConfig, CatalogError, Handle, Journal, Record};
use crate::engine::LoadedMemory;
use crate::handler::MediaLimits;

use engine::{TestArtifact, TestEngine, TestModel};
use journal::TestJournal;

/// A time limit that only a test that fails reaches.
pub(super) const NEVER: Duration = Duration::from_secs(60);

/// A catalog with its engine and its journal.
struct Server {
    catalog: Arc<Catalog<TestEngine>>,
    engine: Arc<TestEngine>,
    journal: Arc<TestJournal>,
}

/// The path of the artifact that tests load as `name`.
pub(super) fn path(name: &str) -> String {
    format!("/models/{name}")
}

impl Server {
    /// A server whose unloads wait for requests, with an artifact of 100 bytes for each name.
    fn new<const N: usize>(names: [&str; N]) -> Self {
        Self::start(names, NEVER)
    }

    /// A server whose unloads do not wait for requests.
    fn impatient<const N: usize>(names: [&str; N]) -> Self {
        Self::start(names, Duration::ZERO)
    }

    fn start<const N: usize>(names: [&str; N], unload_timeout: Duration) -> Self {
        let (engine, journal) = (TestEngine::new(), Arc::<TestJournal>::default());
        for name in names {
            engine.put(&path(name), TestArtifact::of(name));
        }
        let settings = settings(unload_timeout, Some(Arc::clone(&journal) as Arc<dyn Journal>));
        let catalog = Catalog::new(Arc::clone(&engine), settings, None);
        Self {
            catalog: Arc::new(catalog),
            engine,
            journal,
        }
    }

    /// A server with the given journal that lists `records` since its start, in this order.
    async fn restarted<const N: usize>(records: [Record; N]) -> Self {
        let server = Self::new([]);
        for record in &records {
            server.engine.put(&record.url, TestArtifact::of(&record.name));
            server.journal.loaded(record.clone());
        }
        server.journal.clear_lines();
        server.catalog.list_again(records.into()).await;
        server
    }

    async fn load(&self, name: &str) -> Result<LoadedMemory, CatalogError> {
        self.catalog.load_trusted(name, Path::new(&path(name))).await
    }

    async fn unload(&self, name: &str) -> Result<u64, CatalogError> {
        self.catalog.unload(name).await
    }

    async fn get(&self, name: &str) -> Result<Handle<TestModel>, CatalogError> {
        self.catalog.get(name, Instant::now() + NEVER).await
    }

    fn list(&self) -> Vec<String> {
        let (models, more) = self.catalog.page(None, 100);
        assert!(!more);
        assert_eq!(self.catalog.len(), models.len());
        models.into_iter().map(|(name, _)| name).collect()
    }

    /// Checks that get, list and invoke find `name`.
    async fn assert_found(&self, name: &str) {
        assert!(self.list().contains(&name.to_owned()), "{name} is listed");
        self.catalog.describe(name).await.unwrap();
        self.get(name).await.unwrap();
    }

    /// Checks that neither get, list nor invoke finds `name`.
    async fn assert_not_found(&self, name: &str) {
        assert!(!self.list().contains(&name.to_owned()), "{name} is not listed");
        assert!(is_not_loaded(&self.catalog.describe(name).await.unwrap_err()));
        assert!(is_not_loaded(&self.get(name).await.unwrap_err()));
    }

    /// Checks that each model in memory is listed, and that every other one was given back.
    fn assert_balanced(&self) {
        let counts = self.engine.counts();
        assert_eq!(counts.loaded, self.list().len() + counts.unloaded, "{counts:?}");
        assert_eq!(counts.dropped, 0, "{counts:?}");
        assert_eq!(counts.bytes, 100 * self.list().len() as u64, "{counts:?}");
        assert_eq!(self.engine.other_bytes(), 0);
        assert_eq!(self.journal.names(), self.list());
    }
}

pub(super) fn settings(unload_timeout: Duration, journal: Option<Arc<dyn Journal>>) -> CatalogConfig {
    CatalogConfig {
        roots: vec!["/models".into()],
        unload_timeout,
        rehearsal_timeout: NEVER,
        media: MediaLimits::default(),
        preparations: 1,
        restores: 3,
        journal,
    }
}

/// The record of a model that was loaded from [`path`] before a restart.
fn record(name: &str) -> Record {
    Record {
        name: name.to_owned(),
        url: path(name),
        target_model: None,
        content: TestArtifact::of(name).content,
        manifest: None,
    }
}

/// Runs `operation` until it waits for something.
pub(super) fn waiting<F: Future>(operation: F) -> Pin<Box<F>> {
    let mut operation = Box::pin(operation);
    assert_waits(&mut operation);
    operation
}

fn assert_waits<F: Future>(operation: &mut Pin<Box<F>>) {
    assert!(operation.now_or_never().is_none(), "the operation waits");
}

/// Runs the tasks of the catalog until all of them wait for something.
pub(super) async fn settle() {
    // A task of the catalog goes through fewer steps than this.
    for _ in 0..32 {
        task::yield_now().await;
    }
}

/// The time that a test waits for a condition.
pub(super) struct Patience(Instant);

impl Patience {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Runs the tasks of the catalog, before the test checks its condition again.
    pub async fn wait(&self) {
        assert!(self.0.elapsed() < NEVER, "the test waits for a condition in vain");
        settle().await;
    }
}

pub(super) fn is_not_loaded(error: &CatalogError) -> bool {
    matches!(error, CatalogError::NotLoaded { .. })
}

pub(super) fn is_already_loaded(error: &CatalogError) -> bool {
    matches!(error, CatalogError::AlreadyLoaded { .. })
}

fn is_still_busy(error: &CatalogError) -> bool {
    matches!(error, CatalogError::StillBusy { .. })
}

fn is_still_held(error: &CatalogError) -> bool {
    matches!(error, CatalogError::StillHeld { .. })
}
