//! A model in memory: one session for all names under which the same content is loaded.
//!
//! A thousand tenants often start from the same model. Sessions can be shared because they have no
//! state that a run could change. State of a name, such as its queue or its adapter, belongs to
//! `model.rs`.
//!
//! Invariant: at most one session of a content exists, or is being created, at a time. One that was
//! loaded before its preparation exists beside the prepared one until all names have that
//! (`later.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::LoadError;
use crate::engine::load::artifact::{Facts, PrivateCopy};
use crate::engine::load::axes::{self, Axes};
use crate::engine::load::constants::{
    ConstantFiles, DropMark, ExpectedConstants, ModelConstants, OwnMemory, UsedConstants,
};
use crate::engine::load::content::ContentHash;
use crate::engine::load::later::ContentToPrepare;
use crate::engine::load::prepare::{Findings, Prepared, StoredConstants};
use crate::engine::load::second::{RunSession, SecondPlaces, SecondSessions};
use crate::engine::memory::allocator;
use crate::engine::memory::{
    self, Budget, Footprint, LoadRequest, MappedFile, ModelCost, ModelReservation, NoRoom, Replacement, RequestMemory,
};
use crate::engine::onnxruntime::gpu::Gpu;
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::onnxruntime::session::{ModelForm, RunThreads, Session, SessionError, SharedConstants};
use crate::engine::run::batch::BatchingEvidence;
use crate::engine::run::placement::RequestStats;
use crate::engine::run::pool::CoreUse;
use crate::shared::SharedMap;
use crate::tensor::OutputRows;

/// A session, its measurements, and the memory reserved for it.
#[derive(Debug)]
pub struct Resident {
    pub content: ContentHash,
    // Fields drop in this order: the reservation ends when the memory is free.
    /// The places for second sessions; `None` if the model can have none.
    second: Option<SecondPlaces>,
    _mark: DropMark,
    pub session: Session,
    own: OwnMemory,
    pub stats: RequestStats,
    /// Evidence for batching; `None` if the model was not prepared.
    pub evidence: Option<BatchingEvidence>,
    has_unbounded_work: bool,
    /// Constants that the session shares with others.
    constants: Option<UsedConstants>,
    /// The prepared form, for an analysis with an adapter; `None` if the session has another form.
    graph: Option<GraphFile>,
    /// `Some` if the content was loaded before its preparation.
    pub to_prepare: Option<Arc<ContentToPrepare>>,
    /// The analyses with adapters, by the names of their parameters.
    with_adapters: Mutex<Vec<(BTreeSet<String>, Axes)>>,
    _file: Option<MappedFile>,
}

/// The file of a prepared form.
#[derive(Debug)]
struct GraphFile {
    path: PathBuf,
    /// Bytes that a load needs, which are more than an analysis needs.
    peak: u64,
}

/// Number of sets of parameters whose analysis is kept. The adapters of a base model usually have
/// the same parameters.
const MAX_ANALYSES: usize = 8;

/// Bytes of a model apart from its session: its entry in the catalog, and the readers and writers
/// of its requests. Measured without a manifest, in a server that is filled until the first
/// refusal: with 2 KiB, one unload does not make enough memory free for another model; 4 KiB are
/// enough.
const BESIDE_SESSION: u64 = 4 << 10;

/// The memory of a loaded model with these findings, without that of its preparation.
pub(in crate::engine) fn cost(findings: &Findings) -> ModelCost {
    ModelCost {
        private: findings.private.saturating_add(BESIDE_SESSION),
        mapped: findings.mapped,
        load_peak: findings.load_peak,
        run: findings.run_peak.unwrap_or_default(),
        prepare: 0,
    }
}

/// The reservation of a session whose creation took `taken` bytes, and the mark before its drop.
fn owned(constants: Option<&UsedConstants>, memory: ModelReservation, taken: u64) -> (DropMark, OwnMemory) {
    match constants {
        None => OwnMemory::alone(memory),
        Some(constants) => {
            // The copies that this session has made are reserved with the container.
            let created = taken.min(memory.footprint().private.saturating_sub(BESIDE_SESSION));
            constants.measured(memory, created)
        }
    }
}

