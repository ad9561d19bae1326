//! Reads settings from JSON; errors name the key and the allowed values.

use std::num::NonZeroUsize;

use serde_json::{Map, Value as Json};

use super::{Aggregation, AnswerSettings, BoxFamily, BoxLayout, BoxUnit, Function, Pooling, ProblemType, TopK};
use crate::task::error::{SettingError, nearest};

/// The keys of [`AnswerSettings`].
pub(super) const KEYS: [&str; 23] = [
    "output",
    "top_k",
    "function_to_apply",
    "problem_type",
    "threshold",
    "iou_threshold",
    "boxes",
    "box_layout",
    "box_unit",
    "aggregation_strategy",
    "ignore_labels",
    "pooling",
    "normalize",
    "dimensions",
    "candidate_labels",
    "multi_label",
    "hypothesis_template",
    "targets",
    "raw_scores",
    "return_text",
    "max_answer_len",
    "handle_impossible_answer",
    "align_to_words",
];

/// Aliases of keys in libraries and clients.
const ALIASES: [(&str, &str); 13] = [
    ("topk", "top_k"),
    ("top_n", "top_k"),
    ("max_detections", "top_k"),
    ("iou", "iou_threshold"),
    ("confidence", "threshold"),
    ("normalize_embeddings", "normalize"),
    ("truncate_dim", "dimensions"),
    ("pooling_mode", "pooling"),
    ("candidateLabels", "candidate_labels"),
    ("multi_class", "multi_label"),
    ("hypothesisTemplate", "hypothesis_template"),
    ("max_answer_length", "max_answer_len"),
    ("return_documents", "return_text"),
];

/// The key for an alias, or `name` itself.
pub(super) fn canonical(name: &str) -> &str {
    ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |&(_, key)| key)
}

impl TryFrom<Map<String, Json>> for AnswerSettings {
    type Error = SettingError;

    fn try_from(keys: Map<String, Json>) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        for (name, value) in &keys {
            settings.set(name, value)?;
        }
        Ok(settings)
    }
}

const WHOLE: &str = "a whole number of 1 or more";
const PART: &str = "a number from 0 to 1";
const SWITCH: &str = "true or false";
const TEXT: &str = "a string";
const TEXTS: &str = "a list of strings";
const LABELS: &str = "a list of one or more labels, or a string with commas between them";

