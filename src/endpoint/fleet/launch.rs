//! Launches a deployment: downloads the models, starts all containers and waits until they
//! respond.
//!
//! [`Instance`]s own the started containers, so dropping an unfinished launch ends them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::{self, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::artifact::{Artifact, ArtifactError};
use super::container::RunningContainer;
use super::home::Home;
use super::instance::Instance;
use super::keeper::{self, Keeper, KeeperConfig};
use super::runner::{self, ContainerLimits, Launcher, Runner};
use super::shared::Shared;
use super::status::Capacity;
use super::variant::{Fleet, RunningVariant};
use crate::endpoint::loader_variables::first_refused;
use crate::endpoint::spec::{Container, Deployment, Mode, Model, Variant};
use crate::store::FetchError;

/// Launches all variants. The error is a `FailureReason`.
pub(super) async fn fleet(shared: &Arc<Shared>, deployment: Deployment) -> Result<Fleet, String> {
    check(shared, &deployment).await?;
    let mut launches = JoinSet::new();
    for (index, (variant, model)) in deployment.variants.iter().cloned().enumerate() {
        let (shared, endpoint) = (Arc::clone(shared), deployment.endpoint.clone());
        let asynchronous = deployment.asynchronous.is_some();
        launches.spawn(async move {
            let launched = launch_variant(&shared, &endpoint, variant, model, asynchronous).await;
            (index, launched)
        });
    }
    let mut variants = Vec::new();
    while let Some(launched) = launches.join_next().await {
        let (index, variant) = launched.map_err(|error| error.to_string())?;
        variants.push((index, Arc::new(variant?)));
    }
    variants.sort_by_key(|(index, _)| *index);
    Ok(Fleet {
        deployment,
        variants: variants.into_iter().map(|(_, variant)| variant).collect(),
    })
}

/// Checks the deployment before anything is started.
async fn check(shared: &Shared, deployment: &Deployment) -> Result<(), String> {
    match &shared.settings.runner {
        Runner::Docker { command } if needs_images(deployment)? => {
            runner::check(command).await?;
            for process in shared.take_killed() {
                runner::remove_remains(command, &process).await;
            }
            Ok(())
        }
        Runner::Docker { .. } => Ok(()),
        Runner::Process => {
            let models = deployment.variants.iter().map(|(_, model)| model);
            let containers = models.flat_map(|model| &model.containers);
            // Attached containers have their own environment.
            for container in containers.clone().filter(|container| !container.is_attached()) {
                if let Some(refused) = first_refused(container.environment.keys().map(String::as_str)) {
                    return Err(format!(
                        "The Environment of container {}: {refused}",
                        container.hostname
                    ));
                }
            }
            for image in containers.filter_map(|container| container.image.as_ref()) {
                tracing::info!(image, "this program serves instead of the image; see --runner");
            }
            Ok(())
        }
    }
}

/// Whether containers must run from images. Fails if one of them has no image.
fn needs_images(deployment: &Deployment) -> Result<bool, String> {
    let models = deployment.variants.iter().map(|(_, model)| model);
    let mut needed = false;
    for container in models.flat_map(|model| &model.containers) {
        if !container.is_attached() && container.image.is_none() {
            let hostname = &container.hostname;
            return Err(format!(
                "The container {hostname} has no Image, and --runner docker runs images."
            ));
        }
        needed |= !container.is_attached();
    }
    Ok(needed)
}

async fn launch_variant(
    shared: &Arc<Shared>,
    endpoint: &str,
    spec: Variant,
    model: Arc<Model>,
    asynchronous: bool,
) -> Result<RunningVariant, String> {
    let limit = spec.download_timeout.unwrap_or(shared.settings.start_timeout);
    let mut artifacts = HashMap::new();
    for container in &model.containers {
        if let Some(artifact) = artifact(shared, container, limit).await? {
            artifacts.insert(container.hostname.clone(), Arc::new(artifact));
        }
    }
    let variant = RunningVariant::new(spec, model, artifacts, asynchronous);
    let count = capped(shared, endpoint, variant.name(), variant.spec.instances);
    let instances = instances(shared, endpoint, &variant, 0, count).await?;
    variant.settle(instances);
    Ok(variant)
}

