//! Endpoints that the command line declares; the server deploys them when it starts.
//!
//! Each flag is a short form of a `CreateModel` request and is read by the same rules. So a
//! configuration that works here by a flag also works as a request to SageMaker. The exception is
//! `--container`, a container that runs already: SageMaker starts all containers itself.

use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::control::{Arns, parse_model};
use super::pattern;
use super::spec::{Container, Deployment, Execution, Model, Variant};
use crate::wire::BYTE_ORDER_MARK;

/// The variant of a declared endpoint, by the SageMaker SDK's name for a single variant.
pub const VARIANT: &str = "AllTraffic";

/// The endpoints that the command line declares.
#[derive(Debug, Clone, Default)]
pub struct DeclaredEndpoints {
    /// `--multi-model`: the directory or URL that contains the models.
    pub multi_model: Option<String>,
    /// `--model`: the archive or folder of a single model.
    pub model: Option<String>,
    /// `--container`, in order: containers that run already. With `--multi-model`, the one
    /// container that serves those models.
    pub containers: Vec<AttachedContainer>,
    /// Whether each request names one of `containers`. Otherwise they form a pipeline.
    pub direct: bool,
    /// `--endpoint-name`: the name of the endpoint that the fields above declare.
    pub endpoint_name: String,
    /// `--config`: files with `CreateModel` requests. Each model becomes an endpoint of its name.
    pub configs: Vec<PathBuf>,
    /// The number of instances of each endpoint.
    pub instances: u32,
}

/// A container that runs already, given as `NAME=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedContainer {
    pub hostname: String,
    /// `http://host:port`.
    pub address: String,
}

#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    #[error("cannot read {file}: {source}", file = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file}: {reason}", file = path.display())]
    Config { path: PathBuf, reason: String },
    #[error("{flag}: {reason}")]
    Flag { flag: &'static str, reason: String },
    #[error("two endpoints have the name {0:?}; give each model its own ModelName, or change --endpoint-name")]
    DuplicateName(String),
}

/// The reason why a value of `--container` is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    #[error("expected NAME=http://host:port")]
    Form,
    #[error("invalid name {0:?}: {NAMES}")]
    Name(String),
    #[error("invalid address {0:?}: expected http://host:port without a path")]
    Address(String),
}

impl FromStr for AttachedContainer {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hostname, address) = text.split_once('=').ok_or(ContainerError::Form)?;
        if !pattern::is_name(hostname) {
            return Err(ContainerError::Name(hostname.to_owned()));
        }
        let wrong = || ContainerError::Address(address.to_owned());
        let url = reqwest::Url::parse(address).map_err(|_| wrong())?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !url.has_host() || !plain || !url.username().is_empty() || url.password().is_some()
        {
            return Err(wrong());
        }
        Ok(Self {
            hostname: hostname.to_owned(),
            address: url.as_str().trim_end_matches('/').to_owned(),
        })
    }
}

impl DeclaredEndpoints {
    /// The deployments that the command line declares. `now` is in seconds since the epoch.
    pub fn deployments(&self, arns: &Arns, now: f64) -> Result<Vec<Deployment>, DeclareError> {
        let mut models = Vec::from_iter(self.model_of_flags(arns, now)?);
        for path in &self.configs {
            models.extend(models_of(path, arns, now)?);
        }
        let mut deployments = Vec::<Deployment>::with_capacity(models.len());
        for model in models {
            let same = |other: &Deployment| other.endpoint.eq_ignore_ascii_case(&model.name);
            if deployments.iter().any(same) {
                return Err(DeclareError::DuplicateName(model.name));
            }
            deployments.push(self.deployment_of(model));
        }
        Ok(deployments)
    }

    fn deployment_of(&self, model: Model) -> Deployment {
        let variant = Variant {
            instances: self.instances,
            ..Variant::new(VARIANT, model.name.clone())
        };
        Deployment {
            endpoint: model.name.clone(),
            variants: vec![(variant, Arc::new(model))],
            asynchronous: None,
        }
    }

