//! The output of containers. It is copied to our standard error, with the container's name.
//!
//! The last lines are kept, because failure messages quote the last one (ST-12). Lines are copied
//! unchanged, but long ones are cut, so that a container cannot fill our memory.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::container::RunningContainer;
use crate::telemetry;

/// The number of lines that are kept, and the maximum bytes of a line.
const KEPT: usize = 50;
const MAX_LINE: usize = 16 << 10;

/// The last lines of a container, across its restarts.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: Mutex<VecDeque<String>>,
    /// Number of all lines.
    count: AtomicU64,
}

impl Tail {
    pub fn push(&self, line: String) {
        let mut lines = self.locked();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of lines so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn lines(&self) -> Vec<String> {
        self.locked().iter().cloned().collect()
    }

    /// The last line that `wanted` accepts, or else the last line that is not empty.
    pub fn last(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.locked();
        let mut telling = lines.iter().rev().filter(|line| !line.trim().is_empty());
        let last = telling.clone().next();
        telling.find(|line| wanted(line)).or(last).cloned()
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies the lines of `source` until it ends.
pub(super) async fn follow(source: impl AsyncRead + Unpin, container: Arc<RunningContainer>) {
    let mut lines = BufReader::new(source);
    while let Ok(Some(line)) = next(&mut lines).await {
        // An error means that our standard error is closed, which must not affect the container.
        let _ = telemetry::write_forwarded(container.label(), &line);
        container.tail.push(line);
    }
}

/// The next line, without its line ending.
async fn next(source: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let buffer = source.fill_buf().await?;
        if buffer.is_empty() {
            return Ok((!line.is_empty()).then(|| text(&line)));
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(MAX_LINE - line.len())]);
        let taken = end.map_or(buffer.len(), |end| end + 1);
        source.consume(taken);
        if end.is_some() {
            return Ok(Some(text(&line)));
        }
    }
}

fn text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_with_any_line_ending_are_read_and_long_ones_are_cut() {
        let long = "x".repeat(3 * MAX_LINE);
        let source = [b"one\r\n\n", long.as_bytes(), b"\ntwo\xc3\nlast"].concat();
        let mut source = BufReader::with_capacity(7, source.as_slice());
        let mut lines = Vec::new();
        while let Some(line) = next(&mut source).await.unwrap() {
            lines.push(line);
        }
        let cut = &long[..MAX_LINE];
        assert_eq!(lines, ["one", "", cut, "two\u{fffd}", "last"]);
    }

    #[test]
    fn the_last_lines_are_kept() {
        let tail = Tail::default();
        for number in 0..KEPT + 2 {
            tail.push(number.to_string());
        }
        assert_eq!(tail.lines().len(), KEPT);
        assert_eq!(tail.lines()[0], "2");
    }

    #[test]
    fn the_quoted_line_is_the_last_accepted_one_or_the_last_that_is_not_empty() {
        let tail = Tail::default();
        assert_eq!(tail.last(|_| true), None);
        for line in ["docker: no such image", "see --help", " "] {
            tail.push(line.to_owned());
        }
        assert_eq!(tail.last(|_| true).as_deref(), Some("see --help"));
        let errors = |line: &str| line.starts_with("docker: ");
        assert_eq!(tail.last(errors).as_deref(), Some("docker: no such image"));
        assert_eq!(tail.last(|line| line == "never").as_deref(), Some("see --help"));
    }
}
