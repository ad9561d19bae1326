//! Reads images, sentences and sound in requests, and writes the answers of tasks.
//!
//! A model takes tensors. When it is loaded, this module derives from the manifest and from the
//! files of exporters how an image, a sentence or a sound becomes its inputs, and how its outputs
//! become an answer that people can read.
//!
//! Invariants:
//! - Bodies of tensors are decoded as for any other model. This module reads a body only if it
//!   holds a file or a text where tensors would be.
//! - Memory that a body needs beyond its own bytes is reserved before it is used, and held until
//!   the answer is written.
//! - No step of the files is skipped. If a step is not supported, requests that need it fail with
//!   the reason.

mod answer;
mod body;
mod error;
mod multipart;
mod picture;
mod sound;
mod text;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use serde_json::{Map, Value as Json};

use super::{HandlerError, TextApi};
use crate::codec::{DecodeError, DecodedRequest, Schema};
use crate::engine::{RequestBudget, RequestMemory};
use crate::manifest::{Manifest, PassedOver, Step};
use crate::task::{AnswerSettings, EncodingFormat, Form, Task, TopK};
use crate::tensor::Signature;
use crate::text::Tokenizer;
use crate::{audio, text as texts, vision};

use answer::Answering;
use body::Files;
use picture::Pictures;
use sound::Sounds;
use text::Texts;

pub(super) use answer::Reply;
pub(super) use body::ReplyFrame;
pub use error::MediaError;

/// A tokenizer that several models can share. It keeps everything alive that the tokenizer needs.
#[derive(Clone)]
pub struct SharedTokenizer(Arc<dyn AsRef<Tokenizer> + Send + Sync>);

impl SharedTokenizer {
    pub fn new(tokenizer: Arc<impl AsRef<Tokenizer> + Send + Sync + 'static>) -> Self {
        Self(tokenizer)
    }

    /// Wraps a tokenizer that is not shared.
    pub fn of(tokenizer: Tokenizer) -> Self {
        Self(Arc::new(Sole(tokenizer)))
    }

    fn get(&self) -> &Tokenizer {
        (*self.0).as_ref()
    }
}

struct Sole(Tokenizer);

impl AsRef<Tokenizer> for Sole {
    fn as_ref(&self) -> &Tokenizer {
        &self.0
    }
}

impl fmt::Debug for SharedTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Limits on the images, texts and sounds of a request.
#[derive(Debug, Clone, Copy)]
pub struct MediaLimits {
    /// Maximum pixels of an image.
    pub pixels: u64,
    pub text: texts::TextLimits,
    pub audio: audio::AudioLimits,
}

impl Default for MediaLimits {
    fn default() -> Self {
        Self {
            pixels: 64_000_000,
            text: texts::TextLimits::default(),
            audio: audio::AudioLimits::default(),
        }
    }
}

impl MediaLimits {
    fn vision(&self) -> vision::ImageLimits {
        vision::ImageLimits {
            pixels: self.pixels,
            bytes: u64::MAX,
        }
    }
}

/// The steps before and after one model.
#[derive(Debug)]
pub(super) struct Media {
    source: Option<Source>,
    answering: Option<Answering>,
    limits: MediaLimits,
}

/// The kind of file or text that a request may hold in place of tensors.
#[derive(Debug)]
enum Source {
    Pictures(Pictures),
    Texts(Texts),
    Sounds(Sounds),
}

/// The parameters for reading the files of a request.
struct Reading<'a> {
    settings: AnswerSettings,
    limits: &'a MediaLimits,
    schema: &'a Schema,
    budget: &'a dyn RequestBudget,
}

/// Facts from the request that its answer needs.
#[derive(Debug)]
pub struct RequestFacts {
    form: Form,
    frame: ReplyFrame,
    records: usize,
    settings: AnswerSettings,
    placements: Vec<vision::Placement>,
    texts: Option<text::RequestTexts>,
    _memory: Option<RequestMemory>,
}

impl Media {
    /// The steps of a model; `None` for a model that only takes and returns tensors.
    pub fn of(
        manifest: &Manifest,
        signature: &Signature,
        tokenizer: Option<SharedTokenizer>,
        limits: MediaLimits,
    ) -> Result<Option<Self>, HandlerError> {
        let source = if let Some(pictures) = Pictures::of(manifest, signature)? {
            Some(Source::Pictures(pictures))
        } else if let Some(sounds) = Sounds::of(manifest, signature)? {
            Some(Source::Sounds(sounds))
        } else {
            Texts::of(manifest, signature, tokenizer)?.map(Source::Texts)
        };
        let answering = Answering::of(manifest, signature, source.as_ref())?;
        let is_plain = source.is_none() && answering.is_none();
        Ok((!is_plain).then_some(Self {
            source,
            answering,
            limits,
        }))
    }

