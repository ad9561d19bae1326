//! Tests of the container contract from outside: every test starts the real binary and sends it
//! HTTP requests.
//!
//! The name of a test states the rule that it checks; ids such as `MM-18` are clauses of the
//! contract. The `harness` contains the shared parts: a server that starts and stops with the
//! test, an HTTP client that checks the rules for all responses, the models, and the state of the
//! server in `/proc`. A test never asserts how long something takes. The harness has a generous
//! timeout for tests that would otherwise hang if the server were wrong ([`harness::PATIENCE`]).
//!
//! Tests of models from a store use a real S3 server, moto, which `scripts/moto` installs, behind
//! a proxy that injects faults ([`harness::Proxy`]).
//!
//! Tests of the Open Inference Protocol use the unmodified client `tritonclient`, which
//! `scripts/triton` installs.
//!
//! Tests of exported models (scikit-learn, XGBoost, LightGBM, CatBoost) compare them with these
//! libraries, which `scripts/exports` installs. Tests of pretrained networks compare them with the
//! pipelines of the packages that contain them, which `scripts/pretrained` installs.
//!
//! If `LONGSHORE_TEST_IMAGE` names an image, the servers are containers of this image; see
//! `scripts/smoke`.
//!
//! Tests of the page use headless Chromium, tests of `longshore top` tmux. axe, which `scripts/axe`
//! installs, checks the page's accessibility.
//!
//! Tests of a fleet run servers behind HAProxy.
//!
//! Some tests need features that a machine may lack (namespaces, strace, Chromium, tmux, HAProxy).
//! These print that they were skipped.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot continue should fail its test, as unwrap does"
)]

#[path = "../bench/cgroup.rs"]
mod cgroup;
mod harness;
#[path = "../support/mod.rs"]
mod support;

mod adapters;
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
mod fleet;
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
mod metrics;
mod names;
mod negotiation;
mod network;
mod networks;
mod pack;
mod page;
mod plan;
mod prepared;
mod pretrained;
mod prometheus;
mod proxy;
mod races;
mod records;
mod sandbox;
mod second_sessions;
mod siblings;
mod single_model;
mod start;
mod stop;
mod store;
mod stuck;
mod survival;
mod text;
mod traces;
mod v2;
