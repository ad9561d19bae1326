//! A running `longshore endpoint`.

use serde_json::{Value, json};

use crate::harness::{Builder, Connection, Request, Response, Server, eventually};

pub struct LocalEndpoint(pub Server);

impl LocalEndpoint {
    #[track_caller]
    pub fn start(builder: Builder) -> Self {
        Self(builder.start())
    }

    /// An `InvokeEndpoint` request without a body, which the caller adds.
    pub fn invocation(endpoint: &str) -> Request {
        Request::post(format!("/endpoints/{endpoint}/invocations"))
    }

    /// The responses are SageMaker's, so the checks for containers do not apply.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        let mut connection = Connection::open(self.0.address()).unwrap();
        connection
            .write(&request.clone().header("Connection", "close").to_bytes())
            .unwrap();
        connection.read_unchecked(request.method()).unwrap()
    }

    /// Invokes a model of `place_scale`.
    #[track_caller]
    pub fn answer(&self, request: Request, number: f64) -> f64 {
        let response = self.send(&request.json(&json!({"instances": [number]})));
        response.expect(200).json()["predictions"][0].as_f64().unwrap()
    }

    /// Calls an action of the control plane.
    #[track_caller]
    pub fn control(&self, action: &str, body: &Value) -> Response {
        let target = format!("SageMaker.{action}");
        self.send(
            &Request::post("/")
                .header("X-Amz-Target", target)
                .header("Content-Type", "application/x-amz-json-1.1")
                .body(body.to_string()),
        )
    }

    /// The status of an endpoint; `None` if it does not exist.
    pub fn status(&self, endpoint: &str) -> Option<String> {
        let described = self.control("DescribeEndpoint", &json!({"EndpointName": endpoint}));
        let status = described.json()["EndpointStatus"].as_str()?.to_owned();
        Some(status)
    }

    #[track_caller]
    pub fn wait_until_served(&self, endpoint: &str) {
        eventually("the endpoint serves", || {
            let status = self.status(endpoint);
            assert_ne!(status.as_deref(), Some("Failed"));
            status.as_deref() == Some("InService")
        });
    }

    /// Creates a model from the archive or folder at `url`, its configuration, and its endpoint,
    /// all with one name.
    #[track_caller]
    pub fn create(&self, name: &str, url: &str) {
        let model = json!({"ModelName": name, "PrimaryContainer": {"ModelDataUrl": url}});
        self.control("CreateModel", &model).expect(200);
        let variant = json!({"VariantName": "a", "ModelName": name, "InitialInstanceCount": 1});
        let config = json!({"EndpointConfigName": name, "ProductionVariants": [variant]});
        self.control("CreateEndpointConfig", &config).expect(200);
        let endpoint = json!({"EndpointName": name, "EndpointConfigName": name});
        self.control("CreateEndpoint", &endpoint).expect(200);
    }
}
