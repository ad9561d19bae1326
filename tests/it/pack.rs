//! `longshore pack`, and what becomes of what it has packed.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use longshore::archive::{Bounds, Expected, unpack};
use longshore::engine::{ContentHash, PackedDescription};
use serde_json::{Value, json};

use crate::harness::{Builder, Finished, Models, Server, assert_close, cases, fixture, longshore};

fn pack(path: impl AsRef<Path>, output: &Path, more: &[&str]) -> Finished {
    let words = ["pack", "-o"].map(String::from);
    let paths = [output, path.as_ref()].map(|path| path.display().to_string());
    longshore(
        words
            .into_iter()
            .chain(paths)
            .chain(more.iter().map(|word| (*word).to_owned())),
    )
}

/// Packs the artifact at `path` and unpacks it where the platform would, as model `name`.
#[track_caller]
fn packed(models: &Models, path: impl AsRef<Path>, name: &str) -> PathBuf {
    let archive = models.path(&format!("{name}.tar.gz"));
    pack(path, &archive, &[]).output();
    let folder = models.path(name).join("model");
    fs::create_dir_all(&folder).unwrap();
    let bounds = Bounds {
        entries: 100,
        bytes: 1 << 30,
        ratio: 200,
    };
    unpack(
        File::open(&archive).unwrap(),
        Expected::Anything("model.onnx"),
        &folder,
        &bounds,
    )
    .unwrap();
    folder
}

#[track_caller]
fn load(server: &Server, name: &str, folder: &Path) {
    server.load(name, folder.to_str().unwrap()).expect(200);
}

fn prepared(folder: &Path) -> PathBuf {
    folder.join(".longshore/prepared.ort")
}

fn description(folder: &Path) -> PathBuf {
    folder.join(".longshore/prepared.json")
}

/// The prepared models that a server has kept.
fn kept(models: &Models) -> Vec<Vec<u8>> {
    let files = fs::read_dir(models.cache())
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "ort"))
        .map(|file| fs::read(file).unwrap())
        .collect()
}

#[track_caller]
fn assert_answers(server: &Server, name: &str) {
    for case in cases("mlp") {
        let answer = server.invoke(name, &json!({"instances": case.inputs["features"].rows()}));
        assert_close(&answer.expect(200).json()["predictions"], &case.output("scores"), name);
    }
}

#[test]
fn a_packed_model_is_loaded_in_its_prepared_form_and_answers_as_before() {
    let server = Builder::multi().start();
    let folder = packed(server.models(), fixture("mlp"), "packed");
    load(&server, "packed", &folder);
    assert_eq!(kept(server.models()), [fs::read(prepared(&folder)).unwrap()]);
    assert_answers(&server, "packed");
}

#[test]
fn every_kind_of_model_answers_the_same_before_and_after_packing() {
    let server = Builder::multi().start();
    let models = [
        "trees",
        "external",
        "iris_zipmap_str",
        "two_inputs",
        "columns",
        "identity_string",
    ];
    for model in models {
        load(
            &server,
            &format!("{model}-before"),
            Path::new(&server.models().place(model, model)),
        );
        let folder = packed(server.models(), fixture(model), &format!("{model}-after"));
        load(&server, &format!("{model}-after"), &folder);
        for case in cases(model) {
            let inputs: serde_json::Map<String, Value> = case
                .inputs
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.nested()))
                .collect();
            let [before, after] = ["before", "after"].map(|which| {
                let answer = server.invoke(&format!("{model}-{which}"), &json!({"inputs": inputs}));
                answer.expect(200).text()
            });
            assert_eq!(before, after, "{model}");
        }
    }
}

#[test]
fn a_form_that_was_prepared_for_another_platform_is_passed_over() {
    let server = Builder::multi().start();
    let folder = packed(server.models(), fixture("mlp"), "elsewhere");
    let text = fs::read_to_string(description(&folder)).unwrap();
    assert!(text.contains("\"features\": \""));
    fs::write(
        description(&folder),
        text.replace("\"features\": \"", "\"features\": \"avx1024 "),
    )
    .unwrap();
    load(&server, "elsewhere", &folder);
    server.wait_for_log("it was made for a processor with other instruction sets");
    assert_answers(&server, "elsewhere");
}

#[test]
fn a_damaged_prepared_form_is_passed_over() {
    let server = Builder::multi().start();
    let folder = packed(server.models(), fixture("mlp"), "damaged");
    let mut bytes = fs::read(prepared(&folder)).unwrap();
    // Deep in the weights, where nothing but the hash tells.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(prepared(&folder), bytes).unwrap();
    load(&server, "damaged", &folder);
    server.wait_for_log("its content differs from what was packed");
    assert_answers(&server, "damaged");
}

