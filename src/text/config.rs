//! Reads the settings of a tokenizer from the files next to it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::options::Side;

/// The settings of a tokenizer that are not in `tokenizer.json`. The journal stores this struct, so
/// fields that no file sets are omitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// The files that were used, in the order in which they were read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// `model_max_length` of `tokenizer_config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_max_length: Option<usize>,
    /// `max_seq_length` of `sentence_bert_config.json`, or of a `SentenceTransformer` elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,
    /// The number of positions of the model, from `config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding_side: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation_side: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    /// The mask token of a fill-mask model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_input_names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_class: Option<String>,
    /// `do_lower_case` of `tokenizer_config.json`, which overrides the tokenizer file for the
    /// classes of BERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_lower_case: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_accents: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenize_chinese_chars: Option<bool>,
    /// `do_lower_case` of `sentence_bert_config.json`: texts are lowercased before any other step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_texts: Option<bool>,
    /// Whether white space around the texts is removed, as in sentence-transformers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_texts: Option<bool>,
}

/// The reason why a file next to a tokenizer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{file}: invalid JSON: {problem}")]
    Json { file: String, problem: String },
    #[error("{file}: expected a JSON object")]
    NoObject { file: String },
    #[error("{file}: \"{key}\" must be {expected}")]
    Value {
        file: String,
        key: &'static str,
        expected: &'static str,
    },
}

/// Lengths above this one stand for no limit; transformers writes 1e30.
const NO_LIMIT: f64 = 1e15;

impl TokenizerConfig {
    /// Reads one file by its name; false for files that have no settings of a tokenizer. A later
    /// file does not override an earlier one.
    pub fn read(&mut self, file: &str, text: &str) -> Result<bool, ConfigError> {
        let reader = match file {
            "tokenizer_config.json" => Self::read_tokenizer_config,
            "special_tokens_map.json" => Self::read_special_tokens,
            "sentence_bert_config.json"
            | "sentence_roberta_config.json"
            | "sentence_distilbert_config.json"
            | "sentence_camembert_config.json"
            | "sentence_albert_config.json"
            | "sentence_xlm-roberta_config.json"
            | "sentence_xlnet_config.json" => Self::read_sentence_config,
            "config.json" => Self::read_model_config,
            _ => return Ok(false),
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let object = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(ConfigError::NoObject { file: file.to_owned() }),
            Err(error) => {
                return Err(ConfigError::Json {
                    file: file.to_owned(),
                    problem: error.to_string(),
                });
            }
        };
        reader(self, &Source { file, object: &object })?;
        self.files.push(file.to_owned());
        Ok(true)
    }

    fn read_tokenizer_config(&mut self, source: &Source<'_>) -> Result<(), ConfigError> {
        let config = Self {
            model_max_length: source.length("model_max_length")?,
            padding_side: source.side("padding_side")?,
            truncation_side: source.side("truncation_side")?,
            pad_token: source.token("pad_token")?,
            mask_token: source.token("mask_token")?,
            model_input_names: source.names("model_input_names")?,
            tokenizer_class: source.text("tokenizer_class")?,
            do_lower_case: source.switch("do_lower_case")?,
            strip_accents: source.switch("strip_accents")?,
            tokenize_chinese_chars: source.switch("tokenize_chinese_chars")?,
            ..Self::default()
        };
        self.complete(config);
        Ok(())
    }

    fn read_special_tokens(&mut self, source: &Source<'_>) -> Result<(), ConfigError> {
        self.complete(Self {
            pad_token: source.token("pad_token")?,
            mask_token: source.token("mask_token")?,
            ..Self::default()
        });
        Ok(())
    }

    fn read_sentence_config(&mut self, source: &Source<'_>) -> Result<(), ConfigError> {
        self.complete(Self {
            max_seq_length: source.length("max_seq_length")?,
            lower_texts: source.switch("do_lower_case")?,
            strip_texts: Some(true),
            ..Self::default()
        });
        Ok(())
    }

    fn read_model_config(&mut self, source: &Source<'_>) -> Result<(), ConfigError> {
        let mut positions = source.length("max_position_embeddings")?;
        // These models number their positions from the one after the padding token's.
        let kind = source.text("model_type")?;
        let is_shifted = matches!(
            kind.as_deref(),
            Some(
                "roberta"
                    | "xlm-roberta"
                    | "xlm-roberta-xl"
                    | "camembert"
                    | "mpnet"
                    | "longformer"
                    | "data2vec-text"
                    | "xmod"
            )
        );
        if is_shifted {
            let pad = source.length("pad_token_id")?.unwrap_or(1);
            positions = positions.map(|positions| positions.saturating_sub(pad.saturating_add(1)));
        }
        self.complete(Self {
            max_positions: positions.filter(|&positions| positions > 0),
            ..Self::default()
        });
        Ok(())
    }

    /// Copies the fields that are not set from `other`.
    fn complete(&mut self, other: Self) {
        fn fill<T>(value: &mut Option<T>, other: Option<T>) {
            if value.is_none() {
                *value = other;
            }
        }
        fill(&mut self.model_max_length, other.model_max_length);
        fill(&mut self.max_seq_length, other.max_seq_length);
        fill(&mut self.max_positions, other.max_positions);
        fill(&mut self.padding_side, other.padding_side);
        fill(&mut self.truncation_side, other.truncation_side);
        fill(&mut self.pad_token, other.pad_token);
        fill(&mut self.mask_token, other.mask_token);
        fill(&mut self.model_input_names, other.model_input_names);
        fill(&mut self.tokenizer_class, other.tokenizer_class);
        fill(&mut self.do_lower_case, other.do_lower_case);
        fill(&mut self.strip_accents, other.strip_accents);
        fill(&mut self.tokenize_chinese_chars, other.tokenize_chinese_chars);
        fill(&mut self.lower_texts, other.lower_texts);
        fill(&mut self.strip_texts, other.strip_texts);
    }
}

