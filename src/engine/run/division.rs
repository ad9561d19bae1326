//! Integer divisions without a result: the run that executes one fails, and the process survives.
//!
//! ONNX Runtime divides integers from a request without checking them. On x86-64 the smallest
//! integer divided by -1 has no result, and neither has a division by zero. The processor traps,
//! the kernel raises SIGFPE, and by default the process ends with all its models. Checking the
//! divisors in the graph would cost every run of every such model, would miss the divisions
//! inside other operators (STFT, Range, pooling), and would change the uploaded graph. So the
//! trap itself is handled ([`trap`]): the handler writes zeros as the result, steps over the
//! instruction and counts the trap. The run continues to its end with a meaningless value.
//! [`watched`] reports the trap, and the outputs of the run are discarded.
//!
//! Sessions of large models share the threads of one pool ([`pooled`]). A trap on such a thread
//! does not show which run caused it. If only one run used the pool, it was that run. Otherwise
//! each run of that moment is repeated, in the end alone (`pool_runs.rs`).
//!
//! 64-bit Arm does not trap. There the smallest integer divided by -1 is the smallest integer,
//! and a division by zero that ONNX Runtime does not reject is 0. No run is reported, and these
//! values are the outputs.
//!
//! Invariants: outputs of a run that trapped are never returned. A trap outside a watched run
//! ends the process as it would without the handler, with a crash report (`crash.rs`).

#[cfg(target_arch = "x86_64")]
mod decode;
mod pool_runs;
#[cfg(target_arch = "x86_64")]
mod trap;
#[cfg(not(target_arch = "x86_64"))]
mod trap {
    //! Processors that do not trap.

    use std::io;

    pub fn install() -> io::Result<()> {
        Ok(())
    }

    pub fn watch<T>(work: impl FnOnce() -> T) -> (T, bool) {
        (work(), false)
    }

    pub fn in_pool() -> u64 {
        0
    }

    pub fn watch_pool() {}

    pub fn leave_pool() {}
}

use pool_runs::{ExclusiveAccess, PoolRuns};

pub use trap::install;

/// The result of work during which traps were counted.
#[derive(Debug)]
pub struct Watched<T> {
    pub result: T,
    /// Whether the work divided integers without a result, which makes `result` meaningless.
    pub has_trapped: bool,
}

/// The reason that work in the pool has no trustworthy result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untrusted {
    /// It was cancelled while it waited for the pool.
    Cancelled,
    /// A trap occurred during each shared attempt, possibly in another run, and the work did not
    /// get exclusive use of the pool.
    Disturbed,
}

/// All runs that share the pool. There is one pool in the process.
static POOL_RUNS: PoolRuns = PoolRuns::new();

/// Attempts next to other runs before one with exclusive use of the pool, which delays the others.
const SHARED_ATTEMPTS: u32 = 2;

/// Does `work`, all of it on this thread.
pub fn watched<T>(work: impl FnOnce() -> T) -> Watched<T> {
    let (result, has_trapped) = trap::watch(work);
    Watched { result, has_trapped }
}

/// Does `work`, which may use the pool's threads. Repeats it if that is the only way to learn
/// whether a trap was its own or that of another run.
pub fn pooled<T>(is_cancelled: impl Fn() -> bool, work: impl Fn() -> T) -> Result<Watched<T>, Untrusted> {
    pooled_in(&POOL_RUNS, is_cancelled, work)
}

fn pooled_in<T>(
    runs: &'static PoolRuns,
    is_cancelled: impl Fn() -> bool,
    work: impl Fn() -> T,
) -> Result<Watched<T>, Untrusted> {
    for _ in 0..SHARED_ATTEMPTS {
        let shared = runs.join(&is_cancelled).ok_or(Untrusted::Cancelled)?;
        let before = trap::in_pool();
        let (result, has_trapped) = trap::watch(&work);
        let in_pool = trap::in_pool() != before;
        let overlapped = shared.leave();
        if has_trapped || !in_pool || !overlapped {
            let has_trapped = has_trapped || in_pool;
            return Ok(Watched { result, has_trapped });
        }
    }
    let exclusive = match runs.enter_exclusively(&is_cancelled) {
        ExclusiveAccess::Granted(exclusive) => exclusive,
        ExclusiveAccess::Cancelled => return Err(Untrusted::Cancelled),
        ExclusiveAccess::Denied => return Err(Untrusted::Disturbed),
    };
    let before = trap::in_pool();
    let (result, has_trapped) = trap::watch(work);
    let has_trapped = has_trapped || trap::in_pool() != before;
    drop(exclusive);
    Ok(Watched { result, has_trapped })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Barrier, PoisonError};
    use std::thread;

    use super::*;

    fn never() -> bool {
        false
    }

    fn new_pool_runs() -> &'static PoolRuns {
        Box::leak(Box::new(PoolRuns::new()))
    }

    /// Acts like a run that divides on a thread of the pool.
    fn trap_in_pool() {
        thread::spawn(trap::trap_here)
            .join()
            .expect("the thread continues after the trap");
    }

    #[test]
    fn a_trap_is_attributed_to_the_only_run_in_the_pool_without_repeating_it() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = AtomicU32::new(0);
        let work = || {
            runs.fetch_add(1, Ordering::SeqCst);
            trap_in_pool();
        };
        assert!(pooled_in(new_pool_runs(), never, work).unwrap().has_trapped);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let calm = pooled_in(new_pool_runs(), never, || 5).unwrap();
        assert_eq!((calm.result, calm.has_trapped), (5, false));
    }

    #[test]
    fn of_two_concurrent_runs_the_one_that_trapped_is_found_and_the_other_keeps_its_result() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = new_pool_runs();
        let (begun, trapped) = (Barrier::new(2), Barrier::new(2));
        let (guilty_runs, innocent_runs) = (AtomicU32::new(0), AtomicU32::new(0));
        let (guilty, innocent) = thread::scope(|scope| {
            let guilty = scope.spawn(|| {
                pooled_in(runs, never, || {
                    let first = guilty_runs.fetch_add(1, Ordering::SeqCst) == 0;
                    if first {
                        begun.wait();
                    }
                    trap_in_pool();
                    if first {
                        trapped.wait();
                    }
                })
            });
            let innocent = scope.spawn(|| {
                pooled_in(runs, never, || {
                    if innocent_runs.fetch_add(1, Ordering::SeqCst) == 0 {
                        begun.wait();
                        trapped.wait();
                    }
                    7
                })
            });
            (guilty.join().unwrap().unwrap(), innocent.join().unwrap().unwrap())
        });
        assert!(guilty.has_trapped);
        assert_eq!((innocent.result, innocent.has_trapped), (7, false));
        assert!(
            innocent_runs.load(Ordering::SeqCst) > 1,
            "the first result must not be trusted"
        );
    }

    #[test]
    fn a_trap_on_the_thread_of_the_run_needs_no_second_run() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = new_pool_runs();
        let other = runs.join(never).unwrap();
        assert!(pooled_in(runs, never, trap::trap_here).unwrap().has_trapped);
        assert!(!pooled_in(runs, never, || ()).unwrap().has_trapped);
        drop(other);
    }

    #[test]
    fn a_run_next_to_one_that_never_ends_fails_instead_of_waiting_for_ever() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = new_pool_runs();
        let other = runs.join(never).unwrap();
        assert_eq!(pooled_in(runs, never, trap_in_pool).unwrap_err(), Untrusted::Disturbed);
        assert_eq!(
            pooled_in(runs, || true, trap_in_pool).unwrap_err(),
            Untrusted::Cancelled
        );
        drop(other);
    }
}
