//! Effective values: the flag or its variable, otherwise a convention, otherwise a computed
//! default.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use bytesize::ByteSize;

use super::ServeArgs;
use crate::config::{cache_dir, max_connections, reserved_connections};

/// Default of the largest body: SageMaker's limit for real-time calls.
const REAL_TIME_BODY: ByteSize = ByteSize::mib(25);

/// Default of the largest body in batch transform jobs (BT-4).
const BATCH_BODY: ByteSize = ByteSize::mib(100);

/// Default request timeout, slightly below the platform's 60 s, so that the client gets our error
/// and not the platform's.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(58);

/// Default request timeout in batch transform jobs, where the platform waits up to 3,600 s (BT-5).
const BATCH_TIMEOUT: Duration = Duration::from_secs(3598);

/// Bytes of a memory limit that are reserved for requests without `--memory-reserve`.
pub fn default_memory_reserve(limit: u64) -> u64 {
    (limit / 50).clamp(8 << 20, 256 << 20)
}

impl ServeArgs {
    /// Largest request body, in bytes.
    pub fn max_body(&self) -> usize {
        let conventions = &self.conventions;
        let bytes = self
            .http
            .max_body
            .map(|size| size.as_u64())
            .or(conventions.max_request_size)
            // 0 means "any size" for a transform job: use the most that the platform sends at
            // once.
            .or(conventions.max_payload_in_mb.map(|mb| match mb {
                0 => ByteSize::gib(1).as_u64(),
                mb => mb.saturating_mul(1 << 20),
            }))
            .unwrap_or_else(|| if conventions.batch { BATCH_BODY } else { REAL_TIME_BODY }.as_u64());
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub fn request_timeout(&self) -> Duration {
        self.http
            .request_timeout
            .or(self.conventions.model_server_timeout)
            .unwrap_or(if self.conventions.batch {
                BATCH_TIMEOUT
            } else {
                REQUEST_TIMEOUT
            })
    }

    /// Number of stuck runs whose threads are replaced. The default is the number of run threads
    /// (twice `--threads`), so that the process at most doubles them.
    pub fn max_stuck(&self) -> usize {
        self.max_stuck.unwrap_or_else(|| 2 * self.threads())
    }

    pub fn threads(&self) -> usize {
        self.threads
            .or(self.conventions.model_server_workers)
            .unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
    }

    /// Limit of connections if the process may open `open_files` files.
    pub fn max_connections(&self, open_files: Option<u64>) -> usize {
        self.http.max_connections.unwrap_or_else(|| max_connections(open_files))
    }

    /// Number of `connections` that are reserved for health checks.
    pub fn reserved_connections(&self, connections: usize) -> usize {
        reserved_connections(self.http.reserved_connections, connections)
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

    /// Memory limit of the process in bytes; `system` is the limit that the system sets.
    pub fn memory_limit(&self, system: Option<u64>) -> Option<u64> {
        self.memory_limit.map(|size| size.as_u64()).or(system)
    }

    /// Bytes of `limit` that are reserved for requests.
    pub fn memory_reserve(&self, limit: u64) -> u64 {
        self.memory_reserve
            .map_or_else(|| default_memory_reserve(limit), |size| size.as_u64())
    }

    pub fn prepare_processes(&self) -> usize {
        const MOST: usize = 4;
        self.prepare_processes.unwrap_or_else(|| self.threads().min(MOST))
    }

    pub fn cache_dir(&self) -> PathBuf {
        cache_dir(self.cache_dir.as_ref())
    }

    /// `MaxConcurrentTransforms` and `MaxPayloadInMB` for batch transform (BT-2). A job may have
    /// at most 100 MB in flight (BT-4).
    pub fn transform_parameters(&self) -> (usize, usize) {
        const MOST_IN_FLIGHT_MB: usize = 100;
        const DEFAULT_PAYLOAD_MB: usize = 6;
        let wanted = self
            .conventions
            .max_payload_in_mb
            .and_then(|mb| usize::try_from(mb).ok());
        let accepted = (self.max_body() >> 20).max(1);
        let payload = match wanted {
            None => DEFAULT_PAYLOAD_MB.min(accepted),
            Some(mb) => mb.min(MOST_IN_FLIGHT_MB).min(accepted),
        };
        let concurrent = (MOST_IN_FLIGHT_MB / payload.max(1)).clamp(1, self.threads().max(1));
        (concurrent, payload)
    }
}
