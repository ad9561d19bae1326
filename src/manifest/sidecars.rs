//! Reads the files that exporters write next to a model, where they declare the same as a manifest.
//!
//! | file | written by | what is read |
//! |---|---|---|
//! | `MLmodel` | MLflow | the columns of the signature's inputs, in their order |
//! | `config.pbtxt` | people, for Triton | `max_batch_size`, if `dynamic_batching` allows batching |
//! | `config.json` | Hugging Face's libraries | `id2label`, the task of `architectures`, `problem_type` |
//! | `config.json` | timm | `label_names`, the steps of `pretrained_cfg` |
//! | `preprocessor_config.json` | Hugging Face's libraries | the steps for images, or for sound |
//! | `tokenizer_config.json`, `special_tokens_map.json`, `sentence_bert_config.json` | Hugging Face's libraries | lengths, padding, special tokens |
//! | `README.md` | Hugging Face's hub | `pipeline_tag` |
//! | `labels.txt` | people | a label on each line |
//!
//! These files are written for other programs. A file that cannot be interpreted is skipped, and
//! the manifest overrides the values of every file.

use std::num::NonZeroUsize;

use serde::Deserialize;
use serde_json::Value as Json;

use super::{Batching, Column, Manifest};
use crate::audio::AudioProcessor;
use crate::task::Task;
use crate::vision;

/// A file that exporters write next to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    MlModel,
    Triton,
    HuggingFace,
    Preprocessor,
    TokenizerConfig,
    SpecialTokens,
    SentenceBert,
    ModelCard,
    Labels,
}

/// The reason why a file cannot be interpreted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SidecarError(String);

impl Sidecar {
    /// All files; earlier ones take precedence.
    pub const ALL: [Self; 9] = [
        Self::MlModel,
        Self::Triton,
        Self::HuggingFace,
        Self::Preprocessor,
        Self::TokenizerConfig,
        Self::SpecialTokens,
        Self::SentenceBert,
        Self::ModelCard,
        Self::Labels,
    ];

    pub const fn file(self) -> &'static str {
        match self {
            Self::MlModel => "MLmodel",
            Self::Triton => "config.pbtxt",
            Self::HuggingFace => "config.json",
            Self::Preprocessor => "preprocessor_config.json",
            Self::TokenizerConfig => "tokenizer_config.json",
            Self::SpecialTokens => "special_tokens_map.json",
            Self::SentenceBert => "sentence_bert_config.json",
            Self::ModelCard => "README.md",
            Self::Labels => "labels.txt",
        }
    }

    /// Adds the values of the file with this text to `manifest`, where it has none. Returns whether
    /// the file held any.
    pub fn read(self, text: &str, manifest: &mut Manifest) -> Result<bool, SidecarError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match self {
            Self::MlModel => {
                let columns = mlflow_columns(text)?;
                let is_useful = !columns.is_empty();
                if manifest.hints.columns.is_empty() {
                    manifest.hints.columns = columns;
                }
                Ok(is_useful)
            }
            Self::Triton => {
                let batching = triton_batching(text)?;
                manifest.batching = manifest.batching.or(batching);
                Ok(batching.is_some())
            }
            Self::HuggingFace => hugging_face(text, manifest),
            Self::Preprocessor => preprocessor(text, manifest),
            Self::TokenizerConfig | Self::SpecialTokens | Self::SentenceBert => {
                let read = manifest.hints.text.read(self.file(), text);
                read.map_err(|error| SidecarError(error.to_string()))
            }
            Self::ModelCard => {
                let task = pipeline_tag(text).and_then(|tag| tag.parse().ok());
                manifest.hints.task = task.or(manifest.hints.task);
                Ok(task.is_some())
            }
            Self::Labels => {
                let labels = text
                    .lines()
                    .map(|line| line.trim_end_matches('\r').to_owned())
                    .collect();
                Ok(set_labels(manifest, labels))
            }
        }
    }
}

fn set_labels(manifest: &mut Manifest, labels: Vec<String>) -> bool {
    let is_useful = !labels.is_empty();
    if manifest.labels.is_empty() {
        manifest.labels = labels;
    }
    is_useful
}

