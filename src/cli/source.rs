//! Source of a server's models: the platform, a store, a directory with one model, or a directory
//! with archives of several models.
//!
//! SageMaker's SDK uses the last form in its local mode, in which no platform loads models: it
//! copies all archives of a multi-model endpoint below the directory of single-model mode, and
//! requests carry Target-Model.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::config::ServeArgs;
use crate::engine;
use crate::store::ARCHIVES;

/// Limits of the search for archives: levels of directories, and entries in all of them.
const MAX_DEPTH: usize = 8;
const MAX_ENTRIES: usize = 100_000;

/// Source of a server's models.
#[derive(Debug, Default)]
pub struct ModelSource {
    /// Whether the platform loads and unloads models through `/models`.
    pub is_platform: bool,
    /// URL of the store, in standalone mode.
    pub store: Option<String>,
    /// Path of the model that the server loads at its start.
    pub single: Option<PathBuf>,
    /// Name of the model that answers requests which do not name one.
    pub default: Option<String>,
}

impl ModelSource {
    pub fn of(args: &ServeArgs) -> Result<Self> {
        if let Some(store) = &args.model_store {
            ensure!(
                !args.multi_model,
                "SAGEMAKER_MULTI_MODEL (--multi-model) and --model-store exclude each other: with the first, the platform \
                 loads the models; with the second, this server fetches them from a store; set only one of them"
            );
            return Ok(Self {
                store: Some(store.clone()),
                ..Self::default()
            });
        }
        if args.multi_model {
            return Ok(Self {
                is_platform: true,
                ..Self::default()
            });
        }
        Self::of_directory(args.model_dir(), &args.model_name)
    }

    fn of_directory(path: PathBuf, model_name: &str) -> Result<Self> {
        let store = |folder: &Path| folder.to_str().map(ToOwned::to_owned);
        if path.is_file() && is_archive(&path) {
            let (folder, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name());
            let name = name.and_then(|name| name.to_str()).map(ToOwned::to_owned);
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            return match (store(folder), name) {
                (Some(store), Some(name)) => Ok(Self {
                    store: Some(store),
                    default: Some(name),
                    ..Self::default()
                }),
                _ => bail!("the path {} is not valid UTF-8; rename it", path.display()),
            };
        }
        let archives = archives_below(&path).with_context(|| format!("read {}", path.display()))?;
        let single = (archives.is_empty() || engine::is_artifact(&path)).then(|| path.clone());
        let default = match (&single, &*archives) {
            (Some(_), _) => Some(model_name.to_owned()),
            (None, [archive]) => Some(archive.clone()),
            (None, _) => None,
        };
        Ok(Self {
            is_platform: false,
            store: if archives.is_empty() { None } else { store(&path) },
            single,
            default,
        })
    }

    pub const fn mode(&self) -> &'static str {
        match (self.is_platform, &self.store, &self.single) {
            (true, _, _) => "multi-model",
            (false, Some(_), _) => "model-store",
            (false, None, _) => "single-model",
        }
    }
}

fn is_archive(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| !name.starts_with('.') && ARCHIVES.iter().any(|ending| name.ends_with(ending)))
}

/// Lists the archives in and below `folder`, as relative paths. Skips folders that cannot be read;
/// the load reports them.
fn archives_below(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut archives = Vec::new();
    let mut looked = 0;
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((next, depth)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for entry in entries {
            let entry = entry?;
            looked += 1;
            if looked > MAX_ENTRIES {
                return Ok(archives);
            }
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if kind.is_file()
                && is_archive(&path)
                && let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str)
            {
                archives.push(name.to_owned());
            }
        }
    }
    archives.sort();
    Ok(archives)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classifies a directory with these files: has a store, has a model at the start, default
    /// model.
    fn found(files: &[&str]) -> (bool, bool, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"\x08\x07").unwrap();
        }
        let source = ModelSource::of_directory(folder.path().to_owned(), "model").unwrap();
        (source.store.is_some(), source.single.is_some(), source.default)
    }

    #[test]
    fn a_directory_is_one_model_or_a_store_or_both() {
        let model = || Some("model".to_owned());
        type Case<'a> = (&'a [&'a str], (bool, bool, Option<String>));
        let table: [Case<'_>; 7] = [
            (&[], (false, true, model())),
            (&["model.onnx"], (false, true, model())),
            (&["a.tar.gz"], (true, false, Some("a.tar.gz".to_owned()))),
            (&["team/a.tgz"], (true, false, Some("team/a.tgz".to_owned()))),
            (&["a.tar", "team/b.tar.zst"], (true, false, None)),
            (&["a.tar.gz", "model.onnx"], (true, true, model())),
            (&["._a.tar.gz", "model.onnx"], (false, true, model())),
        ];
        for (files, expected) in table {
            assert_eq!(found(files), expected, "{files:?}");
        }
    }

    #[test]
    fn a_single_archive_is_a_store_with_one_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.tar.gz");
        fs::write(&path, b"").unwrap();
        let source = ModelSource::of_directory(path, "model").unwrap();
        assert_eq!(source.store.as_deref(), folder.path().to_str());
        assert_eq!(source.default.as_deref(), Some("m.tar.gz"));
    }
}
