//! Errors of requests and responses, by cause.
//!
//! Each variant is a cause with its own HTTP status. The messages are for the caller and name the
//! change to make. Every message is bounded: it quotes at most [`EXCERPT_BYTES`] bytes of the
//! request and at most [`LIST_BYTES`] bytes of the model's signature. So it stays far below the
//! 1 KiB that the platform passes on, whatever the request or the signature contains.

use std::fmt::{self, Write};

use crate::codec::Format;
use crate::tensor::Signature;

/// Limit on the bytes of the caller's data in a message.
pub(super) const EXCERPT_BYTES: usize = 64;
/// Limit on the bytes of one input's type in a message.
const TYPE_BYTES: usize = 120;
/// Limit on the bytes of a list of names and types in a message.
const LIST_BYTES: usize = 360;

/// The reasons why a request body cannot be decoded into the model's inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// CT-4: 415.
    #[error("content type {given} is not supported; send one of {}", request_types())]
    UnsupportedMediaType { given: String },
    /// CT-1: 415.
    #[error("charset {given} is not supported; send the body as utf-8 or iso-8859-1")]
    UnsupportedCharset { given: String },
    /// The body does not have the form of its content type, or is an unknown kind of document: 400.
    #[error("the body is not a valid {format} request: {problem}")]
    Malformed { format: &'static str, problem: String },
    /// The body is well-formed, but its content does not fit the model: 400.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The unpacked body exceeds the limit for one request: 413.
    #[error("{what} is larger than {limit} bytes once unpacked; send fewer rows in one request")]
    TooLarge { what: String, limit: usize },
    /// 507, for this request alone.
    #[error("there is no memory left to read the body; send fewer records in one request, or try again later")]
    OutOfMemory,
    /// The request names an output that the model does not have, or names one twice: 400.
    #[error("requested output {name}: {problem}; the model returns {gives}")]
    RequestedOutput {
        name: String,
        problem: &'static str,
        gives: String,
    },
}

/// A problem with one of the inputs. The names are quoted. All fields are already bounded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    #[error("input {name}: given {given}, the model takes {takes}")]
    Mismatch { name: String, given: String, takes: String },
    #[error("input {name}{at}: {problem}")]
    Value { name: String, at: String, problem: String },
    #[error("input {name} is missing{at}; the model takes {takes}")]
    Missing { name: String, at: String, takes: String },
    #[error("the model has no input {name}{at}; it takes {takes}")]
    Unknown { name: String, at: String, takes: String },
    #[error("input {name} is given twice{at}")]
    Duplicate { name: String, at: String },
    #[error("{what} does not name its input; {instead}; the model takes {takes}")]
    Unnamed {
        what: &'static str,
        takes: String,
        instead: &'static str,
    },
    #[error("{problem}; the model takes {takes}")]
    Layout { problem: String, takes: String },
}

/// The reasons why a response cannot have the requested form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// CT-4: 406.
    #[error(
        "none of the types in Accept {accept} is available; accept one of {}",
        response_types()
    )]
    NotAcceptable { accept: String },
    /// The format exists, but cannot hold these outputs: 406.
    #[error("the outputs cannot be written as {}: {problem}", format.media_type())]
    CannotCarry { format: Format, problem: String },
    /// 507, for this request alone.
    #[error("there is no memory left to write the response; send fewer records in one request, or try again later")]
    OutOfMemory,
    /// The run returned other outputs than the signature and the plan require: 500, an internal
    /// error.
    #[error("the run returned {given} outputs where {expected} were requested")]
    OutputCount { expected: usize, given: usize },
}

/// The error type of the loops over elements. It is one word wide, so that the success path stays
/// in registers.
pub(super) type BoxedDecodeError = Box<DecodeError>;

impl From<BoxedDecodeError> for DecodeError {
    fn from(fault: BoxedDecodeError) -> Self {
        *fault
    }
}

impl From<InputError> for BoxedDecodeError {
    #[cold]
    fn from(error: InputError) -> Self {
        Box::new(DecodeError::Input(error))
    }
}

impl DecodeError {
    #[cold]
    pub(super) fn malformed(format: impl Into<&'static str>, problem: impl Into<String>) -> Self {
        Self::Malformed {
            format: format.into(),
            problem: problem.into(),
        }
    }
}

