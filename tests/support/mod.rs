//! Generators of models and archives for the contract tests and the benchmarks.
//!
//! A test that needs a thousand different models, one of 100 MB, or one that no exporter would
//! write cannot keep them in the repository. [`onnx`] writes the format, [`networks`] writes
//! ordinary models, and [`detector`] writes a model whose run cannot be cancelled. The same call
//! returns the same bytes on every machine. [`archive`] packs models, and [`archives`] writes
//! hostile archives.

#![allow(dead_code, reason = "each program that includes this module uses only a part of it")]

pub mod archive;
pub mod archives;
pub mod detector;
pub mod networks;
pub mod onnx;
pub mod protobuf;
pub mod random;
