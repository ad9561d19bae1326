//! What happens to requests while an endpoint becomes another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore::endpoint::fleet::{FleetError, FleetPhase, Fleets};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::setup::{Desk, container, variant};
use crate::harness::eventually;

#[tokio::test]
async fn an_update_fails_no_request() {
    let desk = Desk::open();
    desk.deploy("e", [variant("a", 1)], [container("model", desk.scale(1.0))])
        .await
        .unwrap();
    let client = client();
    let stop = AtomicBool::new(false);
    let keep_asking = async || {
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            answers.push(ask(&desk.fleets, &client).await);
        }
        answers
    };
    let change = async {
        for factor in [2.0, 3.0] {
            let model = container("model", desk.scale(factor));
            desk.deploy("e", [variant("a", 2)], [model]).await.unwrap();
            assert_eq!(ask(&desk.fleets, &client).await, f64::from(factor));
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (first, second, ()) = tokio::join!(keep_asking(), keep_asking(), change);
    for answers in [first, second] {
        assert_eq!(answers.first(), Some(&1.0));
        assert!(answers.is_sorted(), "never an older one after a newer: {answers:?}");
    }
    eventually("what was replaced has ended", || desk.processes().len() == 2);
    desk.close().await;
}

#[tokio::test]
async fn an_update_that_fails_leaves_what_there_was() {
    let desk = Desk::open();
    desk.deploy("e", [variant("a", 1)], [container("model", desk.scale(1.0))])
        .await
        .unwrap();
    let before = desk.only_process();
    let unloadable = desk.folder("unloadable");
    std::fs::write(unloadable.join("model.onnx"), "no model").unwrap();
    let failed = desk
        .deploy("e", [variant("b", 1)], [container("model", unloadable)])
        .await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(desk.status("e").phase, FleetPhase::Failed { reason });
    assert_eq!(ask(&desk.fleets, &client()).await, 1.0);
    eventually("what was begun has ended", || desk.processes() == [before]);

    // It can be put right.
    desk.deploy("e", [variant("b", 1)], [container("model", desk.scale(2.0))])
        .await
        .unwrap();
    assert_eq!(desk.status("e").phase, FleetPhase::InService);
    assert_eq!(ask(&desk.fleets, &client()).await, 2.0);
    desk.close().await;
}

#[tokio::test]
async fn one_change_at_a_time_and_a_removal_ends_it() {
    let desk = Desk::open();
    let first = desk.deploy("e", [variant("a", 2)], [container("model", desk.scale(1.0))]);
    let during = async {
        let second = desk
            .deploy("e", [variant("a", 1)], [container("model", desk.scale(1.0))])
            .await;
        assert_eq!(second, Err(FleetError::Busy("e".to_owned())));
        let status = desk.status("e");
        assert_eq!(status.phase, FleetPhase::Creating);
        let (current, desired) = (
            status.variants[0].current_instances,
            status.variants[0].desired_instances,
        );
        assert_eq!((current, desired), (0, 2));
        assert!(desk.fleets.remove("e").await);
    };
    let (first, ()) = tokio::join!(biased; first, during);
    assert_eq!(first, Err(FleetError::Removed("e".to_owned())));
    assert!(desk.fleets.status("e").is_none());
    eventually("all that was started has ended", || desk.processes().is_empty());
    desk.close().await;
}

#[tokio::test]
async fn all_endpoints_end_together() {
    let desk = Arc::new(Desk::open());
    let mut deployments = JoinSet::new();
    for name in ["a", "b", "c"] {
        let desk = Arc::clone(&desk);
        let model = container("model", desk.scale(1.0));
        deployments.spawn(async move { desk.deploy(name, [variant("v", 1)], [model]).await });
    }
    let deployed = deployments.join_all().await;
    assert!(deployed.iter().all(Result::is_ok), "{deployed:?}");
    assert_eq!(desk.processes().len(), 3);
    Arc::into_inner(desk).unwrap().close().await;
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The factor of the model that answers.
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
