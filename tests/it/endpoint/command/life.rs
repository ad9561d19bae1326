//! Start and end of the command, and the state that outlives it.

use std::fs;
use std::path::Path;
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use super::local_endpoint::LocalEndpoint;
use crate::endpoint::fleet::setup::containers_below;
use crate::harness::{A_SECOND, Builder, Models, Process, eventually, fixture};

/// Number of work folders of containers in a cache.
fn work_folders(cache: &Path) -> usize {
    let entries = fs::read_dir(cache).unwrap().flatten();
    let of_containers = |name: &str| name.starts_with("longshore-endpoint-");
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(of_containers))
        .count()
}

fn processes(cache: &Path) -> Vec<Process> {
    let containers = containers_below(cache);
    containers
        .iter()
        .flat_map(|container| container.children())
        .chain(containers.clone())
        .collect()
}

#[test]
fn sigterm_completes_requests_and_ends_all_containers() {
    let cache = tempfile::tempdir().unwrap();
    let builder = Builder::endpoint().argument("--cache-dir").argument(cache.path());
    let local = LocalEndpoint::start(builder.argument("--model").argument(fixture("spin")));
    local.wait_until_served("longshore");
    let processes = processes(cache.path());
    assert_eq!(processes.len(), 2);
    let request = LocalEndpoint::invocation("longshore").json(&json!({"inputs": A_SECOND}));
    let slow = thread::scope(|scope| {
        let slow = scope.spawn(|| local.send(&request));
        eventually("the request runs", || {
            processes.iter().map(|process| process.cpu_ticks()).sum::<u64>() > 20
        });
        local.0.terminate();
        slow.join().unwrap()
    });
    slow.expect(200);
    let ended = local.0.wait_for_end();
    assert!(ended.status.success(), "{:?}", ended.log);
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert_eq!(work_folders(cache.path()), 0);
}

#[test]
fn after_a_kill_all_containers_end_and_the_next_start_removes_their_folders() {
    let cache = tempfile::tempdir().unwrap();
    let builder = || Builder::endpoint().argument("--cache-dir").argument(cache.path());
    let local = LocalEndpoint::start(builder().argument("--model").argument(fixture("scale")));
    local.wait_until_served("longshore");
    let processes = processes(cache.path());
    assert_eq!(processes.len(), 2);
    local.0.supervisor().signal(Signal::KILL);
    local.0.wait_for_end();
    eventually("the containers end", || {
        processes.iter().all(|process| !process.is_alive())
    });
    assert_eq!(work_folders(cache.path()), 1);

    let local = LocalEndpoint::start(builder());
    eventually("only its own work folder is left", || work_folders(cache.path()) == 1);
    local.0.wait_for_log("removed the work folder of a killed process");
    local.0.terminate();
    local.0.wait_for_end();
    assert_eq!(work_folders(cache.path()), 0);
}

#[test]
fn with_a_state_file_endpoints_survive_any_end_of_the_process() {
    let models = Models::new();
    let (two, three) = (models.place_scale("two", 2.0), models.place_scale("three", 3.0));
    let file = models.path("state.json");
    let start = || LocalEndpoint::start(Builder::endpoint().argument("--state").argument(&file));
    let local = start();
    local.create("two", &two);
    local.create("three", &three);
    local.wait_until_served("two");
    local.wait_until_served("three");
    local.0.supervisor().signal(Signal::KILL);
    local.0.wait_for_end();

    let local = start();
    local.wait_until_served("two");
    local.wait_until_served("three");
    assert_eq!(local.answer(LocalEndpoint::invocation("three"), 5.0), 15.0);
    local
        .control("DeleteEndpoint", &json!({"EndpointName": "three"}))
        .expect(200);
    eventually("the endpoint is deleted", || local.status("three").is_none());
    local.0.terminate();
    assert!(local.0.wait_for_end().status.success());

    let local = start();
    local.wait_until_served("two");
    assert_eq!(local.answer(LocalEndpoint::invocation("two"), 5.0), 10.0);
    assert_eq!(local.status("three"), None);
    let models = local.control("ListModels", &json!({})).expect(200).json();
    assert_eq!(models["Models"].as_array().unwrap().len(), 2);
}

#[test]
fn an_unfinished_creation_is_completed_after_a_restart() {
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let file = models.path("state.json");
    let start = || LocalEndpoint::start(Builder::endpoint().argument("--state").argument(&file));
    let local = start();
    local.create("two", &two);
    local.0.terminate();
    assert!(local.0.wait_for_end().status.success());
    let local = start();
    local.wait_until_served("two");
}
