//! A thread with an asynchronous runtime of its own, for work that must go on when its requester is
//! gone or the workers of the HTTP server are busy.
//!
//! Invariant: the thread lives exactly as long as its [`Background`]; tasks that still run then are
//! dropped.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// Threads for host name lookups and file systems.
const MAX_BLOCKING: usize = 4;

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
    /// Starts the thread `name`. The system shows at most 15 bytes of it.
    pub fn start(name: &'static str, at_end: BlockingWork) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name(format!("{name}-files"))
            .build()?;
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

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
            let background = Background::start("test", at_end).unwrap();
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

    #[test]
    fn blocking_work_is_awaited_if_asked_for() {
        let background = Background::start("test", BlockingWork::Awaited).unwrap();
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
