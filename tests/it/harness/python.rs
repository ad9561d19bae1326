//! Runs Python programs, each with the interpreter of the venv that has its packages.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{PATIENCE, eventually_within};

/// A venv that a script of this repository installs.
#[derive(Debug, Clone, Copy)]
pub struct Venv {
    folder: &'static str,
    script: &'static str,
}

/// moto: S3 and the other AWS services that the tests call.
pub const MOTO: Venv = Venv {
    folder: ".moto",
    script: "scripts/moto",
};

/// AWS's clients.
pub const CLIENTS: Venv = Venv {
    folder: ".clients",
    script: "scripts/clients",
};

/// The libraries whose exported models the tests serve.
pub const EXPORTS: Venv = Venv {
    folder: ".exports",
    script: "scripts/exports",
};

/// tritonclient, and what checks manifests.
pub const TRITON: Venv = Venv {
    folder: ".triton",
    script: "scripts/triton",
};

/// Pretrained networks, and the pipelines of the packages that contain them.
pub const PRETRAINED: Venv = Venv {
    folder: ".pretrained",
    script: "scripts/pretrained",
};

impl Venv {
    /// The interpreter. Fails where the venv is missing.
    #[track_caller]
    pub fn interpreter(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python: PathBuf = [root.as_os_str(), self.folder.as_ref(), "bin/python".as_ref()]
            .iter()
            .collect();
        assert!(
            python.exists(),
            "{} is missing: run {}, once",
            python.display(),
            self.script
        );
        python
    }

    /// The command that runs a program of this repository with the venv's interpreter.
    #[track_caller]
    fn command(self, program: &str) -> Command {
        let mut command = Command::new(self.interpreter());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(program));
        command
    }

    /// Runs `program` to its end with exactly these variables, and passes its output on.
    #[track_caller]
    pub fn run(
        self,
        program: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        print!("{}", self.output(program, arguments, variables));
    }

    /// Runs like [`Self::run`], and returns the output of `program`.
    #[track_caller]
    pub fn output(
        self,
        program: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> String {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let file = File::create(&output).unwrap();
        let mut command = self.command(program);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", folder.path())
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let mut child = Running(command.spawn().unwrap());
        let mut status = None;
        let printed = || fs::read_to_string(&output).unwrap_or_default();
        let in_time = eventually_within(5 * PATIENCE, || {
            status = child.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(in_time, "{program} did not end in time:\n{}", printed());
        assert!(status.unwrap().success(), "{program} failed:\n{}", printed());
        printed()
    }
}

/// A child that is killed if the test ends first.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that prints its address, and ends when its standard input is closed. This process
/// holds the other end, so the program never outlives the tests.
#[derive(Debug)]
pub struct PythonServer {
    address: SocketAddr,
    child: Child,
}

impl PythonServer {
    #[track_caller]
    pub fn start(venv: Venv, program: &str) -> Self {
        let mut child = venv
            .command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().parse();
        Self {
            address: address.unwrap_or_else(|_| panic!("{program} does not start: {line:?}")),
            child,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
