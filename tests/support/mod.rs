//! What the contract tests and the benchmarks share: models that are written rather than kept.
//!
//! A test that needs a thousand different models, one of 100 MB, or one that no exporter would ever write, cannot keep
//! them in the repository. [`onnx`] writes the format, [`networks`] ordinary models in it; both need nothing but the
//! standard library, and the same call gives the same bytes on every machine. [`archive`] packs them.

#![allow(dead_code, reason = "each of the programs that include this uses its own part of it")]

pub mod archive;
pub mod networks;
pub mod onnx;
pub mod protobuf;
pub mod random;
