//! The analysis behind batching: requests are batched only if the graph proves that no operator
//! mixes their rows.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Builder, Models, Request, Server, Stop, eventually, fixture, longshore};
use crate::support::networks;
use crate::support::onnx::{Graph, Info, Model, Node};

/// Starts a server with a single compute thread, so that requests wait.
fn server() -> Server {
    Builder::multi()
        .arguments(["--threads", "1", "--http-threads", "2"])
        .environment("SAGEMAKER_CONTAINER_LOG_LEVEL", "10")
        .start()
}

fn inspect(path: &Path) -> Value {
    longshore(["inspect", "--json", path.to_str().unwrap()]).json()
}

/// Inspects `model` as a separate artifact.
fn inspect_bytes(model: &[u8]) -> Value {
    let models = Models::new();
    inspect(Path::new(&models.place_model("m", model)))
}

/// Builds a request with one row of floats.
fn row(values: &[f32]) -> Request {
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {}), }}",
        values.len()
    );
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut body = b"\x93NUMPY\x01\x00".to_vec();
    body.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    body.extend(header.as_bytes());
    body.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Server::invocation("m")
        .header("Content-Type", "application/x-npy")
        .header("Accept", "application/x-npy")
        .body(body)
}

/// Builds requests with numbers between -1 and 1; every second one has one much larger number.
fn rows(width: usize, count: usize) -> Vec<Request> {
    (0..count)
        .map(|seed| {
            let number = |index: usize| ((seed * 7919 + index * 104_729) % 2003) as f32 / 1001.0 - 1.0;
            let mut values: Vec<f32> = (0..width).map(number).collect();
            if seed % 2 == 1 {
                values[3] = 500.0;
            }
            row(&values)
        })
        .collect()
}

