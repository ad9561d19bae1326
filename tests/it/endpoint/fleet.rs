//! Fleets of real containers, started by the library as the command starts them.

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
use setup::{TestFleets, container, deployment, in_multi_model_mode, invoke, send, variant, words};

#[tokio::test]
async fn an_endpoint_serves_when_deploy_returns_and_its_processes_end_with_it() {
    let test = TestFleets::open();
    let container = container("model", fixture("scale"));
    test.deploy("scale", [variant("a", 1)], [container]).await.unwrap();
    assert_eq!(test.status("scale").phase, FleetPhase::InService);

    let fleet = test.fleets.get("scale").unwrap();
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

    let process = test.only_process();
    let workers = process.children();
    drop((instance, fleet));
    assert!(test.fleets.remove("scale").await);
    assert!(!process.is_alive());
    assert!(workers.iter().all(|worker| !worker.is_alive()));
    assert!(!folder.exists());
    assert!(test.fleets.status("scale").is_none());
    assert!(!test.fleets.remove("scale").await);
    test.close().await;
}

#[tokio::test]
async fn a_killed_container_is_started_again_as_the_next_generation() {
    let test = TestFleets::open();
    test.deploy("scale", [variant("a", 1)], [container("model", test.scale(3.0))])
        .await
        .unwrap();
    let fleet = test.fleets.get("scale").unwrap();
    let instance = Arc::clone(&fleet.variant("a").unwrap().instances()[0]);
    let container = &instance.containers()[0];
    let before = container.up().unwrap();

    let lost = container.lost(before.generation);
    test.only_process().signal(Signal::KILL);
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
    test.close().await;
}

#[tokio::test]
async fn a_failed_load_fails_the_deployment_with_the_last_log_line_of_its_container() {
    let test = TestFleets::open();
    let folder = test.folder("broken");
    fs::write(folder.join("model.onnx"), b"no model").unwrap();
    let failed = test
        .deploy("broken", [variant("a", 1)], [container("model", folder)])
        .await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    let expected = "The primary container for production variant a did not pass the ping health check. Please check \
                    CloudWatch logs for this endpoint. Cause: it ended (exit status: 1); its last log line: ";
    assert!(reason.starts_with(expected), "{reason}");
    assert!(reason.contains("load the model in"), "{reason}");
    assert_eq!(test.status("broken").phase, FleetPhase::Failed { reason });
    assert!(test.fleets.get("broken").is_none());
    eventually("all processes have ended", || test.processes().is_empty());
    test.close().await;
}

#[tokio::test]
async fn a_missing_model_fails_the_deployment_before_any_container_starts() {
    let test = TestFleets::open();
    let missing = test.folder("models").join("missing.tar.gz");
    let failed = test.deploy("none", [variant("a", 1)], [container("x", missing)]).await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    let expected = "Failed to download model data for container \"x\" from URL: ";
    assert!(reason.starts_with(expected), "{reason}");
    test.close().await;
}

