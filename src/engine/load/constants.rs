//! The large constants of loaded models in memory: each file of constants is mapped once, and
//! sessions that get the same constants share the copies that kernels read in another order.
//!
//! A prepared form refers to its large constants by file and offset (`prepare/cache/constants.rs`).
//! Relatives refer to the same files. The *base* of a model is the file from which it has most
//! bytes. Its session gets the constants of the base from this module's mapping; ONNX Runtime maps
//! those of other files itself.
//!
//! Kernels such as matrix multiplication read a copy in their own order. Sessions that are created
//! with one container of copies share them: ONNX Runtime makes a copy, and looks for one with the
//! same operator and the same hash in the container. It does not compare the bytes, and the hash is
//! not a cryptographic one, so a model could contain a constant whose copy is taken for that of
//! another. Therefore a container belongs to one exact set of constants, and a session puts nothing
//! else into it. A model whose copies would be confused has all of the constants itself.
//!
//! Invariants:
//! - At most one mapping of a file exists. It ends with the last model that uses it.
//! - At most one container of a set exists. It ends, with its copies, with the last model that has
//!   this set.
//! - The memory of each constant that runs read is reserved once, as long as a model uses it.
//! - The copies in a container are reserved as long as it exists. Whatever a session leaves in the
//!   container when it is dropped is reserved with it ([`OwnMemory`]).
//! - Sessions with the same set are created one after another ([`ConstantFiles::turn`]), so that it
//!   is known which of them has made the copies.

mod container;
mod mapped;

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::engine::load::prepare::{StoredConstant, StoredConstants};
use crate::engine::memory::{Footprint, ModelReservation};
use crate::engine::onnxruntime::session::SharedConstants;
use crate::shared::{SharedMap, SharedSlot};

use container::Container;
use mapped::LoadedFile;

pub use container::{DropMark, OwnMemory};
pub use mapped::constants_in;

/// The files of constants that loaded models use, and the copies of constants.
#[derive(Debug, Default)]
pub struct ConstantFiles {
    files: SharedMap<String, LoadedFile>,
    containers: SharedMap<blake3::Hash, Container>,
    turns: SharedMap<blake3::Hash, ()>,
    counts: Arc<SharingCounts>,
}

/// The right to create a session with a set of constants.
pub type Turn = tokio::sync::OwnedMutexGuard<SharedSlot<()>>;

/// Sums over all loaded models, for metrics.
#[derive(Debug, Default)]
struct SharingCounts {
    constants: AtomicU64,
    bytes: AtomicU64,
    used: AtomicU64,
}

/// The large constants in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SharedMemory {
    /// Number of constants.
    pub constants: u64,
    /// Bytes of them and of their copies, each counted once.
    pub bytes: u64,
    /// Bytes that the models would need in addition if each had its own.
    pub saved: u64,
}

/// The reservation of a constant, or of copies.
#[derive(Debug)]
struct ConstantMemory {
    reserved: ModelReservation,
    counts: Arc<SharingCounts>,
    is_copy: bool,
}

/// The constants of a model that is about to be created.
#[derive(Debug)]
pub struct ModelConstants {
    stored: Arc<StoredConstants>,
    /// The files, in the order of `stored`.
    files: Vec<Arc<LoadedFile>>,
    container: Arc<Container>,
    /// Constants that other models use already, by file and offset.
    held: HashMap<(usize, u64), Arc<ConstantMemory>>,
    counts: Arc<SharingCounts>,
}

/// The constants of a loaded model. Drop it after the session.
#[derive(Debug)]
pub struct UsedConstants {
    constants: Vec<Arc<ConstantMemory>>,
    container: Arc<Container>,
    _files: Vec<Arc<LoadedFile>>,
    /// Bytes that were in memory when the model was loaded.
    found: u64,
    /// Bytes that the model uses.
    used: u64,
    counts: Arc<SharingCounts>,
}

/// The part of a model's memory that is in its large constants, before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpectedConstants {
    /// Bytes of copies that exist already.
    pub copied: u64,
    /// Bytes of the largest constant. ONNX Runtime makes a copy before it finds the existing one.
    pub largest: u64,
    /// Bytes of constants that runs read and that other models read already.
    pub mapped: u64,
}

