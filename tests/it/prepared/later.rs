//! `--prepare later`: a new model serves first, and is prepared while it serves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{assert_entries, files, kill_worker, sharing};
use crate::harness::{Builder, Models, Server, eventually, in_parallel};
use crate::support::networks;
use crate::support::onnx::{Dim, Graph, Info, Model, Node};

/// No preparation ends in this time.
const FAILS: &str = "--prepare-timeout=1ms";

fn later() -> Builder {
    Builder::multi().argument("--prepare=later")
}

/// The numbers of an answer, in order.
fn numbers(answer: &Value) -> Vec<f64> {
    match answer {
        Value::Number(number) => vec![number.as_f64().unwrap()],
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        Value::Object(values) => values.values().flat_map(numbers).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => Vec::new(),
    }
}

fn wait_until_prepared(server: &Server, models: usize) {
    eventually("the models are prepared", || {
        server.count_in_log("model prepared") == models
    });
}

#[test]
fn a_new_model_answers_before_it_is_prepared_and_is_mapped_afterwards() {
    let server = later().start();
    let cache = server.models().cache().to_owned();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
    wait_until_prepared(&server, 1);
    assert!(server.process().maps_files_below(&cache));
    server.assert_scales("m", 2.0);
    assert_entries(&cache, 1);
    let has_copy = || files(&cache, "").iter().any(|path| path.is_dir());
    eventually("the private copy is removed", || !has_copy());
    server.unload("m").expect(200);
    assert_eq!(server.reserved(), 0);

    // Known content is mapped at its load.
    server.load("m", &url).expect(200);
    assert!(server.process().maps_files_below(&cache));
    assert_eq!(server.count_in_log("model prepared"), 1);
}

#[test]
fn every_request_is_answered_while_the_prepared_model_takes_over() {
    let server = later().start();
    let model = networks::related_encoder(1);
    let url = server.models().place_model("m", &model);
    server.load("m", &url).expect(200);
    let body = json!({"inputs": [[1, 2, 3], [4, 5, 6]]});
    let is_prepared = AtomicBool::new(false);
    let answers = in_parallel(5, &[0, 1, 2, 3, 4], |&client| {
        let mut answers = Vec::new();
        if client == 0 {
            wait_until_prepared(&server, 1);
            is_prepared.store(true, Ordering::Relaxed);
            return answers;
        }
        // Some more requests run in the prepared model.
        while !is_prepared.load(Ordering::Relaxed) || answers.len() < 20 {
            answers.push(numbers(&server.invoke("m", &body).expect(200).json()));
        }
        answers
    });
    let answers: Vec<Vec<f64>> = answers.concat();
    assert!(answers.len() >= 80 && answers[0].len() == 200);
    for answer in &answers {
        let differs = answer.iter().zip(&answers[0]).any(|(x, y)| (x - y).abs() > 1e-4);
        assert!(!differs, "{answer:?} {:?}", answers[0]);
    }
}

#[test]
fn names_of_one_content_share_its_preparation_and_the_prepared_model() {
    let names = ["a", "b", "c", "d", "e"];
    let server = later().start();
    let url = server.models().place_big("m");
    in_parallel(5, &names, |name| server.load(name, &url).expect(200));
    wait_until_prepared(&server, names.len());
    let unload_all = || {
        for name in names {
            server.unload(name).expect(200);
        }
        assert_eq!(server.reserved(), 0);
    };
    let settled = AtomicU64::new(0);
    eventually("the unprepared model is freed", || {
        let reserved = server.reserved();
        settled.swap(reserved, Ordering::Relaxed) == reserved
    });
    unload_all();
    // The same models, mapped at their loads.
    for name in names {
        server.load(name, &url).expect(200);
    }
    let (reserved, settled) = (server.reserved(), settled.load(Ordering::Relaxed));
    // What a session takes depends on the fragments that earlier ones have left.
    assert!(reserved.abs_diff(settled) < 64 << 10, "{reserved} {settled}");
    unload_all();
}

#[test]
fn a_model_that_cannot_be_prepared_serves_on_and_is_not_quarantined() {
    let server = later().argument(FAILS).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server.wait_for_log("the model serves on unprepared");
    server.assert_scales("m", 2.0);
    server.load("n", &url).expect(200);
    server.unload("m").expect(200);
    server.unload("n").expect(200);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
    assert_eq!(server.count_in_log("the model serves on unprepared"), 1);
}

#[test]
fn a_model_that_is_unloaded_before_it_is_prepared_leaves_nothing_behind() {
    let server = later().start();
    for round in 0..10 {
        let name = format!("m{round}");
        let url = server.models().place_big(&name);
        server.load(&name, &url).expect(200);
        server.unload(&name).expect(200);
    }
    eventually("all preparations end", || server.reserved() == 0);
    assert_eq!(server.list("")["models"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_restarted_process_prepares_the_models_that_it_loads_again() {
    let cache = tempfile::tempdir().unwrap();
    let server = sharing(cache.path()).arguments(["--prepare=later"]).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    wait_until_prepared(&server, 1);
    for file in files(cache.path(), ".ort") {
        std::fs::remove_file(file).unwrap();
    }
    kill_worker(&server);
    server.assert_scales("m", 2.0);
    wait_until_prepared(&server, 2);
    server.assert_scales("m", 2.0);
}

#[test]
fn a_model_whose_outputs_only_a_trial_explains_is_prepared_first() {
    // The size of the exporter's example is left in the output's shape.
    let server = later().start();
    let graph = Graph::new()
        .input(Info::floats("x", [Dim::from("n"), 2.into()]))
        .output(Info::floats("y", [Dim::from(1), 2.into()]))
        .node(Node::new("Neg", ["x"], ["y"]));
    let url = server.models().place_model("m", &Model::new(graph).into_bytes());
    server.load("m", &url).expect(200);
    assert!(server.process().maps_files_below(server.models().cache()));
    let answer = server.invoke("m", &json!({"instances": [[1, 2], [3, 4]]})).expect(200);
    assert_eq!(answer.json(), json!({"predictions": [[-1.0, -2.0], [-3.0, -4.0]]}));
    assert_eq!(server.count_in_log("model prepared"), 0);
}

#[test]
fn models_that_are_evicted_while_others_are_prepared_answer_all_the_same() {
    const MODELS: usize = 12;
    let models = Models::new();
    let names: Vec<String> = (0..MODELS).map(|index| format!("m{index}")).collect();
    for name in &names {
        models.place_big(name);
    }
    let url = models.root().to_str().unwrap().to_owned();
    // Room for a few of them.
    let server = Builder::store(&url, [])
        .arguments(["--prepare=later", "--memory-limit=120MiB"])
        .start();
    let requests: Vec<&String> = (0..5).flat_map(|_| &names).collect();
    in_parallel(4, &requests, |name| {
        let row = json!({"instances": [vec![1.0; 1024]]});
        let answer = server.invoke(&format!("{name}/model"), &row).expect(200).json();
        assert_eq!(answer, json!({"predictions": [(Models::BIG_BYTES / 4) as f64 * 0.5]}));
    });
    assert!(server.count_in_log("model unloaded") > 0);
}
