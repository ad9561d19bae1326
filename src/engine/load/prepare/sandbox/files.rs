//! The files that Landlock leaves to a child: its own folder, and a few of the system that ONNX
//! Runtime reads.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// Subfolder with the job's files, which are read-only.
pub const INPUT: &str = "in";

/// Subfolder for the files that a child writes.
pub const OUTPUT: &str = "out";

/// The newest version of the kernel interface that is known here. Older kernels enforce what they
/// can.
const KNOWN: ABI = ABI::V6;

/// Other paths that ONNX Runtime and the C library read: numbers of processors, caches, locales.
const SYSTEM: [&str; 6] = [
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/usr/lib/locale",
    "/usr/share/locale",
    "/usr/share/i18n",
];

/// Restricts this thread, and the threads that it starts, to the files in `folder`. The error names
/// what the system lacks.
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
    // The kernel identifies a rule's folder by its inode, and procfs keeps this inode only while it
    // is open.
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

/// Folders of locales from the environment.
fn locales() -> Vec<PathBuf> {
    env::var_os("LOCPATH").map_or_else(Vec::new, |paths| env::split_paths(&paths).collect())
}
