//! The limits of a child: it cannot reach other processes, the network, or files beside its own folder, and it cannot take
//! more memory or disk than a job has.
//!
//! A model that finds a hole in ONNX Runtime runs its own code in the child, as the server's user. What it can do then is
//! bounded by the kernel, in layers, so that one that a system lacks leaves the others:
//!
//! | layer | file | closes |
//! |---|---|---|
//! | no environment, no inherited descriptors | `process.rs` | credentials, the listening socket |
//! | processes that cannot be traced | [`hide`] | memory, environment and descriptors of supervisor and worker through `/proc` |
//! | namespaces | `namespaces.rs` | the network, shared memory of other processes |
//! | Landlock | `files.rs` | all files but those of a job and a few of the system, signals |
//! | no capabilities | [`close`] | what only root may do |
//! | a filter of system calls | `calls.rs` | tracing, signals, processes, programs, sockets, the rest of the kernel |
//! | limits that cannot be raised | [`cap`] | memory, disk |
//!
//! A child says which of them the system does not grant, and the server logs it once.

mod calls;
mod files;
mod namespaces;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getppid, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use crate::engine::{allocator, memory};

pub use files::{INPUT, OUTPUT};

/// Makes this process's memory, environment and descriptors unreachable for other processes of its user.
pub fn hide() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Before ONNX Runtime is loaded, with no other thread in the process. Returns what the system does not grant.
pub fn enter() -> io::Result<Vec<String>> {
    let parent = getppid();
    let mut lacking = Vec::new();
    // First: it takes back what follows.
    if let Err(error) = namespaces::enter() {
        lacking.push(format!("namespaces ({error})"));
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Gone before its death could be asked for.
    if getppid() != parent {
        return Err(io::Error::other("the server that started this process is gone"));
    }
    // Memory of a stranger's model is not to be left on the disk.
    limit(Resource::Core, 0)?;
    hide()?;
    // Models that are served go first.
    let _ = rustix::process::nice(10);
    Ok(lacking)
}

/// After ONNX Runtime is loaded, before any model is, with no other thread in the process: leaves the files in `folder`, and
/// nothing else. Returns what the system does not grant.
pub fn close(folder: &Path) -> io::Result<Vec<String>> {
    let mut lacking = Vec::new();
    set_no_new_privs(true)?;
    if let Err(lack) = files::close(folder) {
        lacking.push(lack);
    }
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    if let Err(error) = set_capabilities(None, nothing) {
        lacking.push(format!("giving up root's capabilities ({error})"));
    }
    // A change of capabilities takes both back.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    hide()?;
    if let Err(error) = calls::close() {
        lacking.push(format!("a filter of system calls ({error})"));
    }
    Ok(lacking)
}

/// Before the first job: the most that any job of this child may take, of memory and of a file. It cannot be raised again.
pub fn cap(most: u64, weights: u64) -> io::Result<()> {
    let mapped = memory::mapped_data()?;
    let files = file_cap(most, weights);
    // The prepared form, which is mapped, counts as data.
    lower(Resource::Data, mapped.saturating_add(most).saturating_add(files))?;
    lower(Resource::Fsize, files)
}

/// Before each job: so many bytes of memory more than now, and files of a size that a prepared model can have.
pub fn bound(memory_bytes: u64, weights: u64) -> io::Result<()> {
    allocator::prepare_for(memory_bytes);
    memory::bound_data(memory_bytes)?;
    limit(Resource::Fsize, file_bound(weights))
}

/// Before a file of so many bytes is mapped, which counts as data.
pub fn allow_mapping(bytes: u64) -> io::Result<()> {
    match getrlimit(Resource::Data).current {
        Some(bound) => limit(Resource::Data, bound.saturating_add(bytes)),
        None => Ok(()),
    }
}

/// The largest file that a job with so many bytes of weights has a use for.
pub fn file_bound(weights: u64) -> u64 {
    const SMALL_FILE: u64 = 64 << 20;
    weights.saturating_mul(2).saturating_add(SMALL_FILE)
}

/// The largest file of any job of a child whose first one has so many bytes of weights and may take so many of memory.
/// Generous, so that the jobs after it fit, too.
pub fn file_cap(most: u64, weights: u64) -> u64 {
    file_bound(weights).max(most)
}

/// Sets the limit that counts, and leaves the one up to which it may be raised.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let current = getrlimit(resource);
    setrlimit(
        resource,
        Rlimit {
            current: Some(current.maximum.map_or(value, |maximum| maximum.min(value))),
            ..current
        },
    )?;
    Ok(())
}

/// Lowers the limit up to which a limit may be raised.
fn lower(resource: Resource, value: u64) -> io::Result<()> {
    let before = getrlimit(resource);
    let maximum = before.maximum.map_or(value, |maximum| maximum.min(value));
    let current = before.current.map_or(maximum, |current| current.min(maximum));
    setrlimit(
        resource,
        Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        },
    )?;
    Ok(())
}
