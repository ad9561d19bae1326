//! The pages for people: their links lead somewhere, their commands run, and the generated files
//! match the program.
//!
//! `UPDATE=1 cargo test --test it docs::` writes the generated files: `docs/options.md`,
//! `docs/metrics.md`, the snapshots of `--help` in `tests/snapshots/help`, and the dashboard and
//! the alert rules below `container/deploy`.

mod commands;
pub mod dashboard;
mod help;
mod links;
mod metrics;
mod options;
mod page;

use std::env;
use std::fs;
use std::path::Path;

/// The root of the checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Checks that the generated file `name` has this text; with `UPDATE`, writes it instead.
#[track_caller]
fn assert_generated(name: &str, text: &str) {
    let path = root().join(name);
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = text.lines().zip(present.lines().chain(std::iter::repeat("")));
    let difference = lines.find(|(generated, present)| generated != present);
    assert!(
        present == text,
        "{name} is out of date: run UPDATE=1 cargo test --test it docs::, and read the difference. \
         The first line that differs, generated and present: {difference:?}"
    );
}
