//! Endpoints without a control plane: what the command line says is deployed when the server starts.
//!
//! Each flag is a short form of a `CreateModel`, read by the same rules, so that what is tried here by a flag works when it
//! is said to SageMaker. Only containers that run already have no such form: SageMaker runs all of its own.

use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::control::{self, Arns, parse_model};
use super::spec::{Container, Deployment, Execution, Model, Variant};
use crate::wire::BYTE_ORDER_MARK;

/// The variant that such an endpoint has: what the SageMaker SDK calls the only one.
pub const VARIANT: &str = "AllTraffic";

/// What the command line may say.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// `--multi-model`: a directory or a URL below which the models are.
    pub multi_model: Option<String>,
    /// `--model`: one model's archive or folder.
    pub model: Option<String>,
    /// `--container`, in order: containers that run already. With `--multi-model`, the one that serves those models.
    pub containers: Vec<AttachedContainer>,
    /// Whether requests choose among `containers`, which else are a pipeline.
    pub direct: bool,
    /// `--endpoint-name`, of what the flags above say.
    pub endpoint_name: String,
    /// `--config`: files of `CreateModel` requests. Each model becomes the endpoint of its name.
    pub configs: Vec<PathBuf>,
    /// Of each endpoint.
    pub instances: u32,
}

/// `NAME=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedContainer {
    pub hostname: String,
    /// `http://host:port`.
    pub address: String,
}

#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    #[error("{file} cannot be read: {source}", file = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file}: {reason}", file = path.display())]
    Config { path: PathBuf, reason: String },
    #[error("{flag}: {reason}")]
    Flag { flag: &'static str, reason: String },
    #[error("two endpoints would be called {0:?}")]
    Twice(String),
}

/// Why a `--container` is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    #[error("a container is given as NAME=http://host:port")]
    Form,
    #[error("{0:?}: {NAMES}")]
    Name(String),
    #[error("the address {0:?} must be http://host:port, without a path")]
    Address(String),
}

impl FromStr for AttachedContainer {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hostname, address) = text.split_once('=').ok_or(ContainerError::Form)?;
        if !control::is_name(hostname) {
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

impl Declared {
    /// What is to be deployed. `now` is in seconds since the epoch.
    pub fn deployments(&self, arns: &Arns, now: f64) -> Result<Vec<Deployment>, DeclareError> {
        let mut models = Vec::from_iter(self.model_of_flags(arns, now)?);
        for path in &self.configs {
            models.extend(models_of(path, arns, now)?);
        }
        let mut deployments = Vec::<Deployment>::with_capacity(models.len());
        for model in models {
            let same = |other: &Deployment| other.endpoint.eq_ignore_ascii_case(&model.name);
            if deployments.iter().any(same) {
                return Err(DeclareError::Twice(model.name));
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
            (Some(_), Some(_)) => return Err(refused("--model", "an endpoint has either this or --multi-model")),
            (Some(url), None) => (
                "--multi-model",
                json!({"Mode": "MultiModel", "ModelDataUrl": absolute(url, here)}),
            ),
            (None, Some(url)) => ("--model", json!({"ModelDataUrl": absolute(url, here)})),
            (None, None) if self.containers.is_empty() => return Ok(None),
            (None, None) => ("--container", json!({})),
        };
        if !control::is_name(&self.endpoint_name) {
            return Err(refused("--endpoint-name", NAMES));
        }
        let request = json!({"ModelName": self.endpoint_name, "PrimaryContainer": primary});
        let model = parse_model(request, arns, now).map_err(|error| refused(flag, error.to_string()))?;
        match self.containers.as_slice() {
            [] => Ok(Some(model)),
            _ if flag == "--model" => Err(refused("--model", "a container that runs already has its model")),
            [_, _, ..] if flag == "--multi-model" => {
                Err(refused("--container", "only one container can serve --multi-model"))
            }
            attached => self.attached(model, attached).map(Some),
        }
    }

    /// Puts containers that run already in the place of the one that would be started.
    fn attached(&self, model: Model, attached: &[AttachedContainer]) -> Result<Model, DeclareError> {
        for (index, container) in attached.iter().enumerate() {
            if attached[..index]
                .iter()
                .any(|other| other.hostname == container.hostname)
            {
                let reason = format!("two containers are called {:?}", container.hostname);
                return Err(refused("--container", reason));
            }
        }
        if self.direct && model.multi_model().is_some() {
            return Err(refused(
                "--direct",
                "requests to --multi-model name a model, not a container",
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

/// The models of a file: one `CreateModel` request, or a list of them.
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
        return Err(wrong("it has no model".to_owned()));
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

/// Paths are relative to the file that has them, so that it can be kept beside what it is about.
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

/// A path as it is understood wherever the process goes; anything else as it is.
fn absolute(url: &str, folder: &Path) -> String {
    if url.is_empty() || url.contains("://") {
        return url.to_owned();
    }
    match path::absolute(folder.join(url)).map(PathBuf::into_os_string) {
        Ok(path) => path.into_string().unwrap_or_else(|_| url.to_owned()),
        Err(_) => url.to_owned(),
    }
}

const NAMES: &str = "a name has letters, digits, and hyphens between them, 63 at most";

fn refused(flag: &'static str, reason: impl Into<String>) -> DeclareError {
    DeclareError::Flag {
        flag,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
