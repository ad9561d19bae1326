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
use std::{fs, io};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::engine::InferenceError;
use crate::engine::onnxruntime::session::Cancel;
use crate::engine::run::crash;
use crate::engine::run::model::{Model, ModelBudget, Work};
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
}

/// A run that is to be profiled.
#[derive(Debug)]
pub struct Profiler {
    cancel: Cancel,
    folder: TempDir,
}

impl Profiler {
    /// Creates a private folder in `parent` for the profile.
    pub(in crate::engine) fn new(parent: &Path) -> Result<Self, ProfileError> {
        let folder = tempfile::Builder::new()
            .prefix("longshore-profile-")
            .tempdir_in(parent)?;
        let prefix = folder.path().join("run");
        let prefix = CString::new(prefix.as_os_str().as_bytes()).map_err(io::Error::from)?;
        let cancel = Cancel::with_profile(&prefix).map_err(|error| ProfileError::Runtime(error.to_string()))?;
        Ok(Self { cancel, folder })
    }

    /// Cancels the run, at its next operator.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Runs `model` once for a request of `size` bytes, and returns the profile as JSON. Blocks as
    /// long as the run takes.
    pub fn profile<W: Work>(
        &self,
        model: &Model,
        size: usize,
        deadline: Instant,
        work: &W,
    ) -> Result<Result<Vec<u8>, ProfileError>, W::Error> {
        model.standing.check()?;
        let _mark = crash::CrashMarker::new(model.content().short());
        let _memory = model.resident.reserve_request(size).map_err(InferenceError::from)?;
        let (inputs, plan) = work.decode(&ModelBudget { model, deadline })?;
        let session = &model.resident.session;
        let outputs = W::outputs(&plan);
        guarded(|| Ok(model.run_session(session, &inputs.tensors, &inputs.optional, outputs, &self.cancel)?))?;
        Ok(self.read())
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
