//! The memory budget: a ledger of reservations in bytes, so that "no room" is known before memory is touched.
//!
//! Asking the kernel how much is free answers too late and for everybody at once: two loads that each fit would both
//! pass and together be killed. So every model holds a [`Reservation`], made before its session is and corrected to
//! what that really took; what the reservation paid for and the reservation itself are dropped together. What always
//! holds: admitted reservations were within the limit when they were admitted, and a reservation that is refused
//! leaves nothing behind (MM-18).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Refused: the model would not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} bytes are needed and {available} of {limit} are free; unload a model and try again, or raise \
     --memory-limit"
)]
pub struct NoRoom {
    pub needed: u64,
    pub available: u64,
    pub limit: u64,
}

/// The ledger. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Debug)]
struct Ledger {
    limit: u64,
    reserved: u64,
}

impl Budget {
    /// A budget of `limit` bytes with nothing reserved.
    pub fn new(limit: u64) -> Self {
        Self {
            ledger: Arc::new(Mutex::new(Ledger { limit, reserved: 0 })),
        }
    }

    /// Reserves `bytes`, or says why not.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, NoRoom> {
        let mut ledger = self.ledger();
        let available = ledger.limit.saturating_sub(ledger.reserved);
        if bytes > available {
            return Err(NoRoom {
                needed: bytes,
                available,
                limit: ledger.limit,
            });
        }
        ledger.reserved += bytes;
        drop(ledger);
        Ok(Reservation {
            budget: self.clone(),
            bytes,
        })
    }

    pub fn limit(&self) -> u64 {
        self.ledger().limit
    }

    pub fn reserved(&self) -> u64 {
        self.ledger().reserved
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while the ledger is locked, and every state of it is a valid one.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that somebody may use; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces an estimate by what was measured. When that is more than there is room for, the reservation tells the
    /// truth all the same, for as long as it is held, and the caller is told to give up what it paid for.
    pub fn correct(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let mut ledger = self.budget.ledger();
        let others = ledger.reserved - self.bytes;
        ledger.reserved = others + bytes;
        let limit = ledger.limit;
        drop(ledger);
        self.bytes = bytes;
        let available = limit.saturating_sub(others);
        if bytes > available {
            return Err(NoRoom {
                needed: bytes,
                available,
                limit,
            });
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.ledger().reserved -= self.bytes;
    }
}

/// What the process may use in all, in bytes: the smaller of the machine's memory and the limits of the control groups
/// that it is in (v1 and v2, the whole way up). `None` when the system does not say.
pub fn system_limit() -> Option<u64> {
    let root = Path::new("/");
    [machine_memory(root), control_group_limit(root)]
        .into_iter()
        .flatten()
        .min()
}

fn machine_memory(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    status_kilobytes(&meminfo, "MemTotal:")
}

/// Anonymous memory of this process that is resident now, in bytes; 0 when the system does not say.
pub fn resident_anonymous() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| status_kilobytes(&status, "RssAnon:"))
        .unwrap_or(0)
}

fn status_kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The tightest limit of the control groups named in `/proc/self/cgroup`, and of the groups above them.
///
/// Inside a container the paths there may be the host's while the mount shows only the container's own group, so the
/// mount's root is looked at in any case.
fn control_group_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = root.join("sys/fs/cgroup");
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let (mount, file): (PathBuf, _) = if controllers.is_empty() {
                (mounts.clone(), "memory.max")
            } else if controllers.split(',').any(|controller| controller == "memory") {
                (mounts.join("memory"), "memory.limit_in_bytes")
            } else {
                return None;
            };
            Path::new(path.trim_start_matches('/'))
                .ancestors()
                .filter_map(|group| {
                    let limit = fs::read_to_string(mount.join(group).join(file)).ok()?;
                    // "max" (v2) is no number; v1's "no limit" is one near 2^63.
                    limit.trim().parse::<u64>().ok().filter(|&limit| limit < 1 << 62)
                })
                .min()
        })
        .min()
}

/// Makes the system refuse memory to this process beyond `limit` bytes, so that an allocation fails where it is made.
///
/// The ledger knows what models take, not what a request may make ONNX Runtime allocate: a shape can be an input, and
/// the allocator is given any address space it asks for, 17 TB if need be, which then fills up until the kernel kills
/// the process. With a bound on its data (`RLIMIT_DATA`: private writable mappings) the allocation fails, and that
/// request alone is refused. Address space is more than what is in use (stacks, pages given back, fragments), hence an
/// allowance above the limit.
pub fn enforce(limit: u64) -> io::Result<()> {
    const ALLOWANCE: u64 = 64 << 20;
    let status = fs::read_to_string("/proc/self/status")?;
    let mapped = status_kilobytes(&status, "VmData:").unwrap_or(0);
    let unused = limit.saturating_sub(resident_anonymous());
    let bound = mapped
        .saturating_add(unused)
        .saturating_add(limit / 8)
        .saturating_add(ALLOWANCE);
    let before = getrlimit(Resource::Data);
    let current = before.current.map_or(bound, |before| before.min(bound));
    setrlimit(
        Resource::Data,
        Rlimit {
            current: Some(current),
            ..before
        },
    )?;
    Ok(())
}

