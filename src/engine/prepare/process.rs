//! The server's side of a child: starts it, hands it a job, reads what it says, ends it.
//!
//! What always holds: a child ends with its owner here; what it says is read no further than a line should go, and waited
//! for no longer than its job may take.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::protocol::{Job, Report};
use super::{COMMAND, Settings};

/// The longest line that a child may say: what ONNX Runtime says of a model repeats names of it, and has been seen to go on.
const LONGEST_LINE: usize = 4 << 20;

/// A child, killed when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// What was read of the line that is being written.
    line: Vec<u8>,
}

/// Why a child has said nothing that ends a job.
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
    Io,
}

impl Process {
    pub(super) fn start(settings: &Settings) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND);
        if let Some(library) = &settings.library {
            command.arg("--onnxruntime").arg(library);
        }
        Self::spawn(&mut command)
    }

    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
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
            }),
            _ => Err(io::Error::other("a pipe is missing")),
        }
    }

    /// Hands `job` over and reads until the report that ends it.
    pub(super) fn ask(&mut self, job: &Job, deadline: Instant) -> Result<Report, Failure> {
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
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::TimedOut { loaded }),
                // The model has got the better of it.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
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