impl ConstantFiles {
    /// Waits until no other session with the same set of constants is created.
    pub async fn turn(&self, stored: &StoredConstants) -> Option<Turn> {
        if stored.is_empty() {
            return None;
        }
        Some(self.turns.slot(set_hash(stored)).lock_owned().await)
    }

    /// Like [`Self::turn`], without waiting.
    pub fn try_turn(&self, stored: &StoredConstants) -> Option<Turn> {
        self.turns.slot(set_hash(stored)).try_lock_owned().ok()
    }

    /// Maps the base of `stored`, whose files are in `folder`. Blocks on the disk.
    pub fn open(&self, stored: &Arc<StoredConstants>, folder: &Path) -> io::Result<ModelConstants> {
        let base = base(stored);
        let files = stored.files.iter().enumerate().map(|(index, file)| {
            let slot = self.files.slot(file.hash.clone());
            let mut slot = slot.blocking_lock();
            let loaded = slot.get().unwrap_or_else(|| {
                let loaded = Arc::new(LoadedFile::default());
                slot.set(&loaded);
                loaded
            });
            if index == base {
                loaded.map(&folder.join(&file.name), &file.hash)?;
            }
            Ok(loaded)
        });
        let files = files.collect::<io::Result<Vec<_>>>()?;
        let held = stored.constants.iter().filter_map(|constant| {
            let memory = files.get(constant.file)?.constants().get(&constant.offset)?.upgrade()?;
            Some(((constant.file, constant.offset), memory))
        });
        let held = held.collect();
        let slot = self.containers.slot(set_hash(stored));
        let mut slot = slot.blocking_lock();
        let container = slot.get().unwrap_or_else(|| {
            let container = Arc::new(Container::new(&self.counts));
            slot.set(&container);
            container
        });
        Ok(ModelConstants {
            held,
            container,
            stored: Arc::clone(stored),
            files,
            counts: Arc::clone(&self.counts),
        })
    }

    pub fn memory(&self) -> SharedMemory {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let bytes = read(&self.counts.bytes);
        SharedMemory {
            constants: read(&self.counts.constants),
            bytes,
            saved: read(&self.counts.used).saturating_sub(bytes),
        }
    }
}

/// The index of the file from which a model has most bytes.
fn base(stored: &StoredConstants) -> usize {
    let mut bytes = vec![0u64; stored.files.len()];
    for constant in &stored.constants {
        if let Some(sum) = bytes.get_mut(constant.file) {
            *sum = sum.saturating_add(constant.bytes);
        }
    }
    // The first one of several.
    let largest = bytes.iter().max().copied().unwrap_or(0);
    bytes.iter().position(|&sum| sum == largest).unwrap_or(0)
}

/// The constants that a session gets from here: those of its base.
fn given(stored: &StoredConstants) -> impl Iterator<Item = &StoredConstant> {
    let base = base(stored);
    let constants = stored.constants.iter();
    constants.filter(move |constant| constant.file == base)
}

/// The hash of the set of constants that a session gets.
fn set_hash(stored: &StoredConstants) -> blake3::Hash {
    let mut set: Vec<String> = given(stored)
        .map(|constant| format!("{} {} {:?}", constant.hash, constant.data_type, constant.dims))
        .collect();
    set.sort_unstable();
    set.dedup();
    blake3::hash(set.join("\n").as_bytes())
}

impl ModelConstants {
    /// The part of the constants that other models have in memory already.
    pub fn expected(&self) -> ExpectedConstants {
        ExpectedConstants {
            copied: self.container.bytes(),
            largest: given(&self.stored).map(|constant| constant.bytes).max().unwrap_or(0),
            mapped: self.held.values().map(|held| held.reserved.footprint().mapped).sum(),
        }
    }

    /// The constants for a session. Those that are left out are read by ONNX Runtime itself.
    pub fn for_session(&self) -> SharedConstants {
        let tensors = given(&self.stored).filter_map(|constant| {
            let name = CString::new(&*constant.name).ok()?;
            Some((name, self.files.get(constant.file)?.tensor(constant)?))
        });
        SharedConstants {
            tensors: tensors.collect(),
            packed: self.container.packed(),
        }
    }

    /// Keeps the memory of copies that a session left behind when it could not be created.
    pub fn keep(&self, memory: ModelReservation) {
        self.container.keep(memory);
    }

