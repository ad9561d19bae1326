//! The parent-death signal: a child process gets a signal when its parent ends, even by SIGKILL.
//!
//! A process requests the signal from the kernel, and the request survives `exec`. So such a child
//! starts as this program, which requests the signal and then executes the intended program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::config::DeathSignal;

/// The subcommand that requests the signal and executes another program.
pub const TETHER_COMMAND: &str = "tether";

/// The arguments with which this program requests a parent-death signal and executes `command`.
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

/// Requests a signal for the death of the parent with the id `parent`, then executes `command`.
/// Returns only if that fails, with the reason.
pub fn run_with_parent_death_signal(parent: u32, parting: DeathSignal, command: &[OsString]) -> io::Error {
    let signal = match parting {
        DeathSignal::Kill => Signal::KILL,
        DeathSignal::Term => Signal::TERM,
    };
    if let Err(error) = set_parent_process_death_signal(Some(signal)) {
        return error.into();
    }
    // The parent ended before the request took effect.
    if parent_id() != parent {
        return io::Error::other("the parent process has ended");
    }
    match command.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec(),
        None => io::Error::other("no command given"),
    }
}
