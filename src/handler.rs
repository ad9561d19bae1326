//! What stands between a request's body and the tensors of one model: its manifest, resolved against its signature.
//!
//! A handler is built once, when a model is loaded, and is pure from then on: a body becomes named tensors, outputs become
//! a body. It knows the formats (`codec`) and what a model declares, but not ONNX Runtime. A model without a manifest has
//! a handler that adds nothing, and is served at the cost of the formats alone.

use bytes::Bytes;

use crate::codec::{self, DecodeError, EncodeError, Encoded, Format, ReplyPlan, Request, Schema};
use crate::manifest::Manifest;
use crate::tensor::{Signature, Value};

/// Why a manifest does not fit its model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {}

/// Reads and writes the bodies of one model's requests.
#[derive(Debug)]
pub struct Handler {
    schema: Schema,
    /// The outputs that go out where a request does not choose, in this order; `None` for all of them.
    outputs: Option<Vec<usize>>,
}

impl Handler {
    pub fn new(_manifest: &Manifest, signature: &Signature) -> Result<Self, HandlerError> {
        Ok(Self {
            schema: Schema::of(signature.clone()),
            outputs: None,
        })
    }

    /// What requests may say of the model's inputs.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Reads a request body. `content_type` is the header's value, or the caller's default when there is none (CT-1).
    pub fn decode(&self, content_type: &str, body: Bytes) -> Result<Request, DecodeError> {
        Ok(self.choose(codec::decode(content_type, body, &self.schema)?))
    }

    /// Bytes that reading a body takes, as far as that is more than its own.
    pub fn weight(&self, content_type: &str, body: &Bytes) -> usize {
        codec::weight(content_type, body, &self.schema)
    }

    /// Reads a request of the Open Inference Protocol. `json_bytes` is the value of the header that says where the JSON ends.
    pub fn decode_open_inference(&self, json_bytes: Option<&str>, body: &Bytes) -> Result<Request, DecodeError> {
        Ok(self.choose(codec::decode_open_inference(json_bytes, body, &self.schema)?))
    }

    /// Chooses the format of the reply, before the model runs.
    pub fn negotiate(&self, accept: Option<&str>, default: Format, plan: &ReplyPlan) -> Result<Format, EncodeError> {
        codec::negotiate(accept, default, plan, self.schema.signature())
    }

    /// How many records have to run one by one; `None` where one run answers them all.
    pub fn apart(&self, format: Format, plan: &ReplyPlan, outputs: Option<&[Value]>) -> Option<usize> {
        codec::apart(format, plan, self.schema.signature(), outputs)
    }

    /// Writes a reply. `runs` holds the outputs of the plan, in its order: of one run for all records, or of one for each.
    pub fn encode(
        &self,
        format: Format,
        plan: &ReplyPlan,
        model: &str,
        runs: &[Vec<Value>],
    ) -> Result<Encoded, EncodeError> {
        codec::encode(format, plan, model, self.schema.signature(), runs)
    }

    fn choose(&self, mut request: Request) -> Request {
        if let Some(outputs) = &self.outputs {
            request.reply.choose(outputs);
        }
        request
    }
}
