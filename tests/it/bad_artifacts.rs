//! Broken artifacts: a load refuses them as broken, never as "out of memory" or "already loaded"
//! (MM-18), and other models are not affected (PI-4).

use serde_json::json;

use crate::harness::Builder;

/// The artifacts in `tests/models/bad`, and words that the refusal must contain. Two are missing
/// here: `divide_crash` ends ONNX Runtime's process, and `function_bomb` never ends (see
/// `isolation`).
const ARTIFACTS: [(&str, &[&str]); 20] = [
    ("ambiguous", &["more than one model", "first.onnx", "second.onnx"]),
    ("bad_initializer", &["ONNX Runtime refuses the model"]),
    ("cyclic", &["not acyclic"]),
    ("empty_directory", &["no model in", "model.onnx"]),
    ("empty_file", &["model.onnx"]),
    ("external_absolute", &["/etc/passwd", "outside the artifact"]),
    ("external_missing", &["missing.bin", "not in the artifact"]),
    ("external_parent", &["../secret.bin", "outside the artifact"]),
    (
        "float8_input",
        &["input \"x\" is a tensor of f8", "no content type carries"],
    ),
    ("garbage", &["is not a model"]),
    ("huge_declared", &["ONNX Runtime refuses the model"]),
    (
        "ir_future",
        &["IR version", "export the model with IR version 13 at most"],
    ),
    ("locale_turkish", &["StringNormalizer", "tr_ZZ.UTF-8", "en_US.UTF-8"]),
    ("negative_dimension", &["impossible shape"]),
    (
        "opset_future",
        &["opset", "export the model with opset ", " of ai.onnx at most"],
    ),
    (
        "sequence_input",
        &["input \"x\" is sequence(float32", "no content type carries"],
    ),
    ("text", &["is an HTML or XML document"]),
    ("truncated", &["is not a model"]),
    (
        "unknown_domain",
        &["domain \"com.example.custom\"", "--operators LIBRARY"],
    ),
    ("unknown_operator", &["Frobnicate"]),
];

#[test]
fn every_broken_artifact_is_refused_with_a_reason_each_time_and_leaves_nothing() {
    let server = Builder::multi().with_caught_panics().start();
    let good = server.models().place_scale("good", 2.0);
    server.load("good", &good).expect(200);
    let reserved = server.reserved();
    for (name, parts) in ARTIFACTS {
        let url = server.models().place(&format!("bad/{name}"), name);
        // The file to which external_parent refers exists.
        std::fs::write(server.models().path(name).join("secret.bin"), [0; 16]).unwrap();
        for attempt in ["first", "second"] {
            let refusal = server.load(name, &url);
            assert_eq!(refusal.status, 400, "{name}, {attempt}: {}", refusal.text());
            assert_eq!(refusal.json()["type"], "InvalidModelException", "{name}");
            for part in [name].iter().chain(parts) {
                assert!(
                    refusal.message().contains(part),
                    "{part:?} is not in {}",
                    refusal.message()
                );
            }
            server.describe(name).expect(404);
            server.unload(name).expect(404);
        }
        assert_eq!(server.reserved(), reserved, "{name}");
        server.ping().expect(200);
        server.assert_scales("good", 2.0);
    }
    assert_eq!(server.list("")["models"].as_array().unwrap().len(), 1);
}

#[test]
fn the_table_lists_every_broken_artifact() {
    let mut known: Vec<String> = ARTIFACTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.extend(["divide_crash", "function_bomb"].map(String::from));
    known.sort();
    let mut present: Vec<String> = std::fs::read_dir(crate::harness::fixture("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    present.sort();
    assert_eq!(known, present);
}

#[test]
fn a_name_can_be_reused_after_a_load_of_a_broken_model() {
    let server = Builder::multi().start();
    let url = server.models().place("bad/truncated", "m");
    server.load("m", &url).expect(400);
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
    assert_eq!(server.list("")["models"][0]["modelName"], json!("m"));
}
