//! The process's malloc: jemalloc, for Rust and for ONNX Runtime's C++ alike (see Cargo.toml for why).
//!
//! What always holds after [`configure`]: pages that have been free for a second go back to the system by a background
//! thread, and [`give_back`] returns all free pages at once, which an unload does before it answers (MM-4). Address space
//! goes back too: the process's bound (`memory.rs`) counts it.

#![expect(unsafe_code, reason = "jemalloc is configured and commanded through C symbols")]

use std::ffi::CStr;
use std::ptr;

use tikv_jemalloc_ctl::{background_thread, thread};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
