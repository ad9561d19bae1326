//! A running container as its clients see it.
//!
//! Invariant: an address belongs to a process that passed its last health check, and comes with
//! the generation of that process. A record of the models loaded in a container holds for that
//! generation only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use super::logs::Tail;
use crate::endpoint::multi_model::Platform;
use crate::endpoint::spec::Container;

/// One container of one instance, across all its restarts.
pub struct RunningContainer {
    spec: Container,
    label: String,
    /// The same folder by this process's path and by the container's.
    models_root: PathBuf,
    models_root_inside: PathBuf,
    pub(super) state: watch::Sender<ContainerState>,
    pub(super) killed: Notify,
    pub(super) tail: Tail,
    /// The models of a container in multi-model mode, or the reason why their store could not be
    /// opened. The runtime API opens it.
    pub platform: OnceLock<Result<Arc<Platform>, String>>,
}

/// The address of a responding container and its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveAddress {
    /// `http://127.0.0.1:40123`, without a slash at its end.
    pub address: Arc<str>,
    pub generation: u64,
}

#[derive(Debug, Default)]
pub(super) struct ContainerState {
    pub generation: u64,
    pub address: Option<Arc<str>>,
    /// The reason why the container will never respond again.
    pub failure: Option<String>,
}

impl RunningContainer {
    pub(super) fn new(spec: Container, label: String, models_root: PathBuf, models_root_inside: PathBuf) -> Self {
        Self {
            spec,
            label,
            models_root,
            models_root_inside,
            state: watch::Sender::default(),
            killed: Notify::new(),
            tail: Tail::default(),
            platform: OnceLock::new(),
        }
    }

    pub fn spec(&self) -> &Container {
        &self.spec
    }

    /// `endpoint/variant/instance-1/hostname`, for the log.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The address and generation; `None` while the container does not respond.
    pub fn up(&self) -> Option<LiveAddress> {
        let state = self.state.borrow();
        state.up()
    }

    /// The address of [`Self::up`].
    pub fn address(&self) -> Option<Arc<str>> {
        self.state.borrow().address.clone()
    }

    /// The number of starts. It increases before the new process can respond, so models that were
    /// loaded in another generation are gone. For an attached container it counts how often the
    /// container became reachable.
    pub fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// Waits until the container responds; `None` if it never will.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_up(&self) -> Option<LiveAddress> {
        let mut state = self.state.subscribe();
        let settled = state
            .wait_for(|state| state.address.is_some() || state.failure.is_some())
            .await;
        settled.ok()?.up()
    }

    /// Waits until this generation stops responding.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self, generation: u64) {
        let mut state = self.state.subscribe();
        // Cannot fail: `self` owns the sender.
        let _ = state
            .wait_for(|state| state.generation != generation || state.address.is_none())
            .await;
    }

    /// The reason why the container will never respond again, if that is so.
    pub fn failure(&self) -> Option<String> {
        self.state.borrow().failure.clone()
    }

    /// Kills the process as a crash would; it is then restarted. Does not affect an attached
    /// container.
    pub fn kill(&self) {
        // Without a waiter the container is not running, and there is nothing to kill.
        self.killed.notify_waiters();
        if !self.spec.is_attached() {
            self.withdraw_address();
        }
    }

    /// Withdraws the address, so that no new request is sent to it.
    pub(super) fn withdraw_address(&self) {
        self.state.send_modify(|state| state.address = None);
    }

    /// The folder where models are unpacked for the container: its `/opt/ml/models`.
    pub fn models_root(&self) -> &Path {
        &self.models_root
    }

    /// The same folder by the container's path, for the `url` of `POST /models`.
    pub fn models_root_inside(&self) -> &Path {
        &self.models_root_inside
    }

    /// The last lines of the container's log, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.tail.lines()
    }

    /// The number of lines of the container's log so far.
    pub fn count_lines(&self) -> u64 {
        self.tail.count()
    }
}

impl ContainerState {
    fn up(&self) -> Option<LiveAddress> {
        Some(LiveAddress {
            address: self.address.clone()?,
            generation: self.generation,
        })
    }
}
