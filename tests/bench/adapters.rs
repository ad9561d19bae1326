//! Measures LoRA adapters of one base model: memory for each, the time of a load, and the latency
//! with an adapter. Every answer is compared with ONNX Runtime's Python library (`adapters.py`).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bare_library::python;
use crate::bodies;
use crate::client::Connection;
use crate::server::{Models, Server};
use crate::table::{bytes, head, median, ratio, row, time};

const COUNT: usize = 1_000;
/// Largest difference of two numbers of an answer, which are between -1 and 1.
const TOLERANCE: f64 = 1e-5;
const MEASURE: Duration = Duration::from_millis(800);
const ROUNDS: usize = 7;

/// The answers of the library.
#[derive(Deserialize)]
struct Answers {
    x: Vec<f64>,
    alone: Vec<f64>,
    answers: Vec<Vec<f64>>,
    seconds: f64,
}

pub fn run() {
    let models = Models::new();
    let made = models.root().join("made");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/adapters.py");
    let status = Command::new(python())
        .arg(program)
        .arg(&made)
        .arg(COUNT.to_string())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "adapters.py fails");
    let answers = fs::read(made.join("answers.json")).expect("read the answers");
    let answers: Answers = serde_json::from_slice(&answers).expect("answers");

    // Without batches, because the number of rows decides which kernels run.
    let server = Server::start(&models, &["--max-batch", "1"]);
    server.load("base", &made.join("base"));
    let body = json!({"instances": [answers.x]}).to_string();
    let request = |name: &str| {
        let path = format!("/models/{name}/invoke");
        bodies::post(&path, "application/json", body.as_bytes())
    };
    let mut connection = server.connect();
    check(&mut connection, &request("base"), &answers.alone);
    let before = server.usage();
    let reserved = || server.metric("longshore_memory_reserved_bytes") + server.metric("longshore_memory_mapped_bytes");
    let reserved_before = reserved();
    let mut loads = Vec::new();
    let mut of_adapter = 0;
    for (index, expected) in answers.answers.iter().enumerate() {
        let name = index.to_string();
        let folder = models.root().join(&name);
        fs::create_dir(&folder).expect("make a folder");
        fs::hard_link(made.join("base/model.onnx"), folder.join("model.onnx")).expect("link the base");
        let adapter = made.join(format!("{index}.onnx_adapter"));
        of_adapter = fs::metadata(&adapter).expect("the adapter").len();
        fs::rename(adapter, folder.join("adapter.onnx_adapter")).expect("move the adapter");
        loads.push(server.load(&name, &folder));
        check(&mut connection, &request(&name), expected);
        if index % 100 == 99 {
            eprintln!("    {} of {COUNT}", index + 1);
        }
    }
    let usage = server.usage() - before;
    let reserved = reserved() - reserved_before;
    // Once more, now that all of them are loaded.
    for (index, expected) in answers.answers.iter().enumerate() {
        check(&mut connection, &request(&index.to_string()), expected);
    }
    let (base, one) = ([request("base")], [request("0")]);
    let any: Vec<Vec<u8>> = (0..COUNT).map(|index| request(&index.to_string())).collect();
    let (mut alone, mut same, mut random) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let measure = |requests: &[Vec<u8>]| server.measure(requests, 1, MEASURE).percentile(50).as_secs_f64();
        alone.push(measure(&base));
        same.push(measure(&one));
        random.push(measure(&any));
    }
    let to_base = |times: &[f64]| {
        let ratios: Vec<f64> = times.iter().zip(&alone).map(|(one, alone)| one / alone).collect();
        ratio(median(&ratios), 1.0)
    };
    let count = COUNT as f64;
    println!(
        "{COUNT} adapters of rank 8 for a base model of six layers of 512 by 512; each answer was compared twice with \
         ONNX Runtime's Python library and the same adapter, and differs by at most {TOLERANCE:e}. An adapter file has {}. \
         Latencies are medians over one connection, in turns; a run of the Python library with an adapter takes {}.\n",
        bytes(of_adapter as f64),
        time(Duration::from_secs_f64(answers.seconds)),
    );
    head(&[
        "load, median",
        "own memory, each",
        "reserved, each",
        "latency of the base",
        "with one adapter",
        "to the base",
        "with any of them",
        "to the base",
    ]);
    row(&[
        &time(median(&loads)),
        &bytes(usage.anon / count),
        &bytes(reserved / count),
        &time(Duration::from_secs_f64(median(&alone))),
        &time(Duration::from_secs_f64(median(&same))),
        &to_base(&same),
        &time(Duration::from_secs_f64(median(&random))),
        &to_base(&random),
    ]);
}

/// Asserts that the answer is that of the library.
fn check(connection: &mut Connection, request: &[u8], expected: &[f64]) {
    let answer: Value = serde_json::from_slice(&connection.expect_ok(request)).expect("JSON");
    let found: Vec<f64> = serde_json::from_value(answer["predictions"][0].clone()).expect("a row");
    let is_near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= TOLERANCE;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(is_near),
        "{found:?} differs from {expected:?}"
    );
}
