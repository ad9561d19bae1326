//! The files of a child, bounded by Landlock: its own folder, and the few of the system that ONNX Runtime reads.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// In a child's folder: the job's files, which are read.
pub const INPUT: &str = "in";

/// In a child's folder: what it writes.
pub const OUTPUT: &str = "out";

/// The newest version of the kernel's interface whose rights are known here. Older kernels bound what they can.
const KNOWN: ABI = ABI::V6;

/// What ONNX Runtime and the C library read besides: numbers of processors and caches, locales of operators on text.
const SYSTEM: [&str; 6] = [
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/usr/lib/locale",
    "/usr/share/locale",
    "/usr/share/i18n",
];

/// Bounds this thread, and those that it starts, to the files in `folder`. Says what the system lacks.
pub fn close(folder: &Path) -> Result<(), String> {
    match restrict(folder) {
        Ok(RulesetStatus::FullyEnforced) => Ok(()),
        Ok(RulesetStatus::PartiallyEnforced) => Err("a part of Landlock (a newer kernel has it)".to_owned()),
        Ok(RulesetStatus::NotEnforced) => Err("Landlock (kernel 5.13 or newer has it, when it is enabled)".to_owned()),
        Err(error) => Err(format!("Landlock ({error})")),
    }
}

fn restrict(folder: &Path) -> Result<RulesetStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let own = PathBuf::from("/proc/self");
    // The kernel knows a rule's folder by its inode, and this one has it only as long as it is open.
    let held = File::open(&own);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules([folder.join(INPUT)], read))?
        .add_rules(path_beneath_rules([folder.join(OUTPUT)], write))?
        .add_rules(path_beneath_rules([own], read))?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(locales(), read))?
        .restrict_self()?;
    std::mem::forget(held);
    Ok(status.ruleset)
}

/// Folders of locales that the environment names.
fn locales() -> Vec<PathBuf> {
    env::var_os("LOCPATH").map_or_else(Vec::new, |paths| env::split_paths(&paths).collect())
}
