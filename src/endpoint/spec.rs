//! What was asked for, checked: models, endpoint configurations, and what of them is deployed.
//!
//! Plain data between those who accept a wish (the control plane, the command line) and those who fulfil it (the fleet, the
//! runtime API). What always holds: who has one of these need not check it again. A [`Deployment`] is a snapshot: as on
//! SageMaker, an endpoint goes on serving when the models and the configuration that it was made of are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

/// What a model's only container is called when it was given no hostname, in the log and in errors.
pub const ONLY_CONTAINER: &str = "model";

/// A model in SageMaker's sense: containers, and what each of them serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub name: String,
    pub arn: String,
    /// Seconds since the epoch.
    pub created: f64,
    /// At least one. Their hostnames differ, and at most one of them is in multi-model mode.
    pub containers: Vec<Container>,
    pub execution: Execution,
    /// The request that created it, as it was given: what `DescribeModel` gives back.
    pub raw: Value,
}

/// How the containers of a model work together (MC-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Each takes what the one before it answered. Also that of a single container.
    Serial,
    /// Each request names its container.
    Direct,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// As given, else [`ONLY_CONTAINER`] for the only one and `container-1`, `container-2` for several (MC-3).
    pub hostname: String,
    /// `None` is this program.
    pub image: Option<String>,
    pub mode: Mode,
    /// One model's archive or folder; in multi-model mode the prefix to which `TargetModel` is appended. `s3://` and the
    /// like, or a path. A container in multi-model mode has one.
    pub model_data_url: Option<String>,
    pub environment: BTreeMap<String, String>,
    /// Of a container that runs already and is only asked: `http://host:port`, without a slash at its end.
    pub address: Option<String>,
}

/// What a container loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    SingleModel,
    MultiModel {
        /// Whether models stay loaded after they were asked (MM-22).
        cache: bool,
    },
}

/// What an endpoint is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointConfig {
    pub name: String,
    pub arn: String,
    /// Seconds since the epoch.
    pub created: f64,
    /// At least one; their names differ.
    pub variants: Vec<Variant>,
    pub asynchronous: Option<Asynchronous>,
    /// The request that created it, as it was given.
    pub raw: Value,
}

/// A model, how many instances serve it, and how much of the endpoint's traffic it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    pub name: String,
    pub model_name: String,
    /// May be 0 only by `UpdateEndpointWeightsAndCapacities`.
    pub instances: u32,
    /// Finite and not negative. Its share is this over the sum of all.
    pub weight: f64,
    pub routing: Routing,
    /// `ContainerStartupHealthCheckTimeoutInSeconds`, when it was given.
    pub startup_timeout: Option<Duration>,
    /// `ModelDataDownloadTimeoutInSeconds`, when it was given.
    pub download_timeout: Option<Duration>,
}

/// Which instance of a variant gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routing {
    #[default]
    Random,
    LeastOutstandingRequests,
    /// Requests that begin alike go to the same instance.
    PrefixAware {
        /// Bytes of the body that are compared.
        bytes: usize,
        /// Requests under way with which an instance takes no more for the sake of their prefix.
        threshold: Option<usize>,
    },
    KvAware,
}

/// Where the results of `InvokeEndpointAsync` go. Only an endpoint that has this takes such requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asynchronous {
    /// `s3://bucket/prefix`.
    pub output: String,
    pub failure: Option<String>,
    /// Requests that an instance works on at once.
    pub max_concurrent: Option<u32>,
}

/// What an endpoint is to serve from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub endpoint: String,
    /// At least one.
    pub variants: Vec<(Variant, Arc<Model>)>,
    pub asynchronous: Option<Asynchronous>,
}

impl Model {
    pub fn container(&self, hostname: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.hostname == hostname)
    }

    /// The container that takes a `TargetModel`.
    pub fn multi_model(&self) -> Option<&Container> {
        self.containers.iter().find(|container| container.is_multi_model())
    }

    /// Whether a request must name its container.
    pub fn is_direct(&self) -> bool {
        self.execution == Execution::Direct
    }
}

impl Container {
    /// One of this program in single-model mode, without a model.
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

    /// Whether somebody else runs it.
    pub fn is_attached(&self) -> bool {
        self.address.is_some()
    }
}

impl Variant {
    /// One instance, weight 1.
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
