//! Facts about a process, read from `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// Resident bytes of anonymous memory, which an unload must reduce (MM-4).
    pub fn anonymous_memory(self) -> u64 {
        self.anonymous_memory_if_alive().unwrap()
    }

    /// Like [`Self::anonymous_memory`], for a process that may end at any time.
    pub fn anonymous_memory_if_alive(self) -> Option<u64> {
        let status = fs::read_to_string(self.file("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024)
    }

    /// Number of the process's threads, without jemalloc's purging threads, whose number varies.
    pub fn threads(self) -> usize {
        let threads = fs::read_dir(self.file("task")).unwrap().flatten();
        let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|name| !name.starts_with("jemalloc")).count()
    }

    /// The soft limit `name`, as text from `/proc/<pid>/limits`.
    pub fn soft_limit(self, name: &str) -> String {
        let limits = fs::read_to_string(self.file("limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    }

    /// Number of open sockets.
    pub fn sockets(self) -> usize {
        let files = fs::read_dir(self.file("fd")).unwrap().flatten();
        let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// User and system time used so far, in clock ticks (a hundredth of a second on Linux).
    pub fn cpu_ticks(self) -> u64 {
        ticks_of(&self.file("stat")).unwrap()
    }

    /// Whether the process maps files below `folder`.
    pub fn maps_files_below(self, folder: &Path) -> bool {
        let maps = fs::read_to_string(self.file("maps")).unwrap();
        maps.contains(&folder.display().to_string())
    }

    /// The child processes that prepare models.
    pub fn preparing(self) -> Vec<Self> {
        let is_one = |child: &Self| {
            let words = fs::read(child.file("cmdline")).unwrap_or_default();
            words.split(|&byte| byte == 0).nth(1) == Some(b"prepare")
        };
        self.children().into_iter().filter(is_one).collect()
    }

    /// The environment, each variable as `name=value`.
    pub fn environment(self) -> Vec<String> {
        let text = fs::read(self.file("environ")).unwrap();
        let variables = text.split(|&byte| byte == 0).filter(|variable| !variable.is_empty());
        variables
            .map(|variable| String::from_utf8_lossy(variable).into_owned())
            .collect()
    }

    /// The targets of the open file descriptors.
    pub fn descriptors(self) -> Vec<String> {
        let descriptors = fs::read_dir(self.file("fd")).unwrap().flatten();
        let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.map(|target| target.to_string_lossy().into_owned()).collect()
    }

    /// Whether the kernel hides this process, which is not root's, from other processes of the
    /// same user: its files below `/proc` then belong to root.
    pub fn is_hidden(self) -> bool {
        fs::metadata(self.file("environ")).is_ok_and(|metadata| metadata.uid() == 0)
    }

    /// Whether the process has files below `folder` open.
    pub fn opens_files_below(self, folder: &Path) -> bool {
        let descriptors = fs::read_dir(self.file("fd")).unwrap().flatten();
        let mut files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        files.any(|file| file.starts_with(folder))
    }

    pub fn signal(self, signal: Signal) {
        // The process may have ended already.
        let _ = kill_process(Pid::from_raw(self.0.try_into().unwrap()).unwrap(), signal);
    }

    /// The thread of this name that is computing, as a target of signals: the thread handles a
    /// signal that is sent to it.
    #[track_caller]
    pub fn busiest_thread(self, name: &str) -> Self {
        /// More than a thread uses that only wakes up now and then.
        const TICKS: u64 = 3;
        let threads = || -> Vec<(Self, u64)> {
            let threads = fs::read_dir(self.file("task")).unwrap().flatten();
            let threads = threads.filter_map(|thread| Some(Self(thread.file_name().to_str()?.parse().ok()?)));
            threads
                .filter(|thread| thread.is(name))
                .map(|thread| {
                    // `/proc/<tid>/stat` would count the time of all threads.
                    let stat = self.file(&format!("task/{}/stat", thread.0));
                    (thread, ticks_of(&stat).unwrap_or_default())
                })
                .collect()
        };
        let before = threads();
        let mut found = None;
        eventually("a thread is computing", || {
            found = threads().into_iter().find_map(|(thread, ticks)| {
                let (_, then) = before.iter().find(|(known, _)| *known == thread)?;
                (ticks >= then + TICKS).then_some(thread)
            });
            found.is_some()
        });
        found.unwrap()
    }

    /// Stops the process and waits until all its threads have stopped: until then, one of them may
    /// still accept a connection or send a response.
    #[track_caller]
    pub fn pause(self) {
        self.signal(Signal::STOP);
        eventually("the process is stopped", || self.is_stopped());
    }

    /// Whether a signal has stopped all threads of the process.
    fn is_stopped(self) -> bool {
        let threads = fs::read_dir(self.file("task")).into_iter().flatten().flatten();
        let states = threads.map(|thread| fs::read_to_string(thread.path().join("status")).unwrap_or_default());
        let mut stopped = states.map(|status| status.contains("State:\tT"));
        stopped.all(|is_stopped| is_stopped)
    }

    /// Whether the signal was sent to the process and is still pending.
    pub fn has_pending(self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        pending.is_some_and(|bits| bits >> (signal.as_raw() - 1) & 1 == 1)
    }

    /// The first process that runs `program`, among this one and its descendants.
    pub fn find(self, program: &str) -> Option<Self> {
        if self.is(program) {
            return Some(self);
        }
        self.children().into_iter().find_map(|child| child.find(program))
    }

    /// The child that runs `program`.
    pub fn child(self, program: &str) -> Option<Self> {
        self.children().into_iter().find(|child| child.is(program))
    }

    /// Whether the process exists and is not a zombie.
    pub fn is_alive(self) -> bool {
        let Ok(status) = fs::read_to_string(self.file("status")) else {
            return false;
        };
        let is_zombie = status
            .lines()
            .any(|line| line.starts_with("State:") && line.contains('Z'));
        // The first thread may end before others, which still keep the process's files open.
        let threads = fs::read_dir(self.file("task")).map_or(0, Iterator::count);
        !is_zombie || threads > 1
    }

    pub fn parent(self) -> Self {
        let status = fs::read_to_string(self.file("status")).unwrap();
        let id = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Self(id.trim().parse().unwrap())
    }

    pub fn children(self) -> Vec<Self> {
        let threads = fs::read_dir(self.file("task")).into_iter().flatten().flatten();
        let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let children = lists.flat_map(|list| list.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
        children.map(|child| Self(child.parse().unwrap())).collect()
    }

    fn is(self, program: &str) -> bool {
        fs::read_to_string(self.file("comm")).is_ok_and(|name| name.trim_end() == program)
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }
}

/// User and system time from a `stat` file; `None` if the process or thread has ended.
fn ticks_of(stat: &Path) -> Option<u64> {
    let stat = fs::read_to_string(stat).ok()?;
    // The command's name is in parentheses and may contain blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Some(fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum())
}