    /// Bytes of constants that ONNX Runtime maps itself.
    pub fn bytes_of_others(&self, shared: &SharedConstants) -> u64 {
        let names: HashSet<&[u8]> = shared.tensors.iter().map(|(name, _)| name.to_bytes()).collect();
        let constants = self.stored.constants.iter();
        let others = constants.filter(|constant| !names.contains(constant.name.as_bytes()));
        others.map(|constant| constant.bytes).sum()
    }

    /// Moves the memory of the constants that are new from the reservation of the model that has
    /// loaded them to reservations of their own. `copies` are the bytes of all copies of the
    /// model's constants.
    pub fn enter(self, model: &mut ModelReservation, copies: u64) -> UsedConstants {
        let mut found = self.expected();
        let mut constants = Vec::new();
        let mut seen = HashSet::new();
        for constant in &self.stored.constants {
            let Some(file) = self.files.get(constant.file) else {
                continue;
            };
            if !seen.insert((constant.file, constant.offset)) {
                continue;
            }
            let reserve = |model: &mut ModelReservation| {
                model.split_off(Footprint {
                    mapped: if constant.is_read { constant.bytes } else { 0 },
                    ..Footprint::default()
                })
            };
            let mut known = file.constants();
            let memory = match known.get(&constant.offset).and_then(Weak::upgrade) {
                Some(memory) => {
                    if !self.held.contains_key(&(constant.file, constant.offset)) {
                        // Another model has loaded it meanwhile, so it is reserved twice.
                        let twice = reserve(model);
                        found.mapped += twice.footprint().mapped;
                    }
                    memory
                }
                None => {
                    let memory = Arc::new(ConstantMemory::new(reserve(model), &self.counts, false));
                    known.insert(constant.offset, Arc::downgrade(&memory));
                    memory
                }
            };
            constants.push(memory);
        }
        if found.copied == 0 {
            self.container.keep(model.split_off(Footprint {
                private: copies_of_given(&self.stored, copies),
                ..Footprint::default()
            }));
        }
        let read: u64 = constants
            .iter()
            .map(|constant| constant.reserved.footprint().mapped)
            .sum();
        let used = read + self.container.bytes();
        self.counts.used.fetch_add(used, Ordering::Relaxed);
        UsedConstants {
            constants,
            container: self.container,
            found: found.copied + found.mapped,
            used,
            counts: self.counts,
            _files: self.files,
        }
    }
}

/// The part of `copies` that is made of the constants that a session gets from here: by their size,
/// among the constants that runs do not read, because these are copied for certain.
fn copies_of_given(stored: &StoredConstants, copies: u64) -> u64 {
    let is_any = stored.constants.iter().all(|constant| constant.is_read);
    let size = |constant: &StoredConstant| {
        let counts = is_any || !constant.is_read;
        if counts { u128::from(constant.bytes) } else { 0 }
    };
    let part: u128 = given(stored).map(size).sum();
    let all: u128 = stored.constants.iter().map(size).sum();
    u64::try_from(u128::from(copies) * part / all.max(1)).unwrap_or(copies)
}

impl UsedConstants {
    /// Bytes that count against the limit and that an unload of this model alone would free.
    pub fn charge(&self) -> u64 {
        let constants = self
            .constants
            .iter()
            .filter(|constant| Arc::strong_count(constant) == 1);
        let constants: u64 = constants.map(|constant| constant.reserved.charge()).sum();
        constants + self.own_copies()
    }

    /// Bytes of copies that an unload of this model alone would free.
    pub fn own_copies(&self) -> u64 {
        // One reference is here, and one in the model's own memory.
        if Arc::strong_count(&self.container) > 2 {
            return 0;
        }
        self.container.bytes()
    }

    /// Bytes that were in memory already when the model was loaded.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Returns the two values that a session has to be dropped between, so that copies that it
    /// leaves in the container stay reserved. Its creation took `created` bytes, without the copies
    /// that were entered.
    pub fn measured(&self, memory: ModelReservation, created: u64) -> (DropMark, OwnMemory) {
        OwnMemory::of(memory, &self.container, created)
    }
}

