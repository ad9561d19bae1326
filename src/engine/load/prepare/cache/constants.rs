//! Large constants of prepared models, each kept once, whatever models contain it.
//!
//! The models of one server are often relatives: classifiers over the same encoder, recommenders
//! over the same table of items. Their graphs differ in a few small constants, and their large ones
//! are equal. So the constants that a new model brings are written to one file,
//! `prepared-<name>.constants`, named by the hash of its bytes, and a graph refers to constants by
//! file and offset: to those of its relatives, and to its own.
//!
//! Invariants:
//! - A constant counts as known only by the hash of its bytes, which this process has computed from
//!   them, or has read from a description that it has authenticated.
//! - A file is never written again, and it is used only after its hash was checked.
//! - A file counts as used whenever a model that refers to it is. Its description, an empty file,
//!   has the time.
//! - Each constant begins at a multiple of [`ALIGNMENT`]. Kernels read numbers across cache lines
//!   otherwise: a run of a large convolutional network takes a sixth longer when its weights begin
//!   anywhere.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use super::folder::PREFIX;
use super::{EntryDescription, PreparedCache, is_whole, lock};
use crate::disk_cache::{self, CacheFolder, FileStamp};
use crate::engine::load::content::remember_renamed;
use crate::engine::load::examine::ExaminedConstant;
use crate::engine::load::onnx_file::placed::{MOST_GRAPH, Place, PlacedConstant, placed_constants, with_places};
use crate::private::{Key, TemporaryFile};

/// Positions of constants in a file are multiples of this: pages.
const ALIGNMENT: u64 = 4096;

/// Number of constants whose places a process remembers.
const MOST_KNOWN: u64 = 20_000;

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// The large constants of a graph, and the files that hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConstants {
    pub files: Vec<ConstantFile>,
    pub constants: Vec<StoredConstant>,
}

/// A file of constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstantFile {
    /// Its name in the folder.
    pub name: String,
    pub hash: String,
}

/// A large constant of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConstant {
    pub name: String,
    /// A number of `TensorProto.DataType`.
    pub data_type: u64,
    pub dims: Vec<u64>,
    pub hash: String,
    /// Index of its file.
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
    /// Whether runs read the file.
    pub is_read: bool,
}

/// The places of constants, by the hash of their bytes.
#[derive(Debug)]
pub(super) struct KnownConstants(Cache<String, (ConstantFile, u64)>);

impl Default for KnownConstants {
    fn default() -> Self {
        Self(Cache::new(MOST_KNOWN))
    }
}

impl KnownConstants {
    pub(super) fn add(&self, stored: &StoredConstants) {
        for constant in &stored.constants {
            if let Some(file) = stored.files.get(constant.file)
                && !self.0.contains_key(&constant.hash)
            {
                self.0.insert(constant.hash.clone(), (file.clone(), constant.offset));
            }
        }
    }

    /// The place of the constant with this hash, if its file is there and whole.
    fn find(&self, hash: &str, folder: &Path) -> Option<(ConstantFile, u64)> {
        let (file, offset) = self.0.get(hash)?;
        if is_whole(&folder.join(&file.name), &file.hash) {
            return Some((file, offset));
        }
        self.0.invalidate(hash);
        None
    }
}

impl StoredConstants {
    pub fn is_empty(&self) -> bool {
        self.constants.is_empty()
    }

    /// Whether all files are there and have their hashes.
    pub(super) fn are_whole(&self, folder: &Path) -> bool {
        let mut files = self.files.iter();
        files.all(|file| is_whole(&folder.join(&file.name), &file.hash))
    }

    /// Records that the files are used now.
    pub(super) fn touch(&self, folder: &Path) {
        for file in &self.files {
            let _ = disk_cache::touch(&folder.join(&file.name).with_extension("json"));
        }
    }

    /// The index of `file`, which is added if it is new.
    fn file(&mut self, file: ConstantFile) -> usize {
        let known = self.files.iter().position(|known| *known == file);
        known.unwrap_or_else(|| {
            self.files.push(file);
            self.files.len() - 1
        })
    }
}

