//! Looking at an artifact without serving it: what `longshore pack` and `longshore inspect` ask of
//! the engine.
//!
//! The artifact is opened, prepared and tried as by a load, in a process apart and within the same
//! bounds; what a load would refuse is refused here for the same reason. Only what has come through
//! that is loaded by this process, to learn its signature, and run once more on the data that it
//! has been run on before.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::artifact::{self, Artifact, ArtifactPath, Found, PrivateCopy, Processor};
use super::content::ContentHash;
use super::onnx_file::Header;
use super::packed::{Description, Packed};
use super::prepare::{self, Findings, Platform, PrepareError, PrepareJob, Preparer};
use super::runtime::{Environment, Libraries};
use super::session::{Cancel, ModelForm, Session, SessionError};
use super::{InferenceError, LOAD_STACK, Ledger, LoadError, NoRoom, RequestMemory, StartError, Work, records, runtime};
use crate::manifest::Manifest;
use crate::tensor::{Inputs, Signature, Tensor, Value};

/// How artifacts are looked at.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub libraries: Libraries,
    /// The longest that preparing may take.
    pub timeout: Duration,
    /// Bytes that any model may take while it is prepared; larger ones may take ten times their
    /// weights.
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
    pub manifest: Arc<Manifest>,
    /// The files that its requests refer to.
    pub request_files: Vec<PathBuf>,
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
    /// The prepared form, for as long as the examiner is there. `None` when there is none, or when
    /// it was there before.
    pub prepared: Option<(Description, PathBuf)>,
    /// Data for one request; `None` when none could be made up.
    pub example: Option<Vec<Tensor>>,
    session: Session,
}

/// The ledger of a command that answers one request and then ends.
struct Uncounted;

impl Ledger for Uncounted {
    fn reserve(&self, _: u64) -> Result<Option<RequestMemory>, NoRoom> {
        Ok(None)
    }
}

impl Loaded {
    /// Does `work` on this thread, for as long as it takes.
    pub fn answer<W: Work>(&self, work: &W) -> Result<W::Answer, W::Error> {
        let cancel = Cancel::new().map_err(InferenceError::from)?;
        let (inputs, plan) = work.decode(&Uncounted)?;
        let run = |inputs: &Inputs| {
            let outputs = W::outputs(&plan);
            self.session
                .run_given(&inputs.tensors, &inputs.optional, outputs, &cancel)
        };
        let apart = |outputs: Option<&[Value]>| work.apart(&plan, outputs);
        let runs = records::run(&self.signature, &inputs, W::further(&plan), apart, run);
        work.encode(plan, &runs.map_err(InferenceError::from)?)
    }
}

impl Examination {
    fn new(uploaded: Artifact, content: ContentHash, packing: Packing, loaded: Result<Loaded, LoadError>) -> Self {
        Self {
            // The file was read through when it was opened.
            header: uploaded.header(),
            folder: uploaded.folder.path().to_owned(),
            model: uploaded.model,
            is_ort_format: uploaded.is_ort_format,
            external: uploaded.external,
            weights: uploaded.facts.weights,
            manifest: uploaded.manifest,
            request_files: uploaded.request_files,
            found: uploaded.found,
            content,
            packing,
            loaded,
        }
    }

    /// The model's path in the artifact.
    pub fn model_in_artifact(&self) -> &Path {
        self.model.strip_prefix(&self.folder).unwrap_or(&self.model)
    }
}

