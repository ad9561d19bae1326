//! Other users of the machine, and models that would run code as the user of the endpoint.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::geteuid;
use serde_json::{Value, json};

use super::desk::Desk;
use crate::harness::{Builder, Finished, Models, fixture};

/// Somebody else on every Linux machine.
const NOBODY: u32 = 65534;

/// Has another user ask for the list of models, in bash's own words for it.
fn asked_by_nobody(address: SocketAddr) -> String {
    let (host, port) = (address.ip(), address.port());
    let head = "POST / HTTP/1.1\\r\\nHost: localhost\\r\\nX-Amz-Target: SageMaker.ListModels\\r\\nContent-Length: 2\\r\\nConnection: close";
    let script = format!("exec 3<>/dev/tcp/{host}/{port}; printf '{head}\\r\\n\\r\\n{{}}' >&3; cat <&3");
    let mut bash = Command::new("bash");
    // A connection that is closed at once ends bash with an error.
    Finished::after(bash.args(["-c", &script]).current_dir("/").uid(NOBODY).gid(NOBODY)).printed()
}

/// The address of the only container.
fn container_of(desk: &Desk) -> SocketAddr {
    let log = desk.0.log();
    let line = log.iter().find(|line| line.contains("container in service")).unwrap();
    let (_, address) = line.split_once("address=http://").unwrap();
    address.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn other_users_of_the_machine_are_refused_unless_a_flag_lets_them_in() {
    if !geteuid().is_root() {
        eprintln!("left out: only root can start a client as another user");
        return;
    }
    let desk = Desk::start(Builder::endpoint());
    let refused = asked_by_nobody(desk.0.address());
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(
        refused
            .to_lowercase()
            .contains("x-amzn-errortype: accessdeniedexception"),
        "{refused}"
    );
    let expected = format!("the connection belongs to the user with the id {NOBODY}");
    assert!(
        refused.contains(&expected) && refused.contains("--allow-other-users"),
        "{refused}"
    );
    desk.0.wait_for_log(&expected);
    // This user is served as ever.
    desk.control("ListModels", &json!({})).expect(200);

    // Nor does the port of a container lead around that.
    let serving = |flags: &[&str]| {
        let model = Builder::endpoint().arguments(flags).argument("--model");
        let desk = Desk::start(model.argument(fixture("scale")));
        desk.wait_until_served("longshore");
        desk
    };
    let desk = serving(&[]);
    assert_eq!(asked_by_nobody(container_of(&desk)), "");
    let expected = format!("{expected}; connection closed (--only-this-user)");
    desk.0.wait_for_log(&expected);
    assert_eq!(desk.answer(Desk::invocation("longshore"), 2.0), 2469.0);

    let desk = serving(&["--allow-other-users"]);
    let answered = asked_by_nobody(container_of(&desk));
    assert!(answered.starts_with("HTTP/1.1 404 "), "{answered}");
    let served = asked_by_nobody(desk.0.address());
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
    let desk = Desk::start(Builder::endpoint());
    for name in [
        "LD_PRELOAD",
        "LD_AUDIT",
        "GLIBC_TUNABLES",
        "ORT_DYLIB_PATH",
        "GCONV_PATH",
        "MALLOC_CONF",
    ] {
        let refused = desk
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
    desk.control("CreateModel", &with_environment(&json!({"LONGSHORE_THREADS": "1"})))
        .expect(200);
    drop(desk);

    // The same from a file of the command line.
    let models = Models::new();
    let file = models.path("model.json");
    std::fs::write(&file, with_environment(&json!({"LD_PRELOAD": "/tmp/x.so"})).to_string()).unwrap();
    let ended = Builder::endpoint().argument("--config").argument(&file).run_to_end();
    assert_eq!(ended.status.code(), Some(1));
    let said = ended.log.join("\n");
    assert!(
        said.contains("The Environment of container model: the variable LD_PRELOAD is not allowed"),
        "{said}"
    );
}

#[test]
fn a_state_file_may_have_such_a_model_and_what_it_says_is_kept() {
    let models = Models::new();
    let file = models.path("state.json");
    let request = with_environment(&json!({"LD_PRELOAD": "/tmp/x.so", "B": "2", "A": "1"}));
    // As an endpoint that runs images has written it.
    let state = json!({
        "version": 1,
        "models": [{"created": 1.0, "request": request}],
        "endpoint_configs": [],
        "endpoints": [],
        "tags": {"model/loaded": {"team": "shop"}},
    });
    std::fs::write(&file, state.to_string()).unwrap();
    let start = || Desk::start(Builder::endpoint().argument("--state").argument(&file));
    let desk = start();
    let variant = json!({"VariantName": "a", "ModelName": "LOADED", "InitialInstanceCount": 1});
    let config = json!({"EndpointConfigName": "c", "ProductionVariants": [variant]});
    desk.control("CreateEndpointConfig", &config).expect(200);
    desk.control(
        "CreateEndpoint",
        &json!({"EndpointName": "e", "EndpointConfigName": "c"}),
    )
    .expect(200);
    crate::harness::eventually("the endpoint fails", || desk.status("e").as_deref() == Some("Failed"));
    let described = desk.control("DescribeEndpoint", &json!({"EndpointName": "E"})).json();
    let reason = described["FailureReason"].as_str().unwrap();
    assert!(reason.contains("LD_PRELOAD is not allowed"), "{reason}");
    drop(desk);

    let desk = start();
    let described = desk
        .control("DescribeModel", &json!({"ModelName": "Loaded"}))
        .expect(200)
        .json();
    assert_eq!(
        described["PrimaryContainer"]["Environment"],
        request["PrimaryContainer"]["Environment"]
    );
    let arn = described["ModelArn"].as_str().unwrap();
    let tags = desk.control("ListTags", &json!({"ResourceArn": arn})).json();
    assert_eq!(tags, json!({"Tags": [{"Key": "team", "Value": "shop"}]}));
}
