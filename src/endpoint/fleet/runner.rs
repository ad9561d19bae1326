//! How a container is started and ended: as a process of this program, or through the docker command.

mod docker;
mod process;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::Settings;
use super::environment::InvocationBounds;
use super::home::Home;
use super::port::Port;
use crate::endpoint::spec::Container;

pub(super) use docker::{Docker, check, remove_remains};

/// What runs the containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// Each is a process of this program, whatever its image.
    Process,
    /// Each is what its image says, run by this command.
    Docker { command: PathBuf },
}

/// Bounds of a container.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// Bytes.
    pub memory: Option<u64>,
    /// For each of its invocations, where they are not those that it has by itself.
    pub invocations: Option<InvocationBounds>,
}

/// A container that can be started.
pub(super) struct Launcher {
    settings: Arc<Settings>,
    container: Container,
    home: Home,
    bounds: Bounds,
    /// In names for other programs: unique in this process.
    name: String,
    means: Means,
}

enum Means {
    Process(Port),
    Docker(PathBuf),
}

/// A container that was started.
pub(super) struct Launched {
    pub child: Child,
    pub control: Control,
}

/// The way to a container beside its process.
pub(super) enum Control {
    /// Where it will listen.
    Process(Arc<str>),
    Docker(Docker),
}

impl Launcher {
    pub fn new(
        settings: &Arc<Settings>,
        container: Container,
        home: Home,
        bounds: Bounds,
        name: String,
    ) -> io::Result<Self> {
        let means = match &settings.runner {
            Runner::Process => Means::Process(Port::reserve()?),
            Runner::Docker { command } => Means::Docker(command.clone()),
        };
        home.make(matches!(means, Means::Process(_)))?;
        Ok(Self {
            settings: Arc::clone(settings),
            container,
            home,
            bounds,
            name,
            means,
        })
    }

    /// Starts it. Called on the thread of the fleets, whose end ends what is started here.
    pub async fn launch(&self, generation: u64) -> io::Result<Launched> {
        let (mut command, control) = match &self.means {
            Means::Process(port) => {
                wait_for(port).await;
                let command = process::command(&self.settings, &self.container, &self.home, self.bounds, port.number());
                let address = format!("http://127.0.0.1:{}", port.number());
                (command, Control::Process(address.into()))
            }
            Means::Docker(program) => {
                let docker = Docker::new(program.clone(), format!("{}-{generation}", self.name));
                let command = docker.run(&self.settings, &self.container, &self.home, self.bounds.memory);
                (command, Control::Docker(docker))
            }
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at a terminal reaches a whole group, and this is for us to pass on.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Launched { child, control })
    }

    /// Of the lines of its log, whether this one would say why it could not be started.
    pub fn is_telling(&self, line: &str) -> bool {
        match self.means {
            Means::Process(_) => true,
            Means::Docker(_) => line.starts_with("docker: "),
        }
    }

    /// Whether another start would end with this code again: the program or the image is not there, or cannot be run.
    pub fn is_hopeless(&self, code: i32) -> bool {
        match self.means {
            Means::Process(_) => code == 127,
            Means::Docker(_) => (125..=127).contains(&code),
        }
    }
}

/// Waits until the last container's processes have let go of the port: what a killed one has started is about to end.
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

impl Control {
    /// Where it listens, as soon as that is known.
    pub async fn address(&self) -> Option<Arc<str>> {
        match self {
            Self::Process(address) => Some(Arc::clone(address)),
            Self::Docker(docker) => docker.address().await,
        }
    }

    /// Asks it to end within `grace`.
    pub async fn terminate(&self, child: &Child, grace: Duration) {
        match self {
            Self::Process(_) => process::terminate(child),
            Self::Docker(docker) => docker.stop(grace).await,
        }
    }

    /// Ends it at once.
    pub async fn kill(&self, child: &mut Child) {
        if let Self::Docker(docker) = self {
            docker.kill().await;
        }
        // It has ended if this fails.
        let _ = child.start_kill();
    }

    /// Leaves nothing behind of what has ended.
    pub async fn clear(&self) {
        if let Self::Docker(docker) = self {
            docker.remove().await;
        }
    }
}

/// `program` with our arguments, in a process that does not outlive this one.
fn tied(settings: &Settings, arguments: impl Iterator<Item = std::ffi::OsString>) -> Command {
    let mut command = Command::new(&settings.program);
    command.arg0("longshore").args(arguments);
    command
}
