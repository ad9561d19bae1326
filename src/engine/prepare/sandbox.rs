//! What a child may not do: outlive its parent, use the network, start programs, take more memory or disk than a job has.
//!
//! No container of files: a child reads what the server reads, and its parent has checked that all a model refers to
//! lies in its artifact.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};

use crate::engine::{allocator, memory};

/// Before ONNX Runtime is loaded.
pub fn enter() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Memory of a stranger's model is not to be left on the disk.
    limit(Resource::Core, 0)?;
    // Models that are served go first.
    let _ = rustix::process::nice(10);
    Ok(())
}

/// After ONNX Runtime is loaded, before any model is: no sockets, no programs, no other processes' memory.
///
/// A system that does not filter system calls (some sandboxes are ones themselves) leaves the other bounds.
pub fn close() -> io::Result<()> {
    let refused: BTreeMap<i64, Vec<SeccompRule>> = [
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        // It makes sockets, too.
        libc::SYS_io_uring_setup,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        architecture,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
    if let Err(error) = seccompiler::apply_filter(&program) {
        tracing::debug!(%error, "system calls are not filtered");
    }
    Ok(())
}

/// Before each job: so many bytes of memory more than now, and files of a size that a prepared model can have.
pub fn bound(memory_bytes: u64, weights: u64) -> io::Result<()> {
    const SMALL_FILE: u64 = 64 << 20;
    allocator::prepare_for(memory_bytes);
    memory::bound_data(memory_bytes)?;
    limit(Resource::Fsize, weights.saturating_mul(2).saturating_add(SMALL_FILE))
}

/// Before a file of so many bytes is mapped, which counts as data.
pub fn allow_mapping(bytes: u64) -> io::Result<()> {
    match getrlimit(Resource::Data).current {
        Some(bound) => limit(Resource::Data, bound.saturating_add(bytes)),
        None => Ok(()),
    }
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
