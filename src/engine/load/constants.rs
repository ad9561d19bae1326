//! The large constants of loaded models in memory: each file of constants is mapped once, and each
//! constant is copied once for the kernels that read it in another order.
//!
//! A prepared form refers to its large constants by file and offset (`prepare/cache/constants.rs`).
//! Relatives refer to the same file, so their sessions use the same mapping. Kernels such as matrix
//! multiplication read a copy in their own order; ONNX Runtime keeps one copy for all sessions that
//! are created with one container of copies. There is one container for each file.
//!
//! A session has one container only, so the copies of constants from its other files are its own.
//! Its base is the file from which it has most bytes. Constants of the other files that are copied
//! do not go through the container either, because a copy there would stay as long as the base.
//!
//! Invariants:
//! - At most one mapping of a file exists. It ends with the last model that uses it, as do the
//!   copies.
//! - The memory of each mapped constant is reserved once, as long as a model uses it; that of each
//!   copy, as long as its file is mapped.
//! - Sessions with the same base are created one after another ([`ConstantFiles::turn`]), so that
//!   it is known which of them has made the copies.

#![expect(unsafe_code, reason = "a file is mapped; the block says why it is sound")]

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use memmap2::Mmap;
use ort::session::builder::PrepackedWeights;

use crate::engine::load::content::hash_file;
use crate::engine::load::onnx_file::placed::{Place, PlacedConstant};
use crate::engine::load::prepare::{StoredConstant, StoredConstants};
use crate::engine::memory::{Footprint, ModelReservation};
use crate::engine::onnxruntime::session::SharedConstants;
use crate::shared::{SharedMap, SharedSlot};
use crate::tensor::{DataType, Tensor};

/// The files of constants that loaded models use.
#[derive(Debug, Default)]
pub struct ConstantFiles {
    files: SharedMap<String, LoadedFile>,
    turns: SharedMap<String, ()>,
    counts: Arc<SharingCounts>,
}

/// The right to create a session with a base.
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
    /// Their bytes, each counted once.
    pub bytes: u64,
    /// Bytes that the models would need in addition if each had its own.
    pub saved: u64,
}

/// A file of constants in memory.
#[derive(Debug)]
struct LoadedFile {
    bytes: Bytes,
    packed: PrepackedWeights,
    /// The constants that runs read in the mapping, by offset.
    mapped: Mutex<HashMap<u64, Weak<ConstantMemory>>>,
    /// The constants with a copy in `packed`, by offset.
    copies: Mutex<HashMap<u64, ConstantMemory>>,
}

/// The reservation of a constant.
#[derive(Debug)]
struct ConstantMemory {
    reserved: ModelReservation,
    counts: Arc<SharingCounts>,
}

/// The constants of a model that is about to be created.
#[derive(Debug)]
pub struct ModelConstants {
    stored: Arc<StoredConstants>,
    /// The files, in the order of `stored`.
    files: Vec<Arc<LoadedFile>>,
    base: usize,
    /// Constants that other models use already.
    held: Vec<Arc<ConstantMemory>>,
    counts: Arc<SharingCounts>,
}

/// The constants of a loaded model. Drop it after the session.
#[derive(Debug)]
pub struct UsedConstants {
    mapped: Vec<Arc<ConstantMemory>>,
    base: Arc<LoadedFile>,
    _files: Vec<Arc<LoadedFile>>,
    /// Bytes that were in memory when the model was loaded.
    found: u64,
    /// Bytes of all of them.
    used: u64,
    counts: Arc<SharingCounts>,
}

/// The part of a model's memory that is in its large constants, before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpectedConstants {
    /// Bytes of copies that exist already.
    pub copied: u64,
    /// Bytes of the largest constant that is copied. ONNX Runtime makes the copy before it finds
    /// the existing one.
    pub largest_copy: u64,
    /// Bytes of mapped constants that exist already.
    pub mapped: u64,
}

impl ConstantFiles {
    /// Waits until no other session with the same base is created.
    pub async fn turn(&self, stored: &StoredConstants) -> Option<Turn> {
        let base = stored.files.get(base(stored))?;
        Some(self.turns.slot(base.hash.clone()).lock_owned().await)
    }

