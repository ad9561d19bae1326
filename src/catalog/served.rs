//! A loaded model together with the handler that decodes and encodes its requests.

use super::error::CatalogError;
use super::{Catalog, shortened};
use crate::engine::{ArtifactPath, Model};
use crate::handler::{Handler, SharedTokenizer, Tools};
use crate::manifest::Manifest;
use std::sync::Arc;

/// Whether to run the example requests of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManifestRequests {
    /// Run them before the model accepts other requests.
    Run,
    /// Skip them, because the model has passed them before.
    Skip,
}

/// A model that is ready for requests.
#[derive(Debug)]
pub(super) struct ServedModel {
    pub(super) model: Model,
    pub(super) handler: Arc<Handler>,
}

impl ServedModel {
    /// The manifest as JSON, for a record; `None` if it is empty.
    pub fn manifest(&self) -> Option<String> {
        let manifest = self.model.manifest();
        let has_content = *manifest != Manifest::default();
        has_content.then(|| serde_json::to_string(manifest).ok()).flatten()
    }

    /// Sets the name of the model for log messages and errors.
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

    /// Makes a loaded model ready for requests. Unloads it if its manifest does not fit, or if it
    /// fails the example requests of its manifest.
    pub(super) async fn serve(
        &self,
        name: &str,
        path: &ArtifactPath,
        model: Model,
        requests: ManifestRequests,
    ) -> Result<ServedModel, CatalogError> {
        let mut refused = None;
        let tokenizer = match model.manifest().wanted_tokenizer() {
            None => None,
            Some(file) => match self.tokenizer(name, file, &model.manifest().hints.text, path).await {
                Ok(tokenizer) => Some(tokenizer),
                Err(CatalogError::Tokenizer { source, .. }) if !model.manifest().needs_tokenizer(model.signature()) => {
                    tracing::warn!(
                        model = shortened(name),
                        "tokenizer not usable; the model accepts no text: {source}"
                    );
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
                let mut served = ServedModel {
                    model,
                    handler: Arc::new(handler),
                };
                if requests == ManifestRequests::Run {
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
