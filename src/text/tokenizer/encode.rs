//! Converts texts to tokens, with the library's steps in the library's order.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tokenizers::{
    Encoding, Model, OffsetType, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use super::{Core, Tokenizer};
use crate::text::encoded::{Encoded, TokenRow};
use crate::text::error::{TextError, excerpt};
use crate::text::limits::TextLimit;
use crate::text::options::{Padding, Side, TokenizeOptions, Truncation};
use crate::text::pattern::Clock;
use crate::text::request::TextInput;

impl Tokenizer {
    /// Tokenizes the texts of a request.
    pub fn encode(&self, inputs: &[TextInput], options: &TokenizeOptions) -> Result<Encoded, TextError> {
        let limits = &options.limits;
        if inputs.len() > limits.texts {
            return Err(TextError::TooLarge {
                exceeded: TextLimit::Texts,
                what: "texts of a request".to_owned(),
                given: inputs.len() as u64,
                limit: limits.texts as u64,
                advice: "send fewer texts at a time",
            });
        }
        let plan = EncodePlan::new(self, options)?;
        let mut rows = Vec::with_capacity(inputs.len());
        let (mut longest, mut shortest) = (plan.least_length, usize::MAX);
        for (index, input) in inputs.iter().enumerate() {
            if limits.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(TextError::Deadline);
            }
            for text in input.texts() {
                if text.len() > limits.text_bytes {
                    return Err(TextError::TooLarge {
                        exceeded: TextLimit::TextBytes,
                        what: format!("bytes of text {index}"),
                        given: text.len() as u64,
                        limit: limits.text_bytes as u64,
                        advice: "send it in parts",
                    });
                }
            }
            // A panic of the library is an error of this text and must not affect other requests.
            let row = catch_unwind(AssertUnwindSafe(|| self.row(index, input, &plan)));
            let row = row.unwrap_or_else(|_| Err(refused(index, "the tokenizer library failed on it")))?;
            longest = longest.max(row.len());
            shortest = shortest.min(row.len());
            rows.push(row);
            let tokens = longest.saturating_mul(rows.len());
            if tokens > limits.tokens {
                return Err(TextError::TooLarge {
                    exceeded: TextLimit::Tokens,
                    what: "tokens of a request".to_owned(),
                    given: tokens as u64,
                    limit: limits.tokens as u64,
                    advice: "send fewer texts at a time",
                });
            }
        }
        let mut encoded = Encoded {
            rows,
            pad_id: 0,
            pad_type_id: self.core.pad_type_id.unwrap_or(0),
            pad_side: self.padding_side(options),
            least_length: plan.least_length,
            multiple_of: plan.multiple_of,
        };
        match self.pad_id() {
            Some(id) => encoded.pad_id = id,
            None if shortest < encoded.length() => return Err(TextError::NoPadToken),
            None => {}
        }
        Ok(encoded)
    }

    fn row(&self, index: usize, input: &TextInput, plan: &EncodePlan<'_>) -> Result<TokenRow, TextError> {
        let options = plan.options;
        let core = &*self.core;
        let (first, second) = match input {
            TextInput::One(text) => (text, None),
            TextInput::Pair(first, second) => (first, Some(second)),
        };
        let is_pair = second.is_some();
        let encode = |text: &str, type_id| {
            let text = self.prepared(text);
            core.sequence(index, &text, type_id, plan.stop(type_id, is_pair), options)
        };
        let mut first = encode(first, 0)?;
        let mut second = second.map(|text| encode(text, 1)).transpose()?;

        let mut is_cut = false;
        if let Some(most) = plan.max_length {
            let added = if options.add_special_tokens {
                core.post_process.added(is_pair)
            } else {
                0
            };
            let Some(room) = most.checked_sub(added) else {
                return Err(TextError::Options(format!(
                    "the maximum of {most} tokens leaves no room for the {added} special tokens"
                )));
            };
            let given = first.len() + second.as_ref().map_or(0, Encoding::len);
            let Some(strategy) = plan.strategy else {
                if given > room {
                    return Err(TextError::TooLong {
                        index,
                        given: given + added,
                        limit: most,
                    });
                }
                return self.finish(input, first, second, is_cut, options);
            };
            if given > room {
                let params = TruncationParams {
                    direction: plan.direction,
                    max_length: room,
                    strategy,
                    stride: 0,
                };
                (first, second) =
                    truncate_encodings(first, second, &params).map_err(|error| refused(index, &error.to_string()))?;
                // Otherwise the library would process and combine the truncated parts too.
                first.take_overflowing();
                second.as_mut().map(Encoding::take_overflowing);
                is_cut = true;
            }
        }
        self.finish(input, first, second, is_cut, options)
    }

    /// Prepares a text for the tokenizer as sentence-transformers does.
    fn prepared<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let stripped = match self.config.strip_texts {
            Some(true) => text.trim_matches(is_python_space),
            Some(false) | None => text,
        };
        match self.config.lower_texts {
            Some(true) => Cow::Owned(stripped.to_lowercase()),
            Some(false) | None => Cow::Borrowed(stripped),
        }
    }

    fn finish(
        &self,
        input: &TextInput,
        first: Encoding,
        second: Option<Encoding>,
        is_cut: bool,
        options: &TokenizeOptions,
    ) -> Result<TokenRow, TextError> {
        let encoding = self
            .core
            .post_process
            .apply(first, second, options.add_special_tokens)?;
        let mut row = TokenRow {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            special: encoding
                .get_special_tokens_mask()
                .iter()
                .map(|&mask| mask != 0)
                .collect(),
            is_cut,
            ..TokenRow::default()
        };
        if options.offsets {
            row.words = encoding.get_word_ids().to_vec();
            let sequences = encoding.get_sequence_ids().into_iter();
            row.sequences = sequences.map(|sequence| u8::try_from(sequence?).ok()).collect();
            let texts: Vec<&str> = input.texts().collect();
            let offsets = encoding.get_offsets().iter().zip(&row.sequences);
            let range = |(&(from, to), sequence): (&(usize, usize), &Option<u8>)| {
                let text = sequence.and_then(|sequence| texts.get(usize::from(sequence)));
                text.map_or(0..0, |text| self.place(text, from)..self.place(text, to))
            };
            row.offsets = offsets.map(range).collect();
        }
        Ok(row)
    }
}

