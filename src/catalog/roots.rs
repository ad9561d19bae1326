//! Check of a load's `url`. The caller chooses it, so it must lie below one of the roots that the
//! server was started with (MM-8).

use std::path::{Component, Path, PathBuf};

use super::CatalogError;
use crate::engine::ArtifactPath;

/// Resolves `url` to its real path, if that lies below one of the roots (MM-8). Symbolic links are
/// resolved here; links that appear below the root later are not followed.
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
        // The response must not reveal whether a path outside the roots exists.
        let below_a_root = roots.iter().any(|root| path.starts_with(root))
            && !path.components().any(|component| component == Component::ParentDir);
        return Err(if below_a_root {
            CatalogError::MissingUrl { url: url.to_owned() }
        } else {
            outside()
        });
    };
    // Resolved on each load, because a root may be created after the start.
    let mut roots = roots.iter().filter_map(|root| root.canonicalize().ok());
    match roots.find(|root| real.starts_with(root)) {
        Some(root) => Ok(ArtifactPath::below(root, real)),
        None => Err(outside()),
    }
}

/// Path of a `url` that lies below one of the roots but does not exist. If it appears later, no
/// link below the root is followed.
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
