//! Errors of the catalog, and which of them are worth a retry.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;

use super::MAX_NAME_BYTES;
use crate::engine::{InferenceError, LoadError, Quarantined, RunError, SessionError};
use crate::handler::{HandlerError, InvocationError, RehearsalError};
use crate::manifest::{FILE, TOKENIZER};
use crate::store::{FetchError, NameError};
use crate::text::TextError;

/// Cause of a refusal by the catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("model \"{}\" is already loaded", shortened(.name))]
    AlreadyLoaded { name: String },
    #[error("model \"{}\" is not loaded", shortened(.name))]
    NotLoaded { name: String },
    #[error("the model name is not valid: it must have 1 to {MAX_NAME_BYTES} bytes and not be \".\" or \"..\"")]
    Name,
    #[error("url \"{}\" is not below {roots}; use a path below them or change --models-root", shortened(.url))]
    OutsideRoots { url: String, roots: String },
    #[error("url \"{}\" does not exist", shortened(.url))]
    MissingUrl { url: String },
    #[error("model \"{}\" cannot be loaded: {source}", shortened(.name))]
    Load {
        name: String,
        #[source]
        source: Arc<LoadError>,
    },
    #[error("model \"{name}\" cannot be loaded: {FILE}: {source}")]
    Manifest {
        name: String,
        #[source]
        source: HandlerError,
    },
    #[error("model \"{}\" cannot be loaded: {TOKENIZER}: {source}", shortened(.name))]
    Tokenizer {
        name: String,
        #[source]
        source: TextError,
    },
    #[error("model \"{}\" cannot be loaded again: its {TOKENIZER} is gone or has changed", shortened(.name))]
    TokenizerGone { name: String },
    #[error("model \"{name}\" cannot be loaded: {FILE}: {source}")]
    Rehearsal {
        name: String,
        #[source]
        source: Box<RehearsalError>,
    },
    /// The model is listed but quarantined, so it must not run.
    #[error("model \"{}\" is refused: {source}", shortened(.name))]
    Refused {
        name: String,
        #[source]
        source: Quarantined,
    },
    #[error(
        "model \"{}\" still answers requests after {waited:?}; it takes no new ones, try again",
        shortened(.name)
    )]
    StillBusy { name: String, waited: Duration },
    #[error(
        "model \"{}\" is unloaded, but its memory is not free yet: {runs} of its runs cannot be ended and hold {} until \
         they end; the name can be used for a load now",
        shortened(.name),
        ByteSize(*.bytes)
    )]
    StillHeld { name: String, runs: usize, bytes: u64 },
    #[error("{0}")]
    StoreName(#[from] NameError),
    #[error("model \"{}\" is at \"{expected}\" in the store, not at \"{}\"", shortened(.name), shortened(.url))]
    OtherUrl {
        name: String,
        url: String,
        expected: String,
    },
    #[error("model \"{}\" cannot be fetched from the store: {source}", shortened(.name))]
    Fetch {
        name: String,
        #[source]
        source: FetchError,
    },
    /// Error of a pending load, shared by all that waited for it.
    #[error("{0}")]
    PendingLoad(Arc<CatalogError>),
    /// Error of a pending load, for an inference request. Unlike a load request, it did not choose
    /// the artifact, so a broken artifact is not the caller's error.
    #[error("{source}{}", .again.map(|again| format!("; the next attempt is possible in {again:.1?}")).unwrap_or_default())]
    OnDemand {
        source: Arc<CatalogError>,
        /// Time until a further request tries again; `None` if the next one does.
        again: Option<Duration>,
    },
}

impl CatalogError {
    /// Whether the model is missing from the store.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Fetch { source, .. } if source.is_not_found())
    }

    /// Whether the error depends only on the version in the store, so that a retry is useless
    /// until the store has another one.
    pub(super) fn is_about_version(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => matches!(source, FetchError::Archive { .. }),
            _ => self.will_last(),
        }
    }

    /// Whether the model, or its first requests, did not fit into memory.
    pub fn is_no_memory(&self) -> bool {
        match self {
            Self::Load { source, .. } => matches!(
                &**source,
                LoadError::NoRoom(_) | LoadError::Session(SessionError::OutOfMemory)
            ),
            Self::PendingLoad(error) => error.is_no_memory(),
            _ => false,
        }
    }

    /// Whether an immediate retry would most likely fail in the same way.
    pub(super) fn will_last(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => !matches!(source, FetchError::Stopping),
            Self::Load { source, .. } => !source.may_pass(),
            Self::Manifest { .. } | Self::Tokenizer { .. } | Self::TokenizerGone { .. } => true,
            Self::Rehearsal { source, .. } => match &**source {
                RehearsalError::Failed {
                    source: InvocationError::Inference(error),
                    ..
                } => matches!(
                    error,
                    InferenceError::Run(RunError::Data(_) | RunError::Division | RunError::Runtime(_))
                ),
                RehearsalError::Failed { .. } | RehearsalError::Differs { .. } => true,
            },
            _ => false,
        }
    }
}

pub(super) fn not_loaded(name: &str) -> CatalogError {
    CatalogError::NotLoaded { name: name.to_owned() }
}

pub(super) fn load_error(name: &str, source: LoadError) -> CatalogError {
    CatalogError::Load {
        name: name.to_owned(),
        source: Arc::new(source),
    }
}

/// Shortens a name for a message.
pub(super) fn shortened(name: &str) -> String {
    const MOST: usize = 128;
    if name.len() <= MOST {
        return name.to_owned();
    }
    format!("{}...", &name[..name.floor_char_boundary(MOST)])
}
