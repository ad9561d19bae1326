//! Requests during the update of an endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore::endpoint::fleet::{FleetError, FleetPhase, Fleets};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::setup::{TestFleets, container, variant};
use crate::harness::eventually;

#[tokio::test]
async fn an_update_fails_no_request() {
    let test = TestFleets::open();
    test.deploy("e", [variant("a", 1)], [container("model", test.scale(1.0))])
        .await
        .unwrap();
    let client = client();
    let stop = AtomicBool::new(false);
    let keep_asking = async || {
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            answers.push(ask(&test.fleets, &client).await);
        }
        answers
    };
    let change = async {
        for factor in [2.0, 3.0] {
            let model = container("model", test.scale(factor));
            test.deploy("e", [variant("a", 2)], [model]).await.unwrap();
            assert_eq!(ask(&test.fleets, &client).await, f64::from(factor));
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (first, second, ()) = tokio::join!(keep_asking(), keep_asking(), change);
    for answers in [first, second] {
        assert_eq!(answers.first(), Some(&1.0));
        assert!(answers.is_sorted(), "an old response after a new one: {answers:?}");
    }
    eventually("the old containers have ended", || test.processes().len() == 2);
    test.close().await;
}

#[tokio::test]
async fn a_failed_update_keeps_the_old_containers() {
    let test = TestFleets::open();
    test.deploy("e", [variant("a", 1)], [container("model", test.scale(1.0))])
        .await
        .unwrap();
    let before = test.only_process();
    let unloadable = test.folder("unloadable");
    std::fs::write(unloadable.join("model.onnx"), "no model").unwrap();
    let failed = test
        .deploy("e", [variant("b", 1)], [container("model", unloadable)])
        .await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(test.status("e").phase, FleetPhase::Failed { reason });
    assert_eq!(ask(&test.fleets, &client()).await, 1.0);
    eventually("the new containers have ended", || test.processes() == [before]);

    // A correct update succeeds afterwards.
    test.deploy("e", [variant("b", 1)], [container("model", test.scale(2.0))])
        .await
        .unwrap();
    assert_eq!(test.status("e").phase, FleetPhase::InService);
    assert_eq!(ask(&test.fleets, &client()).await, 2.0);
    test.close().await;
}

#[tokio::test]
async fn a_second_change_is_refused_and_a_removal_cancels_the_first() {
    let test = TestFleets::open();
    let first = test.deploy("e", [variant("a", 2)], [container("model", test.scale(1.0))]);
    let during = async {
        let second = test
            .deploy("e", [variant("a", 1)], [container("model", test.scale(1.0))])
            .await;
        assert_eq!(second, Err(FleetError::Busy("e".to_owned())));
        let status = test.status("e");
        assert_eq!(status.phase, FleetPhase::Creating);
        let (current, desired) = (
            status.variants[0].current_instances,
            status.variants[0].desired_instances,
        );
        assert_eq!((current, desired), (0, 2));
        assert!(test.fleets.remove("e").await);
    };
    let (first, ()) = tokio::join!(biased; first, during);
    assert_eq!(first, Err(FleetError::Removed("e".to_owned())));
    assert!(test.fleets.status("e").is_none());
    eventually("all processes have ended", || test.processes().is_empty());
    test.close().await;
}

#[tokio::test]
async fn all_endpoints_end_together() {
    let test = Arc::new(TestFleets::open());
    let mut deployments = JoinSet::new();
    for name in ["a", "b", "c"] {
        let test = Arc::clone(&test);
        let model = container("model", test.scale(1.0));
        deployments.spawn(async move { test.deploy(name, [variant("v", 1)], [model]).await });
    }
    let deployed = deployments.join_all().await;
    assert!(deployed.iter().all(Result::is_ok), "{deployed:?}");
    assert_eq!(test.processes().len(), 3);
    Arc::into_inner(test).unwrap().close().await;
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The factor of the model that responds.
async fn ask(fleets: &Fleets, client: &reqwest::Client) -> f64 {
    let fleet = fleets.get("e").unwrap();
    let instance = fleet.variants()[0].choose().unwrap();
    let address = instance.containers()[0].address().unwrap();
    let request = client
        .post(format!("{address}/invocations"))
        .header("content-type", "application/json")
        .body(json!({"instances": [1]}).to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    body["predictions"][0].as_f64().unwrap()
}
