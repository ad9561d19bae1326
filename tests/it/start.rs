//! The start: arguments, environment and the first second (`ST` and `PI` clauses).

use std::net::TcpListener;

use serde_json::json;

use crate::harness::{Builder, FOREVER, Request, Server, in_parallel};

#[test]
fn an_empty_variable_counts_as_unset() {
    // Templates often produce empty variables.
    let server = [
        "SAGEMAKER_MULTI_MODEL",
        "SAGEMAKER_BATCH",
        "SAGEMAKER_CONTAINER_LOG_LEVEL",
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT",
        "LONGSHORE_MAX_BODY",
    ]
    .into_iter()
    .fold(Builder::multi(), |builder, name| builder.environment(name, ""))
    .start();
    assert_eq!(server.list(""), json!({"models": []}));
}

#[test]
fn serve_is_the_default_command() {
    // ST-1
    for builder in [Builder::multi(), Builder::multi().without_command()] {
        let server = builder.start();
        server.ping().expect(200);
        assert_eq!(server.list(""), json!({"models": []}));
    }
}

#[test]
fn the_address_is_logged_at_every_log_level_but_off() {
    // The harness waits for this line at the start of a server.
    for level in ["warn", "error"] {
        for builder in [Builder::multi(), Builder::endpoint()] {
            let server = builder.arguments(["--log-level", level]).start();
            assert_eq!(server.count_in_log("INFO"), 1, "{level}");
        }
    }
}

#[test]
fn a_multi_model_container_is_healthy_and_lists_nothing_from_the_first_moment() {
    // PI-4, PI-5: the platform requests both from the first second; a 404 ends the endpoint.
    let server = Builder::multi().start();
    let mut connection = server.connect();
    let ping = connection.send(&Request::get("/ping")).expect(200);
    assert_eq!(ping.text(), "");
    let list = connection.send(&Request::get("/models")).expect(200);
    assert_eq!(list.text(), r#"{"models":[]}"#);
}

#[test]
fn the_platforms_variables_choose_mode_and_port() {
    // ST-6. Another process may take the free port before the server does; then the server fails
    // and the test tries another port.
    for _ in 0..20 {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let builder = Builder::single("/nonexistent")
            .environment("SAGEMAKER_MULTI_MODEL", "True")
            .environment("SAGEMAKER_BIND_TO_PORT", free.to_string());
        if TcpListener::bind(("127.0.0.1", free)).is_err() {
            continue;
        }
        let server = builder.start();
        assert_eq!(server.address().port(), free);
        assert_eq!(server.list(""), json!({"models": []}));
        return;
    }
    panic!("no port stayed free");
}

#[test]
fn irrelevant_variables_of_frameworks_and_jobs_are_ignored() {
    // The SDK sets these for its own containers, regardless of the image.
    let server = [
        ("SAGEMAKER_PROGRAM", "inference.py"),
        ("SAGEMAKER_SUBMIT_DIRECTORY", "/opt/ml/code"),
        ("SAGEMAKER_REGION", "eu-west-1"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "21000-21999"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "20"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "60"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "1"),
    ]
    .into_iter()
    .fold(Builder::multi(), |builder, (name, value)| {
        builder.environment(name, value)
    })
    .start();
    server.ping().expect(200);
}

#[test]
fn the_number_of_threads_does_not_grow_with_the_models() {
    let server = Builder::multi().start();
    let names: Vec<String> = (0..50).map(|index| format!("m{index}")).collect();
    let load = |name: &String| {
        let url = server.models().place_scale(name, 2.0);
        server.load(name, &url).expect(200);
        server.assert_scales(name, 2.0);
    };
    in_parallel(8, &names[..10], load);
    let before = server.process().threads();
    in_parallel(8, &names[10..], load);
    // A few threads start and end with the work. One thread per model would be 40 more.
    let after = server.process().threads();
    assert!(after < before + 10, "{before} threads have become {after}");
}

#[test]
fn an_idle_server_uses_no_cpu_time() {
    // By default, the threads of ONNX Runtime spin while they wait.
    let server = Builder::multi().start();
    let url = server.models().place("mlp", "mlp");
    server.load("mlp", &url).expect(200);
    for _ in 0..20 {
        server.invoke("mlp", &json!({"instances": [vec![0.5; 32]]})).expect(200);
    }
    let before = server.process().cpu_ticks();
    // The test measures that nothing happens, so time has to pass.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let used = server.process().cpu_ticks() - before;
    assert!(used < 50, "{used} ticks of 10 ms in 2 s");
}

#[test]
fn batch_transform_requests_time_out_after_an_hour_unless_another_time_is_set() {
    // BT-5
    let started = |given: &[(&str, &str)]| {
        let builder = Builder::multi().environment("SAGEMAKER_BATCH", "true");
        let server = given
            .iter()
            .fold(builder, |builder, (name, value)| builder.environment(name, value))
            .start();
        let url = server.models().place("spin", "spin");
        server.load("spin", &url).expect(200);
        server
    };
    let server = started(&[]);
    assert_eq!(server.count_in_log("request_timeout=3598s"), 1);
    server.send(&Server::spin("spin", 100)).expect(200);
    for variable in ["LONGSHORE_REQUEST_TIMEOUT", "SAGEMAKER_MODEL_SERVER_TIMEOUT"] {
        let server = started(&[(variable, "1")]);
        server.send(&Server::spin("spin", FOREVER)).expect(504);
    }
}
