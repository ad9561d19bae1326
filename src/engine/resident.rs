//! What is in memory of a model: one session for all names under which the same content is loaded.
//!
//! A thousand tenants often start from the same model. Sessions may be shared because they have no
//! state that a run could change; what belongs to a name, such as its place in the queue, is
//! `model.rs`'s.
//!
//! What always holds: at most one session of a content exists, or is being made, at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LoadError;
use super::allocator;
use super::artifact::{Facts, PrivateCopy};
use super::batch::BatchingEvidence;
use super::content::ContentHash;
use super::gpu::Gpu;
use super::memory::{self, Another, Budget, Footprint, Load, Loaded, MappedFile, NoRoom, Working};
use super::model::Ledger;
use super::placement::Pace;
use super::prepare::{Findings, Prepared};
use super::runtime::Environment;
use super::session::{Form, Session};
use crate::shared::Shared;
use crate::tensor::OutputRows;

/// A session, what was learnt of it, and the memory reserved for it.
#[derive(Debug)]
pub struct Resident {
    pub content: ContentHash,
    // Dropped in this order: memory is given back when it is free.
    pub session: Session,
    pub pace: Pace,
    /// What is known of joining requests; nothing when the model was not prepared.
    pub evidence: Option<BatchingEvidence>,
    has_unbounded_work: bool,
    _file: Option<MappedFile>,
    memory: Loaded,
}

/// Bytes of a model beside its session: its place in the directory, and what reads and writes the
/// bodies of its requests. Measured without a manifest, in a server that is filled until the first
/// refusal: 2 KiB are too few for one unload to make room for another model, 4 KiB are enough.
const BESIDE_SESSION: u64 = 4 << 10;

impl Resident {
    /// Makes a session of what `source` says. Takes as long as the model is large.
    pub fn create(
        environment: &Environment,
        budget: &Budget,
        content: ContentHash,
        source: &Source,
        another: Another,
        gpu: Option<&OnGpu>,
    ) -> Result<Self, LoadError> {
        let facts = source.facts;
        let known = source.findings.as_ref();
        let (peak, private) = known.map_or_else(
            || (memory::load_estimate(facts.widest(), facts.has_trees), facts.weights),
            |findings| (findings.load_peak, findings.private),
        );
        let mapped = known.map_or(0, |findings| findings.mapped);
        let loading = budget.load(&Load {
            peak,
            private: private.saturating_add(BESIDE_SESSION),
            mapped,
            another,
        })?;
        let file = source.is_prepared.then(|| budget.map_file(file_size(&source.file)));
        let before = allocator::thread_balance();
        let mut session = match gpu {
            None => Session::open(environment, source.form(), facts.weights)?,
            Some(OnGpu { gpu, engines }) => {
                Session::open_on(gpu, environment, &source.file, facts.weights, engines.as_deref())?
            }
        };
        session.set_rows(&source.rows);
        let taken = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
        let footprint = Footprint {
            // A session grows in its first run, and parts of a large one are made by other threads.
            // On a GPU it was measured with weights that are not in this memory.
            private: BESIDE_SESSION
                + match known {
                    Some(findings) if gpu.is_none() => taken.max(findings.private),
                    Some(_) | None => taken,
                },
            mapped,
            workspace: known.and_then(|findings| findings.run_peak).unwrap_or(0),
        };
        let memory = match loading.settle(footprint) {
            Ok(memory) => memory,
            Err((refused, memory)) => {
                drop(session);
                drop((file, memory));
                return Err(refused.into());
            }
        };
        let pace = Pace::default();
        // A thread that waits for a GPU uses no CPU time, which is what short runs are told by.
        if facts.has_unbounded_work || gpu.is_some() {
            pace.distrust();
        }
        Ok(Self {
            content,
            session,
            pace,
            evidence: known.map(|findings| BatchingEvidence {
                axes: findings.axes.clone(),
                trial: findings.independent_rows,
            }),
            has_unbounded_work: facts.has_unbounded_work,
            _file: file,
            memory,
        })
    }

    pub fn footprint(&self) -> Footprint {
        self.memory.footprint()
    }

    /// What it counts for against the limit.
    pub fn charge(&self) -> u64 {
        self.memory.charge()
    }

    /// Reserves what a request with a body of `size` bytes is expected to take; nothing where that
    /// is little.
    pub fn reserve_request(&self, size: usize) -> Result<Option<Working>, NoRoom> {
        const LITTLE: u64 = 64 << 10;
        let usual = self.footprint().workspace;
        let expected = if self.has_unbounded_work {
            // What one request took says nothing of the next.
            usual
        } else {
            self.pace.expected_memory(size, usual)
        };
        (expected > LITTLE).then(|| self.memory.request(expected)).transpose()
    }
}

impl Ledger for Resident {
    fn reserve(&self, bytes: u64) -> Result<Option<Working>, NoRoom> {
        self.memory.request(bytes).map(Some)
    }
}

/// 0 for a file that is gone, which the library says better.
fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Where a session is made, if not on the CPU.
#[derive(Debug, Clone)]
pub struct OnGpu {
    pub gpu: Arc<Gpu>,
    /// Where TensorRT keeps this model's engines.
    pub engines: Option<PathBuf>,
}

/// The files and findings that a session is made of.
#[derive(Debug)]
pub struct Source {
    file: PathBuf,
    is_prepared: bool,
    facts: Facts,
    /// Keeps an uploaded model's files until the session is made.
    _copy: Option<Arc<PrivateCopy>>,
    /// What was measured, when it is this form that was.
    findings: Option<Findings>,
    /// What the trial says of the outputs, whichever form was tried; empty without a trial.
    rows: Vec<OutputRows>,
}

impl Source {
    /// The prepared form where there is one, else the uploaded model.
    pub fn of(uploaded: Arc<PrivateCopy>, prepared: Option<Prepared>) -> Self {
        let findings = prepared.as_ref().map(|prepared| prepared.findings.clone());
        prepared.and_then(Self::prepared).unwrap_or_else(|| Self {
            file: uploaded.artifact().model.clone(),
            is_prepared: false,
            facts: uploaded.artifact().facts,
            rows: findings
                .as_ref()
                .map(|findings| findings.rows.clone())
                .unwrap_or_default(),
            findings: findings.filter(|findings| !findings.prepared),
            _copy: Some(uploaded),
        })
    }

    /// The uploaded model, with what is known of its outputs: for when the prepared form is gone.
    pub fn uploaded(&self, uploaded: Arc<PrivateCopy>) -> Self {
        Self {
            rows: self.rows.clone(),
            ..Self::of(uploaded, None)
        }
    }

    /// The prepared form, when there is one.
    pub fn prepared(prepared: Prepared) -> Option<Self> {
        Some(Self {
            file: prepared.file?,
            is_prepared: true,
            facts: prepared.facts,
            rows: prepared.findings.rows.clone(),
            findings: Some(prepared.findings),
            _copy: None,
        })
    }

    pub fn facts(&self) -> Facts {
        self.facts
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    fn form(&self) -> Form<'_> {
        if self.is_prepared {
            Form::Prepared(&self.file)
        } else {
            Form::Uploaded(&self.file)
        }
    }
}

/// All residents, by content.
pub type Residents = Shared<ContentHash, Resident>;
