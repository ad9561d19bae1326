//! Commands of the binary that run to their end.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::builder::library;

/// A command that has ended.
#[derive(Debug)]
pub struct Finished(Output);

/// Runs `longshore` with `arguments` to its end.
pub fn longshore(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
    longshore_with(arguments, [])
}

/// Runs `longshore` with `arguments` and `variables` to its end.
pub fn longshore_with(
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    variables: impl IntoIterator<Item = (&'static str, String)>,
) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.args(arguments).env_clear().envs(variables).stdin(Stdio::null());
    if let Some(library) = library() {
        command.env("ORT_DYLIB_PATH", library);
    }
    Finished::after(&mut command)
}

impl Finished {
    /// Runs `command` to its end.
    pub fn after(command: &mut Command) -> Self {
        Self(command.output().unwrap())
    }

    /// The standard output of a command that succeeded.
    #[track_caller]
    pub fn output(&self) -> String {
        assert!(self.0.status.success(), "{}", self.complaint());
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.output()).unwrap()
    }

    /// The standard output of a command that may have failed.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    /// The error message of a command that failed: one line, with exit code 1.
    #[track_caller]
    pub fn refusal(&self) -> String {
        assert_eq!(self.0.status.code(), Some(1), "{}{}", self.printed(), self.complaint());
        let complaint = self.complaint();
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        complaint
    }

    /// The error message of a command whose options are wrong: exit code 2.
    #[track_caller]
    pub fn misuse(&self) -> String {
        assert_eq!(self.0.status.code(), Some(2), "{}{}", self.printed(), self.complaint());
        self.complaint()
    }

    fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}
