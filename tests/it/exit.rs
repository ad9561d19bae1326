//! A server that cannot start exits, and its last line says what to change (ST-12).

use std::net::TcpListener;

use crate::harness::{Builder, Ended};

#[track_caller]
fn assert_refuses(ended: &Ended, parts: &[&str]) {
    assert!(!ended.status.success(), "{ended:?}");
    assert!(ended.status.code().is_some(), "it was killed: {ended:?}");
    for part in parts {
        assert!(
            ended.last_line().contains(part),
            "{part:?} is not in the last line: {ended:?}"
        );
    }
}

#[test]
fn the_error_names_a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = Builder::multi().arguments(["--port", &port]).run_to_end();
    assert_refuses(&ended, &[&format!("127.0.0.1:{port}"), "--port", "in use"]);
}

#[test]
fn the_error_names_a_memory_limit_that_is_too_small_for_models() {
    // Otherwise every load would be a 507, and the platform would retry forever.
    let ended = Builder::multi().arguments(["--memory-limit", "1MiB"]).run_to_end();
    assert_refuses(&ended, &["--memory-limit"]);
}

#[test]
fn the_error_names_a_missing_library() {
    let ended = Builder::multi()
        .environment("ORT_DYLIB_PATH", "/nonexistent/onnxruntime.so")
        .run_to_end();
    assert_refuses(&ended, &["ORT_DYLIB_PATH", "/nonexistent/onnxruntime.so"]);
}

#[test]
fn the_error_names_a_file_that_is_not_a_library() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let ended = Builder::multi().environment("ORT_DYLIB_PATH", text).run_to_end();
    assert_refuses(&ended, &[text, "ONNX Runtime"]);
}

#[test]
fn the_error_names_an_unknown_response_type() {
    let ended = Builder::multi()
        .arguments(["--default-accept", "image/png"])
        .run_to_end();
    assert_refuses(&ended, &["image/png", "--default-accept"]);
}

#[test]
fn the_error_names_the_flag_or_variable_of_an_invalid_value() {
    let table = [
        (Builder::multi().argument("--no-such-flag"), "--no-such-flag"),
        (Builder::multi().arguments(["--threads", "0"]), "--threads"),
        (
            Builder::multi().arguments(["--request-timeout", "soon"]),
            "--request-timeout",
        ),
        (Builder::multi().arguments(["--memory-limit", "much"]), "--memory-limit"),
        (Builder::multi().arguments(["--port", "70000"]), "--port"),
        (Builder::multi().environment("SAGEMAKER_BIND_TO_PORT", "http"), "http"),
        (
            Builder::multi().environment("SAGEMAKER_CONTAINER_LOG_LEVEL", "loud"),
            "loud",
        ),
    ];
    for (builder, part) in table {
        let ended = builder.run_to_end();
        assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:?}");
        assert!(
            ended.log.iter().any(|line| line.contains(part)),
            "{part} is not in {ended:?}"
        );
    }
}
