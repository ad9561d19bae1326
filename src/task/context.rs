//! The facts about a request that its answer needs, and that the outputs do not tell.
//!
//! The parts that read pictures and texts know things that the outputs do not tell: the size of a
//! picture before it was resized, the characters that a token stands for. They are handed over as
//! traits and borrowed slices, so that this module knows neither of those parts.

use super::{Labels, Settings};

/// All that an answer depends on, apart from the outputs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The number of records of the request: pictures, texts, pairs.
    pub records: usize,
    pub labels: &'a Labels,
    pub settings: &'a Settings,
    /// A picture for each record; empty for tasks of other things.
    pub pictures: &'a [&'a dyn PlacedPicture],
    /// The tokens of each row of the outputs; empty for tasks of other things, and for models that
    /// take no tokens.
    pub tokens: &'a [Tokens<'a>],
    pub vocabulary: Option<&'a dyn Vocabulary>,
    /// The relation between the records.
    pub question: Question<'a>,
}

impl<'a> Context<'a> {
    /// A context of records alone.
    pub const fn new(records: usize, labels: &'a Labels, settings: &'a Settings) -> Self {
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
    /// Each record has an answer of its own.
    Records,
    /// The first record is a sentence, the others are compared with it.
    Similarity,
    /// The records are pairs of one query with these texts, which are to be ranked.
    Ranking { texts: &'a [&'a str] },
    /// Each of these sequences made a record with each candidate label, in the order of the
    /// labels.
    ZeroShot { sequences: &'a [&'a str] },
    /// The rows of each question, whose number of rows this is: a long text makes several.
    Spans { rows: &'a [usize] },
}

/// The relation between a picture and what the model saw of it.
pub trait PlacedPicture {
    /// Width and height of the original, as a person sees it.
    fn size(&self) -> (u32, u32);

    /// Width and height of the picture that the model saw, with its borders.
    fn input_size(&self) -> (u32, u32);

    /// The part of the model's picture that shows the original: left, top, right, bottom. It is
    /// smaller than the picture where that has borders, and larger where the original was cropped.
    fn content(&self) -> [f32; 4] {
        let (width, height) = self.input_size();
        [0.0, 0.0, width as f32, height as f32]
    }

    /// The point of the original that a point of the model's picture shows. It may lie outside of
    /// the original.
    fn map_back(&self, x: f32, y: f32) -> (f32, f32) {
        let (width, height) = self.size();
        let [left, top, right, bottom] = self.content();
        (
            (x - left) * width as f32 / (right - left),
            (y - top) * height as f32 / (bottom - top),
        )
    }
}

/// The tokens of one row, with the padding that makes all rows one length. Empty slices stand for
/// what is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tokens<'a> {
    /// The text that offsets count the characters of. In a pair it is the second one.
    pub text: &'a str,
    pub ids: &'a [u32],
    /// 0 for padding, else 1.
    pub attention: &'a [u32],
    /// 1 for tokens that stand for no text.
    pub special: &'a [u32],
    /// The characters that each token stands for, from the first one to the one after the last
    /// one: characters of Unicode and not bytes, as Python counts them.
    pub offsets: &'a [(usize, usize)],
    /// The number of the word that each token is of.
    pub words: &'a [Option<u32>],
    /// The number of the text in a pair that each token is of.
    pub sequences: &'a [Option<usize>],
}

impl Tokens<'_> {
    /// Whether the token at `at` is no padding.
    pub(super) fn is_attended(&self, at: usize) -> bool {
        self.attention.get(at).is_none_or(|&mask| mask != 0)
    }

    /// Whether the token at `at` stands for text.
    pub(super) fn is_text(&self, at: usize) -> bool {
        self.is_attended(at) && self.special.get(at).is_none_or(|&special| special == 0)
    }
}

/// The tokenizer, as far as answers need it.
pub trait Vocabulary {
    /// The token of an id.
    fn token(&self, id: u32) -> Option<String>;
    /// The id of a token.
    fn id(&self, token: &str) -> Option<u32>;
    /// The first token of a text, without special tokens around it.
    fn first_id(&self, text: &str) -> Option<u32>;
    /// The text of tokens.
    fn decode(&self, ids: &[u32], skip_special: bool) -> String;
    /// The text of tokens that are given as text: what the tokenizer's decoder makes of them.
    fn join(&self, tokens: &[&str]) -> String;
    /// The id that stands for what has no token.
    fn unknown(&self) -> Option<u32>;
    /// The id that stands for a word to be guessed, and its token.
    fn mask(&self) -> Option<(u32, String)>;
    /// The id that fills rows up.
    fn padding(&self) -> Option<u32>;
    /// The id of the token that begins a text.
    fn beginning(&self) -> Option<u32>;
    /// Whether tokens inside of a word have a mark, as WordPiece's `##`.
    fn marks_continuation(&self) -> bool;
}

/// The places of the characters of a text.
pub(super) struct Characters<'a> {
    text: &'a str,
    /// The byte at which each character begins, and the end; empty for a text of one-byte
    /// characters.
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

    /// The characters from `start` up to `end`, or as many of them as there are.
    pub fn slice(&self, start: usize, end: usize) -> &'a str {
        let place = |at: usize| match self.starts.is_empty() {
            true => at.min(self.text.len()),
            false => self.starts.get(at).copied().unwrap_or(self.text.len()),
        };
        self.text.get(place(start)..place(end)).unwrap_or_default()
    }
}
