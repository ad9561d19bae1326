//! Servers in containers. If the environment names an image, each test starts its server from that
//! image with the docker command, instead of the binary that was just built. So every test of the
//! contract is also a test of the image.
//!
//! A container shares the machine's network and, at the same paths, the folders of the tests, so
//! that a test sees no other difference. `tests/it/image.rs` tests containers with their own
//! network and limits.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::process::Process;

const VARIABLE: &str = "LONGSHORE_TEST_IMAGE";

/// Further options of `docker run` for this machine, separated by blanks.
const OPTIONS: &str = "LONGSHORE_TEST_DOCKER";

/// The label by which `scripts/smoke` finds containers that a test has left behind.
const LABEL: &str = "longshore.test";

/// The tested image.
pub fn image() -> Option<String> {
    env::var(VARIABLE).ok()
}

/// The tested image. Prints that the test is skipped and returns `None` if the binary is tested.
pub fn image_or_skip() -> Option<String> {
    let image = image();
    if image.is_none() {
        eprintln!("SKIPPED: {VARIABLE} names no image; see scripts/smoke");
    }
    image
}

/// Runs the docker command and returns its standard output.
#[track_caller]
pub fn docker(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "docker: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The name of a container.
#[derive(Debug, Clone)]
pub struct Container(String);

impl Container {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("longshore-test-{}-{count}", std::process::id()))
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// The command line that runs `image` with these options and variables. The caller appends the
    /// arguments of the image.
    pub fn run<'a>(
        &self,
        image: String,
        options: impl IntoIterator<Item = &'a OsString>,
        variables: impl IntoIterator<Item = &'a (String, OsString)>,
    ) -> Vec<OsString> {
        let mut words = ["docker", "run", "--rm", "--label", LABEL, "--name", self.name()]
            .map(OsString::from)
            .to_vec();
        let needed = env::var(OPTIONS).unwrap_or_default();
        words.extend(needed.split_whitespace().map(OsString::from));
        words.extend(options.into_iter().cloned());
        for (name, value) in variables {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(value);
            words.extend(["--env".into(), variable]);
        }
        words.push(image.into());
        words
    }

    /// Options for a container that shares the network and the folders of the tests.
    pub fn shared() -> Vec<OsString> {
        let temporary = env::temp_dir().display().to_string();
        let checkout = env!("CARGO_MANIFEST_DIR");
        let volumes = [format!("{temporary}:{temporary}"), format!("{checkout}:{checkout}:ro")];
        let volumes = volumes.into_iter().flat_map(|volume| ["--volume".to_owned(), volume]);
        ["--network", "host"]
            .map(str::to_owned)
            .into_iter()
            .chain(volumes)
            .map(OsString::from)
            .collect()
    }

    /// The container's first process, by its id on this machine.
    #[track_caller]
    pub fn process(&self) -> Process {
        Process(
            docker(["inspect", "--format", "{{.State.Pid}}", self.name()])
                .parse()
                .unwrap(),
        )
    }
}
