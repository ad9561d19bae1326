//! A request's body on its way through a handler and its model.

use std::sync::Arc;

use bytes::Bytes;

use super::Handler;
use crate::codec::{DecodeError, Documents, EncodeError, Encoded, Format, ReplyPlan};
use crate::engine::{InferenceError, RequestMemory, Work};
use crate::tensor::{Inputs, Value};

/// A request, as far as the model's answer depends on it. Parsing and writing large bodies takes as
/// long as a run, so it is done where the model runs.
#[derive(Debug)]
pub struct Invocation {
    pub body: Bytes,
    /// The reservation for the body.
    pub memory: Option<RequestMemory>,
    pub protocol: Protocol,
    pub model: String,
    pub handler: Arc<Handler>,
}

/// The way in which a request says what its body is and what the reply has to be.
#[derive(Debug)]
pub enum Protocol {
    /// By its headers, as SageMaker passes them on.
    Headers {
        content_type: String,
        accept: Option<String>,
        /// The format of the reply where `accept` leaves it open.
        default: Format,
        documents: Documents,
    },
    /// By the body itself. `json_bytes` is the header that says where its JSON ends.
    OpenInference { json_bytes: Option<String> },
}

/// Why an invocation has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Inference(#[from] InferenceError),
}

impl Work for Invocation {
    type Plan = (ReplyPlan, Format);
    type Answer = Encoded;
    type Error = InvocationError;

    fn decode(&self) -> Result<(Inputs, Self::Plan), InvocationError> {
        let (asked, accept, default) = match &self.protocol {
            Protocol::Headers {
                content_type,
                accept,
                default,
                documents,
            } => {
                let asked = self.handler.decode(content_type, self.body.clone(), *documents)?;
                (asked, accept.as_deref(), *default)
            }
            Protocol::OpenInference { json_bytes } => {
                let asked = self.handler.decode_open_inference(json_bytes.as_deref(), &self.body)?;
                // JSON alone, or with binary data behind it, as the request says.
                (asked, None, Format::Json)
            }
        };
        let (format, reply) = self.handler.negotiate(accept, default, &asked.reply)?;
        let inputs = Inputs {
            tensors: asked.inputs,
            optional: asked.optional,
        };
        Ok((inputs, (reply, format)))
    }

    fn outputs((reply, _): &Self::Plan) -> Option<&[usize]> {
        reply.outputs()
    }

    fn apart(&self, (reply, format): &Self::Plan, outputs: Option<&[Value]>) -> Option<usize> {
        self.handler.apart(*format, reply, outputs)
    }

    fn encode(&self, (reply, format): Self::Plan, runs: &[Vec<Value>]) -> Result<Encoded, InvocationError> {
        Ok(self.handler.encode(format, &reply, &self.model, runs)?)
    }
}
