//! The reason that a file was chosen as the model of its artifact, as users see it.

use std::fmt;

use crate::manifest::FILE;

/// The rule by which the model file was found, in search order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundBy {
    Given,
    Manifest,
    MlModel,
    Name,
    Only,
    /// It was chosen from several precisions of one model, for this reason.
    Precision {
        why: &'static str,
        /// The other files, for a message.
        others: String,
    },
    Version,
    /// The artifact has no graph: its prepared inputs are its outputs.
    NoGraph,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("the artifact is this file"),
            Self::Manifest => write!(f, "{FILE} names it"),
            Self::MlModel => f.write_str("MLmodel names it"),
            Self::Name => f.write_str("it has the usual name"),
            Self::Only => f.write_str("the only model file"),
            Self::Precision { why, others } => write!(f, "{why}; the others are {others}"),
            Self::Version => f.write_str("the highest version"),
            Self::NoGraph => f.write_str("the artifact has no graph: its inputs are its outputs"),
        }
    }
}
