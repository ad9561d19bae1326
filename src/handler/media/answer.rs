//! Converts outputs to the answer of the model's task, and writes it in the requested form.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::body::ReplyFrame;
use super::error::MediaError;
use super::picture::Placed;
use super::text::{RequestTexts, Texts, Words};
use super::{Media, RequestFacts, Source, is_asked_for, no_task};
use crate::codec::{EncodedResponse, Format, ReplyPlan};
use crate::handler::HandlerError;
use crate::manifest::{Manifest, Step};
use crate::task::{
    Answer, AnswerSettings, Context, EncodingFormat, Form, Labels, Output, Parameters, PlacedPicture, Question, Task,
    TaskError,
};
use crate::tensor::{Inputs, Signature, Value, ValueType};

/// The task of a model, and the settings for its answers.
#[derive(Debug)]
pub(super) struct Answering {
    task: Task,
    settings: AnswerSettings,
    labels: Labels,
    /// Whether the task also answers requests of tensors.
    answers_tensors: bool,
}

/// Tasks of Hugging Face that are not supported here: their responses hold the outputs.
const PLAIN: [&str; 16] = [
    "tabular-classification",
    "tabular-regression",
    "time-series-forecasting",
    "text-generation",
    "text2text-generation",
    "translation",
    "summarization",
    "automatic-speech-recognition",
    "text-to-speech",
    "image-to-text",
    "image-to-image",
    "depth-estimation",
    "mask-generation",
    "reinforcement-learning",
    "graph-ml",
    "other",
];

impl Answering {
    pub fn of(
        manifest: &Manifest,
        signature: &Signature,
        source: Option<&Source>,
    ) -> Result<Option<Self>, HandlerError> {
        let step = manifest.answer.as_ref();
        if Step::is_off(step) {
            return Ok(None);
        }
        let refused = |source: TaskError| HandlerError::Task(source.to_string());
        let is_asked = is_asked_for(step);
        let named = match manifest.task.as_deref() {
            Some(name) if PLAIN.contains(&name) && !is_asked => return Ok(None),
            Some(name) => Some(name.parse::<Task>().map_err(refused)?),
            None => None,
        };
        let guess = || source.and_then(|source| guessed(manifest, signature, source));
        let hinted = || manifest.hints.task.or_else(guess);
        let is_bare = manifest.hints.files.iter().any(|file| file == "config.json") && is_passthrough(signature);
        let logits = || (is_bare || is_asked).then_some(Task::TextClassification);
        let Some(task) = named.or_else(hinted).or_else(logits) else {
            return Ok(None);
        };
        let own = match Step::settings(step) {
            Some(settings) => Parameters::read(task, settings).map_err(refused)?.settings,
            None => AnswerSettings::default(),
        };
        let modules = match &manifest.hints.modules {
            Some(modules) if task == Task::SentenceSimilarity => modules.check(signature).map_err(refused)?,
            Some(_) | None => AnswerSettings::default(),
        };
        let mut settings = own.over(&modules);
        if task.settings().contains(&"problem_type") {
            settings = settings.over(&manifest.hints.answer);
        }
        match task.check(signature, &settings, manifest.labels.len()) {
            Ok(()) => {}
            Err(error) if named.is_some() || is_asked => return Err(refused(error)),
            Err(error) => {
                tracing::info!(%task, "responses hold the outputs instead of the task's answer: {error}");
                return Ok(None);
            }
        }
        let needs_more = task.needs_tokens() || task == Task::ObjectDetection;
        Ok(Some(Self {
            task,
            settings,
            labels: Labels::new(&manifest.labels),
            answers_tensors: !needs_more,
        }))
    }

    pub fn task(&self) -> Task {
        self.task
    }

    pub fn step(&self) -> String {
        format!("answer as {}", self.task)
    }

    /// Combines the settings of the manifest with a request's parameters, which take precedence.
    pub fn settings(&self, parameters: &Map<String, Json>) -> Result<AnswerSettings, MediaError> {
        let parameters = Parameters::read(self.task, parameters)?;
        Ok(parameters.settings.over(&self.settings))
    }
}

/// Whether the model returns its input unchanged. The names of a graph's values are unique, so an
/// output with the name of an input is that input.
fn is_passthrough(signature: &Signature) -> bool {
    match (&*signature.inputs, &*signature.outputs) {
        ([input], [output]) => input.name == output.name,
        _ => false,
    }
}

