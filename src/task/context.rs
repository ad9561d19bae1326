//! Facts about a request that its answer needs, in addition to the outputs.
//!
//! The modules that read images and texts know facts that are not in the outputs: the size of an
//! image before resizing, the characters of a token. They pass them as traits and borrowed slices,
//! so that this module does not depend on those modules.

use super::{AnswerSettings, Labels};

/// The inputs of an answer, in addition to the outputs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The number of records of the request: images, texts, pairs.
    pub records: usize,
    pub labels: &'a Labels,
    pub settings: &'a AnswerSettings,
    /// An image for each record; empty for other tasks.
    pub pictures: &'a [&'a dyn PlacedPicture],
    /// The tokens of each row of the outputs; empty for other tasks, and for models without token
    /// inputs.
    pub tokens: &'a [Tokens<'a>],
    pub vocabulary: Option<&'a dyn Vocabulary>,
    /// The relation between the records.
    pub question: Question<'a>,
}

impl<'a> Context<'a> {
    /// A context without images, tokens or a vocabulary.
    pub const fn new(records: usize, labels: &'a Labels, settings: &'a AnswerSettings) -> Self {
        Self {
            records,
            labels,
            settings,
            pictures: &[],
            tokens: &[],
            vocabulary: None,
            question: Question::Records,
        }
    }
}

/// The relation between the records of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Question<'a> {
    /// Each record has a separate answer.
    Records,
    /// The first record is a sentence; the others are compared with it.
    Similarity,
    /// The records are pairs of one query with these texts to rank.
    Ranking { texts: &'a [&'a str] },
    /// Each of these sequences is combined with each candidate label in a record, in the order of
    /// the labels.
    ZeroShot { sequences: &'a [&'a str] },
    /// The number of rows of each question; a long text has several.
    Spans { rows: &'a [usize] },
}

/// The relation between an image and the input that the model saw.
pub trait PlacedPicture {
    /// Width and height of the upright original.
    fn size(&self) -> (u32, u32);

    /// Width and height of the model's input, with its borders.
    fn input_size(&self) -> (u32, u32);

    /// The part of the model's input that shows the original: left, top, right, bottom. It is
    /// smaller than the input if that has borders, and larger if the original was cropped.
    fn content(&self) -> [f32; 4] {
        let (width, height) = self.input_size();
        [0.0, 0.0, width as f32, height as f32]
    }

    /// Maps a point of the model's input to the original. The result may be outside of the
    /// original.
    fn map_back(&self, x: f32, y: f32) -> (f32, f32) {
        let (width, height) = self.size();
        let [left, top, right, bottom] = self.content();
        (
            (x - left) * width as f32 / (right - left),
            (y - top) * height as f32 / (bottom - top),
        )
    }
}

/// The tokens of one row, with the padding that makes all rows equally long. An empty slice means
/// unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tokens<'a> {
    /// The text that the offsets refer to; for a pair, the second text.
    pub text: &'a str,
    pub ids: &'a [u32],
    /// 0 for padding, else 1.
    pub attention: &'a [u32],
    /// 1 for special tokens, which stand for no text.
    pub special: &'a [u32],
    /// The range of Unicode characters for each token, with an exclusive end; characters and not
    /// bytes, as Python counts them.
    pub offsets: &'a [(usize, usize)],
    /// The number of the word that each token belongs to.
    pub words: &'a [Option<u32>],
    /// The number of the text in a pair that each token belongs to.
    pub sequences: &'a [Option<usize>],
}

impl Tokens<'_> {
    /// Whether the token at `at` is not padding.
    pub(super) fn is_attended(&self, at: usize) -> bool {
        self.attention.get(at).is_none_or(|&mask| mask != 0)
    }

    /// Whether the token at `at` stands for text.
    pub(super) fn is_text(&self, at: usize) -> bool {
        self.is_attended(at) && self.special.get(at).is_none_or(|&special| special == 0)
    }
}

/// The functions of a tokenizer that answers need.
pub trait Vocabulary {
    /// The token for an id.
    fn token(&self, id: u32) -> Option<String>;
    /// The id of a token.
    fn id(&self, token: &str) -> Option<u32>;
    /// The first token of a text, tokenized without special tokens.
    fn first_id(&self, text: &str) -> Option<u32>;
    /// The text of token ids.
    fn decode(&self, ids: &[u32], skip_special: bool) -> String;
    /// The text of tokens in text form, joined by the tokenizer's decoder.
    fn join(&self, tokens: &[&str]) -> String;
    /// The id for unknown text.
    fn unknown(&self) -> Option<u32>;
    /// The id of the mask for a word to guess, and its token.
    fn mask(&self) -> Option<(u32, String)>;
    /// The id of padding.
    fn padding(&self) -> Option<u32>;
    /// The id of the token at the beginning of a text.
    fn beginning(&self) -> Option<u32>;
    /// Whether tokens inside a word have a marker such as WordPiece's `##`.
    fn marks_continuation(&self) -> bool;
}

/// The positions of the characters of a text.
pub(super) struct Characters<'a> {
    text: &'a str,
    /// The byte offset of each character, and of the end; empty for a text of one-byte characters.
    starts: Vec<usize>,
}

impl<'a> Characters<'a> {
    pub fn new(text: &'a str) -> Self {
        let starts = match text.is_ascii() {
            true => Vec::new(),
            false => {
                let places = text.char_indices().map(|(at, _)| at);
                places.chain([text.len()]).collect()
            }
        };
        Self { text, starts }
    }

    /// The characters from `start` up to `end`, limited to the text.
    pub fn slice(&self, start: usize, end: usize) -> &'a str {
        let place = |at: usize| match self.starts.is_empty() {
            true => at.min(self.text.len()),
            false => self.starts.get(at).copied().unwrap_or(self.text.len()),
        };
        self.text.get(place(start)..place(end)).unwrap_or_default()
    }
}
