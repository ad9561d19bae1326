//! Checks of the headers of successful responses, which SageMaker refuses in some cases.
//!
//! The limits of each header are those of the runtime API's response, which carries it (IN-2,
//! IN-3, SE-2). Asynchronous invocations have two more, with SageMaker's own messages: a response
//! must have a length, and its headers must be short.

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};

use crate::wire::{CUSTOM_ATTRIBUTES, MAX_CUSTOM_ATTRIBUTES};

pub const NEW_SESSION_ID: &str = "x-amzn-sagemaker-new-session-id";
pub const CLOSED_SESSION_ID: &str = "x-amzn-sagemaker-closed-session-id";

const MAX_CONTENT_TYPE: usize = 1024;
const MAX_SESSION: usize = 256;

/// Maximum bytes of all headers of a response to an asynchronous invocation.
const MAX_ASYNC_HEAD: usize = 4096;

/// Checks the headers that reach the client.
pub(super) fn check(container: &str, headers: &HeaderMap, asynchronous: bool) -> Result<(), String> {
    bounded(headers, CONTENT_TYPE.as_str(), MAX_CONTENT_TYPE, |_| true, "")?;
    bounded(headers, CUSTOM_ATTRIBUTES, MAX_CUSTOM_ATTRIBUTES, |_| true, "")?;
    bounded(
        headers,
        NEW_SESSION_ID,
        MAX_SESSION,
        is_opened_session,
        "ID; Expires=YYYY-MM-DDTHH:MM:SSZ",
    )?;
    let an_id = "letters and digits, with hyphens between them";
    bounded(headers, CLOSED_SESSION_ID, MAX_SESSION, is_session, an_id)?;
    if !asynchronous {
        return Ok(());
    }
    // The size on the wire: a colon and a space after the name, a line end after the value.
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    if lengths.sum::<usize>() > MAX_ASYNC_HEAD {
        return Err(format!(
            "Response received from the {container} container has headers with length greater than {MAX_ASYNC_HEAD} bytes. \
             Reduce the length of your container's response headers and update your endpoint."
        ));
    }
    if !headers.contains_key(CONTENT_LENGTH) {
        return Err(format!(
            "The response from container {container} did not specify the required Content-Length header"
        ));
    }
    Ok(())
}

fn bounded(
    headers: &HeaderMap,
    name: &str,
    max: usize,
    matches: impl Fn(&str) -> bool,
    form: &str,
) -> Result<(), String> {
    let Some(value) = headers.get(name) else {
        return Ok(());
    };
    if value.len() > max {
        let length = value.len();
        return Err(format!(
            "The header {name} of the response has {length} bytes; the limit is {max}."
        ));
    }
    match value.to_str() {
        Err(_) => Err(format!(
            "The header {name} of the response must consist of visible US-ASCII characters."
        )),
        Ok(text) if !matches(text) => Err(format!("The header {name} of the response must consist of {form}.")),
        Ok(_) => Ok(()),
    }
}

fn is_session(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

fn is_opened_session(text: &str) -> bool {
    text.split_once(';').is_some_and(|(id, rest)| {
        let time = rest.strip_prefix([' ', '\t']);
        is_session(id) && time.and_then(|time| time.strip_prefix("Expires=")).is_some_and(is_time)
    })
}

/// Whether `text` has the form `2026-01-31T23:59:59Z`, with any digits.
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let same = |(byte, form): (u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    text.len() == FORM.len() && text.bytes().zip(FORM).all(same)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &[u8])| {
            let value = HeaderValue::from_bytes(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        pairs.iter().map(header).collect()
    }

    #[test]
    fn headers_that_the_runtime_api_cannot_carry_are_refused() {
        let long = [b'a'; 1025];
        let table: &[(&'static str, &[u8], Option<&str>)] = &[
            (CUSTOM_ATTRIBUTES, &long[..1024], None),
            (CUSTOM_ATTRIBUTES, &long, Some("has 1025 bytes; the limit is 1024")),
            (CUSTOM_ATTRIBUTES, b"k=v w", None),
            (CUSTOM_ATTRIBUTES, "\u{e9}".as_bytes(), Some("visible US-ASCII")),
            ("content-type", b"text/csv; charset=utf-8", None),
            ("content-type", &long, Some("content-type")),
            ("content-type", b"text/\xe9", Some("visible US-ASCII")),
            (NEW_SESSION_ID, b"s-1; Expires=2026-01-31T23:59:59Z", None),
            (NEW_SESSION_ID, b"s-1;Expires=2026-01-31T23:59:59Z", Some("Expires=")),
            (NEW_SESSION_ID, b"s-1; Expires=tomorrow", Some("Expires=")),
            (NEW_SESSION_ID, b"s-1", Some("Expires=")),
            (NEW_SESSION_ID, &long[..257], Some("the limit is 256")),
            (CLOSED_SESSION_ID, b"s-1", None),
            (CLOSED_SESSION_ID, b"s_1", Some("letters and digits")),
            ("x-own", &long, None),
        ];
        for (name, value, expected) in table {
            let refused = check("model", &headers(&[(name, value)]), false).err();
            let is_right = match (&refused, expected) {
                (Some(reason), Some(part)) => reason.contains(part) && reason.contains(name),
                (refused, expected) => refused.is_none() && expected.is_none(),
            };
            assert!(is_right, "{name}: {refused:?}");
        }
    }

    #[test]
    fn an_asynchronous_response_must_have_a_length_and_short_headers() {
        let check = |pairs: &[(&'static str, &[u8])]| check("model", &headers(pairs), true);
        check(&[("content-length", b"3")]).unwrap();
        let chunked = check(&[("transfer-encoding", b"chunked")]).unwrap_err();
        assert_eq!(
            chunked,
            "The response from container model did not specify the required Content-Length header"
        );
        let long = check(&[("content-length", b"3"), ("x-own", &[b'a'; 4096])]).unwrap_err();
        assert!(long.contains("headers with length greater than 4096 bytes"), "{long}");
    }
}
