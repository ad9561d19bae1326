//! A fleet: servers with one model store behind a real HAProxy with the configuration of
//! `container/deploy/fleet`. `scripts/test` installs HAProxy; elsewhere these tests are skipped.

mod balancer;
mod haproxy;
mod manifests;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use longshore::wire::ModelPath;
use serde_json::json;

use self::balancer::{Fleet, is_skipped};
use crate::harness::{A_SECOND, Models, Request, Stop, eventually};

const TARGET_MODEL: &str = "X-Amzn-SageMaker-Target-Model";

/// A store with models `y = factor * x`. The names have a slash, as most names in buckets have.
fn store(count: u8) -> (Models, BTreeMap<String, f32>) {
    let models = Models::new();
    let names = (1..=count).map(|index| {
        models.place_scale(&format!("m{index}"), f32::from(index));
        (format!("m{index}/model"), f32::from(index))
    });
    let names = names.collect();
    (models, names)
}

fn by_header(name: &str) -> Request {
    Request::post("/invocations")
        .header(TARGET_MODEL, name)
        .json(&json!({"instances": [4, -0.5]}))
}

/// The server of each model.
#[track_caller]
fn owners(fleet: &Fleet, names: &BTreeMap<String, f32>) -> BTreeMap<String, usize> {
    let owner = |(name, factor): (&String, &f32)| {
        let (response, server) = fleet.send(&by_header(name));
        let expected = json!({"predictions": [factor * 4.0, factor * -0.5]});
        assert_eq!(response.expect(200).json(), expected, "{name}");
        (name.clone(), server.unwrap())
    };
    names.iter().map(owner).collect()
}

#[test]
fn one_server_gets_all_requests_for_a_model_by_header_and_by_path() {
    if is_skipped() {
        return;
    }
    let (models, mut names) = store(12);
    for (index, name) in (20..).zip(["ein häusliches Modell", "100%", "a+b", "a,b", "x/versions"]) {
        models.place_scale(name, index as f32);
        names.insert(format!("{name}/model"), index as f32);
    }
    let fleet = Fleet::start(&models, 3, &[]);
    let owners = owners(&fleet, &names);
    let all: BTreeSet<_> = owners.values().copied().collect();
    assert_eq!(all, BTreeSet::from([0, 1, 2]), "all servers have models: {owners:?}");
    for (name, owner) in &owners {
        let path = ModelPath::of(name);
        let body = json!({"instances": [1]});
        let infer = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]});
        // Below /v2, clients do not encode slashes, except those that could be a version.
        let plain = name.replace('%', "%25").replace(' ', "%20").replace('ä', "%C3%A4");
        let plain = plain.replace("versions/", "versions%2F");
        for request in [
            Request::post(format!("{path}/invoke")).json(&body),
            Request::post(format!("{path}/invoke"))
                .header(TARGET_MODEL, "m1/model")
                .json(&body),
            Request::post(format!("/v2{path}/infer")).json(&infer),
            Request::post(format!("/v2/models/{plain}/infer")).json(&infer),
            Request::post(format!("/v2{path}/versions/1/infer")).json(&infer),
            Request::get(format!("/v2{path}")),
            Request::get(format!("/v2{path}/ready")),
            Request::get(&path),
            Request::post(format!("/v2/repository{path}/load")),
            Request::delete(&path),
        ] {
            let (response, server) = fleet.send(&request);
            assert_eq!(response.status, 200, "{name}: {request:?}: {}", response.text());
            assert_eq!(server, Some(*owner), "{name}: {request:?}");
        }
        let load = json!({"model_name": name, "url": models.path(name).display().to_string()});
        let (_, server) = fleet.send(&Request::post("/models").json(&load));
        if name.is_ascii() {
            assert_eq!(server, Some(*owner), "{name}");
        }
    }
    let without_a_model = (0..9).map(|_| fleet.send(&Request::get("/execution-parameters")).1.unwrap());
    assert_eq!(
        without_a_model.collect::<BTreeSet<_>>().len(),
        3,
        "all servers get some"
    );
}

