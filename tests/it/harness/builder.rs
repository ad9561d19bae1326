//! Builds the command line and environment of a server, and starts it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::image::{self, Container};
use super::models::Models;
use super::server::{Log, Server};
use super::{PATIENCE, eventually};

/// A flag, its variable, and its value in tests that give neither.
type Default = (&'static str, &'static str, &'static str);

/// Command line and environment of a server that a test starts.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    wrapper: Vec<OsString>,
    /// Options of `docker run` for a test that needs its own network, volumes or limits.
    docker: Option<Vec<OsString>>,
    command: Option<&'static str>,
    defaults: &'static [Default],
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    models: Models,
    pub(super) caught_panics: bool,
}

/// The outcome of a process that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: Vec<String>,
}

impl Ended {
    /// The last line of the log, which the platform shows as the reason of a failure (ST-12).
    pub fn last_line(&self) -> &str {
        self.log.last().map_or("", String::as_str)
    }
}

/// A server in single-model mode, whose model is where the platform puts it.
impl std::default::Default for Builder {
    fn default() -> Self {
        Self::bare(Models::new())
    }
}

impl Builder {
    /// A server in multi-model mode with a new models root.
    pub fn multi() -> Self {
        let models = Models::new();
        let root = models.root().to_owned();
        Self::bare(models)
            .argument("--multi-model")
            .argument("--models-root")
            .argument(root)
    }

    /// A server in single-model mode with the model in `folder`.
    pub fn single(folder: impl AsRef<OsStr>) -> Self {
        Self::default().argument("--model-dir").argument(folder)
    }

    /// A server in standalone mode, which loads models on demand from the store at `url`. The
    /// variables hold the store's address and credentials.
    pub fn store(url: &str, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let builder = Self::bare(Models::new()).argument("--model-store").argument(url);
        let variables = variables.into_iter();
        variables.fold(builder, |builder, (name, value)| builder.environment(name, value))
    }

    /// The local endpoint, which stands in for SageMaker.
    pub fn endpoint() -> Self {
        Self {
            command: Some("endpoint"),
            defaults: Self::ENDPOINT,
            ..Self::bare(Models::new())
        }
    }

    /// The tested image, started as the platform starts it: configured by variables, with the
    /// models at `/opt/ml/models`. It listens on a port of this machine, unless the options of
    /// docker name another network.
    pub fn image(options: &[&str]) -> Self {
        let models = Models::new();
        let mut docker = vec![
            "--volume".to_owned(),
            format!("{}:/opt/ml/models:ro", models.root().display()),
        ];
        docker.extend(options.iter().map(|&option| option.to_owned()));
        if !options.contains(&"--network") {
            docker.extend(["--network", "host"].map(str::to_owned));
        }
        Self {
            docker: Some(docker.into_iter().map(OsString::from).collect()),
            defaults: &[],
            ..Self::bare(models)
        }
        .environment("SAGEMAKER_BIND_TO_PORT", "0")
        .environment("LONGSHORE_LOG_FORMAT", "text")
    }

