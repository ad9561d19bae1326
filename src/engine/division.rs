//! Integer divisions without a result: a run that hits one is refused, and the process goes on.
//!
//! ONNX Runtime divides integers of a request as they come. x86-64 has no result for the least integer by -1, nor for a
//! division by zero: the processor traps, the kernel raises SIGFPE, and by default the process ends with all its models.
//! A check of the divisors in the graph would cost every run of every such model, would not see the divisions inside of
//! other operators (STFT, Range, pooling), and would change the graph that was uploaded. So the trap itself is handled
//! ([`trap`]): the handler writes zeros as the result, steps over the instruction and notes that it did. The run goes on
//! to its end with a value that means nothing, and [`watched`] says so: its outputs are never an answer.
//!
//! Sessions of large models share the threads of one pool ([`pooled`]), and a trap on such a thread does not say whose
//! run it was. A run that had the pool to itself is the one. Otherwise each run of that moment is repeated, in the end
//! alone (`company.rs`).
//!
//! 64-bit Arm does not trap: the least integer by -1 is the least integer again, and a division by zero that ONNX Runtime
//! does not refuse by itself is 0. There a run is never noted, and these values are the answer.
//!
//! What always holds: a run that has divided so has no outputs for anybody; a trap outside of a watched run ends the
//! process as ever, with a note of whose run it was (`crash.rs`).

mod company;
#[cfg(target_arch = "x86_64")]
mod decode;
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

use company::{Alone, Company};

pub use trap::install;

/// What came of work that was watched.
#[derive(Debug)]
pub struct Watched<T> {
    pub result: T,
    /// Whether it divided integers without a result, so that `result` means nothing.
    pub has_trapped: bool,
}

/// Why work that shares the pool has no result that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untrusted {
    /// It was cancelled while it waited for its turn.
    Cancelled,
    /// Others' divisions fell into it each time, and it did not get the pool to itself.
    Disturbed,
}

/// All runs that share the pool, of which there is one in the process.
static COMPANY: Company = Company::new();

/// Times that work is tried in company before it is tried alone, which holds others up.
const TRIES: u32 = 2;

/// Does `work`, all of it on this thread.
pub fn watched<T>(work: impl FnOnce() -> T) -> Watched<T> {
    let (result, has_trapped) = trap::watch(work);
    Watched { result, has_trapped }
}

/// Does `work`, which may use the pool's threads. It is done more than once when it cannot be told otherwise whether a
/// trap was its own or another's.
pub fn pooled<T>(is_cancelled: impl Fn() -> bool, work: impl Fn() -> T) -> Result<Watched<T>, Untrusted> {
    pooled_in(&COMPANY, is_cancelled, work)
}

fn pooled_in<T>(
    company: &'static Company,
    is_cancelled: impl Fn() -> bool,
    work: impl Fn() -> T,
) -> Result<Watched<T>, Untrusted> {
    for _ in 0..TRIES {
        let member = company.join(&is_cancelled).ok_or(Untrusted::Cancelled)?;
        let before = trap::in_pool();
        let (result, has_trapped) = trap::watch(&work);
        let in_pool = trap::in_pool() != before;
        let had_company = member.leave();
        if has_trapped || !in_pool || !had_company {
            let has_trapped = has_trapped || in_pool;
            return Ok(Watched { result, has_trapped });
        }
    }
    let alone = match company.alone(&is_cancelled) {
        Alone::Granted(alone) => alone,
        Alone::Cancelled => return Err(Untrusted::Cancelled),
        Alone::Denied => return Err(Untrusted::Disturbed),
    };
    let before = trap::in_pool();
    let (result, has_trapped) = trap::watch(work);
    let has_trapped = has_trapped || trap::in_pool() != before;
    drop(alone);
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

    fn company() -> &'static Company {
        Box::leak(Box::new(Company::new()))
    }

    /// Does what a run does whose division happens on a thread of the pool.
    fn trap_in_pool() {
        thread::spawn(trap::trap_here).join().expect("the thread goes on");
    }

    #[test]
    fn a_run_that_has_the_pool_to_itself_is_the_one_that_trapped_and_is_not_repeated() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = AtomicU32::new(0);
        let work = || {
            runs.fetch_add(1, Ordering::SeqCst);
            trap_in_pool();
        };
        assert!(pooled_in(company(), never, work).unwrap().has_trapped);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let calm = pooled_in(company(), never, || 5).unwrap();
        assert_eq!((calm.result, calm.has_trapped), (5, false));
    }

    #[test]
    fn of_two_runs_at_a_time_the_one_that_trapped_is_found_and_the_other_has_its_result() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let company = company();
        let (begun, trapped) = (Barrier::new(2), Barrier::new(2));
        let (guilty_runs, innocent_runs) = (AtomicU32::new(0), AtomicU32::new(0));
        let (guilty, innocent) = thread::scope(|scope| {
            let guilty = scope.spawn(|| {
                pooled_in(company, never, || {
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
                pooled_in(company, never, || {
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
            "its first result was not trusted"
        );
    }

    #[test]
    fn a_trap_on_the_run_s_own_thread_needs_no_second_run() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let company = company();
        let other = company.join(never).unwrap();
        assert!(pooled_in(company, never, trap::trap_here).unwrap().has_trapped);
        assert!(!pooled_in(company, never, || ()).unwrap().has_trapped);
        drop(other);
    }

    #[test]
    fn a_run_whose_company_goes_on_for_ever_is_not_answered_but_ends() {
        install().unwrap();
        let _turn = trap::POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let company = company();
        let other = company.join(never).unwrap();
        assert_eq!(
            pooled_in(company, never, trap_in_pool).unwrap_err(),
            Untrusted::Disturbed
        );
        assert_eq!(
            pooled_in(company, || true, trap_in_pool).unwrap_err(),
            Untrusted::Cancelled
        );
        drop(other);
    }
}
