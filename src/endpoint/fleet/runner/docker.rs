//! A container as what its image says, run by the docker command.
//!
//! `docker run` stays in the foreground: its output is the container's, its end the container's, and a SIGTERM that it gets
//! is passed on, so that the container ends when this process is killed, too. Only one that was just being made then is left,
//! made and not started: the next process removes it. Docker chooses the port on this machine and is asked for it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::tied;
use crate::config::DeathSignal;
use crate::endpoint::fleet::Settings;
use crate::endpoint::fleet::environment::{self, Ports};
use crate::endpoint::fleet::home::Home;
use crate::endpoint::spec::Container;
use crate::endpoint::tether;

/// Where a container has its network for itself.
const PORTS: Ports = Ports {
    main: 8080,
    safe: (25000, 25999),
};

/// What the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A container's name, and the command that knows it.
pub(in crate::endpoint::fleet) struct Docker {
    command: PathBuf,
    name: String,
}

/// Asks whether there is a daemon that runs containers; returns why not.
pub(in crate::endpoint::fleet) async fn check(command: &Path) -> Result<(), String> {
    let reason = match run(command, ["version", "--format", "{{.Server.Version}}"]).await {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(reason) => reason,
    };
    Err(format!(
        "{} runs no containers: {reason}; --runner process runs models without it",
        command.display()
    ))
}

/// Removes what a killed process has left, in whose containers' names `process` stands first.
pub(in crate::endpoint::fleet) async fn remove_remains(command: &Path, process: &str) {
    let filter = format!("name={process}-");
    let Ok(listed) = run(command, ["ps", "--all", "--quiet", "--filter", &filter]).await else {
        return;
    };
    for id in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
        let removed = run(command, ["rm", "--force", id]).await;
        let removed = removed.is_ok_and(|output| output.status.success());
        tracing::info!(container = id, removed, "a killed process has left a container behind");
    }
}

impl Docker {
    pub fn new(command: PathBuf, name: String) -> Self {
        Self { command, name }
    }

    /// What runs the container until it ends.
    pub fn run(&self, settings: &Settings, container: &Container, home: &Home, memory: Option<u64>) -> Command {
        let line = self.line(settings, container, home, memory);
        let words = [self.command.as_os_str()]
            .into_iter()
            .chain(line.iter().map(OsString::as_os_str));
        let mut command = tied(settings, tether::arguments(DeathSignal::Term, words));
        command.env_clear().envs(settings.environment.iter());
        command
    }

    /// The words after `docker`.
    fn line(&self, settings: &Settings, container: &Container, home: &Home, memory: Option<u64>) -> Vec<OsString> {
        let mut line: Vec<OsString> = ["run", "--rm", "--name", &self.name].map(OsString::from).into();
        let mut option = |name: &str, value: &OsStr| line.extend([name.into(), value.to_owned()]);
        // Secrets go by their names, since other users can read command lines.
        for name in environment::credentials(settings.environment.iter()) {
            option("--env", name.as_ref());
        }
        for (name, value) in environment::set(container, [], &PORTS) {
            option("--env", format!("{name}={value}").as_ref());
        }
        option("--volume", &mount(home.ml(), "/opt/ml"));
        if let Some(artifact) = &home.artifact {
            option("--volume", &mount(artifact.path(), "/opt/ml/model:ro"));
        }
        option("--publish", format!("127.0.0.1::{}", PORTS.main).as_ref());
        if let Some(bytes) = memory {
            option("--memory", format!("{bytes}b").as_ref());
        }
        line.extend(container.image.iter().map(OsString::from));
        line.push("serve".into());
        line
    }

    /// Where the container's port is on this machine, once it runs.
    pub async fn address(&self) -> Option<Arc<str>> {
        let port = format!("{}/tcp", PORTS.main);
        let output = run(&self.command, ["port", &self.name, &port]).await.ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let address = text.lines().next().filter(|_| output.status.success())?;
        Some(format!("http://{}", address.trim()).into())
    }

    /// Asks the container to end, and has it killed after `grace`.
    pub async fn stop(&self, grace: Duration) {
        let seconds = grace.as_secs().max(1).to_string();
        let stop = output(&self.command, ["stop", "-t", &seconds, &self.name]);
        let _ = timeout(grace + PATIENCE, stop).await;
    }

    pub async fn kill(&self) {
        let _ = run(&self.command, ["kill", &self.name]).await;
    }

    /// Removes what there may still be of it: nothing, unless `docker run` was killed.
    pub async fn remove(&self) {
        let _ = run(&self.command, ["rm", "--force", &self.name]).await;
    }
}

fn mount(outside: &Path, inside: &str) -> OsString {
    let mut mount = outside.as_os_str().to_owned();
    mount.push(":");
    mount.push(inside);
    mount
}

async fn run<const N: usize>(command: &Path, arguments: [&str; N]) -> Result<Output, String> {
    match timeout(PATIENCE, output(command, arguments)).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

async fn output<const N: usize>(command: &Path, arguments: [&str; N]) -> std::io::Result<Output> {
    let mut command = Command::new(command);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}
