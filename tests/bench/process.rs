//! Reads the resource use of a server's process tree from `/proc`.

use std::fs;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

/// The resource use of processes at one moment. Pages that they share count once in `pss` and
/// several times in `file`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Bytes of anonymous memory.
    pub anon: f64,
    /// Resident bytes of mapped files.
    pub file: f64,
    /// Resident bytes; shared ones are divided by the number of processes that share them.
    pub pss: f64,
    pub threads: f64,
    pub descriptors: f64,
    pub maps: f64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            anon: self.anon - other.anon,
            file: self.file - other.file,
            pss: self.pss - other.pss,
            threads: self.threads - other.threads,
            descriptors: self.descriptors - other.descriptors,
            maps: self.maps - other.maps,
        }
    }
}

/// `root` and the processes below it.
pub fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("read /proc")
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            Some((pid, field(&status, "PPid:")? as u32))
        })
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    tree
}

/// The resource use of `root` and the processes below it. A process that ends meanwhile counts as
/// zero.
pub fn usage(root: u32) -> Usage {
    let mut usage = Usage::default();
    for pid in tree(root) {
        let folder = Path::new("/proc").join(pid.to_string());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let status = read("status");
        usage.anon += field(&status, "RssAnon:").unwrap_or(0.0) * 1024.0;
        usage.file += field(&status, "RssFile:").unwrap_or(0.0) * 1024.0;
        usage.threads += field(&status, "Threads:").unwrap_or(0.0);
        usage.pss += field(&read("smaps_rollup"), "Pss:").unwrap_or(0.0) * 1024.0;
        usage.maps += read("maps").lines().count() as f64;
        usage.descriptors += fs::read_dir(folder.join("fd")).map_or(0.0, |fds| fds.count() as f64);
    }
    usage
}

/// The CPU time of all threads of `processes`: the sum of their schedstats.
pub fn cpu(processes: &[u32]) -> Duration {
    let tasks = processes
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flat_map(Iterator::flatten);
    tasks.filter_map(|task| schedstat(&task.path())).sum()
}

/// Finds the thread with this name, in any process of the tree of `root`, that currently uses the
/// most CPU time.
pub fn busiest_thread(root: u32, name: &str) -> u32 {
    const LOOK: Duration = Duration::from_millis(50);
    let look = || -> Vec<(u32, Duration)> {
        let tasks = tree(root)
            .into_iter()
            .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
            .flat_map(Iterator::flatten);
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
            .filter_map(|task| Some((task.file_name().to_str()?.parse().ok()?, schedstat(&task.path())?)))
            .collect()
    };
    let before = look();
    std::thread::sleep(LOOK);
    let used = look().into_iter().filter_map(|(thread, now)| {
        let (_, then) = before.iter().find(|(known, _)| *known == thread)?;
        Some((thread, now - *then))
    });
    used.max_by_key(|(_, used)| *used).expect("a thread").0
}

/// The CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    schedstat(Path::new("/proc/thread-self")).expect("read schedstat")
}

/// The first field of a schedstat: the CPU time, in nanoseconds.
fn schedstat(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// The number after `name` in a file with one such line per field.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
