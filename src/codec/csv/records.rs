//! Splits CSV text into records as RFC 4180 defines them, with a choice of delimiters.
//!
//! The body is in memory and the cells are parsed at once, so a cell borrows the body. Only a
//! quoted cell that contains quotes is copied. A general CSV reader copies every record, and
//! building its automaton alone takes longer than reading a row of thirty numbers. Lines end in
//! `\n` or `\r\n`; the last line needs no ending (BT-6). Blank lines are skipped. A quote that is
//! not closed, or that text follows, is an error: reading on would be a guess.

use std::borrow::Cow;

pub(super) struct CsvRecords<'a> {
    rest: &'a str,
    delimiter: u8,
    /// Limit on the cells of a record that are returned; more are only counted.
    most: usize,
    /// The number of cells in the last record.
    pub width: usize,
    /// The number of records so far, for messages.
    count: usize,
}

impl<'a> CsvRecords<'a> {
    pub fn new(text: &'a str, delimiter: u8, most: usize) -> Self {
        Self {
            rest: text,
            delimiter,
            most,
            width: 0,
            count: 0,
        }
    }

    /// Reads the cells of the next record into `cells`. False at the end of the text.
    pub fn read(&mut self, cells: &mut Vec<Cow<'a, str>>) -> Result<bool, String> {
        cells.clear();
        self.width = 0;
        self.rest = self.rest.trim_start_matches(['\n', '\r']);
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.count += 1;
        while self.read_cell(cells)? {}
        Ok(true)
    }

    /// Reads one cell. True if another cell of the record follows.
    fn read_cell(&mut self, cells: &mut Vec<Cow<'a, str>>) -> Result<bool, String> {
        let cell = match self.rest.strip_prefix('"') {
            Some(quoted) => self.quoted(quoted).ok_or_else(|| self.unclosed(self.width))?,
            None => {
                let bytes = self.rest.as_bytes();
                let end = bytes
                    .iter()
                    .position(|&b| b == self.delimiter || b == b'\n')
                    .unwrap_or(bytes.len());
                let (cell, rest) = self.rest.split_at(end);
                self.rest = rest;
                // The last cell of a line may end in the `\r` of a `\r\n`.
                let is_last = rest.as_bytes().first() != Some(&self.delimiter);
                Cow::Borrowed(if is_last {
                    cell.strip_suffix('\r').unwrap_or(cell)
                } else {
                    cell
                })
            }
        };
        self.width += 1;
        if self.width <= self.most {
            cells.push(cell);
        }
        if self.rest.as_bytes().first() == Some(&self.delimiter) {
            self.rest = &self.rest[1..];
            return Ok(true);
        }
        let end = ["\r\n", "\n", "\r"]
            .into_iter()
            .find_map(|end| self.rest.strip_prefix(end));
        match end {
            Some(rest) => self.rest = rest,
            None if self.rest.is_empty() => {}
            None => {
                let at = self.width;
                return Err(format!(
                    "row {} column {at} has text after its closing quote",
                    self.count
                ));
            }
        }
        Ok(false)
    }

    /// Reads a quoted cell after its opening quote. `None` if the closing quote is missing.
    fn quoted(&mut self, text: &'a str) -> Option<Cow<'a, str>> {
        let mut cell = Cow::Borrowed("");
        let mut rest = text;
        loop {
            let (part, after) = rest.split_once('"')?;
            rest = after;
            if cell.is_empty() {
                cell = Cow::Borrowed(part);
            } else {
                cell.to_mut().push_str(part);
            }
            match rest.strip_prefix('"') {
                Some(after) => {
                    cell.to_mut().push('"');
                    rest = after;
                }
                None => {
                    self.rest = rest;
                    return Some(cell);
                }
            }
        }
    }

    #[cold]
    fn unclosed(&self, cells: usize) -> String {
        format!("row {} column {} has no closing quote", self.count, cells + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Result<Vec<Vec<String>>, String> {
        let mut records = CsvRecords::new(text, b',', usize::MAX);
        let (mut cells, mut all) = (Vec::new(), Vec::new());
        while records.read(&mut cells)? {
            all.push(cells.iter().map(|cell| cell.to_string()).collect());
        }
        assert_eq!(records.count, all.len());
        Ok(all)
    }

    #[test]
    fn records_are_split_at_line_ends_and_cells_at_commas() {
        let table: [(&str, &[&[&str]]); 14] = [
            ("", &[]),
            ("\n\r\n\n", &[]),
            ("1", &[&["1"]]),
            ("1,2\n3,4", &[&["1", "2"], &["3", "4"]]),
            ("1,2\r\n\r\n3,4\r\n", &[&["1", "2"], &["3", "4"]]),
            ("1,2\r", &[&["1", "2"]]),
            (",\n", &[&["", ""]]),
            ("a,", &[&["a", ""]]),
            ("\"\"\n", &[&[""]]),
            ("\"a,b\",\"c\nd\"\n", &[&["a,b", "c\nd"]]),
            ("\"say \"\"hi\"\"\",\"\"\"\"\n", &[&["say \"hi\"", "\""]]),
            ("\"é\"\r\nz", &[&["é"], &["z"]]),
            ("a \"b\" c,d", &[&["a \"b\" c", "d"]]),
            ("\"\r\n\",x\r\n", &[&["\r\n", "x"]]),
        ];
        for (text, expected) in table {
            assert_eq!(all(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_unclosed_quotes_and_text_after_a_quote() {
        assert_eq!(
            all("1,2\n3,\"4\n5,6\n").unwrap_err(),
            "row 2 column 2 has no closing quote"
        );
        assert_eq!(
            all("\"1\"2,3\n").unwrap_err(),
            "row 1 column 1 has text after its closing quote"
        );
        assert_eq!(all("\"").unwrap_err(), "row 1 column 1 has no closing quote");
    }

    proptest! {
        #[test]
        fn quoted_cells_are_read_back(records in prop::collection::vec(prop::collection::vec("[a,\"\r\n é]{0,6}", 1..4), 0..5)) {
            let quote = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let text: String = records.iter().map(|cells| cells.iter().map(quote).collect::<Vec<_>>().join(",") + "\r\n").collect();
            prop_assert_eq!(all(&text).unwrap(), records);
        }

        #[test]
        fn any_text_is_split_or_refused(text in "[0-9,\"\r\n]{0,40}") {
            let _ = all(&text);
        }
    }
}
