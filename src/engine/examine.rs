//! Looking at an artifact without serving it: what `longshore pack` and `longshore inspect` ask of the engine.
//!
//! The artifact is opened, prepared and tried as by a load, in a process apart and within the same bounds; what a load would
//! refuse is refused here for the same reason. Only what has come through that is loaded by this process, to learn its
//! signature, and run once more on the data that it has been run on before.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ort::environment::Environment;
use tempfile::TempDir;

use super::artifact::{self, Artifact, Found};
use super::content::ContentHash;
use super::onnx_file::{self, Header};
use super::packed::{Description, Packed, Unusable};
use super::prepare::{self, Findings, Job, Platform, PrepareError, Preparer};
use super::session::{Cancel, Form, Session, SessionError};
use super::{LOAD_STACK, LoadError, StartError, runtime};
use crate::tensor::{Signature, Tensor};

/// How artifacts are looked at.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// ONNX Runtime's library, when it is named explicitly.
    pub library: Option<PathBuf>,
    /// The longest that preparing may take.
    pub timeout: Duration,
    /// Bytes that any model may take while it is prepared; larger ones may take ten times their weights.
    pub memory: u64,
}

/// Looks at artifacts, one at a time.
#[derive(Debug)]
pub struct Examiner {
    environment: Environment,
    platform: Platform,
    preparer: Preparer,
    memory: u64,
    /// Where prepared forms are written; gone with the examiner.
    folder: TempDir,
}

/// What is seen of an artifact.
#[derive(Debug)]
pub struct Examination {
    /// The directory that all of the artifact lies in.
    pub folder: PathBuf,
    /// The model's file.
    pub model: PathBuf,
    pub found: Found,
    pub is_ort_format: bool,
    /// External data: the name that the model calls a file by, and the file.
    pub external: Vec<(String, PathBuf)>,
    /// Bytes of the model and of its external data.
    pub weights: u64,
    pub content: ContentHash,
    /// What the model says of itself; `None` in ONNX Runtime's own format.
    pub header: Option<Header>,
    pub packing: Packing,
    /// What is seen of the model once it is loaded, or why it cannot be.
    pub loaded: Result<Loaded, LoadError>,
}

/// Whether a prepared form came along.
#[derive(Debug)]
pub enum Packing {
    None,
    /// One that a server on this machine loads.
    Usable(Description),
    /// One that it passes over.
    Unusable {
        description: Option<Description>,
        why: String,
    },
}

/// What is seen of a model that has been loaded.
#[derive(Debug)]
pub struct Loaded {
    pub signature: Signature,
    pub findings: Findings,
    /// The prepared form, for as long as the examiner is there. `None` when there is none, or when it was there before.
    pub prepared: Option<(Description, PathBuf)>,
    /// Data for one request; `None` when none could be made up.
    pub example: Option<Vec<Tensor>>,
}

impl Examiner {
    /// Loads ONNX Runtime. Once per process.
    pub fn start(bounds: &Bounds) -> Result<Self, StartError> {
        let environment = runtime::start(bounds.library.as_deref(), 1)?;
        Ok(Self {
            environment,
            platform: Platform::here(ort::info()),
            preparer: Preparer::start(&prepare::Settings {
                library: bounds.library.clone(),
                processes: 1,
                timeout: bounds.timeout,
            })?,
            memory: bounds.memory,
            folder: tempfile::Builder::new().prefix("longshore-").tempdir()?,
        })
    }

    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Looks at the artifact at `path` as a server would that loads it: in its prepared form when it brings along one for
    /// this platform.
    pub fn examine(&self, path: &Path) -> Result<Examination, LoadError> {
        let (mut examination, uploaded) = self.open(path)?;
        let packed = match Packed::find(&uploaded) {
            None => {
                examination.loaded = self.load(&uploaded, &examination.content);
                return Ok(examination);
            }
            Some(packed) => packed,
        };
        let (description, usable) = match packed {
            Err(why) => (None, Err(why)),
            Ok(packed) => {
                let usable = packed.artifact(&self.platform, &uploaded, &examination.content);
                (Some(packed.description), usable)
            }
        };
        let why = match (description.clone(), usable) {
            (Some(description), Ok((content, packed))) => match self.load(&packed, &content) {
                Ok(loaded) => {
                    examination.packing = Packing::Usable(description);
                    examination.loaded = Ok(loaded);
                    return Ok(examination);
                }
                Err(error) => error.to_string(),
            },
            (_, Err(why)) => why.to_string(),
            (None, Ok(_)) => Unusable::Damaged.to_string(),
        };
        examination.packing = Packing::Unusable { description, why };
        examination.loaded = self.load(&uploaded, &examination.content);
        Ok(examination)
    }

