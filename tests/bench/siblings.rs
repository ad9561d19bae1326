//! Measures models that have most of their weights in common, with and without sharing them: memory
//! for each model, the time of a load, and the latency of a warm model.
//!
//! Without sharing, fewer models are loaded, because they do not fit; memory is per model. The
//! latencies of both servers are measured in turns.

use std::fs;
use std::time::Duration;

use crate::bodies;
use crate::server::{Models, Server};
use crate::support::networks;
use crate::table::{bytes, head, median, ratio, row, time};

struct Family {
    name: &'static str,
    make: fn(u64) -> Vec<u8>,
    request: fn(&str) -> Vec<u8>,
    /// Number of models with sharing, and without.
    shared: usize,
    alone: usize,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "recommender over a table of 4.9 MB",
        make: |seed| networks::related_recommender(20_000, 64, 16, seed),
        request: |name| bodies::recommendation(name, 16),
        shared: 1_000,
        alone: 100,
    },
    Family {
        name: "head of 100 KB on an encoder of 23 MB",
        make: networks::related_encoder,
        request: tokens,
        shared: 500,
        alone: 20,
    },
];

/// Number of models that are loaded again.
const AGAIN: usize = 15;
/// The duration of one measurement of the warm model, and the number of measurements per server.
const MEASURE: Duration = Duration::from_millis(800);
const ROUNDS: usize = 7;

/// A server with the models of a family.
struct Loaded {
    server: Server,
    first: Duration,
    again: Duration,
    /// Reserved bytes, mapped ones included.
    reserved: f64,
    own: f64,
    maps: f64,
    count: usize,
}

pub fn run() {
    println!(
        "\"Alone\" is `--shared-constants 0`. Times are medians; a load again is of a model that is prepared. Own memory \
         is anonymous, and reserved memory includes mapped weights; both are for all models, and for each. The ratio is \
         that of the median latency of the warm model to the one without sharing, measured in turns.\n"
    );
    head(&[
        "models",
        "weights",
        "number",
        "first load",
        "load again",
        "own memory",
        "each",
        "reserved",
        "each",
        "maps each",
        "ratio of latency",
    ]);
    for family in FAMILIES {
        eprintln!("  {}", family.name);
        let models = Models::new();
        let shared = load(&family, &models, family.shared, &[]);
        let alone = load(&family, &models, family.alone, &["--shared-constants", "0"]);
        let requests = [(family.request)("0")];
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let ours = shared.server.measure(&requests, 1, MEASURE).percentile(50);
            let theirs = alone.server.measure(&requests, 1, MEASURE).percentile(50);
            ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
        }
        for (name, loaded, latency) in [("alone", &alone, 1.0), ("shared", &shared, median(&ratios))] {
            let count = loaded.count as f64;
            row(&[
                &family.name,
                &name,
                &loaded.count,
                &time(loaded.first),
                &time(loaded.again),
                &bytes(loaded.own),
                &bytes(loaded.own / count),
                &bytes(loaded.reserved),
                &bytes(loaded.reserved / count),
                &format!("{:.2}", loaded.maps / count),
                &ratio(latency, 1.0),
            ]);
        }
    }
}

fn load(family: &Family, models: &Models, count: usize, flags: &[&str]) -> Loaded {
    let server = Server::start(models, flags);
    let before = server.usage();
    let mut connection = server.connect();
    let mut first = Vec::new();
    for index in 0..count {
        let name = index.to_string();
        let folder = models.write(&name, &(family.make)(index as u64));
        first.push(server.load(&name, &folder));
        connection.expect_ok(&(family.request)(&name));
        if index >= AGAIN {
            // The disk has no room for all of them.
            fs::remove_dir_all(folder).expect("remove a model");
        }
        if index % 100 == 99 {
            eprintln!("    {} of {count}", index + 1);
        }
    }
    let usage = server.usage() - before;
    let reserved = server.metric("longshore_memory_reserved_bytes") + server.metric("longshore_memory_mapped_bytes");
    let mut again = Vec::new();
    for index in 0..AGAIN {
        let name = index.to_string();
        server.unload(&name);
        again.push(server.load(&name, &models.root().join(&name)));
        connection.expect_ok(&(family.request)(&name));
    }
    Loaded {
        server,
        first: median(&first),
        again: median(&again),
        reserved,
        own: usage.anon,
        maps: usage.maps,
        count,
    }
}

/// A request with a row of 32 tokens.
pub fn tokens(name: &str) -> Vec<u8> {
    let ids: Vec<String> = (0..32).map(|index| (index * 337 % 11_000).to_string()).collect();
    let body = format!("{{\"instances\": [[{}]]}}", ids.join(", "));
    bodies::post(&format!("/models/{name}/invoke"), "application/json", body.as_bytes())
}
