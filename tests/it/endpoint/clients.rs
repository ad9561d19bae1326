//! AWS's own clients: boto3, the command line, and version 2 of the SageMaker SDK.
//!
//! The Python programs in `tests/clients` call `longshore endpoint` and check its responses. Each
//! test here runs one of these programs with its own endpoint and with models in S3, and then
//! checks the endpoint's log. `scripts/clients` installs the clients.

mod exports;
mod memory;

use crate::harness::{Builder, CLIENTS, PythonServer, S3, Server, Venv};

/// An endpoint that loads its models from S3.
fn endpoint() -> Builder {
    let variables = S3::environment(S3::start().address()).into_iter();
    // A client that has to poll twice waits for half a minute, so the endpoint answers late
    // instead.
    let builder = Builder::endpoint().arguments(["--settle-wait", "30s"]);
    variables.fold(builder, |builder, (name, value)| builder.environment(name, value))
}

/// Runs a file of `tests/clients` against an endpoint.
#[track_caller]
fn run(server: &Server, file: &str, arguments: &[String]) {
    run_in(CLIENTS, server, &format!("tests/clients/{file}"), arguments);
}

/// Runs a program against an endpoint.
#[track_caller]
fn run_in(venv: Venv, server: &Server, program: &str, arguments: &[String]) {
    let url = format!("http://{}", server.address());
    let here = [
        ("AWS_ENDPOINT_URL_SAGEMAKER", url.clone()),
        ("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url),
        // AWS's tools for Python read the region only from this variable.
        ("AWS_DEFAULT_REGION", "eu-central-1".to_owned()),
        ("LONGSHORE_PROCESS", server.supervisor().0.to_string()),
    ];
    let s3 = S3::environment(S3::start().address());
    venv.run(program, arguments, here.into_iter().chain(s3));
}

#[test]
fn boto3_manages_models_configurations_and_endpoints() {
    run(&endpoint().start(), "control_plane.py", &[]);
}

#[test]
fn the_control_plane_matches_botocores_definition_of_every_member() {
    run(&endpoint().start(), "service_model.py", &[]);
}

#[test]
fn boto3_invokes_the_models_of_a_bucket() {
    // A strict rotation shows the weights after few requests.
    run(&endpoint().arguments(["--deal", "even"]).start(), "multi_model.py", &[]);
}

#[test]
fn boto3_invokes_containers_in_series_and_by_name() {
    run(&endpoint().start(), "multi_container.py", &[]);
}

#[test]
fn boto3_invokes_asynchronously() {
    run(&endpoint().start(), "asynchronous.py", &[]);
}

#[test]
fn boto3_reads_streams_and_reports_broken_ones() {
    let theirs = PythonServer::start(CLIENTS, "tests/clients/streaming_container.py");
    let container = format!("theirs=http://{}", theirs.address());
    let server = endpoint()
        .arguments(["--endpoint-name", "theirs", "--container", &container])
        .start();
    server.wait_for_log("endpoint in service");
    run(&server, "streams.py", &[]);
}

#[test]
fn an_update_under_load_of_boto3_fails_no_request() {
    run(&endpoint().start(), "update.py", &[]);
}

#[test]
fn boto3_receives_a_model_error_when_a_container_is_killed() {
    let server = endpoint().argument("--fault=by-rule:kill=model@1/3").start();
    run(&server, "killed.py", &[]);
}

#[test]
fn boto3_maps_and_retries_injected_errors_as_on_aws() {
    let rules = [
        "now-and-then:error=503@1/2",
        "not-ready:model-not-ready",
        "full:model-error=507",
        "refused:model-error=400",
        "internal:error=500",
        "unavailable:error=503",
        "dependency:error=530",
    ];
    let server = endpoint()
        .arguments(rules.map(|rule| format!("--fault={rule}")))
        .start();
    run(&server, "faults.py", &[]);
}

#[test]
fn the_aws_command_line_creates_invokes_and_deletes_an_endpoint() {
    run(&endpoint().start(), "command_line.py", &[]);
}

#[test]
fn the_sagemaker_sdk_deploys_a_multi_data_model_and_predicts() {
    run(&endpoint().start(), "sdk.py", &[]);
}