impl PreparedCache {
    /// Keeps the constants in the file `data`, to which the graph in `file` refers, and returns a
    /// graph that refers to where they are kept.
    pub(super) fn keep_constants(
        &self,
        folder: &CacheFolder,
        file: &TemporaryFile,
        data: &TemporaryFile,
        is_read: &[bool],
    ) -> io::Result<(TemporaryFile, StoredConstants)> {
        let mut graph = Vec::new();
        let mut source = file.file();
        source.rewind()?;
        source.take(MOST_GRAPH + 1).read_to_end(&mut graph)?;
        if graph.len() as u64 > MOST_GRAPH {
            return Err(io::Error::other("the graph of the prepared form is too large"));
        }
        let placed = placed_constants(&graph).map_err(io::Error::other)?;
        if !are_apart(&placed) || is_read.len() != placed.len() {
            return Err(io::Error::other(
                "the constants of the prepared form overlap or are unknown",
            ));
        }
        let mut stored = StoredConstants::default();
        let mut new = NewConstants::default();
        // Positions of the constants that are new.
        let mut unplaced = Vec::new();
        for (constant, &is_read) in placed.into_iter().zip(is_read) {
            let hash = hash_part(data.file(), &constant.place)?.to_string();
            let known = self.known.find(&hash, folder.path());
            let (file, offset) = match known {
                Some((file, offset)) => (stored.file(file), offset),
                None => {
                    unplaced.push(stored.constants.len());
                    (0, new.add(&hash, &constant.place))
                }
            };
            stored.constants.push(StoredConstant {
                is_read,
                name: constant.name,
                data_type: constant.data_type,
                dims: constant.dims,
                hash,
                file,
                offset,
                bytes: constant.place.bytes,
            });
        }
        // Before room is made for the new file.
        stored.touch(folder.path());
        if !new.parts.is_empty() {
            lock(&self.space).check(new.end)?;
            let index = stored.file(self.write_constants(folder, data.file(), &new)?);
            for position in unplaced {
                if let Some(constant) = stored.constants.get_mut(position) {
                    constant.file = index;
                }
            }
        }
        stored.touch(folder.path());
        let places: HashMap<&str, Place> = stored
            .constants
            .iter()
            .filter_map(|constant| {
                let file = stored.files.get(constant.file)?.name.clone();
                let (offset, bytes) = (constant.offset, constant.bytes);
                Some((&*constant.name, Place { file, offset, bytes }))
            })
            .collect();
        let graph = with_places(&graph, |name| places.get(name)).map_err(io::Error::other)?;
        let moved = TemporaryFile::new(folder.path())?;
        moved.file().write_all(&graph)?;
        Ok((moved, stored))
    }

    /// Writes a file of the constants in `new`, which are parts of the file `data`.
    fn write_constants(&self, folder: &CacheFolder, data: &File, new: &NewConstants) -> io::Result<ConstantFile> {
        let unfinished = TemporaryFile::new(folder.path())?;
        let mut hasher = blake3::Hasher::new();
        let mut write = |bytes: &[u8]| {
            hasher.update(bytes);
            unfinished.file().write_all(bytes)
        };
        let mut position = 0;
        for NewConstant { offset, place, hash } in &new.parts {
            while position < *offset {
                let gap = usize::try_from((offset - position).min(ALIGNMENT)).unwrap_or(0);
                write(&[0; ALIGNMENT as usize][..gap])?;
                position += gap as u64;
            }
            let mut part = blake3::Hasher::new();
            read_part(data, place, &mut |bytes| {
                part.update(bytes);
                write(bytes)
            })?;
            // The child may still have the file open, and other models would get what it writes.
            if *part.finalize().to_hex() != **hash {
                return Err(io::Error::other("the constants of the prepared form have changed"));
            }
            position += place.bytes;
        }
        let hash = hasher.finalize();
        let name = folder.hash("longshore 2026 constants of prepared models", hash.as_bytes());
        let file = ConstantFile {
            name: format!("{PREFIX}{}.constants", name.to_hex()),
            hash: hash.to_string(),
        };
        let path = folder.path().join(&file.name);
        // Another process may have written the same file, and have it mapped.
        if is_whole(&path, &file.hash) {
            return Ok(file);
        }
        let stamp = FileStamp::of(&unfinished.file().metadata()?);
        self.add(folder, stamp.bytes, || {
            TemporaryFile::new(folder.path())?
                .finish(&path.with_extension("json"))
                .map(drop)?;
            remember_renamed(&unfinished.finish(&path)?, &stamp, hash)
        })?;
        Ok(file)
    }
}

