//! Property tests for any outputs.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::answers::Resized;
use super::settings;
use super::toy::Toy;
use crate::task::scores::{greatest, softmax, top};
use crate::task::{AnswerSettings, Context, Form, Labels, Output, PlacedPicture, Question, Task, Tokens, detect};
use crate::tensor::{DataType, Tensor, Value};

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -5f32..5.0,
        2 => (-3i8..3).prop_map(f32::from),
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(-0.0), Just(f32::MAX)],
    ]
}

proptest! {
    #[test]
    fn top_finds_the_same_as_sorting(row in vec(number(), 0..60), most in 0usize..70) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&one, &other| {
            let rank = |at: usize| (!row[at].is_nan(), row[at]);
            rank(other).partial_cmp(&rank(one)).unwrap_or(std::cmp::Ordering::Equal)
        });
        order.truncate(most);
        prop_assert_eq!(top(&row, most), order);
        prop_assert_eq!(greatest(&row), top(&row, 1).first().copied());
    }

    #[test]
    fn softmax_returns_probabilities(mut row in vec(-80f32..80.0, 1..60)) {
        softmax(&mut row);
        let sum: f32 = row.iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-4);
        prop_assert!(row.iter().all(|score| (0.0..=1.0).contains(score)));
    }

    #[test]
    fn kept_boxes_of_a_class_do_not_overlap_more_than_the_limit(
        boxes in vec(((0f32..90.0, 0f32..90.0), (0f32..60.0, 0f32..60.0), 0f32..1.0, 0usize..3), 0..80),
        bound in 0f32..1.0,
        most in 1usize..100,
    ) {
        let candidates = detect::testing::candidates(&boxes);
        let kept = detect::testing::suppress(&candidates, bound, most);
        prop_assert!(kept.len() <= most);
        for (at, one) in kept.iter().enumerate() {
            prop_assert!(candidates.contains(one));
            for other in &kept[..at] {
                prop_assert!(other.1 >= one.1);
                prop_assert!(other.2 != one.2 || detect::testing::overlap(one, other) <= bound);
            }
        }
        // Each dropped box overlaps a better one, unless the maximum was reached.
        if kept.len() < most {
            for candidate in candidates.iter().filter(|candidate| !kept.contains(candidate)) {
                let covers = |other: &&detect::testing::Box| {
                    other.1 >= candidate.1 && other.2 == candidate.2
                        && detect::testing::overlap(candidate, other) > bound
                };
                prop_assert!(kept.iter().find(covers).is_some());
            }
        }
    }

    #[test]
    fn outputs_of_any_shape_cause_an_answer_or_an_error(
        task in prop::sample::select(Task::ALL.to_vec()),
        outputs in vec(any_output(), 0..4),
        records in 0usize..4,
        keys in prop::sample::select(any_settings()),
        length in 0usize..6,
        question in 0u8..5,
    ) {
        answer(task, &outputs, records, &keys, length, question);
    }
}

/// An output with a name that tasks search for.
fn any_output() -> impl Strategy<Value = (String, Value)> {
    let names = [
        "logits",
        "scores",
        "boxes",
        "labels",
        "pred_boxes",
        "num_detections",
        "last_hidden_state",
        "sentence_embedding",
        "start_logits",
        "end_logits",
        "output0",
        "probs",
    ];
    let dims = vec(prop_oneof![6 => 0usize..7, 1 => Just(4), 1 => Just(6)], 0..5);
    (prop::sample::select(names.to_vec()), dims, any::<u8>()).prop_flat_map(|(name, dims, kind)| {
        let count = dims.iter().product::<usize>();
        let count = if dims.is_empty() { 1 } else { count };
        vec(number(), count).prop_map(move |numbers| (name.to_owned(), value(kind, &dims, &numbers)))
    })
}

fn value(kind: u8, dims: &[usize], numbers: &[f32]) -> Value {
    let dims = dims.to_vec();
    let tensor = match kind % 8 {
        0 => Tensor::from_vec(
            dims,
            numbers.iter().map(|&number| half::f16::from_f32(number)).collect(),
        ),
        1 => Tensor::from_vec(dims, numbers.iter().map(|&number| f64::from(number)).collect()),
        2 => Tensor::from_vec(dims, numbers.iter().map(|&number| number as i64).collect()),
        3 => Tensor::from_vec(dims, numbers.iter().map(|&number| number as u8).collect()),
        _ => Tensor::from_vec(dims, numbers.to_vec()),
    };
    Value::Tensor(tensor.unwrap())
}

