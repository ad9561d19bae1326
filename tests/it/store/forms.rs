//! Forms of an object: an archive of any supported kind, a model, or a prefix with files.

use std::fs;

use serde_json::json;

use super::{Store, ask, assert_scales, request};
use crate::harness::{Builder, Models, eventually, fixture, longshore, scale};
use crate::support::archive::{Form, archive_as, archive_of};

#[test]
fn archives_of_every_kind_are_served() {
    let store = Store::new();
    let server = store.server().start();
    for (index, (name, form)) in [
        ("a.tar.gz", Form::Gzip),
        ("a.tgz", Form::Gzip),
        ("a.tar.zst", Form::Zstd),
        ("a.tar", Form::Plain),
        // The content decides, not the name.
        ("misnamed.tar", Form::Gzip),
        ("misnamed.tar.gz", Form::Zstd),
        ("misnamed.tgz", Form::Plain),
        ("unnamed", Form::Zstd),
    ]
    .into_iter()
    .enumerate()
    {
        let factor = index as f32 + 2.0;
        store.put(name, &archive_as(form, &[("model.onnx", &scale(factor))]));
        assert_scales(&server, name, factor);
    }
}

#[test]
fn a_bare_model_is_served() {
    let store = Store::new();
    store.put("team/a.onnx", &scale(2.0));
    let server = store.server().start();
    assert_scales(&server, "team/a.onnx", 2.0);
}

#[test]
fn archives_may_hold_their_model_at_any_supported_place() {
    // AR-2, AR-3, AR-6, AR-7
    let store = Store::new();
    let server = store.server().start();
    let layouts: [&[&str]; 6] = [
        &["./model.onnx"],
        &["export.onnx", "readme.txt"],
        &["root/model.onnx"],
        &["1/model.onnx", "2/model.onnx"],
        &["model.onnx", "code/inference.py", ".DS_Store", "__MACOSX/._model.onnx"],
        &["./", "./deep/", "./deep/model.onnx"],
    ];
    for (index, layout) in layouts.iter().enumerate() {
        let factor = index as f32 + 2.0;
        let model = scale(factor);
        let files: Vec<(&str, &[u8])> = layout
            .iter()
            .map(|&path| match path {
                // The highest version is loaded.
                "1/model.onnx" => (path, &b"an older one, which is none"[..]),
                path if path.ends_with(".onnx") && !path.contains("._") => (path, &model[..]),
                path => (path, &b""[..]),
            })
            .collect();
        let name = format!("layout-{index}.tar.gz");
        store.put(&name, &archive_as(Form::Gzip, &files));
        assert_scales(&server, &name, factor);
    }
}

#[test]
fn an_uncompressed_prefix_is_served() {
    // AR-4: like SageMaker's S3Prefix, with or without a slash at the end of its name.
    let store = Store::new();
    let local = Models::new();
    let folder = local.place_big("big");
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        store.put(&format!("team/big/{name}"), &fs::read(&file).unwrap());
    }
    store.put("team/big2/model.onnx", b"of another model");
    store.put("team/small/1/model.onnx", &scale(3.0));
    let server = store.server().start();
    for name in ["team/big", "team/big/"] {
        let response = server.send(&request(name, &json!({"instances": [vec![1.0; 1024]]})));
        assert_eq!(
            response.expect(200).json(),
            json!({"predictions": [1_048_576.0]}),
            "{name}"
        );
    }
    assert_scales(&server, "team/small", 3.0);
    let message = ask(&server, "team").message();
    assert!(!message.is_empty(), "{message}");
    ask(&server, "tea").expect(404);
}

#[test]
fn a_replaced_file_below_a_prefix_is_noticed() {
    let store = Store::new();
    store.put("team/a/model.onnx", &scale(2.0));
    store.put("team/a/readme.txt", b"as it was");
    let server = store.server().arguments(["--revalidate", "1ms"]).start();
    assert_scales(&server, "team/a", 2.0);
    store.put("team/a/model.onnx", &scale(3.0));
    eventually("the new model answers", || {
        ask(&server, "team/a").expect(200).json() == super::answer(3.0)
    });
}

#[test]
fn an_archive_that_longshore_packed_is_served() {
    let store = Store::new();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("model.tar.gz");
    longshore([
        "pack".as_ref(),
        fixture("scale").as_os_str(),
        "-o".as_ref(),
        archive.as_os_str(),
    ])
    .output();
    store.put("packed.tar.gz", &fs::read(&archive).unwrap());
    let server = store.server().start();
    assert_scales(&server, "packed.tar.gz", 1234.5);
}

#[test]
fn a_name_that_is_both_an_object_and_a_prefix_means_the_object() {
    let store = Store::new();
    store.put("team/a", &archive_of(&scale(2.0)));
    store.put("team/a/model.onnx", &scale(3.0));
    let server = store.server().start();
    assert_scales(&server, "team/a", 2.0);
}

#[test]
fn a_directory_can_be_a_store() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("team/plain")).unwrap();
    fs::write(folder.path().join("team/a.tar.gz"), archive_of(&scale(2.0))).unwrap();
    fs::write(folder.path().join("team/plain/model.onnx"), scale(3.0)).unwrap();
    let path = folder.path().display().to_string();
    for url in [
        path.clone(),
        format!("{path}/"),
        format!("file://{path}"),
        format!("file://{path}/"),
    ] {
        let server = Builder::store(&url, []).arguments(["--revalidate", "1ms"]).start();
        assert_scales(&server, "team/a.tar.gz", 2.0);
        assert_scales(&server, "team/plain", 3.0);
        ask(&server, "team/gone.tar.gz").expect(404);
        ask(&server, "../etc/passwd").expect(400);
        fs::write(folder.path().join("team/a.tar.gz"), archive_of(&scale(4.0))).unwrap();
        eventually("the new model answers", || {
            ask(&server, "team/a.tar.gz").expect(200).json() == super::answer(4.0)
        });
        fs::write(folder.path().join("team/a.tar.gz"), archive_of(&scale(2.0))).unwrap();
    }
}