/// Sends each request alone, then all of them repeatedly in parallel. Every response must equal
/// the first one bit for bit.
#[track_caller]
fn assert_same_alone_and_in_parallel(server: &Server, requests: &[Request], answers: usize) {
    let alone: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| server.send(request).expect(200).body)
        .collect();
    let (stop, answered) = (Stop::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop_clients = stop.on_drop();
        let clients: Vec<_> = requests
            .iter()
            .zip(&alone)
            .map(|(request, alone)| {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    while !stop.raised() {
                        let answer = connection.send(request).expect(200);
                        assert_eq!(answer.body, *alone);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        eventually("there are enough responses", || {
            answered.load(Ordering::Relaxed) > answers || clients.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        drop(stop_clients);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn a_model_with_a_layer_quantised_over_the_batch_runs_each_request_alone() {
    let server = server();
    let url = server
        .models()
        .place_model("m", &networks::dynamically_quantized(4096, 1024, 3));
    server.load("m", &url).expect(200);
    server.wait_for_log("requests to this model run alone");
    assert_same_alone_and_in_parallel(&server, &rows(4096, 8), 200);
    assert_eq!(server.metric("longshore_batch_requests_count"), 0);
    let report = inspect(Path::new(&url));
    assert_eq!(report["joined"], json!(false));
    assert_eq!(
        report["joined_why_not"],
        json!("DynamicQuantizeLinear \"y_q\" mixes the records of a batch")
    );
    let text = longshore(["inspect", &url]).output();
    let batches = text.lines().find(|line| line.starts_with("batches")).unwrap();
    assert!(
        batches.ends_with("DynamicQuantizeLinear \"y_q\" mixes the records of a batch"),
        "{batches}"
    );
}

#[test]
fn labels_from_numbers_quantised_over_the_batch_equal_those_of_each_row_alone() {
    let server = server();
    let model = networks::dynamically_quantized_labels(256, 64, 10, 5);
    server.load("m", &server.models().place_model("m", &model)).expect(200);
    assert_same_alone_and_in_parallel(&server, &rows(256, 24), 1500);
    assert_eq!(server.metric("longshore_batch_requests_count"), 0);
    let report = inspect_bytes(&model);
    assert_eq!(
        report["joined_why_not"],
        json!("DynamicQuantizeLinear \"h_q\" mixes the records of a batch")
    );
}

#[test]
fn the_models_of_the_batching_benchmark_are_proven_to_keep_rows_independent() {
    for (what, widths) in networks::BATCHED {
        let report = inspect_bytes(&networks::mlp(widths, 1));
        assert_eq!(report["joined"], json!(true), "{what}: {}", report["joined_why_not"]);
        assert_eq!(report["records"], json!({"y": "first axis"}), "{what}");
    }
}

#[test]
fn ordinary_networks_are_proven_to_keep_rows_independent() {
    let models = [
        networks::recommender(100, 16, 2, 3),
        networks::lookup(50, 4, 1.0),
        networks::convolutions(1 << 18, 4),
    ];
    for model in models {
        let report = inspect_bytes(&model);
        assert_eq!(report["joined"], json!(true), "{}", report["joined_why_not"]);
    }
    for name in ["iris_zipmap", "iris_zipmap_str", "columns", "trees"] {
        let report = inspect(&fixture(name));
        assert_eq!(report["joined"], json!(true), "{name}: {}", report["joined_why_not"]);
    }
}

#[test]
fn maps_of_a_batch_are_split_by_the_rows_of_its_requests() {
    let server = server();
    server.load("m", &server.models().place("iris_zipmap", "m")).expect(200);
    let requests: Vec<Request> = (0..8)
        .map(|index| {
            let number = f64::from(index);
            Server::invocation("m")
                .json(&json!({"instances": [[5.0 + number / 4.0, 3.0, 1.0 + number / 2.0, 0.3 * number]]}))
                .not_inline()
        })
        .collect();
    let alone: Vec<Value> = requests
        .iter()
        .map(|request| server.send(request).expect(200).json())
        .collect();
    let stop = Stop::default();
    thread::scope(|scope| {
        let _stop = stop.on_drop();
        for (request, alone) in requests.iter().zip(&alone) {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                while !stop.raised() {
                    let answer = server.send(request).expect(200).json();
                    assert_same_but_for_rounding(&answer, alone);
                }
            });
        }
        eventually("there are batches", || {
            server.metric("longshore_batch_requests_count") > 10
        });
    });
}

/// Compares results up to rounding: the kernel depends on the number of rows, and kernels round
/// differently.
#[track_caller]
fn assert_same_but_for_rounding(one: &Value, other: &Value) {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            assert_eq!(one.len(), other.len());
            one.iter()
                .zip(other)
                .for_each(|(one, other)| assert_same_but_for_rounding(one, other));
        }
        (Value::Object(one), Value::Object(other)) => {
            assert!(one.keys().eq(other.keys()));
            one.values()
                .zip(other.values())
                .for_each(|(one, other)| assert_same_but_for_rounding(one, other));
        }
        (Value::Number(one), Value::Number(other)) => {
            let difference = one.as_f64().unwrap() - other.as_f64().unwrap();
            assert!(difference.abs() < 1e-5, "{one} {other}");
        }
        (one, other) => assert_eq!(one, other),
    }
}

#[test]
fn a_manifest_can_enable_batching_that_the_graph_does_not_prove_safe() {
    let graph = Graph::new()
        .input(Info::floats("x", ["batch".into(), 2.into()]))
        .node(
            Node::new("Softmax", ["x"], ["y"])
                .named("over all")
                .attribute("axis", 0),
        )
        .output(Info::floats("y", ["batch".into(), 2.into()]));
    let models = Models::new();
    let url = models.place_model("m", &Model::new(graph).into_bytes());
    let report = inspect(Path::new(&url));
    assert_eq!(
        report["joined_why_not"],
        json!("Softmax \"over all\" mixes the records of a batch")
    );
    fs::write(Path::new(&url).join("longshore.json"), r#"{"batching": true}"#).unwrap();
    assert_eq!(inspect(Path::new(&url))["joined"], json!(true));
}

#[test]
fn the_analysis_uses_the_graph_of_a_packed_prepared_form() {
    let models = Models::new();
    let (folder, archive) = (models.place("mlp", "m"), models.path("m.tar.gz"));
    longshore(["pack", &folder, "-o", archive.to_str().unwrap()]).output();
    let report = inspect(&archive);
    assert_eq!(report["packed"]["used_here"], json!(true));
    assert_eq!(report["joined"], json!(true), "{}", report["joined_why_not"]);
    let mixes = models.place_model("q", &networks::dynamically_quantized(64, 8, 1));
    let archive = models.path("q.tar.gz");
    longshore(["pack", &mixes, "-o", archive.to_str().unwrap()]).output();
    let report = inspect(&archive);
    assert_eq!(report["packed"]["used_here"], json!(true));
    assert_eq!(report["joined"], json!(false));
    // A prepared form that claims to belong to the model next to it, but was made from another.
    let (honest, liar) = (models.path("m/model"), models.path("liar"));
    fs::create_dir_all(liar.join(".longshore")).unwrap();
    fs::copy(honest.join("model.onnx"), liar.join("model.onnx")).unwrap();
    let packed = models.path("unpacked");
    fs::create_dir(&packed).unwrap();
    let bytes = flate2::read::GzDecoder::new(fs::File::open(&archive).unwrap());
    tar::Archive::new(bytes).unpack(&packed).unwrap();
    let mut description: Value =
        serde_json::from_slice(&fs::read(packed.join(".longshore/prepared.json")).unwrap()).unwrap();
    description["model"] = inspect(&honest)["content"].clone();
    fs::write(liar.join(".longshore/prepared.json"), description.to_string()).unwrap();
    fs::copy(
        packed.join(".longshore/prepared.ort"),
        liar.join(".longshore/prepared.ort"),
    )
    .unwrap();
    let report = inspect(&liar);
    assert_eq!(report["packed"]["used_here"], json!(true), "{report}");
    assert_eq!(report["joined"], json!(false));
}
