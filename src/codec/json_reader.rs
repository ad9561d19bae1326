//! A pull reader for JSON: the caller asks for each value, and may skip or postpone it.
//!
//! The reader is a thin layer over `jiter` that adds three things for all JSON forms:
//! - A value whose type is not known yet (OIP `data` before `name`) can be read later, because a
//!   reader is a position that can be cloned.
//! - Strings without escapes borrow the body.
//! - Errors name their position and are short.
//!
//! Python's `NaN`, `Infinity` and `-Infinity` are numbers, as in TF-Serving and `json.dumps`.
//!
//! Invariant: nothing here recurses, so a deeply nested body cannot overflow the stack.

use std::ops::Range;

use bytes::Bytes;
use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, LinePosition, Peek};

use crate::codec::error::{BoxedDecodeError, DecodeError};

/// A position in a JSON text.
#[derive(Clone)]
pub(super) struct JsonReader<'a> {
    document: JsonSource<'a>,
    jiter: Jiter<'a>,
    /// The start of the parser's text in the document. It moves past the numbers that
    /// [`JsonReader::numbers`] reads.
    origin: usize,
}

/// The text that positions refer to.
#[derive(Clone, Copy)]
struct JsonSource<'a> {
    /// The name of the format in messages.
    format: &'static str,
    source: &'a Bytes,
    /// The start of `text` in `source`.
    start: usize,
    text: &'a str,
    /// The line number of `text`, if each line of the body is a document.
    line: Option<usize>,
}

impl<'a> JsonReader<'a> {
    /// Creates a reader of a whole body.
    pub fn new(format: impl Into<&'static str>, source: &'a Bytes) -> Result<Self, DecodeError> {
        let format = format.into();
        let text = utf8(format, source)?;
        // Some editors and .NET write a byte order mark before UTF-8 text.
        let start = if text.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Ok(Self::over(JsonSource {
            format,
            source,
            start,
            text: &text[start..],
            line: None,
        }))
    }

    /// Creates a reader of line number `line`. `text` is the part of `source` that starts at
    /// `start`.
    pub fn line(format: impl Into<&'static str>, source: &'a Bytes, start: usize, text: &'a str, line: usize) -> Self {
        Self::over(JsonSource {
            format: format.into(),
            source,
            start,
            text,
            line: Some(line),
        })
    }

    fn over(document: JsonSource<'a>) -> Self {
        Self {
            document,
            jiter: parser(document.text),
            origin: 0,
        }
    }

    /// The number of bytes that are not read yet, which bounds the number of elements.
    pub fn remaining(&self) -> usize {
        self.document.text.len() - self.position()
    }

    pub fn line_number(&self) -> Option<usize> {
        self.document.line
    }

    /// Peeks at the kind of the next value.
    #[inline]
    pub fn peek(&mut self) -> Result<Peek, BoxedDecodeError> {
        self.jiter.peek().map_err(|e| self.document.fault(&e, self.origin))
    }

    /// Enters an array and peeks at its first value. `None` if the array is empty.
    #[inline]
    pub fn enter_array(&mut self) -> Result<Option<Peek>, BoxedDecodeError> {
        self.jiter
            .known_array()
            .map_err(|e| self.document.fault(&e, self.origin))
    }

    /// Peeks at the next value of the array. `None` at its end.
    #[inline]
    pub fn next_value(&mut self) -> Result<Option<Peek>, BoxedDecodeError> {
        self.jiter
            .array_step()
            .map_err(|e| self.document.fault(&e, self.origin))
    }

    /// Enters an object and reads its first key. `None` if the object is empty. The value follows.
    pub fn enter_object(&mut self) -> Result<Option<&str>, BoxedDecodeError> {
        let (document, origin) = (self.document, self.origin);
        self.jiter.known_object().map_err(|e| document.fault(&e, origin))
    }

    /// Reads the next key of the object. `None` at its end.
    pub fn next_key(&mut self) -> Result<Option<&str>, BoxedDecodeError> {
        let (document, origin) = (self.document, self.origin);
        self.jiter.next_key().map_err(|e| document.fault(&e, origin))
    }