    /// Maps the files of `stored`, which are in `folder`. Blocks on the disk.
    pub fn open(&self, stored: &Arc<StoredConstants>, folder: &Path) -> io::Result<ModelConstants> {
        let files = stored.files.iter().map(|file| {
            let slot = self.files.slot(file.hash.clone());
            let mut slot = slot.blocking_lock();
            if let Some(loaded) = slot.get() {
                return Ok(loaded);
            }
            let loaded = Arc::new(LoadedFile::map(&folder.join(&file.name), &file.hash)?);
            slot.set(&loaded);
            Ok(loaded)
        });
        let files = files.collect::<io::Result<Vec<_>>>()?;
        let held = stored.constants.iter().filter(|constant| constant.is_read);
        let held = held.filter_map(|constant| files.get(constant.file)?.mapped_constant(constant.offset));
        Ok(ModelConstants {
            held: held.collect(),
            base: base(stored),
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
            *sum += constant.bytes;
        }
    }
    // The first one of several.
    let largest = bytes.iter().max().copied().unwrap_or(0);
    bytes.iter().position(|&sum| sum == largest).unwrap_or(0)
}

impl LoadedFile {
    fn map(path: &Path, hash: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        if *hash_file(&file)?.to_hex() != *hash {
            return Err(io::Error::other("a file of constants is damaged"));
        }
        Ok(Self {
            bytes: map(&file)?,
            packed: PrepackedWeights::new(),
            mapped: Mutex::default(),
            copies: Mutex::default(),
        })
    }

    fn mapped_constant(&self, offset: u64) -> Option<Arc<ConstantMemory>> {
        lock(&self.mapped).get(&offset)?.upgrade()
    }

    /// The constant as a tensor over the mapping; `None` if its type is not supported.
    fn tensor(&self, constant: &StoredConstant) -> Option<Tensor> {
        let StoredConstant { offset, bytes, .. } = *constant;
        tensor(&self.bytes, constant.data_type, &constant.dims, offset, bytes)
    }
}

/// Maps a file of constants that nothing writes to any more.
fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the file is in a folder of this user alone. Nothing writes to it: it is complete,
    // and is only ever removed, which leaves the mapping as it is.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}

/// A constant in `file` as a tensor; `None` if its type is not supported.
fn tensor(file: &Bytes, data_type: u64, dims: &[u64], offset: u64, bytes: u64) -> Option<Tensor> {
    let data_type = DataType::from_onnx(data_type).filter(|data_type| data_type.size().is_some())?;
    let dims = dims.iter().map(|&dim| usize::try_from(dim).ok());
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    let bytes = (end <= file.len()).then(|| file.slice(start..end))?;
    Tensor::from_bytes(data_type, dims.collect::<Option<_>>()?, bytes).ok()
}

/// The constants `placed` of a graph, all in `file`, for sessions that share `packed`. Constants of
/// types that are not supported are left out.
pub fn constants_in(file: &File, placed: &[PlacedConstant], packed: &PrepackedWeights) -> io::Result<SharedConstants> {
    let file = map(file)?;
    let tensors = placed.iter().filter_map(|constant| {
        let Place { offset, bytes, .. } = constant.place;
        let name = CString::new(&*constant.name).ok()?;
        Some((name, tensor(&file, constant.data_type, &constant.dims, offset, bytes)?))
    });
    Ok(SharedConstants {
        tensors: tensors.collect(),
        packed: packed.clone(),
    })
}

impl ModelConstants {
    /// The part of the constants that other models have in memory already.
    pub fn expected(&self) -> ExpectedConstants {
        let mut expected = ExpectedConstants::default();
        let Some(base) = self.files.get(self.base) else {
            return expected;
        };
        let copies = lock(&base.copies);
        for constant in self.copied_from_base() {
            expected.largest_copy = expected.largest_copy.max(constant.copy);
            if copies.contains_key(&constant.offset) {
                expected.copied += constant.copy;
            }
        }
        expected.mapped = self.held.iter().map(|held| held.reserved.footprint().mapped).sum();
        expected
    }

    /// The constants that the base's copies are made of, each once.
    fn copied_from_base(&self) -> impl Iterator<Item = &StoredConstant> {
        let mut seen = HashSet::new();
        let constants = self.stored.constants.iter();
        constants
            .filter(move |constant| constant.copy > 0 && constant.file == self.base && seen.insert(constant.offset))
    }

