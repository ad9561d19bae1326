//! The files and the data of the page.

use serde_json::json;

use super::{Watch, invoke, load_scale, own, row, state};
use crate::harness::{Builder, Request, eventually};

#[test]
fn a_browser_gets_the_page_and_curl_gets_a_summary() {
    let server = Builder::multi().start();
    load_scale(&server, "m", 2.0);
    let browser = |path: &str| own(&server, Request::get(path)).header("Accept", "text/html,*/*;q=0.8");
    for path in ["/", "/ui"] {
        let page = server.send_unchecked(&browser(path)).expect(200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self';",
            "frame-ancestors 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        // Each file that the page names is there.
        for name in ["ui/page.css", "ui/page.js"] {
            assert!(page.text().contains(name));
            server
                .send_unchecked(&own(&server, Request::get(format!("/{name}"))))
                .expect(200);
        }
    }
    let summary = server
        .send_unchecked(&own(&server, Request::get("/")).header("Accept", "*/*"))
        .expect(200);
    assert_eq!(summary.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(summary.text().contains("models: 1"), "{}", summary.text());
    assert!(
        summary.text().contains("POST /models/NAME/invoke"),
        "{}",
        summary.text()
    );
    server
        .send_unchecked(&own(&server, Request::new("HEAD", "/")))
        .expect(200);
    for (request, status) in [
        (Request::post("/"), 404),
        (Request::get("/ui/nothing"), 404),
        (Request::get("/ui/log?container=a"), 404),
        (Request::get("/ui/model?name=nothing"), 404),
        (Request::get("/ui/model"), 404),
    ] {
        server.send_unchecked(&own(&server, request)).expect(status);
    }
    // The contract is as it was.
    server.ping().expect(200);
    assert_eq!(server.list("")["models"][0]["modelName"], "m");
}

#[test]
fn the_state_has_each_model_with_its_memory_its_requests_and_its_last_error() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("a", 3.0);
    let load = json!({"model_name": "a", "url": url});
    let load = Request::post("/models")
        .json(&load)
        .header("X-Amzn-SageMaker-Target-Model", "team/a.tar.gz");
    server.send(&load).expect(200);
    load_scale(&server, "b", 4.0);
    for _ in 0..3 {
        invoke(&server, "a");
    }
    server.invoke("a", &json!({"instances": ["secret"]})).expect(400);
    server.invoke("nothing", &json!([1])).expect(404);

    let state = state(&server);
    let (a, b) = (row(&state, "a"), row(&state, "b"));
    assert_eq!((&a["state"], &a["target"]), (&json!("loaded"), &json!("team/a.tar.gz")));
    assert_eq!((&a["requests"], &a["errors"]), (&json!(4), &json!(1)));
    assert_eq!(a["causes"], json!({"bad_request": 1}));
    assert!(
        a["memory"].as_u64().unwrap() > 0 && a["p99"].as_f64().unwrap() > 0.0,
        "{a}"
    );
    assert_eq!(
        (&b["requests"], &b["p50"], &b["error"]),
        (&json!(0), &json!(null), &json!(null))
    );
    assert_eq!(a["error"]["cause"], "bad_request");
    // Data of clients stay out of the page.
    assert!(!state.to_string().contains("secret"), "{state}");

    let refusals = state["refusals"].as_array().unwrap();
    let newest: Vec<_> = refusals
        .iter()
        .map(|refusal| (&refusal["status"], &refusal["model"]))
        .collect();
    assert_eq!(newest[0], (&json!(404), &json!("nothing")));
    // The client's name for the model `a`.
    assert_eq!(newest[1], (&json!(400), &json!("team/a.tar.gz")));

    let memory = &state["memory"];
    let part = |name: &str| memory[name].as_u64().unwrap();
    let parts = ["own", "shared", "mapped", "requests", "kept", "free"].map(part);
    assert_eq!(parts.iter().sum::<u64>(), part("limit"), "{memory}");
    assert!(part("own") > 0);
}

#[test]
fn a_watcher_gets_the_state_and_then_only_what_changes() {
    let server = Builder::multi().start();
    load_scale(&server, "a", 2.0);
    load_scale(&server, "b", 3.0);
    let mut watch = Watch::start(&server);
    let first = watch.next("state");
    assert_eq!(first["models"].as_array().unwrap().len(), 2);
    invoke(&server, "a");
    let mut changed = json!(null);
    while changed == json!(null) {
        let change = watch.next("change");
        let rows = change["models"].as_array().unwrap();
        changed = rows
            .iter()
            .find(|row| row["requests"] == 1)
            .cloned()
            .unwrap_or_default();
        assert!(rows.iter().all(|row| row["name"] != "b"), "b did not change: {change}");
    }
    assert_eq!(changed["name"], "a");
    server.unload("b").expect(200);
    while watch.next("change")["gone"] != json!(["b"]) {}
}

#[test]
fn the_history_has_the_requests_of_before_the_page_was_opened() {
    let server = Builder::multi().start();
    load_scale(&server, "a", 2.0);
    for _ in 0..5 {
        invoke(&server, "a");
    }
    server.unload("a").expect(200);
    let mut total = 0;
    eventually("the requests are in the history, although their model is gone", || {
        let state = state(&server);
        let points = state["history"]["points"].as_array().unwrap();
        total = points
            .iter()
            .map(|point| point["requests"].as_u64().unwrap())
            .sum::<u64>();
        total > 0
    });
    assert_eq!(total, 5);
}

#[test]
fn watchers_are_bounded_and_do_not_delay_a_stop() {
    let server = Builder::multi().arguments(["--drain-timeout", "1h"]).start();
    let watchers = || {
        server
            .send_unchecked(&own(&server, Request::get("/ui/watchers")))
            .expect(200)
            .json()
    };
    let most = watchers()["most"].as_u64().unwrap();
    // These do not read.
    let mut open: Vec<Watch> = (0..most).map(|_| Watch::start(&server)).collect();
    assert_eq!(watchers()["open"], most);
    let refusal = server
        .send_unchecked(&own(&server, Request::get("/ui/events")))
        .expect(503);
    assert!(
        refusal.message().contains("watch this server already"),
        "{}",
        refusal.message()
    );
    // Requests are answered as before, and so is the state.
    server.ping().expect(200);
    state(&server);
    open.pop();
    eventually("the place of a watcher that left is free", || {
        watchers()["open"] == most - 1
    });
    server.terminate();
    assert!(server.wait_for_end().status.success());
}

#[test]
fn watchers_make_room_for_requests_when_connections_run_out() {
    let server = Builder::multi()
        .arguments(["--max-connections", "4", "--reserved-connections", "1"])
        .start();
    load_scale(&server, "a", 2.0);
    let _open: Vec<Watch> = (0..3).map(|_| Watch::start(&server)).collect();
    for _ in 0..3 {
        invoke(&server, "a");
    }
}

#[test]
fn a_page_may_be_switched_off() {
    for server in [
        Builder::multi().argument("--no-ui").start(),
        Builder::multi().environment("LONGSHORE_NO_UI", "true").start(),
    ] {
        for path in ["/", "/ui", "/ui/state", "/ui/events", "/ui/page.js"] {
            server.send(&own(&server, Request::get(path))).expect(404);
        }
        let origin = format!("http://{}", server.address());
        let request = own(&server, Request::post("/models").body("{}")).header("Origin", origin);
        server.send(&request).expect(403);
    }
}

#[test]
fn the_description_of_a_model_has_requests_that_it_answers() {
    let server = Builder::multi().start();
    for fixture in [
        "iris_zipmap",
        "two_inputs",
        "text_tfidf",
        "columns",
        "scalar",
        "identity_string",
    ] {
        let url = server.models().place(fixture, fixture);
        server.load(fixture, &url).expect(200);
        let about = Request::get(format!("/ui/model?name={fixture}"));
        let about = server.send_unchecked(&own(&server, about)).expect(200).json();
        let samples = about["samples"].as_array().unwrap();
        assert!(!samples.is_empty(), "{fixture}");
        for sample in samples {
            let path = format!("/{}", about["invoke"]["path"].as_str().unwrap());
            let request = Request::post(path)
                .header("Content-Type", sample["content_type"].as_str().unwrap())
                .body(sample["body"].as_str().unwrap());
            server.send(&request).expect(200);
        }
    }
    // A name is a parameter, with any characters.
    let url = server.models().place("scale", "odd");
    server.load("a/b ü&c", &url).expect(200);
    let about = own(&server, Request::get("/ui/model?name=a%2Fb%20%C3%BC%26c"));
    assert_eq!(
        server.send_unchecked(&about).expect(200).json()["invoke"]["path"],
        "models/a%2Fb%20%C3%BC%26c/invoke"
    );
}
