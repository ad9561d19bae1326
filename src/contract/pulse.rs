//! Progress counter of the HTTP threads, for the supervisor that checks whether the process is
//! alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::rt;

/// Counter that increases as long as at least one HTTP thread makes progress.
#[derive(Debug)]
pub struct Pulse {
    count: AtomicU64,
    /// Interval at which each thread counts.
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

    /// Starts counting on the calling thread.
    pub(super) fn count_on_this_thread(self: Arc<Self>) {
        rt::spawn(async move {
            loop {
                self.count.fetch_add(1, Ordering::Relaxed);
                rt::time::sleep(self.every).await;
            }
        });
    }
}
