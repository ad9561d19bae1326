//! Tests of the control plane: refused requests with their messages, and responses.

mod describe;
mod endpoint_config;
mod life;
mod list;
mod model;
mod shape;

use std::cell::Cell;

use serde_json::{Value, json};

use super::*;
use crate::endpoint::spec::{Execution, Mode, Routing};

/// A fleet with one running instance of each variant.
struct Fleet {
    processes: bool,
}

impl StatusSource for Fleet {
    fn running_instances(&self, _: &str, _: &str) -> u32 {
        1
    }

    fn runs_processes(&self) -> bool {
        self.processes
    }
}

/// A control plane whose clock advances by a second with each request.
struct Plane {
    arns: Arns,
    now: Cell<f64>,
    records: Records,
    /// Whether containers are processes of this user.
    processes: bool,
}

impl Plane {
    fn new() -> Self {
        Self {
            arns: Arns::new("eu-central-1"),
            now: Cell::new(1_790_000_000.0),
            records: Records::default(),
            processes: true,
        }
    }

    /// A control plane with the model `m`, the configuration `c` with two variants of it, and the
    /// endpoint `e` in service.
    fn serving() -> Self {
        let mut plane = Self::new();
        plane.must(
            "CreateModel",
            json!({"ModelName": "m", "PrimaryContainer": {"Image": "image:1"}}),
        );
        plane.must("CreateEndpointConfig", config("c"));
        plane.must(
            "CreateEndpoint",
            json!({"EndpointName": "e", "EndpointConfigName": "c"}),
        );
        plane.settle("e", Ok(()));
        plane
    }

    fn tick(&self) -> f64 {
        self.now.set(self.now.get() + 1.0);
        self.now.get()
    }

    fn ask(&mut self, action: &str, body: Value) -> Result<ActionResponse, ControlError> {
        let context = ActionContext {
            now: self.tick(),
            arns: &self.arns,
            fleet: &Fleet {
                processes: self.processes,
            },
        };
        let before = self.records.clone();
        let target = format!("SageMaker.{action}");
        let answer = answer(&context, &mut self.records, &target, body.to_string().as_bytes());
        if answer.is_err() {
            assert_eq!(self.records, before, "{action} changed something");
        }
        answer
    }

    #[track_caller]
    fn must(&mut self, action: &str, body: Value) -> ActionResponse {
        match self.ask(action, body) {
            Ok(answer) => answer,
            Err(error) => panic!("{action}: {error}"),
        }
    }

    #[track_caller]
    fn refused(&mut self, action: &str, body: Value) -> String {
        match self.ask(action, body) {
            Ok(answer) => panic!("{action}: {}", answer.body),
            Err(error) => {
                assert_eq!(error.code(), "ValidationException", "{error}");
                error.to_string()
            }
        }
    }

    fn settle(&mut self, endpoint: &str, outcome: Result<(), &str>) {
        let now = self.tick();
        self.records.settle(endpoint, outcome.map_err(str::to_owned), now);
    }

    fn status(&mut self, endpoint: &str) -> Value {
        self.must("DescribeEndpoint", json!({"EndpointName": endpoint})).body
    }
}

fn variant(name: &str) -> Value {
    json!({"VariantName": name, "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"})
}

fn config(name: &str) -> Value {
    json!({"EndpointConfigName": name, "ProductionVariants": [variant("a"), variant("b")]})
}

fn model(with: Value) -> Value {
    merged(json!({"ModelName": "m"}), with)
}

fn merged(mut base: Value, with: Value) -> Value {
    let (Some(members), Value::Object(with)) = (base.as_object_mut(), with) else {
        panic!("objects");
    };
    members.extend(with);
    base
}
