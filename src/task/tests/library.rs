//! Runs the cases of `tests/task/cases.json`, whose answers come from the libraries.

use half::f16;
use serde::Deserialize;
use serde_json::Value as Json;

use super::toy::Toy;
use super::{floats, read};
use crate::task::{AnswerSettings, Body, Context, Form, Labels, Output, PlacedPicture, Question, Task, Tokens};
use crate::tensor::{Tensor, Value};

const CASES: &str = include_str!("../../../tests/task/cases.json");

#[derive(Deserialize)]
struct Case {
    name: String,
    task: Task,
    labels: Vec<String>,
    settings: AnswerSettings,
    outputs: Vec<OutputCase>,
    records: usize,
    form: String,
    expected: Json,
    #[serde(default)]
    pictures: Vec<PictureCase>,
    #[serde(default)]
    tokens: Vec<TokensCase>,
    vocabulary: Option<VocabularyCase>,
    question: Option<QuestionCase>,
}

#[derive(Deserialize)]
struct OutputCase {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    shape: Vec<usize>,
    data: Vec<f64>,
}

#[derive(Deserialize)]
struct PictureCase {
    size: (u32, u32),
    input: (u32, u32),
    content: Option<[f32; 4]>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokensCase {
    text: String,
    ids: Vec<u32>,
    attention: Vec<u32>,
    special: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    words: Vec<Option<u32>>,
    sequences: Vec<Option<usize>>,
}

#[derive(Deserialize)]
struct VocabularyCase {
    tokens: Vec<String>,
    marks: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum QuestionCase {
    Similarity,
    Ranking(Vec<String>),
    ZeroShot(Vec<String>),
    Spans(Vec<usize>),
}

impl PlacedPicture for PictureCase {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn input_size(&self) -> (u32, u32) {
        self.input
    }

    fn content(&self) -> [f32; 4] {
        self.content
            .unwrap_or([0.0, 0.0, self.input.0 as f32, self.input.1 as f32])
    }
}

impl OutputCase {
    fn value(&self) -> Value {
        let floats32: Vec<f32> = self.data.iter().map(|&number| number as f32).collect();
        let shape = self.shape.clone();
        let tensor = match self.data_type.as_str() {
            "float32" => return floats(&self.shape, &floats32),
            "float64" => Tensor::from_vec(shape, self.data.clone()),
            "float16" => Tensor::from_vec(shape, floats32.iter().map(|&number| f16::from_f32(number)).collect()),
            "int64" => Tensor::from_vec(shape, self.data.iter().map(|&number| number as i64).collect()),
            other => panic!("{other} in the cases"),
        };
        Value::Tensor(tensor.unwrap())
    }
}

impl TokensCase {
    fn tokens(&self) -> Tokens<'_> {
        Tokens {
            text: &self.text,
            ids: &self.ids,
            attention: &self.attention,
            special: &self.special,
            offsets: &self.offsets,
            words: &self.words,
            sequences: &self.sequences,
        }
    }
}

/// The first difference of two documents beyond the rounding of `f32`.
fn difference(given: &Json, expected: &Json, path: &str) -> Option<String> {
    match (given, expected) {
        (Json::Array(one), Json::Array(other)) if one.len() == other.len() => {
            let mut items = one.iter().zip(other).enumerate();
            items.find_map(|(i, (one, other))| difference(one, other, &format!("{path}[{i}]")))
        }
        (Json::Object(one), Json::Object(other)) if one.len() == other.len() => one.iter().find_map(|(key, value)| {
            let own = format!("{path}.{key}");
            match other.get(key) {
                Some(other) => difference(value, other, &own),
                None => Some(format!("{own} is not expected")),
            }
        }),
        (Json::Number(one), Json::Number(other)) => {
            let (one, other) = (one.as_f64()?, other.as_f64()?);
            let is_near = (one - other).abs() <= 2e-6 * other.abs().max(1e-3);
            (!is_near).then(|| format!("{path}: found {one}, expected {other}"))
        }
        (one, other) if one == other => None,
        (one, other) => Some(format!("{path}: found {one}, expected {other}")),
    }
}

#[test]
fn answers_match_those_of_the_libraries() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() > 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        if let Some(problem) = problem(case) {
            wrong.push(format!("{}: {problem}", case.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn problem(case: &Case) -> Option<String> {
    let values: Vec<Value> = case.outputs.iter().map(OutputCase::value).collect();
    let outputs: Vec<Output<'_>> = case
        .outputs
        .iter()
        .zip(&values)
        .map(|(output, value)| Output {
            name: &output.name,
            value,
        })
        .collect();
    let labels = Labels::new(&case.labels);
    let vocabulary = case.vocabulary.as_ref().map(|vocabulary| Toy {
        tokens: vocabulary.tokens.clone(),
        marks: vocabulary.marks,
    });
    let pictures: Vec<&dyn PlacedPicture> = case.pictures.iter().map(|picture| picture as _).collect();
    let tokens: Vec<Tokens<'_>> = case.tokens.iter().map(TokensCase::tokens).collect();
    let texts: Vec<&str> = match &case.question {
        Some(QuestionCase::Ranking(texts) | QuestionCase::ZeroShot(texts)) => {
            texts.iter().map(String::as_str).collect()
        }
        Some(QuestionCase::Similarity | QuestionCase::Spans(_)) | None => Vec::new(),
    };
    let question = match &case.question {
        None => Question::Records,
        Some(QuestionCase::Similarity) => Question::Similarity,
        Some(QuestionCase::Ranking(_)) => Question::Ranking { texts: &texts },
        Some(QuestionCase::ZeroShot(_)) => Question::ZeroShot { sequences: &texts },
        Some(QuestionCase::Spans(rows)) => Question::Spans { rows },
    };
    let context = Context {
        pictures: &pictures,
        tokens: &tokens,
        vocabulary: vocabulary.as_ref().map(|toy| toy as _),
        question,
        ..Context::new(case.records, &labels, &case.settings)
    };
    let answer = match case.task.answer(&outputs, &context) {
        Ok(answer) => answer,
        Err(error) => return Some(error.to_string()),
    };
    if let Body::ClassMaps(maps) = answer.body() {
        let given = maps.iter().map(|map| {
            let lines = map.classes.chunks(map.width as usize);
            lines.map(<[u16]>::to_vec).collect::<Vec<_>>()
        });
        let given = serde_json::json!(given.collect::<Vec<_>>());
        return difference(&given, &case.expected, "");
    }
    let form = match case.form.as_str() {
        "one" => Form::One,
        _ => Form::List,
    };
    difference(&read(&answer.to_json(form).unwrap()), &case.expected, "")
}