    /// Reads the number that starts with `peek`, as written.
    #[inline]
    pub fn number(&mut self, peek: Peek) -> Result<&'a str, BoxedDecodeError> {
        let start = self.position();
        match self.jiter.known_number_bytes(peek) {
            Ok(_) => Ok(self.since(start)),
            Err(e) => Err(self.document.fault(&e, self.origin)),
        }
    }

    /// Reads a number, or with `in_array` a list of numbers separated by commas. It stops at the
    /// first one that is not a plain decimal number or that `take` rejects. Returns their count and
    /// leaves the reader after the last one, as if each had been read alone.
    ///
    /// `take` gets the text from the number on, and returns the number's length. Most of the
    /// decoding time is spent in this loop.
    #[inline]
    pub fn numbers(&mut self, in_array: bool, mut take: impl FnMut(&[u8]) -> Option<usize>) -> usize {
        let text = self.document.text.as_bytes();
        let mut end = self.position();
        let mut count = 0;
        let mut at = end;
        while let Some(length) = text.get(at..).and_then(&mut take) {
            count += 1;
            end = at + length;
            at = skip_white_space(text, end);
            if !in_array || text.get(at) != Some(&b',') {
                break;
            }
            at = skip_white_space(text, at + 1);
        }
        if count > 0 {
            self.origin = end;
            self.jiter = parser(&self.document.text[end..]);
        }
        count
    }

    pub fn boolean(&mut self, peek: Peek) -> Result<bool, BoxedDecodeError> {
        self.jiter
            .known_bool(peek)
            .map_err(|e| self.document.fault(&e, self.origin))
    }

    pub fn null(&mut self) -> Result<(), BoxedDecodeError> {
        self.jiter
            .known_null()
            .map_err(|e| self.document.fault(&e, self.origin))
    }

    pub fn string(&mut self) -> Result<JsonString<'_>, BoxedDecodeError> {
        let (document, origin) = (self.document, self.origin);
        let mut start = self.position() + 1;
        // The search precedes the read, because the decoded text borrows the parser.
        let mut end = start;
        let raw = &document.text.as_bytes()[start.min(document.text.len())..];
        let plain = raw
            .iter()
            .position(|&b| b == b'"' || b == b'\\')
            .filter(|&at| raw[at] == b'"');
        if let Some(length) = plain {
            end += length;
            start += document.start;
            end += document.start;
        }
        let text = self.jiter.known_str().map_err(|e| document.fault(&e, origin))?;
        Ok(JsonString {
            text,
            window: plain.map(|_| (document.source, start..end)),
        })
    }

    /// Skips the next value if it is null, which stands for a member that is not set.
    pub fn skip_null(&mut self) -> Result<bool, BoxedDecodeError> {
        let is_null = self.peek()? == Peek::Null;
        if is_null {
            self.null()?;
        }
        Ok(is_null)
    }

    /// Skips the next value.
    pub fn skip(&mut self) -> Result<(), BoxedDecodeError> {
        self.jiter.next_skip().map_err(|e| self.document.fault(&e, self.origin))
    }

    /// Skips the next value and returns a reader that can still read it.
    pub fn postpone(&mut self) -> Result<Self, BoxedDecodeError> {
        let here = self.clone();
        self.skip()?;
        Ok(here)
    }

    /// Whether only white space follows.
    pub fn is_at_end(&self) -> bool {
        self.document.text[self.position()..].trim_ascii_start().is_empty()
    }

    /// Checks that only white space follows.
    pub fn finish(&mut self) -> Result<(), BoxedDecodeError> {
        self.jiter.finish().map_err(|e| self.document.fault(&e, self.origin))
    }

    pub fn position(&self) -> usize {
        self.origin + self.jiter.current_index()
    }

    /// The text from a position to the current one.
    pub fn since(&self, start: usize) -> &'a str {
        self.document.text.get(start..self.position()).unwrap_or_default()
    }

    /// The error for a document that is valid JSON but has an unknown form.
    #[cold]
    pub fn malformed(&self, problem: impl Into<String>) -> BoxedDecodeError {
        let problem = problem.into();
        Box::new(DecodeError::malformed(
            self.document.format,
            match self.document.line {
                Some(line) => format!("line {line}: {problem}"),
                None => problem,
            },
        ))
    }
}

fn parser(text: &str) -> Jiter<'_> {
    Jiter::new(text.as_bytes()).with_allow_inf_nan()
}

#[inline]
fn skip_white_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

