//! An instance: a machine on SageMaker, here a folder and some containers.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::container::RunningContainer;

/// One set of all containers of a model.
///
/// The containers end when this is dropped. So a request that holds the instance can complete,
/// unless it takes longer than the drain timeout.
pub struct Instance {
    id: u64,
    name: String,
    folder: PathBuf,
    containers: Vec<Arc<RunningContainer>>,
    outstanding: AtomicUsize,
    /// The free slots for asynchronous invocations. The first one sets their number.
    pub slots: OnceLock<Arc<Semaphore>>,
    /// Cancelled to end the containers.
    pub(super) stop: CancellationToken,
    /// Cancelled once the containers have ended and their files are removed.
    pub(super) ended: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// A request in progress on an instance. It counts as outstanding until this is dropped.
pub struct OutstandingRequest(Arc<Instance>);

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
            slots: OnceLock::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            ended,
        }
    }

    /// An id, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name in the log: `instance-1` and so on.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files of the instance: a folder for each container, by its hostname.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The containers, in the model's order.
    pub fn containers(&self) -> &[Arc<RunningContainer>] {
        &self.containers
    }

    pub fn container(&self, hostname: &str) -> Option<&Arc<RunningContainer>> {
        self.containers
            .iter()
            .find(|container| container.spec().hostname == hostname)
    }

    /// Whether all containers respond.
    pub fn is_up(&self) -> bool {
        self.containers.iter().all(|container| container.up().is_some())
    }

    /// The number of requests in progress.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub fn begin(self: &Arc<Self>) -> OutstandingRequest {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        OutstandingRequest(Arc::clone(self))
    }
}

impl Deref for OutstandingRequest {
    type Target = Arc<Instance>;

    fn deref(&self) -> &Arc<Instance> {
        &self.0
    }
}

impl Drop for OutstandingRequest {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
