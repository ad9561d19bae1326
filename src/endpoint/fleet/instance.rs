//! An instance: what would be a machine of its own on SageMaker is a folder and some processes here.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::container::RunningContainer;

/// All containers of a model, once. They end when this is dropped, so nothing ends under those who hold it, except when
/// they do so for longer than a drain may take.
pub struct Instance {
    id: u64,
    name: String,
    folder: PathBuf,
    containers: Vec<Arc<RunningContainer>>,
    outstanding: AtomicUsize,
    /// Ends its containers.
    pub(super) stop: CancellationToken,
    /// Nothing is left of it.
    pub(super) ended: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// A request that an instance works on; it counts as outstanding until this is dropped.
pub struct InFlight(Arc<Instance>);

impl Instance {
    pub(super) fn new(
        id: u64,
        name: String,
        folder: PathBuf,
        containers: Vec<Arc<RunningContainer>>,
        stop: CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        Self {
            id,
            name,
            folder,
            containers,
            outstanding: AtomicUsize::new(0),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            ended,
        }
    }

    /// Unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// `instance-1` and so on, as the log calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has on disk: for each container a folder, by its hostname.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// In the order of the model's.
    pub fn containers(&self) -> &[Arc<RunningContainer>] {
        &self.containers
    }

    pub fn container(&self, hostname: &str) -> Option<&Arc<RunningContainer>> {
        self.containers
            .iter()
            .find(|container| container.spec().hostname == hostname)
    }

    /// Whether all of its containers answer.
    pub fn is_up(&self) -> bool {
        self.containers.iter().all(|container| container.up().is_some())
    }

    /// Requests under way.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

impl Deref for InFlight {
    type Target = Arc<Instance>;

    fn deref(&self) -> &Arc<Instance> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
