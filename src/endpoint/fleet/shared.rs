//! The state that all running endpoints share, and the change in progress of each endpoint.
//!
//! Each change of an endpoint has a number. A change that finds another number at its end has been
//! overtaken, and its result is discarded.

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
use super::status::FleetPhase;
use super::variant::Fleet;
use super::{FleetConfig, FleetError};
use crate::endpoint::spec::Deployment;

/// The state that the tasks of the fleets share.
pub(super) struct Shared {
    pub settings: Arc<FleetConfig>,
    pub folder: PathBuf,
    /// A prefix of the names of this process's containers that no other process uses.
    pub name: String,
    /// The prefixes of killed processes, which may have left containers behind.
    pub killed: Mutex<Vec<String>>,
    pub artifacts: Artifacts,
    pub prober: Prober,
    /// All tasks that own processes or folders; the shutdown waits for them.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    pub ids: AtomicU64,
    // Locked only briefly.
    pub endpoints: Mutex<HashMap<String, EndpointEntry>>,
}

/// A running endpoint.
pub(super) struct EndpointEntry {
    /// The fleet that serves, if any.
    pub fleet: Option<Arc<Fleet>>,
    /// The desired deployment, reported while no fleet serves.
    pub wanted: Deployment,
    pub phase: FleetPhase,
    /// The number of the change in progress, or of the last one.
    pub change: u64,
    pub abort: CancellationToken,
}

impl Shared {
    pub fn endpoints(&self) -> MutexGuard<'_, HashMap<String, EndpointEntry>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id, unique among the instances and changes of this process.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A container name that is unique on every machine and has only characters that any program
    /// accepts.
    pub fn unique_name(&self, instance: u64, label: &str) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let label: String = label.chars().map(plain).collect();
        format!("{}-{instance}-{label}", self.name)
    }

    /// Takes the prefixes of killed processes.
    pub fn take_killed(&self) -> Vec<String> {
        std::mem::take(&mut self.killed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Completes a change with `end`, unless another change has overtaken it. Returns the results
    /// of `end`.
    pub fn change_ended<T>(
        &self,
        endpoint: &str,
        change: u64,
        end: impl FnOnce(&mut EndpointEntry) -> (Result<(), String>, T),
    ) -> Result<(Result<(), FleetError>, T), FleetError> {
        let mut endpoints = self.endpoints();
        let entry = endpoints.get_mut(endpoint).filter(|entry| entry.change == change);
        let entry = entry.ok_or_else(|| FleetError::Removed(endpoint.to_owned()))?;
        let (result, rest) = end(entry);
        entry.phase = match &result {
            Ok(()) => FleetPhase::InService,
            Err(reason) => FleetPhase::Failed { reason: reason.clone() },
        };
        Ok((result.map_err(FleetError::Failed), rest))
    }

    /// Ends instances that serve no new requests, in the background.
    pub fn retire_later(&self, instances: Vec<Arc<Instance>>) {
        self.tasks.spawn(retire(instances, self.settings.drain_timeout));
    }
}

pub(super) fn instances_of(fleet: &Fleet) -> Vec<Arc<Instance>> {
    let variants = fleet.variants().iter();
    variants.flat_map(|variant| variant.instances().to_vec()).collect()
}

/// Waits until no request holds `instances` or the drain timeout expires, then until they have
/// ended and their files are removed.
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
        tracing::warn!("the drain timeout expired; requests to replaced or removed containers are cut off");
    }
    for (stop, _) in &tokens {
        stop.cancel();
    }
    for (_, ended) in &tokens {
        ended.cancelled().await;
    }
}
