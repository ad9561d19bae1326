//! The file of `--state`: the requests that created the current resources, as AWS defines them.
//!
//! So reading the file checks it by the same rules as the API.
//!
//! Invariants:
//! - Whenever the machine stops, the file contains one complete state: the last acknowledged one
//!   or a newer one.
//! - A file that cannot be parsed is never changed.
//! - At most one process uses a file, because two would undo each other's changes. It holds a lock
//!   on the file, and locks a new file before it replaces the old one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::disk_cache::is_at;
use crate::endpoint::control::{
    Arns, ControlError, DesiredEndpoint, Endpoint, EndpointPhase, Records, Tags, parse_endpoint_config, parse_model,
};
use crate::endpoint::spec::{EndpointConfig, Model};

/// The version of the file format. Raised when older programs would misread the file.
const VERSION: u64 = 1;

/// Maximum time to wait for another process's lock: a process that is ending, or a child that has
/// inherited the lock and is about to execute its program.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the state file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state file {} is damaged: {reason}; repair it, or move it away to start with an empty one", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the state file {} has version {version}, but this program reads version {VERSION}; move it away to start with an empty one",
        path.display()
    )]
    Version { path: PathBuf, version: u64 },
    #[error("cannot write the state file {}: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state file {} is in use by another process; give each process its own --state", path.display())]
    InUse { path: PathBuf },
    #[error("the server is stopping")]
    Stopping,
}

#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// The current file, open and locked.
    held: Mutex<Option<File>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateDocument {
    version: u64,
    models: Vec<SavedRequest>,
    endpoint_configs: Vec<SavedRequest>,
    endpoints: Vec<SavedEndpoint>,
    tags: BTreeMap<String, Tags>,
}

/// A create request and the time when it succeeded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRequest {
    created: f64,
    request: Value,
}

/// An endpoint with copies of its configuration and models, which may have been deleted or
/// created again since.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEndpoint {
    name: String,
    created: f64,
    modified: f64,
    config: SavedRequest,
    models: Vec<SavedRequest>,
    /// Changes since then.
    capacities: Vec<SavedCapacity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deployment_config: Option<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedCapacity {
    variant: String,
    weight: f64,
    instances: u32,
}

impl StateFile {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            held: Mutex::default(),
        }
    }

    /// Reads the records; `None` if the file does not exist.
    pub fn read(&self, arns: &Arns) -> Result<Option<Records>, StateError> {
        let path = || self.path.clone();
        let damaged = |reason: String| StateError::Damaged { path: path(), reason };
        let unread = |source| StateError::Read { path: path(), source };
        let Some(mut file) = self.take()? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(unread)?;
        self.hold(file);
        let document = serde_json::from_slice::<Value>(&bytes).map_err(|error| damaged(error.to_string()))?;
        match document.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(version) => return Err(StateError::Version { path: path(), version }),
            None => return Err(damaged("the version is missing".to_owned())),
        }
        let document = serde_json::from_value::<StateDocument>(document).map_err(|error| damaged(error.to_string()))?;
        document.into_records(arns).map(Some).map_err(damaged)
    }

    pub fn write(&self, records: &Records) -> Result<(), StateError> {
        self.replace(&StateDocument::of(records))
            .map_err(|source| StateError::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// Opens and locks the file.
    fn take(&self) -> Result<Option<File>, StateError> {
        let path = || self.path.clone();
        let unread = |source| StateError::Read { path: path(), source };
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            let file = match File::open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(unread(source)),
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_RETRY_DELAY);
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: path() }),
                // Some file systems have no locks. There the user must not share the file.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Checks that no other process replaced the file between opening and locking it.
            if is_at(&file, &self.path) {
                return Ok(Some(file));
            }
        }
    }

    fn replace(&self, document: &StateDocument) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // A fixed name, so that killed processes leave at most one such file behind.
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = folder.join(name);
        let written = write_new(&new, document).and_then(|file| {
            fs::rename(&new, &self.path)?;
            Ok(file)
        });
        if written.is_err() {
            // An incomplete file is useless, and the disk may be full.
            let _ = fs::remove_file(&new);
        }
        self.hold(written?);
        // The file has been replaced already, so an error here is not a failed write.
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            tracing::warn!(path = %self.path.display(), %error, "the state file may be lost in a power failure");
        }
        Ok(())
    }

    fn hold(&self, file: File) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }
}

/// Creates the file at `path`, locks it and syncs it to disk.
fn write_new(path: &Path, document: &StateDocument) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Readable only by the owner, because environments contain secrets.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // See `take`.
    let _ = file.try_lock();
    let mut buffer = BufWriter::new(&file);
    serde_json::to_writer_pretty(&mut buffer, document)?;
    buffer.write_all(b"\n")?;
    buffer.flush()?;
    drop(buffer);
    file.sync_all()?;
    Ok(file)
}

