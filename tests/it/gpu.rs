//! Execution providers: the server uses the chosen one, or does not start.
//!
//! Tests that need a GPU run if `LONGSHORE_TEST_PROVIDER` is `cuda` or `tensorrt` and
//! `ORT_DYLIB_PATH` names a GPU build of ONNX Runtime. Otherwise they print that they were
//! skipped.

use std::env;

use serde_json::json;

use crate::harness::{Builder, in_parallel};

const VARIABLE: &str = "LONGSHORE_TEST_PROVIDER";

/// Builds a server whose models run on this machine's GPU. Without a provider to test, prints that
/// and returns `None`.
fn on_gpu() -> Option<Builder> {
    let Some(provider) = env::var_os(VARIABLE) else {
        eprintln!("SKIPPED: {VARIABLE} does not name an execution provider to test");
        return None;
    };
    Some(Builder::multi().argument("--provider").argument(provider))
}

#[test]
fn the_start_error_names_a_provider_that_the_library_lacks() {
    if env::var_os(VARIABLE).is_some() {
        eprintln!("SKIPPED: {VARIABLE} is set, so the library has the provider");
        return;
    }
    for provider in ["cuda", "tensorrt"] {
        let ended = Builder::multi().arguments(["--provider", provider]).run_to_end();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        for part in [&format!("--provider {provider}"), "libonnxruntime", "ORT_DYLIB_PATH"] {
            assert!(
                ended.last_line().contains(part),
                "{part:?} is not in the last line: {ended:?}"
            );
        }
    }
}

#[test]
fn provider_auto_falls_back_to_the_cpu_with_a_warning() {
    if env::var_os(VARIABLE).is_some() {
        eprintln!("SKIPPED: {VARIABLE} is set, so there is a GPU");
        return;
    }
    let server = Builder::multi().arguments(["--provider", "auto"]).start();
    server.wait_for_log("models run on the CPU");
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
}

#[test]
fn the_error_names_an_unknown_provider() {
    let ended = Builder::multi()
        .environment("LONGSHORE_PROVIDER", "abacus")
        .run_to_end();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.log.iter().any(|line| line.contains("abacus")), "{ended:?}");
}

#[test]
fn the_cpu_is_a_provider() {
    let server = Builder::multi().arguments(["--provider", "cpu"]).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
}

#[test]
fn models_on_a_gpu_give_the_same_results_as_on_the_cpu_under_load() {
    let Some(builder) = on_gpu() else { return };
    let server = builder.start();
    let url = server.models().place_scale("scale", 2.0);
    server.load("scale", &url).expect(200);
    in_parallel(8, &[(); 200], |()| server.assert_scales("scale", 2.0));
    server.unload("scale").expect(200);
    server.load("scale", &url).expect(200);
    server.assert_scales("scale", 2.0);
}

#[test]
fn a_full_gpu_is_a_507_and_other_models_stay_loaded() {
    // MM-18, for the memory of the GPU.
    let Some(builder) = on_gpu() else { return };
    let server = builder.arguments(["--gpu-memory-limit", "64MiB"]).start();
    let mut loaded: Vec<String> = Vec::new();
    loop {
        let name = format!("big{}", loaded.len());
        let url = server.models().place_big(&name);
        let response = server.load(&name, &url);
        if response.status == 507 {
            break;
        }
        response.expect(200);
        loaded.push(name);
        assert!(loaded.len() < 100, "the memory limit is not enforced");
    }
    assert!(!loaded.is_empty());
    for name in &loaded {
        let answer = server
            .invoke(name, &json!({"instances": [vec![1.0; 1024]]}))
            .expect(200);
        assert_eq!(answer.json(), json!({"predictions": [1_048_576.0]}));
    }
}

#[test]
fn the_start_error_names_a_missing_gpu() {
    let Some(builder) = on_gpu() else { return };
    let ended = builder.arguments(["--device", "4711"]).run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.last_line().contains("--device"), "{ended:?}");
}