impl Drop for UsedConstants {
    fn drop(&mut self) {
        self.counts.used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

impl ConstantMemory {
    fn new(reserved: ModelReservation, counts: &Arc<SharingCounts>, is_copy: bool) -> Self {
        counts.constants.fetch_add(u64::from(!is_copy), Ordering::Relaxed);
        counts.bytes.fetch_add(bytes(&reserved), Ordering::Relaxed);
        Self {
            reserved,
            counts: Arc::clone(counts),
            is_copy,
        }
    }
}

impl Drop for ConstantMemory {
    fn drop(&mut self) {
        self.counts
            .constants
            .fetch_sub(u64::from(!self.is_copy), Ordering::Relaxed);
        self.counts.bytes.fetch_sub(bytes(&self.reserved), Ordering::Relaxed);
    }
}

fn bytes(reserved: &ModelReservation) -> u64 {
    let Footprint { private, mapped, .. } = reserved.footprint();
    private + mapped
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::load::prepare::ConstantFile;

    /// Constants as (content, file, bytes, whether runs read it).
    fn stored(constants: &[(&str, usize, u64, bool)]) -> StoredConstants {
        let files = constants.iter().map(|(_, file, ..)| file + 1).max().unwrap_or(0);
        let file = |index: usize| ConstantFile {
            name: format!("file {index}"),
            hash: format!("hash {index}"),
        };
        let constants = constants.iter().enumerate();
        StoredConstants {
            files: (0..files).map(file).collect(),
            constants: constants
                .map(|(index, &(content, file, bytes, is_read))| StoredConstant {
                    name: format!("constant {index}"),
                    data_type: 1,
                    dims: vec![bytes / 4],
                    hash: content.to_owned(),
                    file,
                    offset: 4096 * index as u64,
                    bytes,
                    is_read,
                })
                .collect(),
        }
    }

    #[test]
    fn the_base_is_the_file_with_most_bytes() {
        assert_eq!(base(&stored(&[("a", 0, 10, true), ("b", 1, 20, true)])), 1);
        assert_eq!(
            base(&stored(&[("a", 0, 10, true), ("b", 1, 8, true), ("c", 1, 8, true)])),
            1
        );
        assert_eq!(base(&stored(&[("a", 0, 10, true), ("b", 1, 10, true)])), 0);
        assert_eq!(base(&stored(&[])), 0);
    }

    #[test]
    fn models_have_a_set_in_common_only_if_their_base_gives_them_exactly_the_same() {
        let trunk = stored(&[("a", 0, 40, true), ("b", 0, 40, false)]);
        let same = [
            // Heads in other files, another order, and a constant with two names.
            stored(&[("a", 0, 40, true), ("b", 0, 40, false), ("head", 1, 4, false)]),
            stored(&[("b", 0, 40, false), ("a", 0, 40, true)]),
            stored(&[("a", 0, 40, true), ("b", 0, 40, false), ("b", 0, 40, false)]),
        ];
        for same in &same {
            assert_eq!(set_hash(same), set_hash(&trunk));
        }
        let mut typed = trunk.clone();
        typed.constants[0].data_type = 6;
        let mut shaped = trunk.clone();
        shaped.constants[0].dims = vec![2, 5];
        let others = [
            stored(&[("a", 0, 40, true)]),
            stored(&[("a", 0, 40, true), ("b", 0, 40, false), ("head", 0, 4, false)]),
            stored(&[("a", 0, 40, true), ("c", 0, 40, false)]),
            typed,
            shaped,
        ];
        for other in &others {
            assert_ne!(set_hash(other), set_hash(&trunk), "{other:?}");
        }
    }

    #[test]
    fn copies_are_attributed_to_the_base_by_the_size_of_what_runs_do_not_read() {
        let all_of_base = stored(&[("a", 0, 40, true), ("b", 0, 40, false)]);
        assert_eq!(copies_of_given(&all_of_base, 48), 48);
        let with_head = stored(&[("a", 0, 90, true), ("b", 0, 30, false), ("head", 1, 10, false)]);
        assert_eq!(copies_of_given(&with_head, 48), 36);
        // Constants that are copied, and also read.
        let both = stored(&[("a", 0, 30, true), ("b", 1, 10, true)]);
        assert_eq!(copies_of_given(&both, 48), 36);
        assert_eq!(copies_of_given(&stored(&[]), 0), 0);
    }
}
