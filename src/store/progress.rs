//! Logs the progress of a long download.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Time between two log lines about a download.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A reader that logs its progress; `bytes` is the expected total.
pub(super) struct ProgressReader<'a, R> {
    source: R,
    url: &'a str,
    bytes: u64,
    read: u64,
    started: Instant,
    reported: Instant,
}

impl<'a, R> ProgressReader<'a, R> {
    pub fn new(source: R, url: &'a str, bytes: u64) -> Self {
        let now = Instant::now();
        Self {
            source,
            url,
            bytes,
            read: 0,
            started: now,
            reported: now,
        }
    }
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.read += read as u64;
        if self.reported.elapsed() >= REPORT_INTERVAL {
            self.reported = Instant::now();
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
