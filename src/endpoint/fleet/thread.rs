//! The thread of the fleets: a runtime for all that goes on around containers, whoever asks for it.
//!
//! All containers are started on it. A parent-death signal is sent when the thread that started a process ends, so that
//! must be one that lives as long as there are containers, and no worker of an HTTP server or of a pool.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// It ends with this. What still runs then is dropped, and processes are killed.
pub(super) struct FleetThread {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FleetThread {
    pub fn start() -> io::Result<Self> {
        /// Threads that make and remove folders and look up host names.
        const MAX_BLOCKING: usize = 4;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name("fleet-files")
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("fleet".to_owned()).spawn(move || {
            // An error is the sender's end, which means the same.
            let _ = runtime.block_on(stopped);
            drop(runtime);
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

impl Drop for FleetThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It was ended by a panic if this fails, which has been logged.
            let _ = thread.join();
        }
    }
}
