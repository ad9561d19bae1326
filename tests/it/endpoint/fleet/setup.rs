//! Fleets in this process, with their folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore::archive::UnpackLimits;
use longshore::endpoint::fleet::{
    FleetConfig, FleetError, FleetStatus, Fleets, InvocationBounds, Runner, RunningContainer,
};
use longshore::endpoint::spec::{Container, Deployment, Execution, Mode, Model, Variant};
use longshore::store;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Process, Request, Response, library, scale, try_send};

/// Fleets, and the folder with all their files.
pub struct TestFleets {
    pub fleets: Fleets,
    pub folder: TempDir,
}

impl TestFleets {
    pub fn open() -> Self {
        Self::with(|_| {})
    }

    /// Starts fleets with a changed configuration.
    pub fn with(change: impl FnOnce(&mut FleetConfig)) -> Self {
        let folder = tempfile::Builder::new().prefix("longshore-fleets-").tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let fleets = Fleets::start(settings).unwrap();
        Self { fleets, folder }
    }

    /// A new folder for a test.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The folder of a model that computes `y = factor * x`.
    pub fn scale(&self, factor: f32) -> PathBuf {
        let folder = self.folder(&format!("scale-{factor}"));
        fs::write(folder.join("model.onnx"), scale(factor)).unwrap();
        folder
    }

    pub async fn deploy(
        &self,
        endpoint: &str,
        variants: impl IntoIterator<Item = Variant>,
        containers: impl IntoIterator<Item = Container>,
    ) -> Result<(), FleetError> {
        let deployment = deployment(endpoint, variants, model(containers));
        self.fleets.deploy(deployment).await
    }

    pub fn status(&self, endpoint: &str) -> FleetStatus {
        self.fleets.status(endpoint).unwrap()
    }

    /// The first processes of these fleets' containers.
    pub fn processes(&self) -> Vec<Process> {
        containers_below(self.folder.path())
    }

    pub fn only_process(&self) -> Process {
        let [process] = self.processes()[..] else {
            panic!("{:?}", self.processes());
        };
        process
    }

    /// Removes all endpoints, and checks that no process and no file is left.
    pub async fn close(self) {
        self.fleets.shutdown().await;
        assert_eq!(self.processes(), []);
        let left = fs::read_dir(self.folder.path()).unwrap().flatten();
        let mut left = left.map(|entry| entry.file_name().into_string().unwrap());
        assert_eq!(left.find(|name| name.starts_with("longshore-endpoint-")), None);
    }
}

pub fn settings(folder: &Path) -> FleetConfig {
    let variables = [
        ("AWS_REGION", Some("eu-west-1".to_owned())),
        ("LONGSHORE_STATE", Some("not for containers".to_owned())),
        ("PATH", env::var("PATH").ok()),
        ("ORT_DYLIB_PATH", library().map(|path| path.display().to_string())),
    ];
    let variables = variables.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let environment: store::Environment = variables.collect();
    FleetConfig {
        runner: Runner::Process,
        program: env!("CARGO_BIN_EXE_longshore").into(),
        environment: environment.clone(),
        folder: folder.to_owned(),
        prepared: folder.join("prepared"),
        max_instances: 2,
        memory: None,
        allow_other_users: false,
        asynchronous: InvocationBounds {
            bytes: 1 << 30,
            time: Duration::from_secs(3600),
        },
        faults: Arc::default(),
        start_timeout: PATIENCE,
        health_interval: Duration::from_millis(100),
        drain_timeout: Duration::from_secs(20),
        store: store::StoreConfig {
            url: String::new(),
            environment,
            timeout: Duration::from_secs(10),
            retries: 0,
            downloads: 2,
            bounds: UnpackLimits {
                entries: 1_000,
                bytes: 1 << 30,
                ratio: 1_000,
            },
            names_bind: true,
            revalidate: Duration::ZERO,
        },
        archive_bytes: 1 << 30,
    }
}

pub fn variant(name: &str, instances: u32) -> Variant {
    Variant {
        instances,
        ..Variant::new(name, "model")
    }
}

/// A container in single-model mode.
pub fn container(hostname: &str, model: PathBuf) -> Container {
    Container {
        model_data_url: Some(model.display().to_string()),
        ..Container::new(hostname)
    }
}

pub fn in_multi_model_mode(hostname: &str) -> Container {
    Container {
        mode: Mode::MultiModel { cache: true },
        model_data_url: Some("/models".to_owned()),
        ..Container::new(hostname)
    }
}

pub fn model(containers: impl IntoIterator<Item = Container>) -> Model {
    Model {
        name: "model".to_owned(),
        arn: "arn:aws:sagemaker:eu-west-1:123456789012:model/model".to_owned(),
        created: 0.0,
        containers: containers.into_iter().collect(),
        execution: Execution::Serial,
        raw: Value::Null,
    }
}

pub fn deployment(endpoint: &str, variants: impl IntoIterator<Item = Variant>, model: Model) -> Deployment {
    let model = Arc::new(model);
    Deployment {
        endpoint: endpoint.to_owned(),
        variants: variants
            .into_iter()
            .map(|variant| (variant, Arc::clone(&model)))
            .collect(),
        asynchronous: None,
    }
}

/// Sends a request to a running container.
#[track_caller]
pub fn send(container: &RunningContainer, request: &Request) -> Response {
    let address = container.address().unwrap();
    let address = address.strip_prefix("http://").unwrap().parse().unwrap();
    try_send(address, request).unwrap()
}

/// Invokes a container in single-model mode.
#[track_caller]
pub fn invoke(container: &RunningContainer, body: &Value) -> Response {
    send(container, &Request::post("/invocations").json(body))
}

/// The first processes of the containers whose `/opt/ml` is below `folder`.
pub fn containers_below(folder: &Path) -> Vec<Process> {
    let mark = format!("SAGEMAKER_BASE_DIR={}/", folder.display());
    let all = fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_one = |process: &Process| {
        let serves = words(*process, "cmdline").get(1).is_some_and(|word| word == "serve");
        serves
            && words(*process, "environ")
                .iter()
                .any(|variable| variable.starts_with(&mark))
    };
    ids.map(Process).filter(is_one).collect()
}

/// The arguments or variables with which a process was started, from `file` in `/proc`.
pub fn words(process: Process, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{}/{file}", process.0)).unwrap_or_default();
    let words = bytes.split(|&byte| byte == 0);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