/// A column of MLflow's signature. Signatures of tensors have no columns.
#[derive(Deserialize)]
struct MlflowColumn {
    name: Option<String>,
    #[serde(rename = "type")]
    kind: String,
}

/// The columns of `signature.inputs`, which is JSON inside a YAML string.
fn mlflow_columns(text: &str) -> Result<Vec<Column>, SidecarError> {
    let Some(json) = yaml_string(text, &["signature", "inputs"]) else {
        return Ok(Vec::new());
    };
    let columns: Vec<MlflowColumn> =
        serde_json::from_str(&json).map_err(|error| SidecarError(format!("signature.inputs: {error}")))?;
    if columns
        .iter()
        .any(|column| column.kind == "tensor" || column.name.is_none())
    {
        return Ok(Vec::new());
    }
    Ok(columns
        .into_iter()
        .filter_map(|column| column.name)
        .map(|name| Column::from(name.as_str()))
        .collect())
}

/// The string at a path of keys in block YAML, as MLflow writes it: a key on each line, a long
/// string folded over several.
fn yaml_string(text: &str, path: &[&str]) -> Option<String> {
    let mut lines = text.lines().peekable();
    let mut indent = None;
    for (depth, wanted) in path.iter().enumerate() {
        loop {
            let line = lines.next()?;
            let key = line.trim_start();
            let own = line.len() - key.len();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            // A deeper line belongs to a sibling key; a shallower one ends the parent.
            let expected = *indent.get_or_insert(if depth == 0 { 0 } else { own });
            if own > expected {
                continue;
            }
            if own < expected {
                return None;
            }
            let Some(rest) = key.strip_prefix(wanted).and_then(|rest| rest.strip_prefix(':')) else {
                continue;
            };
            if depth + 1 < path.len() {
                indent = None;
                break;
            }
            let mut value = rest.trim().to_owned();
            while let Some(next) = lines.peek() {
                let more = next.trim_start();
                if more.is_empty() || next.len() - more.len() <= own {
                    break;
                }
                // In double quotes, a backslash at the end of a line joins it to the next one
                // without a space.
                if value.starts_with('"') && value.ends_with('\\') {
                    value.pop();
                } else {
                    value.push(' ');
                }
                value.push_str(more.trim_end());
                lines.next();
            }
            return unquoted(&value);
        }
    }
    None
}

/// Decodes a YAML scalar.
fn unquoted(scalar: &str) -> Option<String> {
    if let Some(inner) = scalar.strip_prefix('\'') {
        return Some(inner.strip_suffix('\'')?.replace("''", "'"));
    }
    if scalar.starts_with('"') {
        // The same as a JSON string, except for the space at a fold, which YAML escapes.
        return serde_json::from_str(&scalar.replace("\\ ", " ")).ok();
    }
    Some(scalar.to_owned())
}

/// The batch limit in Triton's configuration.
fn triton_batching(text: &str) -> Result<Option<Batching>, SidecarError> {
    let mut depth = 0usize;
    let (mut most, mut is_dynamic, mut is_size) = (None, false, false);
    for word in words(text) {
        match word {
            "{" | "[" => depth += 1,
            "}" | "]" => {
                let above = depth.checked_sub(1);
                depth = above.ok_or_else(|| SidecarError("a closing bracket has no opening bracket".to_owned()))?;
            }
            ":" | "," | ";" => {}
            value if is_size => {
                let number = value.parse::<usize>();
                most = Some(
                    number.map_err(|_| SidecarError(format!("max_batch_size: expected a number, found {value:?}")))?,
                );
                is_size = false;
            }
            name if depth == 0 => {
                is_size = name == "max_batch_size";
                is_dynamic |= name == "dynamic_batching";
            }
            _ => {}
        }
    }
    let most = most.and_then(NonZeroUsize::new);
    Ok(most.filter(|_| is_dynamic).map(|most| Batching::Allowed(Some(most))))
}

