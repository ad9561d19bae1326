//! Loads models until the server refuses one. Reports how full the server is then, and whether all
//! loaded models still answer.

use std::time::Duration;

use crate::bodies;
use crate::cgroup::Cgroup;
use crate::server::{self, Models, Server};
use crate::support::networks;
use crate::table::{bytes, head, row};

const LIMIT: u64 = 768 << 20;
/// More models than fit.
const MOST: usize = 5_000;
/// The status of a load for which there is no memory.
const NO_ROOM: u16 = 507;

struct ModelKind {
    name: &'static str,
    make: fn(u64) -> Vec<u8>,
    request: fn(&str) -> Vec<u8>,
}

const KINDS: [ModelKind; 2] = [
    ModelKind {
        name: "recommender, 1 MB",
        make: |seed| networks::recommender(4_000, 64, 16, seed),
        request: |name| bodies::recommendation(name, 16),
    },
    ModelKind {
        name: "perceptron, 4 MB",
        make: |seed| networks::mlp(&[512, 1_600, 128], seed),
        request: |name| bodies::npy(name, &[1, 512]),
    },
];

pub fn run() {
    let limit_text = format!("{}MiB", LIMIT >> 20);
    let group = Cgroup::new(LIMIT);
    let bound = group.as_ref().map_or(
        "`--memory-limit` (this machine allows no control group)",
        Cgroup::describe,
    );
    drop(group);
    println!(
        "The benchmark loads different models and sends one request to each, until the first 507; the limit is {limit_text}, \
         set by {bound}. Then it sends a request to all models again, unloads one, and retries the refused load. \"Used\" is \
         memory that the system cannot reclaim: that of all processes without cached files. Mapped weights are cached files \
         that runs read, so they must fit in addition.\n"
    );
    head(&[
        "models",
        "taken",
        "used",
        "mapped weights",
        "together, of the limit",
        "with all cached files",
        "still answer",
        "retry after an unload",
        "killed",
    ]);
    for kind in KINDS {
        eprintln!("  {}", kind.name);
        fill(&kind, &limit_text);
    }
}

fn fill(kind: &ModelKind, limit_text: &str) {
    let models = Models::new();
    let group = Cgroup::new(LIMIT);
    let mut server = match &group {
        Some(group) => Server::start_in(Some(group), &models, &[]),
        None => Server::start(&models, &["--memory-limit", limit_text]),
    };
    let mut connection = server.connect();
    let refused = (0..MOST).find_map(|index| {
        let name = index.to_string();
        let folder = models.write(&name, &(kind.make)(index as u64));
        let (status, body) = connection.send(&server::load(&name, &folder));
        match status {
            200 => {
                connection.expect_ok(&(kind.request)(&name));
                None
            }
            NO_ROOM => {
                eprintln!("    refused: {}", String::from_utf8_lossy(&body));
                Some((index, folder))
            }
            other => panic!(
                "the response to a load has status {other}: {}",
                String::from_utf8_lossy(&body)
            ),
        }
    });
    let (taken, folder) = refused.expect("the server refuses a load");
    // The server has released the memory of the refused load before its response, but the system's
    // counters lag a little.
    std::thread::sleep(Duration::from_millis(500));
    let own = server.usage();
    let (used, with_files) = match &group {
        Some(group) => {
            let (all, files) = group.usage();
            (all - files, all)
        }
        None => (own.anon, own.anon + own.file),
    };
    let mapped = server.metric("longshore_memory_mapped_bytes");
    let answers = (0..taken)
        .filter(|index| connection.send(&(kind.request)(&index.to_string())).0 == 200)
        .count();
    connection.expect_ok(&server::unload("0"));
    let (retry, body) = connection.send(&server::load("again", &folder));
    if retry != 200 {
        eprintln!("    refused again: {}", String::from_utf8_lossy(&body));
    }
    let percent = |part: f64, whole: f64| format!("{:.1} %", 100.0 * part / whole);
    let killed = group.as_ref().map_or(0, Cgroup::kills) > 0 || !server.is_alive();
    row(&[
        &kind.name,
        &taken,
        &bytes(used),
        &bytes(mapped),
        &percent(used + mapped, LIMIT as f64),
        &percent(with_files, LIMIT as f64),
        &format!("{answers} of {taken}"),
        &retry,
        &if killed { "yes" } else { "no" },
    ]);
    // The server must end before its group is removed.
    drop(server);
}
