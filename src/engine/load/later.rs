//! Loads new content before it is prepared, and prepares it while it serves (`--prepare later`).
//!
//! The first load of a content then takes as long as a plain load: it does not wait for the process
//! that prepares it. In return, a model that crashes at its load or in its first run ends the
//! serving process, as without preparation.
//!
//! Some content is prepared first all the same: where only a trial shows how the outputs relate to
//! the records of a request, because answers would change their form with the prepared model; where
//! only the prepared form fits into memory; and where too many others wait, because each one keeps
//! a copy of its files.
//!
//! Invariants:
//! - Content that waits keeps a private copy of its files, but no model, adapter or other memory.
//! - A model that cannot be prepared serves on as it is. It is not quarantined, because it has been
//!   loaded. The server does not try to prepare it again for a while.

use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::adapter::Adapter;
use super::artifact::{Artifact, PrivateCopy};
use super::content::ContentHash;
use super::output_rows;
use super::prepare::Prepared;
use super::resident::{Resident, SessionSource};
use crate::disk_cache::is_in_memory;
use crate::engine::onnxruntime::session::SessionError;
use crate::engine::run::model::Model;
use crate::engine::run::stuck::Standing;
use crate::engine::{Engine, LoadError};
use crate::manifest::Manifest;

/// Most contents that wait for their preparation.
const MOST_WAITING: usize = 64;

/// The places of contents that wait for their preparation.
pub(in crate::engine) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_WAITING))
}

/// A content that was loaded without preparation, and its files.
#[derive(Debug)]
pub struct ContentToPrepare {
    content: ContentHash,
    /// Locked while the content is prepared; `None` afterwards.
    copy: Mutex<Option<Arc<PrivateCopy>>>,
    _place: OwnedSemaphorePermit,
}

/// The parts that a prepared model takes over from the model in whose place it is put.
#[derive(Debug)]
pub struct ModelToPrepare {
    content: Arc<ContentToPrepare>,
    manifest: Arc<Manifest>,
    /// An unload frees the adapter, and ends the preparation.
    adapter: Option<Weak<Adapter>>,
    standing: Arc<Standing>,
}

impl Model {
    /// `Some` if the model was loaded without preparation, and is to be prepared.
    pub fn to_prepare(&self) -> Option<ModelToPrepare> {
        Some(ModelToPrepare {
            content: Arc::clone(self.resident.to_prepare.as_ref()?),
            manifest: Arc::clone(&self.manifest),
            adapter: self.adapter.as_ref().map(|bound| Arc::downgrade(bound.adapter())),
            standing: Arc::clone(&self.standing),
        })
    }

    /// Notes that the prepared model takes the place of this one. Its memory is then no room for a
    /// replacement.
    pub fn note_replaced(&self) {
        self.resident.note_replaced();
    }
}

