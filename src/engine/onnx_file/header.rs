//! What an ONNX file says of itself, for a person: versions, producer, operators.

use std::collections::BTreeMap;

/// Different operators that are counted by name; the standard has some 200.
const MAX_OPERATORS: usize = 2000;

/// Operator sets that are told.
const MAX_OPSETS: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnnxHeader {
    pub ir_version: u64,
    /// Version by domain; the standard's own domain is `ai.onnx`.
    pub opsets: BTreeMap<String, u64>,
    /// The program that wrote the file, and its version.
    pub producer: String,
    pub producer_version: String,
    /// How many nodes are of each operator, in subgraphs and functions too.
    pub operators: BTreeMap<String, u64>,
}

impl OnnxHeader {
    pub(super) fn add_opset(&mut self, domain: String, version: u64) {
        let domain = if domain.is_empty() {
            "ai.onnx".to_owned()
        } else {
            domain
        };
        if self.opsets.len() < MAX_OPSETS {
            self.opsets.insert(domain, version);
        }
    }

    pub(super) fn add_operator(&mut self, name: &str) {
        if let Some(count) = self.operators.get_mut(name) {
            *count += 1;
        } else if self.operators.len() < MAX_OPERATORS {
            self.operators.insert(name.to_owned(), 1);
        }
    }
}
