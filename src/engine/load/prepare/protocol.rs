//! The messages between the server and a child: one line of JSON each, on the child's standard
//! input and output.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::load::axes::Axes;
use crate::tensor::OutputRows;

/// A model to prepare. A child gets its job with paths in its own folder (`home.rs`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrepareJob {
    /// The private copy of the uploaded model, in ONNX or ORT format. Everything in its folder
    /// belongs to the model.
    pub model: PathBuf,
    /// Bytes of the model and of its external data.
    pub weights: u64,
    pub is_ort_format: bool,
    /// An empty file for the prepared form, if there is a folder for it.
    pub prepared: Option<PathBuf>,
    /// An empty file for the large constants, if the model has some that others can share; `None`
    /// for a form in one file.
    pub constants: Option<PathBuf>,
    /// Bytes from which a constant counts as large.
    pub large: u64,
    /// Bytes of memory that the child may use for this job.
    pub memory: u64,
    /// Maximum number of bytes that narrow constants gain when they are folded.
    pub widened: u64,
    /// Whether to fold large constants, which needs several times the memory.
    pub fold: bool,
    /// Bytes of memory that any child may use for this model.
    pub most: u64,
    /// Whether to run the model. Without runs, the findings are incomplete.
    pub probe: bool,
}

impl PrepareJob {
    /// Bytes of the weights if all narrow constants are widened.
    pub fn widest(&self) -> u64 {
        self.weights.saturating_add(self.widened)
    }

    /// The folder that contains the model's folder. The child's own folder is there, too.
    pub fn place(&self) -> &Path {
        self.model.ancestors().nth(2).unwrap_or(&self.model)
    }
}

/// The findings of a child about a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Whether the prepared form was written and has the same answers as the uploaded one. The
    /// other fields describe the form that is served.
    pub prepared: bool,
    /// If the prepared form has its large constants in a file of their own: for each, in the order
    /// of the graph, whether runs read it.
    pub constants: Option<Vec<bool>>,
    /// Bytes of the copies that sessions with equal constants share.
    pub copies: u64,
    /// Private bytes of a session after its first runs.
    pub private: u64,
    /// The part of `private` that the first runs have allocated.
    pub growth: u64,
    /// Bytes of the mapped prepared form that runs may read; 0 without a prepared form.
    pub mapped: u64,
    /// Peak of private bytes while the session is created.
    pub load_peak: u64,
    /// Bytes of memory for a run of one row; `None` if the model did not answer generated data.
    pub run_peak: Option<u64>,
    /// Position of a batch's records in the outputs, as the graph proves it.
    pub axes: Axes,
    /// Whether joined rows had the same answers as single rows in a trial; `None` without a trial.
    pub independent_rows: Option<bool>,
    /// The relation of each output to the records of a request.
    pub rows: Vec<OutputRows>,
}

/// A line that a child writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChildReport {
    /// The child has loaded ONNX Runtime and waits for jobs. Contains the layers of the sandbox
    /// that the system does not grant.
    Ready(Vec<String>),
    /// The child has read the job. From here on, a crash is the model's fault.
    Started,
    /// The model has been loaded. From here on, it runs.
    Loaded,
    Done(Findings),
    Rejected(String),
    Unsupported(String),
    OutOfMemory,
    NoDescriptors,
}
