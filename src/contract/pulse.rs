//! The progress of the threads that answer HTTP, for the part that looks whether the process is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::rt;

/// Counts on as long as one of the threads that answer HTTP makes progress.
#[derive(Debug)]
pub struct Pulse {
    count: AtomicU64,
    /// How often each thread counts.
    every: Duration,
}

impl Pulse {
    pub fn new(every: Duration) -> Self {
        Self {
            count: AtomicU64::new(0),
            every,
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Has the thread that calls it count.
    pub(super) fn follow_this_thread(self: Arc<Self>) {
        rt::spawn(async move {
            loop {
                self.count.fetch_add(1, Ordering::Relaxed);
                rt::time::sleep(self.every).await;
            }
        });
    }
}