impl Resident {
    /// Creates a session from `source`. The time grows with the size of the model.
    pub fn create(
        environment: &Environment,
        budget: &Budget,
        content: ContentHash,
        source: &Arc<SessionSource>,
        replacement: Replacement,
        gpu: Option<&OnGpu>,
        files: &ConstantFiles,
    ) -> Result<Self, LoadError> {
        let (facts, known) = (source.facts, source.findings.as_ref());
        let constants = source.constants(files)?;
        let shared = constants.as_ref().map(ModelConstants::expected).unwrap_or_default();
        let request = LoadRequest {
            replacement,
            ..source.expected(&shared, gpu.is_some())
        };
        let loading = budget.load(&request)?;
        let before = allocator::thread_balance();
        let taken = || u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
        let (mut session, file) = match source.open(environment, budget, constants.as_ref(), gpu) {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(constants) = &constants {
                    let left = Footprint {
                        private: taken(),
                        ..Footprint::default()
                    };
                    let (Ok(memory) | Err((_, memory))) = loading.settle(left);
                    constants.keep(memory);
                }
                return Err(error.into());
            }
        };
        session.set_rows(&source.rows);
        let taken = taken();
        let private = match known {
            // The copies of relatives are not known to the byte, and such a session is created by
            // this thread alone.
            Some(findings) if shared.copied > 0 => taken.saturating_add(findings.growth),
            // A session grows in its first run, and other threads allocate parts of a large one.
            Some(findings) if gpu.is_none() => taken.max(findings.private),
            // On a GPU, the weights are not in this process's memory.
            Some(_) | None => taken,
        };
        let settled = loading.settle(Footprint {
            private: BESIDE_SESSION + private,
            mapped: request.mapped,
            workspace: known.and_then(|findings| findings.run_peak).unwrap_or(0),
        });
        let (mut memory, refused) = match settled {
            Ok(memory) => (memory, None),
            Err((refused, memory)) => (memory, Some(refused)),
        };
        let copies = known.map_or(0, |findings| findings.copies);
        let constants = constants.map(|constants| constants.enter(&mut memory, copies));
        let (mark, own) = owned(constants.as_ref(), memory, taken);
        let stats = RequestStats::default();
        // A thread that waits for a GPU uses no CPU time, so its runs would look short.
        if facts.has_unbounded_work || gpu.is_some() {
            stats.disable_inline();
        }
        let second = SecondPlaces::of(source, &session, content.short()).filter(|_| gpu.is_none());
        let resident = Self {
            content,
            second,
            _mark: mark,
            session,
            own,
            stats,
            evidence: known.map(|findings| BatchingEvidence {
                axes: findings.axes.clone(),
                trial: findings.independent_rows,
            }),
            has_unbounded_work: facts.has_unbounded_work,
            constants,
            graph: known.filter(|_| source.is_prepared).map(|findings| GraphFile {
                path: source.file.clone(),
                peak: findings.load_peak,
            }),
            to_prepare: None,
            with_adapters: Mutex::default(),
            _file: file,
        };
        // If the model does not fit after all, it is dropped as any other.
        refused.map_or(Ok(resident), |refused| Err(refused.into()))
    }

    /// Evidence for batches of requests to this model with an adapter, which gives the inputs with
    /// the names `fixed`. The first call for such names reads the graph: call it on a thread that
    /// may block.
    pub fn evidence_with(&self, fixed: &BTreeSet<String>) -> Option<BatchingEvidence> {
        let own = self.evidence.as_ref()?;
        let mut known = self.with_adapters.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(names, _)| names == fixed);
        let axes = match found {
            Some((_, axes)) => axes.clone(),
            None => {
                let axes = self.analyse_with(fixed);
                if axes.unknown.is_none() && known.len() < MAX_ANALYSES {
                    known.push((fixed.clone(), axes.clone()));
                }
                axes
            }
        };
        Some(BatchingEvidence {
            axes,
            // Without a proof, a trial of the model alone joined the inputs that the adapter gives.
            trial: own.trial.filter(|_| own.axes.has_records()),
        })
    }

    fn analyse_with(&self, fixed: &BTreeSet<String>) -> Axes {
        let Some(graph) = &self.graph else {
            return Axes::unknown(axes::NO_FORM);
        };
        match self.reserve(graph.peak) {
            Ok(_memory) => axes::analyse_with_fixed(&graph.path, fixed),
            Err(_) => Axes::unknown("there was no memory left to analyse the model with its adapter"),
        }
    }

    pub fn footprint(&self) -> Footprint {
        self.own.reservation().footprint()
    }

    /// Bytes that count against the limit and that are freed with this session.
    pub fn charge(&self) -> u64 {
        let constants = self.constants.as_ref().map_or(0, UsedConstants::charge);
        self.own.reservation().charge() + constants + self.second_charge()
    }

    fn second_charge(&self) -> u64 {
        self.second.as_ref().map_or(0, SecondPlaces::charge)
    }

    /// The session for a run on a compute thread; `core_use` says how much of the cores is in use.
    pub fn session_for(
        &self,
        core_use: impl FnOnce() -> CoreUse,
        second_sessions: &Arc<SecondSessions>,
    ) -> RunSession<'_> {
        let second = self.second.as_ref();
        let second = second.and_then(|second| second_sessions.wanted(second, core_use()));
        second.map_or(RunSession::First(&self.session), RunSession::Second)
    }

    /// Notes that the prepared form of the same content takes the place of this session.
    pub fn note_replaced(&self) {
        self.own.reservation().leave_nothing();
    }

    /// Private bytes that are freed with this session.
    pub fn private(&self) -> u64 {
        let copies = self.constants.as_ref().map_or(0, UsedConstants::own_copies);
        self.own.reservation().footprint().private + copies + self.second_charge()
    }

    /// Bytes of large constants that other sessions had in memory already.
    pub fn found(&self) -> u64 {
        self.constants.as_ref().map_or(0, UsedConstants::found)
    }

    /// Reserves `bytes` bytes for a request.
    pub fn reserve(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.own.reservation().request(bytes)
    }

    /// Reserves the memory that a request with a body of `size` bytes is expected to need; nothing
    /// if that is little.
    pub fn reserve_request(&self, size: usize) -> Result<Option<RequestMemory>, NoRoom> {
        const LITTLE: u64 = 64 << 10;
        let usual = self.footprint().workspace;
        let expected = if self.has_unbounded_work {
            // The memory of one request does not predict that of the next.
            usual
        } else {
            self.stats.expected_memory(size, usual)
        };
        (expected > LITTLE)
            .then(|| self.own.reservation().request(expected))
            .transpose()
    }
}

