//! Measures the effect of neighbours on a steady model: of continuous loads and unloads, and of a
//! flood of requests from another tenant.
//!
//! The measurements are short windows that alternate between the kinds of neighbours. Neighbours
//! always take CPU time, and all clients share the cores. So one row has neighbours that only send
//! requests to a small model, and one row has threads of the benchmark that only keep all cores
//! busy. The server is responsible for the difference to those rows.
//!
//! During a flood, the steady model gets requests at a fixed rate. A client in a closed loop would
//! send fewer requests the longer it waits: about one in a hundred waits for a core, so the 99th
//! percentile would be such a request in some runs and not in others.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::bodies;
use crate::client::{Measured, Work, measure_during};
use crate::server::{self, Models, Server};
use crate::support::networks;
use crate::table::{head, median, ratio, row, time};

const WINDOW: Duration = Duration::from_secs(1);
const ROUNDS: usize = 6;
/// The number of connections that load and unload.
const LOADERS: usize = 4;
/// The number of connections of the flood.
const FLOOD: usize = 16;
/// The maximum rate of requests to the steady model during a flood, per second.
const RATE: u32 = 500;
const FEATURES: usize = 32;

pub fn run() {
    during_loads();
    println!();
    during_a_flood();
}

/// The name of the neighbours, their number, and the action of each.
type Neighbours<'a> = (String, usize, Box<dyn Fn(usize) -> Work<'a> + Sync + 'a>);

/// Runs `drive` during each of `neighbours` in turns and prints a row for each. Ratios are to the
/// row `base`.
fn measure(what: &str, neighbours: &[Neighbours<'_>], base: usize, drive: impl Fn() -> Measured) {
    let mut measured: Vec<(Vec<Measured>, Vec<f64>)> = neighbours.iter().map(|_| Default::default()).collect();
    for round in 1..=ROUNDS {
        eprintln!("  {what}: {round} of {ROUNDS}");
        for ((_, count, work), (windows, rates)) in neighbours.iter().zip(&mut measured) {
            let (window, per_second) = measure_during(*count, &**work, &drive);
            windows.push(window);
            rates.push(per_second);
        }
    }
    let measured: Vec<(Measured, f64)> = measured
        .into_iter()
        .map(|(windows, rates)| (Measured::merge(windows), median(&rates)))
        .collect();
    let seconds = |percent, measured: &Measured| measured.percentile(percent).as_secs_f64();
    for ((name, ..), (now, rate)) in neighbours.iter().zip(&measured) {
        let base = &measured[base].0;
        row(&[
            &what,
            name,
            &format!("{rate:.0}"),
            &time(now.percentile(50)),
            &ratio(seconds(50, now), seconds(50, base)),
            &time(now.percentile(99)),
            &ratio(seconds(99, now), seconds(99, base)),
            &time(now.slowest()),
        ]);
    }
}

fn print_head() {
    head(&[
        "steady model",
        "neighbours",
        "times/s",
        "p50",
        "ratio",
        "p99",
        "ratio",
        "slowest",
    ]);
}

fn no_neighbours<'a>() -> Neighbours<'a> {
    ("none".to_owned(), 0, Box::new(|_| Box::new(|| ())))
}

/// Threads that keep all cores busy without requests.
fn spinners<'a>(count: usize) -> Neighbours<'a> {
    let spin = || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
    };
    (format!("{count} that spin"), count, Box::new(move |_| Box::new(spin)))
}

/// Neighbours that send requests, each over its own connection.
fn askers(server: &Server, name: String, count: usize, request: Vec<u8>) -> Neighbours<'_> {
    let work = move |_| -> Work<'_> {
        let (mut connection, request) = (server.connect(), request.clone());
        Box::new(move || {
            connection.expect_ok(&request);
        })
    };
    (name, count, Box::new(work))
}

/// Neighbours that each load and unload a model.
fn loaders<'a>(server: &'a Server, what: &str, folders: Vec<PathBuf>) -> Neighbours<'a> {
    let count = folders.len();
    let work = move |loader: usize| -> Work<'_> {
        let name = format!("come-and-go-{loader}");
        let (load, unload) = (server::load(&name, &folders[loader]), server::unload(&name));
        let mut connection = server.connect();
        Box::new(move || {
            connection.expect_ok(&load);
            connection.expect_ok(&unload);
        })
    };
    (format!("{count} that load and unload, {what}"), count, Box::new(work))
}

fn during_loads() {
    let models = Models::new();
    let steady = models.write("steady", &networks::mlp(&[FEATURES, 64, 8], 0));
    let other = models.write("other", &networks::mlp(&[FEATURES, 64, 8], 1));
    let small: Vec<_> = (0..LOADERS)
        .map(|loader| {
            models.write(
                &format!("small-{loader}"),
                &networks::mlp(&[FEATURES, 100, 8], 2 + loader as u64),
            )
        })
        .collect();
    let large: Vec<_> = (0..LOADERS)
        .map(|loader| {
            let model = networks::recommender(20_000, 64, 16, loader as u64);
            models.write(&format!("large-{loader}"), &model)
        })
        .collect();
    let server = Server::start(&models, &[]);
    server.load("steady", &steady);
    server.load("other", &other);
    println!(
        "The steady model is an 11 KB perceptron with requests over one connection. Its neighbours are {LOADERS} \
         connections; a load and its unload count once.\n"
    );
    print_head();
    let requests = [bodies::json("steady", 1, FEATURES)];
    measure(
        "11 KB",
        &[
            no_neighbours(),
            askers(
                &server,
                format!("{LOADERS} that send requests"),
                LOADERS,
                bodies::json("other", 1, FEATURES),
            ),
            loaders(&server, "16 KB", small),
            loaders(&server, "5 MB", large),
        ],
        0,
        || server.measure(&requests, 1, WINDOW),
    );
}

fn during_a_flood() {
    let models = Models::new();
    let small = models.write("small", &networks::mlp(&[FEATURES, 64, 8], 0));
    let server = Server::start(&models, &[]);
    server.load("small", &small);
    for (seed, name) in ["flooded", "like-it"].into_iter().enumerate() {
        let folder = models.write(name, &networks::convolutions(15 << 20, seed as u64));
        server.load(name, &folder);
    }
    let image = |name| bodies::npy(name, &[1, 3, 64, 64]);
    let alone = server.measure(&[image("flooded")], 1, WINDOW);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "A tenant floods a 15 MB residual network, which alone answers in {}. The steady model gets at most {RATE} \
         requests per second. Ratios are to {cores} threads that keep all cores busy without requests.\n",
        time(alone.percentile(50))
    );
    print_head();
    for (what, request) in [
        ("11 KB", bodies::json("small", 1, FEATURES)),
        ("15 MB, like the flooded one", image("like-it")),
    ] {
        let flood = |count: usize| askers(&server, format!("{count} that flood"), count, image("flooded"));
        let neighbours = [no_neighbours(), spinners(cores), flood(cores), flood(FLOOD)];
        measure(what, &neighbours, 1, || server.drive_at_rate(&request, RATE, WINDOW));
    }
}
