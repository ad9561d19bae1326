//! A server under measurement: the real binary, with its models and its cache in temporary folders.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bodies;
use crate::cgroup::Cgroup;
use crate::client::{self, Connection, Measured};
use crate::process::{self, Usage};

/// The time limit for the server to stop.
const STOP: Duration = Duration::from_secs(30);

/// The arguments of a container.
const SERVE: [&str; 5] = ["serve", "--bind", "127.0.0.1", "--port", "0"];

/// Whether the binary has `flag`.
pub fn has_flag(flag: &str) -> bool {
    static HELP: OnceLock<String> = OnceLock::new();
    let help = HELP.get_or_init(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .arg("--help")
            .output()
            .expect("run --help");
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    help.split_whitespace().any(|word| word == flag)
}

/// A temporary folder of model files for servers.
pub struct Models {
    root: TempDir,
}

impl Models {
    pub fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("longshore-bench-")
            .tempdir()
            .expect("a folder");
        Self { root }
    }

    /// The folder of all models.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A folder for the private copies of the models that this process loads.
    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// Writes a model into its own folder, like the platform unpacks it. Returns the folder.
    pub fn write(&self, name: &str, model: &[u8]) -> PathBuf {
        let folder = self.root.path().join(name);
        fs::create_dir_all(&folder).expect("make a folder");
        fs::write(folder.join("model.onnx"), model).expect("write a model");
        folder
    }
}

/// A running server. Dropping the value ends it.
pub struct Server {
    process: Child,
    address: String,
    /// The cache of prepared models. Every server has its own, which is empty at the start.
    _cache: TempDir,
}

impl Server {
    pub fn start(models: &Models, flags: &[&str]) -> Self {
        Self::start_in(None, models, flags)
    }

    /// Starts a server as a member of `cgroup`.
    pub fn start_in(cgroup: Option<&Cgroup>, models: &Models, flags: &[&str]) -> Self {
        let root = models.root.path().to_str().expect("a UTF-8 name");
        let mut arguments = vec!["--multi-model", "--models-root", root];
        arguments.extend(flags);
        Self::spawn(cgroup, &SERVE, &arguments, &[])
    }

    /// Starts a server with only these flags and the ones that every server gets here.
    pub fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(None, &SERVE, flags, environment)
    }

    /// Starts a local endpoint.
    pub fn endpoint(flags: &[&str]) -> Self {
        Self::spawn(None, &["endpoint", "--port", "0"], flags, &[])
    }

    fn spawn(cgroup: Option<&Cgroup>, words: &[&str], flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let cache = tempfile::Builder::new()
            .prefix("longshore-cache-")
            .tempdir()
            .expect("a folder");
        let binary = env!("CARGO_BIN_EXE_longshore");
        let mut command = match cgroup {
            None => Command::new(binary),
            Some(cgroup) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .arg(cgroup.members())
                    .arg(binary);
                shell
            }
        };
        // The address is read from the log.
        command
            .args(words)
            .env("LONGSHORE_LOG_FORMAT", "text")
            .envs(environment.iter().copied());
        if has_flag("--cache-dir") && !flags.contains(&"--cache-dir") {
            command.arg("--cache-dir").arg(cache.path());
        }
        let mut process = command
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the server");
        let mut lines = BufReader::new(process.stderr.take().expect("its log")).lines();
        let mut log = Vec::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.split_once("address=").and_then(|(_, rest)| rest.split(' ').next());
            let address = address.map(ToOwned::to_owned);
            log.push(line);
            address
        });
        let Some(address) = address else {
            panic!("the server does not start:\n{}", log.join("\n"));
        };
        // Keeps reading the log, so that the server never blocks on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address,
            _cache: cache,
        }
    }

    /// The id of the first process.
    pub fn root(&self) -> u32 {
        self.process.id()
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The name of the first loaded model, for models that another program has loaded.
    pub fn first_model(&self) -> String {
        let list = self.connect().expect_ok(&bodies::bare("GET", "/models"));
        let list: serde_json::Value = serde_json::from_slice(&list).expect("a list");
        list["models"][0]["modelName"].as_str().expect("a model").to_owned()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }

    /// Loads a model and returns the duration of the load.
    pub fn load(&self, name: &str, model: &Path) -> Duration {
        let mut connection = self.connect();
        let request = load(name, model);
        let started = Instant::now();
        connection.expect_ok(&request);
        started.elapsed()
    }

    pub fn unload(&self, name: &str) {
        self.connect().expect_ok(&unload(name));
    }

    /// Runs [`client::drive`] after a warm-up, and measures the server's CPU time.
    pub fn measure(&self, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
        measure(&self.address, self.process.id(), requests, connections, time)
    }

    /// Runs [`client::drive_at_rate`] after a warm-up.
    pub fn drive_at_rate(&self, request: &[u8], per_second: u32, time: Duration) -> Measured {
        client::drive_at_rate(&self.address, request, per_second, time / 8);
        client::drive_at_rate(&self.address, request, per_second, time)
    }

    /// The current resource use of the server's processes.
    pub fn usage(&self) -> Usage {
        process::usage(self.process.id())
    }

    /// The value of a metric in `GET /metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.connect().expect_ok(&bodies::bare("GET", "/metrics"));
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).expect("the metric")
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM comes first, so that the server can end its child processes.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let asked = Instant::now();
        while asked.elapsed() < STOP && self.is_alive() {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Measures a server like [`Server::measure`]. Its first process is `root`.
pub fn measure(address: &str, root: u32, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
    client::drive(address, requests, connections, time / 8);
    let processes = process::tree(root);
    let before = process::cpu(&processes);
    let mut measured = client::drive(address, requests, connections, time);
    measured.cpu = process::cpu(&processes).saturating_sub(before);
    measured
}

pub fn load(name: &str, model: &Path) -> Vec<u8> {
    let body = format!(r#"{{"model_name": "{name}", "url": "{}"}}"#, model.display());
    bodies::post("/models", "application/json", body.as_bytes())
}

pub fn unload(name: &str) -> Vec<u8> {
    bodies::bare("DELETE", &format!("/models/{name}"))
}