    /// Defaults of tests: a free port of the loopback interface, and few threads, because tests
    /// run in parallel.
    const SERVE: &'static [Default] = &[
        ("--bind", "LONGSHORE_BIND", "127.0.0.1"),
        // The harness sends SageMaker's host name; tests may send any other.
        ("--allow-host", "LONGSHORE_ALLOW_HOST", "*"),
        ("--port", "SAGEMAKER_BIND_TO_PORT", "0"),
        ("--threads", "SAGEMAKER_MODEL_SERVER_WORKERS", "2"),
        ("--log-format", "LONGSHORE_LOG_FORMAT", "text"),
    ];
    const ENDPOINT: &'static [Default] = &[
        ("--allow-host", "LONGSHORE_ENDPOINT_ALLOW_HOST", "*"),
        ("--port", "LONGSHORE_ENDPOINT_PORT", "0"),
        ("--log-format", "LONGSHORE_LOG_FORMAT", "text"),
    ];

    fn bare(models: Models) -> Self {
        Self {
            wrapper: Vec::new(),
            docker: None,
            command: Some("serve"),
            defaults: Self::SERVE,
            arguments: Vec::new(),
            environment: Vec::new(),
            models,
            caught_panics: false,
        }
    }

    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn arguments(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::argument)
    }

    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it as on a machine without certificates of authorities, such as a small image.
    pub fn without_certificates(self) -> Self {
        self.environment("SSL_CERT_FILE", "/nonexistent")
            .environment("SSL_CERT_DIR", "/nonexistent")
    }

    /// Replaces `serve`, the command that the platform passes.
    pub fn command(mut self, command: &'static str) -> Self {
        self.command = Some(command);
        self
    }

    /// Leaves out `serve`, the command that the platform passes.
    pub fn without_command(mut self) -> Self {
        self.command = None;
        self
    }

    /// Starts the server through another program, such as `strace`.
    pub fn through(mut self, wrapper: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.wrapper
            .extend(wrapper.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Tolerates panics in the log: the test makes the bindings panic, and the server catches it.
    pub fn with_caught_panics(mut self) -> Self {
        self.caught_panics = true;
        self
    }

    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Starts the server and returns when it listens. In multi-model mode it is then ready (PI-4).
    #[track_caller]
    pub fn start(self) -> Server {
        let (child, container) = self.spawn();
        Server::listening(child, container, self.models, self.caught_panics)
    }

    /// Starts the server and waits until it ends by itself.
    #[track_caller]
    pub fn run_to_end(self) -> Ended {
        let (mut child, _) = self.spawn();
        let log = Log::follow(child.stderr.take().unwrap());
        let mut status = None;
        eventually("the server ends by itself", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        Ended {
            status: status.unwrap(),
            log: log.finished(PATIENCE),
        }
    }

    fn spawn(&self) -> (Child, Option<Container>) {
        let container = self.container();
        let mut words = match &container {
            Some((container, image)) => {
                let shared = Container::shared();
                let options = self.docker.as_ref().unwrap_or(&shared);
                container.run(image.clone(), options, &self.environment)
            }
            None => {
                let mut words = self.wrapper.clone();
                words.push(env!("CARGO_BIN_EXE_longshore").into());
                words
            }
        };
        words.extend(self.command.map(OsString::from));
        words.extend(self.arguments.iter().cloned());
        words.extend(self.missing_defaults());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for (name, _) in env::vars_os() {
            let known = name.to_string_lossy();
            if ["SAGEMAKER_", "LONGSHORE_", "ORT_", "AWS_"]
                .iter()
                .any(|prefix| known.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        if container.is_none() {
            if let Some(library) = library() {
                command.env("ORT_DYLIB_PATH", library);
            }
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", words[0].display()));
        (child, container.map(|(container, _)| container))
    }

    /// The container to start, and its image. A server that is started through another program
    /// runs outside a container, because the image has no other programs.
    fn container(&self) -> Option<(Container, String)> {
        let is_server = self.defaults != Self::ENDPOINT && self.wrapper.is_empty();
        let image = image::image().filter(|_| is_server)?;
        Some((Container::new(), image))
    }

    /// Flags and values of the defaults that neither an argument nor a variable sets.
    fn missing_defaults(&self) -> Vec<OsString> {
        let cache = ("--cache-dir", "LONGSHORE_CACHE_DIR", self.models.cache().as_os_str());
        let cache = Some(cache).filter(|_| !self.defaults.is_empty());
        let defaults = self.defaults.iter();
        let defaults = defaults.map(|(flag, variable, default)| (*flag, *variable, OsStr::new(default)));
        let missing = defaults.chain(cache).filter(|(flag, variable, _)| {
            let argument = self.arguments.iter().any(|argument| argument == flag);
            !argument && !self.environment.iter().any(|(name, _)| name == variable)
        });
        missing
            .flat_map(|(flag, _, default)| [flag.into(), default.to_owned()])
            .collect()
    }
}

/// ONNX Runtime's library: `ORT_DYLIB_PATH`, or else the one in the checkout.
pub fn library() -> Option<PathBuf> {
    if let Some(library) = env::var_os("ORT_DYLIB_PATH") {
        return Some(library.into());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnxruntime");
    let mut files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.to_string_lossy().contains("libonnxruntime.so"))
}
