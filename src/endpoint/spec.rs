//! Models, endpoint configurations and deployments, after validation.
//!
//! Plain data between the parts that accept requests (the control plane, the command line) and the
//! parts that carry them out (the fleets, the runtime API).
//!
//! Invariants:
//! - These values are valid; no part checks them again.
//! - A [`Deployment`] is a snapshot. As on SageMaker, an endpoint keeps serving after its models
//!   and its configuration are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

/// The name of a model's only container in the log and in errors, if it has no hostname.
pub const ONLY_CONTAINER: &str = "model";

/// A model in SageMaker's sense: containers and what each of them serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub name: String,
    pub arn: String,
    /// Seconds since the epoch.
    pub created: f64,
    /// At least one. Their hostnames differ, and at most one of them is in multi-model mode.
    pub containers: Vec<Container>,
    pub execution: Execution,
    /// The unchanged create request, which `DescribeModel` returns.
    pub raw: Value,
}

/// The way in which the containers of a model work together (MC-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Each container takes the response of the one before it. Also used for a single container.
    Serial,
    /// Each request names its container.
    Direct,
}

/// A container of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The given name. By default [`ONLY_CONTAINER`] for a single container, and `container-1`,
    /// `container-2` and so on for several (MC-3).
    pub hostname: String,
    /// `None` means this program.
    pub image: Option<String>,
    pub mode: Mode,
    /// The archive or folder of one model, as a path or a URL such as `s3://`. In multi-model mode
    /// the prefix to which `TargetModel` is appended; always set there.
    pub model_data_url: Option<String>,
    pub environment: BTreeMap<String, String>,
    /// The address of an attached container, which runs already: `http://host:port`, without a
    /// slash at its end.
    pub address: Option<String>,
}

/// Whether a container serves one model or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    SingleModel,
    MultiModel {
        /// Whether models stay loaded after a request (MM-22).
        cache: bool,
    },
}

/// An endpoint configuration: the variants of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointConfig {
    pub name: String,
    pub arn: String,
    /// Seconds since the epoch.
    pub created: f64,
    /// At least one. Their names differ.
    pub variants: Vec<Variant>,
    pub asynchronous: Option<AsyncConfig>,
    /// The unchanged create request.
    pub raw: Value,
}

/// A production variant: a model, the number of its instances and its share of the traffic.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    pub name: String,
    pub model_name: String,
    /// Only `UpdateEndpointWeightsAndCapacities` may set this to 0.
    pub instances: u32,
    /// Finite and not negative. The variant's share of the traffic is this divided by the sum of
    /// all.
    pub weight: f64,
    pub routing: Routing,
    /// `ContainerStartupHealthCheckTimeoutInSeconds`, if given.
    pub startup_timeout: Option<Duration>,
    /// `ModelDataDownloadTimeoutInSeconds`, if given.
    pub download_timeout: Option<Duration>,
}

/// The strategy that chooses the instance for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routing {
    #[default]
    Random,
    LeastOutstandingRequests,
    /// Requests whose bodies have the same prefix go to the same instance.
    PrefixAware {
        /// The length of the compared prefix in bytes.
        bytes: usize,
        /// An instance with this many outstanding requests gets no more because of their prefix.
        threshold: Option<usize>,
    },
    KvAware,
}

/// The destination of `InvokeEndpointAsync` results. Only endpoints with this configuration accept
/// such requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncConfig {
    /// `s3://bucket/prefix`.
    pub output: String,
    pub failure: Option<String>,
    /// Maximum number of requests that an instance processes at the same time.
    pub max_concurrent: Option<u32>,
}

/// The desired state of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub endpoint: String,
    /// At least one.
    pub variants: Vec<(Variant, Arc<Model>)>,
    pub asynchronous: Option<AsyncConfig>,
}

impl Model {
    pub fn container(&self, hostname: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.hostname == hostname)
    }

    /// The container in multi-model mode, which takes a `TargetModel`.
    pub fn multi_model(&self) -> Option<&Container> {
        self.containers.iter().find(|container| container.is_multi_model())
    }

    /// Whether a request must name its container.
    pub fn is_direct(&self) -> bool {
        self.execution == Execution::Direct
    }
}

impl Container {
    /// A container of this program in single-model mode, without a model.
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: hostname.into(),
            image: None,
            mode: Mode::SingleModel,
            model_data_url: None,
            environment: BTreeMap::new(),
            address: None,
        }
    }

    pub fn is_multi_model(&self) -> bool {
        matches!(self.mode, Mode::MultiModel { .. })
    }

    /// Whether the container runs already, outside this program's control.
    pub fn is_attached(&self) -> bool {
        self.address.is_some()
    }
}

impl Variant {
    /// A variant with one instance and weight 1.
    pub fn new(name: impl Into<String>, model_name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            model_name: model_name.into(),
            instances: 1,
            weight: 1.0,
            routing: Routing::default(),
            startup_timeout: None,
            download_timeout: None,
        }
    }
}

impl Deployment {
    pub fn variant(&self, name: &str) -> Option<&(Variant, Arc<Model>)> {
        self.variants.iter().find(|(variant, _)| variant.name == name)
    }
}
