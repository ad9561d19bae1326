//! Reads `tokenizer.json` in one pass.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};
use tokenizers::{AddedToken, PaddingParams, TruncationParams};

use super::error::TextError;
use super::limits::{FileLimits, STEP_VALUES, TOKEN_BYTES};
use super::model::{ModelSeed, ModelSize, TokenModel};

/// The parts of a tokenizer file.
#[derive(Debug)]
pub(super) struct File {
    pub model: TokenModel,
    pub size: ModelSize,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub post_processor: Value,
    pub decoder: Value,
    pub added_tokens: Vec<AddedToken>,
    pub truncation: Option<TruncationParams>,
    pub padding: Option<PaddingParams>,
}

impl File {
    pub fn parse(json: &[u8], limits: &FileLimits) -> Result<Self, TextError> {
        if json.len() > limits.bytes {
            return Err(TextError::FileTooLarge {
                what: "bytes",
                given: json.len() as u64,
                limit: limits.bytes as u64,
            });
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let file = FileVisitor(limits).deserialize(&mut reader).map_err(TextError::file)?;
        reader.end().map_err(TextError::file)?;
        Ok(file)
    }
}

struct FileVisitor<'a>(&'a FileLimits);

impl<'de> DeserializeSeed<'de> for FileVisitor<'_> {
    type Value = File;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<File, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FileVisitor<'_> {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tokenizer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        let budget = Cell::new(STEP_VALUES);
        let mut model = None;
        let (mut normalizer, mut pre_tokenizer, mut post_processor) = (Value::Null, Value::Null, Value::Null);
        let mut decoder = Value::Null;
        let mut added_tokens = Vec::new();
        let (mut truncation, mut padding) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => {
                    let version: String = map.next_value()?;
                    if version != "1.0" {
                        return Err(A::Error::custom("expected \"version\" 1.0"));
                    }
                }
                "model" => model = Some(map.next_value_seed(ModelSeed(self.0))?),
                "normalizer" => normalizer = map.next_value_seed(Bounded(&budget))?,
                "pre_tokenizer" => pre_tokenizer = map.next_value_seed(Bounded(&budget))?,
                "decoder" => decoder = map.next_value_seed(Bounded(&budget))?,
                "post_processor" => post_processor = map.next_value_seed(Bounded(&budget))?,
                "added_tokens" => added_tokens = map.next_value_seed(AddedSeed(self.0))?,
                "truncation" => truncation = map.next_value()?,
                "padding" => padding = map.next_value()?,
                _ => {
                    map.next_value::<de::IgnoredAny>()?;
                }
            }
        }
        let (model, size) = model.ok_or_else(|| A::Error::custom("it has no \"model\""))?;
        Ok(File {
            model,
            size,
            normalizer,
            pre_tokenizer,
            post_processor,
            decoder,
            added_tokens,
            truncation,
            padding,
        })
    }
}

/// Reads `added_tokens`.
struct AddedSeed<'a>(&'a FileLimits);

impl<'de> DeserializeSeed<'de> for AddedSeed<'_> {
    type Value = Vec<AddedToken>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<AddedToken>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AddedSeed<'_> {
    type Value = Vec<AddedToken>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<AddedToken>, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = list.next_element::<Added>()? {
            if tokens.len() == self.0.added_tokens {
                let most = self.0.added_tokens;
                return Err(A::Error::custom(format!("it has more than {most} added tokens")));
            }
            if token.content.len() > TOKEN_BYTES {
                return Err(A::Error::custom(format!(
                    "an added token is longer than {TOKEN_BYTES} bytes"
                )));
            }
            tokens.push(AddedToken {
                content: token.content,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                normalized: token.normalized,
                special: token.special,
            });
        }
        Ok(tokens)
    }
}

/// An added token. The library requires `id` but does not use it.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "id")]
    _id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// Reads any value, until the budget of values is used up.
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    fn count<E: Error>(&self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        let left = left.ok_or_else(|| {
            E::custom(format!(
                "the normalizer, pre-tokenizer and post-processor have more than {STEP_VALUES} values"
            ))
        })?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Bounded(self.0))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Bounded(self.0))?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}
