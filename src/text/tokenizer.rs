//! The tokenizer, which converts texts to token ids.

mod decode;
mod encode;
mod memory;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::{AddedVocabulary, Encoding, Model, PaddingDirection, Token, TruncationDirection};

use self::memory::Measure;
use super::config::TokenizerConfig;
use super::error::TextError;
use super::file::File;
use super::limits::{FileLimits, TextLimits};
use super::model::{ModelSize, TokenModel};
use super::normalize::Normalize;
use super::options::{Side, TokenizeOptions};
use super::pattern::Clock;
use super::post_process::PostProcess;
use super::pre_tokenize::PreTokenize;

/// A tokenizer with the settings from the files next to it. Immutable and cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    core: Arc<Core>,
    config: Arc<TokenizerConfig>,
}

/// A parsed tokenizer file.
pub(super) struct Core {
    model: TokenModel,
    size: ModelSize,
    added: AddedVocabulary,
    normalize: Normalize,
    pre_tokenize: PreTokenize,
    post_process: PostProcess,
    /// Converts tokens back to text; `None` if they are joined with spaces.
    decoder: Option<DecoderWrapper>,
    /// The names of the steps before and after the model, for people.
    parts: [Option<String>; 3],
    /// From the file's `truncation` and `padding`, except for the strategies.
    max_length: Option<usize>,
    truncation_side: Option<Side>,
    pad_id: Option<u32>,
    pad_type_id: Option<u32>,
    padding_side: Option<Side>,
    /// Whether the type ids of the second text of a pair differ from those of the first.
    makes_types: bool,
    memory: u64,
}

/// Settings that override the file. Tokenizers that differ in them are separate in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Overrides {
    lowercase: Option<bool>,
    strip_accents: Option<bool>,
    chinese_characters: Option<bool>,
}

impl Overrides {
    /// Reads the overrides. Only the classes of BERT have them, as in transformers.
    pub fn new(config: &TokenizerConfig) -> Self {
        const CLASSES: [&str; 12] = [
            "BertTokenizer",
            "DistilBertTokenizer",
            "ElectraTokenizer",
            "MobileBertTokenizer",
            "MPNetTokenizer",
            "LayoutLMTokenizer",
            "LxmertTokenizer",
            "FunnelTokenizer",
            "ConvBertTokenizer",
            "SplinterTokenizer",
            "SqueezeBertTokenizer",
            "RetriBertTokenizer",
        ];
        let class = config.tokenizer_class.as_deref().unwrap_or_default();
        if !CLASSES.contains(&class.strip_suffix("Fast").unwrap_or(class)) {
            return Self::default();
        }
        Self {
            lowercase: config.do_lower_case,
            strip_accents: config.strip_accents,
            chinese_characters: config.tokenize_chinese_chars,
        }
    }

    fn apply(self, normalizer: &mut Value) {
        if normalizer.get("type").and_then(Value::as_str) != Some("BertNormalizer") {
            return;
        }
        let mut set = |key: &str, value: Option<bool>| {
            if let (Some(value), Some(slot)) = (value, normalizer.get_mut(key)) {
                *slot = Value::Bool(value);
            }
        };
        set("lowercase", self.lowercase);
        set("strip_accents", self.strip_accents);
        set("handle_chinese_chars", self.chinese_characters);
    }
}

impl Tokenizer {
    /// Parses a tokenizer file.
    pub fn parse(json: &[u8], config: &TokenizerConfig, limits: &FileLimits) -> Result<Self, TextError> {
        let core = Core::parse(json, Overrides::new(config), limits)?;
        Ok(Self::new(Arc::new(core), config))
    }

    pub(super) fn new(core: Arc<Core>, config: &TokenizerConfig) -> Self {
        Self {
            core,
            config: Arc::new(config.clone()),
        }
    }

    /// Upper bound of the tokenizer's memory, in bytes. Tokenizers for which
    /// [`Tokenizer::is_shared_with`] is true use it once.
    pub fn memory(&self) -> u64 {
        self.core.memory
    }

