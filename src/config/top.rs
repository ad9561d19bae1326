//! Options of `longshore top`.

use clap::{Args, ValueEnum};

pub(super) const TOP_EXAMPLE: &str = "\
Example:
  longshore top localhost:8080
  longshore top localhost:8080 --once --sort p99
  longshore top localhost:8080 --once --json | jq '.models[] | select(.errors > 0) | .name'

Keys:
  up, down, PgUp, PgDn, Home, End   choose a model
  Enter                             its details, and back
  n, t, m, r, e, 5, 9, l            sort by name, state, memory, requests, errors, p50,
                                    p99, last error; again: reverse
  /                                 filter by words of the name; Esc clears the filter
  q                                 quit";

/// `longshore top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Address of a server or of a local endpoint, e.g. localhost:8080 or `https://host/path`
    #[arg(value_name = "URL", default_value = "http://localhost:8080")]
    pub url: String,

    /// Print the table once, instead of a live one
    #[arg(long)]
    pub once: bool,

    /// Print the whole state as JSON, as docs/page.md describes it
    #[arg(long, requires = "once")]
    pub json: bool,

    /// Column by which the table is sorted
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = TopSort::Name)]
    pub sort: TopSort,

    /// Show only models whose names contain these words
    #[arg(long, value_name = "WORDS")]
    pub filter: Option<String>,
}

/// `--sort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopSort {
    Name,
    State,
    Memory,
    Requests,
    Errors,
    P50,
    P99,
    /// Time of the last error
    Last,
}
