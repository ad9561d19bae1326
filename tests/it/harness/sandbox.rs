//! Programs that put the server into surroundings of their own, where the machine grants that.

use std::process::{Command, Stdio};

/// Whether `words`, run on their own, succeed here. A test that needs them is skipped otherwise, aloud.
pub fn skip_unless(words: &[&str]) -> bool {
    let granted = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !granted {
        eprintln!("SKIPPED: this machine does not grant `{}`", words.join(" "));
    }
    !granted
}
