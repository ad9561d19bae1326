//! A loaded model together with the handler that decodes and encodes its requests.

use std::sync::Arc;

use super::error::CatalogError;
use super::model_engine::{LoadedModel, ModelEngine};
use super::{Catalog, shortened};
use crate::engine::ArtifactPath;
use crate::handler::{Handler, SharedTokenizer, Tools};
use crate::manifest::Manifest;

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
pub(super) struct ServedModel<M> {
    pub(super) model: M,
    pub(super) handler: Arc<Handler>,
}

impl<M: LoadedModel> ServedModel<M> {
    /// The manifest as JSON, for a record; `None` if it is empty.
    pub fn manifest(&self) -> Option<String> {
        let manifest = self.model.manifest();
        let has_content = *manifest != Manifest::default();
        has_content.then(|| serde_json::to_string(manifest).ok()).flatten()
    }

    /// Sets the name of the model for log messages and errors, and the client's name for it.
    pub fn called(self, name: String, target_model: Option<String>) -> Self {
        Self {
            model: self.model.called(name, target_model),
            ..self
        }
    }
}

impl<E: ModelEngine> Catalog<E> {
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
        model: E::Model,
        requests: ManifestRequests,
    ) -> Result<ServedModel<E::Model>, CatalogError> {
        let mut refused = None;
        let tokenizer = match model.manifest().wanted_tokenizer() {
            None => None,
            Some(file) => match self.tokenizer(name, file, &model.manifest().hints.text, path).await {
                Ok(tokenizer) => Some(tokenizer),
                Err(CatalogError::Tokenizer { source, .. }) if !model.manifest().needs_tokenizer(model.signature()) => {
                    tracing::warn!("tokenizer not usable; the model accepts no text: {source}");
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
