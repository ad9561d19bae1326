//! The thread of a store: a runtime for what goes over the network.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::error::{OpenError, StoreError};

/// Runs `future` on `runtime`, as long as somebody waits for it.
pub(super) async fn on<T: Send + 'static>(
    runtime: &Handle,
    url: String,
    future: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let task = AbortOnDropHandle::new(runtime.spawn(future));
    task.await.unwrap_or(Err(StoreError::Stopped { url }))
}

/// The thread with the runtime; it ends with this.
pub(super) struct StoreThread {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    pub fn start() -> Result<Self, OpenError> {
        /// Threads that look up host names and read directories.
        const MAX_BLOCKING: usize = 4;
        let failed = |error: io::Error| OpenError::Thread {
            reason: error.to_string(),
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name("store-files")
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || {
            // An error is the sender's end, which means the same.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        });
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread.map_err(failed)?),
        })
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It was ended by a panic if this fails, which has been logged.
            let _ = thread.join();
        }
    }
}
