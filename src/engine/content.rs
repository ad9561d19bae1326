//! What identifies a model: a hash over all that ONNX Runtime reads of it.
//!
//! The same model under a thousand names is loaded once, what was learnt of it (its prepared form, what it takes, that it
//! crashes) is known under any name, and none of that may ever be another model's: hence a cryptographic hash. BLAKE3,
//! because it is taken on every load from files that are not known (`known.rs`): it is several times faster than SHA-256 on
//! long ones.

mod known;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use known::Known;

/// One for the process: what a file's hash is does not depend on who asks.
static FILES: LazyLock<Known> = LazyLock::new(Known::new);

/// The hash of a model file and its external data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; blake3::OUT_LEN]);

impl ContentHash {
    /// From its hexadecimal form.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(blake3::Hash::from_hex(text).ok()?.into()))
    }

    /// The hash of this content and another one together.
    pub fn with(&self, other: &Self) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 model contents together");
        hasher.update(&self.0);
        hasher.update(&other.0);
        Self(hasher.finalize().into())
    }

    /// Enough of it to tell the models of one process apart where only a number can be noted.
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

/// The hash of `model` and of its external data: the names that the model calls the files by, and the files, in the
/// order of the names, each opened by `open`. The model file's own name and place do not matter.
pub fn hash(
    model: &Path,
    external: &[(String, PathBuf)],
    open: impl Fn(&Path) -> io::Result<File>,
) -> io::Result<ContentHash> {
    let mut content = Content::of(FILES.hash(&open(model)?)?);
    // A file is read once, by however many names it is called: thousands of `./` before one would take hours.
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

/// A content whose files have been hashed.
#[derive(Debug)]
pub struct Content(blake3::Hasher);

impl Content {
    /// Of a model's file.
    pub fn of(model: blake3::Hash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 model content");
        hasher.update(model.as_bytes());
        Self(hasher)
    }

    /// Adds a file of external data, in the order of the names.
    pub fn add(&mut self, name: &str, file: blake3::Hash) {
        // Lengths before what has a length: two names cannot be mistaken for one.
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
    fn the_same_content_has_the_same_hash_wherever_it_lies_and_any_other_content_another() {
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
    fn a_hash_is_read_as_it_is_written() {
        let hash = ContentHash(*blake3::hash(b"x").as_bytes());
        assert_eq!(ContentHash::parse(&hash.to_string()), Some(hash));
        assert_eq!(ContentHash::parse("x"), None);
    }
}
