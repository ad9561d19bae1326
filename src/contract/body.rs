//! Reads the body of a request, with a reservation of its memory.

use actix_web::HttpRequest;
use actix_web::web::Payload;
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use tokio::time::Instant;

use super::error::Error;
use crate::connections::{BodyError, read_body};
use crate::engine::{Engine, RequestMemory};
use crate::wire::BYTE_ORDER_MARK;

pub(super) use crate::connections::discard_body as discard;

/// Limit on the size of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit {
    pub bytes: usize,
    /// The flag that sets the limit, for the message.
    pub option: Option<&'static str>,
}

/// A body with its memory reservation.
#[derive(Debug)]
pub(super) struct Body {
    pub bytes: Bytes,
    /// `None` for a body that arrived in one chunk, because it is in the connection's own buffer.
    pub memory: Option<RequestMemory>,
}

/// Reads a body of at most `limit` until `deadline`. If memory is missing, only this request is
/// refused.
pub(super) async fn read(
    engine: &Engine,
    request: &HttpRequest,
    payload: Payload,
    limit: BodyLimit,
    deadline: Instant,
) -> Result<Body, Error> {
    let reserve = |memory: &mut _, more| reserve(engine, memory, more);
    match read_body(request, payload, limit.bytes, deadline, reserve).await {
        Ok((bytes, memory)) => Ok(Body { bytes, memory }),
        Err(BodyError::TooLarge) => Err(Error::BodyTooLarge {
            limit: limit.bytes,
            option: limit.option,
        }),
        Err(BodyError::NoMemory) => Err(Error::NoMemoryForBody),
        Err(BodyError::Late) => Err(Error::BodyTimeout),
        Err(BodyError::Broken(error)) => Err(Error::BodyBroken {
            detail: error.to_string(),
        }),
    }
}

/// Adds `more` bytes to the reservation of a body; `false` if the memory is not available.
pub(super) fn reserve(engine: &Engine, memory: &mut Option<RequestMemory>, more: usize) -> bool {
    match memory {
        Some(memory) => memory.grow(more as u64).is_ok(),
        None => {
            *memory = engine.reserve_body(more as u64).ok();
            memory.is_some()
        }
    }
}

/// Parses a JSON object from a body, after an optional byte order mark. `serde` alone would also
/// accept an array for a struct.
pub(super) fn json_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    match text.trim_ascii_start().first() {
        Some(b'{') | None => serde_json::from_slice(text),
        Some(_) => Err(serde_json::Error::custom("expected an object")),
    }
}
