//! Where a load's `url` may point to: the platform's caller chooses it, so it is held to the roots that the server was
//! started with (MM-8).

use std::path::{Component, Path, PathBuf};

use super::CatalogError;

/// The real path of `url`, when it lies below one of the roots (MM-8). Links are followed first.
pub(super) fn allowed(roots: &[PathBuf], url: &str) -> Result<PathBuf, CatalogError> {
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
        // Whether a path outside of the roots exists is nobody's business.
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
    if roots.any(|root| real.starts_with(root)) {
        Ok(real)
    } else {
        Err(outside())
    }
}
