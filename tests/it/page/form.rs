//! The form that sends a request to a model, in headless Chromium.

use std::fs;

use crate::harness::{Browser, Builder, DARK, LIGHT, PHONE, Server};
use crate::media::{place_colours, place_moods, png_of};

/// Opens the details of a model.
#[track_caller]
fn open(browser: &Browser, server: &Server, name: &str) {
    browser.open(&format!("http://{}/#model={name}", server.address()));
    browser.run("location.reload()");
    browser.wait(
        "the form is there",
        "return document.querySelector('dialog form.try') !== null",
    );
}

/// Chooses a way to send.
#[track_caller]
fn choose(browser: &Browser, way: &str) {
    let found = browser.run_with(
        "const label = [...document.querySelectorAll('.ways label')].find((one) => one.textContent === arguments[0]);
         label?.querySelector('input').click();
         return label !== undefined",
        &serde_json::json!([way]),
    );
    assert_eq!(found, true, "the form has {way}");
}

/// Sends, and returns the status and the text of the answer.
#[track_caller]
fn send(browser: &Browser) -> (String, String) {
    browser.run("document.querySelector('.answer').replaceChildren()");
    browser.click("dialog form.try button[type=submit]");
    browser.wait(
        "the answer is there",
        "return document.querySelector('.answer [data-part=status]') !== null",
    );
    let time = browser.text(".answer [data-part=time]");
    assert!(time.ends_with('s'), "the time has its unit: {time}");
    (browser.text(".answer [data-part=status]"), browser.text(".answer pre"))
}

#[test]
fn numbers_csv_json_and_mistakes_are_answered() {
    let Some(browser) = Browser::start() else { return };
    let server = Builder::multi().start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    browser.look(LIGHT);
    open(&browser, &server, "iris");
    assert_eq!(
        browser.run("return document.querySelectorAll('.values input[type=number]').length"),
        4
    );
    for (index, value) in ["5.1", "3.5", "1.4", "0.2"].iter().enumerate() {
        browser.replace(&format!("[name=value-0-{index}]"), value);
    }
    let (status, answer) = send(&browser);
    assert_eq!(status, "200 OK", "{answer}");
    assert!(answer.contains("0.98165685"), "{answer}");
    for look in [LIGHT, DARK, PHONE] {
        browser.look(look);
        browser.screenshot(&format!("form-{}", look.name));
    }
    browser.look(LIGHT);
    choose(&browser, "CSV");
    browser.replace("[name=body]", "6.3,3.3,6.0,2.5\n5.1,3.5,1.4,0.2");
    let (status, answer) = send(&browser);
    assert_eq!(status, "200 OK", "{answer}");
    choose(&browser, "JSON");
    let (status, _) = send(&browser);
    assert_eq!(status, "200 OK");
    browser.replace("[name=body]", "[[1, 2]]");
    let (status, answer) = send(&browser);
    assert_eq!(status, "400 Bad Request");
    assert!(answer.contains("BadRequestException"), "{answer}");
    // The figures of the model follow.
    browser.wait(
        "the dialog counts the requests",
        "return document.querySelector('dialog .facts').innerText.includes('bad_request 1')",
    );
    // Escape closes, and the page is where it was.
    browser.press("\u{e00c}");
    browser.wait("the dialog is closed", "return !document.querySelector('dialog').open");
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn a_picture_and_a_sentence_are_answered() {
    let Some(browser) = Browser::start() else { return };
    let server = Builder::multi().start();
    let colours = place_colours(&server, "colours");
    server.load("colours", &colours).expect(200);
    let moods = place_moods(&server, "moods");
    server.load("moods", &moods).expect(200);

    browser.look(LIGHT);
    open(&browser, &server, "colours");
    let file = server.models().path("green.png");
    fs::write(&file, png_of([20, 200, 90])).unwrap();
    browser.type_into("[name=file-Picture]", &file.display().to_string());
    browser.wait(
        "the picture is shown",
        "return document.querySelector('.drop img').naturalWidth === 40",
    );
    let (status, answer) = send(&browser);
    assert_eq!(status, "200 OK", "{answer}");
    let first = answer.find("green").unwrap();
    assert!(first < answer.find("blue").unwrap(), "{answer}");
    browser.screenshot("form-picture");

    // A picture that is dropped in.
    browser.run(
        "const bytes = document.querySelector('[name=file-Picture]').files[0];
         document.querySelector('.answer').replaceChildren();
         const carried = new DataTransfer();
         carried.items.add(new File([bytes], 'dropped.png', { type: 'image/png' }));
         document.querySelector('.drop').dispatchEvent(new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true }))",
    );
    assert!(browser.text(".drop").contains("dropped.png"));
    assert_eq!(send(&browser).0, "200 OK");

    open(&browser, &server, "moods");
    browser.replace("[name=sentences]", "A good ferry");
    let (status, answer) = send(&browser);
    assert_eq!(status, "200 OK", "{answer}");
    assert!(answer.contains("POSITIVE"), "{answer}");
    browser.screenshot("form-sentence");
    assert_eq!(browser.console(), [""; 0]);
}
