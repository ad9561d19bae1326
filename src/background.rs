//! A thread with an asynchronous runtime of its own, for what is to go on whoever has asked for it, and however busy the
//! workers of the HTTP server are.
//!
//! What always holds: the thread lives exactly as long as its [`Background`]; what still runs on it then is dropped.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// Threads that look up host names and wait for file systems.
const MAX_BLOCKING: usize = 4;

/// The thread; it ends with this.
#[derive(Debug)]
pub struct Background {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What becomes of work that waits for a file system, or a name, when its thread ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockingWork {
    Awaited,
    /// It goes on by itself, and nobody waits for it.
    Left,
}

impl Background {
    /// Starts the thread called `name`, which must not be longer than the system shows: 15 bytes.
    pub fn start(name: &'static str, at_end: BlockingWork) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name(format!("{name}-files"))
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // An error is the sender's end, which means the same.
            let _ = runtime.block_on(stopped);
            match at_end {
                BlockingWork::Awaited => drop(runtime),
                BlockingWork::Left => runtime.shutdown_background(),
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
            // It was ended by a panic if this fails, which has been logged.
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
    fn what_runs_on_it_is_dropped_with_it() {
        struct Note(mpsc::Sender<()>);
        impl Drop for Note {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        for at_end in [BlockingWork::Awaited, BlockingWork::Left] {
            let background = Background::start("test", at_end).unwrap();
            let ((started, has_started), (dropped, was_dropped)) = (mpsc::channel(), mpsc::channel());
            let note = Note(dropped);
            background.runtime().spawn(async move {
                let _note = note;
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
