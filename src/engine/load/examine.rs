//! Examines an artifact without serving it, for `longshore pack` and `longshore inspect`.
//!
//! The artifact is opened, prepared and tried as in a load: in a separate process, within the same
//! limits, and with the same reasons for a refusal. Only a model that passes is loaded by this
//! process, which reads its signature and runs it once more on the data of the trial.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::engine::load::adapter::{self, Adapter, BoundAdapter};
use crate::engine::load::artifact::{self, Artifact, ArtifactPath, Facts, FoundBy, PrivateCopy, Processor};
use crate::engine::load::axes::{self, Axes};
use crate::engine::load::content::ContentHash;
use crate::engine::load::onnx_file::{LARGE_CONSTANT, OnnxHeader};
use crate::engine::load::packed::{Packed, PackedDescription};
use crate::engine::load::prepare::{self, Findings, Platform, PrepareError, PrepareJob, Preparer};
use crate::engine::load::preparing;
use crate::engine::load::resident;
use crate::engine::memory::ModelCost;
use crate::engine::onnxruntime::runtime;
use crate::engine::onnxruntime::runtime::{Environment, Libraries};
use crate::engine::onnxruntime::session::{Cancel, ModelForm, RunError, Session, SessionError};
use crate::engine::run::records;
use crate::engine::{InferenceError, LOAD_STACK, LoadError, NoRoom, RequestBudget, RequestMemory, StartError, Work};
use crate::manifest::Manifest;
use crate::tensor::{Inputs, Signature, Tensor, Value};

/// Libraries and limits for examining artifacts.
#[derive(Debug, Clone)]
pub struct ExamineBounds {
    pub libraries: Libraries,
    /// Limit on the duration of a preparation.
    pub timeout: Duration,
    /// Bytes that any model may use while it is prepared. Larger models may use ten times the size
    /// of their weights.
    pub memory: u64,
}

/// Examines artifacts, one at a time.
#[derive(Debug)]
pub struct Examiner {
    environment: Environment,
    platform: Platform,
    preparer: Preparer,
    memory: u64,
    /// The folder for prepared forms; removed when the examiner is dropped.
    folder: TempDir,
}

/// The results of examining an artifact.
#[derive(Debug)]
pub struct Examination {
    /// The directory that contains the whole artifact.
    pub folder: PathBuf,
    /// The model's file.
    pub model: PathBuf,
    pub found: FoundBy,
    pub is_ort_format: bool,
    /// External data: for each file its name in the model and its path.
    pub external: Vec<(String, PathBuf)>,
    /// Bytes of the model and of its external data.
    pub weights: u64,
    pub content: ContentHash,
    /// The model's own description of itself; `None` in ONNX Runtime's own format.
    pub header: Option<OnnxHeader>,
    pub packing: Packing,
    pub manifest: Arc<Manifest>,
    /// Files that the artifact's example requests refer to.
    pub request_files: Vec<PathBuf>,
    /// The file of the LoRA adapter.
    pub adapter: Option<PathBuf>,
    /// The loaded model, or the reason that it cannot be loaded.
    pub loaded: Result<ExaminedModel, LoadError>,
    facts: Facts,
}

/// Whether the artifact contains a prepared form.
#[derive(Debug)]
pub enum Packing {
    None,
    /// A form that a server on this machine loads.
    Usable(PackedDescription),
    /// A form that a server on this machine ignores.
    Unusable {
        description: Option<PackedDescription>,
        why: String,
    },
}

/// A model that was loaded in order to examine it.
#[derive(Debug)]
pub struct ExaminedModel {
    pub signature: Signature,
    pub findings: Findings,
    /// The prepared form, whose file exists as long as the examiner. `None` if none was made, or
    /// if the artifact is already in ONNX Runtime's format.
    pub prepared: Option<(PackedDescription, PathBuf)>,
    /// Large constants that a server shares with other models.
    pub constants: Vec<ExaminedConstant>,
    /// Data for one request; `None` if none could be generated.
    pub example: Option<Vec<Tensor>>,
    /// Time of the preparation, in a process of its own.
    pub prepared_in: Duration,
    /// Time to create the session from the prepared form.
    pub opened_in: Duration,
    session: Session,
    adapter: Option<BoundAdapter>,
}

