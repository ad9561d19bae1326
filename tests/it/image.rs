//! Tests of the image in an environment that only a container has. `scripts/smoke` runs these, and
//! also the other tests against the image. Elsewhere they print that they were skipped.

mod endpoint;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::harness::{A_SECOND, Builder, Connection, Request, Server, docker, eventually, fixture, image_or_skip};
use crate::support::networks;

/// Path at which the container sees a model that the platform has downloaded.
fn url(name: &str) -> String {
    format!("/opt/ml/models/{name}/model")
}

fn many(options: &[&str]) -> Builder {
    Builder::image(options).environment("SAGEMAKER_MULTI_MODEL", "true")
}

#[test]
fn the_image_has_the_labels_and_settings_that_the_platform_needs() {
    // 1.3, ST-1, ST-2
    let Some(image) = image_or_skip() else { return };
    let config: Value = serde_json::from_str(&docker(["inspect", "--format", "{{json .Config}}", &image])).unwrap();
    for capability in ["multi-models", "accept-bind-to-port"] {
        let label = format!("com.amazonaws.sagemaker.capabilities.{capability}");
        assert_eq!(config["Labels"][&label], "true", "{config}");
    }
    // Not supported yet.
    let streaming = "com.amazonaws.sagemaker.capabilities.bidirectional-streaming";
    assert_eq!(config["Labels"].get(streaming), None, "{config}");
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/longshore"]));
    assert_eq!(config["Cmd"], json!(["serve"]));
}

#[test]
fn the_image_contains_certificate_authorities_for_tls_to_stores() {
    let Some(image) = image_or_skip() else { return };
    let authorities = file_of(&image, "/etc/ssl/certs/ca-certificates.crt");
    let count = authorities.matches("BEGIN CERTIFICATE").count();
    assert!(count > 50, "{count} certificates");
}

#[test]
fn the_image_contains_the_licences_of_all_parts() {
    let Some(image) = image_or_skip() else { return };
    for (file, part) in [
        ("longshore/LICENSE", "Apache License"),
        ("longshore/crates.txt", "Tokio Contributors"),
        ("onnxruntime/LICENSE", "MIT License"),
        ("onnxruntime/ThirdPartyNotices.txt", "NOTICES"),
        ("libc6/copyright", "GNU"),
    ] {
        let text = file_of(&image, &format!("/usr/share/doc/{file}"));
        assert!(text.contains(part), "{file} does not contain {part}");
    }
}

/// The text of a file in `image`.
fn file_of(image: &str, path: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let container = docker(["create", "--label", "longshore.test", image]);
    docker(["cp", &format!("{container}:{path}"), &copy.display().to_string()]);
    docker(["rm", &container]);
    fs::read_to_string(copy).unwrap()
}

#[test]
fn a_container_without_privileges_network_or_writable_disk_serves() {
    // ST-7, ST-8, ST-10
    if image_or_skip().is_none() {
        return;
    }
    let server = many(&[
        "--network",
        "none",
        "--read-only",
        "--tmpfs=/tmp:size=20m",
        "--user=12345",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=64",
        "--ulimit=nofile=192",
    ])
    .start();
    server.models().place_scale("m", 2.0);
    for index in 0..4 {
        server.models().place_big(&format!("big{index}"));
    }
    // The container has its own network, so the client thread has to enter its namespace.
    let network = File::open(format!("/proc/{}/ns/net", server.supervisor().0)).unwrap();
    let talk = || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let mut connection = Connection::open(server.address()).unwrap();
        connection.send(&Request::get("/ping")).expect(200);
        for _ in 0..2 {
            let load = |name: &str| Request::post("/models").json(&json!({"model_name": name, "url": url(name)}));
            connection.send(&load("m")).expect(200);
            let asked = Server::invocation("m").json(&json!({"instances": [4]}));
            assert_eq!(
                connection.send(&asked).expect(200).json(),
                json!({"predictions": [8.0]})
            );
            // Together the models do not fit into /tmp.
            for index in 0..4 {
                let name = format!("big{index}");
                connection.send(&load(&name)).expect(200);
                let asked = Server::invocation(&name).json(&json!({"instances": [vec![1.0; 1024]]}));
                let answer = connection.send(&asked).expect(200).json();
                assert_eq!(answer, json!({"predictions": [1_048_576.0]}));
                connection.send(&Request::delete(format!("/models/{name}"))).expect(200);
            }
            connection.send(&Request::delete("/models/m")).expect(200);
        }
    };
    thread::scope(|scope| scope.spawn(talk).join().unwrap());
}

