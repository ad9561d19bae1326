//! Pictures, sentences and sound in requests, and the answers of tasks in replies.
//!
//! A model takes tensors. What its artifact says about them, in files of exporters and in the
//! manifest, is resolved here when the model is loaded: the steps from a picture, a sentence or a
//! sound to its inputs, and those from its outputs to the answer that a person reads.
//!
//! What always holds:
//! - A body of tensors is read as it always was: only a body that holds a file or a text where
//!   tensors would be is read here.
//! - Memory that a body takes beyond its bytes is reserved before it is touched, and until the
//!   answer is written.
//! - A step that the files ask for and that is not known makes requests that need it fail with the
//!   reason. None is left out.

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
use crate::codec::{DecodeError, Request, Schema};
use crate::engine::{Ledger, RequestMemory};
use crate::manifest::{Manifest, PassedOver, Step};
use crate::task::{EncodingFormat, Form, Settings, Task, TopK};
use crate::tensor::Signature;
use crate::text::Tokenizer;
use crate::{audio, text as texts, vision};

use answer::Answering;
use body::Files;
use picture::Pictures;
use sound::Sounds;
use text::Texts;

pub(super) use answer::Reply;
pub(super) use body::Frame;
pub use error::MediaError;

/// A tokenizer that other models may have as well, with whatever has to live as long as it.
#[derive(Clone)]
pub struct SharedTokenizer(Arc<dyn AsRef<Tokenizer> + Send + Sync>);

impl SharedTokenizer {
    pub fn new(tokenizer: Arc<impl AsRef<Tokenizer> + Send + Sync + 'static>) -> Self {
        Self(tokenizer)
    }

    /// A tokenizer that no other model has.
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

/// Bounds on the pictures, texts and sounds of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most pixels of a picture.
    pub pixels: u64,
    pub text: texts::Limits,
    pub audio: audio::AudioLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pixels: 64_000_000,
            text: texts::Limits::default(),
            audio: audio::AudioLimits::default(),
        }
    }
}

