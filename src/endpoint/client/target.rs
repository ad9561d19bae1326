//! A container as the platform sees it.
//!
//! It is a trait, so that tests can check the requests to containers with a fake one.

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::endpoint::fleet::{LiveAddress, RunningContainer};
use crate::endpoint::spec::Container;

/// A container of an instance.
pub trait Target: Send + Sync + 'static {
    fn container(&self) -> &Container;

    /// The container's address and generation; `None` while it does not respond. Models that were
    /// loaded in an earlier generation are gone.
    fn up(&self) -> Option<LiveAddress>;

    /// Waits until the container responds; `None` if it never will.
    fn wait_up(&self) -> BoxFuture<'_, Option<LiveAddress>>;

    /// Waits until this generation of the container stops responding.
    fn lost(&self, generation: u64) -> BoxFuture<'_, ()>;

    /// Kills the container as a crash would. It is then restarted.
    fn kill(&self);

    /// The folder where this process unpacks the container's models.
    fn models_root(&self) -> &Path;

    /// The same folder as the container sees it: `/opt/ml/models` in an image.
    fn models_root_inside(&self) -> &Path;

    /// `endpoint/variant/instance-1/hostname`, for the log.
    fn label(&self) -> &str;
}

impl Target for RunningContainer {
    fn container(&self) -> &Container {
        self.spec()
    }

    fn up(&self) -> Option<LiveAddress> {
        self.up()
    }

    fn wait_up(&self) -> BoxFuture<'_, Option<LiveAddress>> {
        self.wait_up().boxed()
    }

    fn lost(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.lost(generation).boxed()
    }

    fn kill(&self) {
        self.kill();
    }

    fn models_root(&self) -> &Path {
        self.models_root()
    }

    fn models_root_inside(&self) -> &Path {
        self.models_root_inside()
    }

    fn label(&self) -> &str {
        self.label()
    }
}

/// Waits until the container responds; `None` if it does not before `deadline`, or never will.
pub(super) async fn up(target: &dyn Target, deadline: Instant) -> Option<LiveAddress> {
    match target.up() {
        Some(up) => Some(up),
        None => timeout_at(deadline, target.wait_up()).await.ok()?,
    }
}
