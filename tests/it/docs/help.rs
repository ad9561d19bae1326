//! `--help` of every command, as snapshots: a change of an option shows in a review.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use longshore::config::Cli;

use super::{assert_generated, root};
use crate::harness::Finished;

const FOLDER: &str = "tests/snapshots/help";

/// The commands that `longshore --help` lists.
fn commands() -> Vec<String> {
    let cli = Cli::command();
    let visible = cli.get_subcommands().filter(|command| !command.is_hide_set());
    visible.map(|command| command.get_name().to_owned()).collect()
}

/// The long help at a width of 100 columns, without any variable set.
fn help(command: Option<&str>) -> String {
    let mut longshore = Command::new(env!("CARGO_BIN_EXE_longshore"));
    longshore.args(command).arg("--help");
    longshore.env_clear().env("COLUMNS", "100").stdin(Stdio::null());
    Finished::after(&mut longshore).output()
}

#[test]
fn the_help_equals_its_snapshots() {
    let commands = commands();
    assert_generated(&format!("{FOLDER}/longshore.txt"), &help(None));
    for command in &commands {
        assert_generated(&format!("{FOLDER}/{command}.txt"), &help(Some(command)));
    }

    let expected: BTreeSet<String> = commands
        .into_iter()
        .chain(["longshore".to_owned()])
        .map(|command| format!("{command}.txt"))
        .collect();
    let present: BTreeSet<String> = fs::read_dir(root().join(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        present, expected,
        "{FOLDER}: delete the snapshots of commands that are gone"
    );
}
