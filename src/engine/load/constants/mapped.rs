//! Files of constants, mapped into this process, and the tensors over them.

#![expect(unsafe_code, reason = "a file is mapped; the block says why it is sound")]

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, Weak};

use bytes::Bytes;
use memmap2::Mmap;
use ort::session::builder::PrepackedWeights;

use super::{ConstantMemory, lock};
use crate::engine::load::content::hash_file;
use crate::engine::load::onnx_file::placed::{Place, PlacedConstant};
use crate::engine::load::prepare::StoredConstant;
use crate::engine::onnxruntime::session::SharedConstants;
use crate::tensor::{DataType, Tensor};

/// A file of constants that loaded models use.
#[derive(Debug, Default)]
pub(super) struct LoadedFile {
    /// The file's bytes, once it is the base of a model.
    mapping: OnceLock<Bytes>,
    /// The constants that models use, by offset.
    constants: Mutex<HashMap<u64, Weak<ConstantMemory>>>,
}

impl LoadedFile {
    /// Maps the file at `path`, which must have this `hash`, unless it is mapped already.
    pub(super) fn map(&self, path: &Path, hash: &str) -> io::Result<()> {
        if self.mapping.get().is_none() {
            let file = File::open(path)?;
            if *hash_file(&file)?.to_hex() != *hash {
                return Err(io::Error::other("a file of constants is damaged"));
            }
            let mapping = map(&file)?;
            self.mapping.get_or_init(|| mapping);
        }
        Ok(())
    }

    /// The constants that models use, by offset.
    pub(super) fn constants(&self) -> MutexGuard<'_, HashMap<u64, Weak<ConstantMemory>>> {
        lock(&self.constants)
    }

    /// The constant as a tensor over the mapping; `None` if the file is not mapped, or if the type
    /// is not supported.
    pub(super) fn tensor(&self, constant: &StoredConstant) -> Option<Tensor> {
        let StoredConstant { offset, bytes, .. } = *constant;
        tensor(self.mapping.get()?, constant.data_type, &constant.dims, offset, bytes)
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
        let tensor = tensor(&file, constant.data_type, &constant.dims, offset, bytes)?;
        Some((name, tensor))
    });
    Ok(SharedConstants {
        tensors: tensors.collect(),
        packed: packed.clone(),
    })
}
