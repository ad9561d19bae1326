//! The memory limit of this process and its current usage, from control groups (v1 and v2), the
//! machine, and the processes of this program.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getppid, getrlimit, setrlimit};

/// A configured memory limit, and where to read how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub usage: MemoryUsage,
}

/// A source for the memory in use. Memory that the system can reclaim at once (clean pages
/// of files) never counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryUsage {
    /// All processes of a version 1 control group; the folder of its memory controller.
    Group1(PathBuf),
    /// All processes of a version 2 control group; its folder.
    Group2(PathBuf),
    /// This process, its supervisor, and the children that prepare models for it.
    Processes,
    /// Like [`MemoryUsage::Processes`], and all other processes of the machine.
    Machine,
}

/// Finds the tightest of the machine's memory and the limits of this process's control groups (v1
/// and v2, with all parents). `None` when the system does not report any.
pub fn system_limit() -> Option<MemoryLimit> {
    let root = Path::new("/");
    let machine = machine_memory(root, "MemTotal:").map(|bytes| MemoryLimit {
        bytes,
        usage: MemoryUsage::Machine,
    });
    [control_group_limit(root), machine]
        .into_iter()
        .flatten()
        .min_by_key(|limit| limit.bytes)
}

impl MemoryUsage {
    /// Reads the bytes in use; `None` when the system does not report them.
    pub fn now(&self) -> Option<u64> {
        match self {
            Self::Group1(folder) => {
                let used = number(&folder.join("memory.usage_in_bytes"))?;
                Some(used.saturating_sub(files(folder, "total_active_file", "total_inactive_file")?))
            }
            Self::Group2(folder) => {
                let used = number(&folder.join("memory.current"))?;
                Some(used.saturating_sub(files(folder, "active_file", "inactive_file")?))
            }
            Self::Processes => own_processes(Path::new("/proc")),
            Self::Machine => {
                let root = Path::new("/");
                let total = machine_memory(root, "MemTotal:")?;
                let taken = total.saturating_sub(machine_memory(root, "MemAvailable:")?);
                Some(taken.max(own_processes(Path::new("/proc"))?))
            }
        }
    }
}

/// File pages of a control group, in bytes.
fn files(folder: &Path, active: &str, inactive: &str) -> Option<u64> {
    let statistics = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let value = |key: &str| {
        statistics
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
    };
    Some(value(active)? + value(inactive)?)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Private bytes of this process, its children, and its parent if that has the same name (the
/// supervisor).
fn own_processes(proc: &Path) -> Option<u64> {
    let own = proc.join("self");
    let mut total = private_memory(&own)?;
    let parent = getppid().map(|parent| proc.join(parent.as_raw_nonzero().to_string()));
    // Compare names, not executables: a non-dumpable process hides its executable from others.
    let name = |process: &Path| fs::read_to_string(process.join("comm")).ok();
    if let Some(parent) = parent
        && name(&parent).is_some_and(|parent| Some(parent) == name(&own))
    {
        total += private_memory(&parent).unwrap_or(0);
    }
    for thread in fs::read_dir(own.join("task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            total += private_memory(&proc.join(child)).unwrap_or(0);
        }
    }
    Some(total)
}

fn private_memory(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let shared = kilobytes(&status, "RssShmem:").unwrap_or(0);
    Some(kilobytes(&status, "RssAnon:")? + shared)
}

/// Private bytes of a process; 0 when the system does not report them.
pub fn private_memory_of(process: u32) -> u64 {
    private_memory(&Path::new("/proc").join(process.to_string())).unwrap_or(0)
}

/// Resident anonymous memory of this process, in bytes; 0 when the system does not report it.
pub fn resident_anonymous() -> u64 {
    private_memory(Path::new("/proc/self")).unwrap_or(0)
}

fn machine_memory(root: &Path, key: &str) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    kilobytes(&meminfo, key)
}

pub(super) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// Finds the tightest limit of the control groups in `/proc/self/cgroup` and their parents.
///
/// Inside a container, the paths may be the host's while the mount shows only the container's own
/// group, so the search always includes the root of the mount.
fn control_group_limit(root: &Path) -> Option<MemoryLimit> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = root.join("sys/fs/cgroup");
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let (mount, file, usage): (PathBuf, _, fn(PathBuf) -> MemoryUsage) = if controllers.is_empty() {
                (mounts.clone(), "memory.max", MemoryUsage::Group2)
            } else if controllers.split(',').any(|controller| controller == "memory") {
                (mounts.join("memory"), "memory.limit_in_bytes", MemoryUsage::Group1)
            } else {
                return None;
            };
            Path::new(path.trim_start_matches('/'))
                .ancestors()
                .filter_map(|group| {
                    let folder = mount.join(group);
                    // Version 2 writes "max"; version 1 writes a number near 2^63 for "no limit".
                    let bytes = number(&folder.join(file)).filter(|&limit| limit < 1 << 62)?;
                    Some(MemoryLimit {
                        bytes,
                        usage: usage(folder),
                    })
                })
                .min_by_key(|limit| limit.bytes)
        })
        .min_by_key(|limit| limit.bytes)
}

