//! What serving costs over the bare model: requests per second, latency, and the server's CPU time per request, beside
//! the same model run in a loop in this process. `scripts/bench` runs it.
//!
//! Everything is measured in one run on one machine, because only ratios mean anything: the clients share the cores
//! with the server, so requests per second are a lower bound, while CPU time per request is the server's own.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use longshore::engine::{Engine, Settings};
use longshore::tensor::Tensor;

/// How long each line of the table is measured.
const MEASURE: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
/// The width of the `mlp` model's input.
const FEATURES: usize = 32;

fn main() {
    // Before any thread: see `disable_telemetry`.
    assert!(longshore::engine::disable_telemetry(), "telemetry is off");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let engine = Engine::start(&Settings {
        library: None,
        gpu: None,
        threads: 1,
        load_threads: 1,
        queue: 1,
        memory: None,
        memory_reserve: 0,
        mapped_percent: 100,
        http_threads: 1,
        prepare: None,
        bad_model_ttl: Duration::ZERO,
        max_batch: 1,
    })
    .expect("start the engine");
    let bare: Vec<(usize, f64)> = [1, 32]
        .into_iter()
        .map(|rows| (rows, bare_run(&engine, &fixtures.join("mlp"), rows)))
        .collect();
    let server = Server::start(&fixtures);
    server.load("mlp", &fixtures.join("mlp"));

    println!("model: {FEATURES}-64-8 MLP, 11 KB; bare run: CPU time of ONNX Runtime's Run in a loop, one thread\n");
    println!("| request | connections | requests/s | p50 us | p99 us | server CPU us/request | bare run us | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    measure(&server, "GET /ping, no model", &ping(), None);
    for (rows, bare_us) in bare {
        let what = if rows == 1 { "1 row" } else { "32 rows" };
        measure(&server, &format!("JSON, {what}"), &json(rows), Some(bare_us));
        measure(&server, &format!("npy, {what}"), &npy(rows), Some(bare_us));
    }
}

/// Prints a line for 1 connection and one for 16.
fn measure(server: &Server, what: &str, request: &[u8], bare_us: Option<f64>) {
    for connections in [1, 16] {
        server.drive(request, connections, WARM_UP);
        let cpu = server.cpu();
        let latencies = server.drive(request, connections, MEASURE);
        let cpu_us = (server.cpu() - cpu).as_secs_f64() * 1e6 / latencies.len() as f64;
        let (bare, ratio) = bare_us.map_or_else(Default::default, |bare_us| {
            (format!("{bare_us:.1}"), format!("{:.1}", cpu_us / bare_us))
        });
        println!(
            "| {what} | {connections} | {:.0} | {:.0} | {:.0} | {cpu_us:.1} | {bare} | {ratio} |",
            latencies.len() as f64 / MEASURE.as_secs_f64(),
            percentile(&latencies, 50),
            percentile(&latencies, 99),
        );
    }
}

/// What HTTP alone costs.
fn ping() -> Vec<u8> {
    b"GET /ping HTTP/1.1\r\nHost: longshore\r\n\r\n".to_vec()
}

/// CPU microseconds of one run of the model, on one thread.
fn bare_run(engine: &Engine, model: &Path, rows: usize) -> f64 {
    const RUNS: u32 = 50_000;
    let model = actix_web::rt::System::new().block_on(async { engine.load(model).await.expect("load the model") });
    let values = vec![0.5f32; rows * FEATURES];
    let inputs = [Tensor::from_vec(vec![rows, FEATURES], values).expect("a tensor")];
    let run = || model.run(&inputs, None).expect("run");
    for _ in 0..RUNS / 10 {
        run();
    }
    let before = thread_cpu();
    for _ in 0..RUNS {
        run();
    }
    (thread_cpu() - before).as_secs_f64() * 1e6 / f64::from(RUNS)
}

/// CPU time of the calling thread: the first field of schedstat, in nanoseconds.
fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("read schedstat");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(models: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args([
                "serve",
                // What is measured is the process that serves.
                "--supervise=false",
                "--multi-model",
                "--bind",
                "127.0.0.1",
                "--port",
                "0",
                "--models-root",
            ])
            .arg(models)
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the server");
        let mut lines = BufReader::new(process.stderr.take().expect("its log")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("address=")?.1.split(' ').next()?.to_owned()))
            .expect("the server's address");
        // Read on, so that the server never waits for us to read its log.
        thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    fn load(&self, name: &str, model: &Path) {
        let body = format!(r#"{{"model_name": "{name}", "url": "{}"}}"#, model.display());
        let request = request("/models", "application/json", body.as_bytes());
        let mut connection = Connection::open(&self.address);
        connection.ask(&request);
    }

    /// Asks over `connections` connections, each as fast as it is answered; returns all latencies, sorted.
    fn drive(&self, request: &[u8], connections: usize, time: Duration) -> Vec<Duration> {
        let mut all: Vec<Duration> = thread::scope(|scope| {
            let clients: Vec<_> = (0..connections)
                .map(|_| {
                    scope.spawn(|| {
                        let mut connection = Connection::open(&self.address);
                        let mut latencies = Vec::new();
                        let started = Instant::now();
                        while started.elapsed() < time {
                            let asked = Instant::now();
                            connection.ask(request);
                            latencies.push(asked.elapsed());
                        }
                        latencies
                    })
                })
                .collect();
            clients
                .into_iter()
                .flat_map(|client| client.join().expect("a client"))
                .collect()
        });
        all.sort_unstable();
        all
    }

    /// CPU time of all of the server's threads: the sum over their schedstats.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("its threads");
        let nanoseconds = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("set nodelay");
        Self(BufReader::new(stream))
    }

    /// Sends a request and reads its answer, which must be a 200.
    fn ask(&mut self, request: &[u8]) {
        self.0.get_mut().write_all(request).expect("send");
        let mut length = 0;
        let mut line = String::new();
        self.0.read_line(&mut line).expect("read");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line.trim_end() != "" {
            line.clear();
            self.0.read_line(&mut line).expect("read");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim_end().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("read");
    }
}

fn request(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: longshore\r\nContent-Type: {content_type}\r\nAccept: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A value with as many digits as real features have.
fn feature(index: usize) -> f32 {
    (index as f32 * 0.37).sin()
}

fn json(rows: usize) -> Vec<u8> {
    let mut body = String::from("{\"instances\": [");
    for row in 0..rows {
        let values: Vec<String> = (0..FEATURES).map(|i| feature(row * FEATURES + i).to_string()).collect();
        let separator = if row == 0 { "" } else { ", " };
        let _ = write!(body, "{separator}[{}]", values.join(", "));
    }
    body.push_str("]}");
    request("/models/mlp/invoke", "application/json", body.as_bytes())
}

fn npy(rows: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {FEATURES}), }}");
    let unpadded = 10 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut body = b"\x93NUMPY\x01\x00".to_vec();
    body.extend(u16::try_from(header.len()).expect("a short header").to_le_bytes());
    body.extend(header.bytes());
    body.extend((0..rows * FEATURES).flat_map(|i| feature(i).to_le_bytes()));
    request("/models/mlp/invoke", "application/x-npy", &body)
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}
