//! The container's contract, checked from outside: every test starts the real binary and speaks
//! HTTP to it.
//!
//! Tests are named by what the contract says; ids such as `MM-18` are its clauses. The `harness`
//! holds what they share: a server that is started and stopped with the test, an HTTP client that
//! checks of every response what holds for all of them, the models, and what `/proc` knows of the
//! server. A test never asserts how long something takes; where it would hang forever if the server
//! were wrong, the harness has a generous bound ([`harness::PATIENCE`]).
//!
//! Tests of models that come out of a store have a real S3 server, moto, which `scripts/moto`
//! installs, and before it a proxy that makes the faults ([`harness::Proxy`]).
//!
//! Clients of the Open Inference Protocol are tested as they are, with `tritonclient`, which
//! `scripts/triton` installs.
//!
//! Models that libraries export (scikit-learn, XGBoost, LightGBM, CatBoost) are compared with these
//! libraries themselves, which `scripts/exports` installs. Pretrained networks are compared with the
//! pipelines of the packages that carry them, which `scripts/pretrained` installs.
//!
//! Where `LONGSHORE_TEST_IMAGE` names an image, the servers are containers of it, see
//! `scripts/smoke`.
//!
//! Some tests need what a machine may not grant (namespaces, strace). Those say aloud that they
//! were skipped.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot go on fails its test, which is what unwrap does"
)]

#[path = "../bench/cgroup.rs"]
mod cgroup;
mod harness;
#[path = "../support/mod.rs"]
mod support;

mod api;
mod bad_artifacts;
mod bad_requests;
mod batching;
mod browsers;
mod connections;
mod csv_header;
mod deploy;
mod division;
mod docs;
mod endpoint;
mod exchange;
mod exit;
mod exports;
mod formats;
mod fuzz;
mod golden;
mod gpu;
mod hang_up;
mod hostile;
mod http;
mod image;
mod inspect;
mod isolation;
mod joining;
mod layers;
mod layouts;
mod limits;
mod listing;
mod local_mode;
mod log;
mod manifest;
mod media;
mod memory;
mod names;
mod negotiation;
mod network;
mod networks;
mod pack;
mod prepared;
mod pretrained;
mod proxy;
mod races;
mod records;
mod sandbox;
mod single_model;
mod start;
mod stop;
mod store;
mod stuck;
mod survival;
mod text;
mod v2;
