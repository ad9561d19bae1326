//! Creates sessions of a graph with large constants as the server creates them, and finds out what
//! they make of the constants: which they read, and how many bytes of copies they share.
//!
//! - Sessions with one container share their copies. Two of them tell how large the copies are: the
//!   first makes them, and the second finds them. Not every kernel can share its copy; a session of
//!   such a model cannot be created this way, and the model gets a prepared form in one file.
//! - ONNX Runtime unmaps a constant that it has mapped itself when all of its kernels read a copy.
//!   So a third session, without shared constants, tells which constants runs read.

use std::fs::File;
use std::path::Path;

use ort::session::builder::PrepackedWeights;

use super::mapping;
use super::protocol::PrepareJob;
use crate::engine::load::constants::constants_in;
use crate::engine::load::onnx_file::placed::{MOST_GRAPH, Place, PlacedConstant, placed_constants};
use crate::engine::memory::allocator;
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::onnxruntime::session::{ModelForm, RunThreads, Session, SessionError};

/// A graph, its large constants, and the container of their copies.
pub(super) struct SplitForm<'a> {
    graph: &'a Path,
    constants: &'a Path,
    placed: Vec<PlacedConstant>,
    packed: PrepackedWeights,
}

/// The use that sessions make of the large constants.
pub(super) struct ConstantUse {
    /// Whether runs read each constant.
    pub(super) is_read: Vec<bool>,
    /// Bytes of those that runs read.
    pub(super) mapped: u64,
    /// A session without shared constants, if one was needed to find out.
    pub(super) session: Option<Session>,
}

/// The large constants of a graph; `None` if they cannot be read, or if the graph is too large.
pub(super) fn placed(graph: &Path) -> Option<Vec<PlacedConstant>> {
    let bytes = std::fs::metadata(graph).ok()?.len();
    (bytes <= MOST_GRAPH).then(|| placed_constants(&std::fs::read(graph).ok()?).ok())?
}

impl<'a> SplitForm<'a> {
    /// Reads the places of the constants; `None` if they cannot be read.
    pub(super) fn read(graph: &'a Path, constants: &'a Path) -> Option<Self> {
        Some(Self {
            graph,
            constants,
            placed: placed(graph)?,
            packed: PrepackedWeights::new(),
        })
    }

    /// Creates a session that shares its copies with those before it.
    pub(super) fn open(&self, environment: &Environment, job: &PrepareJob) -> Result<Session, SessionError> {
        let rejected = |error: std::io::Error| SessionError::Rejected(error.to_string());
        let file = File::open(self.constants).map_err(rejected)?;
        let given = constants_in(&file, &self.placed, &self.packed).map_err(rejected)?;
        Session::open_shared(environment, self.graph, job.weights, given, RunThreads::Pool)
    }

    /// Measures the bytes of all copies, while the first session is alive. Its creation took
    /// `created` bytes. Fails if a second session cannot be created, or if `is_right` does not
    /// accept its answers.
    pub(super) fn copies(
        &self,
        environment: &Environment,
        job: &PrepareJob,
        created: u64,
        is_right: impl FnOnce(&Session) -> bool,
    ) -> Result<u64, SessionError> {
        let smallest = self.placed.iter().map(|constant| constant.place.bytes).min();
        // Without room for the copy of a constant, there are none.
        if smallest.is_none_or(|smallest| created < smallest / 2) {
            return Ok(0);
        }
        let before = allocator::thread_balance();
        let second = self.open(environment, job)?;
        let shared = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
        if is_right(&second) {
            Ok(created.saturating_sub(shared))
        } else {
            Err(SessionError::Rejected("its copies cannot be shared".to_owned()))
        }
    }

    /// Finds out which constants runs read. All copies have `copies` bytes.
    pub(super) fn reads(
        self,
        environment: &Environment,
        job: &PrepareJob,
        copies: u64,
    ) -> Result<ConstantUse, SessionError> {
        let Self {
            graph,
            constants,
            placed,
            packed,
        } = self;
        drop(packed);
        let (parts, session) = if copies == 0 {
            (None, None)
        } else {
            let apart = Session::open(environment, ModelForm::Graph(graph), job.weights)?;
            (mapping::mapped_offsets(constants), Some(apart))
        };
        let is_mapped = |place: &Place| {
            parts.as_ref().is_none_or(|parts| {
                let mut inside = parts.iter();
                inside.any(|&(start, end)| start <= place.offset && place.offset + place.bytes <= end)
            })
        };
        let is_read: Vec<bool> = placed.iter().map(|constant| is_mapped(&constant.place)).collect();
        let read = placed.iter().zip(&is_read).filter(|(_, is_read)| **is_read);
        Ok(ConstantUse {
            mapped: read.map(|(constant, _)| constant.place.bytes).sum(),
            is_read,
            session,
        })
    }
}
