//! A model artifact on disk: which file is the model, and that all it refers to lies inside the artifact.
//!
//! An artifact is a directory (SageMaker has unpacked the archive, MM-8) or a model file. People pack archives in many
//! ways; the order in which a model is looked for is that of [`locate`] (AR-2, AR-6, AR-7). Two candidates without a
//! hint are an error: guessing would serve the wrong model under the right name.

mod found;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::batch::Override;
use super::content::{self, ContentHash};
use super::onnx_file::{self, ScanError};

pub use found::Found;

/// Says what the defaults do not: which file is the model, whether requests may run in batches.
pub const MANIFEST: &str = "longshore.json";

/// A manifest is a few lines; more is a mistake.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("{path} does not exist")]
    Missing { path: String },
    /// Not the artifact's fault: the process, or the machine, has no file descriptors left.
    #[error("{path} cannot be opened now: {source}")]
    NoDescriptors {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "no model in {path}: looked for {MANIFEST}, model.onnx, model.ort, a single *.onnx and <version>/model.onnx, \
         there and in its only sub-directory; it holds {holds}"
    )]
    NoModel { path: String, holds: String },
    #[error(
        "more than one model in {path} ({names}): name one of them model.onnx, or name it in {MANIFEST} as \
         {{\"model\": \"...\"}}"
    )]
    Ambiguous { path: String, names: String },
    #[error("{MANIFEST}: {detail}")]
    Manifest { detail: String },
    #[error("{file} is not a model: {source}")]
    NotAModel {
        file: String,
        #[source]
        source: ScanError,
    },
    #[error("{file} is not a model: its name says ONNX Runtime's own format, which its content is not")]
    NotOrtFormat { file: String },
    #[error("{file} refers to weights in {location:?}, which {problem}")]
    ExternalData {
        file: String,
        location: String,
        problem: &'static str,
    },
    #[error("{file} refers to {needed} bytes of weights in {location:?}, which has {bytes}")]
    ShortExternalData {
        file: String,
        location: String,
        needed: u64,
        bytes: u64,
    },
    #[error("{file} is a link out of the artifact")]
    Escapes { file: String },
    /// What was read is nobody's: neither what it was hashed as, nor for certain what it is now.
    #[error("{file}, or its weights, changed while it was loaded; try again")]
    Changed { file: String },
}

/// The model file of an artifact and what is known of it before it is loaded.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub model: PathBuf,
    /// The directory that all of the artifact lies in.
    pub folder: PathBuf,
    /// External data: the name that the model calls a file by, and the file.
    pub external: Vec<(String, PathBuf)>,
    /// Whether the model is in ORT format rather than ONNX.
    pub is_ort_format: bool,
    pub facts: Facts,
    /// What the manifest says of batches.
    pub batching: Option<Override>,
    /// The content that `model` is a prepared form of, when it came along with that (`packed.rs`).
    pub prepared_of: Option<ContentHash>,
}

/// What is seen of a model without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes of the model file and of the external data it refers to.
    pub weights: u64,
    pub has_trees: bool,
    /// Whether a small request can ask for any amount of work; true where that is not known.
    pub has_unbounded_work: bool,
}

impl Artifact {
    /// What identifies the model wherever its files lie.
    pub fn hash(&self) -> Result<ContentHash, ArtifactError> {
        let hash = content::hash(&self.model, &self.external).map_err(|source| io_error(&self.model, source))?;
        Ok(self.prepared_of.map_or(hash, |of| of.with(&hash)))
    }

    /// Whether the files still are `content`. Asked after they were read a second time, by ONNX Runtime: what is learnt of
    /// them then is remembered as that content's, for all who have it.
    pub fn check(&self, content: &ContentHash) -> Result<(), ArtifactError> {
        match self.hash() {
            Ok(now) if now == *content => Ok(()),
            Err(error @ ArtifactError::NoDescriptors { .. }) => Err(error),
            Ok(_) | Err(_) => Err(ArtifactError::Changed {
                file: shown(&self.model),
            }),
        }
    }
}

/// `longshore.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Path of the model file, relative to the manifest.
    model: Option<String>,
    /// Whether waiting requests may run together: `false`, `true`, or `{"max_rows": 16}`.
    #[serde(default, deserialize_with = "batching")]
    batching: Option<Override>,
}

