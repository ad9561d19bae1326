//! A container as the platform meets it. Behind a trait, so that what is said to containers can be tested with one that
//! only plays along.

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::endpoint::fleet::{RunningContainer, Up};
use crate::endpoint::spec::Container;

/// A container of an instance.
pub trait Target: Send + Sync + 'static {
    fn container(&self) -> &Container;

    /// Where it answers, and which of its starts that is: what was loaded in an earlier one is gone.
    fn up(&self) -> Option<Up>;

    /// Returns when it answers; `None` if it will not any more.
    fn wait_up(&self) -> BoxFuture<'_, Option<Up>>;

    /// Returns when what was started under this number does not answer any more.
    fn lost(&self, generation: u64) -> BoxFuture<'_, ()>;

    /// Ends it as a crash would; it is started again.
    fn kill(&self);

    /// Where models are unpacked for it.
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

    fn up(&self) -> Option<Up> {
        self.up()
    }

    fn wait_up(&self) -> BoxFuture<'_, Option<Up>> {
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

/// The container, once it answers. Nothing if it does not until `deadline`, or never will.
pub(super) async fn up(target: &dyn Target, deadline: Instant) -> Option<Up> {
    match target.up() {
        Some(up) => Some(up),
        None => timeout_at(deadline, target.wait_up()).await.ok()?,
    }
}
