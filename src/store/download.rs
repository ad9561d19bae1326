//! Downloads the bytes of an object, in order, for a reader on a thread of its own.
//!
//! A large object is requested in parts, a few at a time, because one connection to a store is
//! slower than most networks. A part holds a permit from its request until it is read to its end,
//! and buffers at most its own size. So a download holds at most `parts` times `part_bytes`.
//! Permits are granted in the order of the parts, so the part that is read next always has one. A
//! part that breaks off is resumed where it broke, and only from the version of the first response,
//! so that versions never mix. Dropping the reader ends the download.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::bucket::{Bucket, GetRequest, OpenedObject};
use super::error::StoreError;
use super::tries::{AttemptFailure, Retries};
use super::version::Version;

/// The limits of a download.
#[derive(Debug, Clone, Copy)]
pub(super) struct DownloadPlan {
    pub part_bytes: u64,
    pub parts: usize,
    pub retries: u32,
}

/// An object to download.
pub(super) struct Download {
    pub bucket: Arc<Bucket>,
    pub key: Path,
    pub url: String,
    pub version: Version,
    pub bytes: u64,
    pub plan: DownloadPlan,
}

/// The bytes of an object during its download.
pub(super) struct Incoming {
    parts: mpsc::Receiver<DownloadPart>,
    part: Option<DownloadPart>,
    /// Bytes of the parts that are still to come.
    left: u64,
    chunk: Bytes,
    /// The error that ended the download; each later read returns it again.
    failed: Option<StoreError>,
    url: String,
    _task: AbortOnDropHandle<()>,
}

/// A part in transit, and its permit.
struct DownloadPart {
    chunks: mpsc::UnboundedReceiver<Result<Chunk, StoreError>>,
    /// Bytes still to come.
    left: u64,
    _permit: OwnedSemaphorePermit,
}

/// Received bytes, and the permits for their place in the buffer.
type Chunk = (Bytes, OwnedSemaphorePermit);

impl Download {
    /// Starts the download on `runtime`, with the first response if it has come already.
    pub fn start(self, first: Option<OpenedObject>, runtime: &Handle) -> Incoming {
        let (sender, parts) = mpsc::channel(self.plan.parts);
        Incoming {
            left: self.bytes,
            parts,
            part: None,
            chunk: Bytes::new(),
            failed: None,
            url: self.url.clone(),
            _task: AbortOnDropHandle::new(runtime.spawn(Arc::new(self).run(first, sender))),
        }
    }

