//! A memory control group for a server, where this program may make one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A group with a memory limit; removed with the value.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// `None` when the system does not let us.
    pub fn new(limit: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_of = |controller: &str| {
            own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers
                    .split(',')
                    .any(|one| one == controller)
                    .then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let name = format!("longshore-bench-{}", std::process::id());
        let v1 = path_of("memory").map(|own| (Path::new("/sys/fs/cgroup/memory").join(own), false));
        // Below version 2 a group with processes has no groups below it, so the root is tried too.
        let v2 = path_of("").map(|own| (Path::new("/sys/fs/cgroup").join(own), true));
        let root = (PathBuf::from("/sys/fs/cgroup"), true);
        v1.into_iter().chain(v2).chain([root]).find_map(|(parent, is_v2)| {
            let folder = parent.join(&name);
            fs::create_dir(&folder).ok()?;
            // From here on it is removed again when anything fails.
            let group = Self { folder, is_v2 };
            let limit_file = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
            // Not `write`, which would make the file where the group has no such controller.
            group.folder.join(limit_file).exists().then_some(())?;
            fs::write(group.folder.join(limit_file), limit.to_string()).ok()?;
            Some(group)
        })
    }

    pub fn describe(&self) -> &'static str {
        if self.is_v2 {
            "a control group (version 2)"
        } else {
            "a control group (version 1)"
        }
    }

    /// The file that processes join by writing their id.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Bytes that count against the limit now: all, and those of files that the system can drop.
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

    /// How often the system had to end a process of the group.
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
        // The members have ended, but the system may take a moment to notice.
        for _ in 0..50 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