/// Size of the file; 0 if it is gone, which ONNX Runtime then reports better.
fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// A GPU on which the session is created.
#[derive(Debug, Clone)]
pub struct OnGpu {
    pub gpu: Arc<Gpu>,
    /// Folder in which TensorRT keeps this model's engines.
    pub engines: Option<PathBuf>,
}

/// The files and findings from which a session is created.
#[derive(Debug)]
pub struct SessionSource {
    file: PathBuf,
    is_prepared: bool,
    /// The large constants of the prepared form, if they are in files of their own.
    constants: Arc<StoredConstants>,
    facts: Facts,
    /// Keeps an uploaded model's files until the session is created.
    _copy: Option<Arc<PrivateCopy>>,
    /// Measurements of this form of the model.
    findings: Option<Findings>,
    /// Results of the trial for the outputs, whichever form was tried; empty without a trial.
    rows: Vec<OutputRows>,
}

impl SessionSource {
    /// Selects the prepared form if there is one, otherwise the uploaded model.
    pub fn of(uploaded: Arc<PrivateCopy>, prepared: Option<Prepared>) -> Self {
        let findings = prepared.as_ref().map(|prepared| prepared.findings.clone());
        prepared.and_then(Self::prepared).unwrap_or_else(|| Self {
            file: uploaded.artifact().model.clone(),
            is_prepared: false,
            constants: Arc::default(),
            facts: uploaded.artifact().facts,
            rows: findings
                .as_ref()
                .map(|findings| findings.rows.clone())
                .unwrap_or_default(),
            findings: findings.filter(|findings| !findings.prepared),
            _copy: Some(uploaded),
        })
    }

    /// Selects the uploaded model and keeps what is known of its outputs. Used when the prepared
    /// form is gone.
    pub fn uploaded(&self, uploaded: Arc<PrivateCopy>) -> Self {
        Self {
            rows: self.rows.clone(),
            ..Self::of(uploaded, None)
        }
    }

