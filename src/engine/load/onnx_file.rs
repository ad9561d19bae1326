//! Scans an ONNX file before ONNX Runtime parses it: the files it refers to, and facts about its
//! operators.
//!
//! The engine needs three answers before it creates a session: how much memory to reserve, that
//! all weight files are inside the artifact, and that the file is a protobuf (so that a truncated
//! upload is reported as such). The scanner walks the file field by field and skips tensor data,
//! so its cost grows with the graph and not with the weights. It keeps only the names of other
//! files and of operators in memory. Field numbers are those of `onnx.proto`.
//!
//! Invariant: the scanner finds everything that ONNX Runtime would find. It rejects any encoding
//! that ONNX Runtime's parser reads differently, so that a model cannot show a file name to one
//! parser and hide it from the other.

mod apart;
pub mod graph;
mod graph_reader;
mod header;
pub mod message;
mod narrow;
pub mod order;
pub mod placed;
mod scanner;
mod schema;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use graph_reader::{GraphReader, MAX_NODES};
pub use graph_reader::{MAX_ELEMENTS, decoded};
use scanner::{MAX_DEPTH, MAX_EXTERNAL, MAX_VALUES, Scanner};
use schema::Message;
use wire::MAX_STRING;

pub use apart::LargeConstants;
pub use graph::{Attribute, Constant, Dimension, Function, Graph, ModelGraph, Node, Opsets};
pub use header::OnnxHeader;

/// Bytes from which a constant counts as large.
pub const LARGE_CONSTANT: u64 = 64 << 10;

/// The results of a scan.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OnnxFacts {
    /// The `location`, as written, of every tensor whose data is in another file, and the
    /// smallest size of that file, in bytes, that covers the offsets and lengths in the model.
    pub external: BTreeMap<String, u64>,
    /// Bytes by which constants of narrow types grow if ONNX Runtime converts them to float32.
    /// Few operators have kernels for float16. Integers are widened only by a `Cast`, which
    /// quantised models do not have.
    pub widened: u64,
    /// Bytes of the constants that are mapped, or that can be moved to a file that is mapped: those
    /// of at least [`LARGE_CONSTANT`] bytes.
    pub large: u64,
    /// Bytes of the largest constant that is or can be in another file.
    pub largest: u64,
    /// Whether there is a node of the TreeEnsemble family. Such a model uses five times the size
    /// of its file in memory.
    pub has_trees: bool,
    /// Whether there is an operator whose work depends on the values of its inputs, or on a
    /// product of their sizes. With it, a request of few bytes can cause any amount of work.
    pub has_unbounded_work: bool,
    /// Whether there is an operator whose results have sizes that depend on data, and not only on
    /// sizes.
    pub has_data_sizes: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("it is empty")]
    Empty,
    #[error("it is not an ONNX protobuf, or it is truncated ({what} at byte {offset})")]
    Malformed { what: &'static str, offset: u64 },
    #[error("it refers to more than {MAX_EXTERNAL} other files, or their names have more than 16 MiB in total")]
    TooManyFiles,
    #[error("it has an operator name or a file name of more than {MAX_STRING} bytes")]
    LongName,
    #[error("the {key} of its weights in {location:?} is {value:?}; expected a number of bytes")]
    InvalidNumber {
        key: &'static str,
        location: String,
        value: String,
    },
    #[error("its graphs have more than {MAX_VALUES} inputs and outputs")]
    TooManyValues,
    #[error("its graph is nested more than {MAX_DEPTH} messages deep")]
    TooDeep,
    #[error("its graphs have more than {MAX_NODES} nodes, or their names have more than 64 MiB in total")]
    TooManyNodes,
    #[error("it has {0}, which the analysis rejects")]
    Ambiguous(&'static str),
    #[error("read the file")]
    Io(#[from] io::Error),
}

/// Scans the whole of `file`, whose position must be at its start.
pub fn scan(file: &File) -> Result<OnnxFacts, ScanError> {
    read(file).map(|(facts, _)| facts)
}

/// Reads the model's description of itself.
pub fn header(file: &File) -> Result<OnnxHeader, ScanError> {
    read(file).map(|(_, header)| header)
}

/// Reads the graph of the file at `path`.
pub fn graph(path: &Path) -> Result<ModelGraph, ScanError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    GraphReader::new(file).model(length)
}

/// Returns bytes that, appended to a model's bytes, make these values additional outputs: Protocol
/// Buffers merges a message that occurs twice.
pub fn more_outputs(names: &[String]) -> Vec<u8> {
    let mut graph = Vec::new();
    for name in names {
        let mut output = Vec::new();
        message::append(&mut output, 1, name.as_bytes());
        message::append(&mut graph, 12, &output);
    }
    let mut model = Vec::new();
    message::append(&mut model, 7, &graph);
    model
}

fn read(file: &File) -> Result<(OnnxFacts, OnnxHeader), ScanError> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Err(ScanError::Empty);
    }
    let mut scanner = Scanner::new(file);
    scanner.message(Message::Model, length, 0)?;
    scanner.facts.widened = scanner.narrow.widened(scanner.header.operators.contains_key("Cast"));
    Ok((scanner.facts, scanner.header))
}
