//! What serving models costs, section by section; `scripts/bench` runs it and says what to expect.
//!
//! Everything is measured against the real binary over its own port, and everything that is to be compared is measured
//! in one run, in turns where it can be: machines differ, and so do two hours of one machine, so only ratios mean
//! anything. The clients share the cores with the server: requests per second are a lower bound, while CPU time is the
//! server's own.
//!
//! A section prints a Markdown table and what one has to know to read it. Progress goes to stderr.

// The numbers are printed, not computed with.
#![allow(clippy::cast_precision_loss, reason = "no count here needs all digits")]

mod batching;
mod bodies;
mod cgroup;
mod client;
mod crashes;
mod density;
mod endpoint;
mod limit;
mod load;
mod preprocessing;
mod process;
mod requests;
mod server;
mod stalls;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::process::ExitCode;

/// Name, measurement, and what it shows.
const SECTIONS: [(&str, fn(), &str); 10] = [
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
        "density",
        density::run,
        "1 to 10,000 resident models: memory each, and what a warm model notices",
    ),
    ("batching", batching::run, "joining requests, on and off"),
    (
        "stalls",
        stalls::run,
        "a steady model beside loads and unloads, and beside a flood",
    ),
    (
        "crashes",
        crashes::run,
        "twenty contents that kill the process, and the tenants beside them",
    ),
    ("limit", limit::run, "filling a memory limit until the first 507"),
    (
        "store",
        store::run,
        "models out of a bucket: the first answer, and memory for some of them",
    ),
    ("endpoint", endpoint::run, "what SageMaker's stand-in adds to a request"),
    (
        "preprocessing",
        preprocessing::run,
        "from a JPEG or a sentence to a label, beside FastAPI with Pillow or tokenizers",
    ),
];

fn main() -> ExitCode {
    // Before any thread: see `disable_telemetry`.
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
        eprintln!("there is no section \"{unknown}\"; choose from");
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
