//! Models, and their answers to the requests of a manifest.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::EngineState;
use crate::catalog::model_engine::LoadedModel;
use crate::codec::EncodedResponse;
use crate::engine::{ContentHash, InferenceError, LoadedMemory, NoRoom, RequestBudget, RequestMemory, Standing, Work};
use crate::handler::{Invocation, InvocationError};
use crate::manifest::Manifest;
use crate::tensor::{Signature, Value};

/// A model. Its answer to a request is the request's input.
pub struct TestModel {
    pub(super) path: String,
    pub(in crate::catalog) is_prepared: bool,
    pub(super) content: ContentHash,
    pub(super) manifest: Manifest,
    pub(super) signature: Signature,
    pub(super) standing: Arc<Standing>,
    pub(super) bytes: u64,
    pub(super) is_given_back: bool,
    pub(super) engine: Arc<Mutex<EngineState>>,
}

impl fmt::Debug for TestModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestModel")
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

impl Drop for TestModel {
    fn drop(&mut self) {
        let mut engine = self.engine.lock().unwrap();
        engine.counts.bytes -= self.bytes;
        if !self.is_given_back {
            engine.counts.dropped += 1;
        }
    }
}

/// A budget that reserves nothing.
struct Uncounted;

impl RequestBudget for Uncounted {
    fn reserve(&self, _: u64) -> Result<Option<RequestMemory>, NoRoom> {
        Ok(None)
    }
}

impl LoadedModel for TestModel {
    fn content(&self) -> &ContentHash {
        &self.content
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn loaded_memory(&self) -> LoadedMemory {
        LoadedMemory {
            mapped: 0,
            own: self.bytes,
            shared: 0,
        }
    }

    fn charge(&self) -> u64 {
        self.bytes
    }

    fn standing(&self) -> &Arc<Standing> {
        let action = self.engine.lock().unwrap().at_standing.take();
        if let Some(action) = action {
            action();
        }
        &self.standing
    }

    fn called(mut self, name: String, target_model: Option<String>) -> Self {
        self.standing = Arc::new(Standing::new(name, target_model, self.content.short()));
        self
    }

    fn note_replaced(&self) {}

    fn forget_files(&mut self) {
        (self.manifest.warmup, self.manifest.golden) = (Vec::new(), Vec::new());
    }

    async fn answer(
        model: &(impl AsRef<Self> + Clone + Send + Sync + 'static),
        _: usize,
        _: Instant,
        invocation: Invocation,
    ) -> Result<EncodedResponse, InvocationError> {
        let next = model.as_ref().engine.lock().unwrap().answers.pop_front();
        match next {
            Some(NextAnswer::Fail(error)) => return Err(error.into()),
            Some(NextAnswer::KeepHandle(sender)) => {
                let _ = sender.send(Box::new(model.clone()));
            }
            None => {}
        }
        let (inputs, plan) = invocation.decode(&Uncounted)?;
        let outputs = inputs.tensors.into_iter().map(Value::Tensor).collect();
        invocation.encode(plan, &[outputs])
    }
}

/// The course of an answer.
pub(super) enum NextAnswer {
    Fail(InferenceError),
    /// Answers, and sends its handle to the test.
    KeepHandle(oneshot::Sender<Box<dyn Send>>),
}
