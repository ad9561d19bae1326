//! Containers end when the process that started them ends, however it ends, and not before.

use std::env;
use std::fs;
use std::future;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use longshore::endpoint::fleet::Fleets;
use rustix::process::Signal;
use tokio::runtime;

use super::setup::{TestFleets, container, containers_below, deployment, model, send, settings, variant};
use crate::harness::{Process, Request, eventually, fixture};

/// The variable with the folder of the process that the test kills.
const FOLDER: &str = "LONGSHORE_TEST_OF_ORPHANS";

#[test]
fn a_kill_of_the_parent_leaves_no_orphan() {
    let folder = tempfile::Builder::new().prefix("longshore-orphans-").tempdir().unwrap();
    let mut parent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "endpoint::fleet::orphans::the_process_to_kill", "--ignored"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ready = folder.path().join("ready");
    eventually("the endpoint serves", || ready.exists());
    let containers = containers_below(folder.path());
    assert_eq!(containers.len(), 2);
    let workers: Vec<Process> = containers.iter().flat_map(|container| container.children()).collect();
    assert_eq!(workers.len(), 2);

    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("all processes are gone", || {
        containers.iter().chain(&workers).all(|process| !process.is_alive())
    });
}

/// Serves until the test above kills it.
#[tokio::test]
#[ignore = "a helper process, which the test above starts"]
async fn the_process_to_kill() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let fleets = Fleets::start(settings(folder)).unwrap();
    let model = model([container("model", fixture("scale"))]);
    fleets.deploy(deployment("e", [variant("a", 2)], model)).await.unwrap();
    fs::write(folder.join("ready"), "").unwrap();
    future::pending().await
}

#[tokio::test]
async fn containers_outlive_the_thread_that_started_them() {
    let test = Arc::new(TestFleets::open());
    let asking = Arc::clone(&test);
    let thread = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let model = container("model", asking.scale(1.0));
        runtime
            .block_on(asking.deploy("e", [variant("a", 1)], [model]))
            .unwrap();
    });
    thread.join().unwrap();
    let fleet = test.fleets.get("e").unwrap();
    let instance = fleet.variants()[0].choose().unwrap();
    let container = &instance.containers()[0];
    send(container, &Request::get("/ping")).expect(200);
    assert_eq!(container.generation(), 1);

    // A container that ends by itself is started again.
    test.only_process().signal(Signal::TERM);
    container.lost(1).await;
    assert_eq!(container.wait_up().await.unwrap().generation, 2);
    drop((instance, fleet));
    Arc::into_inner(test).unwrap().close().await;
}
