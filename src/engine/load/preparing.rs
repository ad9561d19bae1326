//! Obtains the findings about a content before the server loads it: from the cache, or from a child
//! process that prepares it now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::engine::load::artifact::{Artifact, Facts, PrivateCopy};
use crate::engine::load::content::ContentHash;
use crate::engine::load::later;
use crate::engine::load::prepare::{
    self, Findings, Platform, PrepareError, PrepareJob, Prepared, PreparedCache, Preparer,
};
use crate::engine::memory::{self, Replacement};
use crate::engine::onnxruntime::runtime::Libraries;
use crate::engine::onnxruntime::session::SessionError;
use crate::engine::{Engine, LoadError};
use crate::private::TemporaryFile;

/// A model may use this many times the usual memory before a crash counts as its own fault. More
/// would evict other models for a hostile one.
const PLENTY: u64 = 4;

/// The configuration for preparing unknown models.
#[derive(Debug, Clone)]
pub struct PrepareConfig {
    /// Maximum number of child processes.
    pub processes: usize,
    /// Time limit of a child for one model.
    pub timeout: Duration,
    /// Bytes that preparing any model may use; larger models may use ten times their weights.
    pub memory: u64,
    /// Folder of the prepared models.
    pub folder: PathBuf,
    /// Maximum total size of the prepared models in bytes.
    pub folder_bytes: u64,
    /// Bytes from which a constant is kept in a file of its own, which models share; `None` keeps
    /// each model in one file.
    pub large_constant: Option<u64>,
    /// Whether models are loaded first, and prepared while they serve.
    pub later: bool,
}

/// The preparer and the cache of its results.
#[derive(Debug)]
pub struct Preparing {
    preparer: Preparer,
    pub(in crate::engine) cache: Arc<PreparedCache>,
    memory: u64,
    large_constant: Option<u64>,
    /// The places of contents that are prepared later, if any are.
    pub(in crate::engine) later: Option<Arc<Semaphore>>,
}

impl Preparing {
    pub fn start(config: &PrepareConfig, libraries: &Libraries, platform: &Platform) -> std::io::Result<Self> {
        let cache = match PreparedCache::open(&config.folder, config.folder_bytes, platform, config.large_constant) {
            Ok(cache) => cache,
            Err(error) => {
                tracing::warn!(
                    "prepared models are not kept: {error}; set --cache-dir to another folder. Without it, models take \
                     longer to load and need more memory"
                );
                PreparedCache::without_folder()
            }
        };
        Ok(Self {
            preparer: Preparer::start(&prepare::ChildConfig {
                libraries: libraries.clone(),
                processes: config.processes,
                timeout: config.timeout,
            })?,
            cache: Arc::new(cache),
            memory: config.memory,
            large_constant: config.large_constant,
            later: config.later.then(later::places),
        })
    }

    /// Whether the prepared form of `artifact` has its large constants in a file of their own. A
    /// model in ONNX Runtime's own format has them in its graph. A very large one is not written
    /// twice, because that may take longer than the time limit.
    fn is_split(&self, artifact: &Artifact) -> bool {
        const MOST: u64 = 2 << 30;
        let has_large = |bound| artifact.facts.largest >= bound;
        self.large_constant.is_some_and(has_large) && !artifact.is_ort_format && artifact.facts.widest() <= MOST
    }
}

/// Bytes that preparing a model usually needs: the load, and the prepared form to write. Measured
/// with large constants in files of their own: 1.0 times a table, 1.4 times a perceptron, and 2
/// times the float32 form of a float16 table. For small models, the estimate is generous: among
/// them are int8 layers, which take four times as much when they are folded.
fn usual_memory(facts: Facts) -> u64 {
    const SMALL: u64 = 24 << 20;
    let whole = memory::load_estimate(facts.widest(), facts.has_trees)
        .saturating_add(facts.widest())
        .saturating_add(prepare::SLACK);
    with_mapped(facts, 150).max(whole.min(SMALL))
}

/// Bytes that a server reserves to prepare a model, with the process that does it.
pub(in crate::engine) fn reserved_memory(facts: Facts) -> u64 {
    usual_memory(facts).saturating_add(prepare::CHILD)
}

/// Bytes with which a preparation may succeed, if there is not as much as usual: enough for a model
/// of tables.
fn least_memory(facts: Facts) -> u64 {
    with_mapped(unfolded(facts), 110)
}

/// Bytes that preparing a model needs if its large constants are mapped, and take `percent` percent
/// of their size.
fn with_mapped(facts: Facts, percent: u64) -> u64 {
    let large = facts.large.min(facts.weights);
    let inline = facts.weights - large;
    memory::load_estimate(inline, facts.has_trees)
        .saturating_add(inline)
        .saturating_add((large / 100).saturating_mul(percent))
        .saturating_add(facts.widened.saturating_mul(5) / 2)
        .saturating_add(prepare::SLACK)
}

/// The facts about a model whose narrow constants stay narrow.
fn unfolded(facts: Facts) -> Facts {
    Facts { widened: 0, ..facts }
}

impl Engine {
    /// Looks up the findings about `content` and its prepared form in the cache.
    pub(in crate::engine) async fn known(
        &self,
        preparing: &Preparing,
        content: ContentHash,
    ) -> Result<Option<Prepared>, LoadError> {
        let cache = Arc::clone(&preparing.cache);
        let found = self.loads.run(move || cache.find(&content));
        found.await.map_err(LoadError::Pool)
    }

