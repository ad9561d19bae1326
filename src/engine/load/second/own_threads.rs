//! Bounds the threads that sessions have of their own.
//!
//! A thread takes little memory, but a whole stack of addresses, which count against the data limit
//! of the process (`memory/data_bound.rs`). So their number is limited, and the limit of data is
//! raised for the stacks of each session.
//!
//! Invariant: at most [`MAX_SESSIONS`] values of [`Seat`] exist.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, getrlimit};

use crate::engine::memory::{Budget, MappedFile};

/// Number of sessions with threads of their own. Each serves a model whose requests come one at a
/// time; the sessions of other such models answer on the process's pool.
const MAX_SESSIONS: usize = 4;

/// Bytes of memory that a thread takes: the used part of its stack, and what the allocator keeps
/// for it. Measured: 100 KB.
const MEMORY: u64 = 128 << 10;

/// Bytes of a stack where the system sets no limit.
const USUAL_STACK: u64 = 8 << 20;

/// Bytes of the stacks of ended threads that the C library keeps for new ones.
const KEPT_STACKS: u64 = 40 << 20;

#[derive(Debug)]
pub struct OwnThreads {
    budget: Budget,
    /// Threads of a run, including the caller's.
    threads: usize,
    sessions: Arc<AtomicUsize>,
    kept_stacks: OnceLock<MappedFile>,
}

/// The permission for one session. Drop it after the session.
#[derive(Debug)]
pub struct Seat {
    sessions: Arc<AtomicUsize>,
    _stacks: MappedFile,
}

impl OwnThreads {
    /// For sessions whose runs use `threads` threads, including the caller's.
    pub fn new(budget: Budget, threads: usize) -> Self {
        Self {
            budget,
            threads,
            sessions: Arc::default(),
            kept_stacks: OnceLock::new(),
        }
    }

    /// Threads of a run, including the caller's.
    pub fn of_run(&self) -> usize {
        self.threads
    }

    /// Bytes of memory that the threads of a session take.
    pub fn memory(&self) -> u64 {
        MEMORY.saturating_mul(self.own())
    }

    fn own(&self) -> u64 {
        self.threads.saturating_sub(1) as u64
    }

    /// Takes a seat; `None` if there are as many sessions as allowed.
    pub fn take(&self) -> Option<Seat> {
        let more = |sessions| (sessions < MAX_SESSIONS).then_some(sessions + 1);
        let taken = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok()?;
        self.kept_stacks.get_or_init(|| self.budget.map_file(KEPT_STACKS));
        let stack = getrlimit(Resource::Stack).current.unwrap_or(USUAL_STACK);
        Some(Seat {
            sessions: Arc::clone(&self.sessions),
            _stacks: self.budget.map_file(stack.saturating_mul(self.own())),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn there_are_as_many_seats_as_sessions_and_a_dropped_one_is_free_again() {
        let threads = OwnThreads::new(testing::budget(), 4);
        let mut seats: Vec<Seat> = (0..MAX_SESSIONS).map_while(|_| threads.take()).collect();
        assert_eq!(seats.len(), MAX_SESSIONS);
        assert!(threads.take().is_none());
        seats.pop();
        assert!(threads.take().is_some());
        assert_eq!((threads.of_run(), threads.memory()), (4, 3 * MEMORY));
    }
}
