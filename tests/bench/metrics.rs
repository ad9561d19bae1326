//! The cost of the metrics: CPU time of a request with and without them, and a reading with ten
//! thousand loaded models, alone and beside requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::bodies;
use crate::server::{Models, Server};
use crate::support::networks;
use crate::table::{bytes, head, row, time};

/// The duration of a measurement.
const MEASURE: Duration = Duration::from_secs(3);
/// Rounds in which the two servers take turns.
const ROUNDS: usize = 7;
/// The width of the model's input.
const FEATURES: usize = 32;
const MODELS: usize = 10_000;
const READINGS: usize = 30;

pub fn run() {
    let models = Models::new();
    let model = models.write("mlp", &networks::mlp(&[FEATURES, 64, 8], 1));
    requests(&models, &model);
    println!();
    readings(&models, &model);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn requests(models: &Models, model: &std::path::Path) {
    let options: [&[&str]; 3] = [
        &["--metrics", "off"],
        &["--metrics", "on"],
        &["--metrics", "on", "--access-log", "1%"],
    ];
    let servers = options.map(|options| Server::start(models, options));
    for server in &servers {
        server.load("mlp", model);
    }
    println!(
        "Server CPU of a request in JSON, 1 row, with `--metrics off`, with `--metrics on`, and with `--access-log 1%` in \
         addition: medians of {ROUNDS} rounds in which the three take turns.\n"
    );
    head(&["connections", "off", "on", "difference", "and access log", "difference"]);
    let request = [bodies::json("mlp", 1, FEATURES)];
    for connections in [1, 16] {
        let mut cpu = options.map(|_| Vec::new());
        for round in 0..ROUNDS {
            eprintln!("  {connections} connections, round {round}");
            for (server, cpu) in servers.iter().zip(&mut cpu) {
                cpu.push(server.measure(&request, connections, MEASURE).cpu_each());
            }
        }
        let [off, on, logged] = cpu.map(median);
        let difference = |on: Duration| format!("{:+.1} %", 100.0 * (on.as_secs_f64() / off.as_secs_f64() - 1.0));
        row(&[
            &connections,
            &time(off),
            &time(on),
            &difference(on),
            &time(logged),
            &difference(logged),
        ]);
    }
}

fn readings(models: &Models, model: &std::path::Path) {
    let server = Server::start(models, &[]);
    let mut connection = server.connect();
    for index in 0..MODELS {
        let name = format!("tenant-{index}");
        server.load(&name, model);
        connection.expect_ok(&bodies::json(&name, 1, FEATURES));
    }
    let read = || -> (Duration, usize) {
        let mut connection = server.connect();
        let started = Instant::now();
        let page = connection.expect_ok(&bodies::bare("GET", "/metrics"));
        (started.elapsed(), page.len())
    };
    let (times, sizes): (Vec<_>, Vec<_>) = (0..READINGS).map(|_| read()).unzip();
    let request = [bodies::json("tenant-0", 1, FEATURES)];
    let alone = server.measure(&request, 1, MEASURE);
    let stop = AtomicBool::new(false);
    let beside = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                read();
                thread::sleep(Duration::from_millis(100));
            }
        });
        let beside = server.measure(&request, 1, MEASURE);
        stop.store(true, Ordering::Relaxed);
        beside
    });
    println!("{MODELS} loaded models, each with a request. A reading is `GET /metrics`.\n");
    head(&[
        "a reading, median",
        "slowest of 30",
        "its size",
        "a request's p99",
        "its p99 beside ten readings a second",
    ]);
    row(&[
        &time(median(times.clone())),
        &time(times.into_iter().max().unwrap_or_default()),
        &bytes(sizes.into_iter().max().unwrap_or_default() as f64),
        &time(alone.percentile(99)),
        &time(beside.percentile(99)),
    ]);
}
