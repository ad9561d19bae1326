//! A network, and shared memory, of the child's own: there is nothing in either.
//!
//! A user namespace comes first, which is what lets a process without privileges have the others. Process ids stay the
//! system's: only a child of this process could have others, and it starts none. What ids are good for is closed elsewhere.

use std::io;

use rustix::thread::UnshareFlags;

/// Leaves the system's namespaces. Some systems allow that to nobody but root, and some to nobody.
pub fn enter() -> io::Result<()> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    unshare(flags)
}

#[expect(unsafe_code, reason = "a call that is unsafe for other flags")]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: it is unsafe because of `CLONE_FILES`, which makes descriptors mean different files in different threads. It
    // is not among the flags.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}
