//! Texts in CSV: a line for each text, or for each pair.
//!
//! Cells are as RFC 4180 has them. A comma in a text that is not quoted would make two cells of it,
//! and a pair is what two cells are only where the task takes pairs; else the line is refused.

use std::borrow::Cow;

use super::{Collected, ReadOptions, RequestError, TextForm, TextInput, TextRequest};

/// Names of the column with the texts, in a header.
const TEXT: [&str; 6] = ["text", "sentence", "inputs", "input", "question", "query"];
/// Names of the column with the second text of each pair.
const TEXT_PAIR: [&str; 4] = ["text_pair", "sentence2", "context", "text2"];
/// Names of the first column where there is a second one.
const FIRST: [&str; 2] = ["sentence1", "text1"];

pub(super) fn read(text: &str, options: &ReadOptions) -> Result<TextRequest, RequestError> {
    let mut lines = Lines {
        rest: text,
        number: 0,
        width: 0,
    };
    let mut cells = Vec::new();
    let mut collected = Collected::new(&options.limits);
    // The positions of the texts in a line, once a header says them.
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
                    "it names no texts; name the column text, or the two columns text and text_pair",
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

/// The columns of the texts, where the cells are a header.
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
            "it has {width} columns where the header has {expected}; put texts with commas into double quotes"
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
                "it has {width} columns where a line is {most}; put texts with commas into double quotes"
            ))
        }
    }
}

/// The lines of a CSV text.
struct Lines<'a> {
    rest: &'a str,
    /// Lines that are records, so far.
    number: usize,
    /// Cells of the last one; no more than three of them are kept.
    width: usize,
}

impl<'a> Lines<'a> {
    /// Puts the cells of the next line into `cells`; false when there is none. Blank lines are none.
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
                    // The first half of the line end.
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
            self.rest = ended.ok_or_else(|| self.refuse("it has text behind a closing quote"))?;
            return Ok(true);
        }
    }

    /// Reads a cell behind its opening quote.
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
