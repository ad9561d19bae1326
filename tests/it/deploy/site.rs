//! What a deployment needs: a bucket, a folder of archives, and a SageMaker.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::endpoint::command::desk::Desk;
use crate::harness::{Bucket, Builder, Finished, S3, fixture, longshore};

pub struct Site {
    pub desk: Desk,
    endpoint: &'static str,
    bucket: Bucket,
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Site {
    pub const ROLE: &'static str = "Role=arn:aws:iam::123456789012:role/serve";

    /// With a SageMaker of its own; the other services know what other tests have made there, so endpoints have names of
    /// their own.
    #[track_caller]
    pub fn new(endpoint: &'static str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let installed = root.join(".deploy/bin/python").exists();
        assert!(
            installed,
            "run `scripts/deploy --help`, once: it installs what it needs"
        );
        let s3 = S3::start();
        let mut environment = Vec::from(S3::environment(s3.address()));
        // Where its buckets are.
        environment.push(("AWS_REGION", "us-east-1".to_owned()));
        let builder = Builder::endpoint();
        let builder = environment
            .iter()
            .fold(builder, |builder, (name, value)| builder.environment(name, value));
        let desk = Desk::start(builder);
        let sagemaker = format!("http://{}", desk.0.address());
        environment.extend([
            ("AWS_ENDPOINT_URL", format!("http://{}", s3.address())),
            ("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker.clone()),
            ("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", sagemaker),
        ]);
        Self {
            desk,
            endpoint,
            bucket: s3.bucket(),
            folder: tempfile::Builder::new().prefix("longshore-site-").tempdir().unwrap(),
            environment,
        }
    }

    pub fn bucket(&self) -> &str {
        self.bucket.name()
    }

    /// The folder of archives.
    pub fn models(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub fn path(&self, archive: &str) -> PathBuf {
        self.folder.path().join(archive)
    }

    /// Packs a fixture into the folder of archives.
    #[track_caller]
    pub fn pack(&self, name: &str, archive: &str) {
        let archive = self.path(archive);
        std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
        let arguments = [
            OsStr::new("pack"),
            fixture(name).as_os_str(),
            OsStr::new("-o"),
            archive.as_os_str(),
        ]
        .map(ToOwned::to_owned);
        longshore(arguments).output();
    }

    /// An executable that does this.
    pub fn program(&self, name: &str, commands: &str) -> PathBuf {
        let file = self.path(name);
        std::fs::write(&file, format!("#!/bin/sh\n{commands}\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file
    }

    /// Deploys the site's endpoint, of the site's bucket.
    pub fn deploy(&self, arguments: impl IntoIterator<Item = impl AsRef<str>>) -> Finished {
        let own = [self.endpoint.to_owned(), format!("Bucket={}", self.bucket())];
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.run(own.into_iter().chain(arguments))
    }

    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        self.run_with(arguments, [])
    }

    /// With these variables, too; empty ones are unset.
    pub fn run_with<const N: usize>(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        environment: [(&str, &str); N],
    ) -> Finished {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy"));
        command.args(arguments).stdin(Stdio::null()).env_clear();
        // What a shell has, and nothing of AWS.
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("AWS_CONFIG_FILE", "/nonexistent");
        command.env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
        for (name, value) in environment {
            match value {
                "" => command.env_remove(name),
                value => command.env(name, value),
            };
        }
        Finished::after(&mut command)
    }

    /// That nothing is left in SageMaker.
    #[track_caller]
    pub fn assert_empty(&self) {
        for (action, items) in [
            ("ListEndpoints", "Endpoints"),
            ("ListEndpointConfigs", "EndpointConfigs"),
            ("ListModels", "Models"),
        ] {
            let listed = self.desk.control(action, &json!({})).expect(200).json();
            assert_eq!(listed[items], json!([]));
        }
    }
}
