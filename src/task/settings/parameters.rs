//! The `parameters` of a request: settings of the answer, and parameters for other modules.
//!
//! | key | treatment |
//! |---|---|
//! | a setting of the task | read into [`AnswerSettings`] |
//! | about the input (`truncation`, `padding`, ..) | passed to the module that reads the input |
//! | about other servers (`wait_for_model`, ..) | ignored |
//! | anything else | an error |

use serde_json::{Map, Value as Json};

use super::AnswerSettings;
use super::read::{KEYS, canonical};
use crate::task::Task;
use crate::task::error::{TaskError, nearest};

/// The `parameters` of a request, divided by purpose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    pub settings: AnswerSettings,
    /// The parameters about the input.
    pub input: Map<String, Json>,
}

impl Parameters {
    /// Parameters about the input, which do not affect the answer.
    pub const INPUT: [&str; 14] = [
        "truncation",
        "truncate",
        "truncation_direction",
        "padding",
        "max_length",
        "add_special_tokens",
        "prompt",
        "prompt_name",
        "stride",
        "doc_stride",
        "max_seq_len",
        "max_question_len",
        "sampling_rate",
        "is_split_into_words",
    ];

    /// Parameters that clients send to every server, without a meaning here.
    pub const IGNORED: [&str; 9] = [
        "wait_for_model",
        "use_cache",
        "use_gpu",
        "timeout",
        "batch_size",
        "num_workers",
        "return_tensors",
        "framework",
        "options",
    ];

    /// Reads the parameters of a request for this task.
    pub fn read(task: Task, keys: &Map<String, Json>) -> Result<Self, TaskError> {
        let mut parameters = Self::default();
        for (name, value) in keys {
            let key = canonical(name);
            if Self::IGNORED.contains(&key) {
                continue;
            }
            if Self::INPUT.contains(&key) {
                parameters.input.insert(key.to_owned(), value.clone());
            } else if key == "subtask" && task == Task::ImageSegmentation {
                let is_known = value.is_null() || value.as_str() == Some("semantic");
                if !is_known {
                    let problem = "subtask: only \"semantic\" segmentation is supported";
                    return Err(TaskError::Input(problem.to_owned()));
                }
            } else if task.takes(key) {
                parameters.settings.set(name, value)?;
            } else {
                let known = task.settings();
                let others = Self::INPUT.into_iter();
                return Err(TaskError::UnknownSetting {
                    task,
                    nearest: nearest(name, known.iter().copied().chain(others)),
                    key: name.clone(),
                    known,
                });
            }
        }
        Ok(parameters)
    }
}

impl Task {
    /// The settings of this task.
    pub const fn settings(self) -> &'static [&'static str] {
        match self {
            Self::ImageClassification | Self::TextClassification | Self::AudioClassification => {
                &["top_k", "function_to_apply", "problem_type", "output"]
            }
            Self::ObjectDetection => &[
                "threshold",
                "iou_threshold",
                "top_k",
                "boxes",
                "box_layout",
                "box_unit",
                "function_to_apply",
                "output",
            ],
            Self::ImageSegmentation => &["output"],
            Self::TokenClassification => &["aggregation_strategy", "ignore_labels", "output"],
            Self::FeatureExtraction => &["output"],
            Self::SentenceSimilarity => &["pooling", "normalize", "dimensions", "output"],
            Self::TextRanking => &["top_k", "raw_scores", "return_text", "function_to_apply", "output"],
            Self::FillMask => &["top_k", "targets", "output"],
            Self::ZeroShotClassification => &["candidate_labels", "multi_label", "hypothesis_template", "output"],
            Self::QuestionAnswering => &["top_k", "max_answer_len", "handle_impossible_answer", "align_to_words"],
        }
    }

    fn takes(self, key: &str) -> bool {
        let is_legacy = key == "return_all_scores" && self.settings().contains(&"function_to_apply");
        is_legacy || self.settings().contains(&key)
    }
}

impl AnswerSettings {
    /// Refuses settings of the manifest that the task does not have, when a model is loaded.
    /// `problem_type` is allowed for any task, because it comes from `config.json`.
    pub(in crate::task) fn check(&self, task: Task) -> Result<(), TaskError> {
        let Ok(Json::Object(keys)) = serde_json::to_value(self) else {
            return Ok(());
        };
        let known = task.settings();
        for key in KEYS {
            if keys.contains_key(key) && key != "problem_type" && !known.contains(&key) {
                return Err(TaskError::UnknownSetting {
                    task,
                    key: key.to_owned(),
                    nearest: None,
                    known,
                });
            }
        }
        Ok(())
    }
}
