//! Hardened environments: no write access, no root user, no network (ST-7, ST-8, ST-10).

use std::env;
use std::process::Command;

use serde_json::json;

use crate::harness::{Builder, Server, eventually, fixture, skip_unless};

#[track_caller]
fn assert_serves(server: &Server) {
    let url = server.models().place_scale("m", 2.0);
    for _ in 0..2 {
        server.load("m", &url).expect(200);
        server.assert_scales("m", 2.0);
        server.unload("m").expect(200);
    }
}

#[test]
fn the_server_runs_as_any_user() {
    let user = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"];
    if skip_unless(&[&user[..], &["true"]].concat()) {
        return;
    }
    assert_serves(&Builder::multi().through(user).start());
}

#[test]
fn the_server_runs_on_a_read_only_file_system_as_any_user() {
    // The files of models belong to another user and are read-only too.
    let script = "mount -o remount,ro,bind / && exec setpriv --reuid 54321 --regid 54321 --clear-groups \"$@\"";
    let sandbox = ["unshare", "--mount", "sh", "-c", script, "sh"];
    if skip_unless(&[&sandbox[..], &["sh", "-c", "! touch /tmp/longshore-is-read-only"]].concat()) {
        return;
    }
    assert_serves(&Builder::multi().through(sandbox).start());
    let server = Builder::single(fixture("mlp")).through(sandbox).start();
    eventually("the model is loaded", || server.ping().status == 200);
}

/// Variable that is set when this program runs inside a namespace without a network.
const INSIDE: &str = "LONGSHORE_TEST_WITHOUT_NETWORK";

#[test]
fn the_server_runs_without_a_network() {
    if env::var_os(INSIDE).is_some() {
        // Start the server as a child process: a container would have docker's network.
        return assert_serves(&Builder::multi().through(["env"]).start());
    }
    // Client and server have to share the namespace, so this test runs itself again inside one.
    let namespace = ["unshare", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    if skip_unless(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    let output = Command::new(namespace[0])
        .args(&namespace[1..])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "sandbox::the_server_runs_without_a_network", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn serve_may_be_the_only_argument() {
    // ST-1, ST-5: all other options come from the environment; by default the server listens on
    // all interfaces.
    let server = Builder::multi()
        .environment("LONGSHORE_BIND", "0.0.0.0")
        .environment("SAGEMAKER_BIND_TO_PORT", "0")
        .environment("SAGEMAKER_MODEL_SERVER_WORKERS", "2")
        .start();
    assert!(server.address().ip().is_unspecified());
    assert_eq!(server.list(""), json!({"models": []}));
}
