//! Compares requests from a JPEG to a label, and from a sentence to a label or an embedding, with a
//! FastAPI server that uses Pillow or tokenizers and the same ONNX Runtime:
//! `tests/preprocessing/server.py`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::bodies;
use crate::client::{Connection, Measured};
use crate::server::{Models, Server, measure};
use crate::table::{head, ratio, row, time};

const CONNECTIONS: [usize; 2] = [1, 8];
/// The duration of the measurement of each row for each server, in `TURNS` turns.
const MEASURE: Duration = Duration::from_secs(4);
const TURNS: u32 = 4;
/// The tolerance between the scores of the servers: their JPEG decoders differ.
const NEAR: f64 = 0.02;

/// A request that `tests/preprocessing/make.py` describes.
#[derive(Deserialize)]
struct SampleRequest {
    what: String,
    model: String,
    content_type: String,
    body: String,
}

/// The FastAPI server. Dropping the value closes its standard input, which ends it.
struct FastApi {
    process: Child,
    address: String,
}

impl FastApi {
    /// Starts one process per core, and waits until all are ready.
    fn start(folder: &Path) -> Self {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let mut process = Command::new(python(".preprocessing"))
            .arg(root().join("tests/preprocessing/server.py"))
            .arg(folder)
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start FastAPI");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let addresses: Vec<String> = lines.map_while(Result::ok).take(count).collect();
        assert_eq!(addresses.len(), count, "FastAPI does not start");
        Self {
            process,
            address: addresses[0].clone(),
        }
    }
}

impl Drop for FastApi {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn python(venv: &str) -> PathBuf {
    root().join(venv).join("bin/python")
}

fn make(venv: &str, program: &str, arguments: &[&Path]) {
    let status = Command::new(python(venv))
        .arg(root().join(program))
        .args(arguments)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{program} fails");
}

pub fn run() {
    let pretrained = tempfile::tempdir().expect("a folder");
    let networks = ["open_nsfw", "minilm"].map(Path::new);
    make(
        ".pretrained",
        "tests/pretrained/make.py",
        &[&[pretrained.path()], &networks[..]].concat(),
    );
    let models = Models::new();
    make(
        ".preprocessing",
        "tests/preprocessing/make.py",
        &[models.root(), pretrained.path()],
    );
    let requests = fs::read(models.root().join("requests.json")).expect("read the requests");
    let requests: Vec<SampleRequest> = serde_json::from_slice(&requests).expect("requests");

    let longshore = Server::start(&models, &[]);
    let mut names: Vec<&str> = requests.iter().map(|asked| asked.model.as_str()).collect();
    names.dedup();
    for name in names {
        longshore.load(name, &models.root().join(name));
    }
    let fast_api = FastApi::start(models.root());

    println!(
        "FastAPI runs under uvicorn with uvloop and httptools, with one process per core, and decodes with Pillow or \
         tokenizers. The measurements of the servers alternate; CPU time is the server's, per request.\n"
    );
    head(&[
        "request",
        "connections",
        "requests/s, FastAPI",
        "Longshore",
        "ratio",
        "p50, FastAPI",
        "Longshore",
        "CPU, FastAPI",
        "Longshore",
        "ratio",
    ]);
    for asked in &requests {
        eprintln!("  {}", asked.what);
        let body = fs::read(models.root().join(&asked.body)).expect("read a body");
        let path = format!("/models/{}/invoke", asked.model);
        let request = [bodies::post_accepting(
            &path,
            &asked.content_type,
            "application/json",
            &body,
        )];
        check_same_answer(&asked.what, &fast_api.address, longshore.address(), &request[0]);
        for connections in CONNECTIONS {
            let mut measured = [Vec::new(), Vec::new()];
            for _ in 0..TURNS {
                let servers = [
                    (fast_api.address.as_str(), fast_api.process.id()),
                    (longshore.address(), longshore.root()),
                ];
                for ((address, process), measured) in servers.into_iter().zip(&mut measured) {
                    measured.push(measure(address, process, &request, connections, MEASURE / TURNS));
                }
            }
            let [theirs, ours] = measured.map(Measured::merge);
            let (theirs_cpu, ours_cpu) = (theirs.cpu_each(), ours.cpu_each());
            row(&[
                &asked.what,
                &connections,
                &format!("{:.0}", theirs.per_second()),
                &format!("{:.0}", ours.per_second()),
                &ratio(ours.per_second(), theirs.per_second()),
                &time(theirs.percentile(50)),
                &time(ours.percentile(50)),
                &time(theirs_cpu),
                &time(ours_cpu),
                &ratio(theirs_cpu.as_secs_f64(), ours_cpu.as_secs_f64()),
            ]);
        }
    }
}

/// Checks that both servers return the same answer: the same first label, or nearly the same
/// numbers.
fn check_same_answer(what: &str, theirs: &str, ours: &str, request: &[u8]) {
    let answers = [theirs, ours].map(|address| {
        let body = Connection::open(address).expect_ok(request);
        serde_json::from_slice::<Value>(&body).expect("an answer in JSON")
    });
    let [theirs, ours] = &answers;
    assert_eq!(theirs[0]["label"], ours[0]["label"], "{what}");
    let numbers = |answer: &Value| {
        let mut all = Vec::new();
        collect(answer, &mut all);
        all
    };
    let (theirs, ours) = (numbers(theirs), numbers(ours));
    assert_eq!(theirs.len(), ours.len(), "{what}");
    let differ = theirs.iter().zip(&ours).any(|(one, other)| (one - other).abs() > NEAR);
    assert!(!differ, "{what}: {} and {}", answers[0], answers[1]);
}

fn collect(answer: &Value, into: &mut Vec<f64>) {
    match answer {
        Value::Number(number) => into.extend(number.as_f64()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        Value::Object(members) => members.values().for_each(|item| collect(item, into)),
        _ => {}
    }
}
