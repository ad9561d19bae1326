//! The resource that a path names: one table for dispatch, metrics and limits.
//!
//! Model names below `/models/` and `/v2` may contain encoded slashes, so their handlers parse the
//! rest of the raw path (`wire`). All other paths are plain: matching one pattern of a router costs
//! as much as a run of a small model.

use actix_web::http::Method;
use percent_encoding::percent_decode_str;

use super::{texts, v2};
use crate::handler::TextApi;
use crate::page::Part;
use crate::telemetry::metrics::Route;

/// The beginning of the path of a profile.
pub(super) const PROFILE: &str = "/debug/profile/";

pub(super) const LOG_LEVEL: &str = "/debug/log-level";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Ping,
    Invocations,
    ExecutionParameters,
    Metrics,
    /// The list of models.
    Models,
    /// A path below `/models/`.
    Model,
    /// A path below `/debug/profile/`.
    Profile,
    LogLevel,
    /// A path below `/v2`; whether it is an inference.
    Protocol {
        is_inference: bool,
    },
    Text(TextApi),
    /// A part of the page for browsers.
    Page(Part),
    Unknown,
}

impl Resource {
    pub fn of(path: &str) -> Self {
        match path {
            "/ping" => Self::Ping,
            "/invocations" => Self::Invocations,
            "/execution-parameters" => Self::ExecutionParameters,
            "/metrics" => Self::Metrics,
            "/models" => Self::Models,
            LOG_LEVEL => Self::LogLevel,
            path if path.starts_with(PROFILE) => Self::Profile,
            path if path.starts_with("/models/") => Self::Model,
            path if v2::is_below(path) => Self::Protocol {
                is_inference: v2::is_inference(path),
            },
            // Escapes mean nothing in a plain path.
            path if path.contains('%') => match percent_decode_str(path).decode_utf8() {
                Ok(plain) if !plain.contains('%') && plain.matches('/').count() <= 1 => Self::of(&plain),
                Ok(_) | Err(_) => Self::Unknown,
            },
            path => match texts::api(path) {
                Some(api) => Self::Text(api),
                None => Part::of(path).map_or(Self::Unknown, Self::Page),
            },
        }
    }

    /// The methods that the resource allows; `None` where its handler decides.
    pub fn allowed(self) -> Option<&'static str> {
        match self {
            // The SageMaker guide says GET in one place and POST in another (PI-7).
            Self::Ping => Some("GET, HEAD, POST"),
            Self::Invocations | Self::Text(_) | Self::Profile => Some("POST"),
            Self::ExecutionParameters | Self::Metrics => Some("GET"),
            Self::Models => Some("GET, POST"),
            Self::LogLevel => Some("GET, PUT"),
            Self::Model | Self::Protocol { .. } | Self::Page(_) | Self::Unknown => None,
        }
    }

    /// The label of a request in the metrics.
    pub fn route(self, method: &Method) -> Route {
        match self {
            Self::Ping => Route::Ping,
            Self::Invocations | Self::Text(_) => Route::Invocations,
            Self::ExecutionParameters => Route::ExecutionParameters,
            Self::Metrics => Route::Metrics,
            Self::Models if *method == Method::POST => Route::Load,
            Self::Models => Route::List,
            Self::Model => match *method {
                Method::POST => Route::Invoke,
                Method::DELETE => Route::Unload,
                _ => Route::Get,
            },
            Self::Protocol { is_inference: true } => Route::Infer,
            Self::Protocol { is_inference: false } => Route::Protocol,
            Self::Page(_) => Route::Page,
            Self::Profile | Self::LogLevel => Route::Debug,
            Self::Unknown => Route::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_resource_its_methods_and_its_label() {
        let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
        let table = [
            ("/ping", &get, Resource::Ping, Some("GET, HEAD, POST"), Route::Ping),
            (
                "/invocations",
                &post,
                Resource::Invocations,
                Some("POST"),
                Route::Invocations,
            ),
            (
                "/embed",
                &post,
                Resource::Text(TextApi::Embed),
                Some("POST"),
                Route::Invocations,
            ),
            (
                "/execution-parameters",
                &get,
                Resource::ExecutionParameters,
                Some("GET"),
                Route::ExecutionParameters,
            ),
            ("/metrics", &get, Resource::Metrics, Some("GET"), Route::Metrics),
            ("/models", &get, Resource::Models, Some("GET, POST"), Route::List),
            ("/models", &post, Resource::Models, Some("GET, POST"), Route::Load),
            ("/models/a%2Fb/invoke", &post, Resource::Model, None, Route::Invoke),
            ("/models/a", &delete, Resource::Model, None, Route::Unload),
            ("/models/a", &get, Resource::Model, None, Route::Get),
            (
                "/v2/models/a/infer",
                &post,
                Resource::Protocol { is_inference: true },
                None,
                Route::Infer,
            ),
            (
                "/v2/health/live",
                &get,
                Resource::Protocol { is_inference: false },
                None,
                Route::Protocol,
            ),
            ("/debug/profile/a", &post, Resource::Profile, Some("POST"), Route::Debug),
            (
                "/debug/log-level",
                &get,
                Resource::LogLevel,
                Some("GET, PUT"),
                Route::Debug,
            ),
            ("/%70ing", &get, Resource::Ping, Some("GET, HEAD, POST"), Route::Ping),
            ("/%2570ing", &get, Resource::Unknown, None, Route::Other),
            ("/%FF", &get, Resource::Unknown, None, Route::Other),
            ("/", &get, Resource::Page(Part::Page), None, Route::Page),
            ("/ui/state", &get, Resource::Page(Part::State), None, Route::Page),
            ("/ui/other", &get, Resource::Unknown, None, Route::Other),
            ("/pings", &get, Resource::Unknown, None, Route::Other),
        ];
        for (path, method, resource, allowed, route) in table {
            assert_eq!(Resource::of(path), resource, "{path}");
            assert_eq!(resource.allowed(), allowed, "{path}");
            assert_eq!(resource.route(method), route, "{method} {path}");
        }
    }
}
