//! The step between a request's body and the tensors of one model: its manifest, resolved
//! against its signature.
//!
//! A handler is built once, when a model is loaded, and is pure from then on: a body becomes named
//! tensors, outputs become a body. It knows the formats (`codec`) and what a model declares, but
//! not ONNX Runtime. A model without a manifest has a handler that adds nothing, and is served at
//! the cost of the formats alone.
//!
//! - `resolve`: from a manifest and a signature to what requests may say, or why the one does not
//!   fit the other.
//! - `labels`: class numbers and probabilities under the names of the classes.
//! - `chunks`: a model of a fixed batch size answers any number of records.
//! - `invocation`: a request on its way through a handler and its model.
//! - `rehearsal`: the requests that a manifest brings along; `compare`: whether an answer is the
//!   expected one.

mod chunks;
mod compare;
mod invocation;
mod labels;
mod media;
mod rehearsal;
mod resolve;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;

use crate::codec::{self, DecodeError, Documents, EncodeError, Encoded, Format, ReplyPlan, Request, Schema};
use crate::engine::Ledger;
use crate::manifest::{Manifest, PassedOver, TOKENIZER};
use crate::tensor::{Inputs, Records, Signature, Value};
use crate::text::{FileLimits, Tokenizer};

use chunks::Chunks;
use labels::Labels;
use media::{Frame, Media, Reply};

pub use compare::Difference;
pub use invocation::{Invocation, InvocationError, Protocol, TextApi};
pub use media::{Limits as MediaLimits, MediaError, Seen, SharedTokenizer};
pub use rehearsal::{Rehearsal, RehearsalError, Which, rehearsals};
pub use resolve::HandlerError;

/// Reads and writes the bodies of one model's requests.
#[derive(Debug)]
pub struct Handler {
    schema: Schema,
    /// The outputs that go out where a request does not choose, in this order; `None` for all of
    /// them.
    outputs: Option<Vec<usize>>,
    /// For each output, the names that its numbers go out under.
    labels: Vec<Option<Labels>>,
    /// How records are put into runs, for a model of a fixed batch size.
    chunks: Option<Chunks>,
    /// The steps from pictures, texts and sounds, and to the answer of the task.
    media: Option<Box<Media>>,
    /// The files beside the model that were not understood.
    passed_over: Vec<PassedOver>,
}

/// A request that has been read.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    /// What the answer of the task depends on, where the task answers.
    pub seen: Option<Box<Seen>>,
}

/// The tokenizer and the bounds that a handler is made with.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    pub tokenizer: Option<SharedTokenizer>,
    /// Why there is none, where the file beside the model is not understood.
    pub no_tokenizer: Option<String>,
    pub limits: MediaLimits,
}

impl Handler {
    /// The handler of a model. The error names what of the manifest does not fit the model.
    pub fn new(manifest: &Manifest, signature: &Signature, tools: Tools) -> Result<Self, HandlerError> {
        let media = Media::of(manifest, signature, tools.tokenizer, tools.limits)?;
        let mut passed_over = manifest.hints.passed_over.clone();
        passed_over.extend(tools.no_tokenizer.map(|why| PassedOver {
            file: TOKENIZER.to_owned(),
            why,
        }));
        Ok(Self {
            media: media.map(Box::new),
            passed_over,
            ..resolve::resolve(manifest, signature)?
        })
    }

    /// The handler of an artifact that is looked at outside of a server.
    pub fn of_artifact(manifest: &Manifest, signature: &Signature) -> Result<Self, HandlerError> {
        let file = manifest.wanted_tokenizer().and_then(|file| file.bytes.as_ref());
        let mut tools = Tools::default();
        match file.map(|bytes| Tokenizer::parse(bytes, &manifest.hints.text, &FileLimits::default())) {
            Some(Ok(tokenizer)) => tools.tokenizer = Some(SharedTokenizer::of(tokenizer)),
            Some(Err(error)) if manifest.needs_tokenizer(signature) => {
                return Err(HandlerError::Text(error.to_string()));
            }
            Some(Err(error)) => tools.no_tokenizer = Some(error.to_string()),
            None => {}
        }
        Self::new(manifest, signature, tools)
    }

    /// The steps from a body to the model and from there to the answer, for people; empty for a
    /// model of tensors alone.
    pub fn steps(&self) -> Vec<String> {
        self.media.as_ref().map(|media| media.steps()).unwrap_or_default()
    }

    /// The content type and an example of what the model takes beside tensors.
    pub fn example(&self) -> Option<(&'static str, &'static str)> {
        self.media.as_ref()?.example()
    }

    /// The names, columns and defaults of the model's inputs.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Reads a request body. `content_type` is the header's value, or the caller's default when
    /// there is none (CT-1).
    pub fn decode(
        &self,
        content_type: &str,
        body: Bytes,
        documents: Documents,
        ledger: &dyn Ledger,
    ) -> Result<Asked, InvocationError> {
        if let Some(media) = &self.media
            && let Some((request, seen)) = media.decode(content_type, &body, &self.schema, ledger)?
        {
            return Ok(Asked {
                request: self.complete(request)?,
                seen: Some(Box::new(seen)),
            });
        }
        let frame = Frame::of_tensors(&body);
        let request = codec::decode(content_type, body, &self.schema, documents).map_err(|error| match &error {
            DecodeError::UnsupportedMediaType { .. } => {
                let why = media::why_not(content_type, &self.passed_over, &error);
                why.map_or(error.into(), InvocationError::Media)
            }
            _ => error.into(),
        });
        let request = self.complete(request?)?;
        let seen = self.media.as_ref().and_then(|media| {
            let records = match request.reply.records() {
                Records::Separable(count) | Records::Together(count) => count,
                Records::One => 1,
            };
            media.seen_of_tensors(records, frame)
        });
        Ok(Asked {
            request,
            seen: seen.map(Box::new),
        })
    }

