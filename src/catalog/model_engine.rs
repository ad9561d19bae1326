//! The part of the engine that the catalog uses: loads, unloads, and reservations of memory.
//!
//! The catalog is generic over it. The server's catalog has [`Engine`]; unit tests have an engine
//! whose loads end by script (`tests/engine.rs`), so that whole flows run without ONNX Runtime,
//! processes or files.

use std::fmt::Debug;
use std::sync::Arc;

use tokio::time::Instant;

use crate::codec::EncodedResponse;
use crate::engine::{
    ArtifactPath, ContentHash, Engine, LoadError, LoadReservation, LoadedMemory, Model, ModelToPrepare, NoRoom,
    PoolError, Quarantined, RequestMemory, Standing,
};
use crate::handler::{Invocation, InvocationError};
use crate::manifest::Manifest;
use crate::tensor::Signature;

/// Loads and unloads models, and reserves the memory of what belongs to them.
pub trait ModelEngine: Debug + Send + Sync + 'static {
    type Model: LoadedModel;

    /// The facts that the preparation of a loaded model needs, without the model itself.
    type ToPrepare: Debug + Send + Sync + 'static;

    /// Loads the artifact at `path`.
    fn load(&self, path: &ArtifactPath) -> impl Future<Output = Result<Self::Model, LoadError>> + Send;

    /// Loads a model again from `path`, with its previous manifest.
    fn restore(
        &self,
        path: &ArtifactPath,
        content: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> impl Future<Output = Result<Self::Model, LoadError>> + Send;

    /// `Some` for a model that is to be prepared while it serves.
    fn to_prepare(&self, model: &Self::Model) -> Option<Self::ToPrepare>;

    /// Prepares a loaded model. Returns whether it has a prepared form.
    fn prepare(&self, model: &Self::ToPrepare) -> impl Future<Output = Result<bool, LoadError>> + Send;

    /// Loads the prepared form of a model; `None` if there is none any more.
    fn load_prepared(
        &self,
        model: &Self::ToPrepare,
    ) -> impl Future<Output = Result<Option<Self::Model>, LoadError>> + Send;

    /// Frees `model` before the future ends. Returns the bytes that no other model uses.
    fn unload(&self, model: Self::Model) -> impl Future<Output = u64> + Send;

    /// Fails if `content` is quarantined.
    fn check(&self, content: &ContentHash) -> Result<(), Quarantined>;

    /// Bytes for models.
    fn memory_for_models(&self) -> u64;

    /// Reserves memory for a request's body, or for a download.
    fn reserve_body(&self, bytes: u64) -> Result<RequestMemory, NoRoom>;

    /// Reserves memory for data that models share. Blocks.
    fn reserve_shared(&self, peak: u64, resident: u64) -> Result<LoadReservation, NoRoom>;

    /// Keeps a side file of a model for [`Self::side_file`]. Blocks.
    fn keep_side_file(&self, hash: &blake3::Hash, bytes: &[u8]);

    /// Finds the side file with this `hash`: the kept one, or `file` of the artifact at `path`.
    /// Blocks.
    fn side_file(&self, hash: &blake3::Hash, path: &ArtifactPath, file: &str) -> Option<Vec<u8>>;

    /// Runs `work`, which blocks on a file system, on a thread that may block.
    fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, PoolError>> + Send;

    /// Runs `work` on a load thread.
    fn with_loads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, PoolError>> + Send;
}

/// A model in memory.
pub trait LoadedModel: Debug + Sized + Send + Sync + 'static {
    fn content(&self) -> &ContentHash;

    fn manifest(&self) -> &Manifest;

    fn signature(&self) -> &Signature;

    /// The memory of this model after its load.
    fn loaded_memory(&self) -> LoadedMemory;

    /// Bytes that an unload frees, unless another name has the same content.
    fn charge(&self) -> u64;

    /// The model's stuck runs.
    fn standing(&self) -> &Arc<Standing>;

    /// Sets the model's name for the log and for error messages, and the client's name for it.
    fn called(self, name: String, target_model: Option<String>) -> Self;

    /// Notes that the prepared model takes the place of this one.
    fn note_replaced(&self);

    /// Drops what a ready model does not need.
    fn forget_files(&mut self);

    /// Answers a request of the manifest. The run holds a clone of `model` until it ends.
    fn answer(
        model: &(impl AsRef<Self> + Clone + Send + Sync + 'static),
        size: usize,
        deadline: Instant,
        invocation: Invocation,
    ) -> impl Future<Output = Result<EncodedResponse, InvocationError>> + Send;
}

// Inherent methods take precedence over those of a trait, so the calls below reach the engine's
// own methods.

impl ModelEngine for Engine {
    type Model = Model;
    type ToPrepare = ModelToPrepare;

    async fn load(&self, path: &ArtifactPath) -> Result<Model, LoadError> {
        self.load(path).await
    }

    async fn restore(
        &self,
        path: &ArtifactPath,
        content: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> Result<Model, LoadError> {
        self.restore(path, content, manifest).await
    }

    fn to_prepare(&self, model: &Model) -> Option<ModelToPrepare> {
        model.to_prepare()
    }

    async fn prepare(&self, model: &ModelToPrepare) -> Result<bool, LoadError> {
        self.prepare(model).await
    }

    async fn load_prepared(&self, model: &ModelToPrepare) -> Result<Option<Model>, LoadError> {
        self.load_prepared(model).await
    }

    async fn unload(&self, model: Model) -> u64 {
        self.unload(model).await
    }

    fn check(&self, content: &ContentHash) -> Result<(), Quarantined> {
        self.check(content)
    }

    fn memory_for_models(&self) -> u64 {
        self.memory_for_models()
    }

    fn reserve_body(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.reserve_body(bytes)
    }

    fn reserve_shared(&self, peak: u64, resident: u64) -> Result<LoadReservation, NoRoom> {
        self.reserve_shared(peak, resident)
    }

    fn keep_side_file(&self, hash: &blake3::Hash, bytes: &[u8]) {
        self.keep_side_file(hash, bytes);
    }

    fn side_file(&self, hash: &blake3::Hash, path: &ArtifactPath, file: &str) -> Option<Vec<u8>> {
        self.side_file(hash, path, file)
    }

    async fn with_files<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        self.with_files(work).await
    }

    async fn with_loads<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        self.with_loads(work).await
    }
}

impl LoadedModel for Model {
    fn content(&self) -> &ContentHash {
        self.content()
    }

    fn manifest(&self) -> &Manifest {
        self.manifest()
    }

    fn signature(&self) -> &Signature {
        self.signature()
    }

    fn loaded_memory(&self) -> LoadedMemory {
        self.loaded_memory()
    }

    fn charge(&self) -> u64 {
        self.charge()
    }

    fn standing(&self) -> &Arc<Standing> {
        self.standing()
    }

    fn called(self, name: String, target_model: Option<String>) -> Self {
        self.called(name, target_model)
    }

    fn note_replaced(&self) {
        self.note_replaced();
    }

    fn forget_files(&mut self) {
        self.forget_files();
    }

    async fn answer(
        model: &(impl AsRef<Self> + Clone + Send + Sync + 'static),
        size: usize,
        deadline: Instant,
        invocation: Invocation,
    ) -> Result<EncodedResponse, InvocationError> {
        Self::answer(model, size, deadline, invocation).await
    }
}