    /// Looks at the artifact at `path` as it was before anything was packed.
    pub fn examine_uploaded(&self, path: &Path) -> Result<Examination, LoadError> {
        let (mut examination, uploaded) = self.open(path)?;
        examination.loaded = self.load(&uploaded, &examination.content);
        Ok(examination)
    }

    fn open(&self, path: &Path) -> Result<(Examination, Artifact), LoadError> {
        let uploaded = artifact::open(path)?;
        let header = if uploaded.is_ort_format {
            None
        } else {
            // It was read through a moment ago.
            onnx_file::header(&uploaded.model).ok()
        };
        let examination = Examination {
            folder: uploaded.folder.clone(),
            model: uploaded.model.clone(),
            found: Found::of(path, &uploaded),
            is_ort_format: uploaded.is_ort_format,
            external: uploaded.external.clone(),
            weights: uploaded.facts.weights,
            content: uploaded.hash()?,
            header,
            packing: Packing::None,
            loaded: Err(LoadError::Prepare(PrepareError::Stopping)),
        };
        Ok((examination, uploaded))
    }

    fn load(&self, artifact: &Artifact, content: &ContentHash) -> Result<Loaded, LoadError> {
        let prepared = self.folder.path().join(format!("{content}.ort"));
        let weights = artifact.facts.weights;
        let memory = self.memory.max(weights.saturating_mul(10));
        let job = Job {
            model: artifact.model.clone(),
            weights,
            is_ort_format: artifact.is_ort_format,
            prepared: Some(prepared.clone()),
            memory,
            probe: true,
        };
        let findings = self.preparer.prepare_blocking(job).map_err(|error| match error {
            PrepareError::Session(SessionError::OutOfMemory) => LoadError::Prepare(PrepareError::MemoryBomb(memory)),
            PrepareError::Session(error) => LoadError::Session(error),
            error => LoadError::Prepare(error),
        })?;
        let form = if findings.prepared {
            Form::Prepared(&prepared)
        } else {
            Form::Uploaded(&artifact.model)
        };
        let session = self.session(form, weights)?;
        let signature = session.signature().clone();
        let example = match findings.run_peak {
            Some(_) => Cancel::new()
                .ok()
                .and_then(|cancel| prepare::answered(&session, &cancel)),
            None => prepare::ones(&signature),
        };
        let prepared = match Description::new(self.platform.clone(), content, &prepared) {
            Ok(description) if findings.prepared && !artifact.is_ort_format => Some((description, prepared)),
            Ok(_) | Err(_) => None,
        };
        Ok(Loaded {
            signature,
            findings,
            prepared,
            example,
        })
    }

    /// Made on a thread of its own: a graph is walked by recursion.
    fn session(&self, form: Form<'_>, weights: u64) -> Result<Session, LoadError> {
        thread::scope(|scope| {
            let loading = thread::Builder::new()
                .name("load".to_owned())
                .stack_size(LOAD_STACK)
                .spawn_scoped(scope, || Session::open(&self.environment, form, weights));
            match loading.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(session)) => session.map_err(LoadError::Session),
                Ok(Err(_)) => Err(LoadError::Pool(super::PoolError::Panicked)),
                Err(error) => Err(LoadError::Prepare(PrepareError::NoChild(std::sync::Arc::new(error)))),
            }
        })
    }
}