impl Engine {
    /// Loads new content from `copy` without preparation. `None` if it has to be prepared first.
    pub(super) async fn load_unprepared(
        &self,
        content: ContentHash,
        artifact: &Arc<Artifact>,
        copy: &Arc<PrivateCopy>,
    ) -> Result<Option<Resident>, LoadError> {
        let Some(place) = self.place_for_later(copy).await? else {
            return Ok(None);
        };
        let source = Arc::new(SessionSource::of(Arc::clone(copy), None));
        let mut resident = match self.create(content, source, Some(Arc::clone(artifact))).await {
            Ok(resident) => resident,
            Err(LoadError::NoRoom(_) | LoadError::Session(SessionError::OutOfMemory)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !output_rows::are_certain(resident.session.signature(), artifact.facts.has_known_sizes) {
            self.release(Arc::new(resident)).await;
            return Ok(None);
        }
        if self.unpreparable.check(&content).is_ok() {
            resident.to_prepare = Some(Arc::new(ContentToPrepare {
                content,
                copy: Mutex::new(Some(Arc::clone(copy))),
                _place: place,
            }));
        }
        Ok(Some(resident))
    }

    /// A place for content that is loaded before it is prepared; `None` if there is none.
    async fn place_for_later(&self, copy: &Arc<PrivateCopy>) -> Result<Option<OwnedSemaphorePermit>, LoadError> {
        let places = self.preparing.as_ref().and_then(|preparing| preparing.later.clone());
        // Sessions on a GPU are created from the uploaded files in any case.
        let place = places
            .filter(|_| self.gpu.is_none())
            .and_then(|places| places.try_acquire_owned().ok());
        let Some(place) = place else { return Ok(None) };
        let copy = Arc::clone(copy);
        // Copies in memory would not be counted.
        let is_in_memory = self
            .files
            .run(move || is_in_memory(&copy.artifact().model).unwrap_or(false));
        let is_in_memory = is_in_memory.await.map_err(LoadError::Pool)?;
        Ok((!is_in_memory).then_some(place))
    }

    /// Prepares the content of a model that was loaded without preparation. Returns whether there
    /// is a prepared form; the log has the reason if there is none.
    pub async fn prepare(&self, model: &ModelToPrepare) -> Result<bool, LoadError> {
        let Some(preparing) = &self.preparing else {
            return Ok(false);
        };
        let content = model.content.content;
        let mut place = model.content.copy.lock().await;
        let known = self.known(preparing, content).await?;
        let prepared = match (&*place, known) {
            (_, Some(known)) => Some(known),
            (None, None) => None,
            (Some(copy), None) => match self.prepared(preparing, content, copy).await {
                Ok(prepared) => prepared,
                // The copy stays for another attempt.
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    self.note_unpreparable(content, copy, &error).await;
                    None
                }
            },
        };
        let copy = place.take();
        let _ = self.files.run(move || drop(copy)).await;
        Ok(has_form(prepared))
    }

    async fn note_unpreparable(&self, content: ContentHash, copy: &Arc<PrivateCopy>, error: &LoadError) {
        let copy = Arc::clone(copy);
        // The folder for copies may be deleted at any time, which is not the fault of the model.
        let was_there = self.files.run(move || copy.artifact().model.exists()).await;
        if was_there.unwrap_or(false) {
            tracing::warn!("the model serves on unprepared: {error}");
            self.unpreparable.add(content.short(), error.to_string());
        } else {
            tracing::warn!("the model serves on unprepared until its next load: the copy of its files was deleted");
        }
    }

    /// Loads the prepared form of a model that [`Self::prepare`] has prepared. `None` if that is
    /// gone, or the model is.
    pub async fn load_prepared(&self, model: &ModelToPrepare) -> Result<Option<Model>, LoadError> {
        let adapter = match &model.adapter {
            None => None,
            Some(adapter) => match adapter.upgrade() {
                Some(adapter) => Some(adapter),
                None => return Ok(None),
            },
        };
        let content = model.content.content;
        let known = match &self.preparing {
            None => None,
            Some(preparing) => self.known(preparing, content).await?,
        };
        let Some(source) = known.and_then(SessionSource::prepared) else {
            return Ok(None);
        };
        let place = self.residents.slot(content);
        let mut place = place.lock().await;
        let resident = match place.get().filter(|resident| resident.to_prepare.is_none()) {
            // Another name of the content was faster.
            Some(resident) => resident,
            None => {
                let resident = Arc::new(self.create(content, Arc::new(source), None).await?);
                place.set(&resident);
                resident
            }
        };
        drop(place);
        let loaded = self.model(resident, Arc::clone(&model.manifest), adapter).await?;
        Ok(Some(Model {
            standing: Arc::clone(&model.standing),
            ..loaded
        }))
    }
}

/// Whether there is a prepared form, and not only findings about the model.
fn has_form(prepared: Option<Prepared>) -> bool {
    let has_form = prepared.is_some_and(|prepared| prepared.file.is_some());
    if !has_form {
        tracing::debug!("the model serves on as it was uploaded, because no prepared form was kept");
    }
    has_form
}
