//! A loaded model and what reads and writes the bodies of its requests.

use super::error::CatalogError;
use super::{Catalog, shortened};
use crate::engine::Model;
use crate::handler::Handler;
use std::sync::Arc;

/// A model that takes requests.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) model: Model,
    pub(super) handler: Arc<Handler>,
}

impl Served {
    /// The model under the name that log and refusals give it.
    pub fn called(self, name: String) -> Self {
        Self {
            model: self.model.called(name),
            ..self
        }
    }
}

impl Catalog {
    /// Makes a loaded model ready for requests. One whose manifest does not fit it is unloaded again.
    pub(super) async fn serve(&self, name: &str, model: Model) -> Result<Served, CatalogError> {
        match Handler::new(model.manifest(), model.signature()) {
            Ok(handler) => Ok(Served {
                model,
                handler: Arc::new(handler),
            }),
            Err(source) => {
                self.engine.unload(model).await;
                Err(CatalogError::Manifest {
                    name: shortened(name),
                    source,
                })
            }
        }
    }
}
