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
