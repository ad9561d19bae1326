//! The status of an endpoint.

use crate::endpoint::spec::Variant;

/// The phase of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetPhase {
    /// The first containers are starting.
    Creating,
    /// The endpoint serves as before while its new containers start.
    Updating,
    InService,
    /// The last change failed. The endpoint serves as before the change.
    Failed {
        /// SageMaker's message with the container's last log line.
        reason: String,
    },
    /// The endpoint serves no requests, and its containers are ending.
    Deleting,
}

/// The current status of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetStatus {
    pub phase: FleetPhase,
    /// The variants that serve, or the desired ones while none serve.
    pub variants: Vec<VariantStatus>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VariantStatus {
    pub name: String,
    pub current_weight: f64,
    pub desired_weight: f64,
    /// Instances that serve. Fewer than desired while some start, or if `--max-instances` is
    /// lower.
    pub current_instances: u32,
    pub desired_instances: u32,
}

/// A change of a variant's weight and number of instances. `None` keeps the current value.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    pub variant: String,
    pub weight: Option<f64>,
    pub instances: Option<u32>,
}

impl FleetPhase {
    /// Whether a change is in progress.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Creating | Self::Updating | Self::Deleting => true,
            Self::InService | Self::Failed { .. } => false,
        }
    }
}

/// The status of a variant that does not serve yet.
pub(super) fn none(spec: &Variant) -> VariantStatus {
    VariantStatus {
        name: spec.name.clone(),
        current_weight: spec.weight,
        desired_weight: spec.weight,
        current_instances: 0,
        desired_instances: spec.instances,
    }
}
