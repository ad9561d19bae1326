//! The bare library for comparison: ONNX Runtime in Python, without a server (`bare_library.py`).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The use of the cores by a session.
#[derive(Debug, Clone, Copy)]
pub enum Setting {
    /// Each run uses all cores.
    AllCores,
    /// Each run uses one thread.
    OneThread,
}

/// The results of one measurement.
#[derive(Debug, Clone, Copy)]
pub struct BareRuns {
    pub per_second: f64,
    /// The median time of a run, in seconds.
    pub p50: f64,
    /// The CPU time of a run, in seconds.
    pub cpu: f64,
}

/// The Python with ONNX Runtime's library, which scripts/bench installs.
pub fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".preprocessing/bin/python")
}

/// A process with the sessions of one model. Dropping the value ends it.
pub struct BareLibrary {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Setting {
    pub const ALL: [Self; 2] = [Self::AllCores, Self::OneThread];

    fn name(self) -> &'static str {
        match self {
            Self::AllCores => "all",
            Self::OneThread => "single",
        }
    }
}

impl BareLibrary {
    /// Loads the model in the folder of a [`crate::server::Models`].
    pub fn open(folder: &Path) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/bare_library.py");
        let mut process = Command::new(python())
            .arg(program)
            .arg(folder.join("model.onnx"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start Python: scripts/bench installs it");
        let (input, output) = (process.stdin.take(), process.stdout.take());
        Self {
            process,
            input: input.expect("a pipe"),
            output: BufReader::new(output.expect("a pipe")),
        }
    }

    /// Runs the model from `callers` threads for this long, after a warm-up.
    pub fn measure(&mut self, setting: Setting, callers: usize, time: Duration) -> BareRuns {
        writeln!(self.input, "{} {callers} {}", setting.name(), time.as_secs_f64()).expect("Python runs");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("Python answers");
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [per_second, p50, cpu] = numbers[..] else {
            panic!("Python answered {line:?}");
        };
        BareRuns { per_second, p50, cpu }
    }
}

impl Drop for BareLibrary {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
