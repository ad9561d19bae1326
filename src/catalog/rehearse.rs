//! Rehearsal: runs the example requests of a manifest before the model accepts any other request.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Catalog;
use super::error::{CatalogError, load_error, shortened};
use super::model_engine::{LoadedModel, ModelEngine};
use super::served::ServedModel;
use crate::engine::{InferenceError, LoadError, PoolError};
use crate::handler::{Handler, RehearsalError, rehearsals};

/// Handle that the runs of a rehearsal hold on the model.
struct RehearsalHandle<M> {
    // Fields drop in this order, and the token must be last: once the last token is dropped,
    // nothing holds the model.
    model: Arc<M>,
    token: TaskTrackerToken,
}

impl<M> Clone for RehearsalHandle<M> {
    fn clone(&self) -> Self {
        Self {
            model: Arc::clone(&self.model),
            token: self.token.clone(),
        }
    }
}

impl<M> AsRef<M> for RehearsalHandle<M> {
    fn as_ref(&self) -> &M {
        &self.model
    }
}

impl<E: ModelEngine> Catalog<E> {
    /// Runs the requests of the manifest of `served` in order. Unloads the model if one of them
    /// fails.
    pub(super) async fn rehearse(
        &self,
        name: &str,
        served: ServedModel<E::Model>,
    ) -> Result<ServedModel<E::Model>, CatalogError> {
        let ServedModel { model, handler } = served.called(shortened(name), None);
        let users = TaskTracker::new();
        let handle = RehearsalHandle {
            model: Arc::new(model),
            token: users.token(),
        };
        let outcome = self.rehearse_all(name, &handle, &handler).await;
        users.close();
        let RehearsalHandle { model, token } = handle;
        drop(token);
        // A run on a compute thread drops its handle shortly after its answer, or when the run can
        // be ended.
        let is_free = timeout(self.settings.unload_timeout, users.wait()).await.is_ok();
        match (outcome, Arc::into_inner(model)) {
            (Ok(()), Some(model)) => Ok(ServedModel { model, handler }),
            (Ok(()), None) => {
                debug_assert!(!is_free);
                Err(load_error(name, LoadError::Pool(PoolError::Deadline)))
            }
            (Err(source), model) => {
                // If a stuck run still holds the model, that run drops it at its end.
                if let Some(model) = model {
                    self.engine.unload(model).await;
                }
                Err(CatalogError::Rehearsal {
                    name: shortened(name),
                    source: Box::new(source),
                })
            }
        }
    }

    async fn rehearse_all(
        &self,
        name: &str,
        handle: &RehearsalHandle<E::Model>,
        handler: &Arc<Handler>,
    ) -> Result<(), RehearsalError> {
        let deadline = Instant::now() + self.settings.rehearsal_timeout;
        for rehearsal in rehearsals(handle.model.manifest()) {
            let body = rehearsal.body();
            let size = body.len();
            let memory = self.engine.reserve_body(size as u64);
            let memory = memory.map_err(|error| rehearsal.failed(InferenceError::NoRoom(error).into()))?;
            let invocation = rehearsal.invocation(body, Some(memory), name.to_owned(), Arc::clone(handler));
            let answer = E::Model::answer(handle, size, deadline, invocation).await;
            rehearsal.check(&answer.map_err(|error| rehearsal.failed(error))?)?;
        }
        Ok(())
    }
}
