//! Connects the control plane to the fleets: answers actions and carries out their effects.
//!
//! Invariant: the effect of an acknowledged action is carried out and its outcome recorded, even
//! if the client has left. The exception is the stop of the server: effects that are then under
//! way stay recorded as desired, so that a state file restores them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::control::{self, ControlError, Effect, StatusSource};
use super::fleet::{Capacity, FleetError, Fleets};
use super::spec::Deployment;
use super::state::ControlState;

/// The control plane together with the fleets.
#[derive(Clone)]
pub struct Provisioner {
    state: Arc<ControlState>,
    fleets: Arc<Fleets>,
    /// The runtime for all work, so that a client that hangs up interrupts nothing.
    background: Handle,
    /// Maximum time that a response waits for the action's effect. AWS's waiters check at once,
    /// and then only after half a minute.
    settle_wait: Duration,
    stopping: CancellationToken,
}

impl Provisioner {
    pub fn new(state: ControlState, fleets: Arc<Fleets>, background: Handle, settle_wait: Duration) -> Self {
        Self {
            state: Arc::new(state),
            fleets,
            background,
            settle_wait,
            stopping: CancellationToken::new(),
        }
    }

    /// Answers an action, given the request's `X-Amz-Target` and its body. The effect ends within
    /// `settle_wait`, or continues after the response.
    pub async fn answer(&self, target: String, body: Bytes) -> Result<Value, ControlError> {
        if self.stopping.is_cancelled() {
            return Err(stopping());
        }
        let this = self.clone();
        let answered = self.background.spawn(async move {
            let answer = this.state.answer(&target, &body, &*this.fleets).await?;
            if let Some(effect) = answer.effect {
                let (wait, stopping) = (this.settle_wait, this.stopping.clone());
                let carried_out = this
                    .background
                    .clone()
                    .spawn(async move { this.carry_out(effect).await });
                // The response is the same whether or not the effect has ended.
                let _settled = stopping.run_until_cancelled(timeout(wait, carried_out)).await;
            }
            Ok(answer.body)
        });
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Adds the declared endpoints, and deploys them and those of the state file. Returns once
    /// each of them serves or has failed.
    pub async fn start(&self, declared: Vec<Deployment>) -> Result<BTreeMap<String, Result<(), String>>, ControlError> {
        for deployment in declared {
            self.state.declare(deployment).await?;
        }
        let deployments = self.state.undeployed().into_iter().map(|deployment| async {
            let endpoint = deployment.endpoint.clone();
            (endpoint, self.carry_out(Effect::Deploy(deployment)).await)
        });
        Ok(join_all(deployments).await.into_iter().collect())
    }

    /// Stops accepting actions and recording outcomes.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    async fn carry_out(&self, effect: Effect) -> Result<(), String> {
        let endpoint = effect.endpoint().to_owned();
        let done = match &effect {
            Effect::Deploy(_) => "endpoint in service",
            Effect::Update(_) => "endpoint updated",
            Effect::SetWeights { .. } => "weights and capacities changed",
            Effect::Remove(_) => "endpoint deleted",
        };
        let outcome = self.apply_to_fleets(effect).await.map_err(|error| error.to_string());
        if self.stopping.is_cancelled() {
            return outcome;
        }
        match &outcome {
            Ok(()) => tracing::info!(endpoint, "{done}"),
            Err(reason) => tracing::error!(endpoint, reason, "the change of the endpoint failed"),
        }
        self.state.settle(&endpoint, outcome.clone()).await;
        outcome
    }

    async fn apply_to_fleets(&self, effect: Effect) -> Result<(), FleetError> {
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

fn stopping() -> ControlError {
    ControlError::Internal("the server is stopping".to_owned())
}

impl From<control::DesiredCapacity> for Capacity {
    fn from(capacity: control::DesiredCapacity) -> Self {
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