impl JsonSource<'_> {
    #[cold]
    fn fault(&self, error: &JiterError, origin: usize) -> BoxedDecodeError {
        let LinePosition { line, column } = LinePosition::find(self.text.as_bytes(), origin + error.index);
        let line = self.line.unwrap_or(line);
        let what = match &error.error_type {
            JiterErrorType::JsonError(JsonErrorType::RecursionLimitExceeded) => too_deep().to_owned(),
            JiterErrorType::JsonError(error) => error.to_string(),
            JiterErrorType::WrongType { expected, actual } => format!("{actual} where {expected} is expected"),
        };
        Box::new(DecodeError::malformed(
            self.format,
            format!("{what} at line {line} column {column}"),
        ))
    }
}

pub(super) fn too_deep() -> &'static str {
    "arrays and objects are nested too deep"
}

/// Checks that the body is UTF-8.
pub(super) fn utf8(format: impl Into<&'static str>, body: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(body)
        .map_err(|e| DecodeError::malformed(format, format!("it is not UTF-8 at byte {}", e.valid_up_to())))
}

/// A JSON string, decoded.
pub(super) struct JsonString<'r> {
    text: &'r str,
    /// The body and the range with the same bytes, for a string without escapes.
    window: Option<(&'r Bytes, Range<usize>)>,
}

impl JsonString<'_> {
    pub fn as_str(&self) -> &str {
        self.text
    }

    /// Borrows the body, or copies the string if it has escapes in the body.
    pub fn to_bytes(&self) -> Bytes {
        match &self.window {
            Some((source, range)) => source.slice(range.clone()),
            None => Bytes::copy_from_slice(self.text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Format;

    fn reader(body: &Bytes) -> JsonReader<'_> {
        JsonReader::new(Format::Json, body).unwrap()
    }

    #[test]
    fn a_string_borrows_the_body_unless_it_has_escapes() {
        let body = Bytes::from("\u{feff} [\"plain é\", \"esc\\u0061ped\", \"\"]");
        let mut reader = reader(&body);
        assert_eq!(reader.peek().unwrap(), Peek::Array);
        reader.enter_array().unwrap();
        let plain = reader.string().unwrap();
        assert_eq!(plain.as_str(), "plain é");
        let plain = plain.to_bytes();
        assert_eq!(plain, "plain é");
        assert!(body.as_ptr_range().contains(&plain.as_ptr()));
        reader.next_value().unwrap();
        let escaped = reader.string().unwrap().to_bytes();
        assert_eq!(escaped, "escaped");
        assert!(!body.as_ptr_range().contains(&escaped.as_ptr()));
        reader.next_value().unwrap();
        assert_eq!(reader.string().unwrap().to_bytes(), "");
        assert_eq!(reader.next_value().unwrap(), None);
        reader.finish().unwrap();
    }

    #[test]
    fn a_postponed_value_is_read_from_its_position() {
        let body = Bytes::from(r#"{"data": [1, [2, {"x": "]"}]], "after": 7}"#);
        let mut reader = reader(&body);
        reader.peek().unwrap();
        assert_eq!(reader.enter_object().unwrap(), Some("data"));
        let mut later = reader.postpone().unwrap();
        assert_eq!(reader.next_key().unwrap(), Some("after"));
        assert_eq!(later.peek().unwrap(), Peek::Array);
        let first = later.enter_array().unwrap().unwrap();
        assert_eq!(later.number(first).unwrap(), "1");
    }

    #[test]
    fn errors_name_their_position() {
        let body = Bytes::from("[1,\n  tru]");
        let mut whole = reader(&body);
        assert_eq!(
            whole.skip().unwrap_err().to_string(),
            "the body is not a valid application/json request: expected ident at line 2 column 6"
        );
        let mut line = JsonReader::line(Format::JsonLines, &body, 0, "[1,", 12);
        assert_eq!(
            line.skip().unwrap_err().to_string(),
            "the body is not a valid application/jsonlines request: EOF while parsing a value at line 12 column 3"
        );
        let latin1 = Bytes::from_static(b"[\"\xe9\"]");
        let error = JsonReader::new(Format::Json, &latin1).err().unwrap();
        assert!(error.to_string().ends_with("it is not UTF-8 at byte 2"), "{error}");
    }
}