/// A large constant of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExaminedConstant {
    /// Identifies the constant: models with the same hash share it.
    pub hash: String,
    pub bytes: u64,
    /// Whether runs read it; otherwise they read a copy of it.
    pub is_read: bool,
    /// Number of prepared models in the cache that contain it.
    pub models: usize,
}

/// A ledger without limits, for a command that answers one request and then ends.
struct Uncounted;

impl RequestBudget for Uncounted {
    fn reserve(&self, _: u64) -> Result<Option<RequestMemory>, NoRoom> {
        Ok(None)
    }
}

impl ExaminedModel {
    /// The values that the adapter gives: the name and the type of each, such as `float32[4, 8]`.
    pub fn adapter_values(&self) -> Vec<(&str, String)> {
        let parameters = self.adapter.iter().flat_map(|bound| &bound.adapter().parameters);
        parameters
            .map(|parameter| (&*parameter.name, parameter.value_type()))
            .collect()
    }

    /// Runs the model on its example `count` times, and returns the times. Returns none if the
    /// model does not answer its example.
    pub fn time_runs(&self, count: usize) -> Vec<Duration> {
        let (Some(example), Some(_), Ok(cancel)) = (&self.example, self.findings.run_peak, Cancel::new()) else {
            return Vec::new();
        };
        let inputs: Inputs = example.clone().into();
        let timed = || {
            let started = Instant::now();
            self.run(&inputs, None, &cancel).is_ok().then(|| started.elapsed())
        };
        // The first run allocates what the next ones use again.
        timed().map_or_else(Vec::new, |_| (0..count).map_while(|_| timed()).collect())
    }

    fn run(&self, inputs: &Inputs, outputs: Option<&[usize]>, cancel: &Cancel) -> Result<Vec<Value>, RunError> {
        let Inputs { tensors, optional } = inputs;
        match &self.adapter {
            None => self.session.run_given(tensors, optional, outputs, cancel),
            Some(adapter) => self
                .session
                .run_placed(adapter.given(tensors, optional), outputs, cancel),
        }
    }

    /// Runs `work` on this thread, without a deadline.
    pub fn answer<W: Work>(&self, work: &W) -> Result<W::Answer, W::Error> {
        let cancel = Cancel::new().map_err(InferenceError::from)?;
        let (inputs, plan) = work.decode(&Uncounted)?;
        let run = |inputs: &Inputs| self.run(inputs, W::outputs(&plan), &cancel);
        let apart = |outputs: Option<&[Value]>| work.apart(&plan, outputs);
        let runs = records::run(&self.signature, &inputs, W::further(&plan), apart, run);
        work.encode(plan, &runs.map_err(InferenceError::from)?)
    }
}

impl Examination {
    fn new(
        uploaded: Artifact,
        content: ContentHash,
        packing: Packing,
        loaded: Result<ExaminedModel, LoadError>,
    ) -> Self {
        Self {
            // The file was scanned when the artifact was opened, so reading its header succeeds.
            header: uploaded.header(),
            folder: uploaded.folder.path().to_owned(),
            model: uploaded.model,
            is_ort_format: uploaded.is_ort_format,
            external: uploaded.external,
            weights: uploaded.facts.weights,
            manifest: uploaded.manifest,
            request_files: uploaded.request_files,
            adapter: uploaded.adapter,
            found: uploaded.found,
            facts: uploaded.facts,
            content,
            packing,
            loaded,
        }
    }

    /// The memory that the model costs a server, if it can be loaded.
    pub fn cost(&self) -> Option<ModelCost> {
        let findings = &self.loaded.as_ref().ok()?.findings;
        Some(ModelCost {
            prepare: preparing::reserved_memory(self.facts),
            ..resident::cost(findings)
        })
    }