/// Raises the soft limit of open files to the hard limit and returns it; `None` means unlimited.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // Some systems refuse their own hard limit; the soft limit still holds.
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths below a test root, with the contents of the files.
    type Files<'a> = &'a [(&'a str, &'a str)];

    fn system(files: Files<'_>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_control_group_of_all_parents_is_the_limit() {
        let version_1 = "12:cpu:/\n4:memory:/docker/abc\n0::/\n";
        type Case<'a> = (&'a str, Files<'a>, Option<(u64, &'a str)>);
        let table: [Case<'_>; 6] = [
            (
                "v2",
                &[
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "134217728\n"),
                ],
                Some((134_217_728, "")),
            ),
            (
                "v2 without a limit",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")],
                None,
            ),
            (
                "v2, the parent is tighter",
                &[
                    ("proc/self/cgroup", "0::/pod/ctr\n"),
                    ("sys/fs/cgroup/pod/ctr/memory.max", "500\n"),
                    ("sys/fs/cgroup/pod/memory.max", "400\n"),
                ],
                Some((400, "pod")),
            ),
            (
                "v1, the path is the host's",
                &[
                    ("proc/self/cgroup", version_1),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
                ],
                Some((268_435_456, "memory")),
            ),
            (
                "v1 without a limit",
                &[
                    ("proc/self/cgroup", version_1),
                    (
                        "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
                        "9223372036854771712\n",
                    ),
                ],
                None,
            ),
            ("no control groups", &[], None),
        ];
        for (name, files, limit) in table {
            let root = system(files);
            let found = control_group_limit(root.path()).map(|found| match found.usage {
                MemoryUsage::Group1(folder) | MemoryUsage::Group2(folder) => (
                    found.bytes,
                    folder
                        .strip_prefix(root.path().join("sys/fs/cgroup"))
                        .unwrap()
                        .to_owned(),
                ),
                MemoryUsage::Processes | MemoryUsage::Machine => panic!("{name}"),
            });
            assert_eq!(
                found,
                limit.map(|(bytes, group)| (bytes, PathBuf::from(group))),
                "{name}"
            );
        }
    }

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        let root = system(&[("proc/meminfo", "MemTotal:       24678912 kB\nMemFree:  1 kB\n")]);
        assert_eq!(machine_memory(root.path(), "MemTotal:"), Some(24_678_912 * 1024));
    }

    #[test]
    fn file_pages_do_not_count_as_used() {
        let version_1 = system(&[
            ("memory.usage_in_bytes", "1000\n"),
            (
                "memory.stat",
                "cache 500\ntotal_inactive_file 300\ntotal_active_file 100\n",
            ),
        ]);
        assert_eq!(MemoryUsage::Group1(version_1.path().to_owned()).now(), Some(600));
        let version_2 = system(&[
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 1\nfile 450\ninactive_file 300\nactive_file 100\n"),
        ]);
        assert_eq!(MemoryUsage::Group2(version_2.path().to_owned()).now(), Some(600));
        assert_eq!(MemoryUsage::Group2(version_1.path().to_owned()).now(), None);
    }

    #[test]
    fn the_usage_of_the_process_and_of_the_machine_is_positive() {
        let own = MemoryUsage::Processes.now().unwrap();
        assert!(own > 0);
        assert!(MemoryUsage::Machine.now().unwrap() >= own / 2);
    }
}
