//! Example requests in a manifest: they run during the load, and a wrong response makes the load
//! fail.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Builder, Finished, Server, eventually, longshore};

/// Places the model `y = 2 * x` with this manifest, and returns its url.
fn place(server: &Server, name: &str, manifest: &Value) -> String {
    let url = server.models().place_scale(name, 2.0);
    fs::write(Path::new(&url).join("longshore.json"), manifest.to_string()).unwrap();
    url
}

fn golden(body: &Value, response: &Value) -> Value {
    json!({"golden": [{"request": {"body": body}, "response": response}]})
}

#[test]
fn a_model_with_the_golden_responses_of_its_manifest_is_loaded() {
    let server = Builder::multi().start();
    let manifest = json!({
        "warmup": [{"body": {"instances": [1, 2, 3]}}],
        "golden": [
            {"request": {"body": {"instances": [4, -0.5]}}, "response": {"predictions": [8.0001, -1]}},
            {
                "request": {"content_type": "text/csv", "accept": "text/csv", "body": "1\n2\n"},
                "response": "2\n4.0001\n",
            },
            {
                "request": {"content_type": "text/csv", "body": "3"},
                "response": {"predictions": [6.5]}, "rtol": 0, "atol": 0.5,
            },
        ],
    });
    let url = place(&server, "m", &manifest);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
}