fn batching<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Override>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        max_rows: NonZeroUsize,
    }
    struct Batching;
    impl<'de> Visitor<'de> for Batching {
        type Value = Override;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false or {\"max_rows\": N} for batching")
        }

        fn visit_bool<E: de::Error>(self, allowed: bool) -> Result<Override, E> {
            Ok(if allowed {
                Override::Allowed(None)
            } else {
                Override::Never
            })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Override, A::Error> {
            let limits = Limits::deserialize(MapAccessDeserializer::new(map))?;
            Ok(Override::Allowed(Some(limits.max_rows)))
        }
    }
    deserializer.deserialize_any(Batching).map(Some)
}

/// Opens the artifact at `path`: finds the model, reads what it refers to, and checks that all of it lies inside.
pub fn open(path: &Path) -> Result<Artifact, ArtifactError> {
    let root = path.canonicalize().map_err(|source| io_error(path, source))?;
    let (model, batching) = if root.is_dir() {
        locate(&root)?
    } else {
        (root.clone(), None)
    };
    let folder = if root.is_dir() {
        root.as_path()
    } else {
        root.parent().unwrap_or(&root)
    };
    let real = inside(folder, &model)?;
    let mut weights = file_size(&real)?;
    let (mut has_trees, mut has_unbounded_work) = (false, true);
    let mut external = Vec::new();
    let mut counted = BTreeSet::new();
    let is_ort_format = is_ort_format(&real);
    if is_ort_format {
        check_ort_mark(&real)?;
    } else {
        let facts = onnx_file::scan(&real).map_err(|error| match error {
            ScanError::Io(source) => io_error(&model, source),
            ScanError::Empty
            | ScanError::Malformed { .. }
            | ScanError::TooManyFiles
            | ScanError::TooManyValues
            | ScanError::LongName
            | ScanError::NoNumber { .. }
            | ScanError::TooDeep => ArtifactError::NotAModel {
                file: shown(&model),
                source: error,
            },
        })?;
        (has_trees, has_unbounded_work) = (facts.has_trees, facts.has_unbounded_work);
        for (location, needed) in facts.external {
            let file = external_file(&real, folder, &location)?;
            let bytes = file_size(&file)?;
            if bytes < needed {
                return Err(ArtifactError::ShortExternalData {
                    file: shown(&model),
                    location: brief_name(&location),
                    needed,
                    bytes,
                });
            }
            // One file may have many names.
            if counted.insert(file.clone()) {
                weights = weights.saturating_add(bytes);
            }
            external.push((location, file));
        }
    }
    Ok(Artifact {
        model: real,
        folder: folder.to_owned(),
        external,
        is_ort_format,
        facts: Facts {
            weights,
            has_trees,
            has_unbounded_work,
        },
        batching,
        prepared_of: None,
    })
}

/// Finds the model file in a directory: the one named in the manifest; `model.onnx` or `model.ort`; the only `*.onnx`
/// or `*.ort`; `<n>/model.onnx` with the greatest n; the same in the only sub-directory, once. Beside it, what the
/// manifest in the same directory says of batches.
fn locate(root: &Path) -> Result<(PathBuf, Option<Override>), ArtifactError> {
    let top = Listing::read(root)?;
    if let Some(model) = top.find(root)? {
        return Ok(model);
    }
    if let [only] = &*top.directories.iter().collect::<Vec<_>>() {
        let below = inside(root, &root.join(only))?;
        if let Some(model) = Listing::read(&below)?.find(&below)? {
            return Ok(model);
        }
    }
    Err(ArtifactError::NoModel {
        path: shown(root),
        holds: top.summary(),
    })
}

/// What a directory holds, without what archives carry along (AR-3).
struct Listing {
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl Listing {
    fn read(folder: &Path) -> Result<Self, ArtifactError> {
        let mut listing = Self {
            files: BTreeSet::new(),
            directories: BTreeSet::new(),
        };
        for entry in fs::read_dir(folder).map_err(|source| io_error(folder, source))? {
            let entry = entry.map_err(|source| io_error(folder, source))?;
            // A name that is not UTF-8 is none that we look for.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') || matches!(&*name, "code" | "MAR-INF" | "__MACOSX" | "lost+found") {
                continue;
            }
            if entry.path().is_dir() {
                listing.directories.insert(name);
            } else {
                listing.files.insert(name);
            }
        }
        Ok(listing)
    }

