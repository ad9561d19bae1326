//! A table of names and values for a person to read.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use bytesize::ByteSize;

use crate::telemetry::escape::plain;

/// Width of the column of names.
const NAMES: usize = 12;

/// Lines of text, written at once.
#[derive(Debug, Default)]
pub struct Table(String);

impl Table {
    /// Adds a line; indents further lines of the value below the first.
    pub fn line(&mut self, name: &str, value: impl fmt::Display) {
        let value = value.to_string();
        let mut name = name;
        for line in value.lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(self.0, "{name:NAMES$}{}", plain(line));
            name = "";
        }
    }

    /// Adds an empty line and `text` unchanged.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes to standard output. A closed pipe is not an error, because programs such as `head` close
/// it early.
pub fn print(text: impl fmt::Display) -> io::Result<()> {
    match write!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Formats a number of bytes for a person.
pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Formats milliseconds with their unit.
pub fn millis(time: f64) -> String {
    match time {
        ..1.0 => format!("{:.0} us", time * 1000.0),
        ..10.0 => format!("{time:.2} ms"),
        ..100.0 => format!("{time:.1} ms"),
        ..10_000.0 => format!("{time:.0} ms"),
        _ => format!("{:.1} s", time / 1000.0),
    }
}

/// A number with a noun that takes an `s` in the plural.
pub fn counted(number: u64, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// A table with a title over each column. The other part of a column is whether its cells are
/// numbers.
pub fn plain_table(columns: &[(&str, bool)], rows: &[impl AsRef<[String]>]) -> String {
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let rows = || [&*titles].into_iter().chain(rows.iter().map(AsRef::as_ref));
    let mut widths = vec![0; columns.len()];
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows() {
        let mut line = String::new();
        for ((cell, width), (_, is_number)) in row.iter().zip(&widths).zip(columns) {
            // Writing to a string cannot fail.
            let _ = match is_number {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_model_cannot_control_the_terminal() {
        let mut table = Table::default();
        table.line("inputs", "a\u{202e}b\u{1b}[2Jc\u{2028}d");
        assert_eq!(table.to_string(), "inputs      a\\u{202e}b\\u{1b}[2Jc\\u{2028}d\n");
    }

    #[test]
    fn times_have_their_unit() {
        for (time, text) in [
            (0.0421, "42 us"),
            (1.5, "1.50 ms"),
            (99.0, "99.0 ms"),
            (1234.0, "1234 ms"),
            (12_340.0, "12.3 s"),
        ] {
            assert_eq!(millis(time), text);
        }
    }

    #[test]
    fn values_are_aligned_in_a_column() {
        let mut table = Table::default();
        table.line("inputs", "a float32[2]\nb int64[2]");
        table.text("the end");
        let blank = " ".repeat(NAMES);
        assert_eq!(
            table.to_string(),
            format!("inputs      a float32[2]\n{blank}b int64[2]\n\nthe end\n")
        );
    }
}
