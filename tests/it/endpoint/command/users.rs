//! Other users of the machine, and models that would run code as the user of the endpoint.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::geteuid;
use serde_json::{Value, json};

use super::local_endpoint::LocalEndpoint;
use crate::harness::{Builder, Finished, Models, fixture};

/// The id of an unprivileged user, which exists on every Linux machine.
const OTHER_USER: u32 = 65534;

/// Sends a request for the list of models as another user, with bash's own TCP client.
fn list_models_as_other_user(address: SocketAddr) -> String {
    let (host, port) = (address.ip(), address.port());
    let head = "POST / HTTP/1.1\\r\\nHost: localhost\\r\\nX-Amz-Target: SageMaker.ListModels\\r\\nContent-Length: 2\\r\\nConnection: close";
    let script = format!("exec 3<>/dev/tcp/{host}/{port}; printf '{head}\\r\\n\\r\\n{{}}' >&3; cat <&3");
    let mut bash = Command::new("bash");
    // A connection that is closed at once ends bash with an error.
    Finished::after(
        bash.args(["-c", &script])
            .current_dir("/")
            .uid(OTHER_USER)
            .gid(OTHER_USER),
    )
    .printed()
}

/// The address of the only container.
fn container_of(local: &LocalEndpoint) -> SocketAddr {
    let log = local.0.log();
    let line = log.iter().find(|line| line.contains("container in service")).unwrap();
    let (_, address) = line.split_once("address=http://").unwrap();
    address.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn other_users_of_the_machine_are_refused_unless_a_flag_lets_them_in() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root can start a client as another user");
        return;
    }
    let local = LocalEndpoint::start(Builder::endpoint());
    let refused = list_models_as_other_user(local.0.address());
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(
        refused
            .to_lowercase()
            .contains("x-amzn-errortype: accessdeniedexception"),
        "{refused}"
    );
    let expected = format!("the connection belongs to the user with the id {OTHER_USER}");
    assert!(
        refused.contains(&expected) && refused.contains("--allow-other-users"),
        "{refused}"
    );
    local.0.wait_for_log(&expected);
    // The user of the endpoint is still served.
    local.control("ListModels", &json!({})).expect(200);

    // The port of a container refuses other users too.
    let serving = |flags: &[&str]| {
        let model = Builder::endpoint().arguments(flags).argument("--model");
        let local = LocalEndpoint::start(model.argument(fixture("scale")));
        local.wait_until_served("longshore");
        local
    };
    let local = serving(&[]);
    assert_eq!(list_models_as_other_user(container_of(&local)), "");
    let expected = format!("{expected}; connection closed (--only-this-user)");
    local.0.wait_for_log(&expected);
    assert_eq!(local.answer(LocalEndpoint::invocation("longshore"), 2.0), 2469.0);

    let local = serving(&["--allow-other-users"]);
    let answered = list_models_as_other_user(container_of(&local));
    assert!(answered.starts_with("HTTP/1.1 404 "), "{answered}");
    let served = list_models_as_other_user(local.0.address());
    assert!(
        served.starts_with("HTTP/1.1 200 ") && served.contains("{\"Models\":[]}"),
        "{served}"
    );
}

fn with_environment(environment: &Value) -> Value {
    let container = json!({"ModelDataUrl": fixture("scale"), "Environment": environment});
    json!({"ModelName": "loaded", "PrimaryContainer": container})
}

#[test]
fn variables_that_load_code_into_a_process_are_refused_by_name() {
    let local = LocalEndpoint::start(Builder::endpoint());
    for name in [
        "LD_PRELOAD",
        "LD_AUDIT",
        "GLIBC_TUNABLES",
        "ORT_DYLIB_PATH",
        "GCONV_PATH",
        "MALLOC_CONF",
    ] {
        let refused = local
            .control("CreateModel", &with_environment(&json!({name: "/tmp/x.so"})))
            .expect(400);
        assert_eq!(refused.json()["__type"], "ValidationException");
        assert!(
            refused
                .message()
                .contains(&format!("the variable {name} is not allowed")),
            "{}",
            refused.text()
        );
    }
    local
        .control("CreateModel", &with_environment(&json!({"LONGSHORE_THREADS": "1"})))
        .expect(200);
    drop(local);

    // A file for `--config` is refused for the same reason.
    let models = Models::new();
    let file = models.path("model.json");
    std::fs::write(&file, with_environment(&json!({"LD_PRELOAD": "/tmp/x.so"})).to_string()).unwrap();
    let ended = Builder::endpoint().argument("--config").argument(&file).run_to_end();
    assert_eq!(ended.status.code(), Some(1));
    let log = ended.log.join("\n");
    assert!(
        log.contains("The Environment of container model: the variable LD_PRELOAD is not allowed"),
        "{log}"
    );
}

#[test]
fn a_state_file_with_a_refused_variable_keeps_its_model() {
    let models = Models::new();
    let file = models.path("state.json");
    let request = with_environment(&json!({"LD_PRELOAD": "/tmp/x.so", "B": "2", "A": "1"}));
    // An endpoint that runs images may have written this state.
    let state = json!({
        "version": 1,
        "models": [{"created": 1.0, "request": request}],
        "endpoint_configs": [],
        "endpoints": [],
        "tags": {"model/loaded": {"team": "shop"}},
    });
    std::fs::write(&file, state.to_string()).unwrap();
    let start = || LocalEndpoint::start(Builder::endpoint().argument("--state").argument(&file));
    let local = start();
    let variant = json!({"VariantName": "a", "ModelName": "LOADED", "InitialInstanceCount": 1});
    let config = json!({"EndpointConfigName": "c", "ProductionVariants": [variant]});
    local.control("CreateEndpointConfig", &config).expect(200);
    local
        .control(
            "CreateEndpoint",
            &json!({"EndpointName": "e", "EndpointConfigName": "c"}),
        )
        .expect(200);
    crate::harness::eventually("the endpoint fails", || local.status("e").as_deref() == Some("Failed"));
    let described = local.control("DescribeEndpoint", &json!({"EndpointName": "E"})).json();
    let reason = described["FailureReason"].as_str().unwrap();
    assert!(reason.contains("LD_PRELOAD is not allowed"), "{reason}");
    drop(local);

    let local = start();
    let described = local
        .control("DescribeModel", &json!({"ModelName": "Loaded"}))
        .expect(200)
        .json();
    assert_eq!(
        described["PrimaryContainer"]["Environment"],
        request["PrimaryContainer"]["Environment"]
    );
    let arn = described["ModelArn"].as_str().unwrap();
    let tags = local.control("ListTags", &json!({"ResourceArn": arn})).json();
    assert_eq!(tags, json!({"Tags": [{"Key": "team", "Value": "shop"}]}));
}
