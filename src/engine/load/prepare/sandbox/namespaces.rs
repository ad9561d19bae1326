//! Gives a child its own empty namespaces of the network and of shared memory.
//!
//! A user namespace comes first, because it lets an unprivileged process create the others. Process
//! ids stay the system's: a namespace of them would apply only to children of this process, and it
//! starts none. Other layers make the ids of other processes useless.

use std::io;

use rustix::thread::UnshareFlags;

/// Leaves the system's namespaces. Some systems allow that only to root, and some never.
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
    // SAFETY: the call is unsafe because of `CLONE_FILES`, with which descriptors refer to
    // different files in different threads. The flags do not include it.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}
