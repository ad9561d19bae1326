//! Writes lines to a reader that may have stopped reading.
//!
//! The process at the other end of standard error may never read it, for example a test that keeps
//! the pipe open, or a log driver that hangs. A pipe holds 64 KiB (pipe(7)) and blocks its writers
//! when it is full. Every request that logs would then block, and soon the whole server.
//!
//! Invariants: a line waits for [`WRITE_TIMEOUT`] at most. After a timeout, further lines do not
//! wait until the pipe has room again. Lines without room are lost; the next written line is
//! preceded by their number.
//!
//! Limit: a process that shares the pipe can fill it between the check and the write; then the
//! write blocks.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Longest time that a line waits for room in the pipe.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that a pipe with room accepts without blocking (PIPE_BUF on Linux).
const PIECE: usize = 4096;

/// Writes lines to `to`.
#[derive(Debug)]
pub(super) struct Lines<W> {
    to: W,
    timeout: Duration,
    /// Lines lost since the pipe last had room.
    lost: u64,
    /// Whether the last line was written only in part.
    is_cut: bool,
}

impl<W: Write + AsFd> Lines<W> {
    pub const fn new(to: W) -> Self {
        Self::with_timeout(to, WRITE_TIMEOUT)
    }

    const fn with_timeout(to: W, timeout: Duration) -> Self {
        Self {
            to,
            timeout,
            lost: 0,
            is_cut: false,
        }
    }

    /// Writes `line`, which includes its newline.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let timeout = if self.lost > 0 { Duration::ZERO } else { self.timeout };
        if !has_room(&self.to, timeout)? {
            self.lost += 1;
            return Ok(());
        }
        if self.lost > 0 {
            let end = if self.is_cut { "\n" } else { "" };
            let note = format!("{end}log lines lost because they were not read: {}\n", self.lost);
            (self.lost, self.is_cut) = (0, false);
            self.to.write_all(note.as_bytes())?;
            return self.write(line);
        }
        for (index, piece) in line.chunks(PIECE).enumerate() {
            if index > 0 && !has_room(&self.to, timeout)? {
                (self.lost, self.is_cut) = (1, true);
                return Ok(());
            }
            self.to.write_all(piece)?;
        }
        Ok(())
    }
}

/// Waits up to `timeout` until a write of [`PIECE`] bytes would not block. Returns true for a
/// closed pipe, too: the write then fails.
fn has_room(to: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).unwrap_or_default();
    loop {
        match poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, pipe};

    use super::*;

    fn lines() -> (Lines<PipeWriter>, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Lines::with_timeout(writer, Duration::from_millis(1)), reader)
    }

    fn read_to_end(lines: Lines<PipeWriter>, mut reader: PipeReader, mut read: String) -> String {
        drop(lines);
        reader.read_to_string(&mut read).unwrap();
        read
    }

    #[test]
    fn lines_arrive_complete_if_the_reader_reads() {
        let (mut lines, reader) = lines();
        let long = "x".repeat(3 * PIECE) + "\n";
        for line in ["one\n", "", &long, "two\n"] {
            lines.write(line.as_bytes()).unwrap();
        }
        assert_eq!(read_to_end(lines, reader, String::new()), format!("one\n{long}two\n"));
    }

    #[test]
    fn lines_that_are_not_read_are_lost_and_counted() {
        let (mut lines, mut reader) = lines();
        let written = 10_000;
        for number in 0..written {
            lines.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        let lost = lines.lost;
        assert!(lost > 0 && lost < written);
        let mut read = vec![0; 1 << 20];
        let bytes = reader.read(&mut read).unwrap();
        let read = String::from_utf8(read[..bytes].to_vec()).unwrap();
        lines.write(b"again\n").unwrap();
        let read = read_to_end(lines, reader, read);
        let note = format!("log lines lost because they were not read: {lost}");
        let expected: Vec<_> = (0..written - lost)
            .map(|number| format!("line {number}"))
            .chain([note, "again".to_owned()])
            .collect();
        assert_eq!(read.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_truncated_line_ends_with_a_newline_before_the_next_line() {
        let (mut lines, mut reader) = lines();
        lines.write(("x".repeat(1 << 20) + "\n").as_bytes()).unwrap();
        assert!(lines.is_cut);
        let mut read = vec![0; 1 << 20];
        let bytes = reader.read(&mut read).unwrap();
        lines.write(b"again\n").unwrap();
        let read = read_to_end(lines, reader, "x".repeat(bytes));
        let mut parts = read.lines();
        assert!(parts.next().unwrap().bytes().all(|byte| byte == b'x'));
        assert_eq!(
            parts.collect::<Vec<_>>(),
            ["log lines lost because they were not read: 1", "again"]
        );
    }

    #[test]
    fn writing_to_a_closed_pipe_fails_without_waiting() {
        let (mut lines, reader) = lines();
        drop(reader);
        assert_eq!(lines.write(b"one\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
