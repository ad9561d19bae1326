//! The profile of a run, as ONNX Runtime writes it: the time of each operator, for a person who
//! asks why a model is slow.
//!
//! ONNX Runtime can profile a session from its creation to its end, or a single run by its options.
//! The single run is the right one here: it needs no second session, so it shows the session that
//! serves, with its packed weights and its threads, and costs no memory.
//!
//! Invariants:
//! - Only the run of the request for the profile is profiled; other requests to the model go on.
//! - The profile has names, types, shapes and times of operators, and no data.
//! - The file is in a private folder, which ends with the [`Profiler`]. ONNX Runtime keeps at most
//!   a million events of a run, and a profile of more than [`PROFILE_BYTES`] is refused.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io, thread};

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::engine::InferenceError;
use crate::engine::onnxruntime::session::Cancel;
use crate::engine::run::crash;
use crate::engine::run::model::{Model, ModelBudget, Work};
use crate::engine::run::pool::GiveUp;
use crate::engine::run::stuck::TrackedRun;
use crate::engine::run::turn::guarded;

/// Largest profile that is returned.
pub const PROFILE_BYTES: u64 = 32 << 20;

/// Reason why a run has no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("the profile cannot be written: {0}")]
    Disk(#[from] io::Error),
    #[error("ONNX Runtime does not profile runs: {0}")]
    Runtime(String),
    #[error("the profile has {bytes} bytes, of {PROFILE_BYTES} at most; profile a smaller request")]
    TooLarge { bytes: u64 },
    #[error("ONNX Runtime wrote no profile")]
    Missing,
    #[error("the system refuses a thread for the profile: {0}; try again when less memory is in use")]
    Thread(#[source] io::Error),
}

/// A run that is to be profiled.
pub struct Profiler {
    cancel: Arc<Cancel>,
    tracked: Arc<TrackedRun>,
    folder: TempDir,
}

/// The profile, or the reason why the request or the profile failed.
pub type Profiled<W> = Result<Result<Vec<u8>, ProfileError>, <W as Work>::Error>;

/// The client's interest in a profile. Dropping it cancels the run, at its next operator: at the
/// deadline, or when the client has hung up. A run that does not end then counts as stuck, as any
/// other.
#[must_use]
pub struct ProfileInterest {
    cancel: Arc<Cancel>,
    tracked: Arc<TrackedRun>,
}

impl Drop for ProfileInterest {
    fn drop(&mut self) {
        self.cancel.cancel();
        Arc::clone(&self.tracked).cancel_requested();
    }
}

/// The thread of a profile. It belongs to no pool, so no pool has to replace it.
struct OwnThread;

impl GiveUp for OwnThread {
    fn give_up(&self, _: bool) -> bool {
        false
    }
}

impl Profiler {
    /// Creates a private folder in `parent` for the profile of a run of `model`.
    pub(in crate::engine) fn new(parent: &Path, model: &Model) -> Result<Self, ProfileError> {
        let folder = tempfile::Builder::new()
            .prefix("longshore-profile-")
            .tempdir_in(parent)?;
        let prefix = folder.path().join("run");
        let prefix = CString::new(prefix.as_os_str().as_bytes()).map_err(io::Error::from)?;
        let cancel = Cancel::with_profile(&prefix).map_err(|error| ProfileError::Runtime(error.to_string()))?;
        Ok(Self {
            cancel: Arc::new(cancel),
            tracked: model.stuck.track(&model.standing, 1, Arc::new(OwnThread)),
            folder,
        })
    }

    /// Runs `model` once for a request of `size` bytes, on a thread of its own, and sends the
    /// profile as JSON. The thread keeps `turn`, and the model loaded, until the run has ended,
    /// also if its client has left.
    pub fn start<W: Work>(
        self,
        model: impl AsRef<Model> + Send + 'static,
        size: usize,
        deadline: Instant,
        work: W,
        turn: impl Send + 'static,
    ) -> Result<(oneshot::Receiver<Profiled<W>>, ProfileInterest), ProfileError> {
        let interest = ProfileInterest {
            cancel: Arc::clone(&self.cancel),
            tracked: Arc::clone(&self.tracked),
        };
        let (sender, receiver) = oneshot::channel();
        let profile = move || {
            let profile = self.profile(model.as_ref(), size, deadline, &work);
            // The folder is removed here, and not on the thread of the receiver.
            drop((self, model, turn));
            // The client may have left.
            let _ = sender.send(profile);
        };
        let thread = thread::Builder::new().name("profile".to_owned());
        thread.spawn(profile).map_err(ProfileError::Thread)?;
        Ok((receiver, interest))
    }

    fn profile<W: Work>(&self, model: &Model, size: usize, deadline: Instant, work: &W) -> Profiled<W> {
        model.standing.check()?;
        let _mark = crash::CrashMarker::new(model.content().short());
        let _memory = model.resident.reserve_request(size).map_err(InferenceError::from)?;
        let (inputs, plan) = work.decode(&ModelBudget { model, deadline })?;
        let session = &model.resident.session;
        let outputs = W::outputs(&plan);
        let run =
            guarded(|| Ok(model.run_session(session, &inputs.tensors, &inputs.optional, outputs, &self.cancel)?));
        self.tracked.ended();
        run.map(|_| self.read()).map_err(W::Error::from)
    }

    fn read(&self) -> Result<Vec<u8>, ProfileError> {
        let Some(file) = fs::read_dir(self.folder.path())?.next().transpose()? else {
            return Err(ProfileError::Missing);
        };
        let bytes = file.metadata()?.len();
        if bytes > PROFILE_BYTES {
            return Err(ProfileError::TooLarge { bytes });
        }
        Ok(fs::read(file.path())?)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // The request may have failed before the run.
        self.tracked.ended();
    }
}
