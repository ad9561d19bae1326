//! The keys of a body that have its texts, and what they are for together.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::text::request::{Collected, RequestError, TextForm, TextInput};

/// The keys under which a body has its texts.
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

/// Texts by the key they stood under; what they are for is known at the end of the object.
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
    /// Keys that are none of the above, and where their values are.
    pub rest: Vec<(String, Range<usize>)>,
}

impl Found {
    /// Adds the texts that stood under several keys; `None` where there are none at all.
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

    /// The one thing that the keys say together.
    fn single(&mut self) -> Result<Option<Single>, RequestError> {
        let text = match (self.text.take(), self.text_pair.take()) {
            (Some(text), pair) => Some(Single::Text(text, pair)),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(RequestError::item(
                    "text_pair",
                    "the first text of the pair is missing; give it as \"text\"",
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
                    "the texts to rank are missing; give them as \"texts\"",
                ));
            }
        };
        let sentences = match (self.source.take(), self.sentences.take()) {
            (Some(source), Some(sentences)) => Some(Single::Similarity(source, sentences)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(RequestError::item(
                    "source_sentence",
                    "the other texts are missing; give them as \"sentences\"",
                ));
            }
            (None, Some(_)) => {
                return Err(RequestError::item(
                    "sentences",
                    "the text to compare with is missing; give it as \"source_sentence\"",
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

const MIXED: &str = "texts are given under several keys that do not belong together";

/// Texts that stood under keys of their own.
enum Single {
    Text(String, Option<String>),
    Texts(Vec<String>),
    /// A query, and the texts to rank by it.
    Ranking(String, Vec<String>),
    /// A text, and those to compare with it.
    Similarity(String, Vec<String>),
}
