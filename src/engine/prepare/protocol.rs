//! The messages between the server and a child: a line of JSON each, by the child's standard input and output.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::axes::Axes;
use crate::tensor::OutputRows;

/// A model to be prepared. A child that does this gets it with paths in its own folder (`home.rs`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The private copy of the uploaded model, ONNX or ORT format. All that lies in its folder is the model's.
    pub model: PathBuf,
    /// Bytes of it and of its external data.
    pub weights: u64,
    pub is_ort_format: bool,
    /// An empty file for the prepared form, when there is a place for it.
    pub prepared: Option<PathBuf>,
    /// Bytes that the child may take for this.
    pub memory: u64,
    /// Bytes that narrow constants grow by at the most where they are folded.
    pub widened: u64,
    /// Whether large constants may be folded, which takes several times the memory of leaving them.
    pub fold: bool,
    /// Bytes that any child may take for this model.
    pub most: u64,
    /// Whether to run the model; without it, less is known.
    pub probe: bool,
}

impl Job {
    /// Bytes of the weights where all that can be is widened.
    pub fn widest(&self) -> u64 {
        self.weights.saturating_add(self.widened)
    }

    /// The folder that the model's folder lies in. A child that does this has its own folder there, too.
    pub fn place(&self) -> &Path {
        self.model.ancestors().nth(2).unwrap_or(&self.model)
    }
}

/// What a child found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Whether the prepared form was written and answers as the uploaded one does. What follows is of the form that is to be
    /// served.
    pub prepared: bool,
    /// Private bytes of a session that has run.
    pub private: u64,
    /// Bytes of the prepared form that runs may read where it is mapped; 0 without one.
    pub mapped: u64,
    /// Private bytes while the session is created, at the most.
    pub load_peak: u64,
    /// Working memory of a run of one row; `None` when the model could not be run on made-up data.
    pub run_peak: Option<u64>,
    /// Where the records of a batch are in the outputs, as the graph proves it.
    pub axes: Axes,
    /// Whether a trial answered rows that were joined along the first axis as it did alone; `None` when there was no trial.
    pub independent_rows: Option<bool>,
    /// For each output its relation to the records of a request.
    pub rows: Vec<OutputRows>,
}

/// A line that a child writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It has loaded ONNX Runtime and waits for jobs; and the layers of the sandbox that the system does not grant it.
    Ready(Vec<String>),
    /// The job has been read; from here on the child's fate is the model's doing.
    Started,
    /// The model has been loaded; from here on it is run.
    Loaded,
    Done(Findings),
    Rejected(String),
    Unsupported(String),
    OutOfMemory,
    NoDescriptors,
}