impl Tokenizer {
    /// Maps a position in the prepared text to the original text.
    fn place(&self, text: &str, at: usize) -> usize {
        let start = match self.config.strip_texts {
            Some(true) => text.len() - text.trim_start_matches(is_python_space).len(),
            Some(false) | None => 0,
        };
        // Lowercasing may change the length of a text.
        let at = text.len().min(start + at);
        (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
    }
}

/// Whether Python's `str.strip` removes a character.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

impl Core {
    /// Tokenizes one text, without special tokens.
    fn sequence(
        &self,
        index: usize,
        text: &str,
        type_id: u32,
        stop: Option<(usize, TruncationDirection)>,
        options: &TokenizeOptions,
    ) -> Result<Encoding, TextError> {
        let clock = Clock::start(&options.limits);
        let run = self.normalize.run(text.len(), clock);
        let mut parts = self.added.extract_and_normalize(Some(&run), text);
        run.finish()?;
        self.pre_tokenize.apply(&mut parts, &clock)?;
        let offsets = if options.offsets {
            OffsetType::Byte
        } else {
            OffsetType::None
        };
        let encoding = self
            .model
            .tokenize_in_pretokenized(&mut parts, stop)
            .and_then(|()| parts.into_encoding(None, type_id, offsets));
        let mut encoding = encoding.map_err(|error| refused(index, &excerpt(&error.to_string())))?;
        // Without offsets, the library does not set the type ids.
        encoding.set_type_ids(vec![type_id; encoding.len()]);
        Ok(encoding)
    }
}

#[cold]
fn refused(index: usize, problem: &str) -> TextError {
    TextError::Refused {
        index,
        problem: problem.to_owned(),
    }
}

/// The options of a request, combined with those of the tokenizer.
struct EncodePlan<'a> {
    options: &'a TokenizeOptions,
    max_length: Option<usize>,
    strategy: Option<TruncationStrategy>,
    direction: TruncationDirection,
    least_length: usize,
    multiple_of: usize,
}

impl<'a> EncodePlan<'a> {
    fn new(tokenizer: &Tokenizer, options: &'a TokenizeOptions) -> Result<Self, TextError> {
        let max_length = tokenizer.max_length(options);
        let least_length = match (options.fixed_length, options.padding) {
            (Some(length), _) => length,
            (None, Padding::Longest) => 0,
            (None, Padding::MaxLength) => max_length.ok_or_else(|| {
                TextError::Options(
                    "padding to max_length needs a maximum length; set \"max_length\" in the request or in the model's files".to_owned(),
                )
            })?,
        };
        Ok(Self {
            options,
            max_length,
            strategy: match options.truncation {
                Truncation::LongestFirst => Some(TruncationStrategy::LongestFirst),
                Truncation::OnlyFirst => Some(TruncationStrategy::OnlyFirst),
                Truncation::OnlySecond => Some(TruncationStrategy::OnlySecond),
                Truncation::Never => None,
            },
            direction: match tokenizer.truncation_side(options) {
                Side::Left => TruncationDirection::Left,
                Side::Right => TruncationDirection::Right,
            },
            least_length,
            multiple_of: match options.fixed_length {
                Some(_) => 1,
                None => options.pad_to_multiple_of.unwrap_or(1).max(1),
            },
        })
    }

    /// The number of tokens after which tokenizing stops, in the library's form.
    fn stop(&self, type_id: u32, is_pair: bool) -> Option<(usize, TruncationDirection)> {
        let strategy = self.strategy?;
        if strategy == TruncationStrategy::OnlySecond && type_id == 0 {
            return None;
        }
        // For a single text one more, to see whether it is too long. For pairs, both lengths decide
        // which text is truncated.
        Some((self.max_length? + usize::from(!is_pair), self.direction))
    }
}