    /// Reads a request of another server of texts.
    fn decode_texts(
        &self,
        api: TextApi,
        body: Bytes,
        ledger: &dyn Ledger,
    ) -> Result<(Request, Box<Seen>, Reply), InvocationError> {
        let media = self.media.as_ref().ok_or_else(media::no_texts)?;
        let (request, seen, form) = media.decode_texts(api, &body, &self.schema, ledger)?;
        Ok((self.complete(request)?, Box::new(seen), form))
    }

    /// Bytes that reading a body takes, as far as that is more than its own.
    pub fn weight(&self, content_type: &str, body: &Bytes) -> usize {
        let media = self.media.as_ref().and_then(|media| media.weight(content_type, body));
        media.unwrap_or_else(|| codec::weight(content_type, body, &self.schema))
    }

    /// Reads a request of the Open Inference Protocol. `json_bytes` is the value of the header that
    /// says where the JSON ends.
    pub fn decode_open_inference(&self, json_bytes: Option<&str>, body: &Bytes) -> Result<Request, DecodeError> {
        self.complete(codec::decode_open_inference(json_bytes, body, &self.schema)?)
    }

    /// Chooses the format of the reply, before the model runs.
    pub fn negotiate(
        &self,
        accept: Option<&str>,
        default: Format,
        plan: &ReplyPlan,
    ) -> Result<(Format, ReplyPlan), EncodeError> {
        codec::negotiate(accept, default, plan, self.schema.signature())
    }

    /// How many runs answer the records of a request; `None` where one run answers them all. Asked
    /// before the run, and once more with the outputs of a run for all records.
    pub fn apart(&self, format: Format, plan: &ReplyPlan, outputs: Option<&[Value]>) -> Option<usize> {
        match &self.chunks {
            Some(chunks) => chunks.runs(plan, outputs.is_some()),
            None => codec::apart(format, plan, self.schema.signature(), outputs),
        }
    }

    /// Writes a reply. `runs` holds the outputs of the plan, in its order: of one run for all
    /// records, or of one for each.
    pub fn encode(
        &self,
        format: Format,
        plan: &ReplyPlan,
        model: &str,
        runs: &[Vec<Value>],
    ) -> Result<Encoded, EncodeError> {
        let mut runs = Cow::Borrowed(runs);
        if let Some(chunks) = &self.chunks {
            runs = chunks.joined(format, plan, self.schema.signature(), runs)?;
        }
        if self.labels.iter().any(Option::is_some) {
            labels::apply(&self.labels, format, plan, runs.to_mut());
        }
        codec::encode(format, plan, model, self.schema.signature(), &runs)
    }

    /// Writes the answer of the task. `runs` is as for [`Self::encode`].
    fn answer(
        &self,
        seen: &Seen,
        form: Reply,
        plan: &ReplyPlan,
        model: &str,
        runs: &[Vec<Value>],
    ) -> Result<Encoded, InvocationError> {
        let media = self.media.as_ref().ok_or_else(media::no_task)?;
        let mut runs = Cow::Borrowed(runs);
        if let Some(chunks) = &self.chunks {
            runs = chunks.joined(Format::Json, plan, self.schema.signature(), runs)?;
        }
        Ok(media.encode(seen, form, plan, model, self.schema.signature(), &runs)?)
    }

    /// The form of the answer of the task for a reply of this format; `None` where the outputs go
    /// out as they are.
    fn answer_form(&self, format: Format) -> Option<Reply> {
        self.media.as_ref().filter(|media| media.answers_in(format))?;
        match format {
            Format::Json => Some(Reply::Json),
            Format::JsonLines => Some(Reply::JsonLines),
            Format::Csv => Some(Reply::Csv),
            Format::Npy | Format::Npz | Format::TritonBinary | Format::RecordIo | Format::LibSvm | Format::Octets => {
                None
            }
        }
    }

    /// Whether `accept` asks for a picture that the task gives.
    fn wants_picture(&self, accept: Option<&str>) -> bool {
        let is_asked = accept.is_some_and(|accept| accept.to_ascii_lowercase().contains("image/png"));
        is_asked && self.media.as_ref().is_some_and(|media| media.gives_pictures())
    }

    /// Divides a request of texts of different lengths into runs of similar lengths. Returns the
    /// inputs of each run; `None` where the request is one run.
    fn divide(&self, seen: &mut Seen) -> Result<Option<Vec<Inputs>>, InvocationError> {
        match (&self.media, &self.chunks) {
            (Some(media), None) => Ok(media.divide(seen)?),
            (None, _) | (_, Some(_)) => Ok(None),
        }
    }

    fn complete(&self, mut request: Request) -> Result<Request, DecodeError> {
        if let Some(outputs) = &self.outputs {
            request.reply.choose(outputs);
        }
        if let Some(chunks) = &self.chunks {
            let inputs = std::mem::take(&mut request.inputs);
            request.inputs = chunks.fill(&request.reply, inputs).ok_or(DecodeError::OutOfMemory)?;
        }
        Ok(request)
    }
}
