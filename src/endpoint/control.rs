//! The control plane: SageMaker's actions on models, endpoint configurations, endpoints and tags.
//!
//! Pure code: an action reads or changes [`Records`], and returns the work to be done as an
//! [`Effect`]. A parsed request tells whether it reads or changes, so that the caller can write a
//! change to disk before acknowledging it.
//!
//! Invariants:
//! - A refused action changes nothing.
//! - An endpoint gets its next effect only after the previous one is
//!   [settled](Records::settle).

mod arn;
mod description;
mod endpoint;
mod endpoint_config;
mod error;
mod list;
mod model;
mod records;
mod request;
mod running;
mod shape;
mod shapes;
mod tags;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::spec::Deployment;
use crate::wire::BYTE_ORDER_MARK;

pub use arn::{ACCOUNT, Arns, ResourceKind};
pub use endpoint_config::parse as parse_endpoint_config;
pub use error::ControlError;
pub use model::parse as parse_model;
pub use records::{Records, Tags};
pub use running::{DesiredEndpoint, Endpoint, EndpointPhase};

use shape::Member;

/// The prefix of an action's name in `X-Amz-Target`.
const TARGET_PREFIX: &str = "SageMaker.";

/// The inputs of an action besides its request.
#[derive(Clone, Copy)]
pub struct ActionContext<'a> {
    pub arns: &'a Arns,
    /// Seconds since the epoch.
    pub now: f64,
    pub fleet: &'a dyn StatusSource,
}

/// Facts that only the fleets know.
pub trait StatusSource: Send + Sync {
    /// The number of a variant's running instances.
    fn running_instances(&self, endpoint: &str, variant: &str) -> u32;

    /// Whether containers are processes of this user.
    fn runs_processes(&self) -> bool;
}

/// The work that follows an acknowledged change. The caller reports its outcome to
/// [`Records::settle`].
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Deploys a new endpoint.
    Deploy(Deployment),
    /// Replaces the endpoint's current deployment, which serves until the new one does.
    Update(Deployment),
    /// Changes the weights and the numbers of instances.
    SetWeights {
        endpoint: String,
        /// The new values of all variants.
        capacities: Vec<DesiredCapacity>,
    },
    /// Removes the endpoint.
    Remove(String),
}

/// The weight and the number of instances of a variant.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredCapacity {
    pub variant: String,
    pub weight: f64,
    pub instances: u32,
}

impl Effect {
    pub fn endpoint(&self) -> &str {
        match self {
            Self::Deploy(deployment) | Self::Update(deployment) => &deployment.endpoint,
            Self::SetWeights { endpoint, .. } | Self::Remove(endpoint) => endpoint,
        }
    }
}

/// The body of a response and the effect of the action.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionResponse {
    pub body: Value,
    pub effect: Option<Effect>,
}

impl ActionResponse {
    fn plain(body: Value) -> Self {
        Self { body, effect: None }
    }
}

type Read = fn(&ActionContext<'_>, &Records, &Map<String, Value>) -> Result<Value, ControlError>;
type Change = fn(&ActionContext<'_>, &mut Records, &Map<String, Value>) -> Result<ActionResponse, ControlError>;

struct Action {
    name: &'static str,
    members: &'static [Member],
    handler: Handler,
}

#[derive(Clone, Copy)]
enum Handler {
    Read(Read),
    Change(Change),
}

#[rustfmt::skip]
static ACTIONS: [Action; 17] = [
    change("AddTags", shapes::ADD_TAGS, tags::add),
    change("CreateEndpoint", shapes::CREATE_ENDPOINT, endpoint::create),
    change("CreateEndpointConfig", shapes::CREATE_ENDPOINT_CONFIG, endpoint_config::create),
    change("CreateModel", shapes::CREATE_MODEL, model::create),
    change("DeleteEndpoint", shapes::ENDPOINT_BY_NAME, endpoint::delete),
    change("DeleteEndpointConfig", shapes::ENDPOINT_CONFIG_BY_NAME, endpoint_config::delete),
    change("DeleteModel", shapes::MODEL_BY_NAME, model::delete),
    change("DeleteTags", shapes::DELETE_TAGS, tags::delete),
    read("DescribeEndpoint", shapes::ENDPOINT_BY_NAME, endpoint::describe),
    read("DescribeEndpointConfig", shapes::ENDPOINT_CONFIG_BY_NAME, endpoint_config::describe),
    read("DescribeModel", shapes::MODEL_BY_NAME, model::describe),
    read("ListEndpointConfigs", shapes::LIST, list::endpoint_configs),
    read("ListEndpoints", shapes::LIST_ENDPOINTS, list::endpoints),
    read("ListModels", shapes::LIST, list::models),
    read("ListTags", shapes::LIST_TAGS, tags::list),
    change("UpdateEndpoint", shapes::UPDATE_ENDPOINT, endpoint::update),
    change("UpdateEndpointWeightsAndCapacities", shapes::UPDATE_WEIGHTS, endpoint::update_weights),
];

const fn read(name: &'static str, members: &'static [Member], handler: Read) -> Action {
    let handler = Handler::Read(handler);
    Action { name, members, handler }
}

const fn change(name: &'static str, members: &'static [Member], handler: Change) -> Action {
    let handler = Handler::Change(handler);
    Action { name, members, handler }
}

/// A request for an action, with a checked body.
pub enum ActionCall {
    Read(ReadCall),
    Change(ChangeCall),
}

pub struct ReadCall {
    handler: Read,
    body: Map<String, Value>,
}

pub struct ChangeCall {
    handler: Change,
    body: Map<String, Value>,
}

impl ActionCall {
    /// Parses a request, given its `X-Amz-Target` and its body.
    pub fn parse(target: &str, body: &[u8]) -> Result<Self, ControlError> {
        let name = target.strip_prefix(TARGET_PREFIX).unwrap_or(target);
        let Some(action) = ACTIONS.iter().find(|action| action.name == name) else {
            let names = ACTIONS.iter().map(|action| action.name);
            return Err(ControlError::UnknownOperation(format!(
                "unknown action {name:?}; this endpoint supports {}",
                Vec::from_iter(names).join(", ")
            )));
        };
        let body = match body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body) {
            [] => Value::Object(Map::new()),
            body => serde_json::from_slice(body)
                .map_err(|error| ControlError::Serialization(format!("the body is not JSON: {error}")))?,
        };
        let body = request::check(action.members, body)?;
        Ok(match action.handler {
            Handler::Read(handler) => Self::Read(ReadCall { handler, body }),
            Handler::Change(handler) => Self::Change(ChangeCall { handler, body }),
        })
    }
}

impl ReadCall {
    pub fn answer(&self, context: &ActionContext<'_>, records: &Records) -> Result<Value, ControlError> {
        (self.handler)(context, records, &self.body)
    }
}

impl ChangeCall {
    /// Leaves `records` unchanged if it refuses the request.
    pub fn answer(&self, context: &ActionContext<'_>, records: &mut Records) -> Result<ActionResponse, ControlError> {
        (self.handler)(context, records, &self.body)
    }
}

/// Parses and answers a request in one step, for callers without a state file.
pub fn answer(
    context: &ActionContext<'_>,
    records: &mut Records,
    target: &str,
    body: &[u8],
) -> Result<ActionResponse, ControlError> {
    match ActionCall::parse(target, body)? {
        ActionCall::Read(call) => call.answer(context, records).map(ActionResponse::plain),
        ActionCall::Change(call) => call.answer(context, records),
    }
}
