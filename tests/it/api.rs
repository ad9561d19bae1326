//! The lifecycle of a model: load, list, get, invoke, unload (MM-1 to MM-5).

use serde_json::{Value, json};

use crate::harness::{Builder, Request, Server};

#[test]
fn a_model_can_be_loaded_listed_invoked_unloaded_and_loaded_again() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("tripler", 3.0);
    for _ in 0..2 {
        let loaded = server.load("tripler", &url).expect(200).json();
        assert_eq!(loaded, json!({"status": "Model \"tripler\" registered"}));
        let description = json!({"modelName": "tripler", "modelUrl": url});
        assert_eq!(server.list(""), json!({"models": [description]}));
        assert_eq!(server.describe("tripler").expect(200).json(), description);
        server.load("tripler", &url).expect(409);
        server.assert_scales("tripler", 3.0);
        let unloaded = server.unload("tripler").expect(200).json();
        assert_eq!(unloaded, json!({"status": "Model \"tripler\" unregistered"}));
        server.describe("tripler").expect(404);
        server.invoke("tripler", &json!({"instances": [1]})).expect(404);
        server.unload("tripler").expect(404);
        assert_eq!(server.list(""), json!({"models": []}));
        assert_eq!(server.reserved(), 0);
    }
}

#[test]
fn a_refused_second_load_does_not_change_the_loaded_model() {
    // MM-16: with the same url and with another one.
    let server = Builder::multi().start();
    let (first, second) = (
        server.models().place_scale("a", 2.0),
        server.models().place_scale("b", 7.0),
    );
    server.load("m", &first).expect(200);
    for url in [&first, &second] {
        server.load("m", url).expect(409);
        server.assert_scales("m", 2.0);
        assert_eq!(server.describe("m").expect(200).json()["modelUrl"], json!(first));
    }
}

#[test]
fn the_url_is_echoed_byte_for_byte() {
    // MM-9: as in the load request, not as it was resolved.
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let root = server.models().root().display().to_string();
    let urls = [
        url.clone(),
        format!("{url}/"),
        format!("{url}//"),
        format!("{url}/."),
        format!("{root}/./m/model"),
        format!("{root}/m/../m/model"),
        format!("{root}//m//model"),
        format!("{url}/model.onnx"),
    ];
    for url in urls {
        server.load("m", &url).expect(200);
        assert_eq!(server.describe("m").expect(200).json()["modelUrl"], json!(url));
        assert_eq!(server.list("")["models"][0]["modelUrl"], json!(url));
        server.assert_scales("m", 2.0);
        server.unload("m").expect(200);
    }
}

#[test]
fn model_files_may_disappear_after_an_unload_and_change_before_the_next_load() {
    // MM-17: the platform deletes and downloads files at any time.
    let server = Builder::multi().start();
    let url = server.models().place("external", "m");
    server.load("m", &url).expect(200);
    server.unload("m").expect(200);
    assert!(!server.process().maps_files_below(server.models().root()));
    std::fs::remove_dir_all(server.models().path("m")).unwrap();
    let refusal = server.load("m", &url).expect(400);
    assert!(refusal.message().contains("does not exist"), "{}", refusal.message());
    let url = server.models().place_scale("m", 9.0);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 9.0);
}

#[test]
fn fields_that_other_servers_know_are_accepted_and_ignored() {
    // MM-12
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let body = json!({
        "model_name": "m", "url": url, "runtime": "python", "handler": "service:handle", "batch_size": 8,
        "max_batch_delay": 10, "initial_workers": 0, "synchronous": false, "response_timeout": 1, "preload_model": "x",
    });
    server.send(&Request::post("/models").json(&body)).expect(200);
    server.assert_scales("m", 2.0);
}

#[test]
fn the_load_body_is_read_whatever_its_content_type_says() {
    // MM-1: local tools send no Content-Type, or curl's default.
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let body = json!({"model_name": "m", "url": url}).to_string();
    for content_type in [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("application/json; charset=utf-8"),
    ] {
        let request = Request::post("/models").body(body.as_str());
        let request = content_type
            .into_iter()
            .fold(request, |request, value| request.header("Content-Type", value));
        server.send(&request).expect(200);
        server.unload("m").expect(200);
    }
    server
        .send(&Request::post("/models").chunks([&body[..7], &body[7..]]))
        .expect(200);
}

