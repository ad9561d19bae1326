//! Measures large models whose weights are mapped, against the same models with weights on the heap
//! as the library loads them (`--prepare off`).
//!
//! Servers are measured in turns. Ratios are medians of the ratios of each round.

use std::time::Duration;

use crate::bodies;
use crate::server::{Models, Server};
use crate::siblings::tokens;
use crate::support::networks;
use crate::table::{head, median, ratio, row, time};

struct Giant {
    name: &'static str,
    make: fn() -> Vec<u8>,
    request: fn(&str) -> Vec<u8>,
}

const GIANTS: [Giant; 3] = [
    Giant {
        name: "residual network, 99 MB",
        make: || networks::convolutions(100 << 20, 1),
        request: |name| bodies::npy(name, &[1, 3, 64, 64]),
    },
    Giant {
        name: "perceptron, 60 MB",
        make: || networks::mlp(&[256, 3_800, 3_700, 16], 1),
        request: |name| bodies::npy(name, &[1, 256]),
    },
    Giant {
        name: "encoder, 23 MB",
        make: || networks::related_encoder(1),
        request: tokens,
    },
];

/// The forms: weights on the heap, mapped inside the model's file, mapped from a file of constants.
const FORMS: [(&str, &[&str]); 3] = [
    ("on the heap", &["--prepare", "off", "--max-batch", "1"]),
    ("in the model's file", &["--shared-constants", "0", "--max-batch", "1"]),
    ("in a file of constants", &["--max-batch", "1"]),
];

const CONNECTIONS: [usize; 4] = [1, 2, 4, 8];
const MEASURE: Duration = Duration::from_millis(1_500);
const ROUNDS: usize = 5;

pub fn run() {
    println!(
        "Each request is one run (`--max-batch 1`). Ratios are to weights on the heap: of the requests a second, and of \
         the server's CPU time for a request.\n"
    );
    head(&[
        "model",
        "weights",
        "connections",
        "p50",
        "requests/s",
        "ratio",
        "CPU",
        "ratio",
    ]);
    for giant in GIANTS {
        eprintln!("  {}", giant.name);
        let models = Models::new();
        let folder = models.write("giant", &(giant.make)());
        let servers = FORMS.map(|(_, flags)| {
            let server = Server::start(&models, flags);
            server.load("giant", &folder);
            server
        });
        let request = [(giant.request)("giant")];
        for connections in CONNECTIONS {
            let mut measured = FORMS.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for (server, measured) in servers.iter().zip(&mut measured) {
                    measured.push(server.measure(&request, connections, MEASURE));
                }
            }
            for ((name, _), ours) in FORMS.iter().zip(&measured) {
                let of = |number: fn(&crate::client::Measured) -> f64| {
                    let values: Vec<f64> = ours.iter().map(number).collect();
                    let pairs = ours.iter().zip(&measured[0]);
                    let ratios: Vec<f64> = pairs.map(|(one, heap)| number(one) / number(heap)).collect();
                    (median(&values), median(&ratios))
                };
                let (per_second, per_second_ratio) = of(|measured| measured.per_second());
                let (cpu, cpu_ratio) = of(|measured| measured.cpu_each().as_secs_f64());
                let (p50, _) = of(|measured| measured.percentile(50).as_secs_f64());
                row(&[
                    &giant.name,
                    name,
                    &connections,
                    &time(Duration::from_secs_f64(p50)),
                    &format!("{per_second:.1}"),
                    &ratio(per_second_ratio, 1.0),
                    &time(Duration::from_secs_f64(cpu)),
                    &ratio(cpu_ratio, 1.0),
                ]);
            }
        }
    }
}
