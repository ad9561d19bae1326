//! The process's malloc: jemalloc, for Rust and for ONNX Runtime's C++ alike (Cargo.toml gives the
//! reason).
//!
//! Invariants after [`configure`]:
//! - A background thread returns pages to the system once they have been free for a second.
//! - [`give_back`] returns all free pages at once. An unload calls it before it responds (MM-4).
//! - Address space is returned too, because the process's memory limit (`memory/data_bound.rs`)
//!   counts it.

#![expect(
    unsafe_code,
    reason = "jemalloc is configured and commanded through C symbols, and an allocator is unsafe to implement"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tikv_jemalloc_ctl::{background_thread, raw, thread};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: RetryingAllocator = RetryingAllocator(Jemalloc);

/// jemalloc with a soft memory limit for small allocations.
///
/// At the process's limit (`memory/data_bound.rs`) a large allocation fails, and the request that
/// made it is refused. A small one may belong to any thread, such as a few bytes for a log line,
/// and Rust aborts the process when it fails. So small allocations raise the limit slightly
/// instead.
struct RetryingAllocator(Jemalloc);

/// Largest allocation, in bytes, that raises the limit. Larger ones, such as request bodies, are
/// made by code that handles a failed allocation.
const SMALL: usize = 1 << 20;

/// Number of times the limit was raised since it was last set.
static RAISES: AtomicU32 = AtomicU32::new(0);

/// Raises the process's limit by `size` bytes and a margin. Returns whether the caller should try
/// again. Allocates nothing.
fn raise_bound(size: usize) -> bool {
    /// Bytes that the allocator maps at a time.
    const MARGIN: u64 = 4 << 20;
    /// Raises allowed in all. More small allocations than these cover point to a leak rather than
    /// to another request that took the memory.
    const MAX_RAISES: u32 = 32;
    let limit = getrlimit(Resource::Data);
    let (Some(current), true) = (limit.current, RAISES.fetch_add(1, Ordering::Relaxed) < MAX_RAISES) else {
        return false;
    };
    let raised = Rlimit {
        current: Some(current.saturating_add(size as u64).saturating_add(MARGIN)),
        ..limit
    };
    setrlimit(Resource::Data, raised).is_ok()
}

/// Resets the count of raises. Must be called whenever the limit is set.
pub fn bound_was_set() {
    RAISES.store(0, Ordering::Relaxed);
}

impl RetryingAllocator {
    fn with_raised_bound(size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        let mut pointer = allocate();
        // A loop, because other threads may take the added memory first.
        while pointer.is_null() && size <= SMALL && raise_bound(size) {
            pointer = allocate();
        }
        pointer
    }
}

// SAFETY: every call is passed to jemalloc unchanged, and repeated when it has returned null. A
// call that returns null has no effect and, for `realloc`, keeps the old block. Nothing here
// unwinds or allocates.
unsafe impl GlobalAlloc for RetryingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        Self::with_raised_bound(layout.size(), || unsafe { self.0.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        Self::with_raised_bound(layout.size(), || unsafe { self.0.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        Self::with_raised_bound(size, || unsafe { self.0.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

/// Options that jemalloc reads before the first allocation. Freed pages stay for a second, so that
/// the next request can reuse the buffers of the last one; then they are unmapped.
// SAFETY: jemalloc defines this symbol for this purpose. It expects the address of a
// NUL-terminated text, which a reference to this array is.
#[unsafe(export_name = "malloc_conf")]
static CONFIGURATION: &[u8; 50] = b"retain:false,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Starts the thread that returns freed pages. Call it before the first model is loaded. It is not
/// part of [`CONFIGURATION`], because no other thread may exist when `main` begins.
pub fn configure() -> Result<(), tikv_jemalloc_ctl::Error> {
    background_thread::write(true)
}

/// A jemalloc arena for the threads that create and drop models.
///
/// A model is a thousand small allocations that are freed together. Their pages could not be
/// returned if other allocations lay between them, or if a thread cached some of them for reuse.
#[derive(Debug, Clone, Copy)]
pub struct Arena {
    index: u32,
}

impl Arena {
    pub fn new() -> Result<Self, tikv_jemalloc_ctl::Error> {
        // SAFETY: the command returns a number of this type.
        let index = unsafe { raw::read(b"arenas.create\0") }?;
        Ok(Self { index })
    }

    /// Makes this thread allocate in this arena, and turns off its cache of freed memory.
    pub fn enter(self) -> Result<(), tikv_jemalloc_ctl::Error> {
        // SAFETY: the commands read values of these types.
        unsafe {
            raw::write(b"thread.tcache.enabled\0", false)?;
            raw::write(b"thread.arena\0", self.index)
        }
    }
}

/// Makes the allocator create its metadata for the addresses of the next `bytes` now.
///
/// jemalloc maps megabytes of metadata, and uses a few pages of it, when addresses reach another
/// gibibyte. The moment is unpredictable, and must not come after memory is limited.
pub fn prepare_for(bytes: u64) {
    let mut nothing: Vec<u8> = Vec::new();
    // The memory is never touched. If there is less than this, the metadata will not be needed.
    let _ = usize::try_from(bytes).map(|bytes| nothing.try_reserve_exact(bytes));
    drop(nothing);
    give_back();
}

/// Returns the free pages of all arenas and this thread's cache to the system.
pub fn give_back() {
    command(c"thread.tcache.flush");
    // 4096 is MALLCTL_ARENAS_ALL.
    command(c"arena.4096.purge");
}

/// Runs a control command without argument and result. Failures are ignored: the background thread
/// then returns the pages a second later.
fn command(name: &CStr) {
    // SAFETY: the name is NUL-terminated. With null pointers nothing is read or written, as these
    // commands require.
    unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    }
}

/// Bytes that this thread has allocated since it started, minus those it has freed.
pub fn thread_balance() -> i64 {
    let allocated = thread::allocatedp::read().map_or(0, |counter| counter.get());
    let freed = thread::deallocatedp::read().map_or(0, |counter| counter.get());
    allocated.wrapping_sub(freed).cast_signed()
}

/// Runs `work` and also returns the peak number of bytes that this thread had allocated during
/// it, beyond those it had before. Accurate to 64 KiB, the interval at which jemalloc reads its
/// counters.
pub fn with_peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    command(c"thread.peak.reset");
    let result = work();
    let mut peak: u64 = 0;
    let mut size = size_of::<u64>();
    // SAFETY: the name is NUL-terminated. `peak` has room for the 64-bit number that the command
    // writes, and `size` is its size.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            c"thread.peak.read".as_ptr(),
            (&raw mut peak).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        );
    }
    (result, peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_the_bytes_allocated_at_the_same_time_not_those_freed_before() {
        let (length, peak) = with_peak(|| {
            let first = vec![1u8; 3 << 20];
            drop(vec![1u8; 5 << 20]);
            first.len() + vec![2u8; 1 << 20].len()
        });
        assert_eq!(length, 4 << 20);
        assert!((8 << 20..9 << 20).contains(&peak), "{peak}");
        let ((), nothing) = with_peak(|| ());
        assert!(nothing <= 64 << 10, "{nothing}");
    }
}