    /// Selects the prepared form, if there is one.
    pub fn prepared(prepared: Prepared) -> Option<Self> {
        Some(Self {
            file: prepared.file?,
            is_prepared: true,
            constants: prepared.constants,
            facts: prepared.facts,
            rows: prepared.findings.rows.clone(),
            findings: Some(prepared.findings),
            _copy: None,
        })
    }

    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// The memory that a session is expected to need, apart from what it shares with others.
    pub fn expected(&self, shared: &ExpectedConstants, is_on_gpu: bool) -> LoadRequest {
        let upload = self.mapped_upload();
        let (peak, private, mapped) = match &self.findings {
            Some(findings) => (findings.load_peak, findings.private, findings.mapped),
            None => (
                memory::load_estimate(self.facts.widest(), self.facts.has_trees),
                self.facts.weights.saturating_sub(upload),
                upload,
            ),
        };
        let private = private.saturating_sub(shared.copied);
        LoadRequest {
            peak: match shared.copied {
                0 => peak,
                copied => peak.saturating_sub(copied).saturating_add(shared.largest),
            },
            private: private.saturating_add(BESIDE_SESSION),
            // On a GPU, the weights are in its own memory.
            mapped: if is_on_gpu {
                0
            } else {
                mapped.saturating_sub(shared.mapped)
            },
            replacement: Replacement::default(),
        }
    }

    /// Creates the session, and raises the process's limit for what it maps.
    fn open(
        &self,
        environment: &Environment,
        budget: &Budget,
        constants: Option<&ModelConstants>,
        gpu: Option<&OnGpu>,
    ) -> Result<(Session, Option<MappedFile>), SessionError> {
        let weights = self.facts.weights;
        if let Some(OnGpu { gpu, engines }) = gpu {
            let session = Session::open_on(gpu, environment, &self.file, weights, engines.as_deref())?;
            return Ok((session, None));
        }
        let Some(constants) = constants else {
            let bytes = if self.is_prepared {
                file_size(&self.file)
            } else {
                self.mapped_upload()
            };
            let file = budget.map_file(bytes);
            return Ok((Session::open(environment, self.form(), weights)?, Some(file)));
        };
        let given = constants.for_session();
        let file = budget.map_file(constants.bytes_of_others(&given));
        let session = self.open_graph(environment, given, RunThreads::Pool)?;
        Ok((session, Some(file)))
    }

    /// Creates a session of the prepared graph with constants that are in memory.
    pub fn open_graph(
        &self,
        environment: &Environment,
        given: SharedConstants,
        threads: RunThreads,
    ) -> Result<Session, SessionError> {
        Session::open_shared(environment, &self.file, self.facts.weights, given, threads)
    }

    /// Bytes by which a session grows in its first run.
    pub fn growth(&self) -> u64 {
        self.findings.as_ref().map_or(0, |findings| findings.growth)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Bytes of an uploaded model that are mapped: those of its external data.
    fn mapped_upload(&self) -> u64 {
        self.facts.weights.saturating_sub(file_size(&self.file))
    }

    /// Whether the files are still there. Prepared models may be deleted at any time.
    pub fn is_there(&self) -> bool {
        let mut constants = self.constants.files.iter();
        self.file.exists() && constants.all(|file| self.file.with_file_name(&file.name).exists())
    }

    /// The large constants of the prepared form.
    pub fn stored_constants(&self) -> &Arc<StoredConstants> {
        &self.constants
    }

    /// Maps the large constants of the prepared form.
    pub fn constants(&self, files: &ConstantFiles) -> Result<Option<ModelConstants>, SessionError> {
        let Some(folder) = self.file.parent().filter(|_| !self.constants.is_empty()) else {
            return Ok(None);
        };
        let opened = files.open(&self.constants, folder);
        opened.map(Some).map_err(|error| match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => SessionError::NoDescriptors,
            Some(libc::ENOMEM) => SessionError::OutOfMemory,
            _ => SessionError::Rejected(format!("its prepared form cannot be read: {error}")),
        })
    }

    fn form(&self) -> ModelForm<'_> {
        if !self.constants.is_empty() {
            ModelForm::Graph(&self.file)
        } else if self.is_prepared {
            ModelForm::Prepared(&self.file)
        } else {
            ModelForm::Uploaded(&self.file)
        }
    }
}

/// All residents, by content.
pub type Residents = SharedMap<ContentHash, Resident>;
