//! Does what the control plane accepts: answers its actions, and has the fleets do what follows from them.
//!
//! What always holds: what follows from an acknowledged action is done whether or not its client still waits, and how it ended
//! is noted; except at the end, when what is under way stays as it was asked for, so that a state file brings it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::control::{self, AwsError, Effect, StatusSource};
use super::fleet::{Capacity, FleetError, Fleets};
use super::spec::Deployment;
use super::state::State;

/// The control plane and the fleets, joined.
#[derive(Clone)]
pub struct Provisioner {
    state: Arc<State>,
    fleets: Arc<Fleets>,
    /// Where everything is done, so that nothing is cut short by a client that hangs up.
    background: Handle,
    /// For what follows from an action to be done before it is answered. AWS's waiters look once, and then not for half a
    /// minute.
    settle_wait: Duration,
    stopping: CancellationToken,
}

impl Provisioner {
    pub fn new(state: State, fleets: Arc<Fleets>, background: Handle, settle_wait: Duration) -> Self {
        Self {
            state: Arc::new(state),
            fleets,
            background,
            settle_wait,
            stopping: CancellationToken::new(),
        }
    }

    /// Answers an action: the request's `X-Amz-Target`, and its body. What follows from it is done soon, or goes on after
    /// the answer.
    pub async fn answer(&self, target: String, body: Bytes) -> Result<Value, AwsError> {
        if self.stopping.is_cancelled() {
            return Err(stopping());
        }
        let this = self.clone();
        let answered = self.background.spawn(async move {
            let answer = this.state.answer(&target, &body, &*this.fleets).await?;
            if let Some(effect) = answer.effect {
                let (wait, stopping) = (this.settle_wait, this.stopping.clone());
                let fulfilled = this.background.clone().spawn(async move { this.fulfil(effect).await });
                // Whichever it is, the answer is the same.
                let _settled = stopping.run_until_cancelled(timeout(wait, fulfilled)).await;
            }
            Ok(answer.body)
        });
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Adds endpoints that were declared, and deploys them and those of the state file. Returns when each of them serves, or is
    /// known not to come to.
    pub async fn start(&self, declared: Vec<Deployment>) -> Result<BTreeMap<String, Result<(), String>>, AwsError> {
        for deployment in declared {
            self.state.declare(deployment).await?;
        }
        let deployments = self.state.undeployed().into_iter().map(|deployment| async {
            let endpoint = deployment.endpoint.clone();
            (endpoint, self.fulfil(Effect::Deploy(deployment)).await)
        });
        Ok(join_all(deployments).await.into_iter().collect())
    }

    /// From now on nothing is accepted, and nothing noted.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    async fn fulfil(&self, effect: Effect) -> Result<(), String> {
        let endpoint = effect.endpoint().to_owned();
        let done = match &effect {
            Effect::Deploy(_) => "endpoint in service",
            Effect::Update(_) => "endpoint updated",
            Effect::SetWeights { .. } => "weights and capacities changed",
            Effect::Remove(_) => "endpoint deleted",
        };
        let outcome = self.fulfilled(effect).await.map_err(|error| error.to_string());
        if self.stopping.is_cancelled() {
            return outcome;
        }
        match &outcome {
            Ok(()) => tracing::info!(endpoint, "{done}"),
            Err(reason) => tracing::error!(endpoint, reason, "the endpoint stays as it was"),
        }
        self.state.settle(&endpoint, outcome.clone()).await;
        outcome
    }

    async fn fulfilled(&self, effect: Effect) -> Result<(), FleetError> {
        match effect {
            Effect::Deploy(deployment) | Effect::Update(deployment) => self.fleets.deploy(deployment).await,
            Effect::SetWeights { endpoint, capacities } => {
                let capacities: Vec<_> = capacities.into_iter().map(Capacity::from).collect();
                self.fleets.set_capacities(&endpoint, &capacities).await
            }
            Effect::Remove(endpoint) => {
                self.fleets.remove(&endpoint).await;
                Ok(())
            }
        }
    }
}

fn stopping() -> AwsError {
    AwsError::Internal("the server is stopping".to_owned())
}

impl From<control::Capacity> for Capacity {
    fn from(capacity: control::Capacity) -> Self {
        Self {
            variant: capacity.variant,
            weight: Some(capacity.weight),
            instances: Some(capacity.instances),
        }
    }
}

impl StatusSource for Fleets {
    fn running_instances(&self, endpoint: &str, variant: &str) -> u32 {
        let status = self.status(endpoint);
        let variants = status.iter().flat_map(|status| &status.variants);
        let of_that_name = variants.into_iter().find(|status| status.name == variant);
        of_that_name.map_or(0, |status| status.current_instances)
    }

    fn runs_processes(&self) -> bool {
        self.runs_processes()
    }
}
