//! The file of `--state`: the requests that made what there is, in AWS's own form, so that reading them checks them as the
//! API does.
//!
//! What always holds: the file is one whole state, the last that was acknowledged or a newer one, whenever the machine
//! stops. A file that cannot be understood is left as it is. No two processes have the same file: each would undo what the
//! other writes. Whoever has it holds a lock on it, and on what takes its place before that does.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::endpoint::control::{
    Arns, AwsError, Endpoint, Phase, Records, Tags, Wish, parse_endpoint_config, parse_model,
};
use crate::endpoint::spec::{EndpointConfig, Model};

/// Raised when older programs would misread the file.
const VERSION: u64 = 1;

/// How long the file may still be another process's: one that is ending, or that has inherited it and is about to execute its
/// program.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state file {} cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state file {} is damaged: {reason}; mend it, or move it away to begin anew", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the state file {} is of version {version}, and this program knows version {VERSION}; move it away to begin anew",
        path.display()
    )]
    Version { path: PathBuf, version: u64 },
    #[error("the state file {} cannot be written: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state file {} is in use by another process; give each its own", path.display())]
    InUse { path: PathBuf },
    #[error("the server is stopping")]
    Stopping,
}

#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// What is there, locked.
    held: Mutex<Option<File>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    models: Vec<Made>,
    endpoint_configs: Vec<Made>,
    endpoints: Vec<SavedEndpoint>,
    tags: BTreeMap<String, Tags>,
}

/// A request, and when it was fulfilled.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    created: f64,
    request: Value,
}

/// With copies of what it was made of, which may be gone or made again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEndpoint {
    name: String,
    created: f64,
    modified: f64,
    config: Made,
    models: Vec<Made>,
    /// What was changed since.
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

    /// `None` when there is no file.
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
            None => return Err(damaged("it has no version".to_owned())),
        }
        let document = serde_json::from_value::<Document>(document).map_err(|error| damaged(error.to_string()))?;
        document.into_records(arns).map(Some).map_err(damaged)
    }

    pub fn write(&self, records: &Records) -> Result<(), StateError> {
        self.replace(&Document::of(records))
            .map_err(|source| StateError::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// What is there, for this process alone.
    fn take(&self) -> Result<Option<File>, StateError> {
        let path = || self.path.clone();
        let unread = |source| StateError::Read { path: path(), source };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let file = match File::open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(unread(source)),
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOOK_AGAIN);
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: path() }),
                // Not every file system has locks, and then whoever shares a file has to know.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Replaced between the two, by a process that is gone by now.
            let there = fs::metadata(&self.path).map_err(unread)?;
            if file.metadata().map_err(unread)?.ino() == there.ino() {
                return Ok(Some(file));
            }
        }
    }

    fn replace(&self, document: &Document) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Always of the same name, so that no more than one is left behind by processes that were killed.
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = folder.join(name);
        let written = write_new(&new, document).and_then(|file| {
            fs::rename(&new, &self.path)?;
            Ok(file)
        });
        if written.is_err() {
            // It is of no use, and takes room where there is too little.
            let _ = fs::remove_file(&new);
        }
        self.hold(written?);
        // What is in place by now is what was written, so this is no failure of it.
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            tracing::warn!(path = %self.path.display(), %error, "the state file may not outlive a failure of power");
        }
        Ok(())
    }

    fn hold(&self, file: File) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }
}

/// Makes the file at `path`, locked and on the disk.
fn write_new(path: &Path, document: &Document) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Readable for its owner alone: environments hold secrets.
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

impl Document {
    fn of(records: &Records) -> Self {
        // One that is being deleted is as good as gone. One that is declared is declared again.
        let endpoints = records
            .endpoints
            .values()
            .filter(|endpoint| !endpoint.declared && endpoint.phase != Phase::Deleting);
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
            models: records.models.values().map(|model| Made::model(model)).collect(),
            endpoint_configs: records.configs.values().map(|config| Made::config(config)).collect(),
            tags: tags.map(|(resource, tags)| (resource.clone(), tags.clone())).collect(),
            endpoints: endpoints.into_iter().map(SavedEndpoint::of).collect(),
        }
    }

    fn into_records(self, arns: &Arns) -> Result<Records, String> {
        let mut records = Records {
            tags: self.tags,
            ..Records::default()
        };
        for (index, made) in self.models.into_iter().enumerate() {
            let model = made
                .into_model(arns)
                .map_err(|error| format!("models[{index}]: {error}"))?;
            records.models.insert(model.name.clone(), Arc::new(model));
        }
        for (index, made) in self.endpoint_configs.into_iter().enumerate() {
            let config = made.into_config(arns);
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

impl Made {
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

    fn into_model(self, arns: &Arns) -> Result<Model, AwsError> {
        parse_model(self.request, arns, self.created)
    }

    fn into_config(self, arns: &Arns) -> Result<EndpointConfig, AwsError> {
        parse_endpoint_config(self.request, arns, self.created)
    }
}

impl SavedEndpoint {
    fn of(endpoint: &Endpoint) -> Self {
        let wish = &endpoint.desired;
        let variants = &wish.deployment.variants;
        // Variants of one model share it.
        let models = BTreeMap::from_iter(variants.iter().map(|(_, model)| (&model.name, model)));
        Self {
            name: endpoint.name.clone(),
            created: endpoint.created,
            modified: endpoint.modified,
            config: Made::config(&wish.config),
            models: models.into_values().map(|model| Made::model(model)).collect(),
            capacities: variants
                .iter()
                .map(|(variant, _)| SavedCapacity {
                    variant: variant.name.clone(),
                    weight: variant.weight,
                    instances: variant.instances,
                })
                .collect(),
            deployment_config: wish.deployment_config.clone(),
        }
    }

    /// As it is after a start: yet to be deployed.
    fn into_endpoint(self, arns: &Arns) -> Result<Endpoint, String> {
        let said = |error: AwsError| error.to_string();
        let config = Arc::new(self.config.into_config(arns).map_err(said)?);
        let mut own = Records::default();
        for made in self.models {
            let model = made.into_model(arns).map_err(said)?;
            own.models.insert(model.name.clone(), Arc::new(model));
        }
        let mut desired = Wish::new(&self.name, &config, &own, arns).map_err(said)?;
        desired.deployment_config = self.deployment_config;
        for (variant, _) in &mut desired.deployment.variants {
            let Some(saved) = self.capacities.iter().find(|saved| saved.variant == variant.name) else {
                continue;
            };
            if !(saved.weight >= 0.0 && saved.weight.is_finite()) {
                return Err(format!("the variant {:?} weighs {}", variant.name, saved.weight));
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
