//! Folders as they are published: what is served without a change, what is refused and why.

mod operators;
mod optional;
mod snapshots;

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{Builder, Models, fixture, longshore, scale};

/// Writes files below `folder`.
fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (path, content) in files {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
}

/// An artifact of these files below the root of `models`, and its url.
fn place(models: &Models, name: &str, files: &[(&str, &[u8])]) -> String {
    let folder = models.path(name).join("model");
    fs::create_dir_all(&folder).unwrap();
    write(&folder, files);
    folder.display().to_string()
}

#[test]
fn published_folders_are_served_as_they_are() {
    let server = Builder::multi().start();
    let [one, two, three] = [1.5, 2.5, 3.5].map(scale);
    let (one, two, three) = (&*one, &*two, &*three);
    type Published<'a> = (&'a str, &'a [(&'a str, &'a [u8])], f32);
    let table: [Published<'_>; 6] = [
        (
            "sentence-transformers",
            &[
                (".gitattributes", b"*.onnx filter=lfs"),
                ("1_Pooling/config.json", b"{}"),
                ("README.md", b"# Model"),
                ("config.json", b"{}"),
                ("model.safetensors", b"weights"),
                ("onnx/model.onnx", one),
                ("onnx/model_qint8_avx512.onnx", two),
                ("openvino/openvino_model.xml", b"<net/>"),
                ("tokenizer.json", b"{}"),
            ],
            1.5,
        ),
        (
            "quantised",
            &[
                ("config.json", b"{}"),
                ("onnx/model_fp16.onnx", one),
                ("onnx/model_quantized.onnx", two),
                ("onnx/model_q4.onnx", three),
            ],
            2.5,
        ),
        (
            "stem",
            &[("net_int8.onnx", one), ("net.onnx", two), ("net_fp16.onnx", three)],
            2.5,
        ),
        (
            "mlflow",
            &[
                (
                    "MLmodel",
                    b"artifact_path: model\nflavors:\n  onnx:\n    code: null\n    data: b.onnx\n",
                ),
                ("a.onnx", one),
                ("b.onnx", two),
                ("code/train.py", b""),
                ("conda.yaml", b""),
                ("python_env.yaml", b""),
                ("requirements.txt", b"onnx"),
            ],
            2.5,
        ),
        (
            "nested",
            &[
                ("export/onnx/model.onnx", one),
                ("export/config.json", b"{}"),
                ("export/openvino/x.xml", b""),
            ],
            1.5,
        ),
        (
            "triton",
            &[("1/model.onnx", one), ("3/model.onnx", three), ("config.pbtxt", b"")],
            3.5,
        ),
    ];
    for (name, files, factor) in table {
        let url = place(server.models(), name, files);
        server.load(name, &url).expect(200);
        server.assert_scales(name, factor);
    }
    server.wait_for_log("of several precisions of one model, 8 bits are preferred on a CPU");
    server.wait_for_log("of several precisions of one model, the one it was trained in");
    assert_eq!(server.count_in_log("the model was chosen"), 2);
}

#[test]
fn what_is_not_one_model_is_refused_with_the_names() {
    let server = Builder::multi().start();
    let model = &*scale(2.0);
    type Refused<'a> = (&'a str, &'a [(&'a str, &'a [u8])], &'a [&'a str]);
    let table: [Refused<'_>; 3] = [
        (
            "generator",
            &[
                ("config.json", b"{}"),
                ("onnx/encoder_model.onnx", model),
                ("onnx/decoder_model.onnx", model),
            ],
            &["a model of several graphs (decoder_model.onnx, encoder_model.onnx)"],
        ),
        (
            "two",
            &[("large.onnx", model), ("small.onnx", model)],
            &["more than one model", "(large.onnx, small.onnx)", "longshore.json"],
        ),
        (
            "none",
            &[("config.json", b"{}"), ("model.safetensors", b"weights")],
            &["no model in", "export the model as ONNX first"],
        ),
    ];
    for (name, files, words) in table {
        let url = place(server.models(), name, files);
        let message = server.load(name, &url).expect(400).message();
        for word in words {
            assert!(message.contains(word), "{name}: {message}");
        }
    }
}

#[test]
fn inspect_says_why_a_file_is_the_model() {
    let models = Models::new();
    let model = &*scale(2.0);
    let url = place(&models, "x", &[("net_fp16.onnx", model), ("net_uint8.onnx", model)]);
    let report = longshore(["inspect", "--json", &url]).json();
    assert_eq!(report["model"], json!("net_uint8.onnx"));
    assert_eq!(
        report["found_because"],
        json!("of several precisions of one model, 8 bits are preferred on a CPU; the others are net_fp16.onnx")
    );
    let report = longshore(["inspect", "--json", fixture("mlp").to_str().unwrap()]).json();
    assert_eq!(report["found_because"], json!("it has the usual name"));
}
