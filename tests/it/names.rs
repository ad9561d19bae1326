//! Names and urls of models: names are opaque (MM-6), urls are restricted (MM-8).

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Builder, Request, Server};

/// Returns a path segment with every byte percent-encoded.
fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn every_name_works_in_all_calls() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let names = [
        "a".to_owned(),
        "segment/model.tar.gz".to_owned(),
        "a/invoke".to_owned(),
        "invoke".to_owned(),
        "/".to_owned(),
        "//a//".to_owned(),
        "...".to_owned(),
        ".hidden".to_owned(),
        "../../etc/passwd".to_owned(),
        " with blanks ".to_owned(),
        "100%".to_owned(),
        "%2F".to_owned(),
        "a%20b".to_owned(),
        "a+b".to_owned(),
        "q?x=1&y#z".to_owned(),
        "\"quoted\\".to_owned(),
        "tab\tnew\nline".to_owned(),
        "nul\0byte".to_owned(),
        "Größe 世界 🚢".to_owned(),
        "e\u{301}".to_owned(),
        "\u{e9}".to_owned(),
        "*".to_owned(),
        "null".to_owned(),
        "{name}".to_owned(),
        "x".repeat(1024),
        "☃".repeat(4096 / 3),
        "y".repeat(4096),
    ];
    for name in &names {
        server.load(name, &url).expect(200);
    }
    let mut sorted = names.clone();
    sorted.sort();
    let listed: Vec<String> = server.list("")["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["modelName"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, sorted);
    for name in &names {
        let short: String = name.chars().take(30).collect();
        let path = format!("/models/{}", encoded(name));
        let description = server.send(&Request::get(&path)).expect(200).json();
        assert_eq!(description, json!({"modelName": name, "modelUrl": url}), "{short}");
        let invocation = Request::post(format!("{path}/invoke")).json(&json!({"instances": [3]}));
        assert_eq!(
            server.send(&invocation).expect(200).json(),
            json!({"predictions": [6.0]}),
            "{short}"
        );
        server.load(name, &url).expect(409);
    }
    for name in &names {
        server.unload(name).expect(200);
        server.unload(name).expect(404);
    }
    assert_eq!(server.list(""), json!({"models": []}));
}

#[test]
fn a_name_cannot_forge_lines_of_the_log() {
    // ST-11: one line per record, and no forged lines.
    let server = Builder::multi().start();
    server.describe("a\n2026-01-01T00:00:00Z ERROR forged").expect(404);
    server.wait_for_log("forged");
    server.terminate();
    let ended = server.wait_for_end();
    let forged = |line: &&String| line.starts_with("2026-01-01T00:00:00Z");
    assert_eq!(ended.log.iter().find(forged), None, "{ended:?}");
}

#[test]
fn each_odd_name_is_listed_once() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let mut names = [
        "a/b",
        "a",
        "世界",
        "\0",
        "%",
        "z".repeat(4096).as_str(),
        "&next_page_token=",
        "?",
    ]
    .map(String::from);
    for name in &names {
        server.load(name, &url).expect(200);
    }
    names.sort();
    let mut seen: Vec<String> = Vec::new();
    let mut query = "?limit=1".to_owned();
    loop {
        let page = server.list(&query);
        seen.extend(
            page["models"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| m["modelName"].as_str().unwrap().to_owned()),
        );
        let Some(token) = page.get("nextPageToken") else { break };
        query = format!("?limit=1&next_page_token={}", token.as_str().unwrap());
    }
    assert_eq!(seen, names);
}

#[test]
fn names_that_cannot_appear_in_a_path_are_refused() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    for name in ["", ".", "..", &"z".repeat(4097), &"z".repeat(40_000)] {
        let refusal = server.load(name, &url).expect(400);
        assert!(refusal.message().contains("1 to 4096 bytes"), "{}", refusal.message());
    }
    assert_eq!(server.list(""), json!({"models": []}));
}

#[test]
fn encoded_and_unencoded_paths_name_the_same_model() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("a.b_c-d~e", &url).expect(200);
    for path in ["/models/a.b_c-d~e", "/models/%61.b_c-d~e", "/models/a%2Eb%5fc%2Dd%7Ee"] {
        server.send(&Request::get(path)).expect(200);
    }
    // RFC 3986 allows these characters unencoded in a segment, and clients send them so.
    server.load("a:b@c!d$e&f'g(h)i*j+k,l;m=n", &url).expect(200);
    server
        .send(&Request::get("/models/a:b@c!d$e&f'g(h)i*j+k,l;m=n"))
        .expect(200);
}

