//! Runs the warm-up and golden requests of a manifest, and checks their answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;

use super::compare::{Difference, Tolerance, compare};
use super::{Handler, Invocation, InvocationError, Protocol};
use crate::codec::{Documents, EncodedResponse, Format};
use crate::engine::RequestMemory;
use crate::manifest::{Golden, Manifest, Request};

/// A request of a manifest.
#[derive(Debug, Clone, Copy)]
pub struct Rehearsal<'a> {
    which: Which,
    request: &'a Request,
    golden: Option<&'a Golden>,
}

/// The kind of a request and its position in the manifest, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Warmup(usize),
    Golden(usize),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warmup(number) => write!(f, "warm-up request {number}"),
            Self::Golden(number) => write!(f, "golden request {number}"),
        }
    }
}

/// The reason why a model fails the requests of its manifest.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    #[error("{which} failed: {source}")]
    Failed {
        which: Which,
        #[source]
        source: InvocationError,
    },
    #[error("{which} has the wrong answer: {difference} (rtol {rtol}, atol {atol})")]
    Differs {
        which: Which,
        difference: Difference,
        rtol: f64,
        atol: f64,
    },
}

/// The requests of `manifest` in the order in which they run: warm-up requests first.
pub fn rehearsals(manifest: &Manifest) -> impl Iterator<Item = Rehearsal<'_>> {
    let warmup = manifest.warmup.iter().zip(1..).map(|(request, number)| Rehearsal {
        which: Which::Warmup(number),
        request,
        golden: None,
    });
    let golden = manifest.golden.iter().zip(1..).map(|(golden, number)| Rehearsal {
        which: Which::Golden(number),
        request: &golden.request,
        golden: Some(golden),
    });
    warmup.chain(golden)
}

impl Rehearsal<'_> {
    pub fn body(&self) -> Bytes {
        match (&self.request.bytes, &self.request.body) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(Json::String(text))) => Bytes::from(text.clone()),
            (None, Some(json)) => Bytes::from(json.to_string()),
            (None, None) => Bytes::new(),
        }
    }

    /// Makes an invocation of the model named `model`. The server's options for requests do not
    /// affect it, because the answer must be the same on every server.
    pub fn invocation(
        &self,
        body: Bytes,
        memory: Option<RequestMemory>,
        model: String,
        handler: Arc<Handler>,
    ) -> Invocation {
        let content_type = self.request.content_type.as_deref();
        Invocation {
            body,
            memory,
            protocol: Protocol::Headers {
                content_type: content_type.unwrap_or(Format::Json.media_type()).to_owned(),
                accept: self.request.accept.clone(),
                default: Format::Json,
                documents: Documents::One,
            },
            model,
            handler,
            logged: None,
        }
    }

    pub fn failed(&self, source: InvocationError) -> RehearsalError {
        RehearsalError::Failed {
            which: self.which,
            source,
        }
    }

    /// Compares the answer with the expected one, if there is one.
    pub fn check(&self, answer: &EncodedResponse) -> Result<(), RehearsalError> {
        let Some(Golden {
            response, rtol, atol, ..
        }) = self.golden
        else {
            return Ok(());
        };
        let (rtol, atol) = (*rtol, *atol);
        let compared = compare(response, &answer.content_type, &answer.body, Tolerance { rtol, atol });
        compared.map_err(|difference| RehearsalError::Differs {
            which: self.which,
            difference,
            rtol,
            atol,
        })
    }
}
