//! An endpoint's life. At most one thing is done to it at a time, so who did it need not say which it was.
//!
//! | is | create | update, weights | delete | settled well | settled badly |
//! |---|---|---|---|---|---|
//! | absent | `Creating` | | | | |
//! | `Creating` | | refused | refused | `InService` | `Failed` |
//! | `InService` | | `Updating` | `Deleting` | | |
//! | `Updating` | | refused | refused | `InService` | `InService`, as it was before, with the reason |
//! | `Failed` | | refused | `Deleting` | | |
//! | `Deleting` | | refused | refused | absent | absent |

use std::sync::Arc;

use serde_json::{Map, Value};

use super::arn::{Arns, Kind};
use super::error::AwsError;
use super::records::Records;
use crate::endpoint::spec::{Deployment, EndpointConfig};

/// What SageMaker keeps of a reason.
const REASON_CHARS: usize = 1024;

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

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub name: String,
    pub arn: String,
    /// Seconds since the epoch.
    pub created: f64,
    pub modified: f64,
    pub phase: Phase,
    /// Of what was tried last.
    pub failure: Option<String>,
    /// What serves.
    pub current: Option<Wish>,
    /// What was asked for last.
    pub desired: Wish,
    /// By the command line: it is not kept in a file, because the next command line says it again.
    pub declared: bool,
    /// From a state file, and not deployed since: that it comes to serve again changes nothing of
    /// it.
    pub restored: bool,
}

/// What an endpoint is to be, whatever becomes of that of which it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub config: Arc<EndpointConfig>,
    /// With the weights and the numbers of instances that were asked for last.
    pub deployment: Deployment,
    /// How it was to be deployed. Kept to be given back: here all traffic moves at once.
    pub deployment_config: Option<Value>,
}

impl Wish {
    /// Of the models as they are in `records`.
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

    /// Of what was asked for without a configuration.
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
    /// One that is to be deployed.
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

    /// Begins `phase`, or says why not.
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

    /// Whether another configuration is on its way.
    pub(super) fn pending(&self) -> Option<&Wish> {
        let current = self.current.as_ref()?;
        (self.phase == Phase::Updating && !Arc::ptr_eq(&current.config, &self.desired.config)).then_some(&self.desired)
    }
}

impl Records {
    /// Adds an endpoint that the command line declares. It is no less real than others, except that no file keeps it.
    pub fn declare(&mut self, deployment: Deployment, arns: &Arns, now: f64) -> Result<(), AwsError> {
        let mut endpoint = Endpoint::new(Wish::declared(deployment, arns, now), arns, now);
        self.must_be_new(Kind::Endpoint, &endpoint.arn)?;
        endpoint.declared = true;
        self.endpoints.insert(endpoint.name.clone(), endpoint);
        Ok(())
    }

    /// Notes how what was begun for `endpoint` ended; `Err` holds the reason.
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
