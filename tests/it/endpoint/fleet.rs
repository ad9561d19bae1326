//! Endpoints that run: real containers, started by the library as the command does it.

mod docker;
mod orphans;
pub(super) mod setup;
mod update;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use longshore::endpoint::fleet::{Capacity, FleetError, FleetPhase};
use longshore::endpoint::spec::{AsyncConfig, Container, Mode, Routing};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Builder, Request, eventually, fixture, scale};
use setup::{Desk, container, deployment, in_multi_model_mode, invoke, send, variant, words};

#[tokio::test]
async fn an_endpoint_serves_when_deploy_returns_and_its_processes_end_with_it() {
    let desk = Desk::open();
    let container = container("model", fixture("scale"));
    desk.deploy("scale", [variant("a", 1)], [container]).await.unwrap();
    assert_eq!(desk.status("scale").phase, FleetPhase::InService);

    let fleet = desk.fleets.get("scale").unwrap();
    let instance = fleet.variant("a").unwrap().choose().unwrap();
    assert_eq!(instance.outstanding(), 1);
    let container = &instance.containers()[0];
    assert_eq!(
        (container.generation(), container.label()),
        (1, "scale/a/instance-1/model")
    );
    let answer = invoke(container, &json!({"instances": [2]}));
    assert_eq!(answer.expect(200).json(), json!({"predictions": [2469.0]}));
    let folder = instance.folder().to_owned();
    assert!(folder.exists());

    let process = desk.only_process();
    let workers = process.children();
    drop((instance, fleet));
    assert!(desk.fleets.remove("scale").await);
    assert!(!process.is_alive());
    assert!(workers.iter().all(|worker| !worker.is_alive()));
    assert!(!folder.exists());
    assert!(desk.fleets.status("scale").is_none());
    assert!(!desk.fleets.remove("scale").await);
    desk.close().await;
}

#[tokio::test]
async fn a_container_that_is_killed_is_started_again_as_another_generation() {
    let desk = Desk::open();
    desk.deploy("scale", [variant("a", 1)], [container("model", desk.scale(3.0))])
        .await
        .unwrap();
    let fleet = desk.fleets.get("scale").unwrap();
    let instance = Arc::clone(&fleet.variant("a").unwrap().instances()[0]);
    let container = &instance.containers()[0];
    let before = container.up().unwrap();

    let lost = container.lost(before.generation);
    desk.only_process().signal(Signal::KILL);
    lost.await;
    let after = container.wait_up().await.unwrap();
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(after.address, before.address, "the port is kept");
    let answer = invoke(container, &json!({"instances": [2]}));
    assert_eq!(answer.expect(200).json(), json!({"predictions": [6.0]}));

    container.kill();
    container.lost(after.generation).await;
    assert_eq!(container.wait_up().await.unwrap().generation, 3);
    drop((instance, fleet));
    desk.close().await;
}

#[tokio::test]
async fn a_model_that_does_not_load_fails_the_deployment_with_the_last_word_of_its_container() {
    let desk = Desk::open();
    let folder = desk.folder("broken");
    fs::write(folder.join("model.onnx"), b"no model").unwrap();
    let failed = desk
        .deploy("broken", [variant("a", 1)], [container("model", folder)])
        .await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    let expected = "The primary container for production variant a did not pass the ping health check. Please check \
                    CloudWatch logs for this endpoint. Cause: it ended (exit status: 1); its last log line: ";
    assert!(reason.starts_with(expected), "{reason}");
    assert!(reason.contains("load the model in"), "{reason}");
    assert_eq!(desk.status("broken").phase, FleetPhase::Failed { reason });
    assert!(desk.fleets.get("broken").is_none());
    eventually("all that was started has ended", || desk.processes().is_empty());
    desk.close().await;
}

#[tokio::test]
async fn a_model_that_is_not_there_fails_the_deployment_before_anything_starts() {
    let desk = Desk::open();
    let missing = desk.folder("models").join("missing.tar.gz");
    let failed = desk.deploy("none", [variant("a", 1)], [container("x", missing)]).await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    let expected = "Failed to download model data for container \"x\" from URL: ";
    assert!(reason.starts_with(expected), "{reason}");
    desk.close().await;
}

