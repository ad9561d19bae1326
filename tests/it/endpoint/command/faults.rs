//! `--fault`.

use serde_json::json;

use super::desk::Desk;
use crate::endpoint::fleet::setup::{containers_below, words};
use crate::harness::{Builder, fixture};

#[test]
fn faults_strike_as_often_as_they_were_asked_to() {
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--fault", "error=503@1/3", "--fault", "other:error=500"]),
    );
    desk.wait_until_served("longshore");
    let request = Desk::invocation("longshore").json(&json!({"instances": [1]}));
    let statuses: Vec<u16> = (0..6).map(|_| desk.send(&request).status).collect();
    assert_eq!(statuses, [200, 200, 503, 200, 200, 503]);
}

#[test]
fn a_container_that_ends_while_it_has_a_request_is_a_model_error_and_the_next_request_is_served() {
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("spin"))
            .argument("--fault=kill=model@1/2"),
    );
    desk.wait_until_served("longshore");
    let request = Desk::invocation("longshore").json(&json!({"inputs": 1000}));
    desk.send(&request).expect(200);
    // Longer than it takes to kill it.
    let lost = desk.send(&Desk::invocation("longshore").json(&json!({"inputs": crate::harness::FOREVER})));
    let error = lost.expect(424);
    assert_eq!(error.header("x-amzn-errortype"), Some("ModelError"));
    assert_eq!(error.json()["OriginalStatusCode"], 0);
    desk.send(&request).expect(200);
    assert_eq!(desk.0.count_in_log("killed by --fault"), 1);
}

#[test]
fn memory_of_containers_can_be_scarce() {
    let cache = tempfile::tempdir().unwrap();
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--cache-dir")
            .argument(cache.path())
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--container-memory", "2GiB", "--fault", "longshore:memory=512MiB"]),
    );
    desk.wait_until_served("longshore");
    let [container] = containers_below(cache.path())[..] else {
        panic!("not one container");
    };
    let limit = format!("LONGSHORE_MEMORY_LIMIT={}", 512 << 20);
    assert!(words(container, "environ").contains(&limit));
}