    /// The constants for a session. Those that are left out are read by ONNX Runtime itself.
    pub fn for_session(&self) -> SharedConstants {
        let constants = self.stored.constants.iter();
        let given = constants.filter(|constant| constant.file == self.base || constant.copy == 0);
        let tensors = given.filter_map(|constant| {
            let name = CString::new(&*constant.name).ok()?;
            Some((name, self.files.get(constant.file)?.tensor(constant)?))
        });
        SharedConstants {
            tensors: tensors.collect(),
            packed: self
                .files
                .get(self.base)
                .map_or_else(PrepackedWeights::new, |base| base.packed.clone()),
        }
    }

    /// Bytes of constants that ONNX Runtime maps itself.
    pub fn bytes_of_others(&self, given: &SharedConstants) -> u64 {
        let given: HashSet<&[u8]> = given.tensors.iter().map(|(name, _)| name.to_bytes()).collect();
        let constants = self.stored.constants.iter();
        let others = constants.filter(|constant| !given.contains(constant.name.as_bytes()));
        others.map(|constant| constant.bytes).sum()
    }

    /// Moves the memory of the constants that are new from the reservation of the model that has
    /// loaded them to reservations of their own. `None` if there are no files.
    pub fn enter(self, model: &mut ModelReservation) -> Option<UsedConstants> {
        let base = Arc::clone(self.files.get(self.base)?);
        let mut found = self.expected();
        let mut mapped = Vec::new();
        let mut seen = HashSet::new();
        for constant in &self.stored.constants {
            let Some(file) = self.files.get(constant.file) else {
                continue;
            };
            if !constant.is_read || !seen.insert((constant.file, constant.offset)) {
                continue;
            }
            let reserve = |model: &mut ModelReservation| {
                model.split_off(Footprint {
                    mapped: constant.bytes,
                    ..Footprint::default()
                })
            };
            let mut known = lock(&file.mapped);
            let memory = match known.get(&constant.offset).and_then(Weak::upgrade) {
                Some(memory) => {
                    if !self.held.iter().any(|held| Arc::ptr_eq(held, &memory)) {
                        // Another model has loaded it meanwhile, so it is reserved twice.
                        drop(reserve(model));
                        found.mapped += constant.bytes;
                    }
                    memory
                }
                None => {
                    let memory = Arc::new(ConstantMemory::new(reserve(model), &self.counts));
                    known.insert(constant.offset, Arc::downgrade(&memory));
                    memory
                }
            };
            mapped.push(memory);
        }
        let mut copied = 0;
        let mut known = lock(&base.copies);
        for constant in self.copied_from_base() {
            copied += constant.copy;
            known.entry(constant.offset).or_insert_with(|| {
                let reserved = model.split_off(Footprint {
                    private: constant.copy,
                    ..Footprint::default()
                });
                ConstantMemory::new(reserved, &self.counts)
            });
        }
        drop(known);
        let used = copied
            + mapped
                .iter()
                .map(|constant| constant.reserved.footprint().mapped)
                .sum::<u64>();
        self.counts.used.fetch_add(used, Ordering::Relaxed);
        Some(UsedConstants {
            mapped,
            base,
            found: found.copied + found.mapped,
            used,
            counts: Arc::clone(&self.counts),
            _files: self.files,
        })
    }
}

impl UsedConstants {
    /// Bytes that count against the limit and that an unload of this model alone would free.
    pub fn charge(&self) -> u64 {
        let mapped = self.mapped.iter().filter(|constant| Arc::strong_count(constant) == 1);
        let mapped: u64 = mapped.map(|constant| constant.reserved.charge()).sum();
        mapped + self.own_copies()
    }

    /// Bytes of copies that an unload of this model alone would free: those of the base, if it is
    /// the base's last model.
    pub fn own_copies(&self) -> u64 {
        // One reference for the base, one for the list of files.
        if Arc::strong_count(&self.base) > 2 {
            return 0;
        }
        let copies = lock(&self.base.copies);
        copies.values().map(|copy| copy.reserved.charge()).sum()
    }

    /// Bytes that were in memory already when the model was loaded.
    pub fn found(&self) -> u64 {
        self.found
    }
}

impl Drop for UsedConstants {
    fn drop(&mut self) {
        self.counts.used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

impl ConstantMemory {
    fn new(reserved: ModelReservation, counts: &Arc<SharingCounts>) -> Self {
        counts.constants.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes(&reserved), Ordering::Relaxed);
        Self {
            reserved,
            counts: Arc::clone(counts),
        }
    }
}

impl Drop for ConstantMemory {
    fn drop(&mut self) {
        self.counts.constants.fetch_sub(1, Ordering::Relaxed);
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
