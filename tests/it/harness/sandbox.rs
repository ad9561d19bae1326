//! Programs that isolate the server, on machines that permit it.

use std::process::{Command, Stdio};

/// Runs the command `words` and returns whether it fails here. If so, prints that the test is
/// skipped.
pub fn skip_unless(words: &[&str]) -> bool {
    let granted = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !granted {
        eprintln!("SKIPPED: this machine does not permit `{}`", words.join(" "));
    }
    !granted
}