fn any_settings() -> Vec<serde_json::Value> {
    vec![
        json!({}),
        json!({"top_k": null, "threshold": 0.0, "candidate_labels": ["a", "b"]}),
        json!({"top_k": 2, "iou_threshold": 0.0, "multi_label": true, "aggregation_strategy": "average"}),
        json!({"function_to_apply": "sigmoid", "pooling": ["cls", "max", "mean", "lasttoken"], "normalize": true}),
        json!({"boxes": "yolov5", "threshold": 0, "aggregation_strategy": "simple"}),
        json!({"boxes": "yolov8", "threshold": 0, "aggregation_strategy": "max", "dimensions": 2}),
        json!({"boxes": "end-to-end", "threshold": 0, "handle_impossible_answer": true}),
        json!({"boxes": "separate", "threshold": 0, "box_layout": "xywh", "box_unit": "parts"}),
        json!({"boxes": "detr", "function_to_apply": "sigmoid", "targets": ["New"], "raw_scores": true}),
    ]
}

fn answer(
    task: Task,
    outputs: &[(String, Value)],
    records: usize,
    keys: &serde_json::Value,
    length: usize,
    question: u8,
) {
    let outputs: Vec<Output<'_>> = outputs.iter().map(|(name, value)| Output { name, value }).collect();
    let names: Vec<String> = ["O", "B-x", "I-x"].map(ToOwned::to_owned).to_vec();
    let (labels, settings) = (Labels::new(&names), settings(keys.clone()));
    let picture = Resized {
        size: (5, 3),
        input: (4, 4),
    };
    let pictures: Vec<&dyn PlacedPicture> = vec![&picture; records];
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "New", "##er"].map(ToOwned::to_owned);
    let toy = Toy {
        tokens: words.to_vec(),
        marks: length.is_multiple_of(2),
    };
    let ids: Vec<u32> = (0..length).map(|at| [2, 4, 5, 6, 1, 0][at % 6]).collect();
    let attention: Vec<u32> = ids.iter().map(|&id| u32::from(id != 0)).collect();
    let offsets: Vec<(usize, usize)> = (0..length).map(|at| (at, 2 * at)).collect();
    let sequences: Vec<Option<usize>> = ids.iter().map(|&id| (id > 3).then_some(1)).collect();
    let row = Tokens {
        text: "é New",
        ids: &ids,
        attention: &attention,
        special: &[],
        offsets: &offsets,
        words: &[],
        sequences: &sequences,
    };
    let tokens = vec![row; records];
    let texts = vec!["text"; records];
    let rows = vec![1; records];
    let question = match question {
        0 => Question::Similarity,
        1 => Question::Ranking { texts: &texts },
        2 => Question::ZeroShot {
            sequences: &texts[..records / 2],
        },
        3 => Question::Spans { rows: &rows },
        _ => Question::Records,
    };
    let context = Context {
        pictures: &pictures,
        tokens: &tokens,
        vocabulary: Some(&toy),
        question,
        ..Context::new(records, &labels, &settings)
    };
    let Ok(answer) = task.answer(&outputs, &context) else {
        return;
    };
    for form in [Form::One, Form::List] {
        let _ = answer.to_json(form);
    }
    let _ = (answer.to_json_lines(), answer.to_csv(), answer.to_png());
}

#[test]
fn strings_and_booleans_are_refused_by_all_tasks() {
    let (labels, settings) = (Labels::default(), AnswerSettings::default());
    let strings = Tensor::from_strings(vec![1, 1, 1], vec!["x".into()]).unwrap();
    let booleans = Tensor::from_bools(vec![1, 1, 1], vec![1]).unwrap();
    assert_eq!(booleans.data_type(), DataType::Bool);
    for tensor in [strings, booleans] {
        let value = Value::Tensor(tensor);
        for name in ["logits", "boxes", "scores", "start_logits"] {
            let outputs = [Output { name, value: &value }];
            for task in Task::ALL {
                let answer = task.answer(&outputs, &Context::new(1, &labels, &settings));
                assert!(answer.is_err(), "{task}");
            }
        }
    }
}
