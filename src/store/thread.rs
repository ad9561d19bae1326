//! The threads of a store. One does all network traffic; the others look up host names and work on
//! files.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::error::{LocationError, StoreError};
use crate::background::{Background, BlockingWork};

/// Threads for host name lookups, and for searches in a directory.
const LOOKUPS: usize = 4;

/// Threads for searches in the cache, and for what follows a download.
const SHORT_WORK: usize = 4;

pub(super) fn start() -> Result<Background, LocationError> {
    // A blocked host name lookup may take a minute, and changes nothing.
    background("store", LOOKUPS)
}

/// Starts the threads that work on files. They are not those of host name lookups, so a name server
/// that does not answer delays no model on disk.
pub(super) fn start_files(downloads: usize) -> Result<Background, LocationError> {
    background("cache", downloads.saturating_add(SHORT_WORK))
}

fn background(name: &'static str, blocking: usize) -> Result<Background, LocationError> {
    Background::start(name, blocking, BlockingWork::Detached).map_err(|error| LocationError::Thread {
        reason: error.to_string(),
    })
}

/// Runs `future` on `runtime`. Dropping the returned future ends it.
pub(super) async fn run_on<T: Send + 'static>(
    runtime: &Handle,
    url: String,
    future: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let task = AbortOnDropHandle::new(runtime.spawn(future));
    task.await.unwrap_or(Err(StoreError::Stopped { url }))
}