    fn find(&self, folder: &Path) -> Result<Option<(PathBuf, Option<Override>)>, ArtifactError> {
        let manifest = if self.files.contains(MANIFEST) {
            read_manifest(folder)?
        } else {
            Manifest::default()
        };
        let model = match &manifest.model {
            Some(named) => Some(named_model(folder, named)?),
            None => self.usual_model(folder)?,
        };
        Ok(model.map(|model| (model, manifest.batching)))
    }

    fn usual_model(&self, folder: &Path) -> Result<Option<PathBuf>, ArtifactError> {
        for name in ["model.onnx", "model.ort"] {
            if self.files.contains(name) {
                return Ok(Some(folder.join(name)));
            }
        }
        let models: Vec<&str> = self
            .files
            .iter()
            .map(String::as_str)
            .filter(|name| name.ends_with(".onnx") || name.ends_with(".ort"))
            .collect();
        match *models {
            [] => {}
            [only] => return Ok(Some(folder.join(only))),
            _ => {
                return Err(ArtifactError::Ambiguous {
                    path: shown(folder),
                    names: brief(models.iter().copied()),
                });
            }
        }
        let newest = self
            .directories
            .iter()
            .filter_map(|name| Some((name.parse::<u64>().ok()?, folder.join(name).join("model.onnx"))))
            .filter(|(_, model)| model.is_file())
            .max();
        Ok(newest.map(|(_, model)| model))
    }

    fn summary(&self) -> String {
        let names = self
            .files
            .iter()
            .cloned()
            .chain(self.directories.iter().map(|name| format!("{name}/")));
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            brief(names.iter().map(String::as_str))
        }
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, ArtifactError> {
    let path = inside(folder, &folder.join(MANIFEST))?;
    // A pipe would be waited for without end.
    file_size(&path)?;
    let mut text = String::new();
    fs::File::open(&path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_string(&mut text))
        .map_err(|source| io_error(&path, source))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ArtifactError::Manifest {
            detail: format!("longer than {MAX_MANIFEST_BYTES} bytes"),
        });
    }
    serde_json::from_str(&text).map_err(|error| ArtifactError::Manifest {
        detail: error.to_string(),
    })
}

fn named_model(folder: &Path, model: &str) -> Result<PathBuf, ArtifactError> {
    if !stays_below(model) {
        return Err(ArtifactError::Manifest {
            detail: format!("the model \"{model}\" must be a relative path inside the artifact"),
        });
    }
    let path = folder.join(model);
    if !path.is_file() {
        return Err(ArtifactError::Manifest {
            detail: format!("the model \"{model}\" is not in the artifact"),
        });
    }
    Ok(path)
}

/// The real path of `path`, when that is below `folder`.
fn inside(folder: &Path, path: &Path) -> Result<PathBuf, ArtifactError> {
    let real = path.canonicalize().map_err(|source| io_error(path, source))?;
    if real.starts_with(folder) {
        Ok(real)
    } else {
        Err(ArtifactError::Escapes { file: shown(path) })
    }
}

fn external_file(model: &Path, folder: &Path, location: &str) -> Result<PathBuf, ArtifactError> {
    let refuse = |problem| ArtifactError::ExternalData {
        file: shown(model),
        location: brief_name(location),
        problem,
    };
    // Beside file names, ONNX Runtime knows this one, behind which an address in its process follows.
    if location.contains("_ORT_MEM_ADDR_") {
        return Err(refuse("is an address in memory rather than a file"));
    }
    if !stays_below(location) {
        return Err(refuse(
            "is outside the artifact: external data must lie beside the model",
        ));
    }
    let path = model.parent().unwrap_or(folder).join(location);
    let real = path.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => refuse("is not in the artifact"),
        _ => io_error(&path, source),
    })?;
    if !real.starts_with(folder) {
        return Err(refuse("is a link out of the artifact"));
    }
    Ok(real)
}

