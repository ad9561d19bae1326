//! The places that a load's `url` may point to: the platform's caller chooses it, so it is held to the roots that the server
//! was started with (MM-8).

use std::path::{Component, Path, PathBuf};

use super::CatalogError;
use crate::engine::ArtifactPath;

/// The real path of `url`, when it lies below one of the roots (MM-8). Links are followed first; those that appear on the way
/// from the root afterwards are not.
pub(super) fn allowed(roots: &[PathBuf], url: &str) -> Result<ArtifactPath, CatalogError> {
    let outside = || CatalogError::OutsideRoots {
        url: url.to_owned(),
        roots: roots
            .iter()
            .map(|root| root.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    };
    let path = Path::new(url);
    if !path.is_absolute() {
        return Err(outside());
    }
    let Ok(real) = path.canonicalize() else {
        // Whether a path outside of the roots exists is not for the caller to know.
        let below_a_root = roots.iter().any(|root| path.starts_with(root))
            && !path.components().any(|component| component == Component::ParentDir);
        return Err(if below_a_root {
            CatalogError::MissingUrl { url: url.to_owned() }
        } else {
            outside()
        });
    };
    // A root may be made after the start, so it is resolved now.
    let mut roots = roots.iter().filter_map(|root| root.canonicalize().ok());
    match roots.find(|root| real.starts_with(root)) {
        Some(root) => Ok(ArtifactPath::below(root, real)),
        None => Err(outside()),
    }
}

/// The path of `url`, which lies below one of the roots as it is written, but does not exist. Should it appear, no link below
/// the root is followed.
pub(super) fn unresolved(roots: &[PathBuf], url: &str) -> ArtifactPath {
    let path = Path::new(url);
    let below = roots.iter().find_map(|root| {
        let rest = path.strip_prefix(root).ok()?;
        let root = root.canonicalize().ok()?;
        let path = root.join(rest);
        Some(ArtifactPath::below(root, path))
    });
    below.unwrap_or_else(|| ArtifactPath::below(PathBuf::from("/"), path.to_owned()))
}
