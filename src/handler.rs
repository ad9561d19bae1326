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
mod rehearsal;
mod resolve;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;

use crate::codec::{self, DecodeError, Documents, EncodeError, Encoded, Format, ReplyPlan, Request, Schema};
use crate::manifest::Manifest;
use crate::tensor::{Signature, Value};

use chunks::Chunks;
use labels::Labels;

pub use compare::Difference;
pub use invocation::{Invocation, InvocationError, Protocol};
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
}

impl Handler {
    /// The handler of a model. The error names what of the manifest does not fit the model.
    pub fn new(manifest: &Manifest, signature: &Signature) -> Result<Self, HandlerError> {
        resolve::resolve(manifest, signature)
    }

    /// The names, columns and defaults of the model's inputs.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Reads a request body. `content_type` is the header's value, or the caller's default when
    /// there is none (CT-1).
    pub fn decode(&self, content_type: &str, body: Bytes, documents: Documents) -> Result<Request, DecodeError> {
        self.complete(codec::decode(content_type, body, &self.schema, documents)?)
    }

    /// Bytes that reading a body takes, as far as that is more than its own.
    pub fn weight(&self, content_type: &str, body: &Bytes) -> usize {
        codec::weight(content_type, body, &self.schema)
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
