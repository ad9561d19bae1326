//! W3C Trace Context: the trace that a request belongs to.
//!
//! A caller names its trace in the header `traceparent`: the trace's id, the id of the caller's
//! span, and whether the trace is recorded. The server uses the id in its log, and continues the
//! trace if it is recorded. See <https://www.w3.org/TR/trace-context/>.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The two headers of a request.
struct Headers<'a> {
    parent: &'a str,
    state: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Reads the headers `traceparent` and `tracestate`. Returns `None` for an invalid `traceparent`,
/// which W3C's rules treat like a missing one.
pub fn parse(parent: &str, state: Option<&str>) -> Option<SpanContext> {
    // The propagator also accepts ids that are too short.
    let lengths: Vec<usize> = parent.trim().split('-').take(4).map(str::len).collect();
    if lengths != [2, 32, 16, 2] {
        return None;
    }
    let context = TraceContextPropagator::new().extract(&Headers { parent, state });
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Returns the `traceparent` header that names `span`.
pub fn traceparent(span: &SpanContext) -> String {
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_names_a_trace_and_a_span() {
        let span = parse(PARENT, Some("vendor=value")).unwrap();
        assert_eq!(span.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(span.is_sampled());
        assert_eq!(span.trace_state().get("vendor"), Some("value"));
        assert_eq!(traceparent(&span), PARENT);
        let unsampled = PARENT.replace("-01", "-00");
        assert_eq!(traceparent(&parse(&unsampled, None).unwrap()), unsampled);
    }

    #[test]
    fn an_invalid_header_is_ignored() {
        for text in [
            "",
            "00",
            "00-1-2-3",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c\n-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(text, None), None, "{text}");
        }
    }
}