/// Whether no two constants share bytes, as ONNX Runtime writes them. A child that a model has
/// taken over could let each of them span the whole file.
fn are_apart(placed: &[PlacedConstant]) -> bool {
    let mut places: Vec<&Place> = placed.iter().map(|constant| &constant.place).collect();
    places.sort_unstable_by_key(|place| place.offset);
    places.windows(2).all(|pair| {
        let end = pair[0].offset.checked_add(pair[0].bytes);
        end.is_some_and(|end| end <= pair[1].offset)
    })
}

/// The constants to write to a new file.
#[derive(Debug, Default)]
struct NewConstants {
    parts: Vec<NewConstant>,
    end: u64,
    offsets: HashMap<String, u64>,
}

#[derive(Debug)]
struct NewConstant {
    hash: String,
    /// Its position in the new file.
    offset: u64,
    /// Its place now.
    place: Place,
}

impl NewConstants {
    /// Adds a constant with this hash, and returns its offset in the new file.
    fn add(&mut self, hash: &str, place: &Place) -> u64 {
        if let Some(offset) = self.offsets.get(hash) {
            return *offset;
        }
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.parts.push(NewConstant {
            hash: hash.to_owned(),
            offset,
            place: place.clone(),
        });
        self.offsets.insert(hash.to_owned(), offset);
        self.end = offset + place.bytes;
        offset
    }
}

/// The large constants of a graph and its file of constants, compared with those of the prepared
/// models in `folder`. Those that cannot be read are left out.
pub fn examined_constants(graph: &Path, data: &Path, is_read: &[bool], folder: &Path) -> Vec<ExaminedConstant> {
    let (Ok(data), Ok(graph)) = (File::open(data), fs::read(graph)) else {
        return Vec::new();
    };
    let models = models_by_constant(folder);
    let placed = placed_constants(&graph).unwrap_or_default();
    let examined = placed.iter().zip(is_read).filter_map(|(constant, &is_read)| {
        let hash = hash_part(&data, &constant.place).ok()?.to_string();
        Some(ExaminedConstant {
            bytes: constant.place.bytes,
            is_read,
            models: models.get(&hash).copied().unwrap_or(0),
            hash,
        })
    });
    examined.collect()
}

/// Number of prepared models in `folder` that contain a constant, by the constant's hash.
fn models_by_constant(folder: &Path) -> HashMap<String, usize> {
    let mut models: HashMap<String, usize> = HashMap::new();
    // A folder without a key has no entries, and must not get one.
    let opened = folder
        .join(Key::FILE)
        .exists()
        .then(|| CacheFolder::open(folder).ok())
        .flatten();
    for (path, cache) in opened
        .iter()
        .flat_map(|cache| Some((disk_cache::paths(folder).ok()?, cache)))
        .flat_map(|(paths, cache)| paths.into_iter().map(move |path| (path, cache)))
    {
        if path.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let description = fs::read(&path).ok();
        let entry = description.and_then(|bytes| EntryDescription::from_bytes(&bytes, cache));
        let hashes: HashSet<String> = entry.map_or_else(HashSet::new, |entry| {
            let constants = entry.constants.constants.into_iter();
            constants.map(|constant| constant.hash).collect()
        });
        for hash in hashes {
            *models.entry(hash).or_default() += 1;
        }
    }
    models
}

fn hash_part(file: &File, place: &Place) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    read_part(file, place, &mut |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(hasher.finalize())
}

/// Reads the part of `file` at `place`, piece by piece.
fn read_part(file: &File, place: &Place, take: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    while done < place.bytes {
        let length = usize::try_from(place.bytes - done).map_or(PIECE, |left| left.min(PIECE));
        let offset = place.offset.checked_add(done).ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read_exact_at(&mut buffer[..length], offset)?;
        take(&buffer[..length])?;
        done += length as u64;
    }
    Ok(())
}
