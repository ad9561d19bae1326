//! The page of the local endpoint: endpoints, containers, their logs, and the life of each model.

use serde_json::{Value, json};

use super::{own, state};
use crate::endpoint::command::local_endpoint::LocalEndpoint;
use crate::harness::{Browser, Builder, LIGHT, Models, Request, Server, eventually};
use crate::support::networks;

const MODELS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Starts an endpoint whose container has memory for some of its models.
fn crowded() -> (Server, Models) {
    let models = Models::new();
    for (seed, name) in (0..).zip(MODELS) {
        models.place_model(name, &networks::mlp(&[1024, 4096, 4], seed));
    }
    let server = Builder::endpoint()
        .arguments(["--multi-model", &models.root().display().to_string()])
        .arguments(["--container-memory", "120MiB"])
        .start();
    server.wait_for_log("endpoint in service");
    (server, models)
}

fn invoke(server: &Server, model: &str) -> u16 {
    let request = LocalEndpoint::invocation("longshore")
        .header("X-Amzn-SageMaker-Target-Model", format!("{model}/model"))
        .json(&json!({"instances": [vec![0.5; 1024]]}));
    server.send_unchecked(&request).status
}

fn container(state: &Value) -> &Value {
    &state["endpoints"][0]["variants"][0]["instances"][0]["containers"][0]
}

#[test]
fn the_state_has_containers_their_models_and_each_step_of_a_models_life() {
    let (server, _models) = crowded();
    for model in MODELS {
        assert_eq!(invoke(&server, model), 200, "{model}");
    }
    invoke(&server, "nothing");
    let state = state(&server);
    assert_eq!(state["server"]["kind"], "endpoint");
    let endpoint = &state["endpoints"][0];
    assert_eq!(
        (&endpoint["name"], &endpoint["phase"]),
        (&json!("longshore"), &json!("InService"))
    );
    let container = container(&state);
    assert_eq!((&container["state"], &container["starts"]), (&json!("up"), &json!(1)));
    let steps: Vec<String> = container["life"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            format!(
                "{} {}",
                event["model"].as_str().unwrap(),
                event["step"].as_str().unwrap()
            )
        })
        .collect();
    for expected in [
        "a/model load",
        "a/model loaded",
        "a/model unload",
        "a/model unloaded",
        "f/model loaded",
    ] {
        assert!(
            steps.iter().any(|step| step == expected),
            "{expected} is not in {steps:?}"
        );
    }
    // The load that found no memory was repeated, after another model was unloaded.
    let full = steps.iter().find_map(|step| step.strip_suffix(" full")).expect("a 507");
    assert!(steps.contains(&format!("{full} retry")), "{steps:?}");
    assert!(steps.iter().any(|step| step == "nothing/model failed"), "{steps:?}");
    assert_eq!(state["refusals"][0]["model"], "nothing/model", "{state}");

    let label = container["label"].as_str().unwrap();
    let log = own(&server, Request::get(format!("/ui/log?container={label}")));
    assert!(server.send_unchecked(&log).expect(200).text().contains("listening"));
    server
        .send_unchecked(&own(&server, Request::get("/ui/log?container=other/one")))
        .expect(404);
}

#[test]
fn other_sites_and_a_switched_off_page_get_nothing() {
    let (server, _models) = crowded();
    for path in ["/", "/ui", "/ui/state", "/ui/events", "/ui/log?container=a/b"] {
        let request = own(&server, Request::get(path)).header("Origin", "https://evil.example");
        server.send_unchecked(&request).expect(403);
    }
    let server = Builder::endpoint().argument("--no-ui").start();
    for path in ["/", "/ui", "/ui/state"] {
        server.send_unchecked(&own(&server, Request::get(path))).expect(404);
    }
    let server = Builder::endpoint().arguments(["--allow-host", "known.example"]).start();
    server
        .send_unchecked(&Request::get("/ui/state").header("Host", "evil.example"))
        .expect(403);
    server
        .send_unchecked(&Request::get("/ui/state").header("Host", "known.example"))
        .expect(200);
}

#[test]
fn a_person_sees_endpoints_the_life_of_models_and_logs_and_invokes() {
    let Some(browser) = Browser::start() else { return };
    let (server, _models) = crowded();
    browser.look(LIGHT);
    browser.open(&format!("http://{}/ui", server.address()));
    browser.wait(
        "the container is listed",
        "return document.querySelector('.container .chip.up') !== null",
    );
    for model in MODELS {
        invoke(&server, model);
    }
    browser.wait(
        "a 507 is in the life of a model",
        "return document.querySelector('.life li.full') !== null",
    );
    assert!(browser.text(".life").contains("507"));
    browser.click(".container details:last-of-type summary");
    browser.wait(
        "the log is read",
        "return document.querySelector('.container pre').textContent.includes('listening')",
    );
    browser.click("article > details summary");
    browser.type_into("#target-longshore", "b/model");
    browser.run("[...document.querySelectorAll('.ways label')].find((one) => one.textContent === 'JSON').querySelector('input').click()");
    let body = json!({"instances": [vec![0.5; 1024]]}).to_string();
    browser.run_with(
        "document.querySelector('[name=body]').value = arguments[0]",
        &json!([body]),
    );
    browser.click("form.try button[type=submit]");
    browser.wait(
        "the answer is there",
        "return document.querySelector('.answer [data-part=status]') !== null",
    );
    assert_eq!(
        browser.text(".answer [data-part=status]"),
        "200 OK",
        "{}",
        browser.text(".answer")
    );
    browser.screenshot("endpoint");
    // The container has a page of its own.
    browser.run("document.querySelector('.container a').removeAttribute('target')");
    browser.click(".container a");
    browser.wait(
        "the container's page has its models",
        "return document.querySelectorAll('#rows tr').length > 0",
    );
    eventually("nothing is wrong in the console", || browser.console().is_empty());
}
