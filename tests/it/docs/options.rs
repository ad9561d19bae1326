//! `docs/options.md`: every option of every command, generated from the definitions in
//! `src/config`.

use std::fs;

use clap::{Arg, ArgAction, Command, CommandFactory};
use longshore::config::Cli;

use super::{assert_generated, root};

const INTRODUCTION: &str = "\
<!-- The test `options` writes this page: UPDATE=1 cargo test --test it docs:: -->

# Options

This page lists every option of every command. `longshore COMMAND --help` prints the same.

- An option on the command line wins over its environment variable. A variable with an empty value counts as not set.
- Sizes have units (`25MiB`), and so do times (`58s`, `500ms`, `2min`). A bare number is bytes or seconds.
- `longshore` without a command takes the options of `longshore serve`.
- The server also reads [variables of AWS's own images](serving.md#variables).
";

#[test]
fn the_page_of_options_lists_every_option() {
    assert_generated("docs/options.md", &page());
}

#[test]
fn variables_without_an_option_are_documented() {
    let page = fs::read_to_string(root().join("docs/serving.md")).unwrap();
    let cli = Cli::command();
    let serve = cli
        .get_subcommands()
        .find(|command| command.get_name() == "serve")
        .unwrap();
    let hidden = serve.get_arguments().filter(|argument| argument.is_hide_set());
    for variable in hidden.filter_map(Arg::get_env) {
        let variable = variable.to_str().unwrap();
        assert!(
            page.contains(&format!("`{variable}`")),
            "docs/serving.md lacks {variable}"
        );
    }
}

fn page() -> String {
    let cli = Cli::command();
    let visible = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let sections = visible.map(section);
    [INTRODUCTION.to_owned()].into_iter().chain(sections).collect()
}

/// The section of a command: its purpose, and a table for each group of options.
fn section(command: &Command) -> String {
    let name = command.get_name();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("\n## longshore {name}\n\n{}.\n", escaped(&about));
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .collect();
    let mut groups: Vec<Option<&str>> = Vec::new();
    for argument in &arguments {
        if !groups.contains(&argument.get_help_heading()) {
            groups.push(argument.get_help_heading());
        }
    }
    for group in groups {
        if let Some(group) = group {
            text.push_str(&format!("\n### {group} ({name})\n"));
        }
        text.push_str("\n| option | variable | default | meaning |\n|---|---|---|---|\n");
        let members = arguments.iter().filter(|argument| argument.get_help_heading() == group);
        text.extend(members.map(|argument| row(argument)));
    }
    text
}

/// A row of a table.
fn row(argument: &Arg) -> String {
    let help = help(argument);
    let (meaning, stated) = split_default(&help);
    let defaults = argument.get_default_values();
    let default = match defaults {
        [] => stated.map(escaped).unwrap_or_default(),
        values => {
            let values: Vec<String> = values
                .iter()
                .map(|value| value.to_string_lossy().into_owned())
                .collect();
            format!("`{}`", values.join(" "))
        }
    };
    format!(
        "| {} | {} | {default} | {}{} |\n",
        spelling(argument),
        variable(argument),
        escaped(meaning),
        choices(argument)
    )
}

/// The option as it is written on the command line.
fn spelling(argument: &Arg) -> String {
    let value = match argument.get_value_names() {
        Some(names) => names.join(" "),
        None => argument.get_id().as_str().to_uppercase(),
    };
    let Some(long) = argument.get_long() else {
        return code(&value);
    };
    let option = match argument.get_action().takes_values() {
        false => format!("--{long}"),
        true if argument.is_require_equals_set() => format!("--{long}[={value}]"),
        true => format!("--{long} {value}"),
    };
    match argument.get_short() {
        Some(short) => format!("{}, `-{short}`", code(&option)),
        None => code(&option),
    }
}

/// The variable, and what separates several values in it.
fn variable(argument: &Arg) -> String {
    let Some(name) = argument.get_env() else {
        return String::new();
    };
    let name = code(&name.to_string_lossy());
    match argument.get_value_delimiter() {
        Some(' ') => format!("{name} (blanks between values)"),
        Some(delimiter) => format!("{name} (`{delimiter}` between values)"),
        None => name,
    }
}

/// The values to choose from, and whether the option may be repeated.
fn choices(argument: &Arg) -> String {
    let values = argument.get_possible_values();
    let values: Vec<String> = values
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("{} ({})", code(value.get_name()), escaped(&help.to_string())),
            None => code(value.get_name()),
        })
        .collect();
    let mut text = String::new();
    // The values of switches are left out.
    if !values.is_empty() && values != ["`true`", "`false`"] {
        text.push_str(&format!(". One of {}", values.join(", ")));
    }
    if matches!(argument.get_action(), ArgAction::Append) && !help(argument).contains("epeatable") {
        text.push_str(". Repeatable");
    }
    text
}

/// The help in one line. A long help with a list of its own stays in `--help`.
fn help(argument: &Arg) -> String {
    let short = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let long = argument.get_long_help().map(ToString::to_string);
    let text = long.filter(|text| !text.contains("\n  ")).unwrap_or(short);
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join(". ").replace(".. ", ". ")
}

/// Splits a default that follows from the machine, which the help states as `[default: ..]`.
fn split_default(help: &str) -> (&str, Option<&str>) {
    match help.rsplit_once("[default:") {
        Some((meaning, rest)) => match rest.split_once(']') {
            Some((default, "")) => (meaning.trim_end().trim_end_matches('.'), Some(default.trim())),
            Some(_) | None => (help, None),
        },
        None => (help.trim_end_matches('.'), None),
    }
}

/// Code in a cell of a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// Text in a cell of a table. Code in it stays as it is.
fn escaped(text: &str) -> String {
    let mut is_code = true;
    let parts = text.split('`').map(|part| {
        is_code = !is_code;
        let part = part.replace('|', "\\|");
        match is_code {
            true => part,
            false => part.replace('<', "&lt;").replace('*', "\\*"),
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

#[test]
fn a_default_in_the_help_gets_its_own_column() {
    for (help, expected) in [
        ("Time [default: 58s, or more]", ("Time", Some("58s, or more"))),
        ("A file. [default: none]", ("A file", Some("none"))),
        ("A port", ("A port", None)),
    ] {
        assert_eq!(split_default(help), expected);
    }
}