    /// Describes the steps in their order, for people.
    pub fn steps(&self) -> Vec<String> {
        let mut steps = match &self.source {
            Some(Source::Pictures(pictures)) => pictures.steps(),
            Some(Source::Texts(texts)) => texts.steps(),
            Some(Source::Sounds(sounds)) => sounds.steps(),
            None => Vec::new(),
        };
        steps.push("run the model".to_owned());
        steps.extend(self.answering.as_ref().map(Answering::step));
        steps
    }

    /// The content type and an example of the bodies that the model accepts in addition to tensors.
    pub fn example(&self) -> Option<(&'static str, &'static str)> {
        match self.source.as_ref()? {
            Source::Pictures(_) => Some(("image/jpeg", "@cat.jpg")),
            Source::Texts(_) => Some(("application/json", r#"{"inputs": "A sentence."}"#)),
            Source::Sounds(_) => Some(("audio/wav", "@sound.wav")),
        }
    }

    /// Estimates the memory for decoding a body, in bytes; at least the size of the body. `None`
    /// for bodies of tensors.
    pub fn weight(&self, content_type: &str, body: &Bytes) -> Option<usize> {
        /// Factor by which compressed data and the tokens of a text grow when decoded, roughly.
        const TIMES: usize = 16;
        let essence = essence(content_type);
        let pixels = match &self.source {
            Some(Source::Pictures(_)) if vision::is_picture(body) => {
                let probe = vision::probe(body, &self.limits.vision()).ok()?;
                usize::try_from(probe.memory()).unwrap_or(usize::MAX)
            }
            Some(_) if !is_tensors(&essence) => body.len().saturating_mul(TIMES),
            Some(_) | None => return None,
        };
        Some(pixels.max(body.len()))
    }

    /// Decodes a body that holds images, texts or sounds; `None` for a body of tensors.
    pub fn decode(
        &self,
        content_type: &str,
        body: &Bytes,
        schema: &Schema,
        budget: &dyn RequestBudget,
    ) -> Result<Option<(DecodedRequest, RequestFacts)>, MediaError> {
        let essence = essence(content_type);
        match &self.source {
            None => Ok(None),
            Some(Source::Texts(texts)) => texts.decode(self, &essence, body, schema, budget),
            Some(source) => {
                let Some(files) = self.files(source, content_type, &essence, body)? else {
                    return Ok(None);
                };
                let settings = self.settings(&files.parameters)?;
                let reading = Reading {
                    settings,
                    limits: &self.limits,
                    schema,
                    budget,
                };
                match source {
                    Source::Pictures(pictures) => pictures.decode(files, reading),
                    Source::Sounds(sounds) => sounds.decode(files, reading),
                    Source::Texts(_) => return Ok(None),
                }
                .map(Some)
            }
        }
    }

    /// Decodes a request in the format of another text server.
    pub fn decode_texts(
        &self,
        api: TextApi,
        body: &Bytes,
        schema: &Schema,
        budget: &dyn RequestBudget,
    ) -> Result<(DecodedRequest, RequestFacts, Reply), MediaError> {
        let (Some(Source::Texts(texts)), Some(answering)) = (&self.source, &self.answering) else {
            return Err(no_texts());
        };
        let is_meant = match api {
            TextApi::Embed | TextApi::OpenAi => answering.task() == Task::SentenceSimilarity,
            TextApi::Rerank => answering.task() == Task::TextRanking,
            TextApi::Predict => answering.task() == Task::TextClassification,
        };
        if !is_meant {
            return Err(no_texts());
        }
        let mut format = EncodingFormat::Float;
        let mut plain = None;
        if api == TextApi::OpenAi {
            // Remove the keys that OpenAI has and Hugging Face does not.
            let read: Result<Map<String, Json>, _> = serde_json::from_slice(body);
            let mut keys =
                read.map_err(|error| MediaError::Request(format!("the body is not a JSON object: {error}")))?;
            format = match keys.remove("encoding_format") {
                None | Some(Json::Null) => EncodingFormat::Float,
                Some(Json::String(name)) if name == "float" => EncodingFormat::Float,
                Some(Json::String(name)) if name == "base64" => EncodingFormat::Base64,
                Some(_) => {
                    return Err(MediaError::Request(
                        "\"encoding_format\" must be \"float\" or \"base64\"".to_owned(),
                    ));
                }
            };
            keys.remove("user");
            plain = Some(Bytes::from(serde_json::to_vec(&keys).unwrap_or_default()));
        }
        let body = plain.as_ref().unwrap_or(body);
        let read = texts.decode(self, "application/json", body, schema, budget)?;
        let Some((request, mut facts)) = read else {
            return Err(MediaError::Request("the body has no texts".to_owned()));
        };
        let form = match api {
            TextApi::OpenAi => Reply::OpenAi(format),
            TextApi::Embed => {
                facts.form = Form::List;
                // text-embeddings-inference normalizes by default.
                facts.settings.normalize.get_or_insert(true);
                Reply::Json
            }
            TextApi::Predict => {
                facts.settings.top_k = Some(TopK::All);
                Reply::Json
            }
            TextApi::Rerank => Reply::Json,
        };
        Ok((request, facts, form))
    }

    /// The settings for the answer to a request with these parameters.
    fn settings(&self, parameters: &Map<String, Json>) -> Result<AnswerSettings, MediaError> {
        match &self.answering {
            Some(answering) => answering.settings(parameters),
            None => Ok(AnswerSettings::default()),
        }
    }

    /// Extracts the files of a body; `None` if it holds tensors.
    fn files(
        &self,
        source: &Source,
        content_type: &str,
        essence: &str,
        body: &Bytes,
    ) -> Result<Option<Files>, MediaError> {
        let is_meant = |head: &[u8]| match source {
            Source::Pictures(_) => vision::is_picture(head),
            Source::Sounds(_) => audio::is_wav(head),
            Source::Texts(_) => false,
        };
        let files = match essence {
            // Some clients send this type by default; the first bytes show the real format.
            "application/json" if is_meant(body) => Some(Ok(body::of_file(body.clone()))),
            "application/json" => body::of_json(body),
            "application/jsonlines" | "application/jsonl" | "application/x-ndjson" => body::of_lines(body),
            "multipart/form-data" | "multipart/mixed" => {
                let boundary = boundary(content_type).unwrap_or_default();
                Some(body::of_form(body, &boundary))
            }
            "application/octet-stream" if !is_meant(body) => None,
            "application/x-image" | "application/octet-stream" => Some(Ok(body::of_file(body.clone()))),
            other if other.starts_with("image/") || other.starts_with("audio/") => {
                Some(Ok(body::of_file(body.clone())))
            }
            // Clients without a type send a default; the first bytes show the real format.
            _ if is_meant(body) => Some(Ok(body::of_file(body.clone()))),
            _ => None,
        };
        files
            .transpose()
            .map_err(|body::BodyProblem(problem)| MediaError::Body(problem))
    }
}

impl RequestFacts {
    /// The facts about a request of tensors that the task answers.
    fn of_tensors(records: usize, frame: ReplyFrame, settings: AnswerSettings) -> Self {
        Self {
            form: if records == 1 { Form::One } else { Form::List },
            frame,
            records,
            settings,
            placements: Vec::new(),
            texts: None,
            _memory: None,
        }
    }
}

/// The error for a content type of files or texts that the model does not accept; `None` for
/// other content types.
pub(super) fn why_not(content_type: &str, passed_over: &[PassedOver], error: &DecodeError) -> Option<MediaError> {
    let essence = essence(content_type);
    let (kind, advice) = match essence.split('/').next() {
        Some("image") => (
            "images",
            "add \"image\" to longshore.json or a preprocessor_config.json next to the model",
        ),
        Some("audio") => (
            "sound",
            "add \"audio\" to longshore.json or a preprocessor_config.json next to the model",
        ),
        _ if essence == "application/x-image" => ("images", "add \"image\" to longshore.json"),
        _ if essence == "text/plain" => ("texts", "add a tokenizer.json next to the model"),
        _ => return None,
    };
    let read: &[&str] = match kind {
        "texts" => &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"],
        _ => &["preprocessor_config.json", "config.json"],
    };
    let why = match passed_over.iter().find(|passed| read.contains(&&*passed.file)) {
        Some(PassedOver { file, why }) => format!("{file}: {why}"),
        None => format!("no file in its artifact declares how they become its inputs; {advice}"),
    };
    // The text of `error` lists the content types for tensors.
    let why = format!("{why}; {error}");
    Some(MediaError::NotUnderstood { kind, why })
}

/// The error for a request of texts to a model that cannot answer it.
pub(super) fn no_texts() -> MediaError {
    MediaError::Request("the model does not take texts, or its task is not the one of this path".to_owned())
}

/// The error for a task's answer from a model without a task.
pub(super) fn no_task() -> MediaError {
    MediaError::Request(
        "the model has no task, so it returns only its outputs; set \"task\" in longshore.json".to_owned(),
    )
}

/// Whether the manifest switches a step on or has settings for it.
fn is_asked_for(step: Option<&Step>) -> bool {
    matches!(step, Some(Step::Settings(_) | Step::Switch(true)))
}

fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether bodies of this content type can only hold tensors.
fn is_tensors(essence: &str) -> bool {
    matches!(
        essence,
        "application/x-npy" | "application/x-npz" | "application/x-recordio-protobuf" | "text/libsvm" | "text/x-libsvm"
    )
}

/// Returns the parameter `boundary` of a content type.
fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_meant = name.trim().eq_ignore_ascii_case("boundary");
        is_meant.then(|| value.trim().trim_matches('"').to_owned())
    })
}
