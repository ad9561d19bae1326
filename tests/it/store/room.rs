//! Memory: a model that does not fit evicts the least recently used one.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Store, listed, request};
use crate::harness::{FOREVER, Fault, Response, Rule, Server, eventually, fixture, in_parallel};
use crate::support::archive::archive_of;
use crate::support::networks;
use crate::support::random::Random;

/// A memory limit that holds about eight models of [`put_models`].
const LIMIT: &str = "64MiB";

/// The rows of each model's table, and the bytes of the table.
const ITEMS: usize = 1024;
const WEIGHTS: usize = 4 << 20;

fn name(index: usize) -> String {
    format!("segments/s{index:02}.tar.gz")
}

/// Models with 4 MiB of weights each.
fn put_models(store: &Store, count: usize) {
    let indices: Vec<usize> = (0..count).collect();
    in_parallel(2, &indices, |&index| {
        let model = networks::lookup(ITEMS, WEIGHTS / 4 / ITEMS, first(index));
        store.put(&name(index), &archive_of(&model));
    });
}

/// A number that is unique to each model: no two models ever give the same answer.
fn first(index: usize) -> f32 {
    (index * ITEMS) as f32
}

fn ask(server: &Server, index: usize, item: usize) -> Response {
    server.send(&request(&name(index), &json!({"instances": [item]})))
}

fn answer(index: usize, item: usize) -> Value {
    json!({"predictions": [[first(index) + item as f32]]})
}

#[track_caller]
fn assert_answers(server: &Server, index: usize) {
    let item = index * 7 % ITEMS;
    assert_eq!(
        ask(server, index, item).expect(200).json(),
        answer(index, item),
        "{index}"
    );
}

/// The models that `GET /models` lists.
fn loaded(server: &Server) -> Vec<usize> {
    let names = listed(server);
    (0..100).filter(|&index| names.contains(&name(index))).collect()
}

/// Draws from `count` models by Zipf's law: the n-th is drawn n times less often than the first.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Self {
        let shares = (1..=count).scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        });
        Self(shares.collect())
    }

    fn draw(&self, random: &mut Random) -> usize {
        let total = self.0[self.0.len() - 1];
        let at = random.next() as f64 / u64::MAX as f64 * total;
        self.0.partition_point(|&sum| sum < at).min(self.0.len() - 1)
    }
}

#[test]
fn forty_models_are_served_with_memory_for_eight() {
    const MODELS: usize = 40;
    const REQUESTS: usize = 1_000;
    let store = Store::new();
    put_models(&store, MODELS);
    let server = store.server().arguments(["--memory-limit", LIMIT]).start();
    let zipf = Zipf::new(MODELS);
    // A random permutation assigns the ranks to the names.
    let mut random = Random::new(1);
    let requests: Vec<(usize, usize)> = (0..REQUESTS)
        .map(|_| (zipf.draw(&mut random) * 7 % MODELS, random.below(ITEMS)))
        .collect();
    let most = AtomicUsize::new(0);
    in_parallel(4, &requests, |&(index, item)| {
        assert_eq!(ask(&server, index, item).expect(200).json(), answer(index, item));
        if item % 16 == 0 {
            most.fetch_max(server.metric("longshore_models_loaded") as usize, Ordering::Relaxed);
        }
    });
    let most = most.into_inner();
    assert!(
        (4..=14).contains(&most),
        "{most} were loaded at once: the memory limit is wrong"
    );
    let loads = server.count_in_log("model loaded");
    assert!(loads > most, "nothing was evicted");
    let hits = 100.0 - loads as f64 * 100.0 / REQUESTS as f64;
    println!("{REQUESTS} requests of {MODELS} models, at most {most} loaded at once: hit rate {hits:.1} %");
    // The server downloaded each model once: a model evicted from memory stays on disk.
    let downloads = store
        .proxy
        .requests()
        .iter()
        .filter(|seen| seen.sent > WEIGHTS as u64 / 2)
        .count();
    assert!(downloads <= MODELS, "{downloads}");
}

#[test]
fn the_least_recently_used_model_is_evicted() {
    let store = Store::new();
    put_models(&store, 20);
    let server = store.server().arguments(["--memory-limit", LIMIT]).start();
    let mut next = 0;
    // Loads models until one is evicted.
    while loaded(&server).len() == next {
        assert!(next < 20, "the limit has no effect");
        if next > 0 {
            // Model 1 stays the least recently used one.
            assert_answers(&server, 0);
        }
        assert_answers(&server, next);
        next += 1;
    }
    let now = loaded(&server);
    assert!(now.contains(&0) && now.contains(&(next - 1)), "{now:?}");
    assert!(!now.contains(&1), "{now:?}");
    // The evicted model loads again on demand.
    assert_answers(&server, 1);
}

