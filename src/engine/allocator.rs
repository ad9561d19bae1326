//! The process's malloc: jemalloc, for Rust and for ONNX Runtime's C++ alike (see Cargo.toml for why).
//!
//! What always holds after [`configure`]: pages that have been free for a second go back to the system by a background
//! thread, and [`give_back`] returns all free pages at once, which an unload does before it answers (MM-4). Address space
//! goes back too: the process's bound (`memory.rs`) counts it.

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
static ALLOCATOR: Lenient = Lenient(Jemalloc);

/// jemalloc, which at the process's bound (`memory/limits.rs`) refuses large allocations and no small ones.
///
/// A request that takes all the memory there is gets to know that by an allocation that fails, and is refused for it. But
/// the next one to allocate may be anyone, a few bytes for a log line, and Rust ends the process where that fails. So for
/// small ones the bound is moved a little.
struct Lenient(Jemalloc);

/// Bytes of an allocation that nobody checks: what is as large as a body is asked for so that "no" is an answer.
const SMALL: usize = 1 << 20;

/// How often the bound was moved since it was set last.
static MOVED: AtomicU32 = AtomicU32::new(0);

/// Moves the process's bound for `size` bytes and a little. Returns whether it is worth another try. Allocates nothing.
fn move_bound(size: usize) -> bool {
    /// What the allocator maps at a time.
    const LITTLE: u64 = 4 << 20;
    /// Whoever needs more than this in small pieces has a leak, not a neighbour.
    const MOST: u32 = 32;
    let limit = getrlimit(Resource::Data);
    let (Some(current), true) = (limit.current, MOVED.fetch_add(1, Ordering::Relaxed) < MOST) else {
        return false;
    };
    let moved = Rlimit {
        current: Some(current.saturating_add(size as u64).saturating_add(LITTLE)),
        ..limit
    };
    setrlimit(Resource::Data, moved).is_ok()
}

/// To be said when the bound is set.
pub fn bound_was_set() {
    MOVED.store(0, Ordering::Relaxed);
}

impl Lenient {
    fn patiently(size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        let mut pointer = allocate();
        // More than once, because others may be quicker to take what was added.
        while pointer.is_null() && size <= SMALL && move_bound(size) {
            pointer = allocate();
        }
        pointer
    }
}

// SAFETY: every call is handed on to jemalloc as it came, again when it has returned null, which leaves
// nothing behind and, for `realloc`, the old block as it was. Nothing here unwinds or allocates.
unsafe impl GlobalAlloc for Lenient {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        Self::patiently(layout.size(), || unsafe { self.0.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        Self::patiently(layout.size(), || unsafe { self.0.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        Self::patiently(size, || unsafe { self.0.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

/// What jemalloc reads before the first allocation. Freed pages stay for a second, so that one request's buffers serve
/// the next, and are unmapped then.
// SAFETY: the name is jemalloc's own for this purpose; it expects the address of a NUL-terminated text, and a reference
// to an array is that.
#[unsafe(export_name = "malloc_conf")]
static CONFIGURATION: &[u8; 50] = b"retain:false,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Starts the thread that returns freed pages. Call before the first model is loaded; not in [`CONFIGURATION`], because
/// there must be no other thread when `main` begins.
pub fn configure() -> Result<(), tikv_jemalloc_ctl::Error> {
    background_thread::write(true)
}

/// Memory of threads that make and end models, apart from that of other threads.
///
/// A model is a thousand small allocations that end together. When they lie between those of others, or a thread keeps some
/// of them for its next ones, the pages that they were on cannot be given back.
#[derive(Debug, Clone, Copy)]
pub struct Arena {
    index: u32,
}

impl Arena {
    pub fn new() -> Result<Self, tikv_jemalloc_ctl::Error> {
        // SAFETY: the command writes a number of this type.
        let index = unsafe { raw::read(b"arenas.create\0") }?;
        Ok(Self { index })
    }

    /// Makes this thread allocate here, and keep nothing of what it frees.
    pub fn enter(self) -> Result<(), tikv_jemalloc_ctl::Error> {
        // SAFETY: the commands read values of these types.
        unsafe {
            raw::write(b"thread.tcache.enabled\0", false)?;
            raw::write(b"thread.arena\0", self.index)
        }
    }
}

/// Makes the allocator's own books for the addresses that the next `bytes` will have. It maps megabytes for them when
/// addresses come into another gibibyte, and uses a few pages: where addresses lie, and so when that happens, is chance, and
/// it should not be when memory is bounded.
pub fn prepare_for(bytes: u64) {
    let mut nothing: Vec<u8> = Vec::new();
    // It is not touched; where there is not so much, it will not be needed.
    let _ = usize::try_from(bytes).map(|bytes| nothing.try_reserve_exact(bytes));
    drop(nothing);
    give_back();
}

/// Returns the free pages of all arenas, and this thread's cache, to the system.
pub fn give_back() {
    command(c"thread.tcache.flush");
    // 4096 is MALLCTL_ARENAS_ALL.
    command(c"arena.4096.purge");
}

/// Runs a control command that takes and returns nothing. A failure leaves the pages to the background thread, a
/// second later; nobody could do more about it.
fn command(name: &CStr) {
    // SAFETY: the name is NUL-terminated; null pointers say that nothing is read or written, as these commands want.
    unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    }
}

/// Bytes that this thread has allocated less those it has freed, since it started.
pub fn thread_balance() -> i64 {
    let allocated = thread::allocatedp::read().map_or(0, |counter| counter.get());
    let freed = thread::deallocatedp::read().map_or(0, |counter| counter.get());
    allocated.wrapping_sub(freed).cast_signed()
}

/// The most that this thread has had allocated, beyond what it had when `work` began, while it did `work`. Exact to 64 KiB:
/// jemalloc looks at its counters that often.
pub fn with_peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    command(c"thread.peak.reset");
    let result = work();
    let mut peak: u64 = 0;
    let mut size = size_of::<u64>();
    // SAFETY: the name is NUL-terminated; `peak` is a place for the number of 64 bits that the command writes, `size` its
    // size.
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
    fn the_peak_of_work_is_what_it_had_at_once_whatever_it_has_given_back() {
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