/// Makes what `folder` says of its prepared form true of what is there now.
fn describe_anew(folder: &Path, model: Option<&str>) {
    let old: PackedDescription = serde_json::from_slice(&fs::read(description(folder)).unwrap()).unwrap();
    let model = ContentHash::parse(model.unwrap_or(&old.model)).unwrap();
    let new = PackedDescription::new(old.platform, &model, &prepared(folder)).unwrap();
    fs::write(description(folder), serde_json::to_vec(&new).unwrap()).unwrap();
}

#[test]
fn a_prepared_form_that_does_not_load_is_passed_over() {
    let server = Builder::multi().start();
    let folder = packed(server.models(), fixture("mlp"), "cut");
    let bytes = fs::read(prepared(&folder)).unwrap();
    fs::write(prepared(&folder), &bytes[..bytes.len() / 2]).unwrap();
    describe_anew(&folder, None);
    load(&server, "cut", &folder);
    server.wait_for_log("a packed prepared model is refused");
    assert_answers(&server, "cut");
}

#[test]
fn a_changed_model_is_not_answered_by_what_was_prepared_of_the_old_one() {
    let server = Builder::multi().start();
    let old = server.models().place_scale("old", 2.0);
    let folder = packed(server.models(), old, "changed");
    let new = server.models().place_scale("new", 3.0);
    fs::copy(Path::new(&new).join("model.onnx"), folder.join("model.onnx")).unwrap();
    load(&server, "changed", &folder);
    server.wait_for_log("it was made from another model");
    server.assert_scales("changed", 3.0);
}

#[test]
fn a_false_prepared_form_answers_for_nobody_else() {
    let server = Builder::multi().start();
    let victim = server.models().place_scale("victim", 2.0);
    let folder = packed(server.models(), &victim, "attacker");
    let own = packed(server.models(), server.models().place_scale("evil", 9.0), "own");
    let content = longshore(["inspect", &victim, "--json"]).json()["content"]
        .as_str()
        .unwrap()
        .to_owned();
    fs::copy(prepared(&own), prepared(&folder)).unwrap();
    describe_anew(&folder, Some(&content));
    load(&server, "attacker", &folder);
    server.assert_scales("attacker", 9.0);
    load(&server, "victim", Path::new(&victim));
    server.assert_scales("victim", 2.0);
    load(&server, "packed", &packed(server.models(), &victim, "packed"));
    server.assert_scales("packed", 2.0);
}

#[test]
fn what_a_server_refuses_is_not_packed_and_for_the_same_reason() {
    let server = Builder::multi().start();
    let bad = [
        "unknown_operator",
        "external_missing",
        "external_parent",
        "truncated",
        "ambiguous",
        "sequence_input",
        "negative_dimension",
        "empty_directory",
    ];
    for name in bad {
        let url = server.models().place(&format!("bad/{name}"), name);
        let reason = server.load(name, &url).expect(400).message();
        let (_, reason) = reason.split_once("cannot be loaded: ").unwrap();
        let output = server.models().path(&format!("{name}.tar.gz"));
        let refusal = pack(&url, &output, &[]).refusal();
        assert!(refusal.contains(reason), "{reason}\n{refusal}");
        assert!(!output.exists());
    }
}

#[test]
fn the_same_artifact_without_a_prepared_form_is_the_same_archive() {
    let models = Models::new();
    let [first, second] = ["first", "second"].map(|name| {
        let folder = models.place("external", name);
        let archive = models.path(&format!("{name}.tar.gz"));
        // ONNX Runtime may write a prepared form differently each time.
        pack(folder, &archive, &["--no-prepared"]).output();
        fs::read(archive).unwrap()
    });
    assert!(first == second, "two archives of the same artifact differ");
}

