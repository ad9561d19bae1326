//! Measures large models whose weights are mapped, against the same models with weights on the heap
//! as the library loads them (`--prepare off`), and against the library without a server.
//!
//! Servers and library are measured in turns. Ratios are medians of the ratios of each round.

use std::time::Duration;

use crate::bare_library::{BareLibrary, BareRuns, Setting};
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

/// The results of one round for one of the measured ways to run a model.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    p50: f64,
    cpu: f64,
}

pub fn run() {
    println!(
        "Each request is one run (`--max-batch 1`). The bare library is ONNX Runtime in Python without a server: one \
         session for all callers, whose runs use all cores or one thread each. Ratios are of the requests a second: to \
         weights on the heap, and to the better setting of the bare library.\n"
    );
    head(&[
        "model",
        "weights",
        "connections",
        "p50",
        "requests/s",
        "to the heap",
        "to the library",
        "CPU",
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
        let mut library = BareLibrary::open(&folder);
        let request = [(giant.request)("giant")];
        for connections in CONNECTIONS {
            let mut served = FORMS.map(|_| Vec::new());
            let mut bare = Setting::ALL.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for (server, served) in servers.iter().zip(&mut served) {
                    let measured = server.measure(&request, connections, MEASURE);
                    served.push(Round {
                        per_second: measured.per_second(),
                        p50: measured.percentile(50).as_secs_f64(),
                        cpu: measured.cpu_each().as_secs_f64(),
                    });
                }
                for (setting, bare) in Setting::ALL.into_iter().zip(&mut bare) {
                    let BareRuns { per_second, p50, cpu } = library.measure(setting, connections, MEASURE);
                    bare.push(Round { per_second, p50, cpu });
                }
            }
            let [all, single] = &bare;
            let best = if of(all, |round| round.per_second) > of(single, |round| round.per_second) {
                all
            } else {
                single
            };
            let names = FORMS.map(|(name, _)| name).into_iter();
            let names = names.chain(["bare library, all cores", "bare library, one thread each"]);
            for (name, rounds) in names.zip(served.iter().chain(&bare)) {
                let to = |other: &[Round]| {
                    let pairs = rounds.iter().zip(other);
                    let ratios: Vec<f64> = pairs.map(|(one, other)| one.per_second / other.per_second).collect();
                    ratio(median(&ratios), 1.0)
                };
                row(&[
                    &giant.name,
                    &name,
                    &connections,
                    &time(Duration::from_secs_f64(of(rounds, |round| round.p50))),
                    &format!("{:.1}", of(rounds, |round| round.per_second)),
                    &to(&served[0]),
                    &to(best),
                    &time(Duration::from_secs_f64(of(rounds, |round| round.cpu))),
                ]);
            }
        }
    }
}

/// The median of one number over the rounds.
fn of(rounds: &[Round], number: fn(&Round) -> f64) -> f64 {
    let values: Vec<f64> = rounds.iter().map(number).collect();
    median(&values)
}
