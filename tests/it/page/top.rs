//! `longshore top`, in a terminal and for scripts.

use std::process::Command;

use serde_json::{Value, json};

use super::{invoke, load_scale};
use crate::harness::{Builder, Server, Terminal};

fn top(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .arg("top")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn with_models() -> Server {
    let server = Builder::multi().start();
    for (name, factor) in [("alpha", 2.0), ("beta", 3.0), ("gamma", 4.0)] {
        load_scale(&server, name, factor);
    }
    for _ in 0..3 {
        invoke(&server, "beta");
    }
    server.invoke("gamma", &json!({"instances": ["a"]})).expect(400);
    server
}

fn names(table: &str) -> Vec<&str> {
    let rows = table.lines().skip_while(|line| !line.starts_with("MODEL")).skip(1);
    rows.filter_map(|row| row.split_whitespace().next()).collect()
}

#[test]
fn once_prints_a_table_or_json() {
    let server = with_models();
    let address = server.address().to_string();
    let (succeeded, table, errors) = top(&[&address, "--once"]);
    assert!(succeeded, "{errors}");
    assert_eq!(names(&table), ["alpha", "beta", "gamma"], "{table}");
    assert!(table.starts_with("3 models, "), "{table}");
    let (_, table, _) = top(&[&address, "--once", "--sort", "requests", "--filter", "a"]);
    assert_eq!(names(&table), ["beta", "gamma", "alpha"], "{table}");
    let (_, table, _) = top(&[&format!("http://{address}/ui"), "--once", "--filter", "ET"]);
    assert_eq!(names(&table), ["beta"], "{table}");
    let (_, text, _) = top(&[&address, "--once", "--json"]);
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["models"][2]["causes"], json!({"bad_request": 1}));
}

#[test]
fn an_address_without_a_server_is_a_clear_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap().to_string();
    drop(listener);
    let hidden = Builder::multi().argument("--no-ui").start();
    let strict = Builder::multi().arguments(["--allow-host", "x.example"]).start();
    let port = strict.address().port();
    for (address, part) in [
        (free, "no answer from http://"),
        ("ftp://host".to_owned(), "expected one such as localhost:8080"),
        (hidden.address().to_string(), "--no-ui"),
    ] {
        let (succeeded, output, errors) = top(&[&address, "--once"]);
        assert!(
            !succeeded && output.is_empty() && errors.contains(part),
            "{address}: {errors}"
        );
    }
    assert!(top(&[&format!("localhost:{port}"), "--once"]).0);
    let (succeeded, _, errors) = top(&[&strict.address().to_string()]);
    assert!(!succeeded && errors.contains("--once"), "without a terminal: {errors}");
    let (succeeded, _, errors) = top(&["--json"]);
    assert!(!succeeded && errors.contains("--once"), "{errors}");
}

#[test]
fn the_table_is_live_in_a_terminal_and_keys_sort_filter_and_open_a_model() {
    let server = with_models();
    let command = format!("{} top {}", env!("CARGO_BIN_EXE_longshore"), server.address());
    let Some(terminal) = Terminal::run(&command) else {
        return;
    };
    let screen = terminal.wait("the table is there", |screen| screen.contains("gamma"));
    assert_eq!(names(&screen)[..3], ["alpha", "beta", "gamma"], "{screen}");
    assert!(screen.contains("3 models") && screen.contains("live"), "{screen}");
    load_scale(&server, "delta", 5.0);
    terminal.wait("a new model appears", |screen| screen.contains("delta"));
    server.unload("delta").expect(200);
    terminal.wait("and disappears", |screen| !screen.contains("delta"));
    terminal.press(&["r"]);
    terminal.wait("the busiest is first", |screen| names(screen).first() == Some(&"beta"));
    terminal.press(&["/"]);
    terminal.press(&["g", "a", "m", "Enter"]);
    terminal.wait("one is left", |screen| {
        names(screen).first() == Some(&"gamma") && !screen.contains("alpha")
    });
    terminal.press(&["Enter"]);
    terminal.wait("its details are shown", |screen| {
        screen.contains("by cause") && screen.contains("bad_request 1")
    });
    // Two at once would be another key.
    terminal.press(&["Escape"]);
    terminal.wait("the details are closed", |screen| !screen.contains("by cause"));
    terminal.press(&["Escape"]);
    terminal.wait("all are back", |screen| screen.contains("alpha"));
    terminal.press(&["q"]);
    terminal.wait("it ends", |screen| screen.contains("ENDED with 0"));
}

#[test]
fn the_terminal_shows_a_lost_connection_and_connects_again() {
    let server = with_models();
    let address = server.address();
    let command = format!("{} top {address}", env!("CARGO_BIN_EXE_longshore"));
    let Some(terminal) = Terminal::run(&command) else {
        return;
    };
    terminal.wait("the table is there", |screen| screen.contains("gamma"));
    server.terminate();
    server.wait_for_end();
    let screen = terminal.wait("the loss is shown", |screen| screen.contains("connecting again"));
    assert!(screen.contains("gamma"), "the last table stays: {screen}");
    let again = Builder::multi()
        .arguments(["--port", &address.port().to_string()])
        .start();
    load_scale(&again, "later", 2.0);
    terminal.wait("it is connected again", |screen| {
        screen.contains("later") && screen.contains("live")
    });
}

#[test]
fn the_containers_of_a_local_endpoint_are_listed() {
    let models = crate::harness::Models::new();
    models.place_scale("a", 2.0);
    let server = Builder::endpoint()
        .arguments(["--multi-model", &models.root().display().to_string()])
        .start();
    server.wait_for_log("endpoint in service");
    let (succeeded, table, errors) = top(&[&server.address().to_string(), "--once"]);
    assert!(succeeded, "{errors}");
    assert!(table.contains("longshore/AllTraffic/instance-1/model  up"), "{table}");
}
