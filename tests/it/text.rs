//! Locales: text models change case by the rules of a locale, and must give the same results on
//! every machine, regardless of its installed locales.
//!
//! The cases of the `text_*` models contain results of scikit-learn and Python for many alphabets;
//! `formats` tests them.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Builder, Server, assert_close, cases, eventually};
use crate::support::onnx::{Graph, Info, Model, Node, element};

#[track_caller]
fn assert_distinguishes_languages(server: &Server, name: &str) {
    for case in cases("text_tfidf") {
        let answer = server.invoke(name, &json!({"inputs": {"text": case.inputs["text"].nested()}}));
        let outputs = answer.expect(200).json()["outputs"].clone();
        assert_eq!(outputs["label"], case.output("label"), "{name}");
        assert_close(&outputs["probabilities"], &case.output("probabilities"), name);
    }
}

/// Returns a model that converts text to lower case by the rules of `locale`.
fn lower(locale: &str) -> Vec<u8> {
    let text = |name| Info::tensor(name, element::STRING, ["n".into()]);
    let node = Node::new("StringNormalizer", ["text"], ["lower"])
        .attribute("case_change_action", "LOWER")
        .attribute("is_case_sensitive", 1)
        .attribute("locale", locale);
    let graph = Graph::new().input(text("text")).output(text("lower")).node(node);
    Model::new(graph).into_bytes()
}

#[test]
fn a_text_model_gives_the_same_results_in_every_locale_of_the_server() {
    for (variable, value) in [
        ("LANG", ""),
        ("LC_ALL", "C"),
        ("LC_ALL", "de_DE.UTF-8"),
        ("LC_CTYPE", "tr_TR.UTF-8"),
    ] {
        let server = Builder::multi().environment(variable, value).start();
        let url = server.models().place("text_tfidf", "m");
        server.load("m", &url).expect(200);
        assert_distinguishes_languages(&server, "m");
    }
}

#[test]
fn a_text_model_is_restored_after_a_crash() {
    let server = Builder::multi().start();
    let url = server.models().place("text_tfidf", "m");
    server.load("m", &url).expect(200);
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    assert_distinguishes_languages(&server, "m");
}

#[test]
fn a_model_without_a_locale_uses_that_of_the_environment() {
    // The rules are those of the server's environment; all locales agree on ASCII.
    for language in ["C", "de_DE.UTF-8"] {
        let server = Builder::multi().environment("LC_ALL", language).start();
        let url = server.models().place_model("m", &lower(""));
        server.load("m", &url).expect(200);
        let answer = server.invoke("m", &json!({"inputs": {"text": ["LOUD", "Mixed"]}}));
        assert_eq!(
            answer.expect(200).json(),
            json!({"outputs": ["loud", "mixed"]}),
            "{language}"
        );
    }
}

#[test]
fn an_unsupported_locale_is_refused_by_name() {
    let server = Builder::multi().start();
    for locale in ["tr_ZZ.UTF-8", "de_ZZ.ISO-8859-1", "../../tmp/locale", "nonsense"] {
        let url = server.models().place_model("m", &lower(locale));
        let refusal = server.load("m", &url);
        assert_eq!(refusal.status, 400, "{}", refusal.text());
        for part in ["StringNormalizer", locale, "install it", "en_US.UTF-8"] {
            assert!(refusal.message().contains(part), "{part}: {}", refusal.message());
        }
    }
    server.ping().expect(200);
}
