//! An engine without ONNX Runtime, threads and files. Its loads, unloads and answers end as the
//! test decides.
//!
//! A model takes the bytes of its artifact from the end of its load until it is dropped.

mod artifact;
mod call;
mod model;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::catalog::model_engine::ModelEngine;
use crate::engine::testing::{Budget, LoadRequest, budget};
use crate::engine::{
    ArtifactError, ArtifactPath, ContentHash, InferenceError, LoadError, LoadReservation, NoRoom, PoolError,
    Quarantined, RequestMemory, Standing,
};
use crate::manifest::Manifest;

use call::Gate;
use model::NextAnswer;

pub use artifact::TestArtifact;
pub use call::HeldCall;
pub use model::TestModel;

/// Counts of what the engine has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Loads and restores that were begun.
    pub begun: usize,
    /// Those that gave a model.
    pub loaded: usize,
    /// Models that were given back.
    pub unloaded: usize,
    /// Models that were dropped without being given back.
    pub dropped: usize,
    /// Bytes of all models.
    pub bytes: u64,
}

/// The engine. Artifacts stay where they are; each scripted end belongs to one call.
pub struct TestEngine {
    state: Arc<Mutex<EngineState>>,
    budget: Budget,
}

#[derive(Default)]
struct EngineState {
    artifacts: HashMap<String, TestArtifact>,
    /// The paths that are being loaded.
    loading: HashSet<String>,
    /// The gates of the next loads, by path.
    loads: HashMap<String, VecDeque<Gate>>,
    /// The paths whose models are prepared while they serve, and the gates of the preparations.
    preparations: HashMap<String, VecDeque<Gate>>,
    /// The gates of the next unloads.
    unloads: VecDeque<Gate>,
    answers: VecDeque<NextAnswer>,
    /// Runs when the catalog next looks at the stuck runs of a model.
    at_standing: Option<Box<dyn FnOnce() + Send>>,
    quarantined: Vec<ContentHash>,
    side_files: HashMap<blake3::Hash, Vec<u8>>,
    /// Bytes that all models may take; `None` for no limit.
    limit: Option<u64>,
    /// Refuses the next reservations of shared data, as many as this.
    refuse_shared: usize,
    counts: Counts,
}

impl TestEngine {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::default(),
            budget: budget(),
        })
    }

    fn state(&self) -> MutexGuard<'_, EngineState> {
        self.state.lock().unwrap()
    }

    /// Puts an artifact at `path`, in the place of the one there.
    pub fn put(&self, path: &str, artifact: TestArtifact) {
        self.state().artifacts.insert(path.to_owned(), artifact);
    }

    /// Holds the next load or restore of `path` that no other call of this function holds.
    pub fn hold_load(&self, path: &str) -> HeldCall {
        let (gate, held) = HeldCall::new();
        self.state().loads.entry(path.to_owned()).or_default().push_back(gate);
        held
    }

    /// Makes the next load or restore of `path` fail.
    pub fn fail_load(&self, path: &str, error: LoadError) {
        self.hold_load(path).fail(error);
    }

    /// Makes the models of `path` be prepared while they serve, and holds the next preparation.
    pub fn hold_preparation(&self, path: &str) -> HeldCall {
        let (gate, held) = HeldCall::new();
        let mut state = self.state();
        state.preparations.entry(path.to_owned()).or_default().push_back(gate);
        held
    }

    /// Forgets the preparations that were held and have not begun.
    pub fn forget_preparations(&self) {
        self.state().preparations.clear();
    }

    pub fn hold_unload(&self) -> HeldCall {
        let (gate, held) = HeldCall::new();
        self.state().unloads.push_back(gate);
        held
    }

    pub fn fail_answer(&self, error: InferenceError) {
        self.state().answers.push_back(NextAnswer::Fail(error));
    }

    /// Makes the run of the next answer continue after the answer. It holds the model until the
    /// received value is dropped.
    pub fn keep_handle_of_answer(&self) -> oneshot::Receiver<Box<dyn Send>> {
        let (sender, kept) = oneshot::channel();
        self.state().answers.push_back(NextAnswer::KeepHandle(sender));
        kept
    }

    pub fn at_next_standing(&self, action: impl FnOnce() + Send + 'static) {
        self.state().at_standing = Some(Box::new(action));
    }

    pub fn quarantine(&self, content: ContentHash) {
        self.state().quarantined.push(content);
    }

    pub fn release_quarantine(&self) {
        self.state().quarantined.clear();
    }

    pub fn set_limit(&self, bytes: u64) {
        self.state().limit = Some(bytes);
    }

    pub fn refuse_shared(&self, times: usize) {
        self.state().refuse_shared = times;
    }

    /// Keeps a side file as an earlier process has done.
    pub fn keep(&self, file: &str) {
        let bytes = file.as_bytes();
        self.keep_side_file(&blake3::hash(bytes), bytes);
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Bytes of requests, downloads and shared data.
    pub fn other_bytes(&self) -> u64 {
        let reserved = self.budget.reserved();
        reserved.models + reserved.requests
    }

    async fn load_at(&self, path: &ArtifactPath, manifest: Option<&Manifest>) -> Result<TestModel, LoadError> {
        let path = artifact_at(path);
        self.state().counts.begun += 1;
        let _loading = Loading::begin(&self.state, &path);
        let gate = self.state().loads.get_mut(&path).and_then(VecDeque::pop_front);
        if let Some(gate) = gate {
            gate.pass().await?;
        }
        let mut state = self.state();
        let Some(artifact) = state.artifacts.get(&path).cloned() else {
            return Err(ArtifactError::Missing { path }.into());
        };
        if let Some(limit) = state.limit {
            let available = limit.saturating_sub(state.counts.bytes);
            if artifact.bytes > available {
                let needed = artifact.bytes;
                return Err(no_room(needed, available, limit).into());
            }
        }
        state.counts.bytes += artifact.bytes;
        state.counts.loaded += 1;
        Ok(TestModel {
            path: path.clone(),
            is_prepared: false,
            standing: Arc::new(Standing::new(path, None, artifact.content.short())),
            manifest: manifest.unwrap_or(&artifact.manifest).clone(),
            signature: artifact.signature,
            content: artifact.content,
            bytes: artifact.bytes,
            is_given_back: false,
            engine: Arc::clone(&self.state),
        })
    }
}

