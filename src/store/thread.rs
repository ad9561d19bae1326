//! The thread of a store: all that goes over the network is done there.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::error::{OpenError, StoreError};
use crate::background::{Background, BlockingWork};

pub(super) fn start() -> Result<Background, OpenError> {
    // What looks up a host name may take a minute, and changes nothing.
    Background::start("store", BlockingWork::Left).map_err(|error| OpenError::Thread {
        reason: error.to_string(),
    })
}

/// Runs `future` on `runtime`, as long as somebody waits for it.
pub(super) async fn on<T: Send + 'static>(
    runtime: &Handle,
    url: String,
    future: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let task = AbortOnDropHandle::new(runtime.spawn(future));
    task.await.unwrap_or(Err(StoreError::Stopped { url }))
}
