//! No network access: a container may have no network at all (ST-10), and the server must not send
//! telemetry to the vendor of the model or of the library.

use std::fs;

use serde_json::json;

use crate::harness::{Builder, Request, skip_unless};

#[test]
fn the_server_never_connects_to_the_network() {
    if skip_unless(&["strace", "-f", "-e", "trace=connect", "-o", "/dev/null", "true"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let calls = "trace=execve,socket,connect,sendto,sendmsg,sendmmsg,accept4,io_uring_setup";
    let server = Builder::multi()
        .through(["strace", "-f", "-e", calls, "-o"])
        .through([&trace])
        .start();
    let url = server.models().place("mlp", "mlp");
    server.load("mlp", &url).expect(200);
    for _ in 0..3 {
        server.invoke("mlp", &json!({"instances": [vec![0.5; 32]]})).expect(200);
    }
    server.load("broken", "/outside").expect(400);
    server.send(&Request::get("/metrics")).expect(200);
    server.unload("mlp").expect(200);
    server.terminate();
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");

    let trace = fs::read_to_string(&trace).unwrap();
    let lines = |call: &str| -> Vec<&str> { trace.lines().filter(|line| line.contains(call)).collect() };
    // The trace is valid: it contains the server's own socket and its clients.
    assert!(
        !lines("accept4(").is_empty() && !lines("socket(AF_INET").is_empty(),
        "{trace}"
    );
    let made: Vec<&str> = trace.lines().filter(|line| line.contains("socket(AF_INET")).collect();
    assert_eq!(made.len(), 1, "other sockets than the one that listens: {made:?}");
    // The trace also contains the process that prepared the model.
    let prepares = |line: &&&str| line.contains("\"prepare\"") && line.ends_with("= 0");
    assert_eq!(lines("execve(").iter().filter(prepares).count(), 1, "{trace}");
    assert_eq!(lines("io_uring_setup("), [""; 0]);
    for call in ["connect(", "sendmsg(", "sendmmsg("] {
        let outbound: Vec<&str> = lines(call)
            .into_iter()
            .filter(|line| line.contains("AF_INET"))
            .collect();
        assert_eq!(outbound, [""; 0], "{call}");
    }
    // Responses go over accepted connections without an address; only a datagram has one.
    let addressed: Vec<&str> = lines("sendto(")
        .into_iter()
        .filter(|line| line.contains("sin_addr"))
        .collect();
    assert_eq!(addressed, [""; 0]);
}