/// The object of a file.
struct Source<'a> {
    file: &'a str,
    object: &'a Map<String, Value>,
}

impl Source<'_> {
    /// Reads a key; `None` if it is missing or null.
    fn read<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| ConfigError::Value {
                file: self.file.to_owned(),
                key,
                expected,
            }),
        }
    }

    /// Reads a number of tokens; `None` for a value that stands for no limit.
    fn length(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        let number = self.read(key, "a number of tokens", |value| {
            value.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0)
        })?;
        let number = number.filter(|number| *number < NO_LIMIT);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number below 1e15"
        )]
        Ok(number.map(|number| number as usize))
    }

    fn side(&self, key: &'static str) -> Result<Option<Side>, ConfigError> {
        self.read(key, "\"left\" or \"right\"", |value| match value.as_str()? {
            "left" => Some(Side::Left),
            "right" => Some(Side::Right),
            _ => None,
        })
    }

    fn text(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.read(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn switch(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Reads a token: its text, or an object that contains it.
    fn token(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.read(key, "a token", |value| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            text.map(str::to_owned)
        })
    }

    fn names(&self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        self.read(key, "a list of names", |value| {
            let names = value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> TokenizerConfig {
        let mut config = TokenizerConfig::default();
        for (file, text) in files {
            assert!(config.read(file, text).unwrap(), "{file}");
        }
        config
    }

    #[test]
    fn the_files_of_a_sentence_model_are_read_together() {
        let config = read(&[
            (
                "tokenizer_config.json",
                r#"{"model_max_length": 512, "padding_side": "right", "do_lower_case": true, "strip_accents": null,
                    "tokenizer_class": "BertTokenizer", "pad_token": {"content": "[PAD]", "lstrip": false},
                    "model_input_names": ["input_ids", "attention_mask"], "added_tokens_decoder": {}}"#,
            ),
            (
                "special_tokens_map.json",
                r#"{"pad_token": "<pad>", "mask_token": "[MASK]"}"#,
            ),
            (
                "sentence_bert_config.json",
                r#"{"max_seq_length": 256, "do_lower_case": false}"#,
            ),
            (
                "config.json",
                r#"{"model_type": "bert", "max_position_embeddings": 512, "architectures": ["BertModel"]}"#,
            ),
        ]);
        assert_eq!(config.model_max_length, Some(512));
        assert_eq!(config.max_seq_length, Some(256));
        assert_eq!(config.max_positions, Some(512));
        assert_eq!(config.padding_side, Some(Side::Right));
        assert_eq!(config.truncation_side, None);
        assert_eq!(config.pad_token.as_deref(), Some("[PAD]"));
        assert_eq!(config.mask_token.as_deref(), Some("[MASK]"));
        assert_eq!(config.do_lower_case, Some(true));
        assert_eq!((config.lower_texts, config.strip_texts), (Some(false), Some(true)));
        assert_eq!(
            config.model_input_names.as_deref(),
            Some(&["input_ids".to_owned(), "attention_mask".to_owned()][..])
        );
        let journal = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TokenizerConfig>(&journal).unwrap(), config);
        assert_eq!(serde_json::to_string(&TokenizerConfig::default()).unwrap(), "{}");
    }

    #[test]
    fn a_length_that_stands_for_no_limit_is_not_a_length() {
        for text in [
            r#"{"model_max_length": 1000000000000000019884624838656}"#,
            r#"{"model_max_length": 1e30}"#,
            r#"{"model_max_length": null}"#,
            "{}",
        ] {
            assert_eq!(
                read(&[("tokenizer_config.json", text)]).model_max_length,
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn positions_of_the_roberta_family_begin_after_the_padding() {
        let config = read(&[(
            "config.json",
            r#"{"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}"#,
        )]);
        assert_eq!(config.max_positions, Some(512));
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let table = [
            (
                "tokenizer_config.json",
                r#"{"model_max_length": "long"}"#,
                "\"model_max_length\" must be a number",
            ),
            (
                "tokenizer_config.json",
                r#"{"model_max_length": -1}"#,
                "\"model_max_length\" must be a number",
            ),
            (
                "tokenizer_config.json",
                r#"{"padding_side": "up"}"#,
                "\"padding_side\" must be \"left\" or \"right\"",
            ),
            (
                "special_tokens_map.json",
                r#"{"pad_token": 3}"#,
                "\"pad_token\" must be a token",
            ),
            (
                "tokenizer_config.json",
                r#"{"model_input_names": [1]}"#,
                "must be a list of names",
            ),
            ("config.json", "[]", "expected a JSON object"),
            ("config.json", "{", "invalid JSON"),
        ];
        for (file, text, problem) in table {
            let error = TokenizerConfig::default().read(file, text).unwrap_err().to_string();
            assert!(error.starts_with(file) && error.contains(problem), "{error}");
        }
        assert_eq!(TokenizerConfig::default().read("vocab.txt", "[PAD]"), Ok(false));
    }
}
