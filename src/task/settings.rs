//! The settings of an answer: the manifest's `answer` object and a request's `parameters`.
//!
//! Both have the same keys. The request overrides the manifest; a key that neither sets has the
//! default of the library that named the task. A key that the task does not know is an error that
//! names it and the nearest known one, because ignoring a misspelt key would change answers
//! silently.

mod parameters;
mod read;

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

pub use parameters::Parameters;

/// The settings of an answer. `None` is the default of the task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Map<String, Json>")]
#[schemars(!try_from, deny_unknown_fields)]
pub struct AnswerSettings {
    /// The name of the output to read, if several match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub output: Option<String>,
    /// Maximum entries for each record; `null` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, with = "Option<NonZeroUsize>")]
    pub top_k: Option<TopK>,
    /// The function that converts the outputs to scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub function_to_apply: Option<Function>,
    /// The kind of classification, as in `config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub problem_type: Option<ProblemType>,
    /// The score that a box must exceed, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, range(min = 0, max = 1))]
    pub threshold: Option<f64>,
    /// The maximum overlap of a box with a better box of its class, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, range(min = 0, max = 1))]
    pub iou_threshold: Option<f64>,
    /// The family of networks, which determines the format of the boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub boxes: Option<BoxFamily>,
    /// The order of the numbers of a box, for boxes in a separate output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub box_layout: Option<BoxLayout>,
    /// The unit of the numbers of a box.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub box_unit: Option<BoxUnit>,
    /// The strategy that joins tokens to entities.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub aggregation_strategy: Option<Aggregation>,
    /// The labels of tokens to leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub ignore_labels: Option<Vec<String>>,
    /// The pooling of token embeddings into a sentence embedding. The results of several are
    /// concatenated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub pooling: Option<Vec<Pooling>>,
    /// Whether embeddings are normalized to length 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub normalize: Option<bool>,
    /// The number of leading numbers of an embedding to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub dimensions: Option<NonZeroUsize>,
    /// The labels of a zero-shot classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub candidate_labels: Option<Vec<String>>,
    /// Whether several labels of a zero-shot classification may apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub multi_label: Option<bool>,
    /// The sentence for a label, with `{}` in place of the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub hypothesis_template: Option<String>,
    /// The words that may replace a mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub targets: Option<Vec<String>>,
    /// Whether the scores of a ranking are the unchanged outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub raw_scores: Option<bool>,
    /// Whether a ranking contains its texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub return_text: Option<bool>,
    /// Maximum tokens of an answer to a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub max_answer_len: Option<NonZeroUsize>,
    /// Whether a question may have no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub handle_impossible_answer: Option<bool>,
    /// Whether an answer to a question begins and ends with whole words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub align_to_words: Option<bool>,
}

/// Maximum entries of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopK {
    All,
    Most(NonZeroUsize),
}

impl TopK {
    /// The number of entries out of `count`.
    pub(super) fn of(self, count: usize) -> usize {
        match self {
            Self::All => count,
            Self::Most(most) => most.get().min(count),
        }
    }
}

impl Serialize for TopK {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_none(),
            Self::Most(most) => most.serialize(serializer),
        }
    }
}

