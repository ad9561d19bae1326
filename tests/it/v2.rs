//! The Open Inference Protocol, version 2, below `/v2`, with Triton's extensions for binary
//! tensors and for the model repository.
//!
//! In every mode, errors are `{"error": ".."}` with the status that the same cause has on other
//! routes, and the models are those of `/models` and `/invocations`.

mod binary;
mod clients;
mod document;
mod metadata;
mod modes;
mod repository;
mod routes;

use serde_json::{Value, json};

use crate::harness::{Request, Response, Server};

/// Builds `POST /v2/models/{name}/infer` without a body.
fn infer(name: &str) -> Request {
    Request::post(format!("/v2/models/{name}/infer"))
}

/// Returns the request body for models that multiply.
fn question() -> Value {
    json!({"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [4, -0.5]}]})
}

/// Returns the response of a model with this name and factor.
fn answer(name: &str, factor: f32) -> Value {
    let data = [factor * 4.0, factor * -0.5];
    json!({
        "model_name": name, "model_version": "1", "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": data}],
    })
}

#[track_caller]
fn ask(server: &Server, name: &str) -> Response {
    server.send(&infer(name).json(&question()))
}

#[track_caller]
fn get(server: &Server, path: &str) -> Response {
    server.send(&Request::get(path))
}

/// Requests the repository index, and returns names and states.
#[track_caller]
fn index(server: &Server, body: &str) -> Vec<(String, String)> {
    let reply = server
        .send(&Request::post("/v2/repository/index").body(body))
        .expect(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entries = reply.json();
    let entries = entries.as_array().unwrap().iter();
    entries
        .map(|entry| {
            assert_eq!(entry["version"], "1");
            (text(&entry["name"]), text(&entry["state"]))
        })
        .collect()
}
