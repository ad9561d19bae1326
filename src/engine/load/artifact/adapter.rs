//! Finds the LoRA adapter next to a model.
//!
//! Unlike the files of exporters, an adapter is not skipped if it cannot be used: without it, the
//! base model would give wrong answers under the adapter's name.

use std::path::{Path, PathBuf};

use super::beneath::Folder;
use super::error::{ArtifactError, brief, io_error, shown};
use super::inside::{inside, open_file};
use crate::engine::load::adapter::{EXTENSION, FILE};

/// Finds the adapter of `model`: `adapter.onnx_adapter` or the only `*.onnx_adapter` in its folder,
/// or in the nearest folder around it inside the artifact.
pub(super) fn adapter_of(root: &Folder, model: &Path) -> Result<Option<PathBuf>, ArtifactError> {
    let around = model.ancestors().skip(1);
    for place in around.take_while(|above| above.starts_with(root.path())) {
        let failed = |source| io_error(place, source);
        let folder = if place == root.path() {
            root.clone()
        } else {
            root.folder(place).map_err(failed)?
        };
        let names = folder.names().map_err(failed)?;
        if let Some(name) = choose(&names).map_err(|names| several(place, &names))? {
            let path = inside(root, &place.join(name))?;
            open_file(root, &path)?;
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Chooses the adapter among the files of a folder. `Err` with the names of the adapters if there
/// are several, none of them with the usual name.
fn choose(names: &[String]) -> Result<Option<&str>, Vec<&str>> {
    let is_adapter = |name: &&str| name.ends_with(EXTENSION) && !name.starts_with('.');
    let mut adapters: Vec<&str> = names.iter().map(|name| &**name).filter(is_adapter).collect();
    adapters.sort_unstable();
    match &*adapters {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        several if several.contains(&FILE) => Ok(Some(FILE)),
        _ => Err(adapters),
    }
}

fn several(folder: &Path, names: &[&str]) -> ArtifactError {
    ArtifactError::SeveralAdapters {
        path: shown(folder),
        names: brief(names.iter().copied()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_adapter_above_the_model_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("net/onnx")).unwrap();
        let model = root.join("net/onnx/model.onnx");
        let folder = Folder::open(&root).unwrap();
        let found = || adapter_of(&folder, &model).unwrap();
        assert_eq!(found(), None);
        for place in [
            "far.onnx_adapter",
            "net/near.onnx_adapter",
            "net/onnx/beside.onnx_adapter",
        ] {
            fs::write(root.join(place), "").unwrap();
            assert_eq!(found(), Some(root.join(place)));
        }
        fs::write(root.join("net/onnx/second.onnx_adapter"), "").unwrap();
        let refusal = adapter_of(&folder, &model).unwrap_err().to_string();
        assert!(
            refusal.contains("net/onnx (beside.onnx_adapter, second.onnx_adapter)"),
            "{refusal}"
        );
    }

    #[test]
    fn the_only_adapter_or_the_one_with_the_usual_name_is_chosen() {
        type Case<'a> = (&'a [&'a str], Result<Option<&'a str>, Vec<&'a str>>);
        let table: [Case<'_>; 6] = [
            (&["model.onnx", "tokenizer.json"], Ok(None)),
            (
                &["model.onnx", "adapter_weights.onnx_adapter"],
                Ok(Some("adapter_weights.onnx_adapter")),
            ),
            (
                &["b.onnx_adapter", "adapter.onnx_adapter"],
                Ok(Some("adapter.onnx_adapter")),
            ),
            (
                &["b.onnx_adapter", "a.onnx_adapter"],
                Err(vec!["a.onnx_adapter", "b.onnx_adapter"]),
            ),
            (&["._a.onnx_adapter", "a.onnx_adapter"], Ok(Some("a.onnx_adapter"))),
            (&["a.onnx_adapter.txt"], Ok(None)),
        ];
        for (names, expected) in table {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(choose(&names), expected, "{names:?}");
        }
    }
}
