//! Ties a process to the one that started it: whatever ends the parent, SIGKILL included, the child gets a signal.
//!
//! The kernel does it for a process that has asked for it, and keeps to it when the process becomes another program. So what
//! is to be tied starts as a copy of ours, which asks and then becomes what it was started for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::config::DeathSignal;

/// The command of the process that becomes another.
pub const TETHER_COMMAND: &str = "tether";

/// The arguments with which this program becomes `command` in a process tied to this one.
pub(super) fn arguments<'a>(
    parting: DeathSignal,
    command: impl IntoIterator<Item = &'a OsStr>,
) -> impl Iterator<Item = OsString> {
    let parting = match parting {
        DeathSignal::Kill => "kill",
        DeathSignal::Term => "term",
    };
    let parent = std::process::id().to_string();
    let words = [TETHER_COMMAND, "--parent", &parent, "--parting", parting, "--"].map(OsString::from);
    let command: Vec<OsString> = command.into_iter().map(OsStr::to_owned).collect();
    words.into_iter().chain(command)
}

/// Ties this process to the one with the id `parent`, which has started it, and makes it `command`. Returns why it did not.
pub fn become_tied(parent: u32, parting: DeathSignal, command: &[OsString]) -> io::Error {
    let signal = match parting {
        DeathSignal::Kill => Signal::KILL,
        DeathSignal::Term => Signal::TERM,
    };
    if let Err(error) = set_parent_process_death_signal(Some(signal)) {
        return error.into();
    }
    // Gone before its death could be asked for.
    if parent_id() != parent {
        return io::Error::other("the process that started this one is gone");
    }
    match command.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec(),
        None => io::Error::other("there is no command"),
    }
}
