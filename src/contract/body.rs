//! Reads a request's body into one buffer.
//!
//! A body that is not wanted, or is over the limit, is read to its end, though not kept: a client that is still sending
//! would otherwise see its connection reset rather than the answer that says why.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::web::Payload;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::error::Error;

/// How long a body that is refused is read on.
const LINGER: Duration = Duration::from_secs(10);

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub bytes: usize,
    /// The flag that sets it, for the message.
    pub knob: Option<&'static str>,
}

/// Reads at most `limit` until `deadline`. `declared` is the Content-Length, which a chunked body has not.
pub(super) async fn read(
    mut payload: Payload,
    declared: Option<usize>,
    limit: Limit,
    deadline: Instant,
) -> Result<Bytes, Error> {
    if declared.is_some_and(|declared| declared > limit.bytes) {
        return Err(refuse(payload, limit).await);
    }
    let mut body = Vec::new();
    while let Some(chunk) = timeout_at(deadline, payload.next())
        .await
        .map_err(|_| Error::BodyTimeout)?
    {
        let chunk = chunk.map_err(|error| broken(&error))?;
        if body.len() + chunk.len() > limit.bytes {
            drop(body);
            return Err(refuse(payload, limit).await);
        }
        if body.is_empty() && declared == Some(chunk.len()) {
            return Ok(chunk);
        }
        // Grows as bytes arrive, whatever was declared; memory that is not there refuses this request alone.
        body.try_reserve(chunk.len()).map_err(|_| Error::NoMemoryForBody)?;
        body.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(body))
}

/// Reads a body that nobody wants.
pub(super) async fn discard(mut payload: Payload) {
    let until = Instant::now() + LINGER;
    while let Ok(Some(Ok(_))) = timeout_at(until, payload.next()).await {}
}

async fn refuse(payload: Payload, limit: Limit) -> Error {
    discard(payload).await;
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
