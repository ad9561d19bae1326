//! Makes the system refuse memory to this process beyond a limit, so that an allocation fails where it is made.
//!
//! The ledger knows what models take and what requests were seen to take, not what the next one may make ONNX Runtime
//! allocate: a shape can be an input, and the allocator is given any address space it asks for, 17 TB if need be, which then
//! fills up until the kernel kills the process. With a bound on its data (`RLIMIT_DATA`: private writable mappings) the
//! allocation fails, and that request alone is refused. Address space is more than what is in use (stacks, pages given
//! back, fragments), hence an allowance above the limit. Models' files count as data, too, since ONNX Runtime maps them
//! privately and writable though it never writes: the bound grows and shrinks with what is mapped.

use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::limits::{kilobytes, resident_anonymous};
use crate::engine::allocator;

/// The bound of this process.
#[derive(Debug)]
pub struct DataBound {
    /// `None` when there is no limit, or whoever started the process has bounded it already.
    bytes: Option<Mutex<u64>>,
}

/// A file's part of the bound; given back on drop, so it is dropped after the mapping.
#[derive(Debug)]
pub struct MappedFile {
    bound: Arc<DataBound>,
    bytes: u64,
}

impl DataBound {
    /// Bounds this process to what it has mapped now and what is unused of `limit` bytes.
    pub fn new(limit: Option<u64>) -> io::Result<Self> {
        const ALLOWANCE: u64 = 64 << 20;
        let unbounded = Self { bytes: None };
        let Some(limit) = limit else { return Ok(unbounded) };
        if getrlimit(Resource::Data).current.is_some_and(|bound| bound <= limit) {
            return Ok(unbounded);
        }
        let unused = limit.saturating_sub(resident_anonymous());
        let bytes = bound_data(unused.saturating_add(limit / 8).saturating_add(ALLOWANCE))?;
        Ok(Self {
            bytes: Some(Mutex::new(bytes)),
        })
    }

    /// Makes room for a file of so many bytes to be mapped.
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
        // A bound that cannot be raised leaves the load to fail by itself.
        if let Err(error) = set_data_bound(*bytes) {
            tracing::debug!(%error, "bound the process's data");
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

/// Bounds this process's data to `more` bytes than it has mapped now. Returns the bound.
pub fn bound_data(more: u64) -> io::Result<u64> {
    let bound = mapped_data()?.saturating_add(more);
    set_data_bound(bound)?;
    Ok(bound)
}

fn set_data_bound(bytes: u64) -> io::Result<()> {
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
    fn the_bound_of_data_grows_with_each_mapped_file_and_shrinks_with_it() {
        // Far from what this process takes.
        const BOUND: u64 = 1 << 50;
        let bound = Arc::new(DataBound {
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
        // Without a limit there is no bound to move.
        drop(Arc::new(DataBound::new(None).unwrap()).map(1));
        assert_eq!(current(), before);
    }
}
