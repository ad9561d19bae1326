//! Prepares models while they serve (`--prepare later`).
//!
//! The first load of a content then takes as long as a plain load: it does not wait for the process
//! that prepares it. In return, a model that crashes at its load ends the serving process, as
//! without preparation.
//!
//! Invariants:
//! - A content is prepared once, whatever the number of its names. The private copy of its files
//!   stays until then.
//! - A model that cannot be prepared serves on as it is. It is not quarantined, because its load
//!   has succeeded; the server does not try to prepare it again for a while.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::adapter::Adapter;
use super::artifact::PrivateCopy;
use super::content::ContentHash;
use super::resident::SessionSource;
use crate::engine::run::model::Model;
use crate::engine::run::stuck::Standing;
use crate::engine::{Engine, LoadError};
use crate::manifest::Manifest;

/// A content that was loaded without preparation, and its files.
#[derive(Debug)]
pub struct UnpreparedContent {
    content: ContentHash,
    /// Locked while the content is prepared; `None` afterwards.
    copy: Mutex<Option<Arc<PrivateCopy>>>,
}

impl UnpreparedContent {
    pub(super) fn new(content: ContentHash, copy: Arc<PrivateCopy>) -> Self {
        Self {
            content,
            copy: Mutex::new(Some(copy)),
        }
    }
}

/// The parts that a prepared model takes over from the unprepared one, which they do not keep in
/// memory.
#[derive(Debug)]
pub struct Unprepared {
    content: Arc<UnpreparedContent>,
    manifest: Arc<Manifest>,
    adapter: Option<Arc<Adapter>>,
    standing: Arc<Standing>,
}

impl Model {
    /// `Some` if the model was loaded without preparation, and is to be prepared.
    pub fn unprepared(&self) -> Option<Unprepared> {
        Some(Unprepared {
            content: Arc::clone(self.resident.unprepared.as_ref()?),
            manifest: Arc::clone(&self.manifest),
            adapter: self.adapter.as_ref().map(|bound| Arc::clone(bound.adapter())),
            standing: Arc::clone(&self.standing),
        })
    }
}

impl Engine {
    /// Whether content of which nothing is known is loaded before it is prepared.
    pub(super) fn prepares_later(&self) -> bool {
        let is_on = self.preparing.as_ref().is_some_and(|preparing| preparing.later);
        is_on && self.gpu.is_none()
    }

    /// Prepares a model that was loaded without preparation, and loads it again. `None` if it stays
    /// as it is, for which the log has the reason.
    pub async fn prepare(&self, unprepared: &Unprepared) -> Result<Option<Model>, LoadError> {
        let Some(preparing) = &self.preparing else {
            return Ok(None);
        };
        let content = unprepared.content.content;
        self.prepare_content(&unprepared.content).await?;
        let known = self.known(preparing, content).await?;
        let Some(source) = known.and_then(SessionSource::prepared) else {
            return Ok(None);
        };
        let place = self.residents.slot(content);
        let mut place = place.lock().await;
        let resident = match place.get().filter(|resident| resident.unprepared.is_none()) {
            // Another name of the content was faster.
            Some(resident) => resident,
            None => {
                let resident = Arc::new(self.create(content, Arc::new(source), None).await?);
                place.set(&resident);
                resident
            }
        };
        let (manifest, adapter) = (Arc::clone(&unprepared.manifest), unprepared.adapter.clone());
        let model = self.model(resident, manifest, adapter).await?;
        Ok(Some(Model {
            standing: Arc::clone(&unprepared.standing),
            ..model
        }))
    }

    async fn prepare_content(&self, unprepared: &UnpreparedContent) -> Result<(), LoadError> {
        let Some(preparing) = &self.preparing else {
            return Ok(());
        };
        let mut place = unprepared.copy.lock().await;
        let Some(copy) = &*place else { return Ok(()) };
        match self.prepared(preparing, unprepared.content, copy).await {
            Ok(_) => {}
            // The copy stays for another attempt.
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                tracing::warn!("the model stays unprepared: {error}");
                self.unpreparable.add(unprepared.content.short(), error.to_string());
            }
        }
        let copy = place.take();
        let _ = self.files.run(move || drop(copy)).await;
        Ok(())
    }
}
