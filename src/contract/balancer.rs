//! Statuses for a server behind a load balancer (`--behind-balancer`).
//!
//! A balancer such as HAProxy knows only the status of a response, and repeats a request at another
//! server after a 503. So with the option, 503 means exactly this: the server has not begun the
//! request, and another server may answer it. SageMaker's platform reads the statuses in another
//! way, so the option is off by default.
//!
//! - Lack of memory is a 503 instead of a 507, unless the model does not fit into an empty server.
//! - A model of the store that is broken or refused is a 500 instead of a 503. At other servers it
//!   would fail as well, and a model that has crashed this server would crash the next one.
//! - A request that did not end within the drain timeout is a 504 instead of a 503
//!   ([`Error::CutWhileBegun`]).

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;

use super::error::Error;
use super::failure;
use crate::catalog::CatalogError;
use crate::engine::LoadError;
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
        StatusCode::INSUFFICIENT_STORAGE if !never_fits(error) => Some(StatusCode::SERVICE_UNAVAILABLE),
        StatusCode::SERVICE_UNAVAILABLE => match error.cause() {
            Cause::InvalidModel | Cause::Quarantined | Cause::Internal => Some(StatusCode::INTERNAL_SERVER_ERROR),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the error is a model that needs more than the whole memory limit.
fn never_fits(error: &Error) -> bool {
    let Error::Catalog(error) = error else {
        return false;
    };
    let mut error = error;
    while let CatalogError::OnDemand { source, .. } | CatalogError::PendingLoad(source) = error {
        error = source;
    }
    match error {
        CatalogError::Load { source, .. } => match &**source {
            LoadError::NoRoom(room) => room.needed > room.limit,
            // The preparation of a model, which has a limit of its own, ran out of memory.
            LoadError::Prepare(_) => true,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{NoRoom, PoolError, PrepareError, SessionError};

    fn on_demand(source: LoadError) -> Error {
        let (name, source) = ("a".to_owned(), Arc::new(source));
        let pending = CatalogError::PendingLoad(Arc::new(CatalogError::Load { name, source }));
        let source = Arc::new(pending);
        Error::Catalog(CatalogError::OnDemand { source, again: None })
    }

    fn no_room(needed: u64) -> LoadError {
        LoadError::NoRoom(NoRoom {
            needed,
            available: 50,
            limit: 1_000,
        })
    }

    #[test]
    fn only_requests_that_another_server_may_answer_get_503() {
        use actix_web::ResponseError;
        let rejected = SessionError::Rejected("no".to_owned());
        let table = [
            (on_demand(no_room(100)), 507, Some(503)),
            (on_demand(no_room(2_000)), 507, None),
            (Error::NoMemoryForBody, 507, Some(503)),
            (on_demand(PrepareError::Killed.into()), 507, None),
            (on_demand(rejected.into()), 503, Some(500)),
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
