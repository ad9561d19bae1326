//! The sandbox of a child: it cannot reach other processes, the network, or files outside its own
//! folder, and cannot use more memory or disk than its job may.
//!
//! A model that exploits a bug in ONNX Runtime runs its own code in the child, as the server's
//! user. The kernel limits what that code can do. The limits are independent layers, so the others
//! still hold when a system lacks one:
//!
//! | layer | file | protects |
//! |---|---|---|
//! | no environment, no inherited descriptors | `process.rs` | credentials, the listening socket |
//! | processes that cannot be traced | [`hide`] | memory, environment and descriptors of supervisor and worker through `/proc` |
//! | namespaces | `namespaces.rs` | the network, shared memory of other processes |
//! | Landlock | `files.rs` | all files except those of a job and a few of the system, signals |
//! | no capabilities | [`close`] | what only root may do |
//! | a filter of system calls | `calls.rs` | tracing, signals, processes, programs, sockets, the rest of the kernel |
//! | limits that cannot be raised | [`limit_child`] | memory, disk |
//!
//! A child reports the layers that the system does not grant, and the server logs them once.

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

use crate::engine::memory;
use crate::engine::memory::allocator;

pub use files::{INPUT, OUTPUT};

/// Hides this process's memory, environment and descriptors from other processes of its user.
pub fn hide() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Applies the first layers, before ONNX Runtime is loaded and before the process has another
/// thread. Returns the layers that the system does not grant.
pub fn enter() -> io::Result<Vec<String>> {
    let parent = getppid();
    let mut lacking = Vec::new();
    // First, because it resets what follows.
    if let Err(error) = namespaces::enter() {
        lacking.push(format!("namespaces ({error})"));
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before this process asked for the signal.
    if getppid() != parent {
        return Err(io::Error::other("the server that started this process is gone"));
    }
    // A core dump would write memory of a stranger's model to the disk.
    limit(Resource::Core, 0)?;
    hide()?;
    // Models that are being served have priority.
    let _ = rustix::process::nice(10);
    Ok(lacking)
}

/// Applies the remaining layers, after ONNX Runtime is loaded, before any model is, and before the
/// process has another thread. Only the files in `folder` remain accessible. Returns the layers
/// that the system does not grant.
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
    // A change of capabilities resets both.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    hide()?;
    if let Err(error) = calls::close() {
        lacking.push(format!("a filter of system calls ({error})"));
    }
    Ok(lacking)
}

/// Limits the memory and the file size of all jobs of this child, before its first job. The limits
/// cannot be raised again.
pub fn limit_child(most: u64, weights: u64) -> io::Result<()> {
    let mapped = memory::mapped_data()?;
    let files = max_child_file(most, weights);
    // The mapped prepared form counts as data.
    lower(Resource::Data, mapped.saturating_add(most).saturating_add(files))?;
    lower(Resource::Fsize, files)
}

/// Limits a job to `memory_bytes` more than now, and to files of the size of a prepared model.
pub fn limit_job(memory_bytes: u64, weights: u64) -> io::Result<()> {
    allocator::prepare_for(memory_bytes);
    memory::limit_data(memory_bytes)?;
    limit(Resource::Fsize, max_job_file(weights))
}

/// A raised limit for mapped files. Lowered again on drop.
#[derive(Debug)]
pub struct AllowedMapping(u64);

/// Raises the limit for files of `bytes` bytes before they are mapped, because they count as data.
/// If that fails, the model has less memory.
#[must_use]
pub fn allow_mapping(bytes: u64) -> AllowedMapping {
    change_data_limit(|bound| bound.saturating_add(bytes));
    AllowedMapping(bytes)
}

impl Drop for AllowedMapping {
    fn drop(&mut self) {
        change_data_limit(|bound| bound.saturating_sub(self.0));
    }
}

fn change_data_limit(change: impl FnOnce(u64) -> u64) {
    if let Some(bound) = getrlimit(Resource::Data).current {
        let _ = limit(Resource::Data, change(bound));
    }
}

/// Size of the largest file that a job with `weights` bytes of weights needs.
pub fn max_job_file(weights: u64) -> u64 {
    const SMALL_FILE: u64 = 64 << 20;
    weights.saturating_mul(2).saturating_add(SMALL_FILE)
}

/// Size of the largest file of any job of a child, by the memory limit and the weights of its first
/// job. Generous, so that later jobs fit, too.
pub fn max_child_file(most: u64, weights: u64) -> u64 {
    max_job_file(weights).max(most)
}

/// Sets the soft limit and leaves the hard limit.
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

/// Lowers the hard limit.
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
