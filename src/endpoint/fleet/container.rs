//! A container as those see it who send it requests.
//!
//! What always holds: an address is that of a process which answered its last health check, together with the number of
//! its start. Who remembers what is loaded in a container remembers that number with it, and forgets both together.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use super::logs::Tail;
use crate::endpoint::spec::Container;

/// One container of one instance, over all of its restarts.
pub struct RunningContainer {
    spec: Container,
    label: String,
    /// As this process sees it, and as the container does.
    models_root: PathBuf,
    models_root_inside: PathBuf,
    pub(super) state: watch::Sender<State>,
    pub(super) killed: Notify,
    pub(super) tail: Tail,
    companion: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Where a container answers, and which of its starts that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// `http://127.0.0.1:40123`, without a slash at its end.
    pub address: Arc<str>,
    pub generation: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub generation: u64,
    pub address: Option<Arc<str>>,
    /// Why it will never answer.
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
            companion: OnceLock::new(),
        }
    }

    pub fn spec(&self) -> &Container {
        &self.spec
    }

    /// `endpoint/variant/instance-1/hostname`, for the log.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where it answers; `None` while it does not.
    pub fn up(&self) -> Option<Up> {
        let state = self.state.borrow();
        state.up()
    }

    /// The address of [`Self::up`].
    pub fn address(&self) -> Option<Arc<str>> {
        self.state.borrow().address.clone()
    }

    /// How many times it was started. Raised before the new process can answer, so what was loaded under another number is
    /// gone. Of a container that somebody else runs: how many times it came back after it could not be reached.
    pub fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// Returns when it answers, at once if it does; `None` when it will not any more.
    ///
    /// # Cancel safety
    /// Nothing is lost with the future.
    pub async fn wait_up(&self) -> Option<Up> {
        let mut state = self.state.subscribe();
        let settled = state
            .wait_for(|state| state.address.is_some() || state.failure.is_some())
            .await;
        settled.ok()?.up()
    }

    /// Returns when what was started under this number does not answer any more.
    ///
    /// # Cancel safety
    /// Nothing is lost with the future.
    pub async fn lost(&self, generation: u64) {
        let mut state = self.state.subscribe();
        // The sender is borrowed, so it is not gone.
        let _ = state
            .wait_for(|state| state.generation != generation || state.address.is_none())
            .await;
    }

    /// Why it will never answer, once that is so.
    pub fn failure(&self) -> Option<String> {
        self.state.borrow().failure.clone()
    }

    /// Kills the process, as a crash would; it is started again. A container that somebody else runs stays as it is.
    pub fn kill(&self) {
        // Nobody waits while it does not run, and then there is nothing to kill.
        self.killed.notify_waiters();
        if !self.spec.is_attached() {
            self.gone();
        }
    }

    /// Nobody is sent there who comes from now on.
    pub(super) fn gone(&self) {
        self.state.send_modify(|state| state.address = None);
    }

    /// Where models are to be unpacked for it: its `/opt/ml/models`.
    pub fn models_root(&self) -> &Path {
        &self.models_root
    }

    /// The same folder as the container names it, for the `url` of `POST /models`.
    pub fn models_root_inside(&self) -> &Path {
        &self.models_root_inside
    }

    /// The last lines that it logged, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.tail.lines()
    }

    pub fn has_companion(&self) -> bool {
        self.companion.get().is_some()
    }

    /// What goes with this container for as long as it exists, made when it is first asked for; `None` when what was made
    /// then is of another type.
    pub fn companion<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let kept = self.companion.get_or_init(|| Arc::new(make()));
        Arc::clone(kept).downcast().ok()
    }
}

impl State {
    fn up(&self) -> Option<Up> {
        Some(Up {
            address: self.address.clone()?,
            generation: self.generation,
        })
    }
}
