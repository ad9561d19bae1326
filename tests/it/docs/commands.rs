//! Runs the commands of the pages as they are written.
//!
//! Each block of `sh` runs, unless the line above it is `<!-- not run: WHY -->`. The blocks of a
//! page run one after the other in one shell, with the binary that was just built as `longshore`,
//! in a folder that has the checkout's `tests`. A free port takes the place of 8080 and of 8090.
//!
//! A line `# {..}` or `# [..]` is JSON that the commands of the page print. Its numbers may differ
//! in the last digits, because processors differ.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::page::Page;
use super::root;
use crate::harness::{in_parallel, library, skip_unless};

/// Shell code before the commands of a page. A shell types faster than a person: `curl` repeats a
/// request while a server or an endpoint starts, and `kill` waits until a server has ended.
const PRELUDE: &str = r#"
set -euo pipefail
set -m
trap 'for job in $(jobs -p); do builtin kill -KILL -- "-$job" 2>/dev/null || true; done' EXIT
curl() {
  local patience='--max-time 60 --retry 30 --retry-delay 1 --retry-connrefused --retry-all-errors'
  command curl --silent --show-error --fail $patience "$@" 2>"$TMPDIR/curl" || {
    tail -n 1 "$TMPDIR/curl" >&2
    return 1
  }
  echo
}
kill() {
  builtin kill "$@"
  wait "$@" || true
}
"#;

/// Time limit of the commands of a page, in seconds.
const SECONDS: &str = "300";

#[test]
fn commands_of_the_pages_run_as_they_are_written() {
    if skip_unless(&["curl", "--version"]) || skip_unless(&["bash", "--version"]) {
        return;
    }
    let failures: Vec<String> = in_parallel(2, &Page::all(), run).into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Runs the blocks of a page, and returns the errors.
fn run(page: &Page) -> Option<String> {
    let blocks = page.blocks();
    let blocks = blocks
        .iter()
        .filter(|block| block.language == "sh" && block.not_run.is_none());
    let commands: String = blocks.map(|block| block.text.as_str()).collect();
    if commands.is_empty() {
        return None;
    }
    let folder = tempfile::Builder::new().prefix("longshore-docs-").tempdir().unwrap();
    symlink(root().join("tests"), folder.path().join("tests")).unwrap();
    let (server, endpoint) = free_ports();
    let script = commands
        .replace("localhost:8080", &format!("localhost:{server}"))
        .replace("localhost:8090", &format!("localhost:{endpoint}"));
    let output = shell(folder.path(), &format!("{PRELUDE}{script}"), server, endpoint)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let missing = expected(&commands).find(|expected| !printed.lines().any(|line| is_like(expected, line)));
    let problem = match (output.status.success(), missing) {
        (false, _) => format!("{}", output.status),
        (true, Some(missing)) => format!("nothing prints {missing}"),
        (true, None) => return None,
    };
    Some(format!("{}: {problem}\n{printed}\n{complaint}", page.name))
}

/// A shell that runs `script` in `folder`, with the least environment.
fn shell(folder: &Path, script: &str, server: u16, endpoint: u16) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_longshore"));
    let programs = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(binary.parent().unwrap().to_owned()).chain(env::split_paths(&programs));
    let temporary = folder.join("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=60", SECONDS, "bash", "-c", script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", env::join_paths(folders).unwrap())
        .env("HOME", folder)
        .env("TMPDIR", &temporary)
        .env("LONGSHORE_BIND", "127.0.0.1")
        .env("LONGSHORE_THREADS", "2")
        .env("SAGEMAKER_BIND_TO_PORT", server.to_string())
        .env("LONGSHORE_ENDPOINT_PORT", endpoint.to_string());
    if let Some(library) = library() {
        command.env("ORT_DYLIB_PATH", library);
    }
    command
}

/// Two ports that nothing listens on.
fn free_ports() -> (u16, u16) {
    let listeners = [0_u16; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let [first, second] = listeners.map(|listener| listener.local_addr().unwrap().port());
    (first, second)
}

/// The JSON lines that the commands of a page must print.
fn expected(commands: &str) -> impl Iterator<Item = Value> {
    let comments = commands.lines().filter_map(|line| line.strip_prefix("# "));
    let json = comments.filter(|text| text.starts_with(['{', '[']));
    json.map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn is_like(expected: &Value, line: &str) -> bool {
    serde_json::from_str(line).is_ok_and(|found| is_close(expected, &found))
}

fn is_close(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(expected), Value::Number(found)) => {
            let (Some(expected), Some(found)) = (expected.as_f64(), found.as_f64()) else {
                return expected == found;
            };
            (expected - found).abs() <= 1e-6 + 1e-4 * expected.abs()
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(a, b)| is_close(a, b))
        }
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .all(|(key, value)| found.get(key).is_some_and(|other| is_close(value, other)))
        }
        _ => expected == found,
    }
}
