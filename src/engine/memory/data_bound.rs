//! Limits the data of this process, so that an allocation beyond the memory limit fails where it
//! is made.
//!
//! The ledger knows what models need and what earlier requests needed, but not what the next
//! request makes ONNX Runtime allocate: a shape can be an input. The allocator receives any address
//! space that it asks for, for example 17 TB, which then fills up until the kernel kills the
//! process. With a limit on the process's data (`RLIMIT_DATA`: private writable mappings) the
//! allocation fails instead, and the server refuses only that request.
//!
//! Address space exceeds the memory in use (stacks, returned pages, fragments), so the limit has an
//! allowance. Model files count as data too, because ONNX Runtime maps them privately and writable
//! although it never writes: the limit grows and shrinks with the mapped files.

use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::limits::{kilobytes, resident_anonymous};
use crate::engine::memory::allocator;

/// The data limit of this process.
#[derive(Debug)]
pub struct DataLimit {
    /// `None` without a memory limit, or if the process was started with a tighter data limit.
    bytes: Option<Mutex<u64>>,
}

/// A mapped file's part of the data limit. Released on drop, so drop it after the mapping.
#[derive(Debug)]
pub struct MappedFile {
    bound: Arc<DataLimit>,
    bytes: u64,
}

impl DataLimit {
    /// Limits this process to what it has mapped now plus the unused part of `limit` bytes.
    pub fn new(limit: Option<u64>) -> io::Result<Self> {
        const ALLOWANCE: u64 = 64 << 20;
        let unbounded = Self { bytes: None };
        let Some(limit) = limit else { return Ok(unbounded) };
        if getrlimit(Resource::Data).current.is_some_and(|bound| bound <= limit) {
            return Ok(unbounded);
        }
        let unused = limit.saturating_sub(resident_anonymous());
        let bytes = limit_data(unused.saturating_add(limit / 8).saturating_add(ALLOWANCE))?;
        Ok(Self {
            bytes: Some(Mutex::new(bytes)),
        })
    }

    /// Raises the limit for a mapped file of `bytes` bytes.
    pub fn map(self: &Arc<Self>, bytes: u64) -> MappedFile {
        self.change(|bound| bound.saturating_add(bytes));
        MappedFile {
            bound: Arc::clone(self),
            bytes,
        }
    }

    fn change(&self, change: impl FnOnce(u64) -> u64) {
        let Some(bytes) = &self.bytes else { return };
        let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *bytes = change(*bytes);
        // If the limit cannot be raised, the load fails with its own error.
        if let Err(error) = set_data_limit(*bytes) {
            tracing::debug!(%error, "failed to set the data limit of the process");
        }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.bound.change(|bound| bound.saturating_sub(self.bytes));
    }
}

/// Bytes of data that this process has mapped.
pub fn mapped_data() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(kilobytes(&status, "VmData:").unwrap_or(0))
}

/// Limits this process's data to `more` bytes above what it has mapped now. Returns the limit.
pub fn limit_data(more: u64) -> io::Result<u64> {
    let bound = mapped_data()?.saturating_add(more);
    set_data_limit(bound)?;
    Ok(bound)
}

fn set_data_limit(bytes: u64) -> io::Result<()> {
    let before = getrlimit(Resource::Data);
    let current = before.maximum.map_or(bytes, |maximum| maximum.min(bytes));
    setrlimit(
        Resource::Data,
        Rlimit {
            current: Some(current),
            ..before
        },
    )?;
    allocator::bound_was_set();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_limit_grows_and_shrinks_with_mapped_files() {
        // Far above what this process uses.
        const BOUND: u64 = 1 << 50;
        let bound = Arc::new(DataLimit {
            bytes: Some(Mutex::new(BOUND)),
        });
        let current = || getrlimit(Resource::Data).current;
        let before = current();
        let first = bound.map(1 << 40);
        assert_eq!(current(), Some(BOUND + (1 << 40)));
        let second = bound.map(1 << 30);
        drop(first);
        assert_eq!(current(), Some(BOUND + (1 << 30)));
        drop(second);
        assert_eq!(current(), Some(BOUND));
        let _ = setrlimit(
            Resource::Data,
            Rlimit {
                current: before,
                ..getrlimit(Resource::Data)
            },
        );
        // Without a memory limit there is no data limit to move.
        drop(Arc::new(DataLimit::new(None).unwrap()).map(1));
        assert_eq!(current(), before);
    }
}
