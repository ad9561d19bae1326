//! Why the directory refuses, and what of it is worth another try.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;

use super::MAX_NAME_BYTES;
use crate::engine::{InferenceError, LoadError, PrepareError, Quarantined, RunError, SessionError};
use crate::handler::{HandlerError, InvocationError, RehearsalError};
use crate::manifest::{FILE, TOKENIZER};
use crate::store::{FetchError, NameError};
use crate::text::TextError;

/// Why the directory refuses.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("model \"{}\" is loaded already", shortened(.name))]
    AlreadyLoaded { name: String },
    #[error("model \"{}\" is not loaded", shortened(.name))]
    NotLoaded { name: String },
    #[error("a model's name must have 1 to {MAX_NAME_BYTES} bytes and not be \".\" or \"..\"")]
    Name,
    #[error("url \"{}\" is not below {roots}; see --models-root", shortened(.url))]
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
    /// It is on the list, and may not be run.
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
        "model \"{}\" is unloaded, but its memory is not free yet: {runs} of its runs cannot be ended and hold {}; it is free \
         when they end, and the name is free for a load now",
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
    #[error("model \"{}\" cannot be brought from the store: {source}", shortened(.name))]
    Fetch {
        name: String,
        #[source]
        source: FetchError,
    },
    /// What others waited for, too.
    #[error("{0}")]
    Flight(Arc<CatalogError>),
    /// As [`Flight`](Self::Flight), for a request: what is the artifact's fault is not the
    /// caller's.
    #[error("{source}{}", .again.map(|again| format!("; it is tried again in {again:.1?}")).unwrap_or_default())]
    OnDemand {
        source: Arc<CatalogError>,
        /// When a further request would try again, where that is not now.
        again: Option<Duration>,
    },
}

impl CatalogError {
    /// Whether the store has no such model.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Fetch { source, .. } if source.is_not_found())
    }

    /// Whether it follows from what the store has, and will not change until that does.
    pub(super) fn is_about_version(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => matches!(source, FetchError::Archive { .. }),
            _ => self.will_last(),
        }
    }

    /// Whether trying again at once would most likely end in the same.
    pub(super) fn will_last(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => !matches!(source, FetchError::Stopping),
            Self::Load { source, .. } => !matches!(
                &**source,
                LoadError::NoRoom(_)
                    | LoadError::Pool(_)
                    | LoadError::Session(SessionError::OutOfMemory | SessionError::NoDescriptors)
                    | LoadError::Prepare(PrepareError::Killed | PrepareError::Stopping | PrepareError::NoChild(_))
            ),
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

/// The beginning of a name, for a message.
pub(super) fn shortened(name: &str) -> String {
    const MOST: usize = 128;
    if name.len() <= MOST {
        return name.to_owned();
    }
    format!("{}...", &name[..name.floor_char_boundary(MOST)])
}