/// Guesses a classification from the source and from an output with one column for each label.
fn guessed(manifest: &Manifest, signature: &Signature, source: &Source) -> Option<Task> {
    let [output] = &*signature.outputs else { return None };
    let ValueType::Tensor { dims: Some(dims), .. } = &output.value_type else {
        return None;
    };
    let is_row = dims.len() == 2 && dims[1] == crate::tensor::Dim::Fixed(manifest.labels.len());
    let task = match source {
        Source::Pictures(_) => Task::ImageClassification,
        Source::Sounds(_) => Task::AudioClassification,
        Source::Texts(_) => Task::TextClassification,
    };
    (is_row && !manifest.labels.is_empty()).then_some(task)
}

impl Media {
    /// Combines the settings of a request with those of the manifest, which have lower precedence.
    pub(super) fn settings_over(&self, settings: AnswerSettings) -> AnswerSettings {
        match &self.answering {
            Some(answering) => settings.over(&answering.settings),
            None => settings,
        }
    }

    /// The facts about a request of tensors, if the task answers it.
    pub fn facts_of_tensors(&self, records: usize, frame: ReplyFrame) -> Option<RequestFacts> {
        let answering = self.answering.as_ref().filter(|answering| answering.answers_tensors)?;
        Some(RequestFacts::of_tensors(records, frame, answering.settings.clone()))
    }

    /// Whether the task can answer in a format; otherwise the response holds the outputs.
    pub fn answers_in(&self, format: Format) -> bool {
        self.answering.is_some() && matches!(format, Format::Json | Format::JsonLines | Format::Csv)
    }

    /// Whether the answer is a class map, which can be sent as an image.
    pub fn gives_pictures(&self) -> bool {
        let task = self.answering.as_ref().map(|answering| answering.task);
        task == Some(Task::ImageSegmentation)
    }

    /// Encodes the answer to a request in one of the formats of [`Self::answers_in`], or as an
    /// image.
    pub fn encode(
        &self,
        facts: &RequestFacts,
        form: Reply,
        plan: &ReplyPlan,
        model: &str,
        signature: &Signature,
        runs: &[Vec<Value>],
    ) -> Result<EncodedResponse, MediaError> {
        let answering = self.answering.as_ref().ok_or_else(no_task)?;
        let names: Vec<&str> = plan.selected(signature).iter().map(|spec| spec.name.as_str()).collect();
        if let Some(answer) = self.merged(answering, facts, &names, runs)? {
            return reply(facts, form, model, &[answer]);
        }
        let mut answers = Vec::with_capacity(runs.len());
        for (index, run) in runs.iter().enumerate() {
            // There is either one run for all records, or one for each.
            let part = if runs.len() == 1 {
                0..facts.records
            } else {
                index..index + 1
            };
            let texts = facts.texts.as_ref();
            answers.push(self.answer(answering, facts, texts, part, &outputs(&names, run))?);
        }
        reply(facts, form, model, &answers)
    }

    /// Merges the answers of a request of texts that ran in groups, or record by record; `None` for
    /// other requests.
    fn merged(
        &self,
        answering: &Answering,
        facts: &RequestFacts,
        names: &[&str],
        runs: &[Vec<Value>],
    ) -> Result<Option<Answer>, MediaError> {
        let Some(texts) = facts.texts.as_ref().filter(|_| answering.task.can_merge()) else {
            return Ok(None);
        };
        let groups = match texts.groups() {
            [] if runs.len() > 1 => Cow::Owned((0..runs.len()).map(|record| vec![record]).collect()),
            [] => return Ok(None),
            groups => Cow::Borrowed(groups),
        };
        let mut parts = Vec::with_capacity(runs.len());
        for (rows, run) in groups.iter().zip(runs) {
            let group = texts.group(rows);
            let answer = self.answer(answering, facts, Some(&group), 0..rows.len(), &outputs(names, run))?;
            parts.push((rows.as_slice(), answer));
        }
        let merged = Answer::merge(parts)?;
        Ok(merged.map(|answer| {
            texts.with_question(|question| {
                answer.conclude(&Context {
                    question,
                    ..Context::new(facts.records, &answering.labels, &facts.settings)
                })
            })
        }))
    }

