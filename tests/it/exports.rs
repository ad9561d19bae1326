//! Models that libraries export: sends them requests in every suitable format and dialect, and
//! compares the results with those of the libraries.
//!
//! `tests/exports` creates the models, sends the requests and compares the results, in Python;
//! `scripts/exports` installs the libraries. The outcomes are the table in `docs/formats.md`;
//! `UPDATE=1` rewrites it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::harness::{Builder, EXPORTS};

/// Lines of `docs/formats.md` around the table.
const BEGIN: &str = "<!-- The test `exports` writes this table: UPDATE=1 cargo test --test it exports -->";
const END: &str = "<!-- The end of the table. -->";

/// Kinds of models, in the order of the table's columns.
const KINDS: [&str; 12] = [
    "numbers",
    "named numbers",
    "MLmodel",
    "labels",
    "missing values",
    "columns",
    "text",
    "two targets",
    "fixed batch",
    "state",
    "state by default",
    "detector",
];

/// Outcome for one model, format and dialect.
#[derive(Debug, Deserialize)]
struct Outcome {
    model: String,
    kind: String,
    direction: String,
    format: String,
    dialect: String,
    outcome: String,
}

/// Builds the table of formats and dialects by kinds of models, in the order of the requests.
fn table(outcomes: &[Outcome], direction: &str) -> String {
    let outcomes: Vec<&Outcome> = outcomes.iter().filter(|row| row.direction == direction).collect();
    let kinds: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| outcomes.iter().any(|row| row.kind == *kind))
        .collect();
    let mut dialects: Vec<(&str, &str)> = Vec::new();
    for row in &outcomes {
        let dialect = (row.format.as_str(), row.dialect.as_str());
        if !dialects.contains(&dialect) {
            dialects.push(dialect);
        }
    }
    // Formats together, in the order of their first dialect.
    let formats: Vec<&str> = dialects.iter().map(|(format, _)| *format).collect();
    dialects.sort_by_key(|(format, _)| formats.iter().position(|other| other == format));
    let mut text = format!("| {direction} | dialect | {} |\n", kinds.join(" | "));
    text.push_str(&format!("|---|---|{}\n", "---|".repeat(kinds.len())));
    for (format, dialect) in dialects {
        let cells: Vec<String> = kinds
            .iter()
            .map(|kind| {
                let of_kind = outcomes
                    .iter()
                    .filter(|row| row.kind == *kind && row.format == format && row.dialect == dialect);
                let answers: BTreeSet<&str> = of_kind
                    .map(|row| match row.outcome.as_str() {
                        "equal" => "yes",
                        other => other,
                    })
                    .collect();
                answers.into_iter().collect::<Vec<_>>().join(", ")
            })
            .collect();
        // An unescaped bar would end the cell.
        let dialect = dialect.replace('|', "\\|");
        text.push_str(&format!("| `{format}` | {dialect} | {} |\n", cells.join(" | ")));
    }
    text
}

#[test]
fn exported_models_answer_as_their_libraries_do_and_the_table_in_the_docs_matches() {
    let server = Builder::multi().start();
    let folder = server.models().root().display().to_string();
    let told = EXPORTS.output(
        "tests/exports/check.py",
        [server.address().to_string(), folder],
        [("OMP_NUM_THREADS", "1".to_owned())],
    );
    let outcomes: Vec<Outcome> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for row in &outcomes {
        assert!(
            row.outcome == "equal" || row.outcome.parse::<u16>().is_ok(),
            "{}: {row:?}",
            row.model
        );
    }
    let models: BTreeSet<&str> = outcomes.iter().map(|row| row.model.as_str()).collect();
    assert!(
        models.len() > 10 && outcomes.len() > 400,
        "{models:?} {}",
        outcomes.len()
    );

    let tables = format!("\n{}\n{}\n", table(&outcomes, "request"), table(&outcomes, "reply"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (documented, after) = rest.split_once(END).unwrap();
    let right = format!("\n{tables}\n");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{right}{END}{after}")).unwrap();
        return;
    }
    assert!(
        documented == right,
        "docs/formats.md differs from the outcomes of the test: run UPDATE=1 cargo test --test it exports, and check the difference\n{right}"
    );
}

#[test]
fn bad_bodies_are_refused_quickly_and_the_server_keeps_running() {
    let server = Builder::multi().start();
    let folder = server.models().root().display().to_string();
    let process = server.process();
    let told = EXPORTS.output(
        "tests/exports/hostile.py",
        [server.address().to_string(), folder, process.0.to_string()],
        [("OMP_NUM_THREADS", "1".to_owned())],
    );
    assert!(told.lines().count() > 10, "{told}");
    // The measured process has answered all requests.
    server.ping().expect(200);
    assert!(process.is_alive(), "{told}");
}
