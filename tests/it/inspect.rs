//! `longshore inspect`: what it says is so, and what it suggests works.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{Builder, Models, Server, eventually, fixture, longshore, skip_unless};

fn inspect(path: impl AsRef<Path>) -> Value {
    longshore(["inspect", "--json", path.as_ref().to_str().unwrap()]).json()
}

/// The models that answer requests.
fn models() -> Vec<String> {
    let folders = fs::read_dir(fixture("")).unwrap().flatten().map(|entry| entry.path());
    let mut names: Vec<String> = folders
        .filter(|folder| folder.join("cases.json").exists())
        .map(|folder| folder.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() > 20, "{names:?}");
    names
}

fn body(sample: &Value) -> Vec<u8> {
    match &sample["body"] {
        Value::String(text) => text.clone().into_bytes(),
        _ => STANDARD.decode(sample["body_base64"].as_str().unwrap()).unwrap(),
    }
}

#[test]
fn every_sample_request_is_answered() {
    let server = Builder::multi().start();
    for model in models() {
        let url = server.models().place(&model, &model);
        server.load(&model, &url).expect(200);
        let report = inspect(&url);
        let samples = report["samples"].as_array().unwrap();
        // Whatever a model takes, one of the JSON forms carries it.
        assert!(!samples.is_empty(), "{report}");
        // Two more where the columns have names.
        let forms = samples.len() + report["unfit"].as_array().unwrap().len();
        assert!([8, 10].contains(&forms), "{report}");
        for sample in samples {
            let request = Server::invocation(&model)
                .header("content-type", sample["content_type"].as_str().unwrap())
                .body(body(sample));
            let answer = server.send(&request);
            assert_eq!(answer.status, 200, "{model} {sample}: {}", answer.text());
        }
    }
}

#[test]
fn the_command_lines_work_in_a_shell() {
    if skip_unless(&["curl", "--version"]) {
        return;
    }
    for model in ["mlp", "identity_string", "iris_zipmap"] {
        let server = Builder::single(fixture(model)).start();
        eventually("the model is loaded", || server.ping().status == 200);
        let url = format!("http://{}/invocations", server.address());
        let path = fixture(model);
        let report = longshore(["inspect", "--json", "--url", &url, path.to_str().unwrap()]).json();
        let samples = report["samples"].as_array().unwrap();
        assert!(samples.len() >= 4);
        for sample in samples {
            let command = format!("{} --silent --fail", sample["curl"].as_str().unwrap());
            let output = Command::new("sh")
                .args(["-c", &command])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(
                output.status.success() && !output.stdout.is_empty(),
                "{command}: {output:?}"
            );
        }
    }
}

#[test]
fn it_says_what_the_model_is_and_what_it_takes() {
    let report = inspect(fixture("two_inputs"));
    for (key, expected) in [
        ("model", json!("model.onnx")),
        ("format", json!("onnx")),
        ("ir_version", json!(8)),
        ("opsets", json!({"ai.onnx": 17})),
        ("operators", json!({"Add": 1, "Cast": 1, "Greater": 1, "Unsqueeze": 1})),
        ("external_data", json!([])),
        ("packed", Value::Null),
        (
            "inputs",
            json!([
                {"name": "a", "type": "float32", "shape": ["batch", 3]},
                {"name": "b", "type": "int64", "shape": ["batch"]},
            ]),
        ),
    ] {
        assert_eq!(report[key], expected, "{key}");
    }
    assert_eq!(report["measured"]["independent_rows"], json!(true));
    assert_eq!(report["joined"], json!(true));
    assert_eq!(report["joined_why_not"], Value::Null);
    assert!(report["measured"]["private_bytes"].as_u64().unwrap() > 0);
    let text = longshore(["inspect", fixture("external").to_str().unwrap()]).output();
    assert!(text.contains("with external data in 1 file"), "{text}");
}

#[test]
fn what_longshore_json_says_of_batches_counts_more_than_the_analysis() {
    let models = Models::new();
    let folder = models.place("mlp", "m");
    let batches = |manifest: &Value| {
        fs::write(Path::new(&folder).join("longshore.json"), manifest.to_string()).unwrap();
        assert_eq!(inspect(&folder)["batching"], manifest["batching"]);
        let told = longshore(["inspect", &folder]).output();
        told.lines()
            .find(|line| line.starts_with("batches"))
            .unwrap()
            .to_owned()
    };
    assert!(batches(&json!({})).ends_with("requests that wait are joined"));
    assert!(
        batches(&json!({"batching": false})).ends_with("every request runs alone: longshore.json turns batching off")
    );
    assert!(batches(&json!({"batching": {"max_rows": 8}})).ends_with("requests that wait are joined"));
}

#[test]
fn an_archive_is_inspected_as_what_it_was_packed_from() {
    let models = Models::new();
    let (folder, archive) = (models.place("mlp", "m"), models.path("m.tar.gz"));
    let archive = archive.to_str().unwrap();
    longshore(["pack", &folder, "-o", archive]).output();
    let (before, after) = (inspect(&folder), inspect(archive));
    for key in ["model", "content", "inputs", "outputs", "operators", "samples"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(after["packed"]["used_here"], json!(true));
}

#[test]
fn long_requests_are_written_to_files() {
    let models = Models::new();
    let folder = models.path("samples");
    let path = models.place_big("m");
    let plain = inspect(&path);
    assert!(
        plain["samples"]
            .as_array()
            .unwrap()
            .iter()
            .any(|sample| sample.get("curl").is_none())
    );
    let report = longshore(["inspect", "--json", "--samples", folder.to_str().unwrap(), &path]).json();
    for sample in report["samples"].as_array().unwrap() {
        assert!(sample["curl"].is_string(), "{sample}");
    }
    let written = fs::read(folder.join("request.npy")).unwrap();
    let npy = report["samples"]
        .as_array()
        .unwrap()
        .iter()
        .find(|sample| sample["name"] == "NPY")
        .unwrap();
    assert_eq!(written, body(npy));
}

#[test]
fn what_is_known_of_a_model_that_cannot_be_loaded_is_shown_with_the_reason() {
    let finished = longshore(["inspect", fixture("bad/unknown_operator").to_str().unwrap()]);
    assert!(finished.refusal().contains("No Op registered for Frobnicate"));
    assert!(finished.printed().contains("Frobnicate 1"), "{}", finished.printed());
    let finished = longshore(["inspect", "--json", fixture("bad/unknown_operator").to_str().unwrap()]);
    finished.refusal();
    let report: Value = serde_json::from_str(&finished.printed()).unwrap();
    assert!(report["refused"].as_str().unwrap().contains("Frobnicate"));
}

#[test]
fn a_hostile_archive_is_refused_by_the_name_of_what_is_wrong() {
    let models = Models::new();
    let path = models.path("hostile.tar.gz");
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "model.onnx", "/etc/passwd").unwrap();
    fs::write(&path, archive.into_inner().unwrap().finish().unwrap()).unwrap();
    let refusal = longshore(["inspect", path.to_str().unwrap()]).refusal();
    assert!(refusal.contains("\"model.onnx\" in it is a symbolic link"), "{refusal}");

    // A thousand times smaller than what it unpacks to.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("model.onnx").unwrap();
    header.set_size(64 << 20);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    bomb.write_all(&vec![0; 64 << 20]).unwrap();
    fs::write(&path, bomb.finish().unwrap()).unwrap();
    let refusal = longshore(["inspect", "--max-unpacked", "10MiB", path.to_str().unwrap()]).refusal();
    assert!(
        refusal.contains("more than 10485760 bytes; pack less, or raise --max-unpacked"),
        "{refusal}"
    );
}
