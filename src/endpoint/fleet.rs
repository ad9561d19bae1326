//! The running endpoints: the instances of each variant, and the containers of each instance.
//!
//! On SageMaker an instance is a machine. Here it is a folder. Its containers are processes of
//! this program, containers that the docker command runs, or attached containers: servers that run
//! already and whose health is only checked. This module knows nothing of requests. It provides
//! the address and the generation of each container.
//!
//! | action | endpoint before | during the change | on success | on failure |
//! |---|---|---|---|---|
//! | deploy | absent | `Creating` | serves | `Failed`; everything started is ended |
//! | deploy | serves with a fleet | `Updating`, the old fleet serves | the new fleet serves | `Failed`, the old fleet serves |
//! | capacities | serves with a fleet | `Updating`, serves | more or fewer instances | `Failed`, serves as before |
//! | remove | any | `Deleting`, serves no requests | unknown | |
//!
//! Invariants:
//! - [`Fleets::get`] returns a fleet only after each of its containers has passed a health check.
//! - A request may finish on the fleet it started with. After an update, the old fleet stays up
//!   until its requests complete or the drain timeout expires.
//! - When this process ends for any reason, all containers end too. It leaves no orphans.

mod artifact;
mod container;
mod environment;
mod health;
mod home;
mod instance;
mod keeper;
mod launch;
mod logs;
mod port;
mod row;
mod runner;
mod shared;
mod status;
mod strategy;
mod variant;
mod work;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Faults;
use super::spec::Deployment;
use crate::background::{Background, BlockingWork};
use crate::store;
use artifact::Artifacts;
use health::Prober;
use shared::{EndpointEntry, Shared, instances_of, retire};
use work::WorkFolder;

pub use container::{LiveAddress, RunningContainer};
pub use environment::InvocationBounds;
pub use instance::{Instance, OutstandingRequest};
pub use runner::Runner;
pub use status::{Capacity, FleetPhase, FleetStatus, VariantStatus};
pub use strategy::RoutingInput;
pub use variant::{Fleet, RunningVariant};

/// Threads for files of containers and of models.
const BLOCKING_THREADS: usize = 4;

/// The configuration of the fleets.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    pub runner: Runner,
    /// The path of this program. Containers are processes of it, and it starts the docker command.
    pub program: PathBuf,
    /// The environment of this process. Containers that are processes inherit all variables except
    /// Longshore's own; images get only the credentials.
    pub environment: store::Environment,
    /// The parent of the work folder, which holds all files of containers and is removed at the
    /// end.
    pub folder: PathBuf,
    /// The folder of prepared models, shared by all containers that are processes.
    pub prepared: PathBuf,
    /// Maximum number of instances per variant, whatever its configuration says.
    pub max_instances: u32,
    /// The memory limit of a container in bytes, unless a fault rule sets another.
    pub memory: Option<u64>,
    /// Whether containers that are processes accept connections of every user of this machine.
    pub allow_other_users: bool,
    /// Limits for the containers of asynchronous endpoints, if they are processes.
    pub asynchronous: InvocationBounds,
    pub faults: Arc<Faults>,
    /// Maximum time from a container's start to its first passed health check, unless its variant
    /// sets another.
    pub start_timeout: Duration,
    /// The interval between health checks.
    pub health_interval: Duration,
    /// Maximum time for requests to complete before their containers are ended, and for containers
    /// to end by themselves.
    pub drain_timeout: Duration,
    /// The store settings for downloading models. Its URL is ignored: each model has its own.
    pub store: store::StoreConfig,
    /// Maximum bytes on disk of the models from one source.
    pub archive_bytes: u64,
}

/// The reason why the fleets could not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetStartError {
    #[error("create the work folder in {folder}")]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the fleet thread")]
    Thread(#[source] io::Error),
    #[error("create the client for health checks")]
    Client(#[source] reqwest::Error),
}

/// The reason why a change of an endpoint failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    #[error("the endpoint {0} does not exist")]
    Unknown(String),
    #[error("the endpoint {endpoint} has no variant {variant}")]
    UnknownVariant { endpoint: String, variant: String },
    #[error("the endpoint {0} is already being changed")]
    Busy(String),
    /// Contains the `FailureReason`.
    #[error("{0}")]
    Failed(String),
    #[error("the endpoint {0} was removed during the change")]
    Removed(String),
}

