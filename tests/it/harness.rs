//! Shared parts of the tests.

mod browser;
mod builder;
mod cases;
mod client;
mod command;
mod image;
mod models;
mod process;
mod proxy;
mod python;
mod response;
mod s3;
mod sandbox;
mod server;
mod terminal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use browser::{Browser, DARK, LIGHT, PHONE, axe};
pub use builder::{Builder, Ended, library};
pub use cases::{Case, Tensor, assert_close, cases, from_text, to_text};
pub use client::{Connection, Request, try_send};
pub use command::{Finished, longshore, longshore_with};
pub use image::{docker, image_or_skip};
pub use models::{Models, fixture, scale};
pub use process::Process;
pub use proxy::{Fault, Proxy, Rule};
pub use python::{CLIENTS, EXPORTS, MOTO, PRETRAINED, PythonServer, TRITON, Venv};
pub use response::Response;
pub use s3::{Bucket, S3};
pub use sandbox::skip_unless;
pub use server::Server;
pub use terminal::Terminal;

/// Timeout far above the time of any correct operation, even on a busy machine, and far below that
/// of an endless one: a load of `bad/function_bomb`, or a run of [`FOREVER`].
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Iterations of the `spin` model that take days.
pub const FOREVER: u64 = 1 << 40;

/// Iterations of the `spin` model that take about a second.
pub const A_SECOND: u64 = 155_000;

/// Waits until `condition` holds; fails after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        eventually_within(PATIENCE, condition),
        "timeout while waiting until {what}"
    );
}

/// Waits until `condition` holds, for `timeout` at most; returns whether it holds.
fn eventually_within(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() >= timeout {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Flag that stops background threads.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

/// Raises its [`Stop`] on drop, also when the test fails: a thread scope waits for its threads in
/// any case.
#[derive(Debug)]
pub struct StopOnDrop<'a>(&'a Stop);

impl Stop {
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn on_drop(&self) -> StopOnDrop<'_> {
        StopOnDrop(self)
    }
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` for each of `items` on `threads` threads, and returns the results in the order of
/// the items.
pub fn in_parallel<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|items| scope.spawn(|| items.iter().map(&work).collect::<Vec<R>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}
