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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{CacheEntry, bucket};

/// Time without jobs after which entries are synced to the disk.
const QUIET: Duration = Duration::from_secs(5);

enum JanitorJob {
    /// The folder of an entry, and its bytes.
    Remove(PathBuf, u64),
    /// The folder of an entry to be removed when its leases end.
    Disown(PathBuf),
    /// The folder of an entry that was used.
    Touch(PathBuf),
    Settle(PathBuf),
    /// A path that is not an entry.
    Discard(PathBuf),
    Signal(Sender<()>),
    End,
}

pub struct Janitor {
    jobs: Jobs,
    thread: Option<JoinHandle<()>>,
}

/// Queues jobs, from any thread.
#[derive(Debug, Clone)]
pub struct Jobs {
    sender: Sender<JanitorJob>,
    /// Bytes of the entries on disk.
    bytes: Arc<AtomicU64>,
}

impl Janitor {
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let jobs = Jobs {
            sender,
            bytes: Arc::default(),
        };
        let bytes = Arc::clone(&jobs.bytes);
        let thread = thread::Builder::new()
            .name("archives".to_owned())
            .spawn(move || work(&receiver, &bytes))?;
        Ok(Self {
            jobs,
            thread: Some(thread),
        })
    }

    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.jobs.ask(JanitorJob::End);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Jobs {
    /// Bytes of the entries on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts an entry until it is removed.
    pub fn added(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove(&self, entry: &CacheEntry) {
        self.ask(JanitorJob::Remove(entry.folder.clone(), entry.bytes));
    }

    /// Hides an entry with leases from the next process.
    pub fn disown(&self, entry: &CacheEntry) {
        self.ask(JanitorJob::Disown(entry.folder.clone()));
    }

    pub fn touch(&self, folder: &Path) {
        self.ask(JanitorJob::Touch(folder.to_owned()));
    }

    pub fn settle(&self, folder: &Path) {
        self.ask(JanitorJob::Settle(folder.to_owned()));
    }

    pub fn discard(&self, path: &Path) {
        // The cache may have ended before a folder was filled.
        if !self.ask(JanitorJob::Discard(path.to_owned())) {
            report(bucket::discard(path), "removed", path);
        }
    }

    /// Waits until the jobs queued before are done.
    pub fn wait(&self) {
        let (sender, receiver) = mpsc::channel();
        if self.ask(JanitorJob::Signal(sender)) {
            // Without an answer, the thread has ended.
            let _ = receiver.recv();
        }
    }

    fn ask(&self, job: JanitorJob) -> bool {
        self.sender.send(job).is_ok()
    }
}

fn work(jobs: &Receiver<JanitorJob>, bytes: &AtomicU64) {
    let mut unsettled = VecDeque::new();
    loop {
        let job = if unsettled.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(QUIET)
        };
        match job {
            Ok(JanitorJob::Remove(folder, size)) => {
                let removed = bucket::remove(&folder);
                if removed.is_ok() {
                    bytes.fetch_sub(size, Ordering::Relaxed);
                }
                report(removed, "removed", &folder);
            }
            Ok(JanitorJob::Disown(folder)) => report(bucket::disown(&folder), "marked", &folder),
            Ok(JanitorJob::Touch(folder)) => report(bucket::touch(&folder), "marked", &folder),
            Ok(JanitorJob::Discard(path)) => report(bucket::discard(&path), "removed", &path),
            Ok(JanitorJob::Settle(folder)) => unsettled.push_back(folder),
            Ok(JanitorJob::Signal(asker)) => drop(asker),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(folder) = unsettled.pop_front() {
                    report(bucket::settle(&folder), "written to the disk", &folder);
                }
            }
            Ok(JanitorJob::End) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn report(done: io::Result<()>, what: &str, path: &Path) {
    match done {
        // Another program has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), "a fetched model cannot be {what}: {error}"),
        Ok(()) => {}
    }
}
