//! A request's body on its way through a handler and its model.

use std::sync::Arc;

use bytes::Bytes;

use super::media::Reply;
use super::{HandledRequest, Handler, MediaError, RequestFacts};
use crate::codec::{DecodeError, Documents, EncodeError, EncodedResponse, Format, ReplyPlan};
use crate::engine::{InferenceError, RequestBudget, RequestMemory, Work};
use crate::telemetry::request_log::LoggedRequest;
use crate::telemetry::times::RequestTimes;
use crate::tensor::{Inputs, Value};

/// The parts of a request that determine the model's answer. Decoding and encoding large bodies
/// takes as long as a run, so both happen where the model runs.
#[derive(Debug)]
pub struct Invocation {
    pub body: Bytes,
    /// The reservation for the body.
    pub memory: Option<RequestMemory>,
    pub protocol: Protocol,
    pub model: String,
    pub handler: Arc<Handler>,
    /// The record of the request, if it was chosen for the log or for a trace.
    pub logged: Option<Arc<LoggedRequest>>,
}

/// The source of the request's content type and of the format for the response.
#[derive(Debug)]
pub enum Protocol {
    /// The headers, as SageMaker forwards them.
    Headers {
        content_type: String,
        accept: Option<String>,
        /// The format of the response if `accept` does not determine it.
        default: Format,
        documents: Documents,
    },
    /// The body itself. `json_bytes` is the header with the length of its JSON.
    OpenInference { json_bytes: Option<String> },
    /// The interface of another text server.
    Texts(TextApi),
}

/// An interface of another text server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextApi {
    /// `POST /embed` of text-embeddings-inference: a list of embeddings.
    Embed,
    /// `POST /rerank`: the texts of a query, best first.
    Rerank,
    /// `POST /predict`: the scores of all labels.
    Predict,
    /// `POST /v1/embeddings` of OpenAI.
    OpenAi,
}

/// Errors of an invocation, by the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error(transparent)]
    Inference(#[from] InferenceError),
}

/// The plan for the response, made when the request is decoded.
#[derive(Debug)]
pub struct InvocationPlan {
    reply: ReplyPlan,
    format: Format,
    /// Set if the response is the answer of the task, and not the outputs.
    answer: Option<(Box<RequestFacts>, Reply)>,
    /// The inputs of the runs after the first one.
    further: Vec<Inputs>,
}

impl InvocationPlan {
    fn outputs(reply: ReplyPlan, format: Format) -> Self {
        Self {
            reply,
            format,
            answer: None,
            further: Vec::new(),
        }
    }

    fn answer(reply: ReplyPlan, format: Format, facts: Box<RequestFacts>, form: Reply) -> Self {
        Self {
            reply,
            format,
            answer: Some((facts, form)),
            further: Vec::new(),
        }
    }
}

impl Invocation {
    /// Divides a request that the task answers into runs, and plans its response.
    fn divided(
        &self,
        inputs: Inputs,
        reply: ReplyPlan,
        format: Format,
        mut facts: Box<RequestFacts>,
        form: Reply,
    ) -> Result<(Inputs, InvocationPlan), InvocationError> {
        let mut runs = self.handler.divide(&reply, &mut facts)?.unwrap_or_default().into_iter();
        let inputs = runs.next().unwrap_or(inputs);
        let plan = InvocationPlan {
            further: runs.collect(),
            ..InvocationPlan::answer(reply, format, facts, form)
        };
        Ok((inputs, plan))
    }
}

impl Work for Invocation {
    type Plan = InvocationPlan;
    type Answer = EncodedResponse;
    type Error = InvocationError;

    fn decode(&self, budget: &dyn RequestBudget) -> Result<(Inputs, Self::Plan), InvocationError> {
        let (decoded, accept, default) = match &self.protocol {
            Protocol::Headers {
                content_type,
                accept,
                default,
                documents,
            } => {
                let body = self.body.clone();
                let decoded = self.handler.decode(content_type, body, *documents, budget)?;
                (decoded, accept.as_deref(), *default)
            }
            Protocol::Texts(api) => {
                let (request, facts, form) = self.handler.decode_texts(*api, self.body.clone(), budget)?;
                let inputs = Inputs {
                    tensors: request.inputs,
                    optional: request.optional,
                };
                return self.divided(inputs, request.reply, Format::Json, facts, form);
            }
            Protocol::OpenInference { json_bytes } => {
                let request = self.handler.decode_open_inference(json_bytes.as_deref(), &self.body)?;
                let decoded = HandledRequest { request, facts: None };
                // The request itself chooses between plain JSON and JSON followed by binary data.
                (decoded, None, Format::Json)
            }
        };
        let HandledRequest { request, facts } = decoded;
        let inputs = Inputs {
            tensors: request.inputs,
            optional: request.optional,
        };
        if let Some(facts) = facts {
            // The task picks from all outputs.
            if self.handler.wants_picture(accept) {
                return Ok((
                    inputs,
                    InvocationPlan::answer(request.reply, Format::Json, facts, Reply::Png),
                ));
            }
            let (format, reply) = self.handler.negotiate(accept, default, &request.reply)?;
            return match self.handler.answer_form(format) {
                Some(form) => self.divided(inputs, request.reply, format, facts, form),
                None => Ok((inputs, InvocationPlan::outputs(reply, format))),
            };
        }
        let (format, reply) = self.handler.negotiate(accept, default, &request.reply)?;
        Ok((inputs, InvocationPlan::outputs(reply, format)))
    }

    fn outputs(plan: &InvocationPlan) -> Option<&[usize]> {
        plan.reply.outputs()
    }

    fn further(plan: &InvocationPlan) -> &[Inputs] {
        &plan.further
    }

    fn apart(&self, plan: &InvocationPlan, outputs: Option<&[Value]>) -> Option<usize> {
        self.handler.apart(plan.format, &plan.reply, outputs)
    }

    fn times(&self) -> Option<&RequestTimes> {
        self.logged.as_ref().map(|logged| &logged.times)
    }

    fn encode(&self, plan: InvocationPlan, runs: &[Vec<Value>]) -> Result<EncodedResponse, InvocationError> {
        match &plan.answer {
            Some((facts, form)) => self.handler.answer(facts, *form, &plan.reply, &self.model, runs),
            None => Ok(self.handler.encode(plan.format, &plan.reply, &self.model, runs)?),
        }
    }
}
