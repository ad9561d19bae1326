//! The server's side of a child: starts it, hands it a job, reads what it says, ends it.
//!
//! What always holds: a child ends with its owner here; what it says is read no further than a line
//! should go, and waited for no longer than its job may take.

use std::env;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::home::Home;
use super::protocol::{Job, Report};
use super::sandbox::{file_bound, file_cap};
use super::{COMMAND, Settings};

/// How long a child may take to load ONNX Runtime, which takes a tenth of a second where there is
/// nothing else to do.
const START: Duration = Duration::from_secs(60);

/// Variables that a child gets of the server's: where libraries and locales are, and that ONNX
/// Runtime reports nothing. Credentials are in others.
const PASSED_ON: [&str; 3] = ["LD_LIBRARY_PATH", "LOCPATH", "ORT_DISABLE_TELEMETRY"];

/// The longest line that a child may say: what ONNX Runtime says of a model repeats names of it,
/// and has been seen to go on.
const LONGEST_LINE: usize = 4 << 20;

/// A child, killed when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// The read part of the line that is being written.
    line: Vec<u8>,
    /// The most that it may take of memory and of a file, once it has had a job.
    cap: Option<(u64, u64)>,
    /// Dropped last: the child has ended by then.
    home: Home,
}

/// Why there is no report that ends a job.
#[derive(Debug)]
pub(super) enum Failure {
    TimedOut {
        loaded: bool,
    },
    Ended {
        started: bool,
        loaded: bool,
        status: Option<ExitStatus>,
    },
    /// The job's files are gone, as when the cache's folder is deleted.
    Lost(io::Error),
    Io,
}

impl Process {
    /// Starts a child with a folder in `place`.
    pub(super) fn start(settings: &Settings, place: &Path) -> io::Result<Self> {
        let home = Home::new(place)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg("--folder").arg(home.path());
        if let Some(library) = &settings.libraries.onnxruntime {
            command.arg("--onnxruntime").arg(library);
        }
        for library in &settings.libraries.operators {
            command.arg("--operators").arg(library);
        }
        let passed_on = PASSED_ON
            .into_iter()
            .filter_map(|name| Some((name, env::var_os(name)?)));
        command.env_clear().envs(passed_on);
        let mut process = Self::spawn(&mut command, home)?;
        match process.report(Instant::now() + START)? {
            Some(Report::Ready(lacking)) => {
                say_once(&lacking);
                Ok(process)
            }
            Some(_) | None => Err(io::Error::other(
                "it ended before it had work; is ONNX Runtime's library readable?",
            )),
        }
    }

    pub(super) fn spawn(command: &mut Command, home: Home) -> io::Result<Self> {
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
                cap: None,
                home,
            }),
            _ => Err(io::Error::other("a pipe is missing")),
        }
    }

    /// Whether `job` fits within the limits that this child has set itself for its first one, and
    /// its files can be moved to the child's folder.
    pub(super) fn has_room_for(&self, job: &Job) -> bool {
        let fits = |(memory, file)| job.most <= memory && file_bound(job.widest()) <= file;
        self.cap.is_none_or(fits) && self.home.is_in(job.place())
    }

    /// Hands `job` over and reads until the report that ends it. The job's files are the child's in
    /// between.
    pub(super) fn ask(&mut self, job: &Job, deadline: Instant) -> Result<Report, Failure> {
        self.cap.get_or_insert((job.most, file_cap(job.most, job.widest())));
        let lent = self.home.lend(job).map_err(Failure::Lost)?;
        let asked = self.hand_over(&lent.job, deadline);
        lent.take_back().map_err(Failure::Lost)?;
        asked
    }

    fn hand_over(&mut self, job: &Job, deadline: Instant) -> Result<Report, Failure> {
        let mut text = serde_json::to_vec(job).map_err(|_| Failure::Io)?;
        text.push(b'\n');
        let (mut started, mut loaded) = (false, false);
        if self.input.write_all(&text).is_err() {
            return Err(self.ended(started, loaded));
        }
        loop {
            match self.report(deadline) {
                Ok(Some(Report::Started)) => started = true,
                Ok(Some(Report::Loaded)) => loaded = true,
                Ok(Some(report)) => return Ok(report),
                Ok(None) => return Err(self.ended(started, loaded)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    // It would go on with files that it has no more.
                    let _ = self.child.kill();
                    return Err(Failure::TimedOut { loaded });
                }
                // The model has got the better of it.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let _ = self.child.kill();
                    return Err(Failure::Ended {
                        started,
                        loaded,
                        status: None,
                    });
                }
                Err(_) => return Err(Failure::Io),
            }
        }
    }

    /// The next line; `None` at the end.
    fn report(&mut self, deadline: Instant) -> io::Result<Option<Report>> {
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

    fn ended(&mut self, started: bool, loaded: bool) -> Failure {
        // Its end of the pipe is closed: it has ended, or does so now.
        let _ = self.child.kill();
        Failure::Ended {
            started,
            loaded,
            status: self.child.wait().ok(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Logs once what the system lacks of the sandbox.
fn say_once(lacking: &[String]) {
    static SAID: Once = Once::new();
    if !lacking.is_empty() {
        SAID.call_once(|| {
            tracing::warn!(
                "this system does not grant the processes that prepare models: {}; a model that takes such a process over \
                 is bounded by the rest (docs/isolation.md)",
                lacking.join("; ")
            );
        });
    }
}