    /// The model's path relative to the artifact.
    pub fn model_in_artifact(&self) -> &Path {
        self.model.strip_prefix(&self.folder).unwrap_or(&self.model)
    }
}

impl Examiner {
    /// Loads ONNX Runtime. Call it once per process.
    pub fn start(bounds: &ExamineBounds) -> Result<Self, StartError> {
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

    /// Examines the artifact at `path` as a server would load it: in its prepared form if it
    /// contains one for this platform. Compares its large constants with the prepared models in the
    /// folder `cache`, which may be missing.
    pub fn examine(&self, path: &Path, cache: &Path) -> Result<Examination, LoadError> {
        let uploaded = artifact::open(&ArtifactPath::trusted(path), Processor::Cpu)?;
        let content = uploaded.hash()?;
        let (packing, loaded) = self.load_best(&uploaded, &content, cache);
        Ok(Examination::new(uploaded, content, packing, loaded))
    }

    /// Examines the artifact at `path` and ignores a prepared form in it.
    pub fn examine_uploaded(&self, path: &Path) -> Result<Examination, LoadError> {
        let uploaded = artifact::open(&ArtifactPath::trusted(path), Processor::Cpu)?;
        let content = uploaded.hash()?;
        let loaded = self.load(&uploaded, &content, None);
        Ok(Examination::new(uploaded, content, Packing::None, loaded))
    }

    fn load_best(
        &self,
        uploaded: &Artifact,
        content: &ContentHash,
        cache: &Path,
    ) -> (Packing, Result<ExaminedModel, LoadError>) {
        let (description, why) = match Packed::find(uploaded) {
            None => return (Packing::None, self.load(uploaded, content, Some(cache))),
            Some(Err(why)) => (None, why.to_string()),
            Some(Ok(packed)) => {
                let why = match packed.artifact(&self.platform, uploaded, content) {
                    Err(why) => why.to_string(),
                    Ok((content, artifact)) => match self.load(&artifact, &content, None) {
                        Ok(loaded) => return (Packing::Usable(packed.description), Ok(loaded)),
                        Err(error) => error.to_string(),
                    },
                };
                (Some(packed.description), why)
            }
        };
        let loaded = self.load(uploaded, content, Some(cache));
        (Packing::Unusable { description, why }, loaded)
    }

    /// Loads the artifact. With a `cache` it is prepared as for that folder; otherwise its prepared
    /// form is one file, as in an archive.
    fn load(
        &self,
        artifact: &Artifact,
        content: &ContentHash,
        cache: Option<&Path>,
    ) -> Result<ExaminedModel, LoadError> {
        let adapter = adapter::uncounted(artifact)?;
        let copy = PrivateCopy::of(artifact, content, self.folder.path(), true)?;
        let artifact = copy.artifact();
        let mut prepared = self.folder.path().join(format!("{content}.ort"));
        // The child receives the files and writes to them.
        let create = |file: &Path| File::create(file).map_err(|error| PrepareError::NoChild(Arc::new(error)));
        create(&prepared)?;
        let data = self.folder.path().join(format!("{content}.constants"));
        let is_split = artifact.facts.largest >= LARGE_CONSTANT && !artifact.is_ort_format;
        if cache.is_some() && is_split {
            create(&data)?;
        }
        let weights = artifact.facts.weights;
        let memory = self.memory.max(artifact.facts.widest().saturating_mul(10));
        let job = PrepareJob {
            model: artifact.model.clone(),
            weights,
            is_ort_format: artifact.is_ort_format,
            prepared: Some(prepared.clone()),
            constants: cache.filter(|_| is_split).map(|_| data.clone()),
            large: LARGE_CONSTANT,
            memory,
            widened: artifact.facts.widened,
            fold: true,
            most: memory,
            probe: true,
        };
        let started = Instant::now();
        let mut findings = self.preparer.prepare_blocking(job).map_err(|error| match error {
            PrepareError::Session(SessionError::OutOfMemory) => LoadError::Prepare(PrepareError::MemoryBomb(memory)),
            PrepareError::Session(error) => LoadError::Session(error),
            error => LoadError::Prepare(error),
        })?;
        let prepared_in = started.elapsed();
        let mut constants = Vec::new();
        if findings.prepared
            && let (Some(uses), Some(cache)) = (&findings.constants, cache)
        {
            let rename =
                |from: &Path, to: &Path| fs::rename(from, to).map_err(|error| PrepareError::NoChild(Arc::new(error)));
            // The graph refers to its constants by the name that the file had.
            let named = self.folder.path().join(prepare::CONSTANTS);
            rename(&data, &named)?;
            let graph = prepared.with_extension("onnx");
            rename(&prepared, &graph)?;
            prepared = graph;
            constants = prepare::examined_constants(&prepared, &named, uses, cache);
        }
        let form = match (findings.prepared, &findings.constants) {
            (true, None) => ModelForm::Prepared(&prepared),
            (true, Some(_)) => ModelForm::Graph(&prepared),
            (false, _) => ModelForm::Uploaded(&artifact.model),
        };
        let started = Instant::now();
        let mut session = self.session(form, weights)?;
        let opened_in = started.elapsed();
        session.set_rows(&findings.rows);
        let adapter = match adapter {
            None => None,
            Some(found) => Some(Self::bind(found, content, &session, &mut findings, &prepared)?),
        };
        let signature = adapter.as_ref().map_or(session.signature(), BoundAdapter::signature);
        let mut examined = ExaminedModel {
            signature: signature.clone(),
            findings,
            prepared: None,
            constants,
            example: None,
            prepared_in,
            opened_in,
            session,
            adapter,
        };
        examined.example = match examined.findings.run_peak {
            Some(_) => Cancel::new().ok().and_then(|cancel| {
                let run = |inputs: &[Tensor]| examined.run(&inputs.to_vec().into(), None, &cancel).is_ok();
                prepare::answered(&examined.signature, run)
            }),
            None => prepare::ones(&examined.signature),
        };
        examined.prepared = match PackedDescription::new(self.platform.clone(), content, &prepared) {
            Ok(description) if examined.findings.prepared && cache.is_none() && !artifact.is_ort_format => {
                Some((description, prepared))
            }
            Ok(_) | Err(_) => None,
        };
        Ok(examined)
    }

    /// Binds an adapter to the session of its base model, and replaces in `findings` what differs
    /// with the adapter.
    fn bind(
        (adapter, file): (Adapter, String),
        content: &ContentHash,
        session: &Session,
        findings: &mut Findings,
        prepared: &Path,
    ) -> Result<BoundAdapter, LoadError> {
        let bound = BoundAdapter::new(Arc::new(adapter), content, session.signature());
        let mut bound = bound.map_err(|source| adapter::refused(Path::new(&file), source))?;
        let names = bound.adapter().names();
        if !findings.axes.has_records() {
            findings.independent_rows = None;
        }
        findings.axes = if findings.prepared {
            axes::analyse_with_fixed(prepared, &names)
        } else {
            Axes::unknown(axes::NO_FORM)
        };
        bound.set_proven_rows(&findings.axes);
        Ok(bound)
    }

    /// Opens a session on a separate thread with a large stack: ONNX Runtime walks a graph by
    /// recursion.
    fn session(&self, form: ModelForm<'_>, weights: u64) -> Result<Session, LoadError> {
        thread::scope(|scope| {
            let loading = thread::Builder::new()
                .name("load".to_owned())
                .stack_size(LOAD_STACK)
                .spawn_scoped(scope, || Session::open(&self.environment, form, weights));
            match loading.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(session)) => session.map_err(LoadError::Session),
                Ok(Err(_)) => Err(LoadError::Pool(crate::engine::PoolError::Panicked)),
                Err(error) => Err(LoadError::Prepare(PrepareError::NoChild(Arc::new(error)))),
            }
        })
    }
}
