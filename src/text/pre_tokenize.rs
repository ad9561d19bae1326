//! Runs the pre-tokenizer of a tokenizer file, which splits a text into words.
//!
//! Versions that report errors are used instead of the library's `Split` and of the regular
//! expression in its `ByteLevel`.

use serde_json::Value;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

use super::error::{TextError, excerpt};
use super::limits::STEPS;
use super::normalize::{kind, pattern};
use super::pattern::{Clock, Found, Pattern};

/// The words of GPT-2, the default of byte-level tokenizers.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The steps of a pre-tokenizer, in order.
#[derive(Debug, Default)]
pub(super) struct PreTokenize {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Split {
        pattern: Pattern,
        behavior: SplitDelimiterBehavior,
        is_inverted: bool,
    },
    /// Puts a space before each piece that does not begin with one.
    PrefixSpace,
    Library(PreTokenizerWrapper),
}

impl PreTokenize {
    /// Reads the value of `pre_tokenizer`.
    pub fn parse(value: &Value) -> Result<Self, TextError> {
        let mut steps = Vec::new();
        if !value.is_null() {
            push(value, &mut steps)?;
        }
        Ok(Self { steps })
    }

    pub fn apply(&self, text: &mut PreTokenizedString, clock: &Clock) -> Result<(), TextError> {
        for step in &self.steps {
            match step {
                Step::Split {
                    pattern,
                    behavior,
                    is_inverted,
                } => text.split(|_, part| {
                    let mut pieces = pattern.pieces(part.get(), clock)?;
                    if *is_inverted {
                        pieces.iter_mut().for_each(|(_, is_match)| *is_match = !*is_match);
                    }
                    part.split(Found::new(pieces), *behavior)
                }),
                Step::PrefixSpace => text.split(|_, mut part| {
                    if !part.get().starts_with(' ') {
                        part.prepend(" ");
                    }
                    Ok([part])
                }),
                Step::Library(step) => step.pre_tokenize(text),
            }
            .map_err(recover)?;
        }
        Ok(())
    }
}

/// Recovers the error of this module from the library's boxed error.
fn recover(error: tokenizers::Error) -> TextError {
    match error.downcast::<TextError>() {
        Ok(error) => *error,
        Err(error) => TextError::Options(format!("the pre-tokenizer failed: {}", excerpt(&error.to_string()))),
    }
}

fn push(value: &Value, steps: &mut Vec<Step>) -> Result<(), TextError> {
    let kind = kind("pre-tokenizer", value)?;
    if kind == "Sequence" {
        let parts = value.get("pretokenizers").and_then(Value::as_array);
        let parts =
            parts.ok_or_else(|| TextError::file("a pre-tokenizer of the type Sequence has no \"pretokenizers\""))?;
        return parts.iter().try_for_each(|part| push(part, steps));
    }
    if steps.len() >= STEPS {
        return Err(TextError::FileTooLarge {
            what: "steps of the pre-tokenizer",
            given: steps.len() as u64 + 1,
            limit: STEPS as u64,
        });
    }
    let refuse = |error: serde_json::Error| TextError::file(format!("pre-tokenizer {kind}: {error}"));
    match kind {
        "Split" => {
            let behavior = value.get("behavior").cloned().unwrap_or_default();
            let is_inverted = value.get("invert").and_then(Value::as_bool);
            steps.push(Step::Split {
                pattern: pattern(value)?,
                behavior: serde_json::from_value(behavior).map_err(refuse)?,
                is_inverted: is_inverted.ok_or_else(|| TextError::file("a Split has no \"invert\""))?,
            });
        }
        "ByteLevel" => {
            let library: ByteLevel = serde_json::from_value(value.clone()).map_err(refuse)?;
            if library.add_prefix_space {
                steps.push(Step::PrefixSpace);
            }
            if library.use_regex {
                steps.push(Step::Split {
                    pattern: Pattern::regex(GPT_2)?,
                    behavior: SplitDelimiterBehavior::Isolated,
                    is_inverted: false,
                });
            }
            steps.push(Step::Library(library.add_prefix_space(false).use_regex(false).into()));
        }
        _ => {
            if kind == "FixedLength" && value.get("length").is_some_and(|length| *length == 0) {
                return Err(TextError::file(
                    "a pre-tokenizer of the type FixedLength has the length 0",
                ));
            }
            steps.push(Step::Library(serde_json::from_value(value.clone()).map_err(refuse)?));
        }
    }
    Ok(())
}