#[test]
fn docker_stop_ends_a_busy_container_after_its_requests_are_answered() {
    // ST-2, ST-3
    if image_or_skip().is_none() {
        return;
    }
    let server = many(&[]).start();
    server.models().place("spin", "spin");
    server.load("spin", &url("spin")).expect(200);
    thread::scope(|scope| {
        let in_flight: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| server.send(&Server::spin("spin", A_SECOND))))
            .collect();
        server.wait_for_running(2);
        docker(["stop", "--time", "30", server.container()]);
        for request in in_flight {
            let answer = request.join().unwrap().expect(200).json();
            assert_eq!(answer, json!({"outputs": (A_SECOND % 64) as f64}));
        }
    });
    // 137 would be a kill.
    assert_eq!(server.wait_for_end().status.code(), Some(0));
}

#[test]
fn a_full_container_answers_507_and_is_not_killed() {
    // MM-18: at the first 507, nearly all of the limit must be in use, and one unload must free
    // enough memory for one model.
    const LIMIT: u64 = 256 << 20;
    if image_or_skip().is_none() {
        return;
    }
    let limit = format!("--memory={LIMIT}");
    let server = many(&[&limit, &format!("--memory-swap={LIMIT}")]).start();
    let load = |index: u64| {
        let name = format!("m{index}");
        let model = networks::recommender(10_000, 64, 2, index);
        server.models().place_model(&name, &model);
        server.load(&name, &url(&name)).status
    };
    let ask = |index: u64| {
        let row = json!({"item": 7, "x": [0.1, 0.2]});
        let answer = server.invoke(&format!("m{index}"), &json!({"instances": [row]}));
        answer.expect(200);
    };
    let mut count = 0;
    loop {
        match load(count) {
            200 => ask(count),
            507 => break,
            status => panic!("{status}"),
        }
        count += 1;
        assert!(count < 200, "the memory limit is not enforced");
    }
    let group = Cgroup::of(server.supervisor().0).unwrap();
    let (all, files) = group.usage();
    let mapped = server.metric("longshore_memory_mapped_bytes") as f64;
    let percent = 100.0 * (all - files + mapped) / LIMIT as f64;
    eprintln!("{count} models, {percent:.1} % of the limit");
    for index in 0..count {
        ask(index);
    }
    server.unload("m0").expect(200);
    assert_eq!(load(count), 200);
    ask(count);
    assert_eq!(group.kills(), 0);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
    let killed = docker(["inspect", "--format", "{{.State.OOMKilled}}", server.container()]);
    assert_eq!(killed, "false");
}

#[test]
fn two_containers_of_a_pipeline_use_different_ports() {
    // ST-6, MC-4 to MC-6: the containers share a network, as those of one instance do.
    if image_or_skip().is_none() {
        return;
    }
    let volume = format!("{}:/opt/ml/model:ro", fixture("scale").display());
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = || {
        let port = free();
        let server = Builder::image(&["--volume", &volume])
            .environment("SAGEMAKER_BIND_TO_PORT", port.to_string())
            .environment("SAGEMAKER_SAFE_PORT_RANGE", "25000-25999")
            .environment("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
            .start();
        assert_eq!(server.address().port(), port);
        eventually("the model is loaded", || server.ping().status == 200);
        server
    };
    let (first, second) = (start(), start());
    let request = Request::post("/invocations").header("Content-Type", "text/csv; charset=utf-8");
    let between = first.send(&request.body("2\n4")).expect(200);
    let request = Request::post("/invocations").header("Content-Type", between.header("content-type").unwrap());
    let answer = second.send(&request.body(between.text())).expect(200);
    let numbers: Vec<f64> = answer.text().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, [2.0 * 1234.5 * 1234.5, 4.0 * 1234.5 * 1234.5]);
}
