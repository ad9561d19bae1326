//! Reads texts in a JSON body.
//!
//! A pull parser reads the body. If no text has been read yet, it stops at the first number,
//! boolean or unknown structure in place of a text, so five megabytes of numbers cost only a few
//! bytes of parsing.

mod found;

use std::ops::Range;

use jiter::{Jiter, JiterError, Peek};
use serde_json::{Map, Value};

use self::found::{Found, Key};
use super::{Collected, ReadOptions, RequestError, TextForm, TextInput, TextRequest};
use crate::text::error::excerpt;
use crate::text::limits::TextLimit;

/// Maximum bytes of `parameters` and other values that are read as trees.
const MOST_VALUE_BYTES: usize = 1 << 20;

pub(super) fn read(body: &[u8], options: &ReadOptions) -> Result<Option<TextRequest>, RequestError> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let reader = Reader {
        jiter: Jiter::new(body).with_allow_inf_nan(),
        body,
        pairs: options.pairs,
        has_text: false,
        collected: Collected::new(&options.limits),
    };
    match reader.document() {
        Ok(request) => Ok(Some(request)),
        Err(Stop::NoText) => Ok(None),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// The reason why reading stops early.
enum Stop {
    /// The body holds no texts; another reader may accept it.
    NoText,
    Error(RequestError),
}

impl From<RequestError> for Stop {
    fn from(error: RequestError) -> Self {
        Self::Error(error)
    }
}

struct Reader<'a> {
    jiter: Jiter<'a>,
    body: &'a [u8],
    pairs: bool,
    /// Whether a text has been read; after that, the body must be a request of texts.
    has_text: bool,
    collected: Collected<'a>,
}

impl<'a> Reader<'a> {
    fn document(mut self) -> Result<TextRequest, Stop> {
        let (form, found) = match self.peek()? {
            Peek::String => {
                let text = self.string()?;
                self.collected.push(TextInput::One(text))?;
                (TextForm::One, Found::default())
            }
            Peek::Array => (self.list("")?, Found::default()),
            Peek::Object => self.object()?,
            _ => return Err(Stop::NoText),
        };
        let end = self.jiter.finish();
        end.map_err(|error| self.syntax(&error))?;
        if self.collected.inputs.is_empty() {
            return Err(RequestError::Empty.into());
        }
        let mut request = self.collected.finish(form);
        request.parameters = found.parameters.unwrap_or_default();
        for (key, range) in found.rest {
            let value = value(&key, &self.body[range])?;
            request.rest.insert(key, value);
        }
        Ok(request)
    }

    fn object(&mut self) -> Result<(TextForm, Found), Stop> {
        let mut found = Found::default();
        let mut key = self.first_key()?;
        while let Some(name) = key {
            self.member(&name, &mut found)?;
            key = self.next_key()?;
        }
        let form = found.assemble(&mut self.collected)?.ok_or(Stop::NoText)?;
        Ok((form, found))
    }

    fn member(&mut self, name: &str, found: &mut Found) -> Result<(), Stop> {
        let peek = self.peek()?;
        let Some(key) = Key::of(name) else {
            return self.other(name, peek, found);
        };
        let twice = || RequestError::item(excerpt(name), "duplicate key, or a second key for texts");
        match key {
            Key::Inputs | Key::Instances => {
                if found.form.is_some() {
                    return Err(twice().into());
                }
                let form = match peek {
                    Peek::Array => self.list(name)?,
                    Peek::Object => self.object_of_inputs(name)?,
                    _ => {
                        let text = self.text(name, peek)?;
                        self.collected.push(TextInput::One(text))?;
                        TextForm::One
                    }
                };
                found.form = Some(if key == Key::Instances {
                    TextForm::Instances
                } else {
                    form
                });
            }
            // A list under `text` means the same as one under `inputs`.
            Key::Text if peek == Peek::Array => {
                if found.form.is_some() {
                    return Err(twice().into());
                }
                found.form = Some(self.list(name)?);
            }
            Key::Text | Key::TextPair | Key::Query | Key::Source => {
                let slot = match key {
                    Key::TextPair => &mut found.text_pair,
                    Key::Query => &mut found.query,
                    Key::Source => &mut found.source,
                    _ => &mut found.text,
                };
                if slot.is_some() {
                    return Err(twice().into());
                }
                *slot = Some(self.text(name, peek)?);
            }
            Key::Texts | Key::Sentences => {
                let slot = if key == Key::Texts {
                    &mut found.texts
                } else {
                    &mut found.sentences
                };
                if slot.is_some() {
                    return Err(twice().into());
                }
                *slot = Some(self.texts(name, peek)?);
            }
            Key::Parameters => {
                if found.parameters.is_some() {
                    return Err(twice().into());
                }
                let range = self.skip()?;
                // An error counts only if the body holds texts; parameters of tensors may have any
                // form.
                match value(name, &self.body[range]) {
                    Ok(Value::Object(parameters)) => found.parameters = Some(parameters),
                    Ok(Value::Null) => found.parameters = Some(Map::new()),
                    Ok(_) if self.has_text => {
                        return Err(RequestError::item("parameters", "expected an object").into());
                    }
                    Err(error) if self.has_text => return Err(error.into()),
                    Ok(_) | Err(_) => return Err(Stop::NoText),
                }
            }
        }
        Ok(())
    }