#[test]
fn a_running_model_is_not_evicted() {
    let store = Store::new();
    put_models(&store, 12);
    let spin = fs::read(fixture("spin").join("model.onnx")).unwrap();
    store.put("spin.tar.gz", &archive_of(&spin));
    let server = store
        .server()
        .arguments(["--memory-limit", LIMIT, "--request-timeout", "1h"])
        .start();
    let mut running = server.connect();
    let forever = request("spin.tar.gz", &json!({"inputs": FOREVER}));
    running.write(&forever.to_bytes()).unwrap();
    server.wait_for_running(1);
    for index in 0..12 {
        assert_answers(&server, index);
    }
    assert!(listed(&server).contains(&"spin.tar.gz".to_owned()));
    drop(running);
    server.wait_for_running(0);
}

#[test]
fn without_eviction_a_load_into_full_memory_is_a_507_until_an_unload() {
    let store = Store::new();
    put_models(&store, 20);
    let server = store
        .server()
        .arguments(["--memory-limit", LIMIT, "--on-full", "refuse", "--negative-ttl", "1h"])
        .start();
    let refused = (0..20).find(|&index| {
        let response = ask(&server, index, 3);
        if response.status == 507 {
            assert!(response.message().contains("--memory-limit"), "{}", response.message());
            return true;
        }
        assert_eq!(response.expect(200).json(), answer(index, 3));
        false
    });
    let refused = refused.unwrap();
    assert!((4..=14).contains(&refused), "{refused} fit: the memory limit is wrong");
    println!("{refused} models fit");
    assert_eq!(loaded(&server), (0..refused).collect::<Vec<_>>());
    server.load(&name(refused), &store.url_of(&name(refused))).expect(507);
    // Loaded models still serve.
    (0..refused).for_each(|index| assert_answers(&server, index));
    server.unload(&name(0)).expect(200);
    // Succeeds at once: a lack of memory is not remembered as a failure of the model.
    assert_answers(&server, refused);
}

#[test]
fn a_load_request_evicts_like_an_invocation() {
    let store = Store::new();
    put_models(&store, 20);
    let server = store.server().arguments(["--memory-limit", LIMIT]).start();
    for index in 0..20 {
        server.load(&name(index), &store.url_of(&name(index))).expect(200);
    }
    let now = loaded(&server);
    assert!(now.len() < 20 && now.contains(&19), "{now:?}");
    assert_answers(&server, 0);
}

#[test]
fn a_model_larger_than_the_memory_limit_is_a_507_and_evicts_nothing() {
    let store = Store::new();
    put_models(&store, 2);
    let huge = networks::lookup(ITEMS, 24 * WEIGHTS / 4 / ITEMS, first(50));
    store.put(&name(50), &archive_of(&huge));
    let server = store.server().arguments(["--memory-limit", LIMIT]).start();
    (0..2).for_each(|index| assert_answers(&server, index));
    let message = ask(&server, 50, 0).expect(507).message();
    assert!(message.contains("--memory-limit"), "{message}");
    assert_eq!(loaded(&server), [0, 1]);
    (0..2).for_each(|index| assert_answers(&server, index));
}

#[test]
fn cold_requests_of_more_models_than_fit_are_all_answered() {
    // All at once: each load finds the memory reserved by models that are loading or running.
    const MODELS: usize = 30;
    let store = Store::new();
    put_models(&store, MODELS);
    let server = store.server().arguments(["--memory-limit", LIMIT]).start();
    store.proxy.rule(Rule::new(Fault::Hold));
    let mut asking: Vec<_> = (0..MODELS).map(|_| server.connect()).collect();
    for (index, connection) in asking.iter_mut().enumerate() {
        let request = request(&name(index), &json!({"instances": [index]}));
        connection.write(&request.to_bytes()).unwrap();
    }
    store.proxy.wait_for_held(2);
    store.proxy.release();
    for (index, connection) in asking.iter_mut().enumerate() {
        let response = connection.read_response("POST").unwrap();
        assert_eq!(response.expect(200).json(), answer(index, index));
    }
    eventually("the requests are over", || {
        server.metric("longshore_requests_running") == 0
    });
}
