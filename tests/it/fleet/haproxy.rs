//! The balancer itself: its start, its end, its health and its statistics.

use std::fs;
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use super::balancer::{self, Fleet, is_skipped};
use super::{TARGET_MODEL, by_header, owners, store};
use crate::harness::{A_SECOND, Models, Process, Request, eventually, skip_unless};

#[test]
fn a_balancer_that_starts_again_finds_the_same_servers_by_their_names_at_once() {
    if is_skipped() {
        return;
    }
    let (models, names) = store(24);
    let mut fleet = Fleet::start(&models, 3, &[]);
    let before = owners(&fleet, &names);
    // The names are in a file, and no name server answers.
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let hosts = (0..3).map(|server| format!("{} longshore-{server}\n", fleet.host(server)));
    let hosts = place("hosts", hosts.collect());
    let nowhere = place("resolv.conf", "nameserver 127.0.0.1\n".to_owned());
    let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";
    let namespace = ["unshare", "--mount", "sh", "-c", script, "sh", &hosts, &nowhere];
    if skip_unless(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    let variables = [
        ("LONGSHORE_FLEET_PREFIX", "longshore-"),
        ("LONGSHORE_FLEET_SLOWSTART", "1h"),
    ];
    fleet.restart_haproxy(&namespace, &variables);
    assert_eq!(owners(&fleet, &names), before);
}

#[test]
fn a_balancer_with_few_open_files_warns_and_starts() {
    if is_skipped() {
        return;
    }
    // Without this right, root cannot raise the limit.
    let limited = [
        "setpriv",
        "--bounding-set",
        "-sys_resource",
        "sh",
        "-c",
        "ulimit -n 1000 && exec \"$@\"",
        "sh",
    ];
    if skip_unless(&[&limited[..], &["true"]].concat()) {
        return;
    }
    let (models, names) = store(1);
    let mut fleet = Fleet::start(&models, 1, &[]);
    fleet.restart_haproxy(&limited, &[]);
    assert!(fleet.log().contains("limit is 1000"), "{}", fleet.log());
    owners(&fleet, &names);
}

#[test]
fn the_statistics_change_nothing() {
    if is_skipped() {
        return;
    }
    let models = Models::new();
    let fleet = Fleet::start(&models, 1, &[]);
    let form = "application/x-www-form-urlencoded";
    let drain = Request::post("/").header("Content-Type", form);
    let drain = drain.body("s=longshore-0&action=drain&b=models");
    let (response, _) = balancer::send(fleet.status(), &drain).unwrap();
    assert_eq!(response.header("location"), Some("/;st=DENY"));
    fleet.wait_until_up(&[0]);
}

#[test]
fn a_stopping_balancer_answers_its_requests() {
    if is_skipped() {
        return;
    }
    let models = Models::new();
    models.place("spin", "spin");
    let mut fleet = Fleet::start(&models, 1, &[]);
    let request = Request::post("/invocations").header(TARGET_MODEL, "spin/model");
    let request = request.json(&json!({"inputs": A_SECOND}));
    let haproxy = Process(fleet.haproxy_id());
    thread::scope(|scope| {
        let (fleet, request) = (&fleet, &request);
        let slow = scope.spawn(move || fleet.send(request).0);
        fleet.server(0).wait_for_running(1);
        haproxy.signal(Signal::USR1);
        eventually("the port is closed", || {
            !balancer::is_answered(fleet.address(), &Request::get("/ping"))
        });
        slow.join().unwrap().expect(200);
    });
    assert!(fleet.wait_for_haproxy().success());
}

#[test]
fn the_balancer_is_healthy_while_a_server_is() {
    if is_skipped() {
        return;
    }
    let (models, names) = store(1);
    let mut fleet = Fleet::start(&models, 1, &[]);
    let ping = |fleet: &Fleet| fleet.send(&Request::get("/ping")).0;
    assert_eq!(ping(&fleet).expect(200).json(), json!({"servers": 1}));
    fleet.kill(0);
    fleet.wait_until_up(&[]);
    ping(&fleet).expect(503);
    let name = names.keys().next().unwrap();
    let (response, _) = fleet.send(&by_header(name));
    assert_eq!(response.expect(503).message(), "no server can answer");
}