/// Downloads the model of a container in single-model mode, if it has one.
async fn artifact(shared: &Shared, container: &Container, limit: Duration) -> Result<Option<Artifact>, String> {
    let Some(url) = &container.model_data_url else {
        return Ok(None);
    };
    if container.is_attached() || container.mode != Mode::SingleModel {
        return Ok(None);
    }
    let cause = match timeout(limit, shared.artifacts.fetch(url)).await {
        Ok(Ok(artifact)) => return Ok(Some(artifact)),
        Ok(Err(ArtifactError::Fetch(FetchError::Archive { source, .. }))) => {
            return Err(format!(
                "Failed to extract model data archive for container \"{}\" from URL \"{url}\". Please ensure that the \
                 object located at the URL is a valid tar.gz archive. Cause: {source}",
                container.hostname
            ));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the download took longer than {} s", limit.as_secs_f64()),
    };
    Err(format!(
        "Failed to download model data for container \"{}\" from URL: \"{url}\". Please ensure that there is an object \
         located at the URL and that the role passed to CreateModel has permissions to download the object. Cause: {cause}",
        container.hostname
    ))
}

/// Limits the `wanted` number of instances to `--max-instances`.
pub(super) fn capped(shared: &Shared, endpoint: &str, variant: &str, wanted: u32) -> u32 {
    let most = shared.settings.max_instances;
    if wanted > most {
        tracing::warn!(
            endpoint,
            variant,
            wanted,
            started = most,
            "fewer instances than requested; see --max-instances"
        );
    }
    wanted.min(most)
}

/// Launches `count` instances of `variant` in addition to the `there` existing ones.
pub(super) async fn instances(
    shared: &Arc<Shared>,
    endpoint: &str,
    variant: &RunningVariant,
    there: u32,
    count: u32,
) -> Result<Vec<Arc<Instance>>, String> {
    let mut instances = Vec::new();
    for number in 1..=count {
        let name = format!("instance-{}", there + number);
        let started = start_instance(shared, endpoint, variant, name).await;
        instances.push(started.map_err(|error| format!("An instance could not be started: {error}"))?);
    }
    let mut answers = JoinSet::new();
    for container in instances.iter().flat_map(|instance| instance.containers()) {
        let container = Arc::clone(container);
        answers.spawn(async move { (container.wait_up().await.is_some(), container) });
    }
    while let Some(answer) = answers.join_next().await {
        let (is_up, container) = answer.map_err(|error| error.to_string())?;
        if !is_up {
            return Err(not_healthy(variant, &container));
        }
    }
    Ok(instances)
}

/// The new instances of each variant: the ones that remain and newly launched ones.
pub(super) async fn rescale(
    shared: &Arc<Shared>,
    endpoint: &str,
    changes: &[(Arc<RunningVariant>, Capacity)],
) -> Result<Vec<Vec<Arc<Instance>>>, String> {
    let mut scaled = Vec::new();
    for (variant, capacity) in changes {
        let mut there = variant.instances().to_vec();
        if let Some(wanted) = capacity.instances {
            let count = capped(shared, endpoint, variant.name(), wanted) as usize;
            there.truncate(count);
            let more = u32::try_from(count - there.len()).unwrap_or_default();
            let from = u32::try_from(there.len()).unwrap_or_default();
            there.extend(instances(shared, endpoint, variant, from, more).await?);
        }
        scaled.push(there);
    }
    Ok(scaled)
}

/// SageMaker's message, with the cause, because there are no CloudWatch logs here.
fn not_healthy(variant: &RunningVariant, container: &RunningContainer) -> String {
    let which = match variant.model.containers.len() {
        1 => "primary",
        _ => container.spec().hostname.as_str(),
    };
    let reason = container.failure().unwrap_or_default();
    format!(
        "The {which} container for production variant {} did not pass the ping health check. Please check CloudWatch logs \
         for this endpoint. Cause: {reason}",
        variant.name()
    )
}

async fn start_instance(
    shared: &Arc<Shared>,
    endpoint: &str,
    variant: &RunningVariant,
    name: String,
) -> std::io::Result<Arc<Instance>> {
    let id = shared.next_id();
    let folder = shared.folder.join(id.to_string());
    let stop = shared.stop.child_token();
    let ended = CancellationToken::new();
    let mut keepers = Vec::new();
    let mut containers = Vec::new();
    let config = KeeperConfig {
        prober: shared.prober.clone(),
        start_timeout: variant.spec.startup_timeout.unwrap_or(shared.settings.start_timeout),
        interval: shared.settings.health_interval,
        drain_timeout: shared.settings.drain_timeout,
    };
    for spec in &variant.model.containers {
        let label = format!("{endpoint}/{}/{name}/{}", variant.name(), spec.hostname);
        let home = Home::new(&folder, &spec.hostname, variant.artifacts.get(&spec.hostname).cloned());
        let inside = match shared.settings.runner {
            Runner::Docker { .. } if !spec.is_attached() => "/opt/ml/models".into(),
            Runner::Docker { .. } | Runner::Process => home.models(),
        };
        let container = Arc::new(RunningContainer::new(spec.clone(), label, home.models(), inside));
        containers.push(Arc::clone(&container));
        let (config, stop) = (config.clone(), stop.clone());
        if let Some(address) = &spec.address {
            home.make(true)?;
            let address = address.as_str().into();
            keepers.push(keeper::watch_attached(container, address, config, stop).boxed());
        } else {
            let unique_name = shared.unique_name(id, container.label());
            let settings = &shared.settings;
            let bounds = ContainerLimits {
                memory: settings.faults.memory(endpoint, variant.name()).or(settings.memory),
                invocations: variant.asynchronous.then_some(settings.asynchronous),
            };
            let launcher = Launcher::new(settings, spec.clone(), home, bounds, unique_name)?;
            let keeper = Keeper {
                container,
                launcher,
                config,
                stop,
            };
            keepers.push(keeper.run().boxed());
        }
    }
    let mut keepers: JoinSet<()> = keepers.into_iter().collect();
    let guard = ended.clone().drop_guard();
    let remains = folder.clone();
    shared.tasks.spawn(async move {
        let _guard = guard;
        while keepers.join_next().await.is_some() {}
        let removed = task::spawn_blocking(move || std::fs::remove_dir_all(&remains).map_err(|error| (remains, error)));
        if let Ok(Err((folder, error))) = removed.await {
            tracing::warn!(folder = %folder.display(), %error, "the folder of an instance was not removed");
        }
    });
    Ok(Arc::new(Instance::new(id, name, folder, containers, stop, ended)))
}
