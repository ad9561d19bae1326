//! Reads the body of a request into one buffer.
//!
//! A body that is refused or over the limit is read to its end and discarded. Otherwise a client
//! that is still sending would see a connection reset instead of the response.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::web::Payload;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::{DeserializeOwned, Error as _};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use crate::connections::Receiving;
use crate::engine::{Engine, RequestMemory};
use crate::wire::BYTE_ORDER_MARK;

/// Longest time for which a refused body is still read.
const LINGER: Duration = Duration::from_secs(10);

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

/// Reads a body of at most `limit` until `deadline`. `declared` is the Content-Length; a chunked
/// body has none.
pub(super) async fn read(
    engine: &Engine,
    request: &HttpRequest,
    mut payload: Payload,
    declared: Option<usize>,
    limit: BodyLimit,
    deadline: Instant,
) -> Result<Body, Error> {
    if declared.is_some_and(|declared| declared > limit.bytes) {
        return Err(refuse(request, payload, limit).await);
    }
    let receiving = Receiving::of(request);
    let mut body = Vec::new();
    let mut memory: Option<RequestMemory> = None;
    while let Some(chunk) = timeout_at(deadline, payload.next())
        .await
        .map_err(|_| Error::BodyTimeout)?
    {
        let chunk = chunk.map_err(|error| match receiving.is_overdue() {
            true => Error::BodyTimeout,
            false => broken(&error),
        })?;
        if body.len() + chunk.len() > limit.bytes {
            drop(body);
            return Err(refuse(request, payload, limit).await);
        }
        if body.is_empty() && declared == Some(chunk.len()) {
            return Ok(Body {
                bytes: chunk,
                memory: None,
            });
        }
        // Grow as bytes arrive, not by the declared length. If memory is missing, only this
        // request is refused.
        if body.capacity() - body.len() < chunk.len() {
            let more = chunk.len().max(body.capacity());
            let reserved = match &mut memory {
                Some(memory) => memory.grow(more as u64),
                None => engine.reserve_body(more as u64).map(|reserved| memory = Some(reserved)),
            };
            if reserved.is_err() || body.try_reserve_exact(more).is_err() {
                drop((body, memory));
                discard(request, payload).await;
                return Err(Error::NoMemoryForBody);
            }
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body {
        bytes: Bytes::from(body),
        memory,
    })
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

/// Reads and discards a body.
pub(super) async fn discard(request: &HttpRequest, mut payload: Payload) {
    let _receiving = Receiving::of(request);
    let until = Instant::now() + LINGER;
    while let Ok(Some(Ok(_))) = timeout_at(until, payload.next()).await {}
}

async fn refuse(request: &HttpRequest, payload: Payload, limit: BodyLimit) -> Error {
    discard(request, payload).await;
    Error::BodyTooLarge {
        limit: limit.bytes,
        option: limit.option,
    }
}

fn broken(error: &PayloadError) -> Error {
    Error::BodyBroken {
        detail: error.to_string(),
    }
}