impl Limits {
    fn vision(&self) -> vision::Limits {
        vision::Limits {
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
    limits: Limits,
}

/// What a request may hold in the place of tensors.
#[derive(Debug)]
enum Source {
    Pictures(Pictures),
    Texts(Texts),
    Sounds(Sounds),
}

/// The request and the model that files are read for.
struct Reading<'a> {
    settings: Settings,
    limits: &'a Limits,
    schema: &'a Schema,
    ledger: &'a dyn Ledger,
}

/// What reading a request leaves behind for its answer.
#[derive(Debug)]
pub struct Seen {
    form: Form,
    frame: Frame,
    records: usize,
    settings: Settings,
    placements: Vec<vision::Placement>,
    texts: Option<text::SeenTexts>,
    _memory: Option<RequestMemory>,
}

impl Media {
    /// The steps of a model; `None` for one of tensors alone.
    pub fn of(
        manifest: &Manifest,
        signature: &Signature,
        tokenizer: Option<SharedTokenizer>,
        limits: Limits,
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

    /// The steps in their order, for people.
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

    /// The kind of body that the model takes beside tensors: a content type, and what is sent.
    pub fn example(&self) -> Option<(&'static str, &'static str)> {
        match self.source.as_ref()? {
            Source::Pictures(_) => Some(("image/jpeg", "@cat.jpg")),
            Source::Texts(_) => Some(("application/json", r#"{"inputs": "A sentence."}"#)),
            Source::Sounds(_) => Some(("audio/wav", "@sound.wav")),
        }
    }

    /// Bytes that reading a body takes, as far as that is more than its own.
    pub fn weight(&self, content_type: &str, body: &Bytes) -> Option<usize> {
        /// A compressed picture becomes about this many times as large; tokens of a text do.
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

    /// Reads a body that holds pictures, texts or sounds; `None` for one of tensors.
    pub fn decode(
        &self,
        content_type: &str,
        body: &Bytes,
        schema: &Schema,
        ledger: &dyn Ledger,
    ) -> Result<Option<(Request, Seen)>, MediaError> {
        let essence = essence(content_type);
        match &self.source {
            None => Ok(None),
            Some(Source::Texts(texts)) => texts.decode(self, &essence, body, schema, ledger),
            Some(source) => {
                let Some(files) = self.files(source, content_type, &essence, body)? else {
                    return Ok(None);
                };
                let settings = self.settings(&files.parameters)?;
                let reading = Reading {
                    settings,
                    limits: &self.limits,
                    schema,
                    ledger,
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

    /// Reads a request of another server of texts.
    pub fn decode_texts(
        &self,
        api: TextApi,
        body: &Bytes,
        schema: &Schema,
        ledger: &dyn Ledger,
    ) -> Result<(Request, Seen, Reply), MediaError> {
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
            // Keys of OpenAI's that are none of Hugging Face's.
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
        let read = texts.decode(self, "application/json", body, schema, ledger)?;
        let Some((request, mut seen)) = read else {
            return Err(MediaError::Request("the body carries no texts".to_owned()));
        };
        let form = match api {
            TextApi::OpenAi => Reply::OpenAi(format),
            TextApi::Embed => {
                seen.form = Form::List;
                // The default of that server.
                seen.settings.normalize.get_or_insert(true);
                Reply::Json
            }
            TextApi::Predict => {
                seen.settings.top_k = Some(TopK::All);
                Reply::Json
            }
            TextApi::Rerank => Reply::Json,
        };
        Ok((request, seen, form))
    }

    /// The settings of an answer to a request with these parameters.
    fn settings(&self, parameters: &Map<String, Json>) -> Result<Settings, MediaError> {
        match &self.answering {
            Some(answering) => answering.settings(parameters),
            None => Ok(Settings::default()),
        }
    }

    /// The files of a body; `None` where it holds tensors.
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
            // What a client says by default, over a file that says what it is.
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
            // The default of a client that says nothing, over a file that says what it is.
            _ if is_meant(body) => Some(Ok(body::of_file(body.clone()))),
            _ => None,
        };
        files
            .transpose()
            .map_err(|body::BodyProblem(problem)| MediaError::Body(problem))
    }
}

impl Seen {
    /// What is left of a request of tensors that the task answers as well.
    fn of_tensors(records: usize, frame: Frame, settings: Settings) -> Self {
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

/// Why a model takes no files of this content type; `None` for other types.
pub(super) fn why_not(content_type: &str, passed_over: &[PassedOver], error: &DecodeError) -> Option<MediaError> {
    let essence = essence(content_type);
    let (kind, advice) = match essence.split('/').next() {
        Some("image") => (
            "pictures",
            "\"image\" in longshore.json or a preprocessor_config.json beside it",
        ),
        Some("audio") => (
            "sound",
            "\"audio\" in longshore.json or a preprocessor_config.json beside it",
        ),
        _ if essence == "application/x-image" => ("pictures", "\"image\" in longshore.json"),
        _ if essence == "text/plain" => ("texts", "a tokenizer.json beside it"),
        _ => return None,
    };
    let read: &[&str] = match kind {
        "texts" => &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"],
        _ => &["preprocessor_config.json", "config.json"],
    };
    let why = match passed_over.iter().find(|passed| read.contains(&&*passed.file)) {
        Some(PassedOver { file, why }) => format!("{file}: {why}"),
        None => format!("nothing in its artifact says how they become its inputs; {advice} does"),
    };
    // Which types there are for tensors.
    let why = format!("{why}; {error}");
    Some(MediaError::NotUnderstood { kind, why })
}

/// The refusal of a request of texts to a model that has no answer to one.
pub(super) fn no_texts() -> MediaError {
    MediaError::Request("the model takes no texts, or has another task than this path is for".to_owned())
}

/// The refusal to write an answer for a model without a task.
pub(super) fn no_task() -> MediaError {
    MediaError::Request("the model has no task, so its outputs are the only answer".to_owned())
}

/// Whether the settings of a step are in the manifest.
fn is_asked_for(step: Option<&Step>) -> bool {
    matches!(step, Some(Step::Settings(_) | Step::Switch(true)))
}

fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether bodies of a content type hold tensors and nothing else.
fn is_tensors(essence: &str) -> bool {
    matches!(
        essence,
        "application/x-npy" | "application/x-npz" | "application/x-recordio-protobuf" | "text/libsvm" | "text/x-libsvm"
    )
}

/// The parameter `boundary` of a content type.
fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_meant = name.trim().eq_ignore_ascii_case("boundary");
        is_meant.then(|| value.trim().trim_matches('"').to_owned())
    })
}
