//! Errors and their texts.

use serde_json::json;

use super::toy::Toy;
use super::{floats, settings};
use crate::task::{AnswerSettings, Context, Labels, Output, SentenceModules, Task, Tokens};
use crate::tensor::{DataType, Dim, OutputRows, OutputSpec, Signature, ValueType};

/// The name, type and dimensions of an output; -1 is a dynamic dimension.
type Declared<'a> = (&'a str, DataType, &'a [i64]);

fn signature(outputs: &[Declared<'_>]) -> Signature {
    let dim = |&size: &i64| usize::try_from(size).map_or(Dim::Dynamic(None), Dim::Fixed);
    let outputs = outputs.iter().map(|&(name, data_type, dims)| OutputSpec {
        name: name.to_owned(),
        value_type: ValueType::Tensor {
            data_type,
            dims: Some(dims.iter().map(dim).collect()),
        },
        rows: OutputRows::PerRecord,
    });
    Signature {
        outputs: outputs.collect(),
        ..Signature::default()
    }
}

fn check(task: Task, outputs: &[Declared<'_>], settings: &AnswerSettings) -> Result<(), String> {
    task.check(&signature(outputs), settings, 0)
        .map_err(|error| error.to_string())
}

#[test]
fn accepts_models_that_match_their_task() {
    let usual = AnswerSettings::default();
    let cases: [(Task, &[Declared<'_>]); 14] = [
        (Task::TextClassification, &[("logits", DataType::F32, &[-1, 2])]),
        (
            Task::ImageClassification,
            &[("output", DataType::F16, &[-1, 1000, 1, 1])],
        ),
        (
            Task::ObjectDetection,
            &[
                ("logits", DataType::F32, &[-1, 100, 92]),
                ("pred_boxes", DataType::F32, &[-1, 100, 4]),
            ],
        ),
        (Task::ObjectDetection, &[("output0", DataType::F32, &[1, 84, 8400])]),
        (Task::ObjectDetection, &[("output0", DataType::F32, &[1, 25200, 85])]),
        (Task::ObjectDetection, &[("output0", DataType::F32, &[1, 300, 6])]),
        (
            Task::ObjectDetection,
            &[
                ("boxes", DataType::F32, &[-1, 4]),
                ("labels", DataType::I64, &[-1]),
                ("scores", DataType::F32, &[-1]),
            ],
        ),
        (
            Task::ImageSegmentation,
            &[("logits", DataType::F32, &[-1, 150, -1, -1])],
        ),
        (Task::TokenClassification, &[("logits", DataType::F32, &[-1, -1, 9])]),
        (
            Task::FeatureExtraction,
            &[("last_hidden_state", DataType::F32, &[-1, -1, 384])],
        ),
        (
            Task::SentenceSimilarity,
            &[
                ("last_hidden_state", DataType::F32, &[-1, -1, 384]),
                ("pooler_output", DataType::F32, &[-1, 384]),
            ],
        ),
        (Task::TextRanking, &[("logits", DataType::F32, &[-1, 1])]),
        (Task::FillMask, &[("logits", DataType::F32, &[-1, -1, 30522])]),
        (
            Task::QuestionAnswering,
            &[
                ("start_logits", DataType::F32, &[-1, -1]),
                ("end_logits", DataType::F32, &[-1, -1]),
            ],
        ),
    ];
    for (task, outputs) in cases {
        assert_eq!(check(task, outputs, &usual), Ok(()), "{task}");
    }
}

#[test]
fn rejects_a_model_of_another_task_and_says_what_is_expected() {
    let usual = AnswerSettings::default();
    assert_eq!(
        check(
            Task::TextClassification,
            &[("hidden", DataType::F32, &[-1, -1, 384])],
            &usual
        )
        .unwrap_err(),
        "the outputs do not match text-classification: no output matches; expected one output of numbers of \
         shape [records, classes]; the model has \"hidden\" float32[?, ?, 384]"
    );
    assert_eq!(
        check(Task::ObjectDetection, &[("logits", DataType::F32, &[-1, 1000])], &usual).unwrap_err(),
        "the outputs do not match object-detection: no output matches; expected logits and pred_boxes; or one \
         output of shape [records, boxes, 5 + classes], [records, 4 + classes, boxes] or [records, boxes, 6]; or \
         boxes, scores and labels; the model has \"logits\" float32[?, 1000]"
    );
    let detr = settings(json!({"boxes": "detr"}));
    assert!(
        check(
            Task::ObjectDetection,
            &[("output0", DataType::F32, &[1, 84, 8400])],
            &detr
        )
        .unwrap_err()
        .contains("there are no logits and pred_boxes")
    );
    let masks: &[Declared<'_>] = &[
        ("class_queries_logits", DataType::F32, &[-1, 100, 134]),
        ("masks_queries_logits", DataType::F32, &[-1, 100, -1, -1]),
    ];
    assert!(
        check(Task::ImageSegmentation, masks, &usual)
            .unwrap_err()
            .contains("masks of queries")
    );
    for task in Task::ALL {
        let strings: &[Declared<'_>] = &[("logits", DataType::String, &[-1, 2])];
        assert!(check(task, strings, &usual).is_err(), "{task}");
        assert!(check(task, &[], &usual).is_err(), "{task}");
    }
}

#[test]
fn rejects_a_request_that_cannot_be_answered_and_says_why() {
    let (labels, usual) = (Labels::default(), AnswerSettings::default());
    let logits = floats(&[1, 3, 7], &[0.0; 21]);
    let outputs = [Output {
        name: "logits",
        value: &logits,
    }];
    let toy = Toy {
        tokens: ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "New", "York"]
            .map(ToOwned::to_owned)
            .to_vec(),
        marks: true,
    };
    let fill = |ids: &[u32], keys: serde_json::Value| {
        let settings = settings(keys);
        let tokens = [Tokens {
            ids,
            ..Tokens::default()
        }];
        let context = Context {
            tokens: &tokens,
            vocabulary: Some(&toy),
            ..Context::new(1, &labels, &settings)
        };
        Task::FillMask
            .answer(&outputs, &context)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(fill(&[2, 4, 3], json!({})), Ok(()));
    assert_eq!(
        fill(&[2, 5, 3], json!({})).unwrap_err(),
        "text 1 has no mask; write \"[MASK]\" in place of the word to guess"
    );
    assert_eq!(
        fill(&[2, 4, 3], json!({"targets": ["Paris"]})).unwrap_err(),
        "targets: none is a token of this model"
    );
    let pairs = floats(&[1, 3], &[0.0; 3]);
    let outputs = [Output {
        name: "logits",
        value: &pairs,
    }];
    assert_eq!(
        Task::ZeroShotClassification
            .answer(&outputs, &Context::new(1, &labels, &usual))
            .unwrap_err()
            .to_string(),
        "candidate_labels: expected a list of labels in \"parameters\""
    );
}

#[test]
fn check_rejects_settings_that_do_not_match_the_model() {
    let logits: &[Declared<'_>] = &[("logits", DataType::F32, &[-1, 2])];
    assert_eq!(
        check(Task::TextClassification, logits, &settings(json!({"output": "scores"}))).unwrap_err(),
        "the outputs do not match text-classification: there is no output \"scores\"; expected one output of \
         numbers of shape [records, classes]; the model has \"logits\" float32[?, 2]"
    );
    assert_eq!(
        check(Task::TextClassification, logits, &settings(json!({"pooling": "mean"}))).unwrap_err(),
        "\"pooling\" is not a setting of text-classification; known settings are top_k, function_to_apply, problem_type, output"
    );
    let embeddings: &[Declared<'_>] = &[("sentence_embedding", DataType::F32, &[-1, 384])];
    assert_eq!(
        check(
            Task::SentenceSimilarity,
            embeddings,
            &settings(json!({"dimensions": 512}))
        )
        .unwrap_err(),
        "dimensions: 512 is more than the 384 numbers in the embeddings of this model"
    );
}

const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
]"#;

#[test]
fn reads_pooling_and_normalizing_from_modules_of_sentence_transformers() {
    let read = |path: &str| {
        assert_eq!(path, "1_Pooling/config.json");
        Some(
            r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#
                .to_owned(),
        )
    };
    let modules = SentenceModules::parse(MODULES, read).unwrap();
    assert_eq!(modules.settings, settings(json!({"pooling": "cls", "normalize": true})));
    let tokens = signature(&[("last_hidden_state", DataType::F32, &[-1, -1, 384])]);
    assert_eq!(modules.check(&tokens).unwrap(), modules.settings);
    // The graph already pools and normalizes.
    let pooled = signature(&[("sentence_embedding", DataType::F32, &[-1, 384])]);
    assert_eq!(modules.check(&pooled).unwrap(), AnswerSettings::default());
    let flags = r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#;
    let several = SentenceModules::parse(MODULES, |_| Some(flags.to_owned())).unwrap();
    assert_eq!(
        several.settings.pooling,
        settings(json!({"pooling": ["max", "mean"]})).pooling
    );
    let named = SentenceModules::parse(MODULES, |_| Some(r#"{"pooling_mode": "lasttoken"}"#.to_owned())).unwrap();
    assert_eq!(named.settings.pooling, settings(json!({"pooling": "last"})).pooling);
    assert!(SentenceModules::parse(MODULES, |_| None).is_err());
    assert!(SentenceModules::parse("{}", |_| None).is_err());
}

#[test]
fn rejects_a_dense_module_unless_the_graph_contains_it() {
    let modules = r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
    let modules = SentenceModules::parse(modules, |_| None).unwrap();
    let tokens = signature(&[("last_hidden_state", DataType::F32, &[-1, -1, 384])]);
    assert_eq!(
        modules.check(&tokens).unwrap_err().to_string(),
        "modules.json: the module \"Dense\" in \"2_Dense\" is not supported after the network; export the model with \
         an output sentence_embedding"
    );
    let pooled = signature(&[("sentence_embedding", DataType::F32, &[-1, 384])]);
    assert!(modules.check(&pooled).is_ok());
}

#[test]
fn rejects_outputs_with_the_wrong_number_of_records() {
    let logits = floats(&[3, 2], &[0.0; 6]);
    let (labels, settings) = (Labels::default(), AnswerSettings::default());
    let outputs = [Output {
        name: "logits",
        value: &logits,
    }];
    for task in Task::ALL {
        let error = task.answer(&outputs, &Context::new(2, &labels, &settings));
        assert!(error.is_err(), "{task}");
    }
}
