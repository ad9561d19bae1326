//! The thread that touches the files of kept entries.
//!
//! Threads that serve requests drop leases, and must not wait for a disk. One thread does all jobs
//! in order, so that nothing is removed while it is written to. It ends with the cache, after the
//! jobs that were queued before.
//!
//! Entries are synced to the disk only after a quiet time, because a first request would have to
//! wait for it. Until then they are as good as synced ones, unless the machine crashes
//! (`bucket.rs`).

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{CacheEntry, bucket};
use crate::disk_cache;

/// Time without jobs after which entries are synced to the disk.
const QUIET: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

enum JanitorJob {
    Now(Work),
    /// After a quiet time, or never.
    WhenQuiet(Work),
}

pub struct Janitor {
    /// `None` when the thread is to end.
    jobs: Option<Sender<JanitorJob>>,
    thread: Option<JoinHandle<()>>,
    /// Bytes of the entries on disk.
    bytes: Arc<AtomicU64>,
}

impl Janitor {
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("archives".to_owned())
            .spawn(move || work(&receiver))?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
            bytes: Arc::default(),
        })
    }

    /// Bytes of the entries on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts an entry until it is removed.
    pub fn added(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove(&self, entry: &CacheEntry) {
        let (total, bytes) = (Arc::clone(&self.bytes), entry.bytes);
        self.ask(JanitorJob::Now(job("removed", &entry.folder, move |folder| {
            bucket::remove(folder)?;
            total.fetch_sub(bytes, Ordering::Relaxed);
            Ok(())
        })));
    }

    /// Hides an entry with leases from the next process.
    pub fn disown(&self, entry: &CacheEntry) {
        self.ask(JanitorJob::Now(job("marked", &entry.folder, bucket::disown)));
    }

    /// Records the use of an entry.
    pub fn touch(&self, entry: &CacheEntry) {
        self.ask(JanitorJob::Now(job("marked", &entry.folder, bucket::touch)));
    }

    pub fn settle(&self, folder: &Path) {
        self.ask(JanitorJob::WhenQuiet(job(
            "written to the disk",
            folder,
            bucket::settle,
        )));
    }

    /// Removes a path that is not an entry.
    pub fn discard(&self, path: &Path) {
        self.ask(JanitorJob::Now(job("removed", path, disk_cache::discard)));
    }

    /// Waits until the jobs queued before are done.
    pub fn wait(&self) {
        let (sender, receiver) = mpsc::channel::<()>();
        self.ask(JanitorJob::Now(Box::new(|| drop(sender))));
        // The answer is the end of the channel.
        let _ = receiver.recv();
    }

    fn ask(&self, job: JanitorJob) {
        if let Some(jobs) = &self.jobs {
            // Fails only after a panic of the thread, which was reported when it happened.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Receiver<JanitorJob>) {
    let mut waiting: VecDeque<Work> = VecDeque::new();
    loop {
        let job = if waiting.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(QUIET)
        };
        match job {
            Ok(JanitorJob::Now(work)) => work(),
            Ok(JanitorJob::WhenQuiet(work)) => waiting.push_back(work),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(work) = waiting.pop_front() {
                    work();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// A job at `path`, which another program may have removed.
fn job(what: &'static str, path: &Path, run: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> Work {
    let path = path.to_owned();
    Box::new(move || match run(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), "a fetched model cannot be {what}: {error}"),
        Ok(()) => {}
    })
}
