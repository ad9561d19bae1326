//! `scripts/deploy`, and the resources of its template on `longshore endpoint`.
//!
//! The tests are Python programs in `tests/deploy`, because the tool is one. `scripts/moto`
//! installs moto, which is AWS for them.

use std::path::Path;

use crate::harness::{Builder, MOTO, S3};

/// The search path, by which `scripts/deploy` finds Bash and Python.
#[track_caller]
fn path() -> (&'static str, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(
        root.join(".deploy/bin/python").exists(),
        "run `scripts/deploy --help`, once: it installs what it needs"
    );
    ("PATH", std::env::var("PATH").unwrap())
}

#[test]
fn the_tool_creates_updates_and_deletes_stacks_of_cloudformation() {
    MOTO.run("tests/deploy/tool.py", ["--verbose"], [path()]);
}

#[test]
fn the_local_endpoint_serves_the_resources_of_the_template() {
    let address = S3::start().address();
    let mut variables = Vec::from(S3::environment(address));
    // The region of moto's buckets.
    variables.push(("AWS_REGION", "us-east-1".to_owned()));
    let endpoint = variables
        .iter()
        .fold(Builder::endpoint(), |builder, (name, value)| {
            builder.environment(name, value)
        })
        .start();
    let sagemaker = format!("http://{}", endpoint.address());
    variables.extend([
        path(),
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker.clone()),
        ("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", sagemaker),
    ]);
    MOTO.run("tests/deploy/local_endpoint.py", ["--verbose"], variables);
}
