use std::fs;
use std::num::NonZeroUsize;

use super::*;
use crate::manifest::{Batching, FILE as MANIFEST};

/// Finds the model of the directory `root`.
fn locate(root: &Path) -> Result<(PathBuf, Manifest), ArtifactError> {
    let located = locate::locate(&Folder::open(root).unwrap(), Processor::Cpu, None)?;
    Ok((located.model, located.manifest))
}

fn open(path: &Path) -> Result<Artifact, ArtifactError> {
    super::open(&ArtifactPath::trusted(path), Processor::Cpu)
}

/// Creates a directory with empty files at `paths`; a path that ends in `/` is a directory.
fn artifact(paths: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in paths {
        let full = root.path().join(path);
        if path.ends_with('/') {
            fs::create_dir_all(full).unwrap();
        } else {
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, b"").unwrap();
        }
    }
    root
}

#[test]
fn the_model_is_found_in_the_documented_order() {
    let table: [(&[&str], &str); 9] = [
        (&["model.onnx", "other.onnx"], "model.onnx"),
        (&["model.ort"], "model.ort"),
        (&["net.onnx", "readme.txt"], "net.onnx"),
        (&["1/model.onnx", "3/model.onnx", "10/model.onnx"], "10/model.onnx"),
        (&["1/model.onnx", "2/"], "1/model.onnx"),
        (&["segment/model.onnx"], "segment/model.onnx"),
        (
            &["segment/2/model.onnx", "segment/config.pbtxt"],
            "segment/2/model.onnx",
        ),
        (
            &["net.onnx", "code/inference.onnx", "__MACOSX/._net.onnx", ".DS_Store"],
            "net.onnx",
        ),
        (&["segment/model.onnx", "code/inference.py"], "segment/model.onnx"),
    ];
    for (paths, expected) in table {
        let root = artifact(paths);
        assert_eq!(locate(root.path()).unwrap().0, root.path().join(expected), "{paths:?}");
    }
}

/// The files of a published folder, the path of its model, and the rule that finds it.
type Published<'a> = (&'a [&'a str], &'a str, FoundBy);

#[test]
fn the_model_is_found_in_folders_as_they_are_published() {
    let precision = |why, others: &str| FoundBy::Precision {
        why,
        others: others.to_owned(),
    };
    let table: [Published<'_>; 9] = [
        // sentence-transformers
        (
            &[
                ".gitattributes",
                "1_Pooling/config.json",
                "README.md",
                "config.json",
                "model.safetensors",
                "onnx/model.onnx",
                "onnx/model_O4.onnx",
                "onnx/model_qint8_avx512.onnx",
                "openvino/openvino_model.xml",
                "tokenizer.json",
            ],
            "onnx/model.onnx",
            FoundBy::Name,
        ),
        // Transformers.js, reduced to the small files.
        (
            &[
                "config.json",
                "onnx/model_fp16.onnx",
                "onnx/model_quantized.onnx",
                "tokenizer.json",
            ],
            "onnx/model_quantized.onnx",
            precision(
                "of several precisions of one model, 8 bits are preferred on a CPU",
                "model_fp16.onnx",
            ),
        ),
        (
            &["onnx/model_int8.onnx", "assets/"],
            "onnx/model_int8.onnx",
            FoundBy::Only,
        ),
        // The same in the only folder of an archive.
        (
            &["minilm/onnx/model.onnx", "minilm/1_Pooling/", "minilm/openvino/"],
            "minilm/onnx/model.onnx",
            FoundBy::Name,
        ),
        // MLflow
        (
            &[
                "MLmodel",
                "conda.yaml",
                "model.onnx",
                "python_env.yaml",
                "requirements.txt",
            ],
            "model.onnx",
            FoundBy::MlModel,
        ),
        (
            &["config.pbtxt", "labels.txt", "1/model.onnx", "2/model.onnx"],
            "2/model.onnx",
            FoundBy::Version,
        ),
        // An archive of MLflow whose folder has the name of the file.
        (
            &["requirements.txt", "code/", "metadata/", "model.onnx/model.onnx"],
            "model.onnx/model.onnx",
            FoundBy::Name,
        ),
        (
            &["net_O2.onnx", "net_O4.onnx", "readme.txt"],
            "net_O2.onnx",
            precision(
                "of several precisions of one model, the one it was trained in",
                "net_O4.onnx",
            ),
        ),
        // A model at the top is preferred to one in a folder.
        (&["net.onnx", "onnx/model.onnx"], "net.onnx", FoundBy::Only),
    ];
    for (paths, model, found) in table {
        let root = artifact(paths);
        if paths.contains(&"MLmodel") {
            fs::write(root.path().join("MLmodel"), "flavors:\n  onnx:\n    data: model.onnx\n").unwrap();
        }
        let located = locate::locate(&Folder::open(root.path()).unwrap(), Processor::Cpu, None).unwrap();
        assert_eq!(located.model, root.path().join(model), "{paths:?}");
        assert_eq!(located.found, found, "{paths:?}");
    }
}

