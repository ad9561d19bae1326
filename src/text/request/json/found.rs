//! Collects the texts of a body by their keys, and combines them at the end of the object.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::text::limits::TextLimit;
use crate::text::request::{Collected, RequestError, TextForm, TextInput};

/// The keys for texts in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Inputs,
    Instances,
    Text,
    TextPair,
    Query,
    Texts,
    Source,
    Sentences,
    Parameters,
}

impl Key {
    pub fn of(key: &str) -> Option<Self> {
        Some(match key {
            "inputs" | "input" => Self::Inputs,
            "instances" => Self::Instances,
            "text" | "question" | "sentence" => Self::Text,
            "text_pair" | "context" => Self::TextPair,
            "query" => Self::Query,
            "texts" | "documents" => Self::Texts,
            "source_sentence" => Self::Source,
            "sentences" => Self::Sentences,
            "parameters" => Self::Parameters,
            _ => return None,
        })
    }
}

/// Texts by their key. Their meaning is known only at the end of the object.
#[derive(Default)]
pub(super) struct Found {
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub query: Option<String>,
    pub source: Option<String>,
    pub texts: Option<Vec<String>>,
    pub sentences: Option<Vec<String>>,
    pub form: Option<TextForm>,
    pub parameters: Option<Map<String, Value>>,
    /// The other keys, with the ranges of their values.
    pub rest: Vec<(String, Range<usize>)>,
}

impl Found {
    /// Adds the texts of all keys to `collected`; `None` if there are none.
    pub fn assemble(&mut self, collected: &mut Collected<'_>) -> Result<Option<TextForm>, RequestError> {
        let refuse = |key: &str, problem: &str| Err(RequestError::item(key, problem));
        let form = match (self.form.take(), self.single()?) {
            (form, None) => return Ok(form),
            (Some(_), Some(_)) => return refuse("the body", MIXED),
            (None, Some(single)) => single,
        };
        match form {
            Single::Text(text, None) => collected.push(TextInput::One(text))?,
            Single::Text(text, Some(pair)) => collected.push(TextInput::Pair(text, pair))?,
            Single::Texts(texts) => {
                for text in texts {
                    collected.push(TextInput::One(text))?;
                }
                return Ok(Some(TextForm::List));
            }
            Single::Ranking(query, texts) => {
                // The query is copied for each text.
                let (given, limit) = (query.len().saturating_mul(texts.len()), collected.limits.tokens);
                if given > limit {
                    return Err(RequestError::TooLarge {
                        exceeded: TextLimit::Tokens,
                        what: "bytes of the query, once for each text".to_owned(),
                        given: given as u64,
                        limit: limit as u64,
                    });
                }
                for text in texts {
                    collected.push(TextInput::Pair(query.clone(), text))?;
                }
                return Ok(Some(TextForm::Ranking));
            }
            Single::Similarity(source, sentences) => {
                for text in std::iter::once(source).chain(sentences) {
                    collected.push(TextInput::One(text))?;
                }
                return Ok(Some(TextForm::Similarity));
            }
        }
        Ok(Some(TextForm::One))
    }

    /// Combines the keys that belong together.
    fn single(&mut self) -> Result<Option<Single>, RequestError> {
        let text = match (self.text.take(), self.text_pair.take()) {
            (Some(text), pair) => Some(Single::Text(text, pair)),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(RequestError::item(
                    "text_pair",
                    "the first text of the pair is missing; add it as \"text\"",
                ));
            }
        };
        let texts = match (self.query.take(), self.texts.take()) {
            (Some(query), Some(texts)) => Some(Single::Ranking(query, texts)),
            (None, Some(texts)) => Some(Single::Texts(texts)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(RequestError::item(
                    "query",
                    "the texts to rank are missing; add them as \"texts\"",
                ));
            }
        };
        let sentences = match (self.source.take(), self.sentences.take()) {
            (Some(source), Some(sentences)) => Some(Single::Similarity(source, sentences)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(RequestError::item(
                    "source_sentence",
                    "the other texts are missing; add them as \"sentences\"",
                ));
            }
            (None, Some(_)) => {
                return Err(RequestError::item(
                    "sentences",
                    "the text to compare with is missing; add it as \"source_sentence\"",
                ));
            }
        };
        let mut given = [text, texts, sentences].into_iter().flatten();
        match (given.next(), given.next()) {
            (single, None) => Ok(single),
            (_, Some(_)) => Err(RequestError::item("the body", MIXED)),
        }
    }
}

const MIXED: &str = "the texts are under several keys that do not belong together";

/// Texts under keys with a specific meaning.
enum Single {
    Text(String, Option<String>),
    Texts(Vec<String>),
    /// A query and the texts to rank.
    Ranking(String, Vec<String>),
    /// A text and the texts to compare with it.
    Similarity(String, Vec<String>),
}