/// Raises the limit of open files as far as this process may, and returns it; `None` means that there is none.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // Some systems refuse what they state; what was granted at the start does, too.
        Err(_) => limit.current,
    }
}

/// What a session is expected to take, before anything is known but its file.
///
/// The factors are measured with ONNX Runtime 1.31 over models from 27 KB to 100 MB: a loaded session takes 1.05 times
/// its weights and 100 KB, tree ensembles 5.3 times their file; while it is loaded from ONNX, up to three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes to reserve while the session is created.
    pub peak: u64,
}

/// What a session that allocated `bytes` takes of the process's memory: an eighth more, because pages are shared by
/// blocks of one size only. Measured over a hundred models of 20 KB: 18.4 MB for 15.9 MB allocated.
pub fn footprint(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8)
}

impl Estimate {
    const FIXED: u64 = 100 << 10;

    /// From the bytes of weights on disk (the model file and its external data).
    pub fn of(weights: u64, has_trees: bool) -> Self {
        let factor_percent: u64 = if has_trees { 530 } else { 300 };
        Self {
            peak: (weights / 100)
                .saturating_mul(factor_percent)
                .saturating_add(Self::FIXED),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reservation_is_given_back_when_it_is_dropped() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).unwrap();
        assert_eq!(
            budget.reserve(41).unwrap_err(),
            NoRoom {
                needed: 41,
                available: 40,
                limit: 100
            }
        );
        drop(first);
        assert_eq!(budget.reserved(), 0);
        assert_eq!(budget.reserve(100).unwrap().bytes(), 100);
    }

    #[test]
    fn a_correction_above_the_limit_is_an_error_and_refuses_the_next_reservation() {
        let budget = Budget::new(100);
        let mut reservation = budget.reserve(50).unwrap();
        assert_eq!(
            reservation.correct(120),
            Err(NoRoom {
                needed: 120,
                available: 100,
                limit: 100
            })
        );
        assert_eq!(budget.reserve(1).unwrap_err().available, 0);
        reservation.correct(20).unwrap();
        assert!(budget.reserve(80).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve(u64),
        Correct(usize, u64),
        Drop(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..400).prop_map(Step::Reserve),
            (any::<usize>(), 0u64..400).prop_map(|(which, bytes)| Step::Correct(which, bytes)),
            any::<usize>().prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn the_ledger_equals_the_sum_of_what_is_held(steps in proptest::collection::vec(step(), 0..60)) {
            let budget = Budget::new(1000);
            let mut held: Vec<Reservation> = Vec::new();
            for step in steps {
                let before = budget.reserved();
                match step {
                    Step::Reserve(bytes) => match budget.reserve(bytes) {
                        Ok(reservation) => held.push(reservation),
                        Err(refused) => {
                            prop_assert!(before + bytes > 1000);
                            prop_assert_eq!(refused.available, 1000u64.saturating_sub(before));
                        }
                    },
                    Step::Correct(which, bytes) if !held.is_empty() => {
                        let which = which % held.len();
                        let others = before - held[which].bytes();
                        prop_assert_eq!(held[which].correct(bytes).is_ok(), others + bytes <= 1000);
                    }
                    Step::Drop(which) if !held.is_empty() => {
                        held.swap_remove(which % held.len());
                    }
                    Step::Correct(..) | Step::Drop(_) => {}
                }
                prop_assert_eq!(budget.reserved(), held.iter().map(Reservation::bytes).sum::<u64>());
            }
        }
    }

    /// Paths below a made-up `/` and what the files hold.
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
    fn the_tightest_control_group_on_the_way_up_is_the_limit() {
        let version_1 = "12:cpu:/\n4:memory:/docker/abc\n0::/\n";
        let table: [(&str, Files<'_>, Option<u64>); 6] = [
            (
                "v2",
                &[
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "134217728\n"),
                ],
                Some(134_217_728),
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
                Some(400),
            ),
            (
                "v1, the path is the host's",
                &[
                    ("proc/self/cgroup", version_1),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
                ],
                Some(268_435_456),
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
            assert_eq!(control_group_limit(system(files).path()), limit, "{name}");
        }
    }

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        let root = system(&[("proc/meminfo", "MemTotal:       24678912 kB\nMemFree:  1 kB\n")]);
        assert_eq!(machine_memory(root.path()), Some(24_678_912 * 1024));
    }

    #[test]
    fn an_estimate_grows_with_the_weights_and_with_trees() {
        assert_eq!(Estimate::of(0, false).peak, 100 << 10);
        assert_eq!(Estimate::of(1_000_000, false).peak, 3_000_000 + (100 << 10));
        assert_eq!(Estimate::of(1_000_000, true).peak, 5_300_000 + (100 << 10));
        assert!(Estimate::of(u64::MAX, true).peak > u64::MAX / 2);
    }
}
