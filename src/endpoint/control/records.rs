//! The records of the control plane.
//!
//! Plain data whose copy is cheap, because it copies pointers. A change is made to a copy, which
//! then replaces the records.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::arn::{Arns, ResourceKind, resource};
use super::error::ControlError;
use super::request::Tag;
use super::running::Endpoint;
use crate::endpoint::spec::{EndpointConfig, Model};

pub type Tags = BTreeMap<String, String>;

/// All resources, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    pub models: BTreeMap<String, Arc<Model>>,
    pub configs: BTreeMap<String, Arc<EndpointConfig>>,
    pub endpoints: BTreeMap<String, Endpoint>,
    /// The tags by the last part of an ARN, such as `model/a`, so that a change of the region
    /// keeps them.
    pub tags: BTreeMap<String, Tags>,
}

impl Records {
    pub(super) fn model(&self, arns: &Arns, name: &str) -> Result<&Arc<Model>, ControlError> {
        let model = spelled(&self.models, name).and_then(|name| self.models.get(name));
        model.ok_or_else(|| missing(arns, ResourceKind::Model, name))
    }

    pub(super) fn config(&self, arns: &Arns, name: &str) -> Result<&Arc<EndpointConfig>, ControlError> {
        let config = spelled(&self.configs, name).and_then(|name| self.configs.get(name));
        config.ok_or_else(|| missing(arns, ResourceKind::EndpointConfig, name))
    }

    pub(super) fn endpoint(&self, arns: &Arns, name: &str) -> Result<&Endpoint, ControlError> {
        let endpoint = spelled(&self.endpoints, name).and_then(|name| self.endpoints.get(name));
        endpoint.ok_or_else(|| missing(arns, ResourceKind::Endpoint, name))
    }

    pub(super) fn endpoint_mut(&mut self, arns: &Arns, name: &str) -> Result<&mut Endpoint, ControlError> {
        let spelled = spelled(&self.endpoints, name).map(str::to_owned);
        let endpoint = spelled.and_then(|name| self.endpoints.get_mut(&name));
        endpoint.ok_or_else(|| missing(arns, ResourceKind::Endpoint, name))
    }

    fn has(&self, kind: ResourceKind, arn: &str) -> bool {
        match kind {
            ResourceKind::Model => self.models.values().any(|model| model.arn.eq_ignore_ascii_case(arn)),
            ResourceKind::EndpointConfig => self.configs.values().any(|config| config.arn.eq_ignore_ascii_case(arn)),
            ResourceKind::Endpoint => self
                .endpoints
                .values()
                .any(|endpoint| endpoint.arn.eq_ignore_ascii_case(arn)),
        }
    }

    pub(super) fn must_be_new(&self, kind: ResourceKind, arn: &str) -> Result<(), ControlError> {
        match self.has(kind, arn) {
            true => Err(ControlError::validation(format!(
                "Cannot create already existing {kind} \"{arn}\"."
            ))),
            false => Ok(()),
        }
    }

    /// The resource that `arn` names, as a key of [`tags`](Self::tags).
    pub(super) fn resource(&self, arns: &Arns, arn: &str) -> Result<String, ControlError> {
        match arns.resource(arn) {
            Some(resource) if ResourceKind::ALL.into_iter().any(|kind| self.has(kind, arn)) => {
                Ok(resource.to_ascii_lowercase())
            }
            _ => Err(ControlError::validation(format!("Could not find resource \"{arn}\"."))),
        }
    }

    /// Stores the tags of a create request.
    pub(super) fn add_tags(&mut self, kind: ResourceKind, name: &str, tags: Vec<Tag>) {
        let tags = Tags::from_iter(tags.into_iter().map(|tag| (tag.key, tag.value)));
        if !tags.is_empty() {
            self.tags.insert(resource(kind, name), tags);
        }
    }

    pub(super) fn forget_tags(&mut self, kind: ResourceKind, name: &str) {
        self.tags.remove(&resource(kind, name));
    }
}

/// The name as given in the create request. Names are not case-sensitive in the control plane, and
/// no two resources have names that differ only in case.
fn spelled<'a, T>(records: &'a BTreeMap<String, T>, name: &'a str) -> Option<&'a str> {
    match records.contains_key(name) {
        true => Some(name),
        false => {
            let mut names = records.keys();
            names.find(|known| known.eq_ignore_ascii_case(name)).map(String::as_str)
        }
    }
}

fn missing(arns: &Arns, kind: ResourceKind, name: &str) -> ControlError {
    ControlError::validation(format!("Could not find {kind} \"{}\".", arns.of(kind, name)))
}