/// Splits a text in Protocol Buffers format into words: names and numbers, quoted strings, and each
/// punctuation mark.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            match rest.strip_prefix('#') {
                Some(comment) => rest = comment.split_once('\n').map_or("", |(_, after)| after),
                None => break,
            }
        }
        let first = rest.chars().next()?;
        let length = match first {
            '"' | '\'' => string_length(rest, first),
            _ => {
                let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.');
                rest.find(|c| !is_part(c)).unwrap_or(rest.len()).max(first.len_utf8())
            }
        };
        let (word, after) = rest.split_at(length);
        rest = after;
        Some(word)
    })
}

/// Length in bytes of the string at the start of `text`, with both quotes.
fn string_length(text: &str, quote: char) -> usize {
    let mut is_escaped = true;
    for (at, character) in text.char_indices() {
        if character == quote && !is_escaped {
            return at + character.len_utf8();
        }
        // The opening quote counts as escaped.
        is_escaped = character == '\\' && !is_escaped;
    }
    text.len()
}

/// Reads `config.json` of Hugging Face's libraries, or of timm.
fn hugging_face(text: &str, manifest: &mut Manifest) -> Result<bool, SidecarError> {
    let config: Json = serde_json::from_str(text).map_err(|error| SidecarError(error.to_string()))?;
    let mut is_useful = set_labels(manifest, labels_of(&config));
    if let Some(task) = Task::from_config(&config) {
        manifest.hints.task = Some(task);
        is_useful = true;
    }
    if let Some(kind) = config
        .get("problem_type")
        .and_then(|kind| serde_json::from_value(kind.clone()).ok())
    {
        manifest.hints.answer.problem_type = Some(kind);
    }
    manifest
        .hints
        .text
        .read("config.json", text)
        .map_err(|error| SidecarError(error.to_string()))?;
    // timm keeps the steps for images in this file.
    if config.get("pretrained_cfg").is_some() || config.get("input_size").is_some() {
        let image = vision::Processor::parse(text).map_err(|error| SidecarError(error.to_string()))?;
        is_useful |= image.is_some();
        if image.is_some() && manifest.hints.task.is_none() {
            manifest.hints.task = Some(Task::ImageClassification);
        }
        manifest.hints.image = image.or(manifest.hints.image.take());
    }
    Ok(is_useful)
}

/// Reads the steps of `preprocessor_config.json`, for images or for sound.
fn preprocessor(text: &str, manifest: &mut Manifest) -> Result<bool, SidecarError> {
    if let Some(image) = vision::Processor::parse(text).map_err(|error| SidecarError(error.to_string()))? {
        manifest.hints.image = Some(image);
        return Ok(true);
    }
    let audio = AudioProcessor::parse(text).map_err(|error| SidecarError(error.to_string()))?;
    let is_useful = audio.is_some();
    manifest.hints.audio = audio.or(manifest.hints.audio.take());
    Ok(is_useful)
}

/// The value of `pipeline_tag` in the front matter of a model card.
fn pipeline_tag(card: &str) -> Option<&str> {
    let mut lines = card.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let lines = lines.take_while(|line| line.trim_end() != "---");
    let tag = lines.filter_map(|line| line.strip_prefix("pipeline_tag:")).next()?;
    Some(tag.trim().trim_matches(['"', '\'']))
}

/// The labels of `id2label`, if its keys are consecutive numbers from 0, or timm's `label_names`.
fn labels_of(config: &Json) -> Vec<String> {
    if let Some(Json::Object(labels)) = config.get("id2label") {
        let label = |number: usize| labels.get(&number.to_string())?.as_str().map(ToOwned::to_owned);
        return (0..labels.len()).map(label).collect::<Option<_>>().unwrap_or_default();
    }
    let timm = config.get("pretrained_cfg").and_then(|own| own.get("label_names"));
    let names = config.get("label_names").or(timm).and_then(Json::as_array);
    let names = names
        .into_iter()
        .flatten()
        .map(|name| name.as_str().map(ToOwned::to_owned));
    names.collect::<Option<_>>().unwrap_or_default()
}
