//! The process's malloc: jemalloc, for Rust and for ONNX Runtime's C++ alike (see Cargo.toml for why).
//!
//! What always holds after [`configure`]: pages that have been free for [`DECAY`] go back to the system by a background
//! thread, and [`give_back`] returns all free pages at once, which an unload does before it answers (MM-4).

#![expect(
    unsafe_code,
    reason = "jemalloc's control interface is untyped; every block names the key's type"
)]

use std::ffi::CStr;
use std::ptr;
use std::time::Duration;

use tikv_jemalloc_ctl::{background_thread, raw, thread};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long freed pages stay with the process: long enough for one request's buffers to be reused by the next.
const DECAY: Duration = Duration::from_secs(1);

/// Sets the decay and starts the background thread. Call before the first model is loaded.
pub fn configure() -> Result<(), tikv_jemalloc_ctl::Error> {
    background_thread::write(true)?;
    let decay_ms = isize::try_from(DECAY.as_millis()).unwrap_or(isize::MAX);
    let arenas = tikv_jemalloc_ctl::arenas::narenas::read()?;
    // SAFETY: `arenas.*_decay_ms` (for arenas to come) is of type ssize_t.
    unsafe { raw::write(b"arenas.dirty_decay_ms\0", decay_ms) }?;
    // SAFETY: as above.
    unsafe { raw::write(b"arenas.muzzy_decay_ms\0", 0isize) }?;
    for arena in 0..arenas {
        // An arena that no thread has used yet has no settings of its own: it will take the defaults written above.
        // SAFETY: `arena.<i>.*_decay_ms` is of type ssize_t.
        let _ = unsafe { raw::write(format!("arena.{arena}.dirty_decay_ms\0").as_bytes(), decay_ms) };
        // SAFETY: as above.
        let _ = unsafe { raw::write(format!("arena.{arena}.muzzy_decay_ms\0").as_bytes(), 0isize) };
    }
    Ok(())
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