#[test]
fn mlmodel_chooses_one_of_several_models_inside_the_artifact() {
    let root = artifact(&["a.onnx", "b.onnx"]);
    let named = |data: &str| {
        let text = format!("flavors:\n  onnx:\n    data: {data}\n");
        fs::write(root.path().join("MLmodel"), text).unwrap();
        locate(root.path())
    };
    assert_eq!(named("b.onnx").unwrap().0, root.path().join("b.onnx"));
    for data in ["c.onnx", "../a.onnx", "/etc/passwd"] {
        assert!(matches!(named(data), Err(ArtifactError::Ambiguous { .. })), "{data}");
    }
}

#[test]
fn the_manifest_at_the_top_applies_unless_the_model_has_one_in_its_folder() {
    let root = artifact(&["onnx/model.onnx", "openvino/"]);
    let write = |path: &str, task: &str| {
        fs::write(root.path().join(path), format!("{{\"task\": \"{task}\"}}")).unwrap();
    };
    write(MANIFEST, "top");
    assert_eq!(locate(root.path()).unwrap().1.task.as_deref(), Some("top"));
    write("onnx/longshore.json", "beside");
    assert_eq!(locate(root.path()).unwrap().1.task.as_deref(), Some("beside"));
}

#[test]
fn an_encoder_and_a_decoder_are_rejected_as_several_graphs() {
    for paths in [
        &[
            "encoder_model.onnx",
            "decoder_model.onnx",
            "decoder_with_past_model.onnx",
        ][..],
        &["onnx/encoder_model_int8.onnx", "onnx/decoder_model_merged_int8.onnx"],
        &["vision_encoder.onnx", "embed_tokens.onnx"],
    ] {
        let error = locate(artifact(paths).path()).unwrap_err();
        assert!(matches!(error, ArtifactError::SeveralGraphs { .. }), "{error}");
        assert!(
            error.to_string().contains("holds a model of several graphs ("),
            "{error}"
        );
    }
}

#[test]
fn the_error_for_two_models_without_a_hint_lists_them() {
    let root = artifact(&["a.onnx", "b.onnx"]);
    let error = locate(root.path()).unwrap_err().to_string();
    assert!(error.contains("(a.onnx, b.onnx)"), "{error}");
}