/// A load in progress. Each test loads an artifact under one name, so there is one at most.
struct Loading {
    engine: Arc<Mutex<EngineState>>,
    path: String,
}

impl Loading {
    fn begin(engine: &Arc<Mutex<EngineState>>, path: &str) -> Self {
        let is_first = engine.lock().unwrap().loading.insert(path.to_owned());
        assert!(is_first, "{path} is being loaded already");
        Self {
            engine: Arc::clone(engine),
            path: path.to_owned(),
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.engine.lock().unwrap().loading.remove(&self.path);
    }
}

/// The path of the artifact. A folder from a store has the path of its artifact in its only file.
fn artifact_at(path: &ArtifactPath) -> String {
    let file = fs::read_to_string(path.path().join("model.onnx"));
    file.unwrap_or_else(|_| path.path().to_string_lossy().into_owned())
}

pub fn no_room(needed: u64, available: u64, limit: u64) -> NoRoom {
    NoRoom {
        needed,
        available,
        limit,
    }
}

impl fmt::Debug for TestEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestEngine").finish_non_exhaustive()
    }
}

impl ModelEngine for TestEngine {
    type Model = TestModel;
    type ToPrepare = String;

    async fn load(&self, path: &ArtifactPath) -> Result<TestModel, LoadError> {
        self.load_at(path, None).await
    }

    async fn restore(
        &self,
        path: &ArtifactPath,
        _: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> Result<TestModel, LoadError> {
        self.load_at(path, Some(manifest)).await
    }

    fn to_prepare(&self, model: &TestModel) -> Option<String> {
        let is_later = self.state().preparations.contains_key(&model.path);
        (is_later && !model.is_prepared).then(|| model.path.clone())
    }

    async fn prepare(&self, path: &String) -> Result<bool, LoadError> {
        let gate = self.state().preparations.get_mut(path).and_then(VecDeque::pop_front);
        if let Some(gate) = gate {
            gate.pass().await?;
        }
        Ok(true)
    }

    async fn load_prepared(&self, path: &String) -> Result<Option<TestModel>, LoadError> {
        let mut model = self.load_at(&ArtifactPath::trusted(Path::new(path)), None).await?;
        model.is_prepared = true;
        Ok(Some(model))
    }

    async fn unload(&self, mut model: TestModel) -> u64 {
        let gate = self.state().unloads.pop_front();
        if let Some(gate) = gate {
            // Unloads do not fail.
            let _ = gate.pass().await;
        }
        self.state().counts.unloaded += 1;
        model.is_given_back = true;
        model.bytes
    }

    fn check(&self, content: &ContentHash) -> Result<(), Quarantined> {
        if self.state().quarantined.contains(content) {
            return Err(quarantined());
        }
        Ok(())
    }

    fn memory_for_models(&self) -> u64 {
        self.state().limit.unwrap_or(u64::MAX)
    }

    fn reserve_body(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.budget.request_now(bytes)
    }

    fn reserve_shared(&self, peak: u64, resident: u64) -> Result<LoadReservation, NoRoom> {
        let mut state = self.state();
        if state.refuse_shared > 0 {
            state.refuse_shared -= 1;
            return Err(no_room(peak, 0, 0));
        }
        self.budget.load(&LoadRequest {
            peak,
            private: resident,
            ..LoadRequest::default()
        })
    }

    fn keep_side_file(&self, hash: &blake3::Hash, bytes: &[u8]) {
        self.state().side_files.insert(*hash, bytes.to_vec());
    }

    fn side_file(&self, hash: &blake3::Hash, _: &ArtifactPath, _: &str) -> Option<Vec<u8>> {
        self.state().side_files.get(hash).cloned()
    }

    async fn with_files<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        Ok(work())
    }

    async fn with_loads<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        Ok(work())
    }
}

pub fn quarantined() -> Quarantined {
    Quarantined {
        reason: "it crashed a process".to_owned(),
        retry_after: Duration::from_secs(60),
    }
}
