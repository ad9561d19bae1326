//! Standalone mode: requests load models from a folder as a store, with the engine of the
//! catalog's tests.
//!
//! The file of a model holds the path of its artifact, which the engine loads.

mod evictions;
mod loads;
mod upkeep;

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::archive::UnpackLimits;
use crate::catalog::tests::engine::{TestArtifact, TestEngine, TestModel};
use crate::catalog::tests::{self, NEVER, path};
use crate::store::{Disk, Environment, StoreConfig};
use crate::telemetry::metrics::MetricsConfig;

/// A catalog in standalone mode, with its engine and its store.
struct Server {
    catalog: Arc<Catalog<TestEngine>>,
    engine: Arc<TestEngine>,
    metrics: Arc<Metrics>,
    /// The folder that is the store.
    store: TempDir,
    _cache: TempDir,
}

/// Options under which failures are remembered and nothing expires.
fn options() -> DemandConfig {
    DemandConfig {
        evict: true,
        idle_unload: None,
        revalidate: NEVER,
        negative_ttl: NEVER,
        memory_timeout: NEVER,
    }
}

impl Server {
    /// A server whose store has a model for each name.
    fn new<const N: usize>(names: [&str; N]) -> Self {
        Self::start(names, options())
    }

    fn start<const N: usize>(names: [&str; N], options: DemandConfig) -> Self {
        let (store, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let settings = StoreConfig {
            url: store.path().to_str().unwrap().to_owned(),
            environment: Environment::default(),
            timeout: NEVER,
            retries: 0,
            downloads: 4,
            bounds: UnpackLimits {
                entries: 100,
                bytes: 1 << 20,
                ratio: 100,
            },
            names_bind: false,
            revalidate: options.revalidate,
        };
        let opened = Store::open(settings, &Disk::open(cache.path(), 1 << 20).unwrap()).unwrap();
        let (engine, metrics) = (TestEngine::new(), Arc::new(Metrics::new(MetricsConfig::default())));
        let demand = Demand::new(opened, options, Arc::clone(&metrics));
        let catalog = Catalog::new(Arc::clone(&engine), tests::settings(NEVER, None), Some(demand));
        let server = Self {
            catalog: Arc::new(catalog),
            engine,
            metrics,
            store,
            _cache: cache,
        };
        for name in names {
            server.put(name, name, TestArtifact::of(name));
        }
        server
    }

    /// Puts the model `name` into the store. Its artifact is at the path of `version`.
    fn put(&self, name: &str, version: &str, artifact: TestArtifact) {
        self.engine.put(&path(version), artifact);
        // The version of a file is its stamp, so a file takes the place of the old one.
        let new = self.store.path().join(format!("{name}.new"));
        fs::write(&new, path(version)).unwrap();
        fs::rename(new, self.store.path().join(name)).unwrap();
    }

    async fn get(&self, name: &str) -> Result<Handle<TestModel>, CatalogError> {
        self.catalog.get(name, Deadline::now() + NEVER).await
    }

    /// An explicit load, as a platform asks for it.
    async fn load(&self, name: &str) -> Result<LoadedMemory, CatalogError> {
        let url = format!("{}/{name}", self.store.path().display());
        self.catalog.load(name, &url, None).await
    }

    fn demand(&self) -> &Demand<TestModel> {
        self.catalog.demand.as_ref().unwrap()
    }

    fn list(&self) -> Vec<String> {
        let (models, _) = self.catalog.page(None, 100);
        models.into_iter().map(|(name, _)| name).collect()
    }

    /// Number of models that were unloaded for this reason.
    fn evicted(&self, why: UnloadReason) -> u64 {
        self.metrics.unloads(why)
    }

    /// Checks that each model in memory is listed, and that every other one was given back.
    fn assert_balanced(&self) {
        let (counts, listed) = (self.engine.counts(), self.list().len());
        assert_eq!(counts.loaded, listed + counts.unloaded, "{counts:?}");
        assert_eq!((counts.dropped, counts.bytes), (0, 100 * listed as u64), "{counts:?}");
        assert_eq!(self.engine.other_bytes(), 0);
    }
}

/// Marks the model of `handle` as last used at this time.
fn set_used(handle: &Handle<TestModel>, time: u64) {
    let origin = handle.entry.origin.as_ref().unwrap();
    origin.used.store(time, Ordering::Relaxed);
}
