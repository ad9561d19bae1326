//! Converts request bodies to the tensors of one model, and its outputs to response bodies.
//!
//! A handler is a manifest resolved against the signature of a model. It is built once, when the
//! model is loaded, and is pure from then on. It depends on the formats (`codec`) and on what the
//! model declares, but not on ONNX Runtime. Without a manifest a handler adds nothing, and requests
//! cost no more than the formats do.
//!
//! - `resolve`: the rules for requests, from a manifest and a signature; or why they do not match.
//! - `labels`: class names in place of class numbers.
//! - `chunks`: any number of records for a model of a fixed batch size.
//! - `invocation`: a request on its way through a handler and its model.
//! - `rehearsal`: the requests in a manifest; `compare`: the comparison of an answer with the
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

use crate::codec::{
    self, DecodeError, DecodedRequest, Documents, EncodeError, EncodedResponse, Format, ReplyPlan, Schema,
};
use crate::engine::RequestBudget;
use crate::manifest::{Manifest, PassedOver, TOKENIZER};
use crate::tensor::{Inputs, OutputRows, Records, Signature, Value};
use crate::text::{FileLimits, Tokenizer};

use chunks::Chunks;
use labels::Labels;
use media::{Media, Reply, ReplyFrame};

pub use compare::Difference;
pub use invocation::{Invocation, InvocationError, Protocol, TextApi};
pub use media::{MediaError, MediaLimits, RequestFacts, SharedTokenizer};
pub use rehearsal::{Rehearsal, RehearsalError, Which, rehearsals};
pub use resolve::HandlerError;

/// Reads and writes the bodies of one model's requests.
#[derive(Debug)]
pub struct Handler {
    schema: Schema,
    /// The outputs in a response to a request that chooses none, in this order; `None` for all of
    /// them.
    outputs: Option<Vec<usize>>,
    /// For each output, the names that replace its class numbers.
    labels: Vec<Option<Labels>>,
    /// The division of records into runs, for a model of a fixed batch size.
    chunks: Option<Chunks>,
    /// The steps from images, texts and sounds to tensors, and from outputs to the answer of the
    /// task.
    media: Option<Box<Media>>,
    /// The files next to the model that could not be interpreted.
    passed_over: Vec<PassedOver>,
}

/// A request that has been decoded.
#[derive(Debug)]
pub struct HandledRequest {
    pub request: DecodedRequest,
    /// The facts that the answer of the task depends on; `None` for a response of plain outputs.
    pub facts: Option<Box<RequestFacts>>,
}

/// The tokenizer and the limits of a handler.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    pub tokenizer: Option<SharedTokenizer>,
    /// The reason why the file next to the model is not a usable tokenizer.
    pub no_tokenizer: Option<String>,
    pub limits: MediaLimits,
}

impl Handler {
    /// Builds the handler of a model. The error names the part of the manifest that does not match.
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

    /// Builds the handler of an artifact outside of a server, as `inspect` and `pack` do.
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

    /// Describes the steps from a body to the model and on to the answer, for people. Empty for a
    /// model that accepts only tensors.
    pub fn steps(&self) -> Vec<String> {
        self.media.as_ref().map(|media| media.steps()).unwrap_or_default()
    }

    /// The content type and an example of the bodies that the model accepts in addition to tensors.
    pub fn example(&self) -> Option<(&'static str, &'static str)> {
        self.media.as_ref()?.example()
    }

    /// The names, columns and defaults of the model's inputs.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Decodes a request body. `content_type` is the value of the header, or the caller's default
    /// if there is none (CT-1).
    pub fn decode(
        &self,
        content_type: &str,
        body: Bytes,
        documents: Documents,
        budget: &dyn RequestBudget,
    ) -> Result<HandledRequest, InvocationError> {
        if let Some(media) = &self.media
            && let Some((request, facts)) = media.decode(content_type, &body, &self.schema, budget)?
        {
            return Ok(HandledRequest {
                request: self.complete(request)?,
                facts: Some(Box::new(facts)),
            });
        }
        let frame = ReplyFrame::of_tensors(&body);
        let request = codec::decode(content_type, body, &self.schema, documents).map_err(|error| match &error {
            DecodeError::UnsupportedMediaType { .. } => {
                let why = media::why_not(content_type, &self.passed_over, &error);
                why.map_or(error.into(), InvocationError::Media)
            }
            _ => error.into(),
        });
        let request = self.complete(request?)?;
        let facts = self.media.as_ref().and_then(|media| {
            let records = match request.reply.records() {
                Records::Separable(count) | Records::Together(count) => count,
                Records::One => 1,
            };
            media.facts_of_tensors(records, frame)
        });
        Ok(HandledRequest {
            request,
            facts: facts.map(Box::new),
        })
    }