#[tokio::test]
async fn containers_of_an_asynchronous_endpoint_accept_larger_bodies_and_longer_runs() {
    /// One float more than 25 MiB contain.
    const ROWS: usize = (25 << 20) / 4 + 1;
    let test = TestFleets::open();
    let model = test.scale(2.0);
    let asynchronous = Some(AsyncConfig {
        output: test.folder("out").display().to_string(),
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
    for (endpoint, container, asynchronous, status, has_long_timeout) in table {
        let mut deployment = deployment(endpoint, [variant("a", 1)], setup::model([container]));
        deployment.asynchronous = asynchronous;
        test.fleets.deploy(deployment).await.unwrap();
        let fleet = test.fleets.get(endpoint).unwrap();
        let instance = fleet.variant("a").unwrap().choose().unwrap();
        send(&instance.containers()[0], &request).expect(status);
        let variables = words(test.only_process(), "environ");
        let timeout = variables
            .iter()
            .find(|word| word.starts_with("LONGSHORE_REQUEST_TIMEOUT="));
        let expected = has_long_timeout.then(|| "LONGSHORE_REQUEST_TIMEOUT=3600000ms".to_owned());
        assert_eq!(timeout.cloned(), expected, "{endpoint}");
        drop((instance, fleet));
        test.fleets.remove(endpoint).await;
    }
    test.close().await;
}

#[tokio::test]
async fn instances_take_turns_up_to_the_cap() {
    let test = TestFleets::open();
    let mut busy = variant("busy", 2);
    busy.routing = Routing::LeastOutstandingRequests;
    let variants = [variant("a", 9), busy];
    test.deploy("two", variants, [container("model", test.scale(1.0))])
        .await
        .unwrap();
    let status = test.status("two");
    assert_eq!(
        (
            status.variants[0].current_instances,
            status.variants[0].desired_instances
        ),
        (2, 9)
    );

    let fleet = test.fleets.get("two").unwrap();
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
    assert_eq!(test.processes().len(), 4);
    test.close().await;
}

#[tokio::test]
async fn each_container_has_its_own_opt_ml_and_sagemakers_environment() {
    let test = TestFleets::open();
    let mut multi = in_multi_model_mode("many");
    multi
        .environment
        .insert("LONGSHORE_LOG_LEVEL".to_owned(), "debug".to_owned());
    multi
        .environment
        .insert("SAGEMAKER_BIND_TO_PORT".to_owned(), "1".to_owned());
    let one = container("one", test.scale(2.0));
    test.deploy("pair", [variant("a", 1)], [multi, one]).await.unwrap();

    let fleet = test.fleets.get("pair").unwrap();
    let instance = fleet.variant("a").unwrap().choose().unwrap();
    let many = instance.container("many").unwrap();
    let port = many.address().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let mut environments = test.processes().into_iter().map(|process| words(process, "environ"));
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

    // A model below its root may be loaded, as the platform loads it.
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
    test.close().await;
}

#[tokio::test]
async fn weights_and_instance_counts_change_without_interruption() {
    let test = TestFleets::open();
    test.deploy("grows", [variant("a", 1)], [container("model", test.scale(1.0))])
        .await
        .unwrap();
    let fleet = test.fleets.get("grows").unwrap();
    let capacity = |weight, instances| Capacity {
        variant: "a".to_owned(),
        weight,
        instances,
    };
    test.fleets
        .set_capacities("grows", &[capacity(Some(0.25), Some(2))])
        .await
        .unwrap();
    let variant = fleet.variant("a").unwrap();
    assert_eq!((variant.weight(), variant.instances().len()), (0.25, 2));
    assert_eq!(test.status("grows").variants[0].desired_instances, 2);

    test.fleets
        .set_capacities("grows", &[capacity(None, Some(0))])
        .await
        .unwrap();
    assert!(variant.choose().is_none());
    assert_eq!(variant.weight(), 0.25);
    eventually("the instances are gone", || test.processes().is_empty());

    let mut unknown = capacity(None, None);
    unknown.variant = "b".to_owned();
    let failed = test.fleets.set_capacities("grows", &[unknown]).await;
    assert!(matches!(failed, Err(FleetError::UnknownVariant { .. })), "{failed:?}");
    assert_eq!(test.status("grows").phase, FleetPhase::InService);
    drop(fleet);
    test.close().await;
}

#[tokio::test]
async fn an_attached_container_is_watched_but_never_stopped() {
    let test = TestFleets::open();
    let server = Builder::multi().start();
    let mut attached = Container::new("theirs");
    attached.mode = Mode::MultiModel { cache: true };
    attached.address = Some(format!("http://{}", server.address()));
    test.deploy("attached", [variant("a", 1)], [attached]).await.unwrap();
    let fleet = test.fleets.get("attached").unwrap();
    let instance = fleet.variant("a").unwrap().choose().unwrap();
    let up = instance.containers()[0].up().unwrap();
    assert_eq!(*up.address, format!("http://{}", server.address()));
    assert!(test.processes().is_empty());

    drop((instance, fleet));
    assert!(test.fleets.remove("attached").await);
    server.ping().expect(200);

    let mut unreachable = Container::new("unreachable");
    unreachable.address = Some("http://127.0.0.1:9".to_owned());
    let mut short_startup = variant("a", 1);
    short_startup.startup_timeout = Some(Duration::from_millis(200));
    let failed = test.deploy("unreachable", [short_startup], [unreachable]).await;
    let Err(FleetError::Failed(reason)) = failed else {
        panic!("{failed:?}");
    };
    assert!(
        reason.contains("nothing at http://127.0.0.1:9 answered /ping"),
        "{reason}"
    );
    test.close().await;
}
