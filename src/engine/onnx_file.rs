//! What an ONNX file says before ONNX Runtime is asked to parse it: which files it refers to and whether it holds tree
//! ensembles.
//!
//! Three things must be known earlier than a session exists: how much memory to reserve, that no weight file lies
//! outside the artifact, and that the file is a protobuf at all (so that a truncated upload is called that). The file
//! is walked field by field and tensor data is skipped over, so this costs as much as the graph is large, not the
//! weights. Field numbers are those of `onnx.proto`; of the file only the names of other files and of operators are kept in
//! memory.
//!
//! What ONNX Runtime would find in a file, this finds too: whatever its parser reads otherwise than ours is refused here,
//! because a model must not be able to name a file to the one that it hides from the other.

pub mod graph;
mod graph_reader;
mod header;
mod narrow;
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

pub use graph::{Attribute, Constant, Dimension, Function, Graph, ModelGraph, Node, Opsets};
pub use header::OnnxHeader;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OnnxFacts {
    /// The `location` of every tensor whose data lies in another file, as written, and how many bytes that file must
    /// have at least for what is said of offsets and lengths to be true.
    pub external: BTreeMap<String, u64>,
    /// Bytes that constants of narrow types grow by where ONNX Runtime makes float32 of them. float16 has kernels of its own
    /// in few operators; integers are widened by a `Cast` alone, which quantised models do without.
    pub widened: u64,
    /// A node of the TreeEnsemble family is present: such a model takes five times its file in memory.
    pub has_trees: bool,
    /// An operator is present whose work follows from the values of its inputs, or from a product of their sizes, so that a
    /// request of few bytes can ask for any amount of it.
    pub has_unbounded_work: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("it is empty")]
    Empty,
    #[error("it is no ONNX protobuf, or it is truncated ({what} at byte {offset})")]
    Malformed { what: &'static str, offset: u64 },
    #[error("it refers to more than {MAX_EXTERNAL} other files, or their names are longer than 16 MiB in all")]
    TooManyFiles,
    #[error("it has the name of an operator or of a file that is longer than {MAX_STRING} bytes")]
    LongName,
    #[error("the {key} of its weights in {location:?} is {value:?}, which is no number of bytes")]
    NoNumber {
        key: &'static str,
        location: String,
        value: String,
    },
    #[error("its graphs have more than {MAX_VALUES} inputs and outputs")]
    TooManyValues,
    #[error("its graph is nested more than {MAX_DEPTH} messages deep")]
    TooDeep,
    #[error("its graphs have more than {MAX_NODES} nodes, or their names are longer than 64 MiB in all")]
    TooManyNodes,
    #[error("it can be read in two ways: it has {0}, or has it twice")]
    Ambiguous(&'static str),
    #[error("read the file")]
    Io(#[from] io::Error),
}

/// Reads `file`, which is at its beginning, through.
pub fn scan(file: &File) -> Result<OnnxFacts, ScanError> {
    read(file).map(|(facts, _)| facts)
}

/// The statements of a model's file about itself.
pub fn header(file: &File) -> Result<OnnxHeader, ScanError> {
    read(file).map(|(_, header)| header)
}

/// Reads the graph of the file at `path`.
pub fn graph(path: &Path) -> Result<ModelGraph, ScanError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    GraphReader::new(file).model(length)
}

/// What makes these values outputs of a model, too, when it is put behind the model's bytes: Protocol Buffers merges a
/// message that comes twice.
pub fn more_outputs(names: &[String]) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(content);
        bytes
    };
    let outputs = names.iter().map(|name| field(12, &field(1, name.as_bytes())));
    field(7, &outputs.collect::<Vec<_>>().concat())
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
