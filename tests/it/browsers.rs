//! Requests from web pages: refused unless an option allows their origin, and then served by the
//! rules of CORS.

use serde_json::json;

use crate::endpoint::command::local_endpoint::LocalEndpoint;
use crate::harness::{Builder, Connection, Request, Server};

const PAGE: &str = "https://app.example.com";

/// Starts a server with a model that listens on the loopback interface, as on a laptop.
fn on_a_laptop(arguments: &[&str]) -> Server {
    // Overrides the harness, which allows all hosts.
    let server = Builder::multi()
        .arguments(["--allow-host", "laptop.example"])
        .arguments(arguments)
        .start();
    let url = server.models().place_scale("m", 2.0);
    let load = json!({"model_name": "m", "url": url});
    server.send_unchecked(&Request::post("/models").json(&load)).expect(200);
    server
}

fn requests() -> Vec<Request> {
    let load = json!({"model_name": "n", "url": "/nowhere"}).to_string();
    vec![
        Request::get("/ping"),
        Request::get("/models"),
        Request::get("/models/m"),
        Request::get("/metrics"),
        Request::get("/execution-parameters"),
        Request::get("/v2"),
        Request::get("/v2/models/m"),
        Request::get("/nothing"),
        // Requests that a page may send without a preflight.
        Request::post("/models").header("Content-Type", "text/plain").body(load),
        Server::invocation("m").header("Content-Type", "text/plain").body("[1]"),
        Request::post("/invocations").body("[1]"),
        Request::post("/v2/models/m/infer").body("{}"),
        Request::delete("/models/m"),
        Request::new("OPTIONS", "/models"),
    ]
}

#[test]
fn pages_are_refused_on_every_route() {
    let server = on_a_laptop(&[]);
    for request in requests() {
        for origin in [PAGE, "null", "http://localhost:3000", "http://model.aws.local:8080"] {
            let refusal = server.send(&request.clone().header("Origin", origin)).expect(403);
            assert!(refusal.text().contains("--allow-origin"), "{}", refusal.text());
        }
        for site in ["cross-site", "same-site"] {
            server.send(&request.clone().header("Sec-Fetch-Site", site)).expect(403);
        }
        // DNS rebinding: a foreign name that resolves to this machine.
        let refusal = server
            .send(&request.clone().header("Host", "evil.example:8080"))
            .expect(403);
        assert!(
            refusal.text().contains("--allow-host evil.example"),
            "{}",
            refusal.text()
        );
    }
    server.assert_scales("m", 2.0);
    server.describe("n").expect(404);
}

#[test]
fn requests_that_do_not_come_from_a_web_page_are_served() {
    let server = on_a_laptop(&[]);
    let port = server.address().port();
    for host in ["localhost", "127.0.0.1", "[::1]", "model.aws.local"] {
        let request = Request::get("/ping").header("Host", format!("{host}:{port}"));
        server.send(&request).expect(200);
    }
    for site in ["none", "same-origin"] {
        server
            .send(&Request::get("/ping").header("Sec-Fetch-Site", site))
            .expect(200);
    }
    // ST-5: the platform addresses the server by names that the server cannot know.
    let server = Builder::multi()
        .arguments(["--bind", "0.0.0.0", "--allow-host", "none"])
        .start();
    let address = ([127, 0, 0, 1], server.address().port()).into();
    for host in ["model.aws.local:8080", "10.32.0.2:8080"] {
        let mut connection = Connection::open(address).unwrap();
        connection.send(&Request::get("/ping").header("Host", host)).expect(200);
    }
}

#[test]
fn a_page_with_an_allowed_origin_is_served() {
    let server = on_a_laptop(&["--allow-origin", "https://other.example,https://app.example.com"]);
    // The preflight of `fetch` with an AWS header.
    let preflight = Request::new("OPTIONS", "/models/m/invoke")
        .header("Origin", PAGE)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "content-type,x-amzn-sagemaker-custom-attributes",
        )
        .header("Sec-Fetch-Site", "cross-site");
    let allowed = server.send_unchecked(&preflight).expect(204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(PAGE));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        Some("content-type,x-amzn-sagemaker-custom-attributes")
    );
    let vary: Vec<_> = allowed.headers.iter().filter(|(name, _)| name == "vary").collect();
    assert!(vary.iter().any(|(_, value)| value == "Origin"), "{vary:?}");

    let invocation = Server::invocation("m")
        .header("Origin", PAGE)
        .header("Sec-Fetch-Site", "cross-site")
        .header("X-Amzn-SageMaker-Custom-Attributes", "trace=1")
        .json(&json!({"instances": [1]}));
    let answer = server.send_unchecked(&invocation).expect(200);
    assert_eq!(answer.json(), json!({"predictions": [2.0]}));
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(answer.header("access-control-expose-headers"), Some("*"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    // The page can also read a refusal.
    let unknown = server
        .send_unchecked(&Request::get("/models/absent").header("Origin", PAGE))
        .expect(404);
    assert_eq!(unknown.header("access-control-allow-origin"), Some(PAGE));

    for origin in ["https://evil.example", "https://app.example.com.evil.example", "null"] {
        let preflight = Request::new("OPTIONS", "/models/m/invoke")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST");
        server.send_unchecked(&preflight).expect(403);
        let refusal = server
            .send_unchecked(&Request::get("/models").header("Origin", origin))
            .expect(403);
        assert_eq!(refusal.header("access-control-allow-origin"), None);
    }
    server
        .send_unchecked(&Request::get("/models").header("Sec-Fetch-Site", "cross-site"))
        .expect(403);
}

#[test]
fn a_star_allows_all_origins() {
    let server = on_a_laptop(&["--allow-origin", "*"]);
    for origin in [PAGE, "null"] {
        let answer = server
            .send_unchecked(&Request::get("/models").header("Origin", origin))
            .expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("vary"), None);
    }
    server
        .send(&Request::get("/models").header("Sec-Fetch-Site", "cross-site"))
        .expect(200);
    server
        .send(&Request::get("/models").header("Host", "evil.example"))
        .expect(403);
}

#[test]
fn the_local_endpoint_applies_the_same_rules_to_pages() {
    let list = |local: &LocalEndpoint, name: &str, value: &str| {
        let request = Request::post("/")
            .header("X-Amz-Target", "SageMaker.ListModels")
            .header(name, value)
            .body("{}");
        local.send(&request)
    };
    let hosts = ["--allow-host", "model.aws.local"];
    let local = LocalEndpoint::start(Builder::endpoint().arguments(hosts));
    for (name, value) in [
        ("Origin", PAGE),
        ("Sec-Fetch-Site", "cross-site"),
        ("Host", "evil.example"),
    ] {
        let refusal = list(&local, name, value).expect(403);
        assert_eq!(refusal.header("x-amzn-errortype"), Some("AccessDeniedException"));
    }
    list(&local, "Sec-Fetch-Site", "none").expect(200);
    let local = LocalEndpoint::start(Builder::endpoint().arguments(hosts).arguments(["--allow-origin", PAGE]));
    let answer = list(&local, "Origin", PAGE).expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    list(&local, "Origin", "https://evil.example").expect(403);
    let preflight = Request::new("OPTIONS", "/")
        .header("Origin", PAGE)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "x-amz-target");
    let allowed = local.send(&preflight).expect(204);
    assert_eq!(allowed.header("access-control-allow-headers"), Some("x-amz-target"));
}
