//! The part of an ONNX file that is displayed to users: versions, producer, operators.

use std::collections::BTreeMap;

/// Limit on the operators that are counted by name; the standard has some 200.
const MAX_OPERATORS: usize = 2000;

/// Limit on the operator sets that are listed.
const MAX_OPSETS: usize = 100;

/// A model's description of itself, and its operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnnxHeader {
    pub ir_version: u64,
    /// Version by domain; the standard's own domain is `ai.onnx`.
    pub opsets: BTreeMap<String, u64>,
    /// The program that wrote the file, and its version.
    pub producer: String,
    pub producer_version: String,
    /// Number of nodes by operator, including those in subgraphs and functions.
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
