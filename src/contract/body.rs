//! Reads a request's body into one buffer.
//!
//! A body over the limit is read to its end, though not kept: a client that is still sending would otherwise see its
//! connection reset rather than the 413 that says why.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::error::Error;

/// How long a body that is refused is read on.
const LINGER: Duration = Duration::from_secs(10);

/// Reads at most `limit` bytes until `deadline`. `declared` is the Content-Length, which a chunked body has not.
pub(super) async fn read(
    mut payload: Payload,
    declared: Option<usize>,
    limit: usize,
    deadline: Instant,
) -> Result<Bytes, Error> {
    if declared.is_some_and(|declared| declared > limit) {
        return Err(refuse(payload, limit).await);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = timeout_at(deadline, payload.next())
        .await
        .map_err(|_| Error::BodyTimeout)?
    {
        let chunk = chunk.map_err(|error| broken(&error))?;
        if body.len() + chunk.len() > limit {
            drop(body);
            return Err(refuse(payload, limit).await);
        }
        if body.is_empty() && declared == Some(chunk.len()) {
            return Ok(chunk);
        }
        if body.is_empty() {
            body.reserve(declared.unwrap_or(0).max(chunk.len()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

async fn refuse(mut payload: Payload, limit: usize) -> Error {
    let until = Instant::now() + LINGER;
    while let Ok(Some(Ok(_))) = timeout_at(until, payload.next()).await {}
    Error::BodyTooLarge { limit }
}

fn broken(error: &PayloadError) -> Error {
    Error::BodyBroken {
        detail: error.to_string(),
    }
}
