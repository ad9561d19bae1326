//! Longshore serves thousands of ONNX models from one machine, as a SageMaker bring-your-own
//! container.
//!
//! ```text
//! cli  ->  contract, endpoint, plan, supervisor  ->  catalog  ->  handler
//!      ->  engine, codec, store  ->  telemetry  ->  config  ->  manifest
//!      ->  vision, text, audio, task  ->  disk_cache, page
//!      ->  archive, background, backoff, connections, peer, private, shared, tensor, tls,
//!          wire
//! ```
//!
//! Imports go down only, and modules of one layer do not import each other. `config` is plain data
//! and imports only `manifest`, which checks the value of `--manifest`.
//!
//! | module | contents |
//! |---|---|
//! | [`cli`] | the commands: connects the modules, controls start and stop |
//! | [`contract`] | the container's HTTP server: routes, handlers, the table from causes to statuses |
//! | [`endpoint`] | the local SageMaker endpoint: starts containers, checks their health, routes requests to them |
//! | [`plan`] | a simulation of a fleet of servers, for `longshore plan`; pure functions |
//! | [`supervisor`] | the first of `serve`'s two processes: holds the socket, restarts the worker that serves |
//! | [`catalog`] | the model directory, from name to loaded model: load, list, get, unload |
//! | [`handler`] | the conversion between request bodies and the tensors of one model, by its manifest |
//! | [`engine`] | from artifacts to sessions: memory, threads, runs; the only module that uses ONNX Runtime |
//! | [`codec`] | the conversion between (content type, bytes) and tensors; pure functions |
//! | [`store`] | models in object stores, and their cache on disk |
//! | [`vision`] | pictures to tensors |
//! | [`text`] | sentences to tensors |
//! | [`audio`] | sound to tensors |
//! | [`task`] | tensors to the answers of a task: labels, boxes, spans, embeddings |
//! | [`disk_cache`] | the common core of the two caches on disk: archives, prepared models |
//! | [`page`] | the page for browsers: its files, its data, the thread that sends them |
//! | [`archive`] | reads and writes `model.tar.gz`; does not depend on models |
//! | [`background`] | a thread with its own async runtime |
//! | [`backoff`] | the delays between restarts of a process |
//! | [`connections`] | the HTTP server below the routes: limits, deadlines and rules for connections |
//! | [`manifest`] | `longshore.json`, as data |
//! | [`peer`] | the user at the other end of a local connection |
//! | [`shared`] | one value per key, shared by all that need it |
//! | [`private`] | folders and secrets that only this user can read |
//! | [`tensor`] | named tensors, which `codec` and `engine` exchange |
//! | [`tls`] | the cryptography of TLS connections |
//! | [`wire`] | the protocols as data: paths, headers, JSON bodies |
//! | [`config`] | the command line and the environment: every option, in one place |
//! | [`telemetry`] | the log, the metrics and the traces |
//!
//! Ids such as `MM-18` refer to clauses of the SageMaker container contract, listed in
//! `container/contract.md`. The names of the tests in `tests/it` state what they check.

pub mod archive;
pub mod audio;
pub mod background;
pub mod backoff;
pub mod catalog;
pub mod cli;
pub mod codec;
pub mod config;
pub mod connections;
pub mod contract;
pub mod disk_cache;
pub mod endpoint;
pub mod engine;
pub mod handler;
pub mod manifest;
pub mod page;
pub mod peer;
pub mod plan;
pub mod private;
pub mod shared;
pub mod store;
pub mod supervisor;
pub mod task;
pub mod telemetry;
pub mod tensor;
pub mod text;
pub mod tls;
pub mod vision;
pub mod wire;
