//! ONNX Runtime: the only module that uses the crate `ort` and its C API.
//!
//! `runtime` opens the library and makes the environment of the process, once. `session` is a
//! loaded graph with its signature and its runs. `raw` makes the calls that the crate does not
//! offer. `gpu` chooses and checks the execution provider.

pub(in crate::engine) mod gpu;
pub(in crate::engine) mod raw;
pub(in crate::engine) mod runtime;
pub(in crate::engine) mod session;
