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

use super::arn::{Arns, Kind};
use super::error::AwsError;
use super::records::Records;
use crate::endpoint::spec::{Deployment, EndpointConfig};

/// Maximum characters of a failure reason, as on SageMaker.
const REASON_CHARS: usize = 1024;

/// The status of an endpoint by SageMaker's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Creating,
    Updating,
    InService,
    Failed,
    Deleting,
}

impl Phase {
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
    pub phase: Phase,
    /// The failure reason of the last change.
    pub failure: Option<String>,
    /// The configuration that serves.
    pub current: Option<Wish>,
    /// The configuration of the last change.
    pub desired: Wish,
    /// Whether the command line declares the endpoint. Then it is not written to the state file.
    pub declared: bool,
    /// Whether the endpoint comes from a state file and is not deployed yet. Its deployment does
    /// not change its modification time.
    pub restored: bool,
}

/// The desired configuration of an endpoint, independent of later changes to its sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub config: Arc<EndpointConfig>,
    /// The deployment with the last requested weights and numbers of instances.
    pub deployment: Deployment,
    /// Stored only to be returned: here all traffic moves at once.
    pub deployment_config: Option<Value>,
}

impl Wish {
    /// A configuration with the current models of `records`.
    pub fn new(endpoint: &str, config: &Arc<EndpointConfig>, records: &Records, arns: &Arns) -> Result<Self, AwsError> {
        let variants = config.variants.iter().map(|variant| {
            let model = records.model(arns, &variant.model_name)?;
            Ok((variant.clone(), Arc::clone(model)))
        });
        Ok(Self {
            config: Arc::clone(config),
            deployment: Deployment {
                endpoint: endpoint.to_owned(),
                variants: variants.collect::<Result<_, AwsError>>()?,
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
            arn: arns.of(Kind::EndpointConfig, name),
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
    pub fn new(desired: Wish, arns: &Arns, now: f64) -> Self {
        let name = desired.deployment.endpoint.clone();
        Self {
            arn: arns.of(Kind::Endpoint, &name),
            name,
            created: now,
            modified: now,
            phase: Phase::Creating,
            failure: None,
            current: None,
            desired,
            declared: false,
            restored: false,
        }
    }

    /// Begins `phase`, or refuses it with the reason.
    pub(super) fn begin(&mut self, phase: Phase, now: f64) -> Result<(), AwsError> {
        match (self.phase, phase) {
            (Phase::InService, _) | (Phase::Failed, Phase::Deleting) => {}
            (Phase::Failed, _) => {
                return Err(AwsError::validation(format!(
                    "Cannot update endpoint \"{}\" in status Failed: it can only be deleted.",
                    self.arn
                )));
            }
            (Phase::Creating | Phase::Updating | Phase::Deleting, _) => {
                return Err(AwsError::validation(format!(
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
    pub(super) fn pending(&self) -> Option<&Wish> {
        let current = self.current.as_ref()?;
        (self.phase == Phase::Updating && !Arc::ptr_eq(&current.config, &self.desired.config)).then_some(&self.desired)
    }
}

impl Records {
    /// Adds an endpoint that the command line declares. It differs from others only in that the
    /// state file does not contain it.
    pub fn declare(&mut self, deployment: Deployment, arns: &Arns, now: f64) -> Result<(), AwsError> {
        let mut endpoint = Endpoint::new(Wish::declared(deployment, arns, now), arns, now);
        self.must_be_new(Kind::Endpoint, &endpoint.arn)?;
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
            (Phase::Deleting, _) => {
                self.endpoints.remove(endpoint);
                self.forget_tags(Kind::Endpoint, endpoint);
                return;
            }
            (Phase::Creating | Phase::Updating, Ok(())) => {
                record.phase = Phase::InService;
                record.failure = None;
                record.current = Some(record.desired.clone());
            }
            (Phase::Creating | Phase::Updating, Err(reason)) => {
                record.failure = Some(reason.chars().take(REASON_CHARS).collect());
                record.phase = match &record.current {
                    Some(current) => {
                        record.desired = current.clone();
                        Phase::InService
                    }
                    None => Phase::Failed,
                };
            }
            (Phase::InService | Phase::Failed, _) => return,
        }
        if !is_as_it_was {
            record.modified = now;
        }
    }
}
