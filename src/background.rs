//! A thread with an asynchronous runtime of its own, for work that must go on when its requester is
//! gone or the workers of the HTTP server are busy.
//!
//! Invariants:
//! - The thread lives as long as its [`Background`]. Tasks that still run at its end are dropped.
//! - Threads for blocking work exist from the start to the end. The process's data limit counts the
//!   stack of a thread (`engine/memory/data_bound.rs`). So a thread may fail to start while models
//!   fill the memory, and Tokio panics then.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// The handle of the thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Background {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The treatment of blocking work (file systems, host names) when its thread ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockingWork {
    Awaited,
    /// The work continues by itself, and its result is dropped.
    Detached,
}

impl Background {
    /// Starts the thread `name`, and `blocking` threads for blocking work, such as file systems and
    /// host name lookups. The system shows at most 15 bytes of the name.
    pub fn start(name: &'static str, blocking: usize, at_end: BlockingWork) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking.max(1))
            .thread_keep_alive(Duration::MAX)
            .thread_name(format!("{name}-files"))
            .build()?;
        start_blocking_threads(runtime.handle(), blocking);
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // An error means that the sender is gone, which is a stop as well.
            let _ = runtime.block_on(stopped);
            match at_end {
                BlockingWork::Awaited => drop(runtime),
                BlockingWork::Detached => runtime.shutdown_background(),
            }
        })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// Starts `count` threads for blocking work.
fn start_blocking_threads(runtime: &Handle, count: usize) {
    let gate = Arc::new(Mutex::new(()));
    // While the gate is locked no thread is idle, so each task starts a thread of its own.
    let _locked = gate.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..count {
        let gate = Arc::clone(&gate);
        runtime.spawn_blocking(move || drop(gate.lock().unwrap_or_else(PoisonError::into_inner)));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Fails if the thread panicked, which has been logged.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Instant;
    use std::{fs, iter};

    use super::*;

    #[test]
    fn tasks_are_dropped_with_the_thread() {
        struct DropSignal(mpsc::Sender<()>);
        impl Drop for DropSignal {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        for at_end in [BlockingWork::Awaited, BlockingWork::Detached] {
            let background = Background::start("test", 0, at_end).unwrap();
            let ((started, has_started), (dropped, was_dropped)) = (mpsc::channel(), mpsc::channel());
            let signal = DropSignal(dropped);
            background.runtime().spawn(async move {
                let _signal = signal;
                started.send(()).unwrap();
                std::future::pending::<()>().await;
            });
            has_started.recv().unwrap();
            assert!(was_dropped.try_recv().is_err());
            drop(background);
            was_dropped.try_recv().unwrap();
        }
    }

    /// Number of threads of this process with the name `name`.
    fn threads(name: &str) -> usize {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        names.filter(|found| found.trim() == name).count()
    }

    /// Waits until there are `count` threads with the name `name`.
    fn assert_threads(name: &str, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while threads(name) != count {
            assert!(Instant::now() < deadline, "{} {name}", threads(name));
            thread::yield_now();
        }
    }

    #[test]
    fn threads_for_blocking_work_exist_from_the_start() {
        let background = Background::start("early", 3, BlockingWork::Awaited).unwrap();
        // A thread names itself when it starts to run.
        assert_threads("early-files", 3);
        let (done, is_done) = mpsc::channel();
        for sender in iter::repeat_n(done, 20) {
            background.runtime().spawn_blocking(move || sender.send(()).unwrap());
        }
        assert_eq!(is_done.iter().count(), 20);
        assert_eq!(threads("early-files"), 3);
        drop(background);
        assert_threads("early-files", 0);
    }

    #[test]
    fn blocking_work_is_awaited_if_asked_for() {
        let background = Background::start("test", 1, BlockingWork::Awaited).unwrap();
        let (started, has_started) = mpsc::channel();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        background.runtime().spawn_blocking(move || {
            started.send(()).unwrap();
            thread::sleep(Duration::from_millis(50));
            done.store(true, Ordering::SeqCst);
        });
        has_started.recv().unwrap();
        drop(background);
        assert!(is_done.load(Ordering::SeqCst));
    }
}
