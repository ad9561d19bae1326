//! The modes of the server: one model, models that the platform loads, and models of a store.

use serde_json::json;

use super::{answer, ask, get, index};
use crate::harness::{Builder, Models, Request, eventually, fixture};

#[test]
fn the_only_model_is_not_ready_while_it_loads() {
    let server = Builder::single(fixture("bad/function_bomb")).start();
    eventually("the load has begun", || server.reserved() > 0);
    get(&server, "/v2/health/live").expect(200);
    for refusal in [
        get(&server, "/v2/health/ready"),
        get(&server, "/v2/models/model"),
        get(&server, "/v2/models/model/ready"),
        ask(&server, "model"),
    ] {
        let error = refusal.expect(503).error();
        assert!(error.contains("still loading"), "{error}");
    }
    assert!(server.reserved() > 0, "the load has ended too early for the test");
}

#[test]
fn the_only_model_serves_under_its_name_and_cannot_be_loaded_or_unloaded() {
    let models = Models::new();
    let url = models.place_scale("m", 2.0);
    for (arguments, name) in [(&[][..], "model"), (&["--model-name", "iris"], "iris")] {
        let server = Builder::single(&url).arguments(arguments).start();
        eventually("the model is loaded", || get(&server, "/v2/health/ready").status == 200);
        assert_eq!(ask(&server, name).expect(200).json(), answer(name, 2.0));
        get(&server, &format!("/v2/models/{name}/ready")).expect(200);
        ask(&server, "other").expect(404);
        get(&server, "/v2/models/other/ready").expect(404);
        assert_eq!(index(&server, ""), [(name.to_owned(), "READY".to_owned())]);
        for verb in ["load", "unload"] {
            let path = format!("/v2/repository/models/{name}/{verb}");
            let error = server.send(&Request::post(path).body("{}")).expect(400).error();
            // The option that would allow it; SAGEMAKER_MULTI_MODEL would not.
            assert!(
                error.contains("serves one model") && error.contains("--model-store"),
                "{error}"
            );
        }
        ask(&server, name).expect(200);
        assert_eq!(server.list("")["models"][0]["modelName"], name);
    }
}

#[test]
fn in_multi_model_mode_only_the_platform_loads_and_unloads_models() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    get(&server, "/v2/health/ready").expect(200);
    assert_eq!(index(&server, ""), []);
    ask(&server, "m").expect(404);
    server.load("m", &url).expect(200);
    assert_eq!(index(&server, "{}"), [("m".to_owned(), "READY".to_owned())]);
    for (verb, body) in [
        ("load", "".to_owned()),
        ("load", json!({"parameters": {"url": url}}).to_string()),
        ("unload", "{}".to_owned()),
    ] {
        let path = format!("/v2/repository/models/m/{verb}");
        let error = server.send(&Request::post(path).body(body)).expect(400).error();
        assert!(
            error.contains("POST /models") && error.contains("--model-store"),
            "{error}"
        );
    }
    assert_eq!(ask(&server, "m").expect(200).json(), answer("m", 2.0));
    server.unload("m").expect(200);
    ask(&server, "m").expect(404);
    assert_eq!(index(&server, ""), []);
}