    /// Divides a request of texts into runs with similar lengths, if the answers of the task can be
    /// merged. Returns the inputs of each run.
    pub fn divide(&self, facts: &mut RequestFacts) -> Result<Option<Vec<Inputs>>, MediaError> {
        let can_merge = self
            .answering
            .as_ref()
            .is_some_and(|answering| answering.task.can_merge());
        match (&self.source, &mut facts.texts) {
            (Some(Source::Texts(texts)), Some(facts)) if can_merge => texts.divide(facts),
            _ => Ok(None),
        }
    }

    fn answer(
        &self,
        answering: &Answering,
        facts: &RequestFacts,
        texts: Option<&RequestTexts>,
        part: Range<usize>,
        outputs: &[Output<'_>],
    ) -> Result<Answer, MediaError> {
        let placed: Vec<Placed<'_>> = facts
            .placements
            .get(part.clone())
            .unwrap_or_default()
            .iter()
            .map(Placed)
            .collect();
        let pictures: Vec<&dyn PlacedPicture> = placed.iter().map(|placed| placed as &dyn PlacedPicture).collect();
        let context = Context {
            pictures: &pictures,
            ..Context::new(part.len(), &answering.labels, &facts.settings)
        };
        let answer = match (&self.source, texts) {
            (Some(Source::Texts(source)), Some(texts)) => {
                let words = Words(Texts::tokenizer(source));
                texts.with_context(part, |question: Question<'_>, tokens| {
                    let context = Context {
                        tokens,
                        question,
                        vocabulary: Some(&words),
                        ..context
                    };
                    answering.task.answer(outputs, &context)
                })
            }
            _ => answering.task.answer(outputs, &context),
        };
        Ok(answer?)
    }
}

fn outputs<'a>(names: &[&'a str], run: &'a [Value]) -> Vec<Output<'a>> {
    let outputs = names.iter().zip(run).map(|(&name, value)| Output { name, value });
    outputs.collect()
}

/// The form of an answer in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::handler) enum Reply {
    Json,
    JsonLines,
    Csv,
    Png,
    /// Embeddings as OpenAI's clients read them.
    OpenAi(EncodingFormat),
}

fn reply(facts: &RequestFacts, form: Reply, model: &str, answers: &[Answer]) -> Result<EncodedResponse, MediaError> {
    let is_one = facts.form == Form::One;
    let (content_type, body) = match form {
        Reply::Json => {
            let is_framed = facts.frame == ReplyFrame::Predictions;
            let json = match answers {
                [only] if is_one && !is_framed => only.to_json(Form::One)?,
                [only] => only.to_json(Form::List)?,
                several => {
                    let mut list = b"[".to_vec();
                    for (index, answer) in several.iter().enumerate() {
                        if index > 0 {
                            list.push(b',');
                        }
                        list.extend(answer.to_json(Form::One)?);
                    }
                    list.push(b']');
                    list
                }
            };
            let json = if is_framed {
                [br#"{"predictions":"#.as_slice(), &json, b"}"].concat()
            } else {
                json
            };
            (Format::Json.media_type(), json)
        }
        Reply::JsonLines => {
            let lines: Result<Vec<_>, _> = answers.iter().map(Answer::to_json_lines).collect();
            (Format::JsonLines.media_type(), lines?.concat())
        }
        Reply::Csv => {
            let lines: Result<Vec<_>, _> = answers.iter().map(Answer::to_csv).collect();
            (Format::Csv.media_type(), lines?.concat())
        }
        Reply::OpenAi(encoding) => match answers {
            [only] => {
                let tokens = facts.texts.as_ref().map_or(0, RequestTexts::tokens);
                (Format::Json.media_type(), only.to_open_ai(model, tokens, encoding)?)
            }
            _ => return Err(super::no_texts()),
        },
        Reply::Png => match answers {
            [only] => ("image/png", only.to_png()?),
            _ => {
                return Err(MediaError::Task(TaskError::Input(
                    "image/png holds the answer for one image; send one image, or accept application/json".to_owned(),
                )));
            }
        },
    };
    Ok(EncodedResponse {
        content_type: content_type.into(),
        json_bytes: None,
        body: body.into(),
    })
}