    /// Prepares the model in `copy`. `None` if there is no process to prepare it in.
    ///
    /// The caller decides what becomes of content that has crashed the process.
    pub(in crate::engine) async fn prepared(
        &self,
        preparing: &Preparing,
        content: ContentHash,
        copy: &PrivateCopy,
    ) -> Result<Option<Prepared>, LoadError> {
        let cache = Arc::clone(&preparing.cache);
        // A child tries and measures on the CPU, where its resources can be limited; a form that
        // it writes is useless on a GPU.
        let is_written = self.gpu.is_none();
        let is_split = preparing.is_split(copy.artifact());
        let unfinished = self
            .loads
            .run(move || is_written.then(|| cache.unfinished(is_split)).flatten());
        let unfinished = unfinished.await.map_err(LoadError::Pool)?;
        let paths = unfinished.as_ref().map(|unfinished| {
            let path = |file: &TemporaryFile| file.path().to_owned();
            (path(&unfinished.file), unfinished.constants.as_ref().map(path))
        });
        let findings = match self.findings(preparing, copy, paths).await {
            Ok(findings) => findings,
            Err(error) => {
                // Removes the file.
                let _ = self.files.run(move || drop(unfinished)).await;
                return match error {
                    LoadError::Prepare(PrepareError::NoChild(reason)) => {
                        tracing::warn!(%reason, "the server failed to start a process that prepares the model, which stays unprepared");
                        Ok(None)
                    }
                    error => Err(error),
                };
            }
        };
        let cache = Arc::clone(&preparing.cache);
        let facts = copy.artifact().facts;
        let kept = self
            .loads
            .run(move || cache.keep(&content, is_written, unfinished, findings, facts));
        kept.await.map_err(LoadError::Pool).map(Some)
    }

    /// Memory needed to load a replacement of this kind.
    pub(in crate::engine) fn replacement(&self, facts: Facts) -> Replacement {
        match &self.preparing {
            None => Replacement {
                peak: memory::load_estimate(facts.widest(), facts.has_trees),
                child: 0,
            },
            Some(preparing) => Replacement {
                peak: usual_memory(unfolded(facts)),
                child: preparing.preparer.child_growth(),
            },
        }
    }

    /// Asks a child for the findings about the artifact in `copy`.
    async fn findings(
        &self,
        preparing: &Preparing,
        copy: &PrivateCopy,
        files: Option<(PathBuf, Option<PathBuf>)>,
    ) -> Result<Findings, LoadError> {
        let artifact = copy.artifact();
        let usual = usual_memory(artifact.facts);
        // A sound model never needs more, so other models are not unloaded for it.
        let most = preparing.memory.max(artifact.facts.widest().saturating_mul(10));
        let budget = self.budget.clone();
        let (mut memory, weights) = (usual.min(most), artifact.facts.weights);
        let needed = preparing.preparer.next_job(memory);
        let reserved = self.loads.run(move || budget.prepare(needed, weights));
        let (mut fold, mut is_short) = (true, false);
        let mut reserved = match reserved.await.map_err(LoadError::Pool)? {
            Ok(reserved) => reserved,
            // Narrow constants need not be folded, and not all of them are: rows of a float16 table
            // are cast after they are looked up. Large constants are read one after the other.
            Err(_) if artifact.facts.widened > 0 || artifact.facts.large > 0 => {
                is_short = true;
                memory = least_memory(artifact.facts).min(most);
                let (budget, needed) = (self.budget.clone(), preparing.preparer.next_job(memory));
                let reserved = self.loads.run(move || budget.prepare(needed, weights));
                reserved.await.map_err(LoadError::Pool)??
            }
            Err(refused) => return Err(refused.into()),
        };
        loop {
            let job = PrepareJob {
                model: artifact.model.clone(),
                weights: artifact.facts.weights,
                is_ort_format: artifact.is_ort_format,
                prepared: files.as_ref().map(|(file, _)| file.clone()),
                constants: files.as_ref().and_then(|(_, constants)| constants.clone()),
                large: preparing.large_constant.unwrap_or(u64::MAX),
                memory,
                widened: artifact.facts.widened,
                fold,
                most,
                probe: true,
            };
            let error = match preparing.preparer.prepare(job).await {
                Ok(findings) => return Ok(findings),
                Err(error) => error,
            };
            let short_of_memory = match &error {
                PrepareError::Session(SessionError::OutOfMemory) => true,
                // A process does not survive every failed allocation.
                PrepareError::Crashed { .. } => false,
                _ => return Err(error.into()),
            };
            let may_be_short = is_short || (memory >= most && short_of_memory);
            if may_be_short && fold && artifact.facts.widened > 0 {
                // Constants that are not folded need much less memory.
                fold = false;
                continue;
            }
            if memory >= most {
                return Err(if short_of_memory {
                    PrepareError::MemoryBomb(most)
                } else {
                    error
                }
                .into());
            }
            drop(reserved);
            // Use a new child: the last one has ended, or must not get more memory.
            let child = prepare::CHILD;
            // Reserve as much as possible, if it is enough more to be worth another attempt.
            let (budget, least) = (self.budget.clone(), memory.saturating_add(memory / 4).min(most));
            let more = self
                .loads
                .run(move || budget.prepare_up_to(least.saturating_add(child), most.saturating_add(child)));
            match more.await.map_err(LoadError::Pool)? {
                Ok((more, bytes)) => (reserved, memory) = (more, bytes - child),
                // A crash may be a failed allocation too, so it counts only if the child had
                // plenty of memory.
                Err(refused) if short_of_memory || memory < usual.saturating_mul(PLENTY) => return Err(refused.into()),
                Err(_) => return Err(error.into()),
            }
        }
    }
}
