//! Reads a request's body into one buffer.
//!
//! A body that is not wanted, or is over the limit, is read to its end, though not kept: a client
//! that is still sending would otherwise see its connection reset rather than the answer that says
//! why.

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

/// How long a body that is refused is read on.
const LINGER: Duration = Duration::from_secs(10);

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub bytes: usize,
    /// The flag that sets it, for the message.
    pub knob: Option<&'static str>,
}

/// A body, and the memory that is reserved for it.
#[derive(Debug)]
pub(super) struct Body {
    pub bytes: Bytes,
    /// `None` for one that came in one piece: it lies in the connection's own buffer.
    pub memory: Option<RequestMemory>,
}

/// Reads at most `limit` until `deadline`. `declared` is the Content-Length, which a chunked body
/// has not.
pub(super) async fn read(
    engine: &Engine,
    request: &HttpRequest,
    mut payload: Payload,
    declared: Option<usize>,
    limit: Limit,
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
        // Grows as bytes arrive, whatever was declared; memory that is not there refuses this
        // request alone.
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

/// Reads an object out of a body of JSON, behind a byte order mark if there is one. `serde` alone
/// would read a struct from an array, too.
pub(super) fn json_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    match text.trim_ascii_start().first() {
        Some(b'{') | None => serde_json::from_slice(text),
        Some(_) => Err(serde_json::Error::custom("it must be an object")),
    }
}

/// Reads a body that nobody wants.
pub(super) async fn discard(request: &HttpRequest, mut payload: Payload) {
    let _receiving = Receiving::of(request);
    let until = Instant::now() + LINGER;
    while let Ok(Some(Ok(_))) = timeout_at(until, payload.next()).await {}
}

async fn refuse(request: &HttpRequest, payload: Payload, limit: Limit) -> Error {
    discard(request, payload).await;
    Error::BodyTooLarge {
        limit: limit.bytes,
        knob: limit.knob,
    }
}

fn broken(error: &PayloadError) -> Error {
    Error::BodyBroken {
        detail: error.to_string(),
    }
}