#[test]
fn a_byte_order_mark_before_a_load_body_is_ignored() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let load = format!("\u{feff} {}", json!({"model_name": "m", "url": url}));
    server.send(&Request::post("/models").body(load)).expect(200);
    server.assert_scales("m", 2.0);
}

#[test]
fn an_invalid_load_body_gets_a_400_that_shows_a_valid_body() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let bodies: [(&str, Vec<u8>); 12] = [
        ("nothing", vec![]),
        ("no JSON", b"model_name=m".to_vec()),
        ("an array", b"[]".to_vec()),
        ("the members of one in an array", json!(["m", url]).to_string().into()),
        ("no url", json!({"model_name": "m"}).to_string().into()),
        ("no name", json!({"url": url}).to_string().into()),
        (
            "a null name",
            json!({"model_name": null, "url": url}).to_string().into(),
        ),
        (
            "a number as name",
            json!({"model_name": 1, "url": url}).to_string().into(),
        ),
        ("a null url", json!({"model_name": "m", "url": null}).to_string().into()),
        (
            "half of it",
            json!({"model_name": "m", "url": url}).to_string().as_bytes()[..20].to_vec(),
        ),
        ("not UTF-8", b"{\"model_name\": \"\xff\", \"url\": \"/\"}".to_vec()),
        ("deep", [b"[".repeat(30_000), b"]".repeat(30_000)].concat()),
    ];
    for (what, body) in bodies {
        let refusal = server.send(&Request::post("/models").body(body)).expect(400);
        assert!(
            refusal.message().contains("model_name"),
            "{what}: {}",
            refusal.message()
        );
    }
    server
        .send(&Request::post("/models").body(vec![b' '; 1 << 20]))
        .expect(413);
    assert_eq!(server.list(""), json!({"models": []}));
}

#[test]
fn the_path_chooses_the_model_whatever_the_target_model_header_says() {
    // MM-7
    let server = Builder::multi().start();
    for (name, factor) in [("a", 2.0), ("b", 3.0)] {
        let url = server.models().place_scale(name, factor);
        let load = Request::post("/models").json(&json!({"model_name": name, "url": url}));
        server
            .send(&load.header("X-Amzn-SageMaker-Target-Model", format!("{name}.tar.gz")))
            .expect(200);
    }
    let targets: [Option<&[u8]>; 6] = [
        None,
        Some(b"a.tar.gz"),
        Some(b"b.tar.gz"),
        Some("Größe/世界.tar.gz".as_bytes()),
        Some(b"\xff\xfe not UTF-8"),
        Some(b""),
    ];
    let with_target = |request: Request, target: Option<&[u8]>| {
        target.into_iter().fold(request, |request, value| {
            request.header("X-Amzn-SageMaker-Target-Model", value)
        })
    };
    for target in targets {
        for (name, factor) in [("a", 2.0), ("b", 3.0)] {
            let request = with_target(Server::invocation(name).json(&json!({"instances": [1]})), target);
            let answer = server.send(&request).expect(200).json();
            assert_eq!(answer, json!({"predictions": [factor]}), "{name} {target:?}");
        }
    }
    for target in targets {
        let name = "c";
        let url = server.models().place_scale(name, 5.0);
        let load = Request::post("/models").json(&json!({"model_name": name, "url": url}));
        server.send(&with_target(load, target)).expect(200);
        server.assert_scales(name, 5.0);
        server
            .send(&with_target(Request::delete("/models/c"), Some(b"a.tar.gz")))
            .expect(200);
    }
    server.assert_scales("a", 2.0);
}

#[test]
fn invocations_without_a_model_get_a_400_that_explains_how_to_choose_one() {
    // MM-24
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let refusal = server
        .send(&Request::post("/invocations").json(&json!({"instances": [1]})))
        .expect(400);
    assert!(
        refusal.message().contains("/models/<name>/invoke"),
        "{}",
        refusal.message()
    );
}

#[test]
fn requests_for_an_unloaded_model_get_a_404_and_do_not_load_it() {
    // MM-20
    let server = Builder::multi().start();
    server.models().place_scale("m", 2.0);
    let refusals = [
        server.describe("m"),
        server.invoke("m", &json!({"instances": [1]})),
        server.unload("m"),
    ];
    for refusal in refusals {
        let refusal: Value = refusal.expect(404).json();
        assert_eq!(refusal["type"], "ModelNotFoundException");
        assert_eq!(refusal["message"], "model \"m\" is not loaded");
    }
    assert_eq!(server.list(""), json!({"models": []}));
}
