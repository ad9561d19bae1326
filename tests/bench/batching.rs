//! Measures throughput with and without batching: joining the requests that wait for the same
//! model.

use std::time::Duration;

use crate::bodies;
use crate::client::Measured;
use crate::server::{self, Models, Server};
use crate::support::networks;
use crate::table::{head, ratio, row, time};

const CONNECTIONS: [usize; 2] = [1, 16];
const MEASURE: Duration = Duration::from_secs(1);
/// The number of measurements of each server. The servers alternate.
const ROUNDS: usize = 4;

pub fn run() {
    let can_batch = server::has_flag("--max-batch");
    if !can_batch {
        eprintln!("  this binary has no --max-batch: both servers are the same");
    }
    let off: &[&str] = if can_batch { &["--max-batch", "1"] } else { &[] };
    println!("One row per request, as npy. The measurements of the servers alternate; off is `--max-batch 1`.\n");
    head(&[
        "model",
        "connections",
        "requests/s, off",
        "on",
        "ratio",
        "p50, off",
        "on",
        "p99, off",
        "on",
        "CPU, off",
        "on",
    ]);
    for (what, widths) in networks::BATCHED {
        eprintln!("  {what}");
        let models = Models::new();
        let folder = models.write("mlp", &networks::mlp(widths, 1));
        let servers = [Server::start(&models, off), Server::start(&models, &[])];
        for server in &servers {
            server.load("mlp", &folder);
        }
        let requests = [bodies::npy("mlp", &[1, widths[0]])];
        for connections in CONNECTIONS {
            let mut measured = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (server, measured) in servers.iter().zip(&mut measured) {
                    measured.push(server.measure(&requests, connections, MEASURE));
                }
            }
            let [off, on] = measured.map(Measured::merge);
            row(&[
                &what,
                &connections,
                &format!("{:.0}", off.per_second()),
                &format!("{:.0}", on.per_second()),
                &ratio(on.per_second(), off.per_second()),
                &time(off.percentile(50)),
                &time(on.percentile(50)),
                &time(off.percentile(99)),
                &time(on.percentile(99)),
                &time(off.cpu_each()),
                &time(on.cpu_each()),
            ]);
        }
    }
}
