//! Runs the requests that a manifest brings along, before the model takes any other.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Catalog;
use super::error::{CatalogError, load_error, shortened};
use super::served::Served;
use crate::engine::{InferenceError, LoadError, Model, PoolError};
use crate::handler::{Handler, RehearsalError, rehearsals};

/// The model, lent to its runs.
#[derive(Debug, Clone)]
struct Lent {
    // Declared in the order in which they must be dropped: the last token gone, nothing else holds
    // the model.
    model: Arc<Model>,
    _token: TaskTrackerToken,
}

impl AsRef<Model> for Lent {
    fn as_ref(&self) -> &Model {
        &self.model
    }
}

impl Catalog {
    /// Runs the requests of the manifest of `served` one after the other. A model that fails one of
    /// them is unloaded again.
    pub(super) async fn rehearse(&self, name: &str, served: Served) -> Result<Served, CatalogError> {
        let Served { model, handler } = served.called(shortened(name));
        let users = TaskTracker::new();
        let lent = Lent {
            model: Arc::new(model),
            _token: users.token(),
        };
        let outcome = self.rehearse_all(name, &lent, &handler).await;
        users.close();
        let Lent { model, _token: token } = lent;
        drop(token);
        // A run on a compute thread lets go of the model a moment after its answer, or when it can
        // be ended.
        let is_free = timeout(self.settings.unload_timeout, users.wait()).await.is_ok();
        match (outcome, Arc::into_inner(model)) {
            (Ok(()), Some(model)) => Ok(Served { model, handler }),
            (Ok(()), None) => {
                debug_assert!(!is_free);
                Err(load_error(name, LoadError::Pool(PoolError::Deadline)))
            }
            (Err(source), model) => {
                // A run that cannot be ended drops the model when it is over.
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

    async fn rehearse_all(&self, name: &str, lent: &Lent, handler: &Arc<Handler>) -> Result<(), RehearsalError> {
        let deadline = Instant::now() + self.settings.rehearsal_timeout;
        for rehearsal in rehearsals(lent.model.manifest()) {
            let body = rehearsal.body();
            let size = body.len();
            let memory = self.engine.reserve_body(size as u64);
            let memory = memory.map_err(|error| rehearsal.failed(InferenceError::NoRoom(error).into()))?;
            let invocation = rehearsal.invocation(body, Some(memory), name.to_owned(), Arc::clone(handler));
            let answer = Model::answer(lent, size, deadline, invocation).await;
            rehearsal.check(&answer.map_err(|error| rehearsal.failed(error))?)?;
        }
        Ok(())
    }
}
