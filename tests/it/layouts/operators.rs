//! `--operators`: libraries of custom operators that the operator of the server names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Builder, Server, longshore};
use crate::support::onnx::{Graph, Info, Model, Node, Tensor};

const DOMAIN: &str = "longshore.test";

/// Builds the library of the operator `Times`, which multiplies by `factor`.
fn library(folder: &Path, factor: f32) -> PathBuf {
    let file = folder.join(format!("times-{factor}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/layouts/operators.c");
    compile(&source, &file, &[&format!("-DFACTOR={factor:?}f")]);
    file
}

fn compile(source: &Path, file: &Path, options: &[&str]) {
    // Rust needs `cc` for linking, so it is installed.
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1"])
        .args(options)
        .arg("-o")
        .args([file, source])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `y = Times(x) + Times(1)`. The second term is constant, and preparing the model folds it.
fn model() -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::floats("x", ["n".into()]))
        .initializer(Tensor::floats("one", &[1], &[1.0]))
        .node(Node::new("Times", ["x"], ["a"]).domain(DOMAIN))
        .node(Node::new("Times", ["one"], ["b"]).domain(DOMAIN))
        .node(Node::new("Add", ["a", "b"], ["y"]))
        .output(Info::floats("y", ["n".into()]));
    Model::new(graph).import(DOMAIN, 1).into_bytes()
}

#[track_caller]
fn assert_answers(server: &Server, name: &str, factor: f32) {
    let answer = server.invoke(name, &json!({"instances": [2.0]})).expect(200).json();
    assert_eq!(answer, json!({"predictions": [factor * 3.0]}));
}

fn prepared(cache: &Path) -> usize {
    let files = fs::read_dir(cache).unwrap().flatten().map(|entry| entry.path());
    files
        .filter(|file| file.extension().is_some_and(|ending| ending == "ort"))
        .count()
}

#[test]
fn models_with_custom_operators_are_prepared_for_each_library() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("cache");
    let libraries = [3.0, 5.0].map(|factor| (library(folder.path(), factor), factor));
    for (count, (library, factor)) in libraries.iter().enumerate() {
        let server = Builder::multi()
            .argument("--cache-dir")
            .argument(&cache)
            .environment("LONGSHORE_OPERATORS", library)
            .start();
        let url = server.models().place_model("m", &model());
        server.load("m", &url).expect(200);
        assert_answers(&server, "m", *factor);
        assert_eq!(prepared(&cache), count + 1, "each library has its own prepared form");
        assert_eq!(server.count_in_log("unprepared"), 0);
    }
    // Without a library the server refuses the model, even if a prepared form exists.
    let server = Builder::multi().argument("--cache-dir").argument(&cache).start();
    let url = server.models().place_model("m", &model());
    let message = server.load("m", &url).expect(400).message();
    assert!(
        message.contains("no operators of the domain \"longshore.test\"") && message.contains("--operators LIBRARY"),
        "{message}"
    );
}

#[test]
fn pack_and_inspect_accept_libraries_and_packed_models_need_the_same_ones() {
    let folder = TempDir::new().unwrap();
    let three = library(folder.path(), 3.0);
    let artifact = folder.path().join("artifact");
    fs::create_dir(&artifact).unwrap();
    fs::write(artifact.join("model.onnx"), model()).unwrap();
    let archive = folder.path().join("m.tar.gz");
    let path = artifact.to_str().unwrap();
    let with_library = ["--operators", three.to_str().unwrap()];
    let arguments = ["pack", "--json", path, "-o", archive.to_str().unwrap()];
    let packed = longshore(arguments.into_iter().chain(with_library)).json();
    assert!(packed["prepared_for"]["operators"].is_string(), "{packed}");
    let inspected = longshore(["inspect", "--json", path].into_iter().chain(with_library)).json();
    assert_eq!(inspected["inputs"][0]["name"], json!("x"), "{inspected}");
    let refused = longshore(["pack", path, "-o", folder.path().join("n.tar.gz").to_str().unwrap()]).refusal();
    assert!(refused.contains("--operators LIBRARY"), "{refused}");

    for (library, factor) in [(three, 3.0), (library(folder.path(), 5.0), 5.0)] {
        let server = Builder::store(folder.path().to_str().unwrap(), [])
            .argument("--operators")
            .argument(&library)
            .start();
        let invocation =
            crate::harness::Request::post("/invocations").header("x-amzn-sagemaker-target-model", "m.tar.gz");
        let answer = server.send(&invocation.json(&json!({"instances": [2.0]}))).expect(200);
        assert_eq!(answer.json(), json!({"predictions": [factor * 3.0]}));
        let passed_over = server.count_in_log("other libraries of custom operators (--operators)");
        assert_eq!(passed_over, usize::from(factor != 3.0));
    }
}

#[test]
fn a_missing_or_invalid_library_of_operators_ends_the_start_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("text.so");
    fs::write(&text, "operators").unwrap();
    let source = folder.path().join("empty.c");
    fs::write(&source, "int nothing;\n").unwrap();
    let empty = folder.path().join("empty.so");
    compile(&source, &empty, &[]);
    let gone = folder.path().join("gone.so");
    for (library, words) in [
        (&gone, "cannot be read: No such file or directory"),
        (&text, "is not a library of operators for this ONNX Runtime"),
        (&empty, "is not a library of operators for this ONNX Runtime"),
    ] {
        let ended = Builder::multi().argument("--operators").argument(library).run_to_end();
        assert!(!ended.status.success());
        let last = ended.last_line();
        assert!(last.contains(words) && last.contains("--operators"), "{last}");
        assert!(last.contains(&*library.to_string_lossy()), "{last}");
    }
}
