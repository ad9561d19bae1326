//! Measures many small models in one process: the memory of each, and the effect of the others on a
//! warm one.
//!
//! A second server has a single model. At every count, measurements of the warm model alternate
//! between the two servers, so that changes of the machine affect both. The ratios compare the two.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::bodies;
use crate::client::{Connection, Measured};
use crate::process::Usage;
use crate::server::{self, Models, Server};
use crate::support::networks;
use crate::table::{bytes, head, median, ratio, row, time};

const COUNTS: [usize; 4] = [1, 100, 1_000, 10_000];
const FEATURES: usize = 32;
/// The number of concurrent loads.
const LOADERS: usize = 4;
/// The duration of one measurement of the warm model, and the number of measurements per server.
const MEASURE: Duration = Duration::from_millis(800);
const ROUNDS: usize = 7;

pub fn run() {
    let models = Models::new();
    let warm = models.write("0", &model(0));
    // This server starts first: pages that both servers map then count half in both measurements of
    // the other server's memory.
    let alone = Server::start(&models, &[]);
    alone.load("0", &warm);
    let crowded = Server::start(&models, &[]);
    let empty = crowded.usage();

    println!(
        "Perceptrons of 11 to 30 KB, all different. Memory, descriptors and maps are per model, above the empty server, \
         after every model has answered. The warm model gets requests over 1 connection and over 16; its ratios are to the \
         same model alone in another server, measured in turns. \"At random\" sends requests to all models over 16 \
         connections.\n"
    );
    head(&[
        "models",
        "own memory",
        "mapped",
        "proportional",
        "descriptors",
        "maps",
        "threads in all",
        "p50, 1 connection",
        "ratio",
        "CPU, 16 connections",
        "ratio",
        "at random: CPU",
        "ratio",
    ]);
    let mut loaded = 0;
    for count in COUNTS {
        eprintln!("  {count}");
        load(&crowded, &models, loaded..count);
        loaded = count;
        let requests: Vec<Vec<u8>> = (0..count).map(request).collect();
        request_each(&crowded, &requests);
        let usage = crowded.usage();
        let each = usage - empty;
        let each = |number: fn(Usage) -> f64| number(each) / count as f64;
        let one = alternate(&crowded, &alone, 1);
        let many = alternate(&crowded, &alone, 16);
        let random = crowded.measure(&requests, 16, MEASURE * ROUNDS as u32);
        let seconds = |duration: Duration| duration.as_secs_f64();
        let cpu_alone = seconds(many.alone.cpu_each());
        row(&[
            &count,
            &bytes(each(|usage| usage.anon)),
            &bytes(each(|usage| usage.file)),
            &bytes(each(|usage| usage.pss)),
            &format!("{:.2}", each(|usage| usage.descriptors)),
            &format!("{:.2}", each(|usage| usage.maps)),
            &usage.threads,
            &time(one.crowded.percentile(50)),
            &ratio(one.latency_ratio, 1.0),
            &time(many.crowded.cpu_each()),
            &ratio(many.cpu_ratio, 1.0),
            &time(random.cpu_each()),
            &ratio(seconds(random.cpu_each()), cpu_alone),
        ]);
    }
}

/// The measurements of the warm model on both servers.
struct Turns {
    crowded: Measured,
    alone: Measured,
    /// The median of the ratios per round: a machine that behaves differently in one round, for
    /// example in how it wakes its cores, affects both servers.
    latency_ratio: f64,
    cpu_ratio: f64,
}

fn alternate(crowded: &Server, alone: &Server, connections: usize) -> Turns {
    let requests = [request(0)];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut latency_ratios, mut cpu_ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let one = crowded.measure(&requests, connections, MEASURE);
        let other = alone.measure(&requests, connections, MEASURE);
        latency_ratios.push(one.percentile(50).as_secs_f64() / other.percentile(50).as_secs_f64());
        cpu_ratios.push(one.cpu_each().as_secs_f64() / other.cpu_each().as_secs_f64());
        ours.push(one);
        theirs.push(other);
    }
    Turns {
        crowded: Measured::merge(ours),
        alone: Measured::merge(theirs),
        latency_ratio: median(&latency_ratios),
        cpu_ratio: median(&cpu_ratios),
    }
}

/// A model of 11 to 30 KB.
fn model(index: usize) -> Vec<u8> {
    networks::mlp(&[FEATURES, 64 + index % 120, 8], index as u64)
}

fn request(index: usize) -> Vec<u8> {
    bodies::json(&index.to_string(), 1, FEATURES)
}

fn load(server: &Server, models: &Models, indices: std::ops::Range<usize>) {
    let next = AtomicUsize::new(indices.start);
    thread::scope(|scope| {
        for _ in 0..LOADERS {
            scope.spawn(|| {
                let mut connection = server.connect();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= indices.end {
                        return;
                    }
                    let name = index.to_string();
                    let folder = models.write(&name, &model(index));
                    connection.expect_ok(&server::load(&name, &folder));
                }
            });
        }
    });
}

fn request_each(server: &Server, requests: &[Vec<u8>]) {
    let mut connection: Connection = server.connect();
    for request in requests {
        // The first run of a model differs a little; the second is like all others.
        connection.expect_ok(request);
        connection.expect_ok(request);
    }
}