#[test]
fn a_load_fails_if_a_golden_response_differs_and_leaves_nothing() {
    let server = Builder::multi().start();
    let mut manifest = golden(&json!({"instances": [1]}), &json!({"predictions": [2]}));
    manifest["golden"].as_array_mut().unwrap().push(json!({
        "request": {"body": {"instances": [1, 2]}}, "response": {"predictions": [2, 4.5]}, "rtol": 0.01,
    }));
    let url = place(&server, "m", &manifest);
    let refusal = server.load("m", &url).expect(400);
    assert_eq!(refusal.json()["type"], "InvalidModelException");
    let message = refusal.message();
    for part in [
        "longshore.json: golden request 2 has the wrong answer",
        "at $.predictions[1] the answer has 4.0, but 4.5 is expected",
        "(rtol 0.01, atol 0.000001)",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
    server.describe("m").expect(404);
    place(
        &server,
        "m",
        &golden(&json!({"instances": [1]}), &json!({"predictions": [2]})),
    );
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
}

#[test]
fn a_load_fails_with_the_reason_if_a_request_of_the_manifest_fails() {
    let server = Builder::multi().start();
    let table = [
        (
            json!({"warmup": [{"body": {"instances": ["a"]}}]}),
            "warm-up request 1 failed: ",
        ),
        (
            json!({"warmup": [{"body": "1", "content_type": "application/x-unknown"}]}),
            "application/x-unknown",
        ),
        (
            json!({"golden": [{"request": {"body": {"instances": [1]}, "accept": "image/png"}, "response": 1}]}),
            "golden request 1 failed: ",
        ),
        (json!({"warmup": [{}]}), "expected either \"body\" or \"file\""),
        (
            json!({"warmup": [{"body": 1, "file": "x"}]}),
            "expected either \"body\" or \"file\"",
        ),
        (
            json!({"warmup": [{"file": "gone.csv"}]}),
            "warm-up request 1: the file \"gone.csv\" is not in the artifact",
        ),
        (
            json!({"warmup": [{"file": "../../other.csv"}]}),
            "must be a relative path inside the artifact",
        ),
        (
            json!({"warmup": vec![json!({"body": 1}); 65]}),
            "\"warmup\" has 65 requests; the limit is 64",
        ),
        (
            json!({"golden": [{"request": {"body": 1}, "response": 1, "atol": -1}]}),
            "golden[0].atol: expected a number of 0 or more",
        ),
    ];
    for (manifest, reason) in table {
        let url = place(&server, "m", &manifest);
        let message = server.load("m", &url).expect(400).message();
        assert!(message.contains(reason), "{reason}\n{message}");
    }
}

#[test]
fn a_golden_body_may_be_a_file_next_to_the_manifest() {
    let server = Builder::multi().start();
    let manifest = |expected: &str| {
        let request = json!({"content_type": "text/csv", "accept": "text/csv", "file": "requests/one.csv"});
        json!({"golden": [{"request": request, "response": expected}]})
    };
    let url = place(&server, "m", &manifest("2\n6\n"));
    let folder = Path::new(&url);
    fs::create_dir(folder.join("requests")).unwrap();
    fs::write(folder.join("requests/one.csv"), "1\n3\n").unwrap();
    server.load("m", &url).expect(200);
    let other = place(&server, "other", &manifest("2\n7\n"));
    let other = Path::new(&other);
    fs::create_dir(other.join("requests")).unwrap();
    fs::write(other.join("requests/one.csv"), "1\n3\n").unwrap();
    let message = server.load("other", other.to_str().unwrap()).expect(400).message();
    assert!(
        message.contains("at row 2, column 1 the answer has \"6.0\", but \"7\" is expected"),
        "{message}"
    );
    // The files of all requests may have 16 MiB together.
    fs::write(other.join("requests/one.csv"), vec![b'1'; (16 << 20) + 1]).unwrap();
    let message = server.load("other", other.to_str().unwrap()).expect(400).message();
    assert!(message.contains("more than 16777216 bytes"), "{message}");
    fs::remove_file(other.join("requests/one.csv")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", other.join("requests/one.csv")).unwrap();
    server.load("other", other.to_str().unwrap()).expect(400);
}

#[test]
fn a_restarted_process_restores_a_model_and_its_manifest_without_its_files() {
    let cache = tempfile::tempdir().unwrap();
    let server = Builder::multi().argument("--cache-dir").argument(cache.path()).start();
    // The restore must not run this request, because its file is gone by then.
    let request = json!({"content_type": "text/csv", "file": "request.csv"});
    let manifest = json!({
        "csv": {"missing": ["NA"]},
        // Longer than one message between supervisor and worker.
        "labels": (0..40_000).map(|number| format!("label {number}")).collect::<Vec<_>>(),
        "warmup": [request],
    });
    let url = server.models().place_scale("m", 2.0);
    fs::write(Path::new(&url).join("longshore.json"), manifest.to_string()).unwrap();
    fs::write(Path::new(&url).join("request.csv"), "1\n").unwrap();
    server.load("m", &url).expect(200);
    let plain = server.models().place_scale("plain", 3.0);
    server.load("plain", &plain).expect(200);
    let ask = || {
        let request = Server::invocation("m")
            .header("Content-Type", "text/csv")
            .header("Accept", "text/csv");
        server.send(&request.body("4\nNA\n")).expect(200).text()
    };
    let before = ask();
    assert_eq!(before, "8.0\nnan\n");
    fs::remove_dir_all(server.models().path("m")).unwrap();
    for _ in 0..2 {
        let worker = server.process();
        worker.signal(Signal::KILL);
        eventually("the worker is gone", || !worker.is_alive());
        server.ping();
        assert_eq!(ask(), before);
        server.assert_scales("plain", 3.0);
    }
}

fn pack(folder: &str, archive: &Path) -> Finished {
    longshore(["pack", folder, "-o", archive.to_str().unwrap()])
}

#[test]
fn pack_runs_the_requests_of_the_manifest_and_refuses_a_model_that_fails_them() {
    let server = Builder::multi().start();
    let manifest = |expected: f64| {
        let request = json!({"content_type": "text/csv", "file": ".requests/one.csv"});
        json!({"golden": [{"request": request, "response": {"predictions": [expected]}}]})
    };
    let url = place(&server, "m", &manifest(2.0));
    let folder = Path::new(&url);
    fs::create_dir(folder.join(".requests")).unwrap();
    fs::write(folder.join(".requests/one.csv"), "1\n").unwrap();
    let archive = server.models().path("m.tar.gz");
    let summary = longshore(["pack", &url, "-o", archive.to_str().unwrap(), "--json"]).json();
    let files = summary["files"].as_array().unwrap();
    for file in [".requests/one.csv", "longshore.json", "model.onnx"] {
        assert!(files.contains(&json!(file)), "{file}\n{summary:#}");
    }

    fs::write(folder.join("longshore.json"), manifest(3.0).to_string()).unwrap();
    let other = server.models().path("other.tar.gz");
    let refusal = pack(&url, &other).refusal();
    assert!(
        refusal.contains("golden request 1 has the wrong answer: at $.predictions[0] the answer has 2.0, but 3.0 is"),
        "{refusal}"
    );
    assert!(!other.exists());
    // A server refuses the model for the same reason.
    let message = server.load("m", &url).expect(400).message();
    let (_, reason) = message.split_once("cannot be loaded: ").unwrap();
    assert!(refusal.contains(reason), "{reason}\n{refusal}");
}

#[test]
fn pack_and_inspect_refuse_a_manifest_that_does_not_fit_as_a_load_does() {
    let server = Builder::multi().start();
    let url = place(&server, "m", &json!({"outputs": ["nowhere"]}));
    let message = server.load("m", &url).expect(400).message();
    let (_, reason) = message.split_once("cannot be loaded: ").unwrap();
    let archive = server.models().path("m.tar.gz");
    for refusal in [pack(&url, &archive).refusal(), longshore(["inspect", &url]).refusal()] {
        assert!(refusal.contains(reason), "{reason}\n{refusal}");
    }
    assert!(!archive.exists());
}

#[test]
fn inspect_shows_the_manifest() {
    let server = Builder::multi().start();
    let manifest = json!({
        "inputs": [{"name": "x", "aliases": ["height"]}],
        "outputs": [{"name": "y", "as": "double"}],
        "csv": {"missing": ["NA"]},
        "warmup": [{"body": {"instances": [1]}}],
        "golden": [{"request": {"body": {"instances": [1]}}, "response": {"predictions": [2]}}],
    });
    let url = place(&server, "m", &manifest);
    let text = longshore(["inspect", &url]).output();
    for part in [
        "inputs: x (or height)",
        "outputs: y as double",
        "CSV: missing values NA",
        "requests: 1 warm-up, 1 golden",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let report = longshore(["inspect", &url, "--json"]).json();
    assert_eq!(report["manifest"]["outputs"], manifest["outputs"]);
    assert_eq!(
        (&report["manifest"]["warmup"], &report["manifest"]["golden"]),
        (&json!(1), &json!(1))
    );
    let plain = longshore(["inspect", &server.models().place_scale("plain", 2.0), "--json"]).json();
    assert_eq!(plain["manifest"], Value::Null);
}