#[tokio::test]
async fn the_containers_of_an_asynchronous_endpoint_take_larger_bodies_for_longer() {
    /// One float more than 25 MiB hold.
    const ROWS: usize = (25 << 20) / 4 + 1;
    let desk = Desk::open();
    let model = desk.scale(2.0);
    let asynchronous = Some(AsyncConfig {
        output: desk.folder("out").display().to_string(),
        failure: None,
        max_concurrent: None,
    });
    let mut own = container("own", model.clone());
    let limit = ("SAGEMAKER_MAX_REQUEST_SIZE".to_owned(), "1024".to_owned());
    own.environment.extend([limit]);
    let table = [
        (
            "later",
            container("model", model.clone()),
            asynchronous.clone(),
            200,
            true,
        ),
        ("own", own, asynchronous, 413, true),
        ("now", container("model", model), None, 413, false),
    ];
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS},), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    let length = u16::try_from(header.len() + 1).unwrap().to_le_bytes();
    let mut body = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), b"\n"].concat();
    body.resize(body.len() + 4 * ROWS, 0);
    let request = Request::post("/invocations")
        .header("Content-Type", "application/x-npy")
        .header("Accept", "application/x-npy")
        .body(body);
    for (endpoint, container, asynchronous, status, is_patient) in table {
        let mut deployment = deployment(endpoint, [variant("a", 1)], setup::model([container]));
        deployment.asynchronous = asynchronous;
        desk.fleets.deploy(deployment).await.unwrap();
        let fleet = desk.fleets.get(endpoint).unwrap();
        let instance = fleet.variant("a").unwrap().choose().unwrap();
        send(&instance.containers()[0], &request).expect(status);
        let variables = words(desk.only_process(), "environ");
        let patience = variables
            .iter()
            .find(|word| word.starts_with("LONGSHORE_REQUEST_TIMEOUT="));
        let expected = is_patient.then(|| "LONGSHORE_REQUEST_TIMEOUT=3600000ms".to_owned());
        assert_eq!(patience.cloned(), expected, "{endpoint}");
        drop((instance, fleet));
        desk.fleets.remove(endpoint).await;
    }
    desk.close().await;
}

#[tokio::test]
async fn instances_take_turns_up_to_the_cap() {
    let desk = Desk::open();
    let mut busy = variant("busy", 2);
    busy.routing = Routing::LeastOutstandingRequests;
    let variants = [variant("a", 9), busy];
    desk.deploy("two", variants, [container("model", desk.scale(1.0))])
        .await
        .unwrap();
    let status = desk.status("two");
    assert_eq!(
        (
            status.variants[0].current_instances,
            status.variants[0].desired_instances
        ),
        (2, 9)
    );

    let fleet = desk.fleets.get("two").unwrap();
    let in_turn = fleet.variant("a").unwrap();
    let ids: Vec<u64> = (0..4).map(|_| in_turn.choose().unwrap().id()).collect();
    assert!(ids[0] != ids[1] && ids[..2] == ids[2..], "{ids:?}");
    let addresses: Vec<_> = in_turn
        .instances()
        .iter()
        .map(|one| one.containers()[0].address())
        .collect();
    assert_ne!(addresses[0], addresses[1]);

    let busy = fleet.variant("busy").unwrap();
    let first = busy.choose().unwrap();
    for _ in 0..3 {
        assert_ne!(busy.choose().unwrap().id(), first.id());
    }
    drop((first, fleet));
    assert_eq!(desk.processes().len(), 4);
    desk.close().await;
}