#[test]
fn the_archive_holds_the_artifact_and_says_what_it_left_out() {
    let models = Models::new();
    let folder = PathBuf::from(models.place("external", "m"));
    fs::create_dir(folder.join("__MACOSX")).unwrap();
    fs::write(folder.join(".DS_Store"), "").unwrap();
    // Into the artifact itself, twice.
    let output = folder.join("model.tar.gz");
    pack(&folder, &output, &[]).output();
    let summary = pack(&folder, &output, &["--force", "--json"]).json();
    let expected = [
        ".longshore/prepared.json",
        ".longshore/prepared.ort",
        "cases.json",
        "model.onnx",
        "weights.bin",
    ];
    assert_eq!(summary["files"], json!(expected));
    let left_out: Vec<&str> = summary["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| left["path"].as_str().unwrap())
        .collect();
    assert_eq!(left_out, [".DS_Store", "__MACOSX/", "model.tar.gz"]);
    let plain = pack(&folder, &output, &["--force", "--json", "--no-prepared"]).json();
    assert_eq!(plain["files"], json!(expected[2..]));
    assert_eq!(plain["prepared_for"], Value::Null);
}

#[test]
fn a_model_file_is_packed_with_the_weights_that_it_refers_to() {
    let models = Models::new();
    let folder = PathBuf::from(models.place("external", "m"));
    let output = models.path("model.tar.gz");
    let summary = pack(folder.join("model.onnx"), &output, &["--json", "--no-prepared"]).json();
    assert_eq!(summary["files"], json!(["model.onnx", "weights.bin"]));
}

#[test]
fn what_cannot_be_packed_is_named_and_no_archive_is_left() {
    let models = Models::new();
    let folder = PathBuf::from(models.place("mlp", "m"));
    let output = models.path("model.tar.gz");
    symlink("/etc/hostname", folder.join("host")).unwrap();
    let refusal = pack(&folder, &output, &[]).refusal();
    assert!(refusal.contains("host is a link"), "{refusal}");
    assert!(!output.exists());
    fs::remove_file(folder.join("host")).unwrap();
    fs::write(&output, "precious").unwrap();
    let refusal = pack(&folder, &output, &[]).refusal();
    assert!(refusal.contains("--force"), "{refusal}");
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    let refusal = pack(&folder, &models.path("gone").join("model.tar.gz"), &[]).refusal();
    assert!(refusal.contains("is no directory"), "{refusal}");
    let archive = models.path("other.tar.gz");
    for (content, reason) in [
        (&b"\x1f\x8b\x08"[..], "is an archive already"),
        (b"PK\x03\x04", "a zip archive"),
    ] {
        fs::write(&archive, content).unwrap();
        let refusal = pack(&archive, &models.path("third.tar.gz"), &[]).refusal();
        assert!(refusal.contains(reason), "{refusal}");
    }
    fs::remove_file(archive).unwrap();
    let left: Vec<_> = fs::read_dir(models.root())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn the_links_of_a_hugging_face_snapshot_are_packed_as_files() {
    let server = Builder::multi().start();
    let hub = server.models().path("models--longshore--mlp");
    let snapshot = hub.join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(hub.join("blobs")).unwrap();
    fs::copy(fixture("mlp").join("model.onnx"), hub.join("blobs/5e9f")).unwrap();
    symlink("../../blobs/5e9f", snapshot.join("model.onnx")).unwrap();
    longshore(["inspect", snapshot.to_str().unwrap()]).output();
    for (name, path) in [("folder", snapshot.clone()), ("file", snapshot.join("model.onnx"))] {
        let folder = packed(server.models(), path, name);
        load(&server, name, &folder);
        assert_answers(&server, name);
    }
    symlink("../../../secret", snapshot.join("secret")).unwrap();
    fs::write(server.models().path("secret"), "secret").unwrap();
    let refusal = pack(&snapshot, &server.models().path("refused.tar.gz"), &[]).refusal();
    assert!(refusal.contains("secret is a link"), "{refusal}");
}

#[test]
fn a_manifest_with_a_byte_order_mark_is_read() {
    let server = Builder::multi().start();
    let folder = PathBuf::from(server.models().place("mlp", "marked"));
    fs::rename(folder.join("model.onnx"), folder.join("first.onnx")).unwrap();
    fs::copy(folder.join("first.onnx"), folder.join("second.onnx")).unwrap();
    fs::write(folder.join("longshore.json"), "\u{feff}{\"model\": \"first.onnx\"}").unwrap();
    load(&server, "marked", &folder);
    assert_answers(&server, "marked");
}

#[test]
fn a_text_model_is_inspected_and_packed_where_the_machine_lacks_its_locale() {
    let server = Builder::multi().start();
    let seen = longshore(["inspect", "--json", &fixture("text_tfidf").display().to_string()]).json();
    assert!(seen["measured"]["run_peak_bytes"].is_u64(), "{seen:#}");
    let folder = packed(server.models(), fixture("text_tfidf"), "text");
    assert!(prepared(&folder).is_file());
    load(&server, "text", &folder);
    for case in cases("text_tfidf") {
        let answer = server.invoke("text", &json!({"inputs": {"text": case.inputs["text"].nested()}}));
        assert_eq!(answer.expect(200).json()["outputs"]["label"], case.output("label"));
    }
}
