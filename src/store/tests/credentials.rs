//! Sources of credentials.

use crate::store::StoreError;
use crate::store::testing::{Reply, Server, Stored, TestRequest, fetched, remote};

const KEYS: &str = r#"{"AccessKeyId": "role", "SecretAccessKey": "s", "Token": "session", "Code": "Success",
    "Type": "AWS-HMAC", "LastUpdated": "2015-10-21T07:28:00Z", "Expiration": "2115-10-21T07:28:00Z"}"#;

/// A server that plays the store and, below `/keys`, the source of credentials.
fn server() -> Server {
    let stored = Stored::new(10);
    Server::start(move |request| match request.path().as_str() {
        "/keys/latest/api/token" => Reply::new(200, "imds-token"),
        "/keys/latest/meta-data/iam/security-credentials/" => Reply::new(200, "my-role"),
        path if path.starts_with("/keys") => Reply::new(200, KEYS),
        _ => stored.answer(request),
    })
}

fn endpoint(server: &Server) -> (&'static str, String) {
    ("AWS_ENDPOINT_URL", format!("http://{}", server.address))
}

fn signed_by_the_role(requests: &[TestRequest]) -> bool {
    requests.last().is_some_and(|request| {
        request.header("x-amz-security-token") == Some("session")
            && request
                .header("authorization")
                .is_some_and(|value| value.contains("Credential=role/"))
    })
}

#[test]
fn a_container_endpoint_gives_keys_for_a_token() {
    let server = server();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-file\n").unwrap();
    let by_file = (
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        file.path().display().to_string(),
    );
    let by_text = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "from-text".to_owned());
    let nothing = ("AWS_UNRELATED", "a".to_owned());
    let table = [
        (by_file, Some("from-file")),
        (by_text, Some("from-text")),
        (nothing, None),
    ];
    for (token, expected) in table {
        let full = (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("http://{}/keys", server.address),
        );
        let remote = remote("s3://bucket", [endpoint(&server), full, token]);
        for _ in 0..2 {
            fetched(&remote, "a").unwrap();
        }
        let requests = server.requests();
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[0].header("authorization"), expected);
        assert!(signed_by_the_role(&requests));
    }
}

#[test]
fn an_instance_endpoint_gives_keys() {
    let server = server();
    let metadata = ("AWS_METADATA_ENDPOINT", format!("http://{}/keys", server.address));
    fetched(&remote("s3://bucket", [endpoint(&server), metadata]), "a").unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    assert!(signed_by_the_role(&requests));
}

#[test]
fn a_refused_request_for_keys_means_missing_credentials() {
    let server = Server::start(|_| Reply::new(404, "no role"));
    let full = (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        format!("http://{}/keys", server.address),
    );
    let error = fetched(&remote("s3://bucket", [endpoint(&server), full]), "a").unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, StoreError::NoCredentials { .. }), "{error:?}");
    assert!(
        message.contains("404") && message.contains("set AWS_ACCESS_KEY_ID"),
        "{message}"
    );
}

#[test]
fn no_endpoint_is_asked_for_keys_where_the_instance_metadata_is_disabled() {
    let server = server();
    let disabled = ("AWS_EC2_METADATA_DISABLED", "true".to_owned());
    let metadata = ("AWS_METADATA_ENDPOINT", format!("http://{}/keys", server.address));
    let error = fetched(&remote("s3://bucket", [endpoint(&server), metadata, disabled]), "a").unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("there are no credentials for s3://bucket/a (none are in the environment"),
        "{message}"
    );
    assert!(server.requests().is_empty());
}

#[test]
fn requests_to_public_buckets_have_no_signature() {
    for variable in ["AWS_SKIP_SIGNATURE", "AWS_NO_SIGN_REQUEST"] {
        let server = server();
        fetched(
            &remote("s3://bucket", [endpoint(&server), (variable, "true".to_owned())]),
            "a",
        )
        .unwrap();
        let requests = server.requests();
        assert_eq!((requests.len(), requests[0].header("authorization")), (1, None));
    }
}