/// Whether joining `path` to a directory stays in it.
fn stays_below(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && components.all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Whether ONNX Runtime will read the file in its own format, which holds all of its weights. It goes by the name, and so
/// must we: a file that it takes for ONNX is one that has to be scanned, whatever its first bytes are.
fn is_ort_format(path: &Path) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(".ort")
}

/// Models in ONNX Runtime's format are flatbuffers with this identifier.
fn check_ort_mark(path: &Path) -> Result<(), ArtifactError> {
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(8).read_to_end(&mut head))
        .map_err(|source| io_error(path, source))?;
    if head.get(4..8) == Some(b"ORTM") {
        Ok(())
    } else {
        Err(ArtifactError::NotOrtFormat { file: shown(path) })
    }
}

fn file_size(path: &Path) -> Result<u64, ArtifactError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    if !metadata.is_file() {
        return Err(ArtifactError::Unreadable {
            path: shown(path),
            source: io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"),
        });
    }
    Ok(metadata.len())
}

fn io_error(path: &Path, source: io::Error) -> ArtifactError {
    let path = shown(path);
    let exhausted = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    if source.kind() == io::ErrorKind::NotFound {
        ArtifactError::Missing { path }
    } else if exhausted.contains(&source.raw_os_error()) {
        ArtifactError::NoDescriptors { path, source }
    } else {
        ArtifactError::Unreadable { path, source }
    }
}

/// The last two components say enough: the model's folder and the file.
fn shown(path: &Path) -> String {
    let names: Vec<_> = path.components().rev().take(2).collect();
    let short: PathBuf = names.into_iter().rev().collect();
    brief_name(&short.to_string_lossy())
}

/// The beginning of a name, for a message.
fn brief_name(name: &str) -> String {
    name.chars().take(200).collect()
}

