//! Lines to a reader that may have stopped reading.
//!
//! Whoever starts a server holds the other end of its standard error, and may never read it: a test that keeps it in a pipe, a
//! log driver that hangs. A pipe holds 64 KiB (pipe(7)); who writes to a full one waits, and every request that has
//! something to say would, and then everything.
//!
//! What always holds: a line waits for [`PATIENCE`] at the most, and once one has waited in vain, none waits until there is
//! room again. Lines that found none are lost, and the next one that is written is preceded by how many they were. A
//! process that shares the pipe can take the room between the question for it and the write; then the write waits after all.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a line waits for somebody to read those before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a pipe that has room takes without waiting (PIPE_BUF on Linux).
const PIECE: usize = 4096;

/// Writes lines to `to`.
#[derive(Debug)]
pub(super) struct Lines<W> {
    to: W,
    patience: Duration,
    /// Lines since somebody has read the last time.
    lost: u64,
    /// Whether a part of the last line was written.
    is_cut: bool,
}

impl<W: Write + AsFd> Lines<W> {
    pub const fn new(to: W) -> Self {
        Self::with_patience(to, PATIENCE)
    }

    const fn with_patience(to: W, patience: Duration) -> Self {
        Self {
            to,
            patience,
            lost: 0,
            is_cut: false,
        }
    }

    /// Writes `line`, which has its end.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let patience = if self.lost > 0 { Duration::ZERO } else { self.patience };
        if !has_room(&self.to, patience)? {
            self.lost += 1;
            return Ok(());
        }
        if self.lost > 0 {
            let end = if self.is_cut { "\n" } else { "" };
            let note = format!("{end}lines of the log that nobody has read are lost: {}\n", self.lost);
            (self.lost, self.is_cut) = (0, false);
            self.to.write_all(note.as_bytes())?;
            return self.write(line);
        }
        for (index, piece) in line.chunks(PIECE).enumerate() {
            if index > 0 && !has_room(&self.to, patience)? {
                (self.lost, self.is_cut) = (1, true);
                return Ok(());
            }
            self.to.write_all(piece)?;
        }
        Ok(())
    }
}

/// Whether a write of [`PIECE`] bytes would not wait, `patience` from now at the latest. What is closed has room, too: the
/// write will tell.
fn has_room(to: &impl AsFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).unwrap_or_default();
    loop {
        match poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&patience)) {
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
        (Lines::with_patience(writer, Duration::from_millis(1)), reader)
    }

    fn read_to_end(lines: Lines<PipeWriter>, mut reader: PipeReader, mut read: String) -> String {
        drop(lines);
        reader.read_to_string(&mut read).unwrap();
        read
    }

    #[test]
    fn what_is_read_comes_whole() {
        let (mut lines, reader) = lines();
        let long = "x".repeat(3 * PIECE) + "\n";
        for line in ["one\n", "", &long, "two\n"] {
            lines.write(line.as_bytes()).unwrap();
        }
        assert_eq!(read_to_end(lines, reader, String::new()), format!("one\n{long}two\n"));
    }

    #[test]
    fn lines_that_nobody_reads_are_lost_and_counted() {
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
        let note = format!("lines of the log that nobody has read are lost: {lost}");
        let expected: Vec<_> = (0..written - lost)
            .map(|number| format!("line {number}"))
            .chain([note, "again".to_owned()])
            .collect();
        assert_eq!(read.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_line_that_is_cut_ends_before_the_next() {
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
            ["lines of the log that nobody has read are lost: 1", "again"]
        );
    }

    #[test]
    fn a_reader_that_has_left_is_an_error_and_no_wait() {
        let (mut lines, reader) = lines();
        drop(reader);
        assert_eq!(lines.write(b"one\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
