//! Longshore serves thousands of ONNX models from one machine, as a SageMaker bring-your-own
//! container.
//!
//! ```text
//! cli  ->  contract, endpoint, supervisor  ->  catalog  ->  handler  ->  engine, codec, store
//!      ->  vision, text, audio, task  ->  archive, background, config, manifest, peer, private,
//!          shared, tensor, wire, telemetry
//! ```
//!
//! Imports go down only, and modules of one layer do not import each other.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the commands: wires the parts, owns start and stop |
//! | [`contract`] | the container's HTTP face: routes, handlers, the table from causes to statuses |
//! | [`endpoint`] | what the platform does around containers: starts them, keeps them alive, routes requests to them |
//! | [`supervisor`] | the first of `serve`'s two processes: holds the socket, restarts the one that serves |
//! | [`catalog`] | the model directory: name to loaded model; load, list, get, unload |
//! | [`handler`] | what stands between a body and the tensors of one model: its manifest, resolved |
//! | [`engine`] | from artifacts to sessions: memory, threads, runs; alone knows ONNX Runtime |
//! | [`codec`] | (content type, bytes) to tensors and back; pure |
//! | [`store`] | where models come from without a platform: object stores, and what of them is on disk |
//! | [`vision`] | pictures to tensors |
//! | [`text`] | sentences to tensors |
//! | [`audio`] | sound to tensors |
//! | [`task`] | tensors to the answers of a task: labels, boxes, spans, embeddings |
//! | [`archive`] | `model.tar.gz`, written and read; knows no models |
//! | [`background`] | a thread with a runtime of its own |
//! | [`manifest`] | `longshore.json`, as data |
//! | [`peer`] | which user of the machine a connection is of |
//! | [`shared`] | one value for a key at a time |
//! | [`private`] | folders and secrets that are this user's alone |
//! | [`tensor`] | named tensors: what `codec` and `engine` hand to each other |
//! | [`wire`] | the protocols as data: paths, headers, JSON bodies |
//! | [`config`] | every knob, once |
//! | [`telemetry`] | the log and the metrics |
//!
//! Ids such as `MM-18` name clauses of the SageMaker container contract, which
//! `container/contract.md` lists; the tests in `tests/it` are named by what they say.

pub mod archive;
pub mod audio;
pub mod background;
pub mod catalog;
pub mod cli;
pub mod codec;
pub mod config;
pub mod connections;
pub mod contract;
pub mod endpoint;
pub mod engine;
pub mod handler;
pub mod manifest;
pub mod peer;
pub mod private;
pub mod shared;
pub mod store;
pub mod supervisor;
pub mod task;
pub mod telemetry;
pub mod tensor;
pub mod text;
pub mod vision;
pub mod wire;