/// The first few names, for a message.
fn brief<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const MOST: usize = 5;
    let count = names.len();
    let mut text = names.take(MOST).collect::<Vec<_>>().join(", ");
    if count > MOST {
        text.push_str(&format!(" and {} more", count - MOST));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with empty files at `paths`; a path that ends in `/` is a directory.
    fn artifact(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let full = root.path().join(path);
            if path.ends_with('/') {
                fs::create_dir_all(full).unwrap();
            } else {
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, b"").unwrap();
            }
        }
        root
    }

    #[test]
    fn the_model_is_found_in_the_documented_order() {
        let table: [(&[&str], &str); 9] = [
            (&["model.onnx", "other.onnx"], "model.onnx"),
            (&["model.ort"], "model.ort"),
            (&["net.onnx", "readme.txt"], "net.onnx"),
            (&["1/model.onnx", "3/model.onnx", "10/model.onnx"], "10/model.onnx"),
            (&["1/model.onnx", "2/"], "1/model.onnx"),
            (&["segment/model.onnx"], "segment/model.onnx"),
            (
                &["segment/2/model.onnx", "segment/config.pbtxt"],
                "segment/2/model.onnx",
            ),
            (
                &["net.onnx", "code/inference.onnx", "__MACOSX/._net.onnx", ".DS_Store"],
                "net.onnx",
            ),
            (&["segment/model.onnx", "code/inference.py"], "segment/model.onnx"),
        ];
        for (paths, expected) in table {
            let root = artifact(paths);
            assert_eq!(locate(root.path()).unwrap().0, root.path().join(expected), "{paths:?}");
        }
    }

    #[test]
    fn two_models_without_a_hint_are_refused_by_name() {
        let root = artifact(&["a.onnx", "b.onnx"]);
        let error = locate(root.path()).unwrap_err().to_string();
        assert!(error.contains("(a.onnx, b.onnx)"), "{error}");
    }

    #[test]
    fn a_directory_without_a_model_is_refused_with_what_it_holds() {
        let table: [(&[&str], &str); 3] = [
            (&[], "it holds nothing"),
            (&["a/", "b/"], "it holds a/, b/"),
            (&["saved_model.pb"], "it holds saved_model.pb"),
        ];
        for (paths, expected) in table {
            let error = locate(artifact(paths).path()).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn the_manifest_says_whether_requests_may_run_in_batches() {
        let root = artifact(&["model.onnx", "2/model.onnx"]);
        let limited = |rows| Some(Override::Allowed(NonZeroUsize::new(rows)));
        let table = [
            ("{}", None),
            (r#"{"batching": false}"#, Some(Override::Never)),
            (r#"{"batching": true}"#, Some(Override::Allowed(None))),
            (r#"{"batching": {"max_rows": 16}}"#, limited(16)),
            (r#"{"model": "2/model.onnx", "batching": {"max_rows": 2}}"#, limited(2)),
        ];
        for (text, expected) in table {
            fs::write(root.path().join(MANIFEST), text).unwrap();
            assert_eq!(locate(root.path()).unwrap().1, expected, "{text}");
        }
        let table = [
            (
                r#"{"batching": 8}"#,
                "expected true, false or {\"max_rows\": N} for batching",
            ),
            (r#"{"batching": null}"#, "expected true, false or"),
            (r#"{"batching": {"max_rows": 0}}"#, "expected a nonzero"),
            (r#"{"batching": {"max_rows": 2, "wait": 1}}"#, "unknown field `wait`"),
        ];
        for (text, expected) in table {
            fs::write(root.path().join(MANIFEST), text).unwrap();
            let error = locate(root.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_manifest_names_the_model_and_is_held_to_the_artifact() {
        let root = artifact(&["a.onnx", "b.onnx"]);
        let manifest = root.path().join(MANIFEST);
        fs::write(&manifest, r#"{"model": "b.onnx"}"#).unwrap();
        assert_eq!(locate(root.path()).unwrap(), (root.path().join("b.onnx"), None));
        let table = [
            (r#"{"model": "c.onnx"}"#, "the model \"c.onnx\" is not in the artifact"),
            (
                r#"{"model": "../a.onnx"}"#,
                "must be a relative path inside the artifact",
            ),
            (
                r#"{"model": "/etc/passwd"}"#,
                "must be a relative path inside the artifact",
            ),
            (r#"{"modle": "a.onnx"}"#, "unknown field `modle`"),
            ("{", "EOF"),
        ];
        for (text, expected) in table {
            fs::write(&manifest, text).unwrap();
            let error = locate(root.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_model_that_links_out_of_the_artifact_is_refused() {
        let outside = artifact(&["secret.onnx"]);
        let root = artifact(&[]);
        std::os::unix::fs::symlink(outside.path().join("secret.onnx"), root.path().join("model.onnx")).unwrap();
        assert!(matches!(open(root.path()), Err(ArtifactError::Escapes { .. })));
    }

    #[test]
    fn a_directory_or_a_manifest_that_links_out_of_the_artifact_is_not_looked_into() {
        let outside = artifact(&["a.onnx", "b.onnx", "longshore.json"]);
        let root = artifact(&[]);
        std::os::unix::fs::symlink(outside.path(), root.path().join("models")).unwrap();
        assert!(matches!(locate(&real(&root)), Err(ArtifactError::Escapes { .. })));
        let root = artifact(&["model.onnx"]);
        std::os::unix::fs::symlink(outside.path().join(MANIFEST), root.path().join(MANIFEST)).unwrap();
        assert!(matches!(locate(&real(&root)), Err(ArtifactError::Escapes { .. })));
    }

    fn real(root: &tempfile::TempDir) -> PathBuf {
        root.path().canonicalize().unwrap()
    }

    #[test]
    fn the_format_goes_by_the_name_as_in_onnx_runtime() {
        let root = artifact(&[]);
        // A name of a producer, as ONNX; the mark of the other format, at its place.
        fs::write(root.path().join("model.onnx"), b"\x12\x06xxORTM").unwrap();
        assert!(!open(root.path()).unwrap().facts.has_unbounded_work);
        fs::rename(root.path().join("model.onnx"), root.path().join("model.ort")).unwrap();
        assert!(open(root.path()).unwrap().facts.has_unbounded_work);
        fs::write(root.path().join("model.ort"), b"\x12\x06xxxxxx").unwrap();
        assert!(matches!(open(root.path()), Err(ArtifactError::NotOrtFormat { .. })));
    }

    #[test]
    fn a_path_that_does_not_exist_is_said_to_be_missing() {
        let root = artifact(&[]);
        assert!(matches!(
            open(&root.path().join("gone")),
            Err(ArtifactError::Missing { .. })
        ));
    }
}
