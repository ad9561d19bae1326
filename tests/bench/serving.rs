//! Benchmarks of serving, section by section. `scripts/bench` runs them and lists the expected
//! results.
//!
//! All sections measure the real binary over its own port. Values that are compared come from one
//! run, with alternating measurements if possible: machines differ, and so do two hours of one
//! machine, so only ratios are meaningful. The clients share the cores with the server: requests
//! per second are a lower bound, while CPU time is the server's own.
//!
//! Each section prints a Markdown table and an explanation. Progress goes to stderr.

#![allow(
    clippy::cast_precision_loss,
    reason = "the numbers are only printed, and no count needs all digits"
)]

mod adapters;
mod bare_library;
mod batching;
mod bodies;
mod cgroup;
mod client;
mod crashes;
mod density;
mod endpoint;
mod first_loads;
mod giants;
mod limit;
mod load;
mod metrics;
mod preprocessing;
mod process;
mod requests;
mod server;
mod siblings;
mod stalls;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::process::ExitCode;

/// The name of each section, its function, and its description.
const SECTIONS: [(&str, fn(), &str); 15] = [
    (
        "requests",
        requests::run,
        "throughput and CPU time per request against the bare session",
    ),
    (
        "load",
        load::run,
        "loading, prepared and unprepared: time and memory for three sizes",
    ),
    (
        "first-loads",
        first_loads::run,
        "the first load of pretrained networks, prepared before, later or never, and the library alone",
    ),
    (
        "density",
        density::run,
        "1 to 10,000 resident models: memory each, and the effect on a warm model",
    ),
    (
        "siblings",
        siblings::run,
        "models that have most of their weights in common, with and without sharing",
    ),
    ("adapters", adapters::run, "a thousand LoRA adapters of one base model"),
    (
        "giants",
        giants::run,
        "large models: weights on the heap, mapped, and mapped from a file of constants, and the library alone",
    ),
    ("batching", batching::run, "batching, on and off"),
    (
        "stalls",
        stalls::run,
        "a steady model during loads and unloads, and during a flood of requests",
    ),
    (
        "crashes",
        crashes::run,
        "twenty models that crash the worker, and the effect on other tenants",
    ),
    (
        "metrics",
        metrics::run,
        "the cost of the metrics: a request with and without them, and a reading with 10,000 models",
    ),
    ("limit", limit::run, "filling a memory limit until the first 507"),
    (
        "store",
        store::run,
        "models from a bucket: the first answer, and a memory limit below their size",
    ),
    (
        "endpoint",
        endpoint::run,
        "the time that the local endpoint adds to a request",
    ),
    (
        "preprocessing",
        preprocessing::run,
        "from a JPEG or a sentence to a label, against FastAPI with Pillow or tokenizers",
    ),
];

fn main() -> ExitCode {
    // This must precede any thread: see `disable_telemetry`.
    assert!(longshore::engine::disable_telemetry(), "telemetry is off");
    // `cargo bench` adds a flag of its own.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| SECTIONS.iter().all(|(known, ..)| known != name))
    {
        eprintln!("there is no section \"{unknown}\"; choose from:");
        for (name, _, shows) in SECTIONS {
            eprintln!("  {name:13} {shows}");
        }
        return ExitCode::FAILURE;
    }
    for (name, section, shows) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("== {name}: {shows}");
            println!("### {name}: {shows}\n");
            section();
            println!();
        }
    }
    ExitCode::SUCCESS
}
