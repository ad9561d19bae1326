//! A loaded model and what reads and writes the bodies of its requests.

use super::error::CatalogError;
use super::{Catalog, shortened};
use crate::engine::{ArtifactPath, Model};
use crate::handler::{Handler, SharedTokenizer, Tools};
use crate::manifest::Manifest;
use std::sync::Arc;

/// The treatment of the requests in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requests {
    /// They run before any other.
    Run,
    /// The model has passed them before.
    Skip,
}

/// A model that takes requests.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) model: Model,
    pub(super) handler: Arc<Handler>,
}

impl Served {
    /// The manifest as JSON, for a record; `None` where there is nothing in it.
    pub fn manifest(&self) -> Option<String> {
        let manifest = self.model.manifest();
        let says_something = *manifest != Manifest::default();
        says_something.then(|| serde_json::to_string(manifest).ok()).flatten()
    }

    /// The model under the name that log and refusals give it.
    pub fn called(self, name: String) -> Self {
        Self {
            model: self.model.called(name),
            ..self
        }
    }
}

impl Catalog {
    fn tools(&self, tokenizer: Option<SharedTokenizer>, no_tokenizer: Option<String>) -> Tools {
        Tools {
            tokenizer,
            no_tokenizer,
            limits: self.settings.media,
        }
    }

    /// Makes a loaded model ready for requests. One whose manifest does not fit it, or that fails
    /// the requests of its manifest, is unloaded again.
    pub(super) async fn serve(
        &self,
        name: &str,
        path: &ArtifactPath,
        model: Model,
        requests: Requests,
    ) -> Result<Served, CatalogError> {
        let mut refused = None;
        let tokenizer = match model.manifest().wanted_tokenizer() {
            None => None,
            Some(file) => match self.tokenizer(name, file, &model.manifest().hints.text, path).await {
                Ok(tokenizer) => Some(tokenizer),
                Err(CatalogError::Tokenizer { source, .. }) if !model.manifest().needs_tokenizer(model.signature()) => {
                    tracing::warn!(model = shortened(name), "no sentences are taken: {source}");
                    refused = Some(source.to_string());
                    None
                }
                Err(error) => {
                    self.engine.unload(model).await;
                    return Err(error);
                }
            },
        };
        match Handler::new(model.manifest(), model.signature(), self.tools(tokenizer, refused)) {
            Ok(handler) => {
                let mut served = Served {
                    model,
                    handler: Arc::new(handler),
                };
                if requests == Requests::Run {
                    served = self.rehearse(name, served).await?;
                }
                served.model.forget_files();
                Ok(served)
            }
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
