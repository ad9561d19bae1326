//! Errors in the form of the Open Inference Protocol.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};

use crate::contract::error::Error;
use crate::wire::v2::error_json;

/// An [`Error`] of a request below `/v2`.
#[derive(Debug)]
pub(in crate::contract) struct V2Error(pub Error);

impl fmt::Display for V2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for V2Error {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        self.0.response(error_json(&self.0.to_string()))
    }
}