    fn model_of_flags(&self, arns: &Arns, now: f64) -> Result<Option<Model>, DeclareError> {
        let here = Path::new("");
        let (flag, primary) = match (&self.multi_model, &self.model) {
            (Some(_), Some(_)) => {
                return Err(refused(
                    "--model",
                    "cannot be combined with --multi-model; give one of the two",
                ));
            }
            (Some(url), None) => (
                "--multi-model",
                json!({"Mode": "MultiModel", "ModelDataUrl": absolute(url, here)}),
            ),
            (None, Some(url)) => ("--model", json!({"ModelDataUrl": absolute(url, here)})),
            (None, None) if self.containers.is_empty() => return Ok(None),
            (None, None) => ("--container", json!({})),
        };
        if !pattern::is_name(&self.endpoint_name) {
            return Err(refused("--endpoint-name", NAMES));
        }
        let request = json!({"ModelName": self.endpoint_name, "PrimaryContainer": primary});
        let model = parse_model(request, arns, now).map_err(|error| refused(flag, error.to_string()))?;
        match self.containers.as_slice() {
            [] => Ok(Some(model)),
            _ if flag == "--model" => Err(refused(
                "--model",
                "cannot be combined with --container, whose container has its model already",
            )),
            [_, _, ..] if flag == "--multi-model" => Err(refused(
                "--container",
                "only one container can serve --multi-model; give --container once",
            )),
            attached => self.attached(model, attached).map(Some),
        }
    }

    /// Replaces the container that would be started by containers that run already.
    fn attached(&self, model: Model, attached: &[AttachedContainer]) -> Result<Model, DeclareError> {
        for (index, container) in attached.iter().enumerate() {
            if attached[..index]
                .iter()
                .any(|other| other.hostname == container.hostname)
            {
                let reason = format!("two containers have the name {:?}", container.hostname);
                return Err(refused("--container", reason));
            }
        }
        if self.direct && model.multi_model().is_some() {
            return Err(refused(
                "--direct",
                "cannot be combined with --multi-model, whose requests name a model, not a container",
            ));
        }
        let containers = model.containers.iter().cycle().zip(attached);
        let containers = containers.map(|(container, attached)| Container {
            hostname: attached.hostname.clone(),
            address: Some(attached.address.clone()),
            ..container.clone()
        });
        Ok(Model {
            containers: containers.collect(),
            execution: if self.direct {
                Execution::Direct
            } else {
                Execution::Serial
            },
            ..model
        })
    }
}

/// Reads the models of a file: one `CreateModel` request or a list of them.
fn models_of(path: &Path, arns: &Arns, now: f64) -> Result<Vec<Model>, DeclareError> {
    let wrong = |reason: String| DeclareError::Config {
        path: path.to_owned(),
        reason,
    };
    let bytes = fs::read(path).map_err(|source| DeclareError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let document = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    let (requests, listed) = match document {
        Value::Array(requests) => (requests, true),
        one => (vec![one], false),
    };
    if requests.is_empty() {
        return Err(wrong("the file contains no model".to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let model = |(index, mut request): (usize, Value)| {
        resolve(&mut request, folder);
        let model = parse_model(request, arns, now);
        model.map_err(|error| match listed {
            true => wrong(format!("model {}: {error}", index + 1)),
            false => wrong(error.to_string()),
        })
    };
    requests.into_iter().enumerate().map(model).collect()
}

/// Resolves paths relative to the file that contains them, so that the file can stay next to its
/// models.
fn resolve(request: &mut Value, folder: &Path) {
    let resolve = |container: &mut Value| {
        if let Some(Value::String(url)) = container.get_mut("ModelDataUrl") {
            *url = absolute(url, folder);
        }
    };
    if let Some(container) = request.get_mut("PrimaryContainer") {
        resolve(container);
    }
    let several = request.get_mut("Containers").and_then(Value::as_array_mut);
    several.into_iter().flatten().for_each(resolve);
}

/// Makes a path independent of the working directory. Leaves anything else unchanged.
fn absolute(url: &str, folder: &Path) -> String {
    if url.is_empty() || url.contains("://") {
        return url.to_owned();
    }
    match path::absolute(folder.join(url)).map(PathBuf::into_os_string) {
        Ok(path) => path.into_string().unwrap_or_else(|_| url.to_owned()),
        Err(_) => url.to_owned(),
    }
}

const NAMES: &str = "a name has at most 63 letters and digits, with hyphens between them";

fn refused(flag: &'static str, reason: impl Into<String>) -> DeclareError {
    DeclareError::Flag {
        flag,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
