//! The server's side of a child: starts it, hands it a job, reads its reports, ends it.
//!
//! Invariants: a child ends with its owner here; this side reads at most one line of limited length
//! at a time, and waits no longer than the job may take.

use std::env;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::home::ChildFolder;
use super::protocol::{ChildReport, PrepareJob};
use super::sandbox::{max_child_file, max_job_file};
use super::{COMMAND, ChildConfig};
use crate::engine::memory;

/// Time limit for a child to load ONNX Runtime, which takes a tenth of a second on an idle machine.
const START: Duration = Duration::from_secs(60);

/// Environment variables that a child inherits: the folders of libraries and locales, and the one
/// that disables ONNX Runtime's telemetry. Credentials are in other variables.
const PASSED_ON: [&str; 3] = ["LD_LIBRARY_PATH", "LOCPATH", "ORT_DISABLE_TELEMETRY"];

/// Maximum length of a report. ONNX Runtime's messages repeat names of the model, which may be very
/// long.
const LONGEST_LINE: usize = 4 << 20;

/// A child process. It is killed on drop.
#[derive(Debug)]
pub(super) struct ChildProcess {
    pub(super) child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// The part of the current line that has been read.
    line: Vec<u8>,
    /// Maximum bytes of memory and of a file, once the child has had a job.
    limits: Option<(u64, u64)>,
    /// Dropped last, when the child has ended.
    home: ChildFolder,
}

/// Reason why a job ended without a report.
#[derive(Debug)]
pub(super) enum ChildFailure {
    TimedOut {
        loaded: bool,
    },
    Ended {
        started: bool,
        loaded: bool,
        status: Option<ExitStatus>,
    },
    /// The job's files are gone, for example because the cache's folder was deleted.
    Lost(io::Error),
    Io,
}

impl ChildProcess {
    /// Starts a child with a folder in `place`.
    pub(super) fn start(config: &ChildConfig, place: &Path) -> io::Result<Self> {
        let home = ChildFolder::new(place)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg("--folder").arg(home.path());
        if let Some(library) = &config.libraries.onnxruntime {
            command.arg("--onnxruntime").arg(library);
        }
        for library in &config.libraries.operators {
            command.arg("--operators").arg(library);
        }
        let passed_on = PASSED_ON
            .into_iter()
            .filter_map(|name| Some((name, env::var_os(name)?)));
        command.env_clear().envs(passed_on);
        let mut process = Self::spawn(&mut command, home)?;
        match process.report(Instant::now() + START)? {
            Some(ChildReport::Ready(lacking)) => {
                log_missing_layers_once(&lacking);
                Ok(process)
            }
            Some(_) | None => Err(io::Error::other(
                "it ended before it had a job; is ONNX Runtime's library readable?",
            )),
        }
    }

    pub(super) fn spawn(command: &mut Command, home: ChildFolder) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                input,
                output,
                line: Vec::new(),
                limits: None,
                home,
            }),
            _ => Err(io::Error::other("a pipe is missing")),
        }
    }

    /// Private bytes of the process; 0 if the system does not report them.
    pub(super) fn memory(&self) -> u64 {
        memory::private_memory_of(self.child.id())
    }

    /// Whether `job` fits within the limits that this child has set for its first job, and its
    /// files can be moved to the child's folder.
    pub(super) fn accepts(&self, job: &PrepareJob) -> bool {
        let fits = |(memory, file)| job.most <= memory && max_job_file(job.widest()) <= file;
        self.limits.is_none_or(fits) && self.home.is_in(job.place())
    }

    /// Hands over `job` and reads until the report that ends it. Meanwhile the job's files belong
    /// to the child.
    pub(super) fn ask(&mut self, job: &PrepareJob, deadline: Instant) -> Result<ChildReport, ChildFailure> {
        self.limits
            .get_or_insert((job.most, max_child_file(job.most, job.widest())));
        let moved_job = self.home.move_in(job).map_err(ChildFailure::Lost)?;
        let asked = self.hand_over(&moved_job.job, deadline);
        moved_job.take_back().map_err(ChildFailure::Lost)?;
        asked
    }

    fn hand_over(&mut self, job: &PrepareJob, deadline: Instant) -> Result<ChildReport, ChildFailure> {
        let mut text = serde_json::to_vec(job).map_err(|_| ChildFailure::Io)?;
        text.push(b'\n');
        let (mut started, mut loaded) = (false, false);
        if self.input.write_all(&text).is_err() {
            return Err(self.ended(started, loaded));
        }
        loop {
            match self.report(deadline) {
                Ok(Some(ChildReport::Started)) => started = true,
                Ok(Some(ChildReport::Loaded)) => loaded = true,
                Ok(Some(report)) => return Ok(report),
                Ok(None) => return Err(self.ended(started, loaded)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    // Otherwise the child would continue with files that it no longer has.
                    let _ = self.child.kill();
                    return Err(ChildFailure::TimedOut { loaded });
                }
                // The model has taken over the child, or corrupted it.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let _ = self.child.kill();
                    return Err(ChildFailure::Ended {
                        started,
                        loaded,
                        status: None,
                    });
                }
                Err(_) => return Err(ChildFailure::Io),
            }
        }
    }

    /// Reads the next report; `None` at the end.
    fn report(&mut self, deadline: Instant) -> io::Result<Option<ChildReport>> {
        loop {
            if let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                let report = serde_json::from_slice(&line);
                return report.map(Some).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            if self.line.len() > LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let ready = poll(&mut [PollFd::new(&self.output, PollFlags::IN)], timeout.as_ref());
            match ready {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut buffer = [0; 4096];
            match self.output.read(&mut buffer)? {
                0 => return Ok(None),
                read => self.line.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn ended(&mut self, started: bool, loaded: bool) -> ChildFailure {
        // The child has closed its end of the pipe: it has ended, or is about to.
        let _ = self.child.kill();
        ChildFailure::Ended {
            started,
            loaded,
            status: self.child.wait().ok(),
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Logs once which layers of the sandbox the system does not grant.
fn log_missing_layers_once(lacking: &[String]) {
    static SAID: Once = Once::new();
    if !lacking.is_empty() {
        SAID.call_once(|| {
            tracing::warn!(
                "this system does not grant the processes that prepare models: {}; the remaining layers limit a model that \
                 takes over such a process (docs/isolation.md)",
                lacking.join("; ")
            );
        });
    }
}
