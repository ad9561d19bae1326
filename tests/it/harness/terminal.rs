//! A terminal in tmux, with a program that a person would use in it.

use std::process::{Command, Stdio};

use super::{PATIENCE, eventually_within, skip_unless};

/// A terminal of 140 columns and 30 lines. The drop ends it and its program.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// Runs a command of the shell in a new terminal; `None` on a machine without tmux, which is
    /// printed. The terminal stays after the command has ended.
    pub fn run(command: &str) -> Option<Self> {
        if skip_unless(&["tmux", "-V"]) {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("longshore-tmux-").tempdir().unwrap();
        let terminal = Self {
            socket: folder.keep().join("socket").display().to_string(),
        };
        let then_wait = format!("{command}; echo ENDED with $?; sleep 600");
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "140",
            "-y",
            "30",
            &then_wait,
        ]);
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-S", &self.socket])
            .args(words)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types keys, by tmux's names for them, such as `Enter` and `Down`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen satisfies a condition, and returns it.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let holds = eventually_within(PATIENCE, || {
            screen = self.screen();
            condition(&screen)
        });
        assert!(holds, "timeout while waiting until {what}; the screen:\n{screen}");
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .args(["-S", &self.socket, "kill-server"])
            .stderr(Stdio::null())
            .status();
        if let Some(folder) = std::path::Path::new(&self.socket).parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
