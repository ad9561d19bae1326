//! A server in a control group of its own, and how full the group is.

use crate::cgroup::Cgroup;
use crate::harness::{Builder, Server};

/// `--memory-reserve` of these servers, in bytes.
const RESERVE: u64 = 8 << 20;

/// A server in a control group. The server ends before its group is removed.
pub struct GroupServer {
    pub server: Server,
    group: Cgroup,
    limit: u64,
}

impl GroupServer {
    /// Starts a server in a group with `limit` bytes of memory; `None` if this machine does not
    /// allow it.
    pub fn start(limit: u64) -> Option<Self> {
        let Some(group) = Cgroup::new(limit) else {
            eprintln!("SKIPPED: this machine does not allow the test to create a control group");
            return None;
        };
        let join = format!("echo $$ > {} && exec \"$@\"", group.members().display());
        let server = Builder::multi()
            .through(["sh", "-c", &join, "sh"])
            .argument("--memory-reserve")
            .argument(RESERVE.to_string())
            .start();
        Some(Self { server, group, limit })
    }

    /// Asserts that `count` models fill the group, after a load was refused.
    #[track_caller]
    pub fn assert_full(&self, count: u64) {
        let (all, files) = self.group.usage();
        let mapped = self.server.metric("longshore_memory_mapped_bytes");
        // The reserve for requests counts as used.
        let used = (all - files) as u64 + mapped + RESERVE;
        let percent = 100.0 * used as f64 / self.limit as f64;
        let (group, mapped) = (self.group.describe(), mapped >> 20);
        eprintln!("{group}: {count} models, {percent:.1} %, {mapped} MiB mapped");
        // The kernel's accounting is not exact. On a busy machine there may be no idle preparing
        // process, and then the 10 MiB to start one must be free as well.
        let child = 1000.0 * 1024.0 * 1024.0 / self.limit as f64;
        let least = if self.server.process().preparing().is_empty() {
            95.0 - child
        } else {
            95.0
        };
        assert!(
            (least..=101.0).contains(&percent),
            "{percent} % of the limit with {count} models"
        );
    }

    /// Asserts that the kernel has killed no process of the group.
    #[track_caller]
    pub fn assert_nothing_killed(&self) {
        assert_eq!(self.group.kills(), 0);
        assert_eq!(self.server.metric("longshore_worker_restarts_total"), 0);
    }
}