    /// Skips the value of a key without texts.
    fn other(&mut self, name: &str, peek: Peek, found: &mut Found) -> Result<(), Stop> {
        // Arrays of numbers are tensors under the names of inputs.
        if peek == Peek::Array && !self.has_text {
            let mut ahead = self.jiter.clone();
            let first = ahead.known_array();
            if !matches!(first, Ok(None | Some(Peek::String))) {
                return Err(Stop::NoText);
            }
        }
        let range = self.skip()?;
        found.rest.push((name.to_owned(), range));
        Ok(())
    }

    /// Reads the object under `inputs`.
    fn object_of_inputs(&mut self, path: &str) -> Result<TextForm, Stop> {
        let mut found = Found::default();
        let mut key = self.first_key()?;
        while let Some(name) = key {
            match Key::of(&name) {
                Some(Key::Inputs | Key::Instances | Key::Parameters) | None => {
                    return Err(self.unknown(&format!("{path}.{name}")));
                }
                Some(_) => self.member(&name, &mut found)?,
            }
            key = self.next_key()?;
        }
        found.assemble(&mut self.collected)?.ok_or(Stop::NoText)
    }

    /// Reads a list of texts from its bracket.
    fn list(&mut self, path: &str) -> Result<TextForm, Stop> {
        let mut peek = self.jiter.known_array().map_err(|error| self.syntax(&error))?;
        let mut index = 0usize;
        while let Some(first) = peek {
            let path = || format!("{path}[{index}]");
            let input = match first {
                Peek::String => TextInput::One(self.string()?),
                Peek::Array => self.nested(path)?,
                Peek::Object => self.item(path)?,
                _ => return Err(self.no_text(&path(), first)),
            };
            self.collected.push(input)?;
            index += 1;
            peek = self.jiter.array_step().map_err(|error| self.syntax(&error))?;
        }
        Ok(TextForm::List)
    }

    /// Reads a list in a list: a pair, or a text by itself.
    fn nested(&mut self, path: impl Fn() -> String) -> Result<TextInput, Stop> {
        let mut texts = Vec::new();
        let mut peek = self.jiter.known_array().map_err(|error| self.syntax(&error))?;
        while let Some(first) = peek {
            if first != Peek::String || texts.len() == 2 {
                return Err(self.no_text(&format!("{}[{}]", path(), texts.len()), first));
            }
            texts.push(self.string()?);
            peek = self.jiter.array_step().map_err(|error| self.syntax(&error))?;
        }
        let mut texts = texts.into_iter();
        match (texts.next(), texts.next()) {
            (Some(text), None) => Ok(TextInput::One(text)),
            (Some(first), Some(second)) if self.pairs => Ok(TextInput::Pair(first, second)),
            (Some(_), Some(_)) => Err(RequestError::item(
                path(),
                "found a list of two texts, but the model takes single texts; write a pair as {\"text\": .., \"text_pair\": ..}",
            )
            .into()),
            (None, _) => Err(self.unknown(&path())),
        }
    }

