//! Statuses for a server behind a load balancer (`--behind-balancer`).
//!
//! A balancer such as HAProxy knows only the status of a response, and repeats a request at another
//! server after a 503. So with the option, 503 means exactly this: the server has not begun the
//! request, and another server may answer it. SageMaker's platform reads the statuses in another
//! way, so the option is off by default.
//!
//! - A reservation of memory that is refused is a 503 instead of a 507, unless it exceeds the whole
//!   memory limit. Any other lack of memory stays a 507, because the request may have run.
//! - A model of the store that is broken or refused is a 500 instead of a 503. At other servers it
//!   would fail as well, and a model that has crashed this server would crash the next one.
//! - A model whose runs do not end is a 500 instead of a 503, so that they occupy no other server.
//! - A request that did not end within the drain timeout is a 504 instead of a 503
//!   ([`Error::CutWhileBegun`]).

#![warn(clippy::wildcard_enum_match_arm)]

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;

use super::error::Error;
use super::failure;
use crate::catalog::CatalogError;
use crate::engine::{InferenceError, LoadError, NoRoom};
use crate::handler::{InvocationError, MediaError, RehearsalError};
use crate::telemetry::cause::Cause;

/// Changes an error response whose status would mislead a balancer.
pub(super) fn adapt(response: ServiceResponse<BoxBody>, is_v2: bool) -> ServiceResponse<BoxBody> {
    let Some(error) = failure::error(&response) else {
        return response;
    };
    let Some(status) = status(response.status(), error) else {
        return response;
    };
    // Bodies of the other protocol do not repeat the status.
    let body = (!is_v2).then(|| error.json(status));
    let mut response = match body {
        Some(body) => response.map_body(|_, _| BoxBody::new(body)),
        None => response,
    };
    *response.response_mut().status_mut() = status;
    response
}

/// The status of `error` behind a balancer; `None` where it stays the same.
fn status(usual: StatusCode, error: &Error) -> Option<StatusCode> {
    match usual {
        StatusCode::INSUFFICIENT_STORAGE => is_refused_for_now(error).then_some(StatusCode::SERVICE_UNAVAILABLE),
        StatusCode::SERVICE_UNAVAILABLE => match error.cause() {
            Cause::InvalidModel | Cause::Quarantined | Cause::Stuck | Cause::Internal => {
                Some(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Cause::QueueFull | Cause::Store | Cause::Exhausted | Cause::Unready => None,
            // These have other statuses.
            Cause::BadRequest
            | Cause::Unsupported
            | Cause::TooLarge
            | Cause::Forbidden
            | Cause::NotFound
            | Cause::Conflict
            | Cause::SlowBody
            | Cause::HungUp
            | Cause::Deadline
            | Cause::Memory => None,
        },
        _ => None,
    }
}

/// Whether a reservation was refused, before the request was begun, that fits into an empty server.
fn is_refused_for_now(error: &Error) -> bool {
    matches!(error, Error::NoMemoryForBody) || refused(error).is_some_and(|room| room.needed <= room.limit)
}

/// The reservation for the request, or for the load of its model or a rehearsal of it, that was
/// refused.
fn refused(error: &Error) -> Option<&NoRoom> {
    if let Error::Media(MediaError::NoRoom(room)) | Error::Inference(InferenceError::NoRoom(room)) = error {
        return Some(room);
    }
    let Error::Catalog(error) = error else {
        return None;
    };
    let mut error = error;
    while let CatalogError::OnDemand { source, .. } | CatalogError::PendingLoad(source) = error {
        error = source;
    }
    if let CatalogError::Load { source, .. } = error
        && let LoadError::NoRoom(room) = &**source
    {
        return Some(room);
    }
    if let CatalogError::Rehearsal { source, .. } = error
        && let RehearsalError::Failed { source, .. } = &**source
        && let InvocationError::Inference(InferenceError::NoRoom(room))
        | InvocationError::Media(MediaError::NoRoom(room)) = source
    {
        return Some(room);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::codec::{DecodeError, EncodeError};
    use crate::engine::{PoolError, PrepareError, RunError, SessionError};
    use crate::handler::Which;
    use crate::task::TaskError;

    fn on_demand(source: LoadError) -> Error {
        let (name, source) = ("a".to_owned(), Arc::new(source));
        let pending = CatalogError::PendingLoad(Arc::new(CatalogError::Load { name, source }));
        let source = Arc::new(pending);
        Error::Catalog(CatalogError::OnDemand { source, again: None })
    }

    fn rehearsed(source: InvocationError) -> Error {
        let (which, name) = (Which::Warmup(1), "a".to_owned());
        let source = Box::new(RehearsalError::Failed { which, source });
        Error::Catalog(CatalogError::Rehearsal { name, source })
    }

    fn no_room(needed: u64) -> NoRoom {
        NoRoom {
            needed,
            available: 50,
            limit: 1_000,
        }
    }

    #[test]
    fn only_requests_that_another_server_may_answer_get_503() {
        use actix_web::ResponseError;
        let rejected = SessionError::Rejected("no".to_owned());
        let (name, waited) = ("a".to_owned(), Duration::from_secs(1));
        let stuck = InferenceError::Stuck {
            name: name.clone(),
            runs: 1,
        };
        let table = [
            (on_demand(no_room(1_000).into()), 507, Some(503)),
            (on_demand(no_room(1_001).into()), 507, None),
            (Error::Inference(no_room(1_000).into()), 507, Some(503)),
            (Error::Inference(no_room(1_001).into()), 507, None),
            (Error::Media(no_room(1_000).into()), 507, Some(503)),
            (rehearsed(InferenceError::NoRoom(no_room(1_000)).into()), 507, Some(503)),
            (rehearsed(MediaError::NoRoom(no_room(1_001)).into()), 507, None),
            (Error::NoMemoryForBody, 507, Some(503)),
            (on_demand(PrepareError::Killed.into()), 507, None),
            (on_demand(SessionError::OutOfMemory.into()), 507, None),
            // The request has been begun, or has run.
            (Error::Decode(DecodeError::OutOfMemory), 507, None),
            (Error::Inference(RunError::OutOfMemory.into()), 507, None),
            (rehearsed(InferenceError::Run(RunError::OutOfMemory).into()), 507, None),
            (Error::Media(TaskError::OutOfMemory.into()), 507, None),
            (Error::Encode(EncodeError::OutOfMemory), 507, None),
            (on_demand(rejected.into()), 503, Some(500)),
            (Error::Inference(stuck), 503, Some(500)),
            (Error::Catalog(CatalogError::StillBusy { name, waited }), 503, Some(500)),
            (Error::Inference(RunError::Disturbed.into()), 503, Some(500)),
            (
                on_demand(LoadError::Pool(PoolError::QueueFull { waiting: 1 })),
                503,
                None,
            ),
            (Error::Draining, 503, None),
            (Error::Crowded, 503, None),
            (Error::CutWhileBegun, 504, None),
            (Error::NoTargetModel, 400, None),
        ];
        for (error, usual, expected) in table {
            assert_eq!(error.status_code().as_u16(), usual, "{error}");
            let status = status(error.status_code(), &error).map(|status| status.as_u16());
            assert_eq!(status, expected, "{error}");
        }
    }
}
