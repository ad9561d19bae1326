//! The formats of answers in responses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{floats, read, settings};
use crate::task::{
    Answer, AnswerSettings, Context, EncodingFormat, Form, Labels, Output, PlacedPicture, Question, Task,
};
use crate::tensor::Value;

fn answer(task: Task, name: &str, value: &Value, records: usize, labels: &[&str], settings: &AnswerSettings) -> Answer {
    let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
    let labels = Labels::new(&labels);
    let outputs = [Output { name, value }];
    task.answer(&outputs, &Context::new(records, &labels, settings))
        .unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn labels_are_written_as_lists_lines_or_cells() {
    let scores = floats(&[2, 2], &[0.25, 0.75, 0.5, f32::NAN]);
    let two = settings(json!({"top_k": 2}));
    let labels = ["a \"b\"", "c,d"];
    let many = answer(Task::TextClassification, "probs", &scores, 2, &labels, &two);
    let first = r#"[{"label":"c,d","score":0.75},{"label":"a \"b\"","score":0.25}]"#;
    let second = r#"[{"label":"a \"b\"","score":0.5},{"label":"c,d","score":NaN}]"#;
    assert_eq!(text(many.to_json(Form::List).unwrap()), format!("[{first},{second}]"));
    assert_eq!(text(many.to_json_lines().unwrap()), format!("{first}\n{second}\n"));
    assert_eq!(
        text(many.to_csv().unwrap()),
        "\"c,d\",0.75,\"a \"\"b\"\"\",0.25\n\"a \"\"b\"\"\",0.5,\"c,d\",nan\n"
    );
    let one = answer(
        Task::TextClassification,
        "probs",
        &scores,
        2,
        &labels,
        &AnswerSettings::default(),
    );
    assert_eq!(
        text(one.to_json_lines().unwrap()),
        "{\"label\":\"c,d\",\"score\":0.75}\n{\"label\":\"a \\\"b\\\"\",\"score\":0.5}\n"
    );
}

#[test]
fn embeddings_are_written_in_the_formats_of_several_clients() {
    let numbers = floats(&[2, 2], &[0.1, -2.5, 3.0, f32::INFINITY]);
    let embeddings = answer(
        Task::SentenceSimilarity,
        "sentence_embedding",
        &numbers,
        2,
        &[],
        &AnswerSettings::default(),
    );
    assert_eq!(
        text(embeddings.to_json(Form::List).unwrap()),
        "[[0.1,-2.5],[3.0,Infinity]]"
    );
    assert_eq!(
        text(embeddings.to_json_lines().unwrap()),
        "[0.1,-2.5]\n[3.0,Infinity]\n"
    );
    assert_eq!(text(embeddings.to_csv().unwrap()), "0.1,-2.5\n3.0,inf\n");
    assert_eq!(
        text(embeddings.to_open_ai("mini", 7, EncodingFormat::Float).unwrap()),
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2.5]},{"object":"embedding","index":1,"embedding":[3.0,Infinity]}],"model":"mini","usage":{"prompt_tokens":7,"total_tokens":7}}"#
    );
    let encoded = read(&embeddings.to_open_ai("mini", 7, EncodingFormat::Base64).unwrap());
    let bytes = STANDARD
        .decode(encoded["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    assert_eq!(bytes, [0.1f32.to_le_bytes(), (-2.5f32).to_le_bytes()].concat());
    assert!(embeddings.to_png().is_err());
}

#[test]
fn similarities_and_rankings_are_one_answer_to_all_records() {
    let numbers = floats(&[3, 2], &[1.0, 0.0, 0.0, 2.0, -3.0, 0.0]);
    let (labels, settings) = (Labels::default(), AnswerSettings::default());
    let outputs = [Output {
        name: "embeddings",
        value: &numbers,
    }];
    let context = Context {
        question: Question::Similarity,
        ..Context::new(3, &labels, &settings)
    };
    let near = Task::SentenceSimilarity.answer(&outputs, &context).unwrap();
    assert_eq!(text(near.to_json(Form::One).unwrap()), "[0.0,-1.0]");
    assert_eq!(text(near.to_csv().unwrap()), "0.0\n-1.0\n");
    let logits = floats(&[3, 1], &[f32::NEG_INFINITY, 0.0, 50.0]);
    let outputs = [Output {
        name: "logits",
        value: &logits,
    }];
    let context = Context {
        question: Question::Ranking {
            texts: &["a", "b", "c"],
        },
        ..context
    };
    let ranked = Task::TextRanking.answer(&outputs, &context).unwrap();
    assert_eq!(
        text(ranked.to_json(Form::One).unwrap()),
        r#"[{"index":2,"score":1.0},{"index":1,"score":0.5},{"index":0,"score":0.0}]"#
    );
    assert_eq!(text(ranked.to_csv().unwrap()), "2,1.0\n1,0.5\n0,0.0\n");
}

/// An image that is only resized.
pub(super) struct Resized {
    pub size: (u32, u32),
    pub input: (u32, u32),
}

impl PlacedPicture for Resized {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn input_size(&self) -> (u32, u32) {
        self.input
    }
}

fn segmented(classes: &[i64], width: usize, names: &[&str]) -> Answer {
    let height = classes.len() / width;
    let tensor = crate::tensor::Tensor::from_vec(vec![1, height, width], classes.to_vec()).unwrap();
    let value = Value::Tensor(tensor);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let (labels, settings) = (Labels::new(&names), AnswerSettings::default());
    let size = (u32::try_from(width).unwrap(), u32::try_from(height).unwrap());
    let picture = Resized { size, input: size };
    let pictures: [&dyn PlacedPicture; 1] = [&picture];
    let context = Context {
        pictures: &pictures,
        ..Context::new(1, &labels, &settings)
    };
    let outputs = [Output {
        name: "classes",
        value: &value,
    }];
    Task::ImageSegmentation.answer(&outputs, &context).unwrap()
}

#[test]
fn a_class_map_is_a_grey_image_or_a_mask_for_each_class() {
    let answer = segmented(&[0, 2, 2, 0, 0, 2], 3, &["wall", "floor", "sky"]);
    let png = answer.to_png().unwrap();
    let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
    assert_eq!(picture.color(), image::ColorType::L8);
    assert_eq!(picture.as_bytes(), [0, 2, 2, 0, 0, 2]);
    let json = read(&answer.to_json(Form::One).unwrap());
    assert_eq!(json[0]["label"], "wall");
    assert_eq!(json[0]["score"], json!(null));
    assert_eq!(json[1]["label"], "sky");
    assert_eq!(json.as_array().unwrap().len(), 2);
    let mask = STANDARD.decode(json[1]["mask"].as_str().unwrap()).unwrap();
    let mask = image::load_from_memory_with_format(&mask, image::ImageFormat::Png).unwrap();
    assert_eq!(mask.as_bytes(), [0, 255, 255, 0, 0, 255]);
    assert_eq!(
        answer.to_csv().unwrap_err().to_string(),
        "the answer of image-segmentation cannot be written as text/csv: a record is an image; accept image/png or \
         application/json"
    );
}

#[test]
fn a_class_map_with_many_classes_has_sixteen_bits() {
    let answer = segmented(&[0, 300, 65_535, 7], 2, &[]);
    let png = answer.to_png().unwrap();
    let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
    assert_eq!(picture.into_luma16().into_raw(), [0, 300, 65_535, 7]);
}