impl StateDocument {
    fn of(records: &Records) -> Self {
        // An endpoint that is being deleted counts as deleted. The command line declares its own
        // endpoints again at each start.
        let endpoints = records
            .endpoints
            .values()
            .filter(|endpoint| !endpoint.declared && endpoint.phase != EndpointPhase::Deleting);
        let endpoints = Vec::from_iter(endpoints);
        let gone = |resource: &str| {
            resource.strip_prefix("endpoint/").is_some_and(|name| {
                !endpoints
                    .iter()
                    .any(|endpoint| endpoint.name.eq_ignore_ascii_case(name))
            })
        };
        let tags = records.tags.iter().filter(|(resource, _)| !gone(resource));
        Self {
            version: VERSION,
            models: records
                .models
                .values()
                .map(|model| SavedRequest::model(model))
                .collect(),
            endpoint_configs: records
                .configs
                .values()
                .map(|config| SavedRequest::config(config))
                .collect(),
            tags: tags.map(|(resource, tags)| (resource.clone(), tags.clone())).collect(),
            endpoints: endpoints.into_iter().map(SavedEndpoint::of).collect(),
        }
    }

    fn into_records(self, arns: &Arns) -> Result<Records, String> {
        let mut records = Records {
            tags: self.tags,
            ..Records::default()
        };
        for (index, saved) in self.models.into_iter().enumerate() {
            let model = saved
                .into_model(arns)
                .map_err(|error| format!("models[{index}]: {error}"))?;
            records.models.insert(model.name.clone(), Arc::new(model));
        }
        for (index, saved) in self.endpoint_configs.into_iter().enumerate() {
            let config = saved.into_config(arns);
            let config = config.map_err(|error| format!("endpoint_configs[{index}]: {error}"))?;
            records.configs.insert(config.name.clone(), Arc::new(config));
        }
        for (index, saved) in self.endpoints.into_iter().enumerate() {
            let endpoint = saved.into_endpoint(arns);
            let endpoint = endpoint.map_err(|error| format!("endpoints[{index}]: {error}"))?;
            records.endpoints.insert(endpoint.name.clone(), endpoint);
        }
        Ok(records)
    }
}

impl SavedRequest {
    fn model(model: &Model) -> Self {
        Self {
            created: model.created,
            request: model.raw.clone(),
        }
    }

    fn config(config: &EndpointConfig) -> Self {
        Self {
            created: config.created,
            request: config.raw.clone(),
        }
    }

    fn into_model(self, arns: &Arns) -> Result<Model, ControlError> {
        parse_model(self.request, arns, self.created)
    }

    fn into_config(self, arns: &Arns) -> Result<EndpointConfig, ControlError> {
        parse_endpoint_config(self.request, arns, self.created)
    }
}

impl SavedEndpoint {
    fn of(endpoint: &Endpoint) -> Self {
        let desired = &endpoint.desired;
        let variants = &desired.deployment.variants;
        // Variants may share a model.
        let models = BTreeMap::from_iter(variants.iter().map(|(_, model)| (&model.name, model)));
        Self {
            name: endpoint.name.clone(),
            created: endpoint.created,
            modified: endpoint.modified,
            config: SavedRequest::config(&desired.config),
            models: models.into_values().map(|model| SavedRequest::model(model)).collect(),
            capacities: variants
                .iter()
                .map(|(variant, _)| SavedCapacity {
                    variant: variant.name.clone(),
                    weight: variant.weight,
                    instances: variant.instances,
                })
                .collect(),
            deployment_config: desired.deployment_config.clone(),
        }
    }

    /// The endpoint after a start, not deployed yet.
    fn into_endpoint(self, arns: &Arns) -> Result<Endpoint, String> {
        let text = |error: ControlError| error.to_string();
        let config = Arc::new(self.config.into_config(arns).map_err(text)?);
        let mut own = Records::default();
        for saved in self.models {
            let model = saved.into_model(arns).map_err(text)?;
            own.models.insert(model.name.clone(), Arc::new(model));
        }
        let mut desired = DesiredEndpoint::new(&self.name, &config, &own, arns).map_err(text)?;
        desired.deployment_config = self.deployment_config;
        for (variant, _) in &mut desired.deployment.variants {
            let Some(saved) = self.capacities.iter().find(|saved| saved.variant == variant.name) else {
                continue;
            };
            if !(saved.weight >= 0.0 && saved.weight.is_finite()) {
                return Err(format!(
                    "variant {:?} has the weight {}; expected a finite number, at least 0",
                    variant.name, saved.weight
                ));
            }
            variant.weight = saved.weight;
            variant.instances = saved.instances;
        }
        Ok(Endpoint {
            modified: self.modified,
            restored: true,
            ..Endpoint::new(desired, arns, self.created)
        })
    }
}
