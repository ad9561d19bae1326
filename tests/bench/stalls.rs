//! What a steady model notices of its neighbours: of loads and unloads that never stop, and of another tenant's flood.
//!
//! The steady model is measured in short windows, each kind of neighbour in turns. Neighbours take CPU time whatever they
//! do, and here the cores are shared with all clients; so there is a row for neighbours that only ask a small model, and
//! one for threads of the benchmark that just keep all cores busy. What a row is above those is the server's doing.
//!
//! Beside a flood the steady model is asked at a steady rate. A client that asks as fast as it is answered would ask less
//! often the longer it waits: of its requests about one in a hundred waits for a core, so that the 99th percentile would
//! be now one of those and now none.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::bodies;
use crate::client::{Measured, Work, beside};
use crate::server::{self, Models, Server};
use crate::support::networks;
use crate::table::{head, median, ratio, row, time};

const WINDOW: Duration = Duration::from_secs(1);
const ROUNDS: usize = 6;
/// Connections that load and unload.
const LOADERS: usize = 4;
/// Connections of the flood.
const FLOOD: usize = 16;
/// How often a second the steady model is asked beside a flood, at most.
const PACE: u32 = 500;
const FEATURES: usize = 32;

pub fn run() {
    beside_loads();
    println!();
    beside_a_flood();
}

/// Neighbours: what they are called, how many they are, and what each of them does.
type Neighbours<'a> = (String, usize, Box<dyn Fn(usize) -> Work<'a> + Sync + 'a>);

/// Does `ask` beside each of `neighbours` in turns and prints a row for each. Ratios are to the row `base`.
fn measure(what: &str, neighbours: &[Neighbours<'_>], base: usize, ask: impl Fn() -> Measured) {
    let mut measured: Vec<(Vec<Measured>, Vec<f64>)> = neighbours.iter().map(|_| Default::default()).collect();
    for round in 1..=ROUNDS {
        eprintln!("  {what}: {round} of {ROUNDS}");
        for ((_, count, work), (windows, rates)) in neighbours.iter().zip(&mut measured) {
            let (window, per_second) = beside(*count, &**work, &ask);
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
        "beside",
        "times/s",
        "p50",
        "ratio",
        "p99",
        "ratio",
        "slowest",
    ]);
}

fn nobody<'a>() -> Neighbours<'a> {
    ("nobody".to_owned(), 0, Box::new(|_| Box::new(|| ())))
}

/// Threads that keep all cores busy without asking for anything.
fn spinners<'a>(count: usize) -> Neighbours<'a> {
    let spin = || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
    };
    (format!("{count} that spin"), count, Box::new(move |_| Box::new(spin)))
}

/// Neighbours that ask over a connection each.
fn askers(server: &Server, name: String, count: usize, request: Vec<u8>) -> Neighbours<'_> {
    let work = move |_| -> Work<'_> {
        let (mut connection, request) = (server.connect(), request.clone());
        Box::new(move || {
            connection.expect_ok(&request);
        })
    };
    (name, count, Box::new(work))
}

/// Neighbours that load and unload a model each.
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

fn beside_loads() {
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
        "The steady model is an 11 KB perceptron asked over one connection. Its neighbours are {LOADERS} connections; a \
         load and its unload count once.\n"
    );
    print_head();
    let requests = [bodies::json("steady", 1, FEATURES)];
    measure(
        "11 KB",
        &[
            nobody(),
            askers(
                &server,
                format!("{LOADERS} that ask"),
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

fn beside_a_flood() {
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
        "A tenant floods a 15 MB residual network, which alone answers in {}. The steady model is asked {PACE} times a \
         second at most. Ratios are to {cores} threads that keep all cores busy: they ask for nothing.\n",
        time(alone.percentile(50))
    );
    print_head();
    for (what, request) in [
        ("11 KB", bodies::json("small", 1, FEATURES)),
        ("15 MB, like the flooded one", image("like-it")),
    ] {
        let flood = |count: usize| askers(&server, format!("{count} that flood"), count, image("flooded"));
        let neighbours = [nobody(), spinners(cores), flood(cores), flood(FLOOD)];
        measure(what, &neighbours, 1, || server.pace(&request, PACE, WINDOW));
    }
}
