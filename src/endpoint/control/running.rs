//! The life cycle of an endpoint.
//!
//! At most one change is in progress, so its outcome needs no identification.
//!
//! | phase | create | update, weights | delete | success | failure |
//! |---|---|---|---|---|---|
//! | absent | `Creating` | | | | |
//! | `Creating` | | refused | refused | `InService` | `Failed` |
//! | `InService` | | `Updating` | `Deleting` | | |
//! | `Updating` | | refused | refused | `InService` | `InService`, unchanged, with the reason |
//! | `Failed` | | refused | `Deleting` | | |
//! | `Deleting` | | refused | refused | absent | absent |

use std::sync::Arc;

use serde_json::{Map, Value};

use super::arn::{Arns, ResourceKind};
use super::error::ControlError;
use super::records::Records;
use crate::endpoint::spec::{Deployment, EndpointConfig};

/// Maximum characters of a failure reason, as on SageMaker.
const REASON_CHARS: usize = 1024;

/// The status of an endpoint by SageMaker's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointPhase {
    Creating,
    Updating,
    InService,
    Failed,
    Deleting,
}

impl EndpointPhase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Updating => "Updating",
            Self::InService => "InService",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
        }
    }
}

/// An endpoint's record.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub name: String,
    pub arn: String,
    /// Seconds since the epoch.
    pub created: f64,
    pub modified: f64,
    pub phase: EndpointPhase,
    /// The failure reason of the last change.
    pub failure: Option<String>,
    /// The configuration that serves.
    pub current: Option<DesiredEndpoint>,
    /// The configuration of the last change.
    pub desired: DesiredEndpoint,
    /// Whether the command line declares the endpoint. Then it is not written to the state file.
    pub declared: bool,
    /// Whether the endpoint comes from a state file and is not deployed yet. Its deployment does
    /// not change its modification time.
    pub restored: bool,
}

/// The desired configuration of an endpoint, independent of later changes to its sources.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredEndpoint {
    pub config: Arc<EndpointConfig>,
    /// The deployment with the last requested weights and numbers of instances.
    pub deployment: Deployment,
    /// Stored only to be returned: here all traffic moves at once.
    pub deployment_config: Option<Value>,
}

impl DesiredEndpoint {
    /// A configuration with the current models of `records`.
    pub fn new(
        endpoint: &str,
        config: &Arc<EndpointConfig>,
        records: &Records,
        arns: &Arns,
    ) -> Result<Self, ControlError> {
        let variants = config.variants.iter().map(|variant| {
            let model = records.model(arns, &variant.model_name)?;
            Ok((variant.clone(), Arc::clone(model)))
        });
        Ok(Self {
            config: Arc::clone(config),
            deployment: Deployment {
                endpoint: endpoint.to_owned(),
                variants: variants.collect::<Result<_, ControlError>>()?,
                asynchronous: config.asynchronous.clone(),
            },
            deployment_config: None,
        })
    }

    /// The configuration of an endpoint that the command line declares.
    fn declared(deployment: Deployment, arns: &Arns, now: f64) -> Self {
        let name = &deployment.endpoint;
        let config = EndpointConfig {
            name: name.clone(),
            arn: arns.of(ResourceKind::EndpointConfig, name),
            created: now,
            variants: deployment.variants.iter().map(|(variant, _)| variant.clone()).collect(),
            asynchronous: deployment.asynchronous.clone(),
            raw: Value::Object(Map::new()),
        };
        Self {
            config: Arc::new(config),
            deployment,
            deployment_config: None,
        }
    }
}

impl Endpoint {
    /// A new endpoint, not deployed yet.
    pub fn new(desired: DesiredEndpoint, arns: &Arns, now: f64) -> Self {
        let name = desired.deployment.endpoint.clone();
        Self {
            arn: arns.of(ResourceKind::Endpoint, &name),
            name,
            created: now,
            modified: now,
            phase: EndpointPhase::Creating,
            failure: None,
            current: None,
            desired,
            declared: false,
            restored: false,
        }
    }

    /// Begins `phase`, or refuses it with the reason.
    pub(super) fn begin(&mut self, phase: EndpointPhase, now: f64) -> Result<(), ControlError> {
        match (self.phase, phase) {
            (EndpointPhase::InService, _) | (EndpointPhase::Failed, EndpointPhase::Deleting) => {}
            (EndpointPhase::Failed, _) => {
                return Err(ControlError::validation(format!(
                    "Cannot update endpoint \"{}\" in status Failed: it can only be deleted.",
                    self.arn
                )));
            }
            (EndpointPhase::Creating | EndpointPhase::Updating | EndpointPhase::Deleting, _) => {
                return Err(ControlError::validation(format!(
                    "Cannot update in-progress endpoint \"{}\".",
                    self.arn
                )));
            }
        }
        self.phase = phase;
        self.modified = now;
        Ok(())
    }

    /// The new configuration, while an update deploys one.
    pub(super) fn pending(&self) -> Option<&DesiredEndpoint> {
        let current = self.current.as_ref()?;
        (self.phase == EndpointPhase::Updating && !Arc::ptr_eq(&current.config, &self.desired.config))
            .then_some(&self.desired)
    }
}

impl Records {
    /// Adds an endpoint that the command line declares. It differs from others only in that the
    /// state file does not contain it.
    pub fn declare(&mut self, deployment: Deployment, arns: &Arns, now: f64) -> Result<(), ControlError> {
        let mut endpoint = Endpoint::new(DesiredEndpoint::declared(deployment, arns, now), arns, now);
        self.must_be_new(ResourceKind::Endpoint, &endpoint.arn)?;
        endpoint.declared = true;
        self.endpoints.insert(endpoint.name.clone(), endpoint);
        Ok(())
    }

    /// Records the outcome of the change in progress of `endpoint`; `Err` holds the reason.
    pub fn settle(&mut self, endpoint: &str, outcome: Result<(), String>, now: f64) {
        let Some(record) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        let is_as_it_was = std::mem::take(&mut record.restored) && outcome.is_ok();
        match (record.phase, outcome) {
            (EndpointPhase::Deleting, _) => {
                self.endpoints.remove(endpoint);
                self.forget_tags(ResourceKind::Endpoint, endpoint);
                return;
            }
            (EndpointPhase::Creating | EndpointPhase::Updating, Ok(())) => {
                record.phase = EndpointPhase::InService;
                record.failure = None;
                record.current = Some(record.desired.clone());
            }
            (EndpointPhase::Creating | EndpointPhase::Updating, Err(reason)) => {
                record.failure = Some(reason.chars().take(REASON_CHARS).collect());
                record.phase = match &record.current {
                    Some(current) => {
                        record.desired = current.clone();
                        EndpointPhase::InService
                    }
                    None => EndpointPhase::Failed,
                };
            }
            (EndpointPhase::InService | EndpointPhase::Failed, _) => return,
        }
        if !is_as_it_was {
            record.modified = now;
        }
    }
}
