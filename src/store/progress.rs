//! Says how far a long download is.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// One that takes longer is worth a line, and another one each time that it takes as long again.
const PATIENCE: Duration = Duration::from_secs(10);

/// A reader of so many bytes in all, which is watched.
pub(super) struct Watched<'a, R> {
    source: R,
    url: &'a str,
    bytes: u64,
    read: u64,
    started: Instant,
    said: Instant,
}

impl<'a, R> Watched<'a, R> {
    pub fn new(source: R, url: &'a str, bytes: u64) -> Self {
        let now = Instant::now();
        Self {
            source,
            url,
            bytes,
            read: 0,
            started: now,
            said: now,
        }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.read += read as u64;
        if self.said.elapsed() >= PATIENCE {
            self.said = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            tracing::info!(
                url = self.url,
                bytes = self.read,
                of_bytes = self.bytes,
                seconds,
                "still fetching"
            );
        }
        Ok(read)
    }
}