/// Defines an enum whose values have names in JSON.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $allowed:literal; $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            pub(super) const ALLOWED: &'static str = $allowed;

            /// The value with this name, in upper or lower case.
            pub(super) fn named(text: &str) -> Option<Self> {
                match text.to_lowercase().as_str() {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

named! {
    /// The function that converts outputs to scores.
    Function, "\"softmax\", \"sigmoid\" or \"none\"";
    Softmax = "softmax",
    Sigmoid = "sigmoid",
    /// The outputs are scores.
    None = "none",
}

named! {
    /// The kind of classification.
    ProblemType, "\"single_label_classification\", \"multi_label_classification\" or \"regression\"";
    SingleLabel = "single_label_classification",
    MultiLabel = "multi_label_classification",
    Regression = "regression",
}

named! {
    /// The family of networks, which determines the format of boxes.
    BoxFamily, "\"detr\", \"yolov5\", \"yolov8\", \"end-to-end\" or \"separate\"";
    /// `logits` of queries, and `pred_boxes` as fractions of the image.
    Detr = "detr",
    /// Rows of centre, size, objectness and classes: YOLOv5, v7.
    YoloV5 = "yolov5",
    /// Columns of centre, size and classes: YOLOv8, v9, 11, 12.
    YoloV8 = "yolov8",
    /// Rows of corners, score and class: YOLOv10 and other graphs with suppression.
    EndToEnd = "end-to-end",
    /// An output for boxes, one for scores, one for classes: torchvision, SSD.
    Separate = "separate",
}

named! {
    /// The order of the numbers of a box.
    BoxLayout, "\"xyxy\", \"yxyx\", \"xywh\" or \"cxcywh\"";
    /// Left, top, right, bottom.
    Corners = "xyxy",
    /// Top, left, bottom, right, as in TensorFlow.
    CornersRowFirst = "yxyx",
    /// Left, top, width, height.
    CornerSize = "xywh",
    /// Centre, width, height.
    CentreSize = "cxcywh",
}

named! {
    /// The unit of the numbers of a box.
    BoxUnit, "\"pixels\" or \"parts\"";
    /// Pixels of the model's input.
    Pixels = "pixels",
    /// Fractions of its width and height, from 0 to 1.
    Parts = "parts",
}

named! {
    /// The strategy that joins tokens to entities.
    Aggregation, "\"none\", \"simple\", \"first\", \"average\" or \"max\"";
    /// Each token separately.
    None = "none",
    /// Adjacent tokens with the same tag are an entity.
    Simple = "simple",
    /// Adjacent words are an entity; a word has the tag of its first token.
    First = "first",
    /// The same; a word has the tag with the best mean score of its tokens.
    Average = "average",
    /// The same; a word has the tag of its token with the highest score.
    Max = "max",
}

named! {
    /// The pooling of token embeddings into a sentence embedding.
    Pooling, "\"cls\", \"mean\", \"max\", \"mean_sqrt_len_tokens\", \"weightedmean\" or \"lasttoken\", or a list of them";
    /// The first token.
    Cls = "cls",
    /// The largest number of all tokens, for each dimension.
    Max = "max",
    Mean = "mean",
    /// The sum divided by the square root of the number of tokens.
    MeanSqrtLen = "mean_sqrt_len_tokens",
    /// The mean with the weights 1, 2, 3 and so on.
    WeightedMean = "weightedmean",
    LastToken = "lasttoken",
}

impl AnswerSettings {
    /// Adds the settings of `below` that are not set.
    pub fn over(self, below: &Self) -> Self {
        let below = below.clone();
        Self {
            output: self.output.or(below.output),
            top_k: self.top_k.or(below.top_k),
            function_to_apply: self.function_to_apply.or(below.function_to_apply),
            problem_type: self.problem_type.or(below.problem_type),
            threshold: self.threshold.or(below.threshold),
            iou_threshold: self.iou_threshold.or(below.iou_threshold),
            boxes: self.boxes.or(below.boxes),
            box_layout: self.box_layout.or(below.box_layout),
            box_unit: self.box_unit.or(below.box_unit),
            aggregation_strategy: self.aggregation_strategy.or(below.aggregation_strategy),
            ignore_labels: self.ignore_labels.or(below.ignore_labels),
            pooling: self.pooling.or(below.pooling),
            normalize: self.normalize.or(below.normalize),
            dimensions: self.dimensions.or(below.dimensions),
            candidate_labels: self.candidate_labels.or(below.candidate_labels),
            multi_label: self.multi_label.or(below.multi_label),
            hypothesis_template: self.hypothesis_template.or(below.hypothesis_template),
            targets: self.targets.or(below.targets),
            raw_scores: self.raw_scores.or(below.raw_scores),
            return_text: self.return_text.or(below.return_text),
            max_answer_len: self.max_answer_len.or(below.max_answer_len),
            handle_impossible_answer: self.handle_impossible_answer.or(below.handle_impossible_answer),
            align_to_words: self.align_to_words.or(below.align_to_words),
        }
    }

    /// Reads the kind of classification from a `config.json` of transformers.
    pub fn from_config(config: &Json) -> Self {
        let kind = config.get("problem_type").and_then(Json::as_str);
        Self {
            problem_type: kind.and_then(ProblemType::named),
            ..Self::default()
        }
    }

    /// The sentence for a candidate label of a zero-shot classification.
    pub fn hypothesis(&self, label: &str) -> String {
        let template = self.hypothesis_template.as_deref().unwrap_or("This example is {}.");
        template.replacen("{}", label, 1)
    }
}
