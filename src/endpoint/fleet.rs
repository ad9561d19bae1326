//! The endpoints that run: for each variant its instances, for each instance the containers of its model.
//!
//! On SageMaker an instance is a machine. Here it is a folder, and its containers are processes of this program, containers
//! that the docker command runs, or servers that somebody else runs and that are only asked after their health. What
//! requests are made of is none of this module's business: it says where a container answers, and since which start.
//!
//! | asked for | an endpoint with | until it is there | then | if it does not come to be |
//! |---|---|---|---|---|
//! | deploy | nothing | `Creating` | serves | `Failed`; all that was started is ended |
//! | deploy | a fleet that serves | `Updating`, the old one serves | the new one serves | `Failed`, the old one serves |
//! | capacities | a fleet that serves | `Updating`, it serves | more or fewer instances | `Failed`, it serves as before |
//! | remove | anything | `Deleting`, nobody is served | is unknown | |
//!
//! What always holds: [`Fleets::get`] gives a fleet only after each of its containers has answered a health check. Whoever
//! holds one can end the request that he got it for: what replaces it does not end it under him, unless he takes longer than
//! a drain may. Whatever ends this process ends all containers, too, so that there are no orphans.

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
use shared::{Entry, Shared, instances_of, retire};
use work::Work;

pub use container::{RunningContainer, Up};
pub use environment::InvocationBounds;
pub use instance::{InFlight, Instance};
pub use runner::Runner;
pub use status::{Capacity, Phase, Status, VariantStatus};
pub use strategy::Asked;
pub use variant::{Fleet, RunningVariant};

/// How containers are run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub runner: Runner,
    /// This program, for processes that are containers and for those that run some.
    pub program: PathBuf,
    /// Of this process: what is not about itself is passed on to processes, credentials to images.
    pub environment: store::Environment,
    /// Where a folder with all that containers have on disk is made, which is removed at the end.
    pub folder: PathBuf,
    /// Where processes keep the prepared forms of models: one for all of them.
    pub prepared: PathBuf,
    /// Most instances of a variant, however many it is to have.
    pub max_instances: u32,
    /// Bytes that a container may take, unless a fault says otherwise.
    pub memory: Option<u64>,
    /// Whether processes take connections of every user of this machine.
    pub allow_other_users: bool,
    /// For the containers of asynchronous endpoints that are processes.
    pub asynchronous: InvocationBounds,
    pub faults: Arc<Faults>,
    /// For a container to answer after its start, unless its variant says otherwise.
    pub start_timeout: Duration,
    /// Between the questions after a container's health.
    pub health_interval: Duration,
    /// For requests to end before their containers do, and for containers to end by themselves.
    pub drain_timeout: Duration,
    /// How models are fetched; without its URL, which is each model's own.
    pub store: store::StoreConfig,
    /// Bytes that models of one place may take on disk.
    pub archive_bytes: u64,
}

/// Why there can be no fleets.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("make a folder for containers in {folder}")]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the thread of the containers")]
    Thread(#[source] io::Error),
    #[error("make a client for health checks")]
    Client(#[source] reqwest::Error),
}

/// Why something did not come to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    #[error("the endpoint {0} is not known")]
    Unknown(String),
    #[error("the endpoint {endpoint} has no variant {variant}")]
    UnknownVariant { endpoint: String, variant: String },
    #[error("the endpoint {0} is being changed")]
    Busy(String),
    /// With a `FailureReason`.
    #[error("{0}")]
    Failed(String),
    #[error("the endpoint {0} was removed meanwhile")]
    Removed(String),
}

/// All endpoints that run.
pub struct Fleets {
    shared: Arc<Shared>,
    work: Mutex<Option<Work>>,
    /// For all that goes on around containers. They are started on it: a parent-death signal is sent when the thread that
    /// started a process ends, so that must be one that lives as long as there are containers.
    thread: Background,
}

impl Fleets {
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let mut work = Work::new(&settings.folder).map_err(|source| StartError::Folder {
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
            prober: Prober::new().map_err(StartError::Client)?,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            ids: AtomicU64::new(0),
            endpoints: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            work: Mutex::new(Some(work)),
            thread: Background::start("fleet", BlockingWork::Awaited).map_err(StartError::Thread)?,
        })
    }

    /// What serves `endpoint`. To be held for as long as the request that it is for.
    pub fn get(&self, endpoint: &str) -> Option<Arc<Fleet>> {
        self.shared.endpoints().get(endpoint)?.fleet.clone()
    }

    /// The name of an endpoint that differs from `endpoint` in the case of letters only.
    pub fn spelled_otherwise(&self, endpoint: &str) -> Option<String> {
        let endpoints = self.shared.endpoints();
        let mut names = endpoints.keys();
        names.find(|name| name.eq_ignore_ascii_case(endpoint)).cloned()
    }

    /// Whether containers are processes of this user, which an environment must not lead
    /// elsewhere.
    pub fn runs_processes(&self) -> bool {
        self.shared.settings.runner == Runner::Process
    }

    /// How `endpoint` is doing; `None` when it is not known, or not any more.
    pub fn status(&self, endpoint: &str) -> Option<Status> {
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
        Some(Status {
            phase: entry.phase.clone(),
            variants,
        })
    }

    /// Starts what is wanted, and returns when it serves, or when it does not come to.
    ///
    /// # Cancel safety
    /// It goes on without the future.
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
                Some(_) => Phase::Updating,
                None => Phase::Creating,
            };
            let entry = Entry {
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

    /// Changes weights and numbers of instances, and returns when it is done. Weights change when all instances are there.
    ///
    /// # Cancel safety
    /// It goes on without the future.
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
                variant.desire(capacity.weight, capacity.instances);
            }
            entry.phase = Phase::Updating;
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
                        variant.desire_no_more();
                    }
                    (Err(reason), Vec::new())
                }
            })?;
            shared.retire_later(gone);
            result
        })
        .await
    }

    /// Ends `endpoint`: nobody gets it any more from now on, and this returns when its containers have ended. Returns whether
    /// it was known.
    ///
    /// # Cancel safety
    /// It goes on without the future.
    pub async fn remove(&self, endpoint: &str) -> bool {
        let (fleet, change) = {
            let mut endpoints = self.shared.endpoints();
            let Some(entry) = endpoints.get_mut(endpoint) else {
                return false;
            };
            entry.abort.cancel();
            entry.phase = Phase::Deleting;
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
        // It can only be that all ends.
        let _ = removed.await;
        true
    }

    /// Ends all endpoints at once, and returns when nothing is left of them.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        let fleets: Vec<_> = self.shared.endpoints().drain().collect();
        drop(fleets);
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let removal = self.thread.runtime().spawn_blocking(move || work.map(Work::close));
        if let Ok(Some(Err(error))) = removal.await {
            tracing::warn!(%error, "the folder of the containers is left behind");
        }
    }

    /// Does `work` on the thread of the fleets, whoever waits for it.
    async fn on_thread(
        &self,
        endpoint: String,
        work: impl Future<Output = Result<(), FleetError>> + Send + 'static,
    ) -> Result<(), FleetError> {
        let work = self.shared.tasks.spawn_on(work, self.thread.runtime());
        work.await.unwrap_or(Err(FleetError::Removed(endpoint)))
    }
}
