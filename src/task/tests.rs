//! Compares answers with those of the libraries, and checks properties of any outputs.

mod answers;
mod any;
mod library;
mod refusals;
mod toy;

use serde_json::{Value as Json, json};

use super::*;
use crate::tensor::{Tensor, Value};

/// A tensor of `float32`.
pub(super) fn floats(shape: &[usize], numbers: &[f32]) -> Value {
    Value::Tensor(Tensor::from_vec(shape.to_vec(), numbers.to_vec()).unwrap())
}

/// Parses settings.
pub(super) fn settings(keys: Json) -> AnswerSettings {
    serde_json::from_value(keys).unwrap()
}

/// Parses JSON with Python's names for NaN and the infinities, which become strings.
pub(super) fn read(text: &[u8]) -> Json {
    let text = std::str::from_utf8(text).unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn task_names_survive_a_round_trip() {
    for task in Task::ALL {
        assert_eq!(task.to_string().parse::<Task>().unwrap(), task);
        assert_eq!(serde_json::from_value::<Task>(json!(task)).unwrap(), task);
    }
    for (name, task) in [
        ("sentiment-analysis", Task::TextClassification),
        ("NER", Task::TokenClassification),
        ("image_classification", Task::ImageClassification),
        ("embeddings", Task::SentenceSimilarity),
        ("rerank", Task::TextRanking),
    ] {
        assert_eq!(name.parse::<Task>().unwrap(), task);
    }
}

#[test]
fn an_unknown_task_is_an_error_with_the_nearest_and_all_known_ones() {
    let error = "image-clasification".parse::<Task>().unwrap_err().to_string();
    assert!(error.contains("did you mean \"image-classification\"?"), "{error}");
    for task in Task::ALL {
        assert!(error.contains(task.name()), "{error}");
    }
    let far = "text-to-video-of-the-moon"
        .repeat(100)
        .parse::<Task>()
        .unwrap_err()
        .to_string();
    assert!(!far.contains("did you mean") && far.len() < 600, "{far}");
}

#[test]
fn the_suffix_of_an_architecture_determines_the_task() {
    for (architecture, task) in [
        ("BertForSequenceClassification", Some(Task::TextClassification)),
        ("ViTForImageClassification", Some(Task::ImageClassification)),
        ("DeiTForImageClassificationWithTeacher", Some(Task::ImageClassification)),
        ("XLMRobertaForTokenClassification", Some(Task::TokenClassification)),
        ("DetrForObjectDetection", Some(Task::ObjectDetection)),
        ("SegformerForSemanticSegmentation", Some(Task::ImageSegmentation)),
        ("DistilBertForMaskedLM", Some(Task::FillMask)),
        ("ASTForAudioClassification", Some(Task::AudioClassification)),
        ("RobertaForQuestionAnswering", Some(Task::QuestionAnswering)),
        ("BertModel", Some(Task::FeatureExtraction)),
        ("CLIPTextModelWithProjection", Some(Task::FeatureExtraction)),
        ("GPT2LMHeadModel", None),
        ("LlamaForCausalLM", None),
        ("TapasForQuestionAnswering", None),
        ("Model", None),
    ] {
        assert_eq!(Task::from_architecture(architecture), task, "{architecture}");
    }
    let config = json!({"architectures": [3, "Unheard", "BertModel"]});
    assert_eq!(Task::from_config(&config), Some(Task::FeatureExtraction));
    assert_eq!(Task::from_config(&json!({})), None);
}

#[test]
fn settings_survive_a_round_trip_through_json() {
    let keys = json!({
        "output": "logits", "top_k": 3, "function_to_apply": "sigmoid", "problem_type": "regression",
        "threshold": 0.25, "iou_threshold": 0.5, "boxes": "end-to-end", "box_layout": "yxyx", "box_unit": "parts",
        "aggregation_strategy": "max", "ignore_labels": ["O"], "pooling": ["cls", "lasttoken"], "normalize": true,
        "dimensions": 64, "candidate_labels": ["a"], "multi_label": false, "hypothesis_template": "It is {}.",
        "targets": ["x"], "raw_scores": true, "return_text": true, "max_answer_len": 9,
        "handle_impossible_answer": true, "align_to_words": false
    });
    let read = settings(keys.clone());
    assert_eq!(json!(read), keys);
    assert_eq!(settings(json!({"top_k": null})).top_k, Some(TopK::All));
    assert_eq!(json!(settings(json!({"top_k": null}))), json!({"top_k": null}));
    assert_eq!(json!(AnswerSettings::default()), json!({}));
    assert_eq!(read.clone().over(&AnswerSettings::default()), read);
    assert_eq!(AnswerSettings::default().over(&read), read);
    assert_eq!(read.hypothesis("a {} b"), "It is a {} b.");
    let config = json!({"problem_type": "multi_label_classification", "id2label": {"0": "a"}});
    assert_eq!(
        AnswerSettings::from_config(&config),
        settings(json!({"problem_type": "multi_label_classification"}))
    );
    assert_eq!(
        AnswerSettings::from_config(&json!({"problem_type": null})),
        AnswerSettings::default()
    );
    // The schema has exactly these keys.
    let schema = schemars::schema_for!(AnswerSettings).to_value();
    let mut known: Vec<&str> = schema["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut own: Vec<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
    known.sort_unstable();
    own.sort_unstable();
    assert_eq!(known, own);
}

#[test]
fn an_invalid_setting_is_an_error_with_the_allowed_values() {
    for (keys, text) in [
        (
            json!({"top_k": 0}),
            "top_k: expected a whole number of 1 or more, or null for all, found 0",
        ),
        (
            json!({"top_k": 1.5}),
            "top_k: expected a whole number of 1 or more, or null for all, found 1.5",
        ),
        (
            json!({"threshold": 50}),
            "threshold: expected a number from 0 to 1, found 50",
        ),
        (
            json!({"boxes": "yolo"}),
            "boxes: expected \"detr\", \"yolov5\", \"yolov8\", \"end-to-end\" or \"separate\", found \"yolo\"",
        ),
        (
            json!({"normalize": "yes"}),
            "normalize: expected true or false, found \"yes\"",
        ),
        (
            json!({"hypothesis_template": "It is"}),
            "hypothesis_template: expected a string with {} in place of the label, found \"It is\"",
        ),
        (
            json!({"candidate_labels": " , "}),
            "candidate_labels: expected a list of one or more labels, or a string with commas between them, found \" , \"",
        ),
        (
            json!({"treshold": 1}),
            "unknown setting \"treshold\"; did you mean \"threshold\"?",
        ),
    ] {
        let error = serde_json::from_value::<AnswerSettings>(keys).unwrap_err().to_string();
        assert_eq!(error, text);
    }
}

#[test]
fn parameters_of_a_request_are_divided_by_purpose() {
    let keys = json!({"top_k": 2, "truncation": true, "wait_for_model": true, "use_cache": false});
    let parameters = Parameters::read(Task::TextClassification, keys.as_object().unwrap()).unwrap();
    assert_eq!(parameters.settings, settings(json!({"top_k": 2})));
    assert_eq!(json!(parameters.input), json!({"truncation": true}));
    let all = json!({"return_all_scores": true});
    let parameters = Parameters::read(Task::TextClassification, all.as_object().unwrap()).unwrap();
    assert_eq!(parameters.settings.top_k, Some(TopK::All));
    let aliases = json!({"candidateLabels": "a, b", "multi_class": true});
    let parameters = Parameters::read(Task::ZeroShotClassification, aliases.as_object().unwrap()).unwrap();
    assert_eq!(
        parameters.settings,
        settings(json!({"candidate_labels": ["a", "b"], "multi_label": true}))
    );
    for (task, keys, text) in [
        (
            Task::TextClassification,
            json!({"topK": 1}),
            "\"topK\" is not a setting of text-classification; did you mean \"top_k\"?; known settings are top_k, \
             function_to_apply, problem_type, output",
        ),
        (
            Task::TextClassification,
            json!({"threshold": 0.5}),
            "\"threshold\" is not a setting of text-classification; known settings are top_k, function_to_apply, problem_type, \
             output",
        ),
        (
            Task::ImageSegmentation,
            json!({"subtask": "panoptic"}),
            "subtask: only \"semantic\" segmentation is supported",
        ),
    ] {
        let error = Parameters::read(task, keys.as_object().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}
