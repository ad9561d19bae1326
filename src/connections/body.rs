//! Reads the body of a request into one buffer.
//!
//! A body that is refused or over the limit is read to its end and discarded. Otherwise a client
//! that is still sending would see a connection reset instead of the response.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::Payload;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::Receiving;

/// Longest time for which a refused body is still read.
const LINGER: Duration = Duration::from_secs(10);

/// The reason why a body could not be read.
#[derive(Debug)]
pub enum BodyError {
    TooLarge,
    NoMemory,
    Late,
    Broken(PayloadError),
}

/// Reads a body of at most `limit` bytes until `deadline`.
///
/// `reserve` decides whether the buffer may grow by a number of bytes, and keeps the reservation
/// in its first argument. A body that arrives in one chunk needs none, because it is in the
/// connection's own buffer.
pub async fn read_body<M>(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
    deadline: Instant,
    reserve: impl Fn(&mut Option<M>, usize) -> bool,
) -> Result<(Bytes, Option<M>), BodyError> {
    let declared = content_length(request);
    if declared.is_some_and(|declared| declared > limit) {
        discard_body(request, payload).await;
        return Err(BodyError::TooLarge);
    }
    let receiving = Receiving::of(request);
    let mut body = Vec::new();
    let mut memory = None;
    while let Some(chunk) = timeout_at(deadline, payload.next())
        .await
        .map_err(|_| BodyError::Late)?
    {
        let chunk = chunk.map_err(|error| match receiving.is_overdue() {
            true => BodyError::Late,
            false => BodyError::Broken(error),
        })?;
        if body.is_empty() && declared == Some(chunk.len()) {
            return Ok((chunk, None));
        }
        let refusal = if body.len() + chunk.len() > limit {
            BodyError::TooLarge
        } else if grow(&mut body, chunk.len(), |more| reserve(&mut memory, more)) {
            body.extend_from_slice(&chunk);
            continue;
        } else {
            BodyError::NoMemory
        };
        drop((body, memory));
        discard_body(request, payload).await;
        return Err(refusal);
    }
    Ok((Bytes::from(body), memory))
}

/// Makes room for `bytes` more. The buffer grows as bytes arrive, not by the declared length, so
/// that only a request whose memory is missing is refused.
fn grow(body: &mut Vec<u8>, bytes: usize, reserve: impl FnOnce(usize) -> bool) -> bool {
    if body.capacity() - body.len() >= bytes {
        return true;
    }
    let more = bytes.max(body.capacity());
    reserve(more) && body.try_reserve_exact(more).is_ok()
}

/// Reads and discards a body.
pub async fn discard_body(request: &HttpRequest, mut payload: Payload) {
    let _receiving = Receiving::of(request);
    let until = Instant::now() + LINGER;
    while let Ok(Some(Ok(_))) = timeout_at(until, payload.next()).await {}
}

/// The Content-Length; a chunked body has none.
fn content_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
