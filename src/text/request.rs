//! Reads the texts in the body of a request.
//!
//! This module does not depend on a tokenizer, so models with string inputs can use it too. A body
//! with numbers in place of texts is not an error: the client has tokenized its texts, and [`read`]
//! leaves the body to the readers of tensors at the first number.

mod csv;
mod error;
mod json;

use std::mem;

use memchr::memchr_iter;
use serde_json::{Map, Value};

pub use self::error::RequestError;
use super::limits::{TextLimit, TextLimits};

/// A text to tokenize, or a pair of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextInput {
    One(String),
    Pair(String, String),
}

impl TextInput {
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::One(text) => (text, None),
            Self::Pair(first, second) => (first, Some(second.as_str())),
        };
        std::iter::once(first.as_str()).chain(second)
    }

    fn bytes(&self) -> usize {
        self.texts().map(str::len).max().unwrap_or(0)
    }
}

/// The form of the texts in the request, which determines the form of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextForm {
    /// A single text.
    One,
    /// A list.
    List,
    /// A list under `instances`; the answers are under `predictions`.
    Instances,
    /// Lines of JSON or CSV, with the number of texts in each.
    Lines(Vec<usize>),
    /// The model compares the first text with each of the others.
    Similarity,
    /// Pairs of a query and each of the texts to rank.
    Ranking,
}

/// The texts of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRequest {
    pub inputs: Vec<TextInput>,
    pub form: TextForm,
    /// The object `parameters`.
    pub parameters: Map<String, Value>,
    /// The other keys of the body, such as `truncate`, `normalize` or `model`.
    pub rest: Map<String, Value>,
}

/// The options of reading a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Whether a list of two texts, or a line of two columns, is a pair: true if the task ranks or
    /// classifies pairs.
    pub pairs: bool,
    /// Whether the first line of CSV is a header. If absent, the names in the line decide.
    pub csv_header: Option<bool>,
    pub limits: TextLimits,
}

/// Reads the texts of a body. `essence` is its content type in lower case, without parameters.
/// `None` if the body has a different type or holds no texts.
pub fn read(essence: &str, body: &[u8], options: &ReadOptions) -> Result<Option<TextRequest>, RequestError> {
    match essence {
        "application/json" => json::read(body, options),
        "application/jsonlines"
        | "application/jsonl"
        | "application/x-ndjson"
        | "application/x-jsonlines"
        | "application/json-lines" => read_lines(body, options),
        "text/csv" | "application/csv" => csv::read(utf8(body)?, options).map(Some),
        "text/plain" => {
            let text = utf8(body)?;
            // Files and shells add a line end that is not part of the text.
            let text = text.strip_suffix('\n').unwrap_or(text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            let mut collected = Collected::new(&options.limits);
            collected.push(TextInput::One(text.to_owned()))?;
            Ok(Some(collected.finish(TextForm::One)))
        }
        _ => Ok(None),
    }
}

/// Reads JSON Lines, where each line is a request.
fn read_lines(body: &[u8], options: &ReadOptions) -> Result<Option<TextRequest>, RequestError> {
    let mut collected = Collected::new(&options.limits);
    let mut counts = Vec::new();
    let mut parameters: Option<(Map<String, Value>, Map<String, Value>)> = None;
    let mut start = 0;
    for (index, end) in memchr_iter(b'\n', body).chain([body.len()]).enumerate() {
        let line = body[start..end].trim_ascii();
        start = end + 1;
        if line.is_empty() {
            continue;
        }
        let at = |error: RequestError| error.in_line(index + 1);
        let Some(mut request) = json::read(line, options).map_err(at)? else {
            if counts.is_empty() {
                return Ok(None);
            }
            return Err(RequestError::item(
                format!("line {}", index + 1),
                "the line has no text",
            ));
        };
        counts.push(request.inputs.len());
        for input in mem::take(&mut request.inputs) {
            collected.push(input)?;
        }
        let own = (request.parameters, request.rest);
        if parameters.as_ref().is_some_and(|first| *first != own) {
            return Err(RequestError::item(
                format!("line {}", index + 1),
                "its parameters differ from those of the first line",
            ));
        }
        parameters = Some(own);
    }
    let mut request = collected.finish(TextForm::Lines(counts));
    if request.inputs.is_empty() {
        return Err(RequestError::Empty);
    }
    (request.parameters, request.rest) = parameters.unwrap_or_default();
    Ok(Some(request))
}

fn utf8(body: &[u8]) -> Result<&str, RequestError> {
    let text = std::str::from_utf8(body).map_err(|error| RequestError::Utf8 {
        at: error.valid_up_to(),
    })?;
    // Windows editors write a byte order mark.
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Collects texts and checks the limits.
struct Collected<'a> {
    inputs: Vec<TextInput>,
    limits: &'a TextLimits,
}

impl<'a> Collected<'a> {
    fn new(limits: &'a TextLimits) -> Self {
        Self {
            inputs: Vec::new(),
            limits,
        }
    }

    fn push(&mut self, input: TextInput) -> Result<(), RequestError> {
        if self.inputs.len() >= self.limits.texts {
            return Err(RequestError::TooLarge {
                exceeded: TextLimit::Texts,
                what: "texts of a request".to_owned(),
                given: self.inputs.len() as u64 + 1,
                limit: self.limits.texts as u64,
            });
        }
        if input.bytes() > self.limits.text_bytes {
            return Err(RequestError::TooLarge {
                exceeded: TextLimit::TextBytes,
                what: format!("bytes of text {}", self.inputs.len()),
                given: input.bytes() as u64,
                limit: self.limits.text_bytes as u64,
            });
        }
        self.inputs.push(input);
        Ok(())
    }

    fn finish(self, form: TextForm) -> TextRequest {
        TextRequest {
            inputs: self.inputs,
            form,
            parameters: Map::new(),
            rest: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests;