    /// Whether both share one parsed file.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }

    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// The id of a token, such as `[MASK]`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.core.added.token_to_id(token, &self.core.model)
    }

    /// The text of a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        let added = self.core.added.simple_id_to_token(id);
        added.or_else(|| self.core.model.id_to_token(id))
    }

    /// The number of token ids: the largest id plus one.
    pub fn vocabulary(&self) -> usize {
        let added = self.core.added.get_added_tokens_decoder().keys().max().copied();
        self.core.size.last_id.max(added.unwrap_or(0)) as usize + 1
    }

    /// Whether the type ids of the second text of a pair differ from those of the first.
    pub fn makes_types(&self) -> bool {
        self.core.makes_types
    }

    /// Maximum tokens of a text, including special ones; `None` if nothing limits them.
    pub fn max_length(&self, options: &TokenizeOptions) -> Option<usize> {
        let own = self
            .config
            .max_seq_length
            .or(self.config.model_max_length)
            .or(self.core.max_length);
        let lengths = [
            options.max_length.or(own),
            self.config.max_positions,
            options.fixed_length,
        ];
        lengths.into_iter().flatten().min()
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        let named = self
            .config
            .pad_token
            .as_deref()
            .and_then(|token| self.token_to_id(token));
        named.or(self.core.pad_id)
    }

    fn padding_side(&self, options: &TokenizeOptions) -> Side {
        let sides = [options.padding_side, self.config.padding_side, self.core.padding_side];
        sides.into_iter().flatten().next().unwrap_or_default()
    }

    fn truncation_side(&self, options: &TokenizeOptions) -> Side {
        let sides = [
            options.truncation_side,
            self.config.truncation_side,
            self.core.truncation_side,
        ];
        sides.into_iter().flatten().next().unwrap_or_default()
    }

    /// Describes the steps from a text to its tokens, in order, for people.
    pub fn steps(&self, options: &TokenizeOptions) -> Vec<String> {
        let [normalizer, pre_tokenizer, post_processor] = &self.core.parts;
        let mut steps = Vec::new();
        if self.config.lower_texts == Some(true) {
            steps.push("lowercase the text".to_owned());
        }
        steps.extend(normalizer.as_ref().map(|name| format!("normalize with {name}")));
        steps.extend(pre_tokenizer.as_ref().map(|name| format!("split with {name}")));
        steps.push(format!("{} of {} tokens", self.core.model.name(), self.vocabulary()));
        if let Some(length) = self.max_length(options) {
            steps.push(format!("truncate to {length} tokens"));
        }
        if options.add_special_tokens {
            steps.extend(
                post_processor
                    .as_ref()
                    .map(|name| format!("add special tokens with {name}")),
            );
        }
        let length = match options.fixed_length {
            Some(length) => length.to_string(),
            None => "the longest".to_owned(),
        };
        if let Some(pad) = self.pad_id() {
            let pad = self.id_to_token(pad).unwrap_or_else(|| pad.to_string());
            steps.push(format!("pad with {pad} to {length}"));
        }
        steps
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("steps", &self.steps(&TokenizeOptions::default()))
            .finish_non_exhaustive()
    }
}

impl Core {
    pub fn parse(json: &[u8], overrides: Overrides, limits: &FileLimits) -> Result<Self, TextError> {
        // A panic of the library is reported as an error of the file.
        catch_unwind(AssertUnwindSafe(|| Self::parse_unguarded(json, overrides, limits)))
            .unwrap_or_else(|_| Err(TextError::file("the tokenizer library failed on it")))
    }

    fn parse_unguarded(json: &[u8], overrides: Overrides, limits: &FileLimits) -> Result<Self, TextError> {
        let mut file = File::parse(json, limits)?;
        overrides.apply(&mut file.normalizer);
        let part = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
        let parts = [&file.normalizer, &file.pre_tokenizer, &file.post_processor].map(part);
        let normalize = Normalize::parse(&file.normalizer)?;
        let pre_tokenize = PreTokenize::parse(&file.pre_tokenizer)?;
        let post_process = PostProcess::parse(&file.post_processor)?;

        let mut measure = Measure::new(&file.size);
        file.added_tokens.iter().for_each(|token| measure.added(token));
        let bytes = file.added_tokens.iter().map(|token| token.content.len()).sum();
        let run = normalize.run(bytes, Clock::start(&TextLimits::default()));
        let mut added = AddedVocabulary::new();
        let result = added.add_tokens(file.added_tokens, &file.model, Some(&run));
        run.finish()?;
        result.map_err(|error| TextError::file(format!("added_tokens: {error}")))?;

        let token = |id| Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], id);
        let pair = post_process.apply(token(0), Some(token(1)), true)?;
        let memory = measure.finish(&[&file.normalizer, &file.pre_tokenizer, &file.post_processor]);
        Ok(Self {
            makes_types: pair.get_type_ids().iter().any(|&id| id != 0),
            memory,
            added,
            normalize,
            pre_tokenize,
            post_process,
            decoder: serde_json::from_value(file.decoder).ok(),
            parts,
            max_length: file.truncation.as_ref().map(|truncation| truncation.max_length),
            truncation_side: file.truncation.as_ref().map(|truncation| match truncation.direction {
                TruncationDirection::Left => Side::Left,
                TruncationDirection::Right => Side::Right,
            }),
            pad_id: file.padding.as_ref().map(|padding| padding.pad_id),
            pad_type_id: file.padding.as_ref().map(|padding| padding.pad_type_id),
            padding_side: file.padding.as_ref().map(|padding| match padding.direction {
                PaddingDirection::Left => Side::Left,
                PaddingDirection::Right => Side::Right,
            }),
            model: file.model,
            size: file.size,
        })
    }
}