#[test]
fn paths_that_name_no_model_are_404() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    for path in [
        "/models/",
        "/models//",
        "/models//invoke",
        "/models/m/",
        "/models/m/m",
        "/models/%FF",
        "/models/m/invoke/",
    ] {
        server.send(&Request::get(path)).expect(404);
        server
            .send(&Request::post(path).json(&json!({"instances": [1]})))
            .expect(404);
        server.send(&Request::delete(path)).expect(404);
    }
    server.assert_scales("m", 2.0);
}

/// A server with files below the root of models, files outside it, and links between both.
struct Places {
    server: Server,
    outside: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let server = Builder::multi().start();
        let outside = tempfile::tempdir().unwrap();
        let url = server.models().place_scale("m", 2.0);
        fs::copy(format!("{url}/model.onnx"), outside.path().join("model.onnx")).unwrap();
        Self { server, outside }
    }

    #[track_caller]
    fn refused(&self, url: &str) -> String {
        let refusal = self.server.load("x", url).expect(400);
        assert_eq!(self.server.list(""), json!({"models": []}));
        refusal.message()
    }
}

#[test]
fn rejects_a_load_url_outside_the_models_roots() {
    // MM-8
    let places = Places::new();
    let root = places.server.models().root().to_owned();
    let outside = places.outside.path().to_owned();
    symlink(&outside, root.join("link")).unwrap();
    fs::create_dir(root.join("inside")).unwrap();
    symlink(outside.join("model.onnx"), root.join("inside/model.onnx")).unwrap();
    let sibling = root.with_file_name(format!("{}-evil", root.file_name().unwrap().display()));
    fs::create_dir(&sibling).unwrap();
    fs::copy(outside.join("model.onnx"), sibling.join("model.onnx")).unwrap();
    let (root, outside) = (root.display(), outside.display());
    let outside_name = places.outside.path().file_name().unwrap().display();
    let urls = [
        outside.to_string(),
        format!("{outside}/model.onnx"),
        format!("{root}/../{outside_name}"),
        format!("{root}/m/../../{outside_name}"),
        format!("{root}/link"),
        format!("{root}/link/model.onnx"),
        sibling.display().to_string(),
        "/etc".to_owned(),
        "/etc/passwd".to_owned(),
        "/".to_owned(),
        "/dev/zero".to_owned(),
        "/proc/self/mem".to_owned(),
        "m/model".to_owned(),
        "./m/model".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        String::new(),
        "~".to_owned(),
        format!("file://{root}/m/model"),
        "https://example.com/model.onnx".to_owned(),
        "s3://bucket/model.tar.gz".to_owned(),
    ];
    for url in urls {
        let message = places.refused(&url);
        assert!(message.contains("is not below"), "{url}: {message}");
    }
    fs::remove_dir_all(&sibling).unwrap();
    // The url lies below a root, but the model file is a link to the outside.
    let message = places.refused(&format!("{root}/inside"));
    assert!(message.contains("link"), "{message}");
}

#[test]
fn a_refusal_does_not_reveal_whether_a_path_outside_the_roots_exists() {
    let places = Places::new();
    let outside = places.outside.path().display();
    let existing = places.refused(&outside.to_string());
    let missing = places.refused(&format!("{outside}-missing"));
    assert_eq!(
        existing.replace(&outside.to_string(), "X"),
        missing.replace(&format!("{outside}-missing"), "X")
    );
    // The same for a path that leads through a root.
    let root = places.server.models().root().display();
    let existing = places.refused(&format!("{root}/../../etc/passwd"));
    let missing = places.refused(&format!("{root}/../../etc/missing"));
    assert_eq!(existing.replace("passwd", "X"), missing.replace("missing", "X"));
}

#[test]
fn a_missing_url_below_a_root_is_reported_as_missing() {
    let places = Places::new();
    let root = places.server.models().root().display();
    let message = places.refused(&format!("{root}/missing/model"));
    assert!(message.contains("does not exist"), "{message}");
    let message = places.refused(&format!("{root}/{}", "d/".repeat(3000)));
    assert!(!message.is_empty());
    let message = places.refused(&format!("{root}/nul\0byte"));
    assert!(!message.is_empty());
}

#[test]
fn all_roots_are_valid_and_a_root_may_be_created_after_the_start() {
    let late = tempfile::tempdir().unwrap();
    let folder = late.path().join("made/later");
    let server = Builder::multi().argument("--models-root").argument(&folder).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("first", &url).expect(200);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(format!("{url}/model.onnx"), folder.join("model.onnx")).unwrap();
    server.load("second", &folder.display().to_string()).expect(200);
    server.assert_scales("second", 2.0);
}