#[tokio::test]
async fn a_container_has_an_opt_ml_of_its_own_and_sagemakers_environment() {
    let desk = Desk::open();
    let mut multi = in_multi_model_mode("many");
    multi
        .environment
        .insert("LONGSHORE_LOG_LEVEL".to_owned(), "debug".to_owned());
    multi
        .environment
        .insert("SAGEMAKER_BIND_TO_PORT".to_owned(), "1".to_owned());
    let one = container("one", desk.scale(2.0));
    desk.deploy("pair", [variant("a", 1)], [multi, one]).await.unwrap();

    let fleet = desk.fleets.get("pair").unwrap();
    let instance = fleet.variant("a").unwrap().choose().unwrap();
    let many = instance.container("many").unwrap();
    let port = many.address().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let mut environments = desk.processes().into_iter().map(|process| words(process, "environ"));
    let multi_model = "SAGEMAKER_MULTI_MODEL=true".to_owned();
    let variables = environments.find(|variables| variables.contains(&multi_model)).unwrap();
    for expected in [
        format!("SAGEMAKER_BIND_TO_PORT={port}"),
        format!("SAGEMAKER_SAFE_PORT_RANGE={port}-{port}"),
        "LONGSHORE_LOG_LEVEL=debug".to_owned(),
        "AWS_REGION=eu-west-1".to_owned(),
    ] {
        assert!(variables.contains(&expected), "{expected}: {variables:?}");
    }
    assert!(
        !variables
            .iter()
            .any(|variable| variable.starts_with("LONGSHORE_STATE="))
    );

    // A model below its root may be loaded, as the platform would do it.
    let model = many.models_root().join("abc/model");
    fs::create_dir_all(&model).unwrap();
    fs::write(model.join("model.onnx"), scale(5.0)).unwrap();
    let url = many.models_root_inside().join("abc/model");
    let load = Request::post("/models").json(&json!({"model_name": "abc", "url": url}));
    send(many, &load).expect(200);
    let answer = send(
        many,
        &Request::post("/models/abc/invoke").json(&json!({"instances": [1]})),
    );
    assert_eq!(answer.expect(200).json(), json!({"predictions": [5.0]}));
    drop((instance, fleet));
    desk.close().await;
}

#[tokio::test]
async fn weights_and_instances_change_under_way() {
    let desk = Desk::open();
    desk.deploy("grows", [variant("a", 1)], [container("model", desk.scale(1.0))])
        .await
        .unwrap();
    let fleet = desk.fleets.get("grows").unwrap();
    let capacity = |weight, instances| Capacity {
        variant: "a".to_owned(),
        weight,
        instances,
    };
    desk.fleets
        .set_capacities("grows", &[capacity(Some(0.25), Some(2))])
        .await
        .unwrap();
    let variant = fleet.variant("a").unwrap();
    assert_eq!((variant.weight(), variant.instances().len()), (0.25, 2));
    assert_eq!(desk.status("grows").variants[0].desired_instances, 2);

    desk.fleets
        .set_capacities("grows", &[capacity(None, Some(0))])
        .await
        .unwrap();
    assert!(variant.choose().is_none());
    assert_eq!(variant.weight(), 0.25);
    eventually("the instances are gone", || desk.processes().is_empty());

    let mut unknown = capacity(None, None);
    unknown.variant = "b".to_owned();
    let failed = desk.fleets.set_capacities("grows", &[unknown]).await;
    assert!(matches!(failed, Err(FleetError::UnknownVariant { .. })), "{failed:?}");
    assert_eq!(desk.status("grows").phase, FleetPhase::InService);
    drop(fleet);
    desk.close().await;
}

#[tokio::test]
async fn a_container_that_somebody_else_runs_is_followed_and_left_alone() {
    let desk = Desk::open();
    let server = Builder::multi().start();
    let mut attached = Container::new("theirs");
    attached.mode = Mode::MultiModel { cache: true };
    attached.address = Some(format!("http://{}", server.address()));
    desk.deploy("attached", [variant("a", 1)], [attached]).await.unwrap();
    let fleet = desk.fleets.get("attached").unwrap();
    let instance = fleet.variant("a").unwrap().choose().unwrap();
    let up = instance.containers()[0].up().unwrap();
    assert_eq!(*up.address, format!("http://{}", server.address()));
    assert!(desk.processes().is_empty());

    drop((instance, fleet));
    assert!(desk.fleets.remove("attached").await);
    server.ping().expect(200);

    let mut nobody = Container::new("nobody");
    nobody.address = Some("http://127.0.0.1:9".to_owned());
    let mut patient = variant("a", 1);
    patient.startup_timeout = Some(Duration::from_millis(200));
    let failed = desk.deploy("nobody", [patient], [nobody]).await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    assert!(
        reason.contains("nothing at http://127.0.0.1:9 answered /ping"),
        "{reason}"
    );
    desk.close().await;
}
