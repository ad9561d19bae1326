//! Failures of a store, and the errors that describe them.

use std::net::TcpListener;
use std::time::Duration;

use crate::store::testing::{Reply, Server, Stored, fetched, name, remote, settings, wait};
use crate::store::{Remote, StoreError};

/// The error for a store that always sends this reply, and the number of its requests.
fn about(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (String, usize) {
    let server = Server::start(move |_| reply());
    let error = fetched(&server.remote(), "a").unwrap_err();
    (error.to_string(), server.requests().len())
}

/// The form in which garage refuses any request.
fn denied(message: &str) -> Reply {
    let text = format!("<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>");
    Reply::new(403, text)
}

#[test]
fn refusals_are_not_retried_and_say_what_to_change() {
    type Make = fn() -> Reply;
    let table: [(Make, &str); 13] = [
        (
            || Reply::error(403, "AccessDenied"),
            "s3://bucket/store/a is refused: 403 AccessDenied (So it is.); allow these credentials s3:GetObject",
        ),
        (
            || Reply::error(403, "SignatureDoesNotMatch"),
            "correct AWS_SECRET_ACCESS_KEY",
        ),
        (|| Reply::error(403, "InvalidAccessKeyId"), "correct AWS_ACCESS_KEY_ID"),
        (
            || denied("Forbidden: Invalid signature"),
            "403 AccessDenied (Forbidden: Invalid signature); correct AWS_SECRET_ACCESS_KEY",
        ),
        (
            || denied("Forbidden: No such key: GK31c2f218a2e44f485b94239e"),
            "GK31c2f218a2e44f485b94239e); correct AWS_ACCESS_KEY_ID",
        ),
        (|| Reply::error(403, "RequestTimeTooSkewed"), "set the clock"),
        (|| Reply::error(400, "ExpiredToken"), "get new credentials"),
        (|| Reply::error(400, "InvalidToken"), "correct AWS_SESSION_TOKEN"),
        (
            || Reply::error(404, "NoSuchBucket"),
            "there is no bucket for s3://bucket/store/a",
        ),
        (
            || Reply::error(301, "PermanentRedirect").with("x-amz-bucket-region", "eu-west-1"),
            "is in another region (eu-west-1); set AWS_REGION",
        ),
        (
            || {
                let text = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
                Reply::new(400, text)
            },
            "is in another region (eu-west-1); set AWS_REGION",
        ),
        (
            || Reply::error(400, "KeyTooLongError"),
            "answered 400 KeyTooLongError (So it is.)",
        ),
        (|| Reply::new(403, "no"), "is refused: 403; allow"),
    ];
    for (reply, expected) in table {
        let (message, requests) = about(reply);
        assert!(message.contains(expected), "{message}");
        assert_eq!(requests, 1, "{message}");
    }
}

#[test]
fn passing_failures_are_retried() {
    let server = {
        let (stored, count) = (Stored::new(500), std::sync::atomic::AtomicUsize::new(0));
        Server::start(
            move |request| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Reply::error(503, "SlowDown"),
                1 => Reply::new(200, "x").cut(0),
                _ => stored.answer(request),
            },
        )
    };
    assert_eq!(fetched(&server.remote(), "a").unwrap().len(), 500);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_lasting_failure_is_an_error_after_the_last_retry() {
    for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (429, "TooManyRequests")] {
        let (message, requests) = about(move || Reply::error(status, code));
        let expected = format!("answered {status} {code} (So it is.) after 3 tries; try again later");
        assert!(message.contains(&expected), "{message}");
        assert_eq!(requests, 3);
    }
}

#[test]
fn only_the_beginning_of_an_endless_error_body_is_read() {
    let (message, _) = about(|| Reply::new(400, vec![b'x'; 1 << 20]).stall(1 << 19));
    assert!(message.contains("answered 400; check"), "{message}");
}

#[test]
fn a_store_that_does_not_listen_is_unreachable() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fetched(&remote(&format!("http://{address}/store"), [("", "")]), "a").unwrap_err();
    let StoreError::Unreachable { reason, tries: 3, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(reason.contains("refused"), "{reason}");
}

#[test]
fn an_unknown_host_name_is_unreachable() {
    let error = fetched(&remote("http://store.invalid/store", [("", "")]), "a").unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_store_that_sends_nothing_times_out() {
    // Before a response, and in the middle of one.
    for after in [0, 10] {
        let stored = Stored::new(500);
        let server = Server::start(move |request| stored.answer(request).stall(after));
        let mut settings = settings("s3://bucket/store", server.environment());
        settings.timeout = Duration::from_millis(100);
        let error = fetched(&Remote::open(&settings).unwrap(), "a").unwrap_err();
        let expected = StoreError::TimedOut {
            url: "s3://bucket/store/a".to_owned(),
            timeout: Duration::from_millis(100),
            tries: 3,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn invalid_responses_are_errors() {
    let wrong_range = || {
        Reply::new(206, "x")
            .with("content-range", "bytes 5-5/9")
            .with("etag", "\"a\"")
    };
    let no_range = || Reply::new(206, "x").with("etag", "\"a\"");
    for reply in [wrong_range as fn() -> Reply, no_range] {
        let (message, requests) = about(reply);
        assert!(message.contains("sent an invalid response"), "{message}");
        assert_eq!(requests, 1);
    }
}

#[test]
fn web_servers_have_no_folders() {
    let server = Server::start(|_| Reply::new(404, "no"));
    let error = fetched(&server.web(), "a").unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn opening_a_store_sends_no_request() {
    let server = Server::start(|_| Reply::error(500, "InternalError"));
    let remote = server.remote();
    assert!(server.requests().is_empty());
    assert!(wait(remote.find(&name("a"), None)).is_err());
}

#[test]
fn a_store_with_invalid_settings_is_refused_when_it_is_opened() {
    let table = [
        (
            "s3://bucket",
            vec![("AWS_SECRET_ACCESS_KEY", "a")],
            "Missing AccessKeyId",
        ),
        (
            "s3://bucket",
            vec![("AWS_ENDPOINT_URL", "localhost:9000")],
            "the address in AWS_ENDPOINT_URL is invalid; it has to begin with",
        ),
        ("az://container", vec![], "set AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "gs://bucket",
            vec![("GOOGLE_SERVICE_ACCOUNT", "/nonexistent")],
            "/nonexistent",
        ),
        ("/nonexistent/models", vec![], "No such file"),
        (
            "s3://bucket",
            vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://elsewhere/")],
            "credentials may be requested only over https",
        ),
    ];
    for (url, environment, expected) in table {
        let message = Remote::open(&settings(url, environment)).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
