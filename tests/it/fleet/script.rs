//! `scripts/fleet`: the fleet that a person starts on one machine.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use super::TARGET_MODEL;
use super::balancer::{is_answered, is_skipped};
use crate::harness::{MOTO, Process, Request, eventually};

/// The script, as a person starts it in the folder of the program, with variables for other servers
/// and stores.
fn script(arguments: &[&str]) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_longshore"));
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fleet"));
    command
        .args(arguments)
        .current_dir(program.parent().unwrap())
        .env("LONGSHORE", "./longshore")
        .env("LONGSHORE_CACHE_SIZE", "wrong")
        .env("SAGEMAKER_BIND_TO_PORT", "wrong")
        .env("AWS_PROFILE", "wrong")
        .stdin(Stdio::null());
    command
}

/// A fleet of two servers and four models. `scripts/fleet` runs it.
struct Running {
    script: Child,
    /// The servers, their workers, the balancer and the bucket.
    processes: Vec<Process>,
    balancer: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        // The script would install it.
        MOTO.interpreter();
        let folder = tempfile::tempdir().unwrap();
        let mut script = script(&["--servers", "2", "--models", "4", "--port", "0"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(script.stdout.take().unwrap()).lines();
        let mut balancer = None;
        for line in lines.map_while(Result::ok) {
            let address = line.trim().strip_prefix("balancer").map(str::trim);
            balancer = balancer.or_else(|| address?.strip_prefix("http://")?.parse().ok());
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        let children = Process(script.id()).children();
        let workers = children.iter().flat_map(|child| child.children());
        let processes = children.iter().copied().chain(workers).collect();
        Self {
            script,
            processes,
            balancer: balancer.expect("the script prints the address"),
            _folder: folder,
        }
    }

    fn server(&self) -> Process {
        *self
            .processes
            .iter()
            .find(|process| process.child("longshore").is_some())
            .unwrap()
    }

    fn answers_all(&self) -> bool {
        (0..4).all(|model| {
            let request = Request::post("/invocations").header(TARGET_MODEL, format!("models/{model}.tar.gz"));
            is_answered(self.balancer, &request.json(&json!([vec![0.5; 16]])))
        })
    }

    #[track_caller]
    fn wait_until_gone(&mut self) {
        self.script.wait().unwrap();
        eventually("all processes are gone", || {
            self.processes.iter().all(|process| !process.is_alive())
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The kernel then ends the rest.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn the_fleet_of_the_script_answers_without_one_server_and_ends_with_the_terminal() {
    if is_skipped() {
        return;
    }
    let mut fleet = Running::start();
    // Two servers with a worker each, the balancer and the bucket.
    assert_eq!(fleet.processes.len(), 6, "{:?}", fleet.processes);
    assert!(fleet.answers_all());
    let server = fleet.server();
    server.signal(Signal::TERM);
    eventually("the server has stopped", || !server.is_alive());
    assert!(fleet.answers_all());
    let script = Process(fleet.script.id());
    script.signal(Signal::HUP);
    script.signal(Signal::TERM);
    fleet.wait_until_gone();
}

#[test]
fn a_kill_of_the_script_leaves_no_process() {
    if is_skipped() {
        return;
    }
    let mut fleet = Running::start();
    fleet.script.kill().unwrap();
    fleet.wait_until_gone();
}

#[test]
fn the_script_reports_wrong_options_before_it_looks_for_the_program() {
    if is_skipped() {
        return;
    }
    let refusal = |arguments: &[&str]| {
        let output = script(arguments).env("LONGSHORE", "./nothing").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let printed = refusal(&["--servers", "17"]);
    assert!(printed.contains("expected 1 to 16 servers"), "{printed}");
    let printed = refusal(&["bench", "everything"]);
    assert!(printed.contains("unknown part everything"), "{printed}");
    let printed = refusal(&[]);
    assert!(printed.contains("nothing is not a program"), "{printed}");
}
