//! The thread that touches the files of entries that were kept.
//!
//! Leases are dropped by threads that serve requests, which must not wait for a disk; and one thread for all does one
//! thing after the other, so that nothing is removed and written to at once. It ends with the cache, after what was
//! asked of it.
//!
//! Entries are written to the disk itself only when there has been nothing else to do for a while: a first request
//! would wait for it. Until then they are as good as those that are, unless the machine goes down (`bucket.rs`).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Entry, bucket};

/// After that long without a job, entries are written to the disk.
const QUIET: Duration = Duration::from_secs(5);

enum Job {
    /// An entry, and its bytes.
    Remove(PathBuf, u64),
    /// The folder of an entry that is to be removed, but cannot be yet.
    Disown(PathBuf),
    /// The folder of an entry that was used.
    Note(PathBuf),
    Settle(PathBuf),
    /// What is no entry.
    Discard(PathBuf),
    Answer(Sender<()>),
    End,
}

pub struct Janitor {
    jobs: Jobs,
    thread: Option<JoinHandle<()>>,
}

/// Takes jobs, from any thread.
#[derive(Debug, Clone)]
pub struct Jobs {
    sender: Sender<Job>,
    /// Of the entries on disk.
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
        self.jobs.ask(Job::End);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say if it has panicked.
            let _ = thread.join();
        }
    }
}

impl Jobs {
    /// Bytes of the entries that are on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts an entry, until it is removed.
    pub fn added(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove(&self, entry: &Entry) {
        self.ask(Job::Remove(entry.folder.clone(), entry.bytes));
    }

    /// Sees to it that an entry with leases is not found after a crash.
    pub fn disown(&self, entry: &Entry) {
        self.ask(Job::Disown(entry.folder.clone()));
    }

    pub fn note(&self, folder: &Path) {
        self.ask(Job::Note(folder.to_owned()));
    }

    pub fn settle(&self, folder: &Path) {
        self.ask(Job::Settle(folder.to_owned()));
    }

    pub fn discard(&self, path: &Path) {
        // The cache may have ended before whoever was filling a folder.
        if !self.ask(Job::Discard(path.to_owned())) {
            report(bucket::discard(path), "removed", path);
        }
    }

    /// Waits until all that was asked before is done.
    pub fn wait(&self) {
        let (sender, receiver) = mpsc::channel();
        if self.ask(Job::Answer(sender)) {
            // Without an answer, there is nobody any more who does anything.
            let _ = receiver.recv();
        }
    }

    fn ask(&self, job: Job) -> bool {
        self.sender.send(job).is_ok()
    }
}

fn work(jobs: &Receiver<Job>, bytes: &AtomicU64) {
    let mut unsettled = VecDeque::new();
    loop {
        let job = if unsettled.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(QUIET)
        };
        match job {
            Ok(Job::Remove(folder, size)) => {
                let removed = bucket::remove(&folder);
                if removed.is_ok() {
                    bytes.fetch_sub(size, Ordering::Relaxed);
                }
                report(removed, "removed", &folder);
            }
            Ok(Job::Disown(folder)) => report(bucket::disown(&folder), "marked", &folder),
            Ok(Job::Note(folder)) => report(bucket::note(&folder), "marked", &folder),
            Ok(Job::Discard(path)) => report(bucket::discard(&path), "removed", &path),
            Ok(Job::Settle(folder)) => unsettled.push_back(folder),
            Ok(Job::Answer(asker)) => drop(asker),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(folder) = unsettled.pop_front() {
                    report(bucket::settle(&folder), "written to the disk", &folder);
                }
            }
            Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn report(done: io::Result<()>, what: &str, path: &Path) {
    match done {
        // Somebody else has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), "a fetched model cannot be {what}: {error}"),
        Ok(()) => {}
    }
}
