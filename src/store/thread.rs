//! The runtime thread of a store, which does all network traffic.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::error::{LocationError, StoreError};
use crate::background::{Background, BlockingWork};

pub(super) fn start() -> Result<Background, LocationError> {
    // A blocked host name lookup may take a minute, and changes nothing.
    Background::start("store", BlockingWork::Detached).map_err(|error| LocationError::Thread {
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
