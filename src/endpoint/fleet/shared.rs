//! What the endpoints that run have in common, and which of them is on its way to what.
//!
//! A change of an endpoint is known by a number. Who comes to its end finds the number of another one there if it was
//! overtaken, and then what it has made serves nobody.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::artifact::Artifacts;
use super::health::Prober;
use super::instance::Instance;
use super::status::Phase;
use super::variant::Fleet;
use super::{FleetError, Settings};
use crate::endpoint::spec::Deployment;

/// What the tasks of the fleets have in common.
pub(super) struct Shared {
    pub settings: Arc<Settings>,
    pub folder: PathBuf,
    /// In the names of all containers, and of no others.
    pub name: String,
    /// Such names of processes that were killed, and may have left containers.
    pub killed: Mutex<Vec<String>>,
    pub artifacts: Artifacts,
    pub prober: Prober,
    /// All tasks that have something to end.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    pub ids: AtomicU64,
    // Held for moments only.
    pub endpoints: Mutex<HashMap<String, Entry>>,
}

pub(super) struct Entry {
    /// What serves.
    pub fleet: Option<Arc<Fleet>>,
    /// What is to, as long as nothing does.
    pub wanted: Deployment,
    pub phase: Phase,
    /// Of the change under way, or the last one.
    pub change: u64,
    pub abort: CancellationToken,
}

impl Shared {
    pub fn endpoints(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unique among instances and changes of this process.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A name for a container that is unique wherever it may run, of letters that any program takes.
    pub fn known_as(&self, instance: u64, label: &str) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let label: String = label.chars().map(plain).collect();
        format!("{}-{instance}-{label}", self.name)
    }

    /// Names of processes that were killed, once.
    pub fn take_killed(&self) -> Vec<String> {
        std::mem::take(&mut self.killed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends a change of an endpoint as `end` says, unless there was another one meanwhile. Returns its result, and what else
    /// `end` gives.
    pub fn change_ended<T>(
        &self,
        endpoint: &str,
        change: u64,
        end: impl FnOnce(&mut Entry) -> (Result<(), String>, T),
    ) -> Result<(Result<(), FleetError>, T), FleetError> {
        let mut endpoints = self.endpoints();
        let entry = endpoints.get_mut(endpoint).filter(|entry| entry.change == change);
        let entry = entry.ok_or_else(|| FleetError::Removed(endpoint.to_owned()))?;
        let (result, rest) = end(entry);
        entry.phase = match &result {
            Ok(()) => Phase::InService,
            Err(reason) => Phase::Failed { reason: reason.clone() },
        };
        Ok((result.map_err(FleetError::Failed), rest))
    }

    /// Sees to it that what serves nobody any more ends.
    pub fn retire_later(&self, instances: Vec<Arc<Instance>>) {
        self.tasks.spawn(retire(instances, self.settings.drain_timeout));
    }
}

pub(super) fn instances_of(fleet: &Fleet) -> Vec<Arc<Instance>> {
    let variants = fleet.variants().iter();
    variants.flat_map(|variant| variant.instances().to_vec()).collect()
}

/// Waits until nobody holds `instances`, but not for ever, and until nothing is left of them.
pub(super) async fn retire(instances: Vec<Arc<Instance>>, drain_timeout: Duration) {
    let tokens: Vec<_> = instances
        .iter()
        .map(|instance| (instance.stop.clone(), instance.ended.clone()))
        .collect();
    drop(instances);
    let released = async {
        for (stop, _) in &tokens {
            stop.cancelled().await;
        }
    };
    if timeout(drain_timeout, released).await.is_err() {
        tracing::warn!("requests to containers that were replaced or removed take too long, and are cut off");
    }
    for (stop, _) in &tokens {
        stop.cancel();
    }
    for (_, ended) in &tokens {
        ended.cancelled().await;
    }
}
