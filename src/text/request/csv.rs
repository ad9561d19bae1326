//! Reads texts in CSV: a line for each text, or for each pair.
//!
//! Cells follow RFC 4180. An unquoted comma in a text makes two cells of it. Two cells are a pair
//! only if the task takes pairs; otherwise the line is refused.

use std::borrow::Cow;

use super::{Collected, ReadOptions, RequestError, TextForm, TextInput, TextRequest};

/// Header names of the column with the texts.
const TEXT: [&str; 6] = ["text", "sentence", "inputs", "input", "question", "query"];
/// Header names of the column with the second text of each pair.
const TEXT_PAIR: [&str; 4] = ["text_pair", "sentence2", "context", "text2"];
/// Header names of the first column, if there is a second one.
const FIRST: [&str; 2] = ["sentence1", "text1"];

pub(super) fn read(text: &str, options: &ReadOptions) -> Result<TextRequest, RequestError> {
    let mut lines = Lines {
        rest: text,
        number: 0,
        width: 0,
    };
    let mut cells = Vec::new();
    let mut collected = Collected::new(&options.limits);
    // The columns of the texts, once a header has been read.
    let mut order = None;
    let mut is_first = true;
    while lines.read(&mut cells)? {
        if std::mem::take(&mut is_first) && options.csv_header != Some(false) {
            order = header(&cells);
            if order.is_some() {
                continue;
            }
            if options.csv_header == Some(true) {
                return Err(RequestError::item(
                    "the header",
                    "it has no column for texts; name the column text, or two columns text and text_pair",
                ));
            }
        }
        collected.push(record(&mut cells, order, &lines, options)?)?;
    }
    if collected.inputs.is_empty() {
        return Err(RequestError::Empty);
    }
    let counts = vec![1; collected.inputs.len()];
    Ok(collected.finish(TextForm::Lines(counts)))
}

/// Returns the columns of the texts, if the cells are a header.
fn header(cells: &[Cow<'_, str>]) -> Option<(usize, Option<usize>)> {
    let find = |names: &[&str]| {
        let is_named = |cell: &Cow<'_, str>| names.iter().any(|name| cell.trim().eq_ignore_ascii_case(name));
        cells.iter().position(is_named)
    };
    match (find(&TEXT), find(&FIRST), find(&TEXT_PAIR), cells.len()) {
        (Some(text), None, None, 1) => Some((text, None)),
        (Some(text), None, Some(pair), 2) | (None, Some(text), Some(pair), 2) => Some((text, Some(pair))),
        _ => None,
    }
}

fn record(
    cells: &mut [Cow<'_, str>],
    order: Option<(usize, Option<usize>)>,
    lines: &Lines<'_>,
    options: &ReadOptions,
) -> Result<TextInput, RequestError> {
    let take = |cell: &mut Cow<'_, str>| std::mem::take(cell).into_owned();
    let width = lines.width;
    let refuse = |problem: String| Err(RequestError::item(format!("line {}", lines.number), problem));
    let expected = order.map(|(_, pair)| 1 + usize::from(pair.is_some()));
    if let Some(expected) = expected.filter(|&expected| expected != width) {
        return refuse(format!(
            "it has {width} columns, the header has {expected}; put texts with commas into double quotes"
        ));
    }
    match (cells, order) {
        ([text], _) => Ok(TextInput::One(take(text))),
        ([first, second], Some((0, _))) => Ok(TextInput::Pair(take(first), take(second))),
        ([first, second], Some(_)) => Ok(TextInput::Pair(take(second), take(first))),
        ([first, second], None) if options.pairs => Ok(TextInput::Pair(take(first), take(second))),
        _ => {
            let most = if options.pairs { "a text or a pair" } else { "one text" };
            refuse(format!(
                "it has {width} columns, expected {most} in a line; put texts with commas into double quotes"
            ))
        }
    }
}

/// The lines of a CSV text.
struct Lines<'a> {
    rest: &'a str,
    /// The number of lines read so far, without blank ones.
    number: usize,
    /// The number of cells in the last line; at most three are kept.
    width: usize,
}

impl<'a> Lines<'a> {
    /// Puts the cells of the next line into `cells`; false at the end. Skips blank lines.
    fn read(&mut self, cells: &mut Vec<Cow<'a, str>>) -> Result<bool, RequestError> {
        cells.clear();
        self.rest = self.rest.trim_start_matches(['\n', '\r']);
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.number += 1;
        self.width = 0;
        loop {
            let cell = match self.rest.strip_prefix('"') {
                Some(quoted) => self.quoted(quoted)?,
                None => {
                    let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
                    let (cell, rest) = self.rest.split_at(end);
                    self.rest = rest;
                    // Remove the first half of a CRLF.
                    let cell = if rest.starts_with(',') {
                        cell
                    } else {
                        cell.strip_suffix('\r').unwrap_or(cell)
                    };
                    Cow::Borrowed(cell)
                }
            };
            self.width += 1;
            if self.width <= 3 {
                cells.push(cell);
            }
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            let rest = self.rest;
            let ended = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'));
            let ended = ended.or_else(|| (rest.is_empty() || rest == "\r").then_some(""));
            self.rest = ended.ok_or_else(|| self.refuse("there is text after a closing quote"))?;
            return Ok(true);
        }
    }

    /// Reads a cell after its opening quote.
    fn quoted(&mut self, text: &'a str) -> Result<Cow<'a, str>, RequestError> {
        let mut cell = Cow::Borrowed("");
        let mut rest = text;
        loop {
            let Some((part, behind)) = rest.split_once('"') else {
                return Err(self.refuse("a quote is not closed"));
            };
            if cell.is_empty() {
                cell = Cow::Borrowed(part);
            } else {
                cell.to_mut().push_str(part);
            }
            match behind.strip_prefix('"') {
                Some(behind) => {
                    cell.to_mut().push('"');
                    rest = behind;
                }
                None => {
                    self.rest = behind;
                    return Ok(cell);
                }
            }
        }
    }

    #[cold]
    fn refuse(&self, problem: &str) -> RequestError {
        RequestError::item(format!("line {}", self.number), problem)
    }
}
