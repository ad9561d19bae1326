//! The page in headless Chromium: what a person sees and does.

use serde_json::json;

use super::{invoke, load_scale};
use crate::harness::{Browser, Builder, DARK, LIGHT, PHONE, Server, eventually};

fn url(server: &Server) -> String {
    format!("http://{}/", server.address())
}

/// The first cells of the rows, in their order.
fn names(browser: &Browser) -> Vec<String> {
    let names =
        browser.run("return [...document.querySelectorAll('#rows td.name button')].map((cell) => cell.textContent)");
    serde_json::from_value(names).unwrap()
}

/// Waits until the rows have these names.
#[track_caller]
fn wait_for_names(browser: &Browser, expected: &[&str]) {
    let mut seen = Vec::new();
    eventually(&format!("the rows are {expected:?}"), || {
        seen = names(browser);
        seen == expected
    });
}

#[test]
fn rows_appear_update_are_sorted_and_filtered() {
    let Some(browser) = Browser::start() else { return };
    let server = Builder::multi().start();
    browser.look(LIGHT);
    browser.open(&url(&server));
    browser.wait(
        "the page is live",
        "return document.querySelector('#link').textContent === 'Live'",
    );
    // The empty state says how to load a model, at this address.
    browser.wait(
        "the empty state is shown",
        "return !document.querySelector('#empty').hidden",
    );
    let hint = browser.text("#empty");
    assert!(
        hint.contains(&format!("curl http://{}/models", server.address())),
        "{hint}"
    );

    for (name, factor) in [("alpha", 2.0), ("beta", 3.0), ("gamma", 4.0)] {
        load_scale(&server, name, factor);
    }
    wait_for_names(&browser, &["alpha", "beta", "gamma"]);
    for (name, requests) in [("beta", 5), ("gamma", 2)] {
        for _ in 0..requests {
            invoke(&server, name);
        }
    }
    server.invoke("gamma", &json!({"instances": ["a"]})).expect(400);
    browser.wait(
        "the figures of a row change",
        "return document.querySelector('#rows tr:nth-child(2) td[data-label=Requests]').textContent === '5'",
    );
    browser.wait(
        "the refusal is listed",
        "return document.querySelectorAll('#refusals-list li').length === 1",
    );
    assert!(browser.text("#refusals-list").contains("gamma"));
    assert!(browser.text("#rows tr:nth-child(3) td.last").contains("bad_request"));

    browser.click("th[data-column=requests] button");
    wait_for_names(&browser, &["beta", "gamma", "alpha"]);
    assert_eq!(
        browser.run("return document.querySelector('th[data-column=requests]').getAttribute('aria-sort')"),
        "descending"
    );
    browser.click("th[data-column=requests] button");
    wait_for_names(&browser, &["alpha", "gamma", "beta"]);
    // A slash puts the cursor into the filter.
    browser.press("/");
    browser.press("mm");
    wait_for_names(&browser, &["gamma"]);
    browser.replace("#filter", "nothing of this name");
    wait_for_names(&browser, &[]);
    browser.replace("#filter", " ");
    browser.run(
        "const only = document.querySelector('#only'); only.value = 'error'; only.dispatchEvent(new Event('change'))",
    );
    wait_for_names(&browser, &["gamma"]);
    browser
        .run("const only = document.querySelector('#only'); only.value = ''; only.dispatchEvent(new Event('change'))");

    browser.wait(
        "a chart is drawn",
        "return document.querySelectorAll('#charts path').length > 0",
    );
    for look in [LIGHT, DARK, PHONE] {
        browser.look(look);
        assert_eq!(
            browser.run("return document.documentElement.scrollWidth <= window.innerWidth"),
            true,
            "the page fits the width of {}",
            look.name
        );
        browser.screenshot(&format!("models-{}", look.name));
    }
    server.unload("beta").expect(200);
    wait_for_names(&browser, &["alpha", "gamma"]);
    assert_eq!(browser.console(), [""; 0], "nothing is wrong in the console");
}

/// Replaces the events of the server by one state with ten thousand models.
const MANY: &str = "
    window.EventSource = class extends EventTarget {
        constructor() {
            super();
            const models = Array.from({ length: 10_000 }, (_, index) => ({
                name: `model-${String(index).padStart(5, '0')}`, target: null, state: 'loaded', memory: 1000, mapped: 0,
                shared: 0, requests: index, errors: 0, causes: {}, cold: 0, p50: null, p99: null, last: null, error: null,
            }));
            const state = {
                form: 1, time: Date.now(), models, refusals: [], endpoints: [], memory: null,
                server: { kind: 'serve', version: '0', mode: 'multi-model', started: Date.now(), loads: true, by_target: false },
                totals: { running: 0, waiting: 0, loading: 0, refused: 0 }, history: { step: 5, most: 180, points: [] },
            };
            setTimeout(() => this.dispatchEvent(new MessageEvent('state', { data: JSON.stringify(state) })));
        }
        close() {}
    };";

#[test]
fn the_page_shows_the_first_of_ten_thousand_models_and_finds_any() {
    let Some(browser) = Browser::start() else { return };
    let server = Builder::multi().start();
    browser.look(LIGHT);
    browser.before_pages(MANY);
    browser.open(&url(&server));
    let rows = |count: u32| format!("return document.querySelectorAll('#rows tr').length === {count}");
    browser.wait("only the first rows are elements", &rows(200));
    assert_eq!(browser.text("#models-sum"), "10,000, the first 200 shown");
    browser.click("#more");
    browser.wait("there are more rows", &rows(400));
    browser.type_into("#filter", "09999");
    wait_for_names(&browser, &["model-09999"]);
    browser.replace("#filter", " ");
    browser.click("th[data-column=requests] button");
    browser.wait("the first rows are there again", &rows(200));
    assert_eq!(names(&browser)[0], "model-09999");
}

#[test]
fn the_page_connects_again_after_the_server_was_restarted() {
    let Some(browser) = Browser::start() else { return };
    let server = Builder::multi().start();
    let address = server.address();
    browser.open(&url(&server));
    browser.wait(
        "the page is live",
        "return document.querySelector('#link').textContent === 'Live'",
    );
    server.terminate();
    assert!(
        server.wait_for_end().status.success(),
        "an open page does not delay a stop"
    );
    browser.wait(
        "the page says so",
        "return document.querySelector('#link').dataset.state === 'lost'",
    );
    let again = Builder::multi()
        .arguments(["--port", &address.port().to_string()])
        .start();
    load_scale(&again, "later", 2.0);
    wait_for_names(&browser, &["later"]);
}
