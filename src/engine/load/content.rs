//! The identity of a model: a hash over everything that ONNX Runtime reads of it.
//!
//! A model that is uploaded under a thousand names is loaded once. Everything learned about it
//! (its prepared form, its resource use, that it crashes) applies to all its names, and must
//! never apply to another model. So the hash is cryptographic. It is BLAKE3, several times faster
//! than SHA-256 on long files, because every load of files with unknown hashes (`known.rs`)
//! computes it.

mod known;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::disk_cache::FileStamp;
use known::KnownHashes;

/// Known hashes of files, shared by the whole process.
static FILES: LazyLock<KnownHashes> = LazyLock::new(KnownHashes::new);

/// The hash of a model file and its external data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; blake3::OUT_LEN]);

impl ContentHash {
    /// Parses the hexadecimal form.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(blake3::Hash::from_hex(text).ok()?.into()))
    }

    /// The content of a single file with this hash.
    pub fn of(file: &blake3::Hash) -> Self {
        Self(*file.as_bytes())
    }

    /// The hash of this content and another one together.
    pub fn with(&self, other: &Self) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 model contents together");
        hasher.update(&self.0);
        hasher.update(&other.0);
        Self(hasher.finalize().into())
    }

    /// The first 64 bits of the hash. They identify a model within one process, where only a
    /// number can be stored.
    pub fn short(&self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|index| self.0[index]))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a content hash"))
    }
}

/// Hashes `model` and its external data. `external` holds for each file its name in the model and
/// its path, in the order of the names. `open` opens each file. The name and path of the model
/// file do not affect the hash.
pub fn hash(
    model: &Path,
    external: &[(String, PathBuf)],
    open: impl Fn(&Path) -> io::Result<File>,
) -> io::Result<ContentHash> {
    let mut content = ContentHasher::of(FILES.hash(&open(model)?)?);
    // Each file is read once, even if it has many names: a model that names one file in thousands
    // of ways (`./w`, `././w`) would take hours.
    let mut known: HashMap<&Path, blake3::Hash> = HashMap::new();
    for (name, file) in external {
        let hash = match known.get(file.as_path()) {
            Some(hash) => *hash,
            None => FILES.hash(&open(file)?)?,
        };
        known.insert(file, hash);
        content.add(name, hash);
    }
    Ok(content.hash())
}

/// Hashes `file`, whose position must be at its start. A long file is read once until it changes.
pub fn hash_file(file: &File) -> io::Result<blake3::Hash> {
    FILES.hash(file)
}

/// Remembers the `hash` of a file that had the stamp `hashed` and was only renamed since.
pub fn remember_renamed(file: &File, hashed: &FileStamp, hash: blake3::Hash) -> io::Result<()> {
    FILES.renamed(file, hashed, hash)
}

/// Combines the hashes of a model's files into its content hash.
#[derive(Debug)]
pub struct ContentHasher(blake3::Hasher);

impl ContentHasher {
    /// Starts with the hash of the model file.
    pub fn of(model: blake3::Hash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 model content");
        hasher.update(model.as_bytes());
        Self(hasher)
    }

    /// Adds a file of external data. Must be called in the order of the names.
    pub fn add(&mut self, name: &str, file: blake3::Hash) {
        // The length comes before the name, so that two names cannot be confused with one.
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
        self.0.update(file.as_bytes());
    }

    pub fn hash(&self) -> ContentHash {
        ContentHash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn equal_contents_have_equal_hashes_in_any_place_and_different_contents_different_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let (model, same) = (file("a.onnx", "model"), file("b.onnx", "model"));
        let (weights, others) = (file("w.bin", "12"), file("v.bin", "21"));
        let of = |model: &Path, external: &[(&str, &PathBuf)]| {
            let external: Vec<_> = external
                .iter()
                .map(|(name, path)| ((*name).to_owned(), (*path).clone()))
                .collect();
            hash(model, &external, |path| File::open(path)).unwrap()
        };
        assert_eq!(of(&model, &[]), of(&same, &[]));
        assert_eq!(of(&model, &[("w", &weights)]), of(&same, &[("w", &weights)]));
        let all = [
            of(&model, &[]),
            of(&weights, &[]),
            of(&model, &[("w", &weights)]),
            of(&model, &[("w", &others)]),
            of(&model, &[("v", &weights)]),
            of(&model, &[("v", &weights), ("w", &weights)]),
            of(&file("cut.onnx", "mode"), &[("w", &file("l.bin", "l12"))]),
        ];
        for (index, hash) in all.iter().enumerate() {
            assert!(!all[..index].contains(hash), "{index}");
        }
    }

    #[test]
    fn a_hash_parses_from_its_displayed_form() {
        let hash = ContentHash(*blake3::hash(b"x").as_bytes());
        assert_eq!(ContentHash::parse(&hash.to_string()), Some(hash));
        assert_eq!(ContentHash::parse("x"), None);
    }
}
