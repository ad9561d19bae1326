//! What the contract tests and the benchmarks share: models that are written rather than kept.
//!
//! A test that needs a thousand different models, one of 100 MB, or one that no exporter would ever write, cannot keep
//! them in the repository. [`onnx`] writes the format, [`networks`] ordinary models in it, [`detector`] one whose run cannot be ended; the same call gives the
//! same bytes on every machine. [`archive`] packs them, [`archives`] is how archives look that nobody should unpack.

#![allow(dead_code, reason = "each of the programs that include this uses its own part of it")]

pub mod archive;
pub mod archives;
pub mod detector;
pub mod networks;
pub mod onnx;
pub mod protobuf;
pub mod random;
