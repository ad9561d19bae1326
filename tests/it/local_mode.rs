//! Single-model mode with a directory of archives, as in the local mode of SageMaker's SDK. For a
//! multi-model container, local mode copies the whole prefix to `/opt/ml/model`, and sends
//! `/invocations` with the name of an archive in a header.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Builder, Request, Response, Server, eventually, scale};
use crate::support::archive::{Form, archive_as, archive_of};

fn put(folder: &TempDir, name: &str, content: &[u8]) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Creates a directory with archives of models, but without an unpacked model.
fn archives() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, "team/a.tar.gz", &archive_of(&scale(2.0)));
    put(&folder, "b.tar.gz", &archive_of(&scale(3.0)));
    put(
        &folder,
        "c.tar.zst",
        &archive_as(Form::Zstd, &[("model.onnx", &scale(4.0))]),
    );
    put(&folder, "broken.tar.gz", b"none");
    folder
}

fn serve(folder: &Path) -> Server {
    let server = Builder::single(folder).start();
    eventually("the container is healthy", || server.ping().status == 200);
    server
}

fn ask(server: &Server, name: Option<&str>) -> Response {
    let request = Request::post("/invocations").json(&json!({"instances": [4, -0.5]}));
    server.send(&match name {
        // The headers that local mode sends.
        Some(name) => request
            .header("X-Amzn-SageMaker-Target-Model", name)
            .header("X-Amzn-SageMaker-Target-Variant", "AllTraffic")
            .header("Accept", "application/json"),
        None => request,
    })
}

fn answer(factor: f32) -> Value {
    json!({"predictions": [factor * 4.0, factor * -0.5]})
}

#[test]
fn the_target_model_header_chooses_an_archive() {
    let folder = archives();
    let server = serve(folder.path());
    for _ in 0..2 {
        for (name, factor) in [("team/a.tar.gz", 2.0), ("b.tar.gz", 3.0), ("c.tar.zst", 4.0)] {
            assert_eq!(ask(&server, Some(name)).expect(200).json(), answer(factor), "{name}");
        }
    }
    server.ping().expect(200);
}

#[test]
fn unknown_archives_and_names_outside_the_directory_are_refused() {
    let folder = archives();
    let server = serve(&folder.path().join("team"));
    assert_eq!(ask(&server, Some("a.tar.gz")).expect(200).json(), answer(2.0));
    ask(&server, Some("gone.tar.gz")).expect(404);
    for name in ["../b.tar.gz", "/etc/passwd", "./a.tar.gz", ""] {
        ask(&server, Some(name)).expect(400);
    }
    drop(server);
    // With several archives there is no default model.
    let message = ask(&serve(folder.path()), None).expect(400).message();
    assert!(message.contains("X-Amzn-SageMaker-Target-Model"), "{message}");
}

#[test]
fn a_single_archive_needs_no_header() {
    let folder = archives();
    let server = serve(&folder.path().join("team"));
    assert_eq!(ask(&server, None).expect(200).json(), answer(2.0));
    let server = serve(&folder.path().join("team/a.tar.gz"));
    assert_eq!(ask(&server, None).expect(200).json(), answer(2.0));
}

#[test]
fn a_broken_archive_is_a_503_with_the_reason_and_others_are_served() {
    let folder = archives();
    let server = serve(folder.path());
    let message = ask(&server, Some("broken.tar.gz")).expect(503).message();
    assert!(message.contains("broken.tar.gz"), "{message}");
    assert_eq!(ask(&server, Some("b.tar.gz")).expect(200).json(), answer(3.0));
}

#[test]
fn requests_without_a_header_use_the_model_next_to_the_archives() {
    // Local mode unpacks archives at the top of the prefix, and does not change the others.
    let folder = archives();
    put(&folder, "model.onnx", &scale(5.0));
    let server = serve(folder.path());
    assert_eq!(ask(&server, None).expect(200).json(), answer(5.0));
    assert_eq!(ask(&server, Some("team/a.tar.gz")).expect(200).json(), answer(2.0));
}

#[test]
fn the_model_directory_is_not_changed() {
    // ST-8: the contract makes the directory read-only.
    let folder = archives();
    let listing = || {
        let mut files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    };
    let before = listing();
    let server = serve(folder.path());
    ask(&server, Some("b.tar.gz")).expect(200);
    assert_eq!(listing(), before);
}
