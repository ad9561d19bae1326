//! A running variant: its instances and the choice among them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::artifact::Artifact;
use super::instance::{Instance, OutstandingRequest};
use super::status::VariantStatus;
use super::strategy::{self, InstanceLoad, RoutingInput};
use crate::endpoint::spec::{Deployment, Model, Variant};

/// The variants that serve an endpoint.
///
/// A request that holds a fleet keeps its containers running: replaced containers end after the
/// last holder drops the fleet.
pub struct Fleet {
    pub(super) deployment: Deployment,
    pub(super) variants: Vec<Arc<RunningVariant>>,
}

impl Fleet {
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// In the order of the endpoint configuration.
    pub fn variants(&self) -> &[Arc<RunningVariant>] {
        &self.variants
    }

    pub fn variant(&self, name: &str) -> Option<&Arc<RunningVariant>> {
        self.variants.iter().find(|variant| variant.name() == name)
    }
}

/// One production variant of a [`Fleet`].
pub struct RunningVariant {
    pub(super) spec: Variant,
    pub(super) model: Arc<Model>,
    /// The models by the container's hostname. All instances share them, including later ones.
    pub(super) artifacts: HashMap<String, Arc<Artifact>>,
    /// Whether the endpoint takes asynchronous invocations, which have wider limits.
    pub(super) asynchronous: bool,
    round_robin: AtomicU64,
    // Locked only briefly.
    state: Mutex<VariantState>,
}

struct VariantState {
    weight: f64,
    desired_weight: f64,
    desired_instances: u32,
    instances: Arc<[Arc<Instance>]>,
}

impl RunningVariant {
    pub(super) fn new(
        spec: Variant,
        model: Arc<Model>,
        artifacts: HashMap<String, Arc<Artifact>>,
        asynchronous: bool,
    ) -> Self {
        let state = VariantState {
            weight: spec.weight,
            desired_weight: spec.weight,
            desired_instances: spec.instances,
            instances: Arc::default(),
        };
        Self {
            spec,
            model,
            artifacts,
            asynchronous,
            round_robin: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The current weight, which may have changed since the deployment.
    pub fn weight(&self) -> f64 {
        self.state().weight
    }

    /// The current instances.
    pub fn instances(&self) -> Arc<[Arc<Instance>]> {
        Arc::clone(&self.state().instances)
    }

    /// Chooses an instance for a request without properties. Equal instances take turns.
    pub fn choose(&self) -> Option<OutstandingRequest> {
        self.choose_for(&RoutingInput::default())
    }

    /// Chooses the instance for a request by the variant's routing strategy. Considers the
    /// instances whose containers all respond, or all instances if there are none. `None` if the
    /// variant has no instances.
    pub fn choose_for(&self, input: &RoutingInput<'_>) -> Option<OutstandingRequest> {
        let instances = self.instances();
        let up: Vec<&Arc<Instance>> = instances.iter().filter(|instance| instance.is_up()).collect();
        let candidates = match up.is_empty() {
            true => instances.iter().collect(),
            false => up,
        };
        let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
        let draw = input
            .draw
            .unwrap_or_else(|| self.round_robin.fetch_add(1, Ordering::Relaxed));
        let first = usize::try_from(draw % count).unwrap_or_default();
        let loads: Vec<InstanceLoad> = candidates
            .iter()
            .map(|instance| InstanceLoad {
                id: instance.id(),
                outstanding: instance.outstanding(),
            })
            .collect();
        let chosen = strategy::choose(self.spec.routing, &loads, first, input)?;
        candidates.get(chosen).map(|instance| instance.begin())
    }

    /// The instance with this id, for a session that started there.
    pub fn instance(&self, id: u64) -> Option<OutstandingRequest> {
        let instances = self.instances();
        instances
            .iter()
            .find(|instance| instance.id() == id)
            .map(Instance::begin)
    }

    pub(super) fn status(&self) -> VariantStatus {
        let state = self.state();
        VariantStatus {
            name: self.spec.name.clone(),
            current_weight: state.weight,
            desired_weight: state.desired_weight,
            current_instances: u32::try_from(state.instances.len()).unwrap_or(u32::MAX),
            desired_instances: state.desired_instances,
        }
    }

    /// Records the desired weight and number of instances.
    pub(super) fn set_desired(&self, weight: Option<f64>, instances: Option<u32>) {
        let mut state = self.state();
        state.desired_weight = weight.unwrap_or(state.desired_weight);
        state.desired_instances = instances.unwrap_or(state.desired_instances);
    }

    /// Resets the desired values to the current ones.
    pub(super) fn reset_desired(&self) {
        let mut state = self.state();
        state.desired_weight = state.weight;
        state.desired_instances = u32::try_from(state.instances.len()).unwrap_or(u32::MAX);
    }

    /// Applies the desired weight and these instances. Returns the former instances that are not
    /// among them.
    pub(super) fn settle(&self, instances: Vec<Arc<Instance>>) -> Vec<Arc<Instance>> {
        let mut state = self.state();
        state.weight = state.desired_weight;
        let before = std::mem::replace(&mut state.instances, instances.into());
        let gone = before
            .iter()
            .filter(|old| !state.instances.iter().any(|new| new.id() == old.id()));
        gone.cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, VariantState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
