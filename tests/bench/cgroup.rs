//! A memory control group for a server, if this program may create one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A group with a memory limit.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
    /// Whether this program created the group, so that dropping the value removes it.
    is_ours: bool,
}

impl Cgroup {
    /// Creates a group. `None` if the system does not allow it.
    pub fn new(limit: u64) -> Option<Self> {
        // Several tests in one process may have groups at the same time.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("longshore-bench-{}-{next}", std::process::id());
        // In version 2, a group with processes cannot have subgroups, so the root is tried too.
        let root = (PathBuf::from("/sys/fs/cgroup"), true);
        let parents = folders("self").into_iter().chain([root]);
        parents.into_iter().find_map(|(parent, is_v2)| {
            let folder = parent.join(&name);
            fs::create_dir(&folder).ok()?;
            // From here on, dropping the value removes the group after a failure.
            let group = Self {
                folder,
                is_v2,
                is_ours: true,
            };
            let limit_file = group.limit_file();
            // `write` alone would create the file if the group does not have the controller.
            limit_file.exists().then_some(())?;
            fs::write(limit_file, limit.to_string()).ok()?;
            Some(group)
        })
    }

    /// The group of a process.
    #[allow(dead_code, reason = "only one of the two programs that include this file uses it")]
    pub fn of(process: u32) -> Option<Self> {
        let groups = folders(&process.to_string()).into_iter().map(|(folder, is_v2)| Self {
            folder,
            is_v2,
            is_ours: false,
        });
        groups.into_iter().find(|group| group.limit_file().exists())
    }

    fn limit_file(&self) -> PathBuf {
        self.folder.join(if self.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        })
    }

    pub fn describe(&self) -> &'static str {
        if self.is_v2 {
            "a control group (version 2)"
        } else {
            "a control group (version 1)"
        }
    }

    /// The file to which a process writes its id to join the group.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The bytes that count against the limit now: all of them, and those of cached files, which
    /// the system can drop.
    pub fn usage(&self) -> (f64, f64) {
        let name = if self.is_v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        let all = fs::read_to_string(self.folder.join(name)).expect("the group's usage");
        let stat = fs::read_to_string(self.folder.join("memory.stat")).expect("the group's numbers");
        let number = |name: &str| -> f64 {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0.0)
        };
        let files = number("inactive_file") + number("active_file");
        (all.trim().parse().expect("a number"), files)
    }

    /// The number of processes of the group that the system has killed for lack of memory.
    pub fn kills(&self) -> u64 {
        let name = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The members have ended, but the system may need a moment to notice.
        for _ in 0..if self.is_ours { 50 } else { 0 } {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The groups of a process that may limit its memory, each with a flag for version 2.
fn folders(process: &str) -> Vec<(PathBuf, bool)> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers
                .split(',')
                .any(|one| one == controller)
                .then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let v1 = path_of("memory").map(|path| (Path::new("/sys/fs/cgroup/memory").join(path), false));
    let v2 = path_of("").map(|path| (Path::new("/sys/fs/cgroup").join(path), true));
    v1.into_iter().chain(v2).collect()
}
