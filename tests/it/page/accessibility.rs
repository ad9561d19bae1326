//! The page for people who use a keyboard or a screen reader, as far as axe can check it.

use serde_json::json;

use super::{invoke, load_scale};
use crate::harness::{Browser, Builder, DARK, LIGHT, PHONE, axe};

#[test]
fn axe_finds_nothing_serious_in_light_in_dark_and_on_a_phone() {
    let Some(browser) = Browser::start() else { return };
    assert!(axe().exists(), "run scripts/axe, which installs axe-core");
    let server = Builder::multi().start();
    for (name, factor) in [("alpha", 2.0), ("beta", 3.0)] {
        load_scale(&server, name, factor);
        invoke(&server, name);
    }
    server.invoke("beta", &json!({"instances": ["a"]})).expect(400);
    let endpoint = Builder::endpoint()
        .arguments(["--multi-model", &server.models().root().display().to_string()])
        .start();
    endpoint.wait_for_log("endpoint in service");
    browser.bypass_policy();
    let page = format!("http://{}/", server.address());
    let pages = [
        (
            page.clone(),
            "return document.querySelectorAll('#rows tr').length === 2",
        ),
        (
            format!("{page}#model=alpha"),
            "return document.querySelector('dialog[open] form.try') !== null",
        ),
        (
            format!("http://{}/ui", endpoint.address()),
            "return document.querySelectorAll('.container').length === 1",
        ),
    ];
    for (url, is_ready) in pages {
        for look in [LIGHT, DARK, PHONE] {
            browser.look(look);
            browser.open("about:blank");
            browser.open(&url);
            browser.wait("the page is complete", is_ready);
            let findings = browser.accessibility().unwrap();
            assert!(findings.is_empty(), "{url} in {}:\n{}", look.name, findings.join("\n"));
        }
    }
}

#[test]
fn the_keyboard_alone_reaches_a_model_and_its_form() {
    let Some(browser) = Browser::start() else { return };
    let server = Builder::multi().start();
    load_scale(&server, "alpha", 2.0);
    browser.look(LIGHT);
    browser.open(&format!("http://{}/", server.address()));
    browser.wait(
        "the row is there",
        "return document.querySelectorAll('#rows tr').length === 1",
    );
    let focused = || browser.run("return document.activeElement.textContent || document.activeElement.id");
    let mut seen = Vec::new();
    for _ in 0..40 {
        browser.press("\u{e004}");
        let now = focused();
        seen.push(now.clone());
        if now == "alpha" {
            break;
        }
    }
    assert_eq!(seen.last(), Some(&json!("alpha")), "{seen:?}");
    assert!(
        seen.contains(&json!("filter")) && seen.contains(&json!("p99")),
        "{seen:?}"
    );
    browser.press("\u{e007}");
    browser.wait(
        "Enter opens the model",
        "return document.querySelector('dialog[open] form.try') !== null",
    );
    assert_eq!(
        browser.run("return document.querySelector('dialog').contains(document.activeElement)"),
        true,
        "the keyboard is in the dialog"
    );
    browser.press("\u{e00c}");
    browser.wait(
        "Escape closes it",
        "return document.querySelector('dialog[open]') === null",
    );
    assert_eq!(focused(), "alpha", "the keyboard is where it was");
}
