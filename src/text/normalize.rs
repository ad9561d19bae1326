//! Runs the normalizer of a tokenizer file, which changes a text before it is split.
//!
//! A `Replace` whose pattern reports errors is used instead of the library's. A normalizer may make
//! a text longer ("ﷺ" becomes 18 letters), but not more than [`GROWTH`] times.

mod charsmap;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer};

use super::error::{TextError, excerpt};
use super::limits::{REPLACEMENT_BYTES, STEPS, TextLimit};
use super::pattern::{Clock, Found, Pattern};

/// Maximum length of a normalized text, relative to the text. Unicode's compatibility forms grow at
/// most eleven times.
const GROWTH: usize = 16;
/// Bytes that any text may grow by, in addition.
const SLACK: usize = 64 << 10;

/// The steps of a normalizer, in order.
#[derive(Debug, Default)]
pub(super) struct Normalize {
    steps: Vec<Step>,
}

/// The growth of a text by a normalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Growth {
    /// Only by different characters or markers of the same size.
    Little,
    /// A character outside ASCII may become several.
    Compatibility,
    /// Any character may become several.
    Any,
}

#[derive(Debug)]
enum Step {
    Replace { pattern: Pattern, content: String },
    Library(NormalizerWrapper),
}

impl Normalize {
    /// Reads the value of `normalizer`.
    pub fn parse(value: &Value) -> Result<Self, TextError> {
        let mut steps = Vec::new();
        if !value.is_null() {
            push(value, &mut steps)?;
        }
        Ok(Self { steps })
    }

    pub fn growth(&self) -> Growth {
        let growth = |step: &Step| match step {
            Step::Replace { content, .. } if content.len() > 3 => Growth::Any,
            Step::Library(NormalizerWrapper::Prepend(step)) if step.prepend.len() > 3 => Growth::Any,
            Step::Library(
                NormalizerWrapper::NFKC(_) | NormalizerWrapper::NFKD(_) | NormalizerWrapper::Precompiled(_),
            ) => Growth::Compatibility,
            Step::Replace { .. } | Step::Library(_) => Growth::Little,
        };
        self.steps.iter().map(growth).max().unwrap_or(Growth::Little)
    }

    /// Starts the normalizer for one text of `length` bytes.
    pub fn run(&self, length: usize, clock: Clock) -> NormalizeRun<'_> {
        NormalizeRun {
            steps: &self.steps,
            clock,
            most: length.saturating_mul(GROWTH).saturating_add(SLACK),
            grown: AtomicUsize::new(0),
            fault: OnceLock::new(),
        }
    }
}

fn push(value: &Value, steps: &mut Vec<Step>) -> Result<(), TextError> {
    let kind = kind("normalizer", value)?;
    if kind == "Sequence" {
        let parts = value.get("normalizers").and_then(Value::as_array);
        let parts = parts.ok_or_else(|| TextError::file("a normalizer of the type Sequence has no \"normalizers\""))?;
        return parts.iter().try_for_each(|part| push(part, steps));
    }
    if steps.len() == STEPS {
        return Err(TextError::FileTooLarge {
            what: "steps of the normalizer",
            given: steps.len() as u64 + 1,
            limit: STEPS as u64,
        });
    }
    let bounded = |key: &str| match value.get(key).and_then(Value::as_str) {
        Some(text) if text.len() <= REPLACEMENT_BYTES => Ok(text),
        Some(text) => Err(TextError::FileTooLarge {
            what: "bytes of the text that a normalizer inserts",
            given: text.len() as u64,
            limit: REPLACEMENT_BYTES as u64,
        }),
        None => Err(TextError::file(format!(
            "a normalizer of the type {kind} has no \"{key}\""
        ))),
    };
    let step = match kind {
        "Replace" => Step::Replace {
            pattern: pattern(value)?,
            content: bounded("content")?.to_owned(),
        },
        _ => {
            match kind {
                "Prepend" => {
                    bounded("prepend")?;
                }
                "Precompiled" => charsmap::check(value, GROWTH)?,
                _ => {}
            }
            let step = serde_json::from_value(value.clone());
            Step::Library(step.map_err(|error| TextError::file(format!("normalizer {kind}: {error}")))?)
        }
    };
    steps.push(step);
    Ok(())
}

/// The `type` of a part of the file.
pub(super) fn kind<'a>(part: &str, value: &'a Value) -> Result<&'a str, TextError> {
    let kind = value.get("type").and_then(Value::as_str);
    kind.ok_or_else(|| TextError::file(format!("a {part} has no \"type\"")))
}

/// The `pattern` of a part: `{"String": ..}` or `{"Regex": ..}`.
pub(super) fn pattern(value: &Value) -> Result<Pattern, TextError> {
    let pattern = value.get("pattern");
    let text = |key: &str| pattern.and_then(|pattern| pattern.get(key)).and_then(Value::as_str);
    match (text("String"), text("Regex")) {
        (Some(text), None) => Pattern::literal(text),
        (None, Some(regex)) => Pattern::regex(regex),
        _ => Err(TextError::file(
            "a \"pattern\" must be {\"String\": ..} or {\"Regex\": ..}",
        )),
    }
}

/// A normalizer at work on one text.
///
/// The library ignores the errors of a normalizer, so this struct keeps the first one.
pub(super) struct NormalizeRun<'a> {
    steps: &'a [Step],
    clock: Clock,
    /// Maximum bytes of the normalized text.
    most: usize,
    /// Bytes of the parts that are finished.
    grown: AtomicUsize,
    fault: OnceLock<TextError>,
}

impl NormalizeRun<'_> {
    /// The first error of the run.
    pub fn finish(self) -> Result<(), TextError> {
        self.fault.into_inner().map_or(Ok(()), Err)
    }

    fn apply(&self, text: &mut NormalizedString) -> Result<(), TextError> {
        for step in self.steps {
            match step {
                Step::Replace { pattern, content } => {
                    let pieces = pattern.pieces(text.get(), &self.clock)?;
                    let matches = pieces.iter().filter(|(_, is_match)| *is_match).count();
                    self.check(text.get().len().saturating_add(matches.saturating_mul(content.len())))?;
                    if matches > 0 {
                        text.replace(Found::new(pieces), content).map_err(library)?;
                    }
                }
                Step::Library(step) => {
                    step.normalize(text).map_err(library)?;
                    self.check(text.get().len())?;
                }
            }
        }
        let grown = self.grown.fetch_add(text.get().len(), Ordering::Relaxed);
        self.check(grown.saturating_add(text.get().len()))
    }

    fn check(&self, bytes: usize) -> Result<(), TextError> {
        if bytes <= self.most {
            return Ok(());
        }
        Err(TextError::TooLarge {
            exceeded: TextLimit::TextBytes,
            what: "bytes of a text after its normalization".to_owned(),
            given: bytes as u64,
            limit: self.most as u64,
            advice: "send a shorter text",
        })
    }
}

fn library(error: tokenizers::Error) -> TextError {
    TextError::Options(format!("the normalizer failed: {}", excerpt(&error.to_string())))
}

impl Normalizer for NormalizeRun<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if self.fault.get().is_some() {
            return Ok(());
        }
        self.apply(text).map_err(|error| {
            let kept = self.fault.get_or_init(|| error);
            kept.clone().into()
        })
    }
}