/// All running endpoints.
pub struct Fleets {
    shared: Arc<Shared>,
    work: Mutex<Option<WorkFolder>>,
    /// The thread that starts and watches containers. The kernel sends the parent-death signal
    /// when the thread that started a process ends, so this thread must outlive all containers.
    thread: Background,
}

impl Fleets {
    pub fn start(settings: FleetConfig) -> Result<Self, FleetStartError> {
        let mut work = WorkFolder::new(&settings.folder).map_err(|source| FleetStartError::Folder {
            folder: settings.folder.clone(),
            source,
        })?;
        let shared = Shared {
            artifacts: Artifacts::new(
                settings.store.clone(),
                work.path().join("archives"),
                settings.archive_bytes,
            ),
            folder: work.path().join("instances"),
            name: work.name(),
            killed: Mutex::new(work.take_removed()),
            settings: Arc::new(settings),
            prober: Prober::new().map_err(FleetStartError::Client)?,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            ids: AtomicU64::new(0),
            endpoints: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            work: Mutex::new(Some(work)),
            thread: Background::start("fleet", BLOCKING_THREADS, BlockingWork::Awaited)
                .map_err(FleetStartError::Thread)?,
        })
    }

    /// The fleet that serves `endpoint`. The caller holds it until its request is complete.
    pub fn get(&self, endpoint: &str) -> Option<Arc<Fleet>> {
        self.shared.endpoints().get(endpoint)?.fleet.clone()
    }

    /// An endpoint whose name differs from `endpoint` only in upper and lower case.
    pub fn spelled_otherwise(&self, endpoint: &str) -> Option<String> {
        let endpoints = self.shared.endpoints();
        let mut names = endpoints.keys();
        names.find(|name| name.eq_ignore_ascii_case(endpoint)).cloned()
    }

    /// Whether containers are processes of this user. Then some environment variables are refused.
    pub fn runs_processes(&self) -> bool {
        self.shared.settings.runner == Runner::Process
    }

    /// The status of `endpoint`; `None` if it does not exist.
    pub fn status(&self, endpoint: &str) -> Option<FleetStatus> {
        let endpoints = self.shared.endpoints();
        let entry = endpoints.get(endpoint)?;
        let variants = match &entry.fleet {
            Some(fleet) => fleet.variants().iter().map(|variant| variant.status()).collect(),
            None => entry
                .wanted
                .variants
                .iter()
                .map(|(spec, _)| status::none(spec))
                .collect(),
        };
        Some(FleetStatus {
            phase: entry.phase.clone(),
            variants,
        })
    }

    /// All endpoints, each with its status and the fleet that serves it, in no order.
    pub fn all(&self) -> Vec<(String, FleetStatus, Option<Arc<Fleet>>)> {
        let names: Vec<String> = self.shared.endpoints().keys().cloned().collect();
        let found = names.into_iter().filter_map(|name| {
            let (status, fleet) = (self.status(&name)?, self.get(&name));
            Some((name, status, fleet))
        });
        found.collect()
    }

    /// Starts the deployment. Returns once it serves or has failed.
    ///
    /// # Cancel safety
    /// The change continues without the future.
    pub async fn deploy(&self, deployment: Deployment) -> Result<(), FleetError> {
        let endpoint = deployment.endpoint.clone();
        let abort = self.shared.stop.child_token();
        let change = self.shared.next_id();
        {
            let mut endpoints = self.shared.endpoints();
            let before = endpoints.get_mut(&endpoint);
            if before.as_ref().is_some_and(|entry| entry.phase.is_change()) {
                return Err(FleetError::Busy(endpoint));
            }
            let fleet = before.and_then(|entry| entry.fleet.take());
            let phase = match fleet {
                Some(_) => FleetPhase::Updating,
                None => FleetPhase::Creating,
            };
            let entry = EndpointEntry {
                fleet,
                wanted: deployment.clone(),
                phase,
                change,
                abort: abort.clone(),
            };
            endpoints.insert(endpoint.clone(), entry);
        }
        let shared = Arc::clone(&self.shared);
        self.on_thread(endpoint.clone(), async move {
            let launched = abort
                .run_until_cancelled(launch::fleet(&shared, deployment))
                .await
                .ok_or_else(|| FleetError::Removed(endpoint.clone()))?;
            let (result, replaced) = shared.change_ended(&endpoint, change, |entry| match launched {
                Ok(fleet) => (Ok(()), entry.fleet.replace(Arc::new(fleet))),
                Err(reason) => (Err(reason), None),
            })?;
            if let Some(fleet) = replaced {
                shared.retire_later(instances_of(&fleet));
            }
            result
        })
        .await
    }

    /// Changes weights and numbers of instances. Returns when the change is complete. Weights
    /// change once all instances are up.
    ///
    /// # Cancel safety
    /// The change continues without the future.
    pub async fn set_capacities(&self, endpoint: &str, capacities: &[Capacity]) -> Result<(), FleetError> {
        let abort = self.shared.stop.child_token();
        let change = self.shared.next_id();
        let mut changes = Vec::new();
        {
            let mut endpoints = self.shared.endpoints();
            let unknown = || FleetError::Unknown(endpoint.to_owned());
            let entry = endpoints.get_mut(endpoint).ok_or_else(unknown)?;
            if entry.phase.is_change() {
                return Err(FleetError::Busy(endpoint.to_owned()));
            }
            let fleet = entry.fleet.as_ref().ok_or_else(unknown)?;
            for capacity in capacities {
                let variant = fleet
                    .variant(&capacity.variant)
                    .ok_or_else(|| FleetError::UnknownVariant {
                        endpoint: endpoint.to_owned(),
                        variant: capacity.variant.clone(),
                    })?;
                changes.push((Arc::clone(variant), capacity.clone()));
            }
            for (variant, capacity) in &changes {
                variant.set_desired(capacity.weight, capacity.instances);
            }
            entry.phase = FleetPhase::Updating;
            entry.change = change;
            entry.abort = abort.clone();
        }
        let (shared, endpoint) = (Arc::clone(&self.shared), endpoint.to_owned());
        self.on_thread(endpoint.clone(), async move {
            let scaled = abort
                .run_until_cancelled(launch::rescale(&shared, &endpoint, &changes))
                .await
                .ok_or_else(|| FleetError::Removed(endpoint.clone()))?;
            let (result, gone) = shared.change_ended(&endpoint, change, |_| match scaled {
                Ok(scaled) => {
                    let settled = changes.iter().zip(scaled);
                    let gone = settled.flat_map(|((variant, _), instances)| variant.settle(instances));
                    (Ok(()), gone.collect())
                }
                Err(reason) => {
                    for (variant, _) in &changes {
                        variant.reset_desired();
                    }
                    (Err(reason), Vec::new())
                }
            })?;
            shared.retire_later(gone);
            result
        })
        .await
    }

    /// Removes `endpoint`. It serves no new requests from now on. Returns when its containers have
    /// ended; `false` if the endpoint does not exist.
    ///
    /// # Cancel safety
    /// The removal continues without the future.
    pub async fn remove(&self, endpoint: &str) -> bool {
        let (fleet, change) = {
            let mut endpoints = self.shared.endpoints();
            let Some(entry) = endpoints.get_mut(endpoint) else {
                return false;
            };
            entry.abort.cancel();
            entry.phase = FleetPhase::Deleting;
            entry.change = self.shared.next_id();
            (entry.fleet.take(), entry.change)
        };
        let (shared, name) = (Arc::clone(&self.shared), endpoint.to_owned());
        let removed = self.on_thread(endpoint.to_owned(), async move {
            if let Some(fleet) = fleet {
                let instances = instances_of(&fleet);
                drop(fleet);
                retire(instances, shared.settings.drain_timeout).await;
            }
            let mut endpoints = shared.endpoints();
            if endpoints.get(&name).is_some_and(|entry| entry.change == change) {
                endpoints.remove(&name);
            }
            Ok(())
        });
        // Fails only when all fleets are shut down.
        let _ = removed.await;
        true
    }

    /// Ends all endpoints. Returns when their containers have ended and their files are removed.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        let fleets: Vec<_> = self.shared.endpoints().drain().collect();
        drop(fleets);
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let removal = self
            .thread
            .runtime()
            .spawn_blocking(move || work.map(WorkFolder::close));
        if let Ok(Some(Err(error))) = removal.await {
            tracing::warn!(%error, "the work folder was not removed");
        }
    }

    /// Runs `work` on the fleet thread, even if the caller is dropped.
    async fn on_thread(
        &self,
        endpoint: String,
        work: impl Future<Output = Result<(), FleetError>> + Send + 'static,
    ) -> Result<(), FleetError> {
        let work = self.shared.tasks.spawn_on(work, self.thread.runtime());
        work.await.unwrap_or(Err(FleetError::Removed(endpoint)))
    }
}
