//! A full server: one unload makes room for one more model (MM-18). This also holds for a new
//! model that must be prepared first, although preparing takes several times the model's memory.

use serde_json::{Value, json};

use super::group::GroupServer;
use crate::harness::{Builder, Server, eventually};
use crate::support::networks;

/// Models of one size, each with its own content.
struct Kind {
    make: fn(u64) -> Vec<u8>,
    row: fn() -> Value,
}

const PERCEPTRON_4_MB: Kind = Kind {
    make: |seed| networks::mlp(&[512, 1_600, 128], seed),
    row: || json!(vec![0.5; 512]),
};

/// Nearly all of its weights are mapped.
const RECOMMENDER_1_MB: Kind = Kind {
    make: |seed| networks::recommender(4_000, 64, 2, seed),
    row: || json!({"item": 7, "x": [0.1, 0.2]}),
};

/// The memory that one unload frees lies between the allocations of other models.
const PERCEPTRON_11_KB: Kind = Kind {
    make: |seed| networks::mlp(&[32, 64, 8], seed),
    row: || json!(vec![0.5; 32]),
};

/// A server and its loaded models, the oldest first.
struct Filled<'a> {
    server: &'a Server,
    kind: &'a Kind,
    loaded: Vec<String>,
    next: u64,
}

impl Filled<'_> {
    /// Loads a new model, and invokes it if it fits.
    fn load(&mut self) -> u16 {
        let name = format!("m{}", self.next);
        let url = self.server.models().place_model(&name, &(self.kind.make)(self.next));
        self.next += 1;
        let response = self.server.load(&name, &url);
        match response.status {
            200 => {
                self.ask(&name);
                self.loaded.push(name);
            }
            507 => eprintln!("{}: {}", self.loaded.len(), response.message()),
            status => panic!("{status}: {}", response.message()),
        }
        response.status
    }

    fn ask(&self, name: &str) {
        let body = json!({"instances": [(self.kind.row)()]});
        self.server.invoke(name, &body).expect(200);
    }

    fn fill(&mut self) {
        while self.load() == 200 {}
    }

    fn unload_oldest(&mut self) {
        self.server.unload(&self.loaded.remove(0)).expect(200);
    }
}

#[track_caller]
fn assert_one_unload_makes_room(server: &Server, kind: &Kind) {
    const ROUNDS: usize = 6;
    let mut filled = Filled {
        server,
        kind,
        loaded: Vec::new(),
        next: 0,
    };
    for round in 0..ROUNDS {
        filled.fill();
        if round == 4 {
            eventually("the processes that prepare models have ended", || {
                server.process().preparing().is_empty()
            });
        }
        if round % 3 == 2 {
            for name in &filled.loaded {
                filled.ask(name);
            }
        }
        filled.unload_oldest();
        assert_eq!(filled.load(), 200, "round {round}, {} models", filled.loaded.len());
    }
    for name in &filled.loaded {
        filled.ask(name);
    }
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
}

/// Runs [`assert_one_unload_makes_room`] with a server in a control group.
fn in_a_control_group(limit: u64, kind: &Kind) {
    let Some(full) = GroupServer::start(limit) else { return };
    assert_one_unload_makes_room(&full.server, kind);
    full.assert_nothing_killed();
}

#[test]
fn one_unload_makes_room_for_one_new_model() {
    let server = Builder::multi().arguments(["--memory-limit", "400MiB"]).start();
    assert_one_unload_makes_room(&server, &PERCEPTRON_4_MB);
}

#[test]
fn one_unload_makes_room_for_one_more_tiny_model() {
    let server = Builder::multi().arguments(["--memory-limit", "72MiB"]).start();
    assert_one_unload_makes_room(&server, &PERCEPTRON_11_KB);
}

#[test]
fn one_unload_makes_room_in_a_control_group() {
    in_a_control_group(400 << 20, &PERCEPTRON_4_MB);
}

#[test]
fn one_unload_makes_room_for_mapped_weights_in_a_control_group() {
    in_a_control_group(160 << 20, &RECOMMENDER_1_MB);
}
