//! Snapshots in Hugging Face's cache, whose files are links to blobs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Builder, Request, Server, eventually, fixture, scale};

/// Makes a cache in `hub` with a snapshot of a model with external data; returns the snapshot's
/// folder.
fn snapshot(hub: &Path) -> PathBuf {
    let repository = hub.join("models--org--net");
    let snapshot = repository.join("snapshots/0123abcd");
    fs::create_dir_all(snapshot.join("onnx")).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    for (index, entry) in fs::read_dir(fixture("external")).unwrap().flatten().enumerate() {
        let blob = format!("{index:08x}");
        fs::write(repository.join("blobs").join(&blob), fs::read(entry.path()).unwrap()).unwrap();
        let link = snapshot.join("onnx").join(entry.file_name());
        symlink(format!("../../../blobs/{blob}"), link).unwrap();
    }
    snapshot
}

/// The response to a valid request.
fn answer(server: &Server, request: Request) -> String {
    let case = &crate::harness::cases("external")[0];
    let inputs: serde_json::Map<_, _> = case
        .inputs
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.nested()))
        .collect();
    server
        .send(&request.json(&json!({"inputs": inputs})))
        .expect(200)
        .text()
}

#[test]
fn a_snapshot_is_served_in_place_below_the_models_root_or_by_its_path() {
    let plain = Builder::multi().start();
    let url = plain.models().place("external", "m");
    plain.load("m", &url).expect(200);
    let expected = answer(&plain, Server::invocation("m"));

    let below = Builder::multi().start();
    let folder = snapshot(below.models().root());
    below.load("m", folder.to_str().unwrap()).expect(200);
    assert_eq!(answer(&below, Server::invocation("m")), expected);

    let hub = tempfile::tempdir().unwrap();
    let folder = snapshot(hub.path());
    for named in [folder.clone(), folder.join("onnx/model.onnx")] {
        let single = Builder::single(&named).start();
        eventually("the model is loaded", || single.ping().status == 200);
        assert_eq!(
            answer(&single, Request::post("/invocations")),
            expected,
            "{}",
            named.display()
        );
    }

    let store = Builder::store(hub.path().to_str().unwrap(), []).start();
    let request =
        Request::post("/invocations").header("x-amzn-sagemaker-target-model", "models--org--net/snapshots/0123abcd");
    assert_eq!(answer(&store, request), expected);
}

#[test]
fn links_of_a_snapshot_may_lead_only_to_its_own_blobs() {
    let server = Builder::multi().start();
    let hub = server.models().root();
    fs::create_dir_all(hub.join("models--secret/blobs")).unwrap();
    for blob in ["models--secret/blobs/5e", "secret.onnx"] {
        fs::write(hub.join(blob), scale(2.0)).unwrap();
    }
    let snapshot = hub.join("models--mine/snapshots/0");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(hub.join("models--mine/blobs")).unwrap();
    symlink("../../secret.onnx", hub.join("models--mine/blobs/link")).unwrap();
    for target in [
        "../../../models--secret/blobs/5e",
        "../../../secret.onnx",
        "../../blobs/link",
    ] {
        let link = snapshot.join("model.onnx");
        let _ = fs::remove_file(&link);
        symlink(target, &link).unwrap();
        let message = server.load("m", snapshot.to_str().unwrap()).expect(400).message();
        assert!(message.contains("is a link out of the artifact"), "{target}: {message}");
    }
    // A repository whose folder of blobs is a link to that of another repository.
    fs::remove_dir_all(hub.join("models--mine/blobs")).unwrap();
    symlink("../models--secret/blobs", hub.join("models--mine/blobs")).unwrap();
    fs::remove_file(snapshot.join("model.onnx")).unwrap();
    symlink("../../blobs/5e", snapshot.join("model.onnx")).unwrap();
    let message = server.load("m", snapshot.to_str().unwrap()).expect(400).message();
    assert!(message.contains("is a link out of the artifact"), "{message}");
}
