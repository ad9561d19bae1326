//! Starts and ends a container, as a process of this program or through the docker command.

mod docker;
mod process;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::FleetConfig;
use super::environment::InvocationBounds;
use super::home::Home;
use super::port::Port;
use crate::endpoint::spec::Container;

pub(super) use docker::{Docker, check, remove_remains};

/// The way to run containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// Each container is a process of this program, whatever its image.
    Process,
    /// Each container runs its image through this command.
    Docker { command: PathBuf },
}

/// The limits of a container.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ContainerLimits {
    /// In bytes.
    pub memory: Option<u64>,
    /// Limits of each invocation that replace the container's defaults.
    pub invocations: Option<InvocationBounds>,
}

/// Starts one container.
pub(super) struct Launcher {
    settings: Arc<FleetConfig>,
    container: Container,
    home: Home,
    bounds: ContainerLimits,
    /// A name for other programs, unique in this process.
    name: String,
    method: LaunchMethod,
}

enum LaunchMethod {
    Process(Port),
    Docker(PathBuf),
}

/// A started container.
pub(super) struct LaunchedContainer {
    pub child: Child,
    pub control: ContainerControl,
}

/// Access to a started container in addition to its process.
pub(super) enum ContainerControl {
    /// The address where the process will listen.
    Process(Arc<str>),
    Docker(Docker),
}

impl Launcher {
    pub fn new(
        settings: &Arc<FleetConfig>,
        container: Container,
        home: Home,
        bounds: ContainerLimits,
        name: String,
    ) -> io::Result<Self> {
        let method = match &settings.runner {
            Runner::Process => LaunchMethod::Process(Port::reserve()?),
            Runner::Docker { command } => LaunchMethod::Docker(command.clone()),
        };
        home.make(matches!(method, LaunchMethod::Process(_)))?;
        Ok(Self {
            settings: Arc::clone(settings),
            container,
            home,
            bounds,
            name,
            method,
        })
    }

    /// Starts the container. Must run on the fleet thread, because the process ends with the
    /// thread that started it.
    pub async fn launch(&self, generation: u64) -> io::Result<LaunchedContainer> {
        let (mut command, control) = match &self.method {
            LaunchMethod::Process(port) => {
                wait_for(port).await;
                let command = process::command(&self.settings, &self.container, &self.home, self.bounds, port.number());
                let address = format!("http://127.0.0.1:{}", port.number());
                (command, ContainerControl::Process(address.into()))
            }
            LaunchMethod::Docker(program) => {
                let docker = Docker::new(program.clone(), format!("{}-{generation}", self.name));
                let command = docker.run(&self.settings, &self.container, &self.home, self.bounds.memory);
                (command, ContainerControl::Docker(docker))
            }
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at a terminal signals the whole process group; this process ends the
            // containers.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(LaunchedContainer { child, control })
    }

    /// Whether this log line can tell why the container did not start.
    pub fn explains_failure(&self, line: &str) -> bool {
        match self.method {
            LaunchMethod::Process(_) => true,
            LaunchMethod::Docker(_) => line.starts_with("docker: "),
        }
    }

    /// Whether this exit code means that every start will fail: the program or the image is
    /// missing or cannot be run.
    pub fn is_hopeless(&self, code: i32) -> bool {
        match self.method {
            LaunchMethod::Process(_) => code == 127,
            LaunchMethod::Docker(_) => (125..=127).contains(&code),
        }
    }
}

/// Waits until the port is free. Children of a killed container may take a moment to end.
async fn wait_for(port: &Port) {
    const TRIES: u32 = 200;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..TRIES {
        if port.is_free() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl ContainerControl {
    /// The container's address, once it is known.
    pub async fn address(&self) -> Option<Arc<str>> {
        match self {
            Self::Process(address) => Some(Arc::clone(address)),
            Self::Docker(docker) => docker.address().await,
        }
    }

    /// Asks the container to end within `grace`.
    pub async fn terminate(&self, child: &Child, grace: Duration) {
        match self {
            Self::Process(_) => process::terminate(child),
            Self::Docker(docker) => docker.stop(grace).await,
        }
    }

    /// Kills the container.
    pub async fn kill(&self, child: &mut Child) {
        if let Self::Docker(docker) = self {
            docker.kill().await;
        }
        // An error means that the process has ended already.
        let _ = child.start_kill();
    }

    /// Removes the remains of the ended container.
    pub async fn clear(&self) {
        if let Self::Docker(docker) = self {
            docker.remove().await;
        }
    }
}

/// A command that runs this program with `arguments`.
fn this_program(settings: &FleetConfig, arguments: impl Iterator<Item = std::ffi::OsString>) -> Command {
    let mut command = Command::new(&settings.program);
    command.arg0("longshore").args(arguments);
    command
}