impl AnswerSettings {
    /// Sets one key. `null` means the default, except for `top_k`, where it means all entries.
    pub(in crate::task) fn set(&mut self, name: &str, value: &Json) -> Result<(), SettingError> {
        let unknown = || SettingError::Unknown {
            key: name.to_owned(),
            nearest: nearest(name, KEYS),
        };
        let name = canonical(name);
        let key = KEYS.into_iter().find(|key| *key == name);
        // An old parameter that asks for all labels.
        if name == "return_all_scores" {
            let all = read("return_all_scores", SWITCH, value, Json::as_bool)?;
            self.top_k = all.map(|all| if all { TopK::All } else { TopK::Most(NonZeroUsize::MIN) });
            return Ok(());
        }
        let Some(key) = key else { return Err(unknown()) };
        match key {
            "output" => self.output = read(key, TEXT, value, text)?,
            "top_k" => {
                let most = read(key, "a whole number of 1 or more, or null for all", value, whole)?;
                self.top_k = Some(most.map_or(TopK::All, TopK::Most));
            }
            "function_to_apply" => {
                self.function_to_apply = read(key, Function::ALLOWED, value, |json| Function::named(json.as_str()?))?;
            }
            "problem_type" => {
                self.problem_type = read(key, ProblemType::ALLOWED, value, |json| {
                    ProblemType::named(json.as_str()?)
                })?;
            }
            "threshold" => self.threshold = read(key, PART, value, part)?,
            "iou_threshold" => self.iou_threshold = read(key, PART, value, part)?,
            "boxes" => self.boxes = read(key, BoxFamily::ALLOWED, value, |json| BoxFamily::named(json.as_str()?))?,
            "box_layout" => {
                self.box_layout = read(key, BoxLayout::ALLOWED, value, |json| BoxLayout::named(json.as_str()?))?;
            }
            "box_unit" => self.box_unit = read(key, BoxUnit::ALLOWED, value, |json| BoxUnit::named(json.as_str()?))?,
            "aggregation_strategy" => {
                let named = |json: &Json| Aggregation::named(json.as_str()?);
                self.aggregation_strategy = read(key, Aggregation::ALLOWED, value, named)?;
            }
            "ignore_labels" => self.ignore_labels = read(key, TEXTS, value, texts)?,
            "pooling" => self.pooling = read(key, Pooling::ALLOWED, value, poolings)?,
            "normalize" => self.normalize = read(key, SWITCH, value, Json::as_bool)?,
            "dimensions" => self.dimensions = read(key, WHOLE, value, whole)?,
            "candidate_labels" => self.candidate_labels = read(key, LABELS, value, labels)?,
            "multi_label" => self.multi_label = read(key, SWITCH, value, Json::as_bool)?,
            "hypothesis_template" => {
                let template = |json: &Json| text(json).filter(|text| text.contains("{}"));
                self.hypothesis_template = read(key, "a string with {} in place of the label", value, template)?;
            }
            "targets" => self.targets = read(key, "a string or a list of one or more of them", value, targets)?,
            "raw_scores" => self.raw_scores = read(key, SWITCH, value, Json::as_bool)?,
            "return_text" => self.return_text = read(key, SWITCH, value, Json::as_bool)?,
            "max_answer_len" => self.max_answer_len = read(key, WHOLE, value, whole)?,
            "handle_impossible_answer" => {
                self.handle_impossible_answer = read(key, SWITCH, value, Json::as_bool)?;
            }
            "align_to_words" => self.align_to_words = read(key, SWITCH, value, Json::as_bool)?,
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

fn read<T>(
    key: &'static str,
    allowed: &'static str,
    value: &Json,
    of: impl Fn(&Json) -> Option<T>,
) -> Result<Option<T>, SettingError> {
    if value.is_null() {
        return Ok(None);
    }
    match of(value) {
        Some(value) => Ok(Some(value)),
        None => Err(SettingError::Value {
            key,
            allowed,
            given: value.to_string(),
        }),
    }
}

fn whole(json: &Json) -> Option<NonZeroUsize> {
    NonZeroUsize::new(usize::try_from(json.as_u64()?).ok()?)
}

fn part(json: &Json) -> Option<f64> {
    json.as_f64().filter(|number| (0.0..=1.0).contains(number))
}

fn text(json: &Json) -> Option<String> {
    json.as_str().map(ToOwned::to_owned)
}

fn texts(json: &Json) -> Option<Vec<String>> {
    json.as_array()?.iter().map(text).collect()
}

/// One string, or a list that is not empty.
fn targets(json: &Json) -> Option<Vec<String>> {
    match json {
        Json::String(one) => Some(vec![one.clone()]),
        list => texts(list).filter(|list| !list.is_empty()),
    }
}

fn labels(json: &Json) -> Option<Vec<String>> {
    let labels = match json {
        Json::String(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(ToOwned::to_owned).collect()
        }
        list => texts(list)?,
    };
    (!labels.is_empty()).then_some(labels)
}

fn poolings(json: &Json) -> Option<Vec<Pooling>> {
    let one = |json: &Json| {
        let name = json.as_str()?;
        match name.to_lowercase().as_str() {
            "last" | "last_token" | "last-token" => Some(Pooling::LastToken),
            "mean_sqrt_len" => Some(Pooling::MeanSqrtLen),
            name => Pooling::named(name),
        }
    };
    match json {
        Json::Array(list) if list.is_empty() => None,
        Json::Array(list) => list.iter().map(one).collect(),
        name => Some(vec![one(name)?]),
    }
}
