//! Why a file is the model of its artifact, for a person.

use std::fmt;

use crate::manifest::FILE;

/// What made a file the model, in the order in which it is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Given,
    Manifest,
    MlModel,
    Name,
    Only,
    /// It was chosen among several precisions of one model, for this reason.
    Precision {
        why: &'static str,
        /// The other files, for a message.
        others: String,
    },
    Version,
    /// The artifact has no graph: its inputs go out as they are prepared.
    NoGraph,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("the file that was given"),
            Self::Manifest => write!(f, "{FILE} names it"),
            Self::MlModel => f.write_str("MLmodel names it"),
            Self::Name => f.write_str("it goes by the usual name"),
            Self::Only => f.write_str("the only model file"),
            Self::Precision { why, others } => write!(f, "{why}; beside it are {others}"),
            Self::Version => f.write_str("the greatest version"),
            Self::NoGraph => f.write_str("the artifact has no graph: what goes in goes out"),
        }
    }
}
