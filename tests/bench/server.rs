//! A server under measurement: the real binary, with its models and its cache in folders that go with it.

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

/// How long a stopping server is waited for.
const STOP: Duration = Duration::from_secs(30);

/// How a container is started.
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

/// Model files for servers, written once.
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

    /// Where they lie.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A folder for private copies of models that this process loads.
    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// Writes a model to where the platform would unpack it. Returns its folder.
    pub fn write(&self, name: &str, model: &[u8]) -> PathBuf {
        let folder = self.root.path().join(name);
        fs::create_dir_all(&folder).expect("make a folder");
        fs::write(folder.join("model.onnx"), model).expect("write a model");
        folder
    }
}

/// A running server. Ended with the value.
pub struct Server {
    process: Child,
    address: String,
    /// What is prepared is kept here, so that every server starts without any.
    _cache: TempDir,
}

impl Server {
    pub fn start(models: &Models, flags: &[&str]) -> Self {
        Self::start_in(None, models, flags)
    }

    /// Starts it as a member of `cgroup`.
    pub fn start_in(cgroup: Option<&Cgroup>, models: &Models, flags: &[&str]) -> Self {
        let root = models.root.path().to_str().expect("a UTF-8 name");
        let mut arguments = vec!["--multi-model", "--models-root", root];
        arguments.extend(flags);
        Self::spawn(cgroup, &SERVE, &arguments, &[])
    }

    /// Starts it with these flags and no others than those that every server gets here.
    pub fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(None, &SERVE, flags, environment)
    }

    /// Starts SageMaker's stand-in.
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
        command.args(words).envs(environment.iter().copied());
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
        // Read on, so that the server never waits for us to read its log.
        thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address,
            _cache: cache,
        }
    }

    /// The process that was started.
    pub fn root(&self) -> u32 {
        self.process.id()
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// What somebody else has had it load: the name of one model.
    pub fn first_model(&self) -> String {
        let list = self.connect().expect_ok(&bodies::bare("GET", "/models"));
        let list: serde_json::Value = serde_json::from_slice(&list).expect("a list");
        list["models"][0]["modelName"].as_str().expect("a model").to_owned()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }

    /// Loads a model and returns how long that took.
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

    /// Asks as [`client::drive`] does, after a moment of warming up, and takes the server's CPU time for it.
    pub fn measure(&self, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
        measure(&self.address, self.process.id(), requests, connections, time)
    }

    /// Asks as [`client::pace`] does, after a moment of warming up.
    pub fn pace(&self, request: &[u8], per_second: u32, time: Duration) -> Measured {
        client::pace(&self.address, request, per_second, time / 8);
        client::pace(&self.address, request, per_second, time)
    }

    /// What its processes take now.
    pub fn usage(&self) -> Usage {
        process::usage(self.process.id())
    }

    /// A number of `GET /metrics`.
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
        // SIGTERM first: the processes below it are its own to end.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let asked = Instant::now();
        while asked.elapsed() < STOP && self.is_alive() {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks a server, whose first process is `root`, as [`Server::measure`] says.
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
