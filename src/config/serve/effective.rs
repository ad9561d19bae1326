//! What holds in the end: a flag or its variable, else a convention, else a default that follows
//! from the rest.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use bytesize::ByteSize;

use super::ServeArgs;
use crate::config::{cache_dir, max_connections, reserved_connections};

/// Largest body by default: SageMaker's limit for real-time calls.
const REAL_TIME_BODY: ByteSize = ByteSize::mib(25);

/// Largest body by default in batch transform jobs (BT-4).
const BATCH_BODY: ByteSize = ByteSize::mib(100);

/// Just under the platform's 60 s, so that our error wins over its own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(58);

/// The same in batch transform jobs, which may wait for 3,600 s (BT-5).
const BATCH_TIMEOUT: Duration = Duration::from_secs(3598);

impl ServeArgs {
    /// Bytes of the largest request body.
    pub fn max_body(&self) -> usize {
        let conventions = &self.conventions;
        let bytes = self
            .max_body
            .map(|size| size.as_u64())
            .or(conventions.max_request_size)
            // 0 means "of any size" for a transform job: as much as the platform sends in one at
            // all.
            .or(conventions.max_payload_in_mb.map(|mb| match mb {
                0 => ByteSize::gib(1).as_u64(),
                mb => mb.saturating_mul(1 << 20),
            }))
            .unwrap_or_else(|| if conventions.batch { BATCH_BODY } else { REAL_TIME_BODY }.as_u64());
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
            .or(self.conventions.model_server_timeout)
            .unwrap_or(if self.conventions.batch {
                BATCH_TIMEOUT
            } else {
                REQUEST_TIMEOUT
            })
    }

    /// Stuck runs whose threads are replaced: by default as many as there are threads for runs, so
    /// that the process has as many again at most.
    pub fn max_stuck(&self) -> usize {
        self.max_stuck.unwrap_or_else(|| 2 * self.threads())
    }

    pub fn threads(&self) -> usize {
        self.threads
            .or(self.conventions.model_server_workers)
            .unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
    }

    /// Connections at a time when `open_files` may be open.
    pub fn max_connections(&self, open_files: Option<u64>) -> usize {
        self.max_connections.unwrap_or_else(|| max_connections(open_files))
    }

    /// Of so many connections, those that only health checks keep.
    pub fn reserved_connections(&self, connections: usize) -> usize {
        reserved_connections(self.reserved_connections, connections)
    }

    pub fn http_threads(&self) -> usize {
        self.http_threads.unwrap_or_else(|| self.threads())
    }

    pub fn model_dir(&self) -> PathBuf {
        self.model_dir
            .clone()
            .unwrap_or_else(|| self.conventions.base_dir.join("model"))
    }

    pub fn models_roots(&self) -> Vec<PathBuf> {
        if self.models_roots.is_empty() {
            vec![self.conventions.base_dir.join("models"), self.model_dir()]
        } else {
            self.models_roots.clone()
        }
    }

    /// Bytes that the process may take in all; `system` is what the system grants.
    pub fn memory_limit(&self, system: Option<u64>) -> Option<u64> {
        self.memory_limit.map(|size| size.as_u64()).or(system)
    }

    /// Bytes of `limit` that are kept free for requests.
    pub fn memory_reserve(&self, limit: u64) -> u64 {
        self.memory_reserve
            .map_or_else(|| (limit / 50).clamp(8 << 20, 256 << 20), |size| size.as_u64())
    }

    pub fn prepare_processes(&self) -> usize {
        const MOST: usize = 4;
        self.prepare_processes.unwrap_or_else(|| self.threads().min(MOST))
    }

    pub fn cache_dir(&self) -> PathBuf {
        cache_dir(self.cache_dir.as_ref())
    }

    /// `MaxConcurrentTransforms` and `MaxPayloadInMB` for batch transform (BT-2): a job may not
    /// have more than 100 MB under way at once (BT-4).
    pub fn transform_parameters(&self) -> (usize, usize) {
        const MOST_IN_FLIGHT_MB: usize = 100;
        const DEFAULT_PAYLOAD_MB: usize = 6;
        let asked = self
            .conventions
            .max_payload_in_mb
            .and_then(|mb| usize::try_from(mb).ok());
        let taken = (self.max_body() >> 20).max(1);
        let payload = match asked {
            None => DEFAULT_PAYLOAD_MB.min(taken),
            Some(mb) => mb.min(MOST_IN_FLIGHT_MB).min(taken),
        };
        let concurrent = (MOST_IN_FLIGHT_MB / payload.max(1)).clamp(1, self.threads().max(1));
        (concurrent, payload)
    }
}