    /// Decodes a request in the format of another text server.
    fn decode_texts(
        &self,
        api: TextApi,
        body: Bytes,
        budget: &dyn RequestBudget,
    ) -> Result<(DecodedRequest, Box<RequestFacts>, Reply), InvocationError> {
        let media = self.media.as_ref().ok_or_else(media::no_texts)?;
        let (request, facts, form) = media.decode_texts(api, &body, &self.schema, budget)?;
        Ok((self.complete(request)?, Box::new(facts), form))
    }

    /// Estimates the memory for decoding a body, in bytes; at least the size of the body.
    pub fn weight(&self, content_type: &str, body: &Bytes) -> usize {
        let media = self.media.as_ref().and_then(|media| media.weight(content_type, body));
        media.unwrap_or_else(|| codec::decoded_bytes(content_type, body, &self.schema))
    }

    /// Decodes a request of the Open Inference Protocol. `json_bytes` is the value of the header
    /// that gives the length of the JSON.
    pub fn decode_open_inference(&self, json_bytes: Option<&str>, body: &Bytes) -> Result<DecodedRequest, DecodeError> {
        self.complete(codec::decode_open_inference(json_bytes, body, &self.schema)?)
    }

    /// Chooses the format of the response, before the model runs.
    pub fn negotiate(
        &self,
        accept: Option<&str>,
        default: Format,
        plan: &ReplyPlan,
    ) -> Result<(Format, ReplyPlan), EncodeError> {
        codec::negotiate(accept, default, plan, self.schema.signature())
    }

    /// The number of runs that answer the records of a request; `None` if one run answers them all.
    /// The engine calls this before the run, and again with the outputs of a run for all records.
    pub fn apart(&self, format: Format, plan: &ReplyPlan, outputs: Option<&[Value]>) -> Option<usize> {
        match &self.chunks {
            Some(chunks) => chunks.runs(plan, outputs.is_some()),
            None => codec::separate_runs(format, plan, self.schema.signature(), outputs),
        }
    }

    /// Encodes a response. `runs` holds the outputs of the plan, in its order, either from one run
    /// for all records or from one run for each.
    pub fn encode(
        &self,
        format: Format,
        plan: &ReplyPlan,
        model: &str,
        runs: &[Vec<Value>],
    ) -> Result<EncodedResponse, EncodeError> {
        let mut runs = Cow::Borrowed(runs);
        if let Some(chunks) = &self.chunks {
            runs = chunks.joined(format, plan, self.schema.signature(), runs)?;
        }
        if self.labels.iter().any(Option::is_some) {
            labels::apply(&self.labels, format, plan, runs.to_mut());
        }
        codec::encode(format, plan, model, self.schema.signature(), &runs)
    }

    /// Encodes the answer of the task. `runs` is the same as for [`Self::encode`].
    fn answer(
        &self,
        facts: &RequestFacts,
        form: Reply,
        plan: &ReplyPlan,
        model: &str,
        runs: &[Vec<Value>],
    ) -> Result<EncodedResponse, InvocationError> {
        let media = self.media.as_ref().ok_or_else(media::no_task)?;
        let signature = self.schema.signature();
        let mut runs = Cow::Borrowed(runs);
        if let Some(chunks) = &self.chunks {
            runs = match chunks.together(plan, signature, &runs) {
                Some(outputs) => Cow::Owned(vec![outputs]),
                None => chunks.joined(Format::Json, plan, signature, runs)?,
            };
        }
        Ok(media.encode(facts, form, plan, model, signature, &runs)?)
    }

    /// The form of the task's answer in a response of this format; `None` if the response holds the
    /// outputs as they are.
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

    /// Whether `accept` asks for an image, and the task can answer with one.
    fn wants_picture(&self, accept: Option<&str>) -> bool {
        let is_asked = accept.is_some_and(|accept| accept.to_ascii_lowercase().contains("image/png"));
        is_asked && self.media.as_ref().is_some_and(|media| media.gives_pictures())
    }

    /// Divides a request with texts of different lengths into runs of similar lengths. Returns the
    /// inputs of each run; `None` if the request is one run.
    fn divide(&self, plan: &ReplyPlan, facts: &mut RequestFacts) -> Result<Option<Vec<Inputs>>, InvocationError> {
        // Each run must take any number of records, and answer each of them.
        let is_divisible = matches!(plan.records(), Records::Separable(_)) && self.chunks.is_none();
        let mut outputs = plan.selected(self.schema.signature()).into_iter();
        match &self.media {
            Some(media) if is_divisible && outputs.all(|output| output.rows == OutputRows::PerRecord) => {
                Ok(media.divide(facts)?)
            }
            Some(_) | None => Ok(None),
        }
    }

    fn complete(&self, mut request: DecodedRequest) -> Result<DecodedRequest, DecodeError> {
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