    async fn run(self: Arc<Self>, mut first: Option<OpenedObject>, parts: mpsc::Sender<DownloadPart>) {
        let permits = Arc::new(Semaphore::new(self.plan.parts));
        let mut tasks = JoinSet::new();
        // One part, whatever the size, where the first response is the whole object.
        let whole = first.as_ref().is_some_and(OpenedObject::is_whole);
        let step = if whole { self.bytes } else { self.plan.part_bytes }.max(1);
        let mut start = 0;
        while start < self.bytes {
            let range = start..start.saturating_add(step).min(self.bytes);
            start = range.end;
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let (sender, chunks) = mpsc::unbounded_channel();
            let part = DownloadPart {
                chunks,
                left: range.end - range.start,
                _permit: permit,
            };
            if parts.send(part).await.is_err() {
                return;
            }
            let (download, opened) = (self.clone(), first.take());
            tasks.spawn(async move {
                if let Err(error) = download.part(range, opened, &sender).await {
                    // Sending fails only when the reader is gone.
                    let _ = sender.send(Err(error));
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Downloads one part to its end.
    async fn part(
        &self,
        mut range: Range<u64>,
        mut opened: Option<OpenedObject>,
        chunks: &mpsc::UnboundedSender<Result<Chunk, StoreError>>,
    ) -> Result<(), StoreError> {
        let room = Arc::new(Semaphore::new(self.room()));
        let mut tries = Retries::new(self.plan.retries);
        while !range.is_empty() {
            let before = range.start;
            let opening = match opened.take() {
                Some(opened) => Ok(opened),
                None => self.open(range.clone()).await,
            };
            let poured = match opening {
                Ok(opened) => self.pour(opened, &mut range, &room, chunks).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = poured {
                // A connection that yields only a few bytes each time counts as a failure.
                if range.start - before >= (self.plan.part_bytes / 8).max(1) {
                    tries.reset();
                }
                tries.next_attempt(failure).await?;
            }
        }
        Ok(())
    }

    async fn open(&self, range: Range<u64>) -> Result<OpenedObject, AttemptFailure> {
        let request = GetRequest {
            key: &self.key,
            url: &self.url,
            range: Some(range),
            matching: Some(&self.version),
            unless: None,
        };
        let changed = || AttemptFailure::permanent(StoreError::Changed { url: self.url.clone() });
        match self.bucket.get(&request).await {
            Ok(Some(opened)) if opened.bytes == self.bytes => Ok(opened),
            Ok(_) => Err(changed()),
            Err(AttemptFailure {
                error: StoreError::NotFound { .. },
                ..
            }) => Err(changed()),
            Err(failure) => Err(failure),
        }
    }

    /// Forwards the body to the reader. On return, `range` begins after the forwarded bytes.
    async fn pour(
        &self,
        mut opened: OpenedObject,
        range: &mut Range<u64>,
        room: &Arc<Semaphore>,
        chunks: &mpsc::UnboundedSender<Result<Chunk, StoreError>>,
    ) -> Result<(), AttemptFailure> {
        // A store without ranges begins with bytes that were received before.
        let mut known = range.start.saturating_sub(opened.range.start);
        while !range.is_empty() {
            let mut bytes = match opened.body.next().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => {
                    let failure = self.bucket.broken(&self.url, &error, range.start, self.bytes);
                    return Err(self.resumable(failure, range.start));
                }
                None => {
                    let failure = AttemptFailure::transient(StoreError::CutShort {
                        url: self.url.clone(),
                        read: range.start,
                        bytes: self.bytes,
                        reason: "the response ended early".to_owned(),
                        tries: 0,
                    });
                    return Err(self.resumable(failure, range.start));
                }
            };
            let skipped = known.min(bytes.len() as u64);
            known -= skipped;
            bytes.advance(usize::try_from(skipped).unwrap_or(bytes.len()));
            let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            bytes.truncate(wanted);
            if bytes.is_empty() {
                continue;
            }
            let count = u32::try_from(bytes.len().min(self.room())).unwrap_or(u32::MAX);
            let stopped = || AttemptFailure::permanent(StoreError::Stopped { url: self.url.clone() });
            let permit = room.clone().acquire_many_owned(count).await.map_err(|_| stopped())?;
            range.start += bytes.len() as u64;
            chunks.send(Ok((bytes, permit))).map_err(|_| stopped())?;
        }
        Ok(())
    }

    /// Without a known version, a started download cannot be resumed.
    fn resumable(&self, failure: AttemptFailure, read: u64) -> AttemptFailure {
        match self.version.is_unknown() && read > 0 {
            true => AttemptFailure::permanent(failure.error),
            false => failure,
        }
    }

    /// Bytes of a part that may wait to be read.
    fn room(&self) -> usize {
        const MAX_PERMITS: u64 = u32::MAX as u64;
        usize::try_from(self.plan.part_bytes.clamp(1, MAX_PERMITS)).unwrap_or(usize::MAX)
    }
}

impl Incoming {
    fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let stopped = || StoreError::Stopped { url: self.url.clone() };
            match &mut self.part {
                None if self.left == 0 => return Ok(None),
                None => {
                    let part = self.parts.blocking_recv().ok_or_else(stopped)?;
                    self.left = self.left.saturating_sub(part.left);
                    self.part = Some(part);
                }
                Some(part) if part.left == 0 => self.part = None,
                Some(part) => {
                    // Dropping the permit makes room for the next bytes.
                    let (bytes, _) = part.chunks.blocking_recv().ok_or_else(stopped)??;
                    part.left = part.left.saturating_sub(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// Blocks. Errors contain a [`StoreError`].
impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.chunk.is_empty() {
            if let Some(error) = &self.failed {
                return Err(io::Error::other(error.clone()));
            }
            match self.next() {
                Ok(bytes) => self.chunk = bytes.unwrap_or_default(),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(io::Error::other(error));
                }
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.split_to(count).copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