    /// Reads an object in a list.
    fn item(&mut self, path: impl Fn() -> String) -> Result<TextInput, Stop> {
        let (mut text, mut pair) = (None, None);
        let mut key = self.first_key()?;
        while let Some(name) = key {
            let path = || format!("{}.{name}", path());
            let slot = match Key::of(&name) {
                Some(Key::Text | Key::Inputs) => &mut text,
                Some(Key::TextPair) => &mut pair,
                _ => return Err(self.unknown(&path())),
            };
            if slot.is_some() {
                return Err(RequestError::item(path(), "duplicate key").into());
            }
            let peek = self.peek()?;
            *slot = Some(self.text(&path(), peek)?);
            key = self.next_key()?;
        }
        match (text, pair) {
            (Some(text), None) => Ok(TextInput::One(text)),
            (Some(text), Some(pair)) => Ok(TextInput::Pair(text, pair)),
            (None, _) => Err(self.unknown(&path())),
        }
    }

    fn texts(&mut self, path: &str, peek: Peek) -> Result<Vec<String>, Stop> {
        if peek != Peek::Array {
            return Err(self.no_text(path, peek));
        }
        let mut texts = Vec::new();
        let mut peek = self.jiter.known_array().map_err(|error| self.syntax(&error))?;
        while let Some(first) = peek {
            if texts.len() >= self.collected.limits.texts {
                return Err(RequestError::TooLarge {
                    exceeded: TextLimit::Texts,
                    what: "texts of a request".to_owned(),
                    given: texts.len() as u64 + 1,
                    limit: self.collected.limits.texts as u64,
                }
                .into());
            }
            let path = format!("{path}[{}]", texts.len());
            texts.push(self.text(&path, first)?);
            peek = self.jiter.array_step().map_err(|error| self.syntax(&error))?;
        }
        Ok(texts)
    }

    fn text(&mut self, path: &str, peek: Peek) -> Result<String, Stop> {
        match peek {
            Peek::String => self.string(),
            _ => Err(self.no_text(path, peek)),
        }
    }

    fn string(&mut self) -> Result<String, Stop> {
        self.has_text = true;
        let text = self.jiter.known_str().map(str::to_owned);
        text.map_err(|error| self.syntax(&error))
    }

    fn peek(&mut self) -> Result<Peek, Stop> {
        let peek = self.jiter.peek();
        peek.map_err(|error| self.syntax(&error))
    }

    fn first_key(&mut self) -> Result<Option<String>, Stop> {
        let key = self.jiter.known_object().map(|key| key.map(str::to_owned));
        key.map_err(|error| self.syntax(&error))
    }

    fn next_key(&mut self) -> Result<Option<String>, Stop> {
        let key = self.jiter.next_key().map(|key| key.map(str::to_owned));
        key.map_err(|error| self.syntax(&error))
    }

    /// Skips a value and returns its range.
    fn skip(&mut self) -> Result<Range<usize>, Stop> {
        let start = self.jiter.current_index();
        let end = self.jiter.next_skip();
        end.map_err(|error| self.syntax(&error))?;
        Ok(start..self.jiter.current_index())
    }

    /// The stop at a value in place of a text.
    #[cold]
    fn no_text(&self, path: &str, peek: Peek) -> Stop {
        if !self.has_text {
            return Stop::NoText;
        }
        let kind = match peek {
            Peek::String => "one text too many",
            Peek::Array => "a list",
            Peek::Object => "an object",
            Peek::Null => "null",
            Peek::True | Peek::False => "a boolean",
            _ => "a number",
        };
        RequestError::item(path, format!("found {kind} where a text is expected")).into()
    }

    #[cold]
    fn unknown(&self, path: &str) -> Stop {
        if !self.has_text {
            return Stop::NoText;
        }
        RequestError::item(
            path,
            "not a text; expected \"...\" or {\"text\": .., \"text_pair\": ..}",
        )
        .into()
    }

    /// The stop at a syntax error. If no text has been read, another reader reports it.
    #[cold]
    fn syntax(&self, error: &JiterError) -> Stop {
        if !self.has_text {
            return Stop::NoText;
        }
        RequestError::json(&self.jiter, error).into()
    }
}

/// Reads a value as a tree.
fn value(key: &str, json: &[u8]) -> Result<Value, RequestError> {
    if json.len() > MOST_VALUE_BYTES {
        return Err(RequestError::TooLarge {
            exceeded: TextLimit::Fixed,
            what: format!("bytes of {}", excerpt(key)),
            given: json.len() as u64,
            limit: MOST_VALUE_BYTES as u64,
        });
    }
    serde_json::from_slice(json).map_err(|error| RequestError::item(excerpt(key), error.to_string()))
}
