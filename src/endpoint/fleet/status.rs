//! What is to be said of an endpoint to those who ask how it is doing.

use crate::endpoint::spec::Variant;

/// How far an endpoint has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its first containers start.
    Creating,
    /// It answers as before, while what takes over starts.
    Updating,
    InService,
    /// What was asked for last did not come to be. What there was before goes on serving.
    Failed {
        /// In SageMaker's words, and the last that the container said.
        reason: String,
    },
    /// It answers nobody any more, and its containers end.
    Deleting,
}

/// An endpoint as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub phase: Phase,
    /// Of what serves; while nothing does, of what is to.
    pub variants: Vec<VariantStatus>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VariantStatus {
    pub name: String,
    pub current_weight: f64,
    pub desired_weight: f64,
    /// That serve: fewer than desired while they start, or when the machine was said to have room for no more.
    pub current_instances: u32,
    pub desired_instances: u32,
}

/// A change of what a variant gets; what is `None` stays.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    pub variant: String,
    pub weight: Option<f64>,
    pub instances: Option<u32>,
}

impl Phase {
    /// Whether it is on its way to another one.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Creating | Self::Updating | Self::Deleting => true,
            Self::InService | Self::Failed { .. } => false,
        }
    }
}

/// Of a variant that does not serve yet.
pub(super) fn none(spec: &Variant) -> VariantStatus {
    VariantStatus {
        name: spec.name.clone(),
        current_weight: spec.weight,
        desired_weight: spec.weight,
        current_instances: 0,
        desired_instances: spec.instances,
    }
}