#[test]
fn a_killed_server_moves_only_its_own_models_and_gets_them_back() {
    if is_skipped() {
        return;
    }
    const KILLED: usize = 1;
    const CLIENTS: usize = 3;
    let (models, names) = store(24);
    let mut fleet = Fleet::start(&models, 3, &[]);
    let before = owners(&fleet, &names);
    let address = fleet.address();
    let of = |killed: bool| {
        let chosen = before.iter().filter(move |(_, owner)| (**owner == KILLED) == killed);
        chosen.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let (stop, asked) = (Stop::default(), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let ask = |names: &[String], asked: &AtomicUsize| {
        let mut failed = 0;
        for name in names.iter().cycle() {
            failed += usize::from(!balancer::is_answered(address, &by_header(name)));
            asked.fetch_add(1, Ordering::Relaxed);
            if stop.raised() {
                break;
            }
        }
        failed
    };
    let (of_others, of_killed) = thread::scope(|scope| {
        let _stop = stop.on_drop();
        let (others, killed) = (of(false), of(true));
        let start = |names: Vec<String>, at: usize| {
            let (ask, asked) = (&ask, &asked[at]);
            (0..CLIENTS)
                .map(|_| {
                    let names = names.clone();
                    scope.spawn(move || ask(&names, asked))
                })
                .collect::<Vec<_>>()
        };
        let clients = [start(others, 0), start(killed, 1)];
        let counts = || asked.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap();
        eventually("the clients send requests", || counts() > 50);
        fleet.kill(KILLED);
        fleet.wait_until_up(&[0, 2]);
        let now = counts();
        eventually("they send more", || counts() > now + 50);
        drop(_stop);
        let mut failed = clients
            .into_iter()
            .map(|clients| clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>());
        (failed.next().unwrap(), failed.next().unwrap())
    });
    assert_eq!(of_others, 0, "other models are not affected");
    // Those in the process, and those whose connections the kernel accepts for it until it has
    // freed the memory of the process. Each client may lose several of them, but soon no more.
    assert!(of_killed <= 10 * CLIENTS, "{of_killed} requests were lost");
    let after = owners(&fleet, &names);
    for (name, owner) in &before {
        match *owner {
            KILLED => assert_ne!(after[name], KILLED),
            owner => assert_eq!(after[name], owner, "{name}"),
        }
    }
    fleet.start_server(KILLED, &[]);
    fleet.wait_until_up(&[0, 1, 2]);
    eventually("the models return", || owners(&fleet, &names) == before);
}

#[test]
fn the_next_server_answers_where_one_is_full_and_a_broken_model_is_tried_once() {
    if is_skipped() {
        return;
    }
    let models = Models::new();
    for index in 0..16 {
        models.place_big(&format!("m{index}"));
    }
    models.place("bad/garbage", "broken");
    let names: Vec<String> = (0..16).map(|index| format!("m{index}/model")).collect();
    let ask = |fleet: &Fleet, name: &str| {
        let row = json!({"instances": [vec![1.0; 1024]]});
        fleet.send(&Request::post("/invocations").header(TARGET_MODEL, name).json(&row))
    };
    // Server 1 has memory for all models, and server 0 for a few.
    let mut fleet = Fleet::empty(&models);
    fleet.start_server(0, &["--memory-limit", "64MiB", "--on-full", "refuse"]);
    fleet.start_server(1, &[]);
    fleet.wait_until_up(&[0, 1]);
    let servers: Vec<_> = names
        .iter()
        .map(|name| {
            let (response, server) = ask(&fleet, name);
            response.expect(200);
            server.unwrap()
        })
        .collect();
    let refused = |fleet: &Fleet| fleet.server(0).metric("longshore_errors_total{cause=\"memory\"}");
    assert!(servers.contains(&0) && refused(&fleet) > 0, "{servers:?}");

    let failed = |fleet: &Fleet, server| fleet.server(server).metric("longshore_loads_total{outcome=\"failed\"}");
    let before = failed(&fleet, 0) + failed(&fleet, 1);
    let (response, _) = ask(&fleet, "broken/model");
    assert_eq!(response.status, 500, "{}", response.text());
    assert_eq!(response.json()["code"], 500);
    assert_eq!(
        failed(&fleet, 0) + failed(&fleet, 1),
        before + 1,
        "no other server tries it"
    );
}

#[test]
fn a_draining_server_answers_its_requests_and_gets_no_new_ones() {
    if is_skipped() {
        return;
    }
    let (models, names) = store(8);
    models.place("spin", "spin");
    let mut fleet = Fleet::start(&models, 2, &[]);
    let before = owners(&fleet, &names);
    let spin = |iterations: u64| {
        let request = Request::post("/invocations").header(TARGET_MODEL, "spin/model");
        request.json(&json!({"inputs": iterations}))
    };
    let (_, owner) = fleet.send(&spin(1));
    let owner = owner.unwrap();
    let stopped = fleet.take(owner);
    thread::scope(|scope| {
        let (fleet, spin) = (&fleet, &spin);
        let slow = scope.spawn(move || fleet.send(&spin(A_SECOND)));
        stopped.wait_for_running(1);
        stopped.terminate();
        for name in names.keys() {
            let (response, server) = fleet.send(&by_header(name));
            response.expect(200);
            assert!(before[name] == owner || server == Some(before[name]), "{name} moved");
        }
        let (response, server) = slow.join().unwrap();
        response.expect(200);
        assert_eq!(server, Some(owner));
    });
    assert_eq!(stopped.wait_for_end().status.code(), Some(0));
    fleet.wait_until_up(&[1 - owner]);
    for (_, server) in owners(&fleet, &names) {
        assert_eq!(server, 1 - owner);
    }
}

#[test]
fn requests_of_a_session_go_to_one_server_and_those_that_ask_for_one_by_their_model() {
    if is_skipped() {
        return;
    }
    let (models, names) = store(9);
    let fleet = Fleet::start(&models, 3, &[]);
    let owners = owners(&fleet, &names);
    let servers = |session: &str| -> BTreeMap<String, usize> {
        let ask = |name: &String| {
            let (response, server) = fleet.send(&by_header(name).header("X-Amzn-SageMaker-Session-Id", session));
            response.expect(200);
            (name.clone(), server.unwrap())
        };
        names.keys().map(ask).collect()
    };
    let of_one = servers("one");
    assert_eq!(of_one.values().collect::<BTreeSet<_>>().len(), 1, "{of_one:?}");
    assert_eq!(servers("NEW_SESSION"), owners);
}

#[test]
fn a_busy_model_spreads_over_several_servers() {
    if is_skipped() {
        return;
    }
    // More than the mean of 4 for each server from which the load is bounded.
    const CLIENTS: usize = 24;
    let models = Models::new();
    models.place("spin", "spin");
    let fleet = Fleet::start(&models, 3, &[]);
    let request = Request::post("/invocations").header(TARGET_MODEL, "spin/model");
    let request = request.json(&json!({"inputs": A_SECOND / 4}));
    let (_, owner) = fleet.send(&request);
    let servers: Vec<usize> = thread::scope(|scope| {
        let send = || fleet.send(&request);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send)).collect();
        let answers = clients.into_iter().map(|client| client.join().unwrap());
        answers
            .map(|(response, server)| {
                response.expect(200);
                server.unwrap()
            })
            .collect()
    });
    let share = |server| servers.iter().filter(|&&other| other == server).count();
    assert!((0..3).all(|server| share(server) < CLIENTS), "{servers:?} of {owner:?}");
}
