//! Measures loads of models of three sizes: the time of the load, the time to the first answer, and
//! the memory.
//!
//! All models are different. "first" is content that the server has never seen and prepares.
//! "again" is the same content after an unload. "off" is the ONNX file without preparation. All
//! files are in the page cache.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bodies;
use crate::process::Usage;
use crate::server::{self, Models, Server};
use crate::support::networks;
use crate::table::{bytes, head, median, row, time};

/// The number of times that all models are unloaded and loaded again.
const AGAIN: usize = 3;

pub struct Size {
    pub name: &'static str,
    /// The number of different models, all loaded at the same time.
    pub count: usize,
    pub make: fn(u64) -> Vec<u8>,
    pub request: fn(&str) -> Vec<u8>,
}

pub const SIZES: [Size; 3] = [
    Size {
        name: "perceptron",
        count: 100,
        make: |seed| networks::mlp(&[32, 64, 8], seed),
        request: |name| bodies::json(name, 1, 32),
    },
    Size {
        name: "recommender",
        count: 10,
        make: |seed| networks::recommender(20_000, 64, 16, seed),
        request: |name| bodies::recommendation(name, 16),
    },
    Size {
        name: "residual network",
        count: 2,
        make: |seed| networks::convolutions(100 << 20, seed),
        request: |name| bodies::npy(name, &[1, 3, 64, 64]),
    },
];

/// The measurements of loading all models of a size.
#[derive(Default)]
struct Loads {
    loads: Vec<Duration>,
    /// The times from the start of the load to the end of the first response.
    answers: Vec<Duration>,
    /// The usage of all models together, after each has answered once.
    usage: Usage,
}

pub fn run() {
    let can_prepare = server::has_flag("--prepare");
    if !can_prepare {
        eprintln!("  this binary has no --prepare: only \"off\" is measured");
    }
    println!(
        "Times are medians. Memory is per model after it has answered: the process's own (anonymous), and mapped from \
         files.\n"
    );
    head(&[
        "model",
        "file",
        "load",
        "`POST /models`",
        "load to first answer",
        "own memory",
        "mapped",
    ]);
    for size in SIZES {
        eprintln!("  {}", size.name);
        let models = Models::new();
        let mut bytes_each = 0;
        let folders: Vec<PathBuf> = (0..size.count)
            .map(|index| {
                let model = (size.make)(index as u64);
                bytes_each = model.len();
                models.write(&index.to_string(), &model)
            })
            .collect();
        let show = |what: &str, loads: &Loads| {
            let each = |total: f64| bytes(total / size.count as f64);
            row(&[
                &size.name,
                &bytes(bytes_each as f64),
                &what,
                &time(median(&loads.loads)),
                &time(median(&loads.answers)),
                &each(loads.usage.anon),
                &each(loads.usage.file),
            ]);
        };
        let flags: &[&str] = if can_prepare { &["--prepare", "off"] } else { &[] };
        let server = Server::start(&models, flags);
        // Warms up ONNX Runtime; not measured.
        load_all(&server, &size, &folders[..1]);
        show("off", &load_again(&server, &size, &folders));
        drop(server);
        if can_prepare {
            let server = Server::start(&models, &["--prepare", "auto"]);
            show("first", &load_all(&server, &size, &folders));
            show("again", &load_again(&server, &size, &folders));
        }
    }
}

/// Loads all models, sends a request to each, and unloads all.
fn load_all(server: &Server, size: &Size, folders: &[PathBuf]) -> Loads {
    let before = server.usage();
    let mut loads = Loads::default();
    let mut connection = server.connect();
    for (index, folder) in folders.iter().enumerate() {
        let name = index.to_string();
        let request = (size.request)(&name);
        let started = Instant::now();
        loads.loads.push(server.load(&name, folder));
        connection.expect_ok(&request);
        loads.answers.push(started.elapsed());
    }
    loads.usage = server.usage() - before;
    for index in 0..folders.len() {
        server.unload(&index.to_string());
    }
    loads
}

/// Repeats [`load_all`] several times. The memory is that of the last time.
fn load_again(server: &Server, size: &Size, folders: &[PathBuf]) -> Loads {
    let mut all = Loads::default();
    for _ in 0..AGAIN {
        let loads = load_all(server, size, folders);
        all.loads.extend(loads.loads);
        all.answers.extend(loads.answers);
        all.usage = loads.usage;
    }
    all
}