impl Examiner {
    /// Loads ONNX Runtime. Once per process.
    pub fn start(bounds: &Bounds) -> Result<Self, StartError> {
        let (environment, _) = runtime::start(&bounds.libraries, 1, None)?;
        let folder = tempfile::Builder::new().prefix("longshore-").tempdir()?;
        Ok(Self {
            platform: Platform::here(ort::info(), None, environment.operators()),
            environment,
            preparer: Preparer::start(&prepare::ChildConfig {
                libraries: bounds.libraries.clone(),
                processes: 1,
                timeout: bounds.timeout,
            })?,
            memory: bounds.memory,
            folder,
        })
    }

    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Looks at the artifact at `path` as a server would that loads it: in its prepared form when
    /// it brings along one for this platform.
    pub fn examine(&self, path: &Path) -> Result<Examination, LoadError> {
        let uploaded = artifact::open(&ArtifactPath::trusted(path), Processor::Cpu)?;
        let content = uploaded.hash()?;
        let (packing, loaded) = self.load_best(&uploaded, &content);
        Ok(Examination::new(uploaded, content, packing, loaded))
    }

    /// Looks at the artifact at `path` as if nothing had been packed with it.
    pub fn examine_uploaded(&self, path: &Path) -> Result<Examination, LoadError> {
        let uploaded = artifact::open(&ArtifactPath::trusted(path), Processor::Cpu)?;
        let content = uploaded.hash()?;
        let loaded = self.load(&uploaded, &content);
        Ok(Examination::new(uploaded, content, Packing::None, loaded))
    }

    fn load_best(&self, uploaded: &Artifact, content: &ContentHash) -> (Packing, Result<Loaded, LoadError>) {
        let (description, why) = match Packed::find(uploaded) {
            None => return (Packing::None, self.load(uploaded, content)),
            Some(Err(why)) => (None, why.to_string()),
            Some(Ok(packed)) => {
                let why = match packed.artifact(&self.platform, uploaded, content) {
                    Err(why) => why.to_string(),
                    Ok((content, artifact)) => match self.load(&artifact, &content) {
                        Ok(loaded) => return (Packing::Usable(packed.description), Ok(loaded)),
                        Err(error) => error.to_string(),
                    },
                };
                (Some(packed.description), why)
            }
        };
        (Packing::Unusable { description, why }, self.load(uploaded, content))
    }

    fn load(&self, artifact: &Artifact, content: &ContentHash) -> Result<Loaded, LoadError> {
        let copy = PrivateCopy::of(artifact, content, self.folder.path())?;
        let artifact = copy.artifact();
        let prepared = self.folder.path().join(format!("{content}.ort"));
        // It is moved to the child, which writes to it.
        File::create(&prepared).map_err(|error| PrepareError::NoChild(Arc::new(error)))?;
        let weights = artifact.facts.weights;
        let memory = self.memory.max(artifact.facts.widest().saturating_mul(10));
        let job = PrepareJob {
            model: artifact.model.clone(),
            weights,
            is_ort_format: artifact.is_ort_format,
            prepared: Some(prepared.clone()),
            memory,
            widened: artifact.facts.widened,
            fold: true,
            most: memory,
            probe: true,
        };
        let findings = self.preparer.prepare_blocking(job).map_err(|error| match error {
            PrepareError::Session(SessionError::OutOfMemory) => LoadError::Prepare(PrepareError::MemoryBomb(memory)),
            PrepareError::Session(error) => LoadError::Session(error),
            error => LoadError::Prepare(error),
        })?;
        let form = if findings.prepared {
            ModelForm::Prepared(&prepared)
        } else {
            ModelForm::Uploaded(&artifact.model)
        };
        let mut session = self.session(form, weights)?;
        session.set_rows(&findings.rows);
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
            session,
        })
    }

    /// Made on a thread of its own: a graph is walked by recursion.
    fn session(&self, form: ModelForm<'_>, weights: u64) -> Result<Session, LoadError> {
        thread::scope(|scope| {
            let loading = thread::Builder::new()
                .name("load".to_owned())
                .stack_size(LOAD_STACK)
                .spawn_scoped(scope, || Session::open(&self.environment, form, weights));
            match loading.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(session)) => session.map_err(LoadError::Session),
                Ok(Err(_)) => Err(LoadError::Pool(super::PoolError::Panicked)),
                Err(error) => Err(LoadError::Prepare(PrepareError::NoChild(Arc::new(error)))),
            }
        })
    }
}