fn response_types() -> String {
    let written = Format::ALL.into_iter().filter(|format| format.is_written());
    written.map(Format::media_type).collect::<Vec<_>>().join(", ")
}

fn request_types() -> String {
    Format::ALL.map(Format::media_type).join(", ")
}

/// Quotes `text` for a message: control characters escaped, cut after [`EXCERPT_BYTES`].
pub(super) fn excerpt(text: &str) -> String {
    format!("\"{}\"", clipped(Escaped(text), EXCERPT_BYTES))
}

/// Text with escapes for quotes and control characters, which would break the message or the log.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c == '\'' {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_debug())?;
            }
        }
        Ok(())
    }
}

/// Quotes bytes that may not be UTF-8, like [`excerpt`].
pub(super) fn excerpt_bytes(bytes: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT_BYTES + 1)]))
}

/// Formats `value`, cut after `limit` bytes. Formatting stops at the limit.
pub(super) fn clipped(value: impl fmt::Display, limit: usize) -> String {
    struct Clip {
        text: String,
        limit: usize,
    }
    impl Write for Clip {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            for c in part.chars() {
                if self.text.len() + c.len_utf8() > self.limit {
                    self.text.push('…');
                    return Err(fmt::Error);
                }
                self.text.push(c);
            }
            Ok(())
        }
    }
    let mut clip = Clip {
        text: String::new(),
        limit,
    };
    // The only error is the one that signals the limit.
    let _ = write!(clip, "{value}");
    clip.text
}

/// Formats the type of an input or output for a message.
pub(super) fn type_text(value_type: impl fmt::Display) -> String {
    clipped(value_type, TYPE_BYTES)
}

/// Lists the inputs of the model: `"x" float32[batch, 32], "y" int64[batch] and 198 more`.
pub fn describe_inputs(signature: &Signature) -> String {
    listed(
        signature
            .inputs
            .iter()
            .map(|i| format!("{} {}", excerpt(&i.name), type_text(i))),
    )
}

/// Lists the outputs of the model, like [`describe_inputs`].
pub fn describe_outputs(signature: &Signature) -> String {
    listed(
        signature
            .outputs
            .iter()
            .map(|o| format!("{} {}", excerpt(&o.name), type_text(&o.value_type))),
    )
}

/// Lists the `items` that fit into [`LIST_BYTES`], and the number of the others.
pub(super) fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let count = items.len();
    let mut text = String::new();
    for (i, item) in items.enumerate() {
        if i > 0 && text.len() + item.len() > LIST_BYTES {
            let _ = write!(text, " and {} more", count - i);
            return text;
        }
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(&item);
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DataType, Dim, InputSpec};

    #[test]
    fn an_excerpt_is_cut_escaped_and_never_splits_a_character() {
        assert_eq!(excerpt("a\nb\"c"), r#""a\nb\"c""#);
        let long = "é".repeat(1000);
        let cut = excerpt(&long);
        assert!(cut.len() <= EXCERPT_BYTES + "\"…\"".len(), "{}", cut.len());
        assert!(cut.ends_with("é…\""));
        assert_eq!(excerpt_bytes(b"\xff\xfeok"), "\"\u{fffd}\u{fffd}ok\"");
    }

    #[test]
    fn a_signature_of_many_inputs_with_long_names_makes_a_short_list() {
        let signature = Signature {
            optional: Vec::new(),
            inputs: (0..200)
                .map(|i| InputSpec {
                    name: format!("{i}{}", "n".repeat(5000)),
                    data_type: DataType::F32,
                    dims: Some(vec![Dim::Dynamic(Some("d".repeat(5000))); 30]),
                })
                .collect(),
            outputs: vec![],
        };
        let text = describe_inputs(&signature);
        assert!(text.len() < LIST_BYTES + 20, "{}", text.len());
        assert!(text.ends_with("more"), "{text}");
        assert_eq!(describe_outputs(&signature), "nothing");
    }

    #[test]
    fn an_unsupported_media_type_error_names_all_supported_types() {
        let text = DecodeError::UnsupportedMediaType {
            given: excerpt("text/html"),
        }
        .to_string();
        for format in Format::ALL {
            assert!(text.contains(format.media_type()), "{text}");
        }
    }
}
