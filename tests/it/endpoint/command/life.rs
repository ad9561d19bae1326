//! How it starts and ends, and what outlives it.

use std::fs;
use std::path::Path;
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use super::desk::Desk;
use crate::endpoint::fleet::setup::containers_below;
use crate::harness::{A_SECOND, Builder, Models, Process, eventually, fixture};

/// Folders of containers in a cache.
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
fn at_sigterm_requests_are_answered_and_nothing_is_left_of_the_containers() {
    let cache = tempfile::tempdir().unwrap();
    let builder = Builder::endpoint().argument("--cache-dir").argument(cache.path());
    let desk = Desk::start(builder.argument("--model").argument(fixture("spin")));
    desk.wait_until_served("longshore");
    let processes = processes(cache.path());
    assert_eq!(processes.len(), 2);
    let request = Desk::invocation("longshore").json(&json!({"inputs": A_SECOND}));
    let slow = thread::scope(|scope| {
        let slow = scope.spawn(|| desk.send(&request));
        eventually("the request runs", || {
            processes.iter().map(|process| process.cpu_ticks()).sum::<u64>() > 20
        });
        desk.0.terminate();
        slow.join().unwrap()
    });
    slow.expect(200);
    let ended = desk.0.wait_for_end();
    assert!(ended.status.success(), "{:?}", ended.log);
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert_eq!(work_folders(cache.path()), 0);
}

#[test]
fn after_a_kill_no_process_is_left_and_the_next_start_removes_its_folders() {
    let cache = tempfile::tempdir().unwrap();
    let builder = || Builder::endpoint().argument("--cache-dir").argument(cache.path());
    let desk = Desk::start(builder().argument("--model").argument(fixture("scale")));
    desk.wait_until_served("longshore");
    let processes = processes(cache.path());
    assert_eq!(processes.len(), 2);
    desk.0.supervisor().signal(Signal::KILL);
    desk.0.wait_for_end();
    eventually("the containers end", || {
        processes.iter().all(|process| !process.is_alive())
    });
    assert_eq!(work_folders(cache.path()), 1);

    let desk = Desk::start(builder());
    eventually("there is its own folder only", || work_folders(cache.path()) == 1);
    desk.0.wait_for_log("removed the work folder of a killed process");
    desk.0.terminate();
    desk.0.wait_for_end();
    assert_eq!(work_folders(cache.path()), 0);
}

#[test]
fn with_a_state_file_endpoints_come_back_however_the_process_has_ended() {
    let models = Models::new();
    let (two, three) = (models.place_scale("two", 2.0), models.place_scale("three", 3.0));
    let file = models.path("state.json");
    let start = || Desk::start(Builder::endpoint().argument("--state").argument(&file));
    let desk = start();
    desk.create("two", &two);
    desk.create("three", &three);
    desk.wait_until_served("two");
    desk.wait_until_served("three");
    desk.0.supervisor().signal(Signal::KILL);
    desk.0.wait_for_end();

    let desk = start();
    desk.wait_until_served("two");
    desk.wait_until_served("three");
    assert_eq!(desk.answer(Desk::invocation("three"), 5.0), 15.0);
    desk.control("DeleteEndpoint", &json!({"EndpointName": "three"}))
        .expect(200);
    eventually("the endpoint is deleted", || desk.status("three").is_none());
    desk.0.terminate();
    assert!(desk.0.wait_for_end().status.success());

    let desk = start();
    desk.wait_until_served("two");
    assert_eq!(desk.answer(Desk::invocation("two"), 5.0), 10.0);
    assert_eq!(desk.status("three"), None);
    let models = desk.control("ListModels", &json!({})).expect(200).json();
    assert_eq!(models["Models"].as_array().unwrap().len(), 2);
}

#[test]
fn what_was_being_created_at_the_end_is_created_by_the_next() {
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let file = models.path("state.json");
    let start = || Desk::start(Builder::endpoint().argument("--state").argument(&file));
    let desk = start();
    desk.create("two", &two);
    desk.0.terminate();
    assert!(desk.0.wait_for_end().status.success());
    let desk = start();
    desk.wait_until_served("two");
}