#[test]
fn the_error_for_a_directory_without_a_model_lists_its_contents() {
    let table: [(&[&str], &str); 3] = [
        (&[], "it holds nothing"),
        (&["a/", "b/"], "it holds a/, b/"),
        (&["saved_model.pb"], "it holds saved_model.pb"),
    ];
    for (paths, expected) in table {
        let error = locate(artifact(paths).path()).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn the_manifest_allows_or_forbids_batches() {
    let root = artifact(&["model.onnx", "2/model.onnx"]);
    let limited = |rows| Some(Batching::Allowed(NonZeroUsize::new(rows)));
    let table = [
        ("{}", None),
        (r#"{"batching": null}"#, None),
        (r#"{"batching": false}"#, Some(Batching::Never)),
        (r#"{"batching": true}"#, Some(Batching::Allowed(None))),
        (r#"{"batching": {"max_rows": 16}}"#, limited(16)),
        (r#"{"model": "2/model.onnx", "batching": {"max_rows": 2}}"#, limited(2)),
    ];
    for (text, expected) in table {
        fs::write(root.path().join(MANIFEST), text).unwrap();
        assert_eq!(locate(root.path()).unwrap().1.batching, expected, "{text}");
    }
    let table = [
        (
            r#"{"batching": 8}"#,
            "batching: expected true, false or {\"max_rows\": N}",
        ),
        (r#"["model.onnx", true]"#, "expected a JSON object"),
        (r#"{"batching": {"max_rows": 0}}"#, "with an N of 1 or more"),
        (
            r#"{"batching": {"max_rows": 2, "wait": 1}}"#,
            "\"batching.wait\" is not a key of longshore.json",
        ),
    ];
    for (text, expected) in table {
        fs::write(root.path().join(MANIFEST), text).unwrap();
        let error = locate(root.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_manifest_names_a_model_inside_the_artifact() {
    let root = artifact(&["a.onnx", "b.onnx"]);
    let manifest = root.path().join(MANIFEST);
    fs::write(&manifest, r#"{"model": "b.onnx"}"#).unwrap();
    assert_eq!(locate(root.path()).unwrap().0, root.path().join("b.onnx"));
    let table = [
        (r#"{"model": "c.onnx"}"#, "the model \"c.onnx\" is not in the artifact"),
        (
            r#"{"model": "../a.onnx"}"#,
            "must be a relative path inside the artifact",
        ),
        (
            r#"{"model": "/etc/passwd"}"#,
            "must be a relative path inside the artifact",
        ),
        (r#"{"modle": "a.onnx"}"#, "did you mean \"model\"?"),
        ("{", "EOF"),
    ];
    for (text, expected) in table {
        fs::write(&manifest, text).unwrap();
        let error = locate(root.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_model_that_is_a_link_out_of_the_artifact_is_rejected() {
    let outside = artifact(&["secret.onnx"]);
    let root = artifact(&[]);
    std::os::unix::fs::symlink(outside.path().join("secret.onnx"), root.path().join("model.onnx")).unwrap();
    assert!(matches!(open(root.path()), Err(ArtifactError::Escapes { .. })));
}

#[test]
fn files_of_a_snapshot_keep_their_names_and_are_read_from_the_blobs() {
    let hub = artifact(&["models--x/snapshots/abc/onnx/", "models--x/blobs/", "secret"]);
    let repository = real(&hub).join("models--x");
    let snapshot = repository.join("snapshots/abc");
    // A valid model that holds only a producer's name.
    fs::write(repository.join("blobs/1"), b"\x12\x02me").unwrap();
    fs::write(repository.join("blobs/2"), r#"{"task": "ranking"}"#).unwrap();
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, snapshot.join(name)).unwrap();
    link("../../../blobs/1", "onnx/model.onnx");
    link("../../blobs/2", "longshore.json");
    let model = snapshot.join("onnx/model.onnx");
    for path in [
        ArtifactPath::trusted(&*snapshot),
        ArtifactPath::trusted(&*model),
        ArtifactPath::below(real(&hub), snapshot.clone()),
    ] {
        let opened = super::open(&path, Processor::Cpu).unwrap();
        assert_eq!(opened.model, model, "{path:?}");
        assert_eq!(opened.file(&opened.model).unwrap().metadata().unwrap().len(), 4);
        if path.path() == snapshot {
            assert_eq!(opened.manifest.task.as_deref(), Some("ranking"));
        }
    }
    // The operator has named only the folder of snapshots, so the blobs next to it are out of
    // bounds.
    let narrow = ArtifactPath::below(repository.join("snapshots"), snapshot.clone());
    assert!(matches!(
        super::open(&narrow, Processor::Cpu),
        Err(ArtifactError::Escapes { .. })
    ));
    fs::remove_file(snapshot.join("longshore.json")).unwrap();
    link("../../../secret", "longshore.json");
    assert!(matches!(open(&snapshot), Err(ArtifactError::Escapes { .. })));
}

#[test]
fn directories_and_manifests_that_are_links_out_of_the_artifact_are_not_read() {
    let outside = artifact(&["a.onnx", "b.onnx", "longshore.json"]);
    let root = artifact(&[]);
    std::os::unix::fs::symlink(outside.path(), root.path().join("models")).unwrap();
    assert!(matches!(locate(&real(&root)), Err(ArtifactError::Escapes { .. })));
    let root = artifact(&["model.onnx"]);
    std::os::unix::fs::symlink(outside.path().join(MANIFEST), root.path().join(MANIFEST)).unwrap();
    assert!(matches!(locate(&real(&root)), Err(ArtifactError::Escapes { .. })));
}

fn real(root: &tempfile::TempDir) -> PathBuf {
    root.path().canonicalize().unwrap()
}

#[test]
fn the_name_decides_the_format_as_in_onnx_runtime() {
    let root = artifact(&[]);
    // In ONNX this is a producer's name. It also has the identifier of the other format at its
    // position.
    fs::write(root.path().join("model.onnx"), b"\x12\x06xxORTM").unwrap();
    assert!(!open(root.path()).unwrap().facts.has_unbounded_work);
    fs::rename(root.path().join("model.onnx"), root.path().join("model.ort")).unwrap();
    assert!(open(root.path()).unwrap().facts.has_unbounded_work);
    fs::write(root.path().join("model.ort"), b"\x12\x06xxxxxx").unwrap();
    assert!(matches!(open(root.path()), Err(ArtifactError::NotOrtFormat { .. })));
}

#[test]
fn a_path_that_does_not_exist_is_reported_as_missing() {
    let root = artifact(&[]);
    assert!(matches!(
        open(&root.path().join("gone")),
        Err(ArtifactError::Missing { .. })
    ));
}

#[test]
fn the_error_for_a_file_that_is_not_a_model_names_its_format() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 90387606\n";
    let page = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let table: [(&[u8], &str); 8] = [
        (
            lfs.as_bytes(),
            "is a pointer of Git LFS; upload the file that it points to",
        ),
        (page.as_bytes(), "is an HTML or XML document; upload the model itself"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "is an HTML or XML document"),
        (b"{\"message\": \"Forbidden\"}", "is a JSON document"),
        (&gzip, "is compressed with gzip; unpack it"),
        (b"PK\x03\x04data.pkl", "is a zip archive"),
        (b"GGUF\x03\0\0\0", "is a GGUF model; Longshore serves ONNX models"),
        (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":", "is a safetensors file"),
    ];
    for name in ["model.onnx", "model.ort"] {
        for (content, expected) in table {
            let root = artifact(&[name]);
            fs::write(root.path().join(name), content).unwrap();
            let error = open(root.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} {expected}")), "{error}");
        }
    }
}

#[test]
fn the_error_for_a_model_in_another_format_advises_an_export() {
    for (file, is_advised) in [
        ("model.safetensors", true),
        ("pytorch_model.bin", true),
        ("notes.txt", false),
    ] {
        let error = open(artifact(&[file]).path()).unwrap_err().to_string();
        assert_eq!(
            error.ends_with("; export the model as ONNX first"),
            is_advised,
            "{error}"
        );
    }
}
