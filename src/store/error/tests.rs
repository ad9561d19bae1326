use super::*;

fn response(status: u16, code: Option<&str>) -> StoreResponse {
    StoreResponse {
        status,
        code: code.map(str::to_owned),
        message: code.map(|code| format!("about {code}")),
    }
}

#[test]
fn every_store_error_says_what_to_change() {
    let url = || "s3://models/team/a.tar.gz".to_owned();
    let reason = || "connection refused".to_owned();
    let table: [(StoreError, &str, bool); 20] = [
        (
            StoreError::NotFound { url: url() },
            "there is nothing at s3://models/team/a.tar.gz, neither an object nor a folder of files that may be listed; \
             check the name",
            false,
        ),
        (
            StoreError::NoBucket {
                url: url(),
                bucket: "bucket",
                address: "the region and endpoint in the environment",
            },
            "there is no bucket for s3://models/team/a.tar.gz; check its name, and the region and endpoint in the \
             environment",
            false,
        ),
        (
            StoreError::OtherRegion {
                url: url(),
                region: Some("eu-west-1".to_owned()),
            },
            "s3://models/team/a.tar.gz is in another region (eu-west-1); set AWS_REGION to that of the bucket",
            false,
        ),
        (
            StoreError::Denied {
                url: url(),
                response: response(403, Some("AccessDenied")),
                advice: "allow s3:GetObject",
            },
            "s3://models/team/a.tar.gz is refused: 403 AccessDenied (about AccessDenied); allow s3:GetObject",
            false,
        ),
        (
            StoreError::NoCredentials {
                url: url(),
                reason: reason(),
                tries: 1,
                advice: "set AWS_ACCESS_KEY_ID",
            },
            "there are no credentials for s3://models/team/a.tar.gz (connection refused); set AWS_ACCESS_KEY_ID",
            false,
        ),
        (
            StoreError::Unreachable {
                url: url(),
                reason: reason(),
                tries: 4,
                address: "the address",
            },
            "s3://models/team/a.tar.gz cannot be reached after 4 tries: connection refused; check the address, the \
             network, HTTPS_PROXY where there is a proxy, and SSL_CERT_FILE for certificates of your own",
            true,
        ),
        (
            StoreError::TimedOut {
                url: url(),
                timeout: Duration::from_secs(30),
                tries: 4,
            },
            "s3://models/team/a.tar.gz sent nothing for 30s after 4 tries; raise --store-timeout if the store is that \
             slow",
            true,
        ),
        (
            StoreError::Status {
                url: url(),
                response: response(503, Some("SlowDown")),
                tries: 4,
            },
            "s3://models/team/a.tar.gz answered 503 SlowDown (about SlowDown) after 4 tries; try again later",
            true,
        ),
        (
            StoreError::Status {
                url: url(),
                response: response(400, None),
                tries: 1,
            },
            "s3://models/team/a.tar.gz answered 400; check the URL and the name",
            false,
        ),
        (
            StoreError::CutShort {
                url: url(),
                read: 5,
                bytes: 9,
                reason: reason(),
                tries: 2,
            },
            "s3://models/team/a.tar.gz was cut off at 5 of 9 bytes after 2 tries (connection refused); try again \
             later",
            true,
        ),
        (
            StoreError::Changed { url: url() },
            "s3://models/team/a.tar.gz was replaced while it was read; try again when nothing writes to it",
            true,
        ),
        (
            StoreError::InvalidResponse {
                url: url(),
                reason: "no length".to_owned(),
            },
            "s3://models/team/a.tar.gz sent an invalid response (no length); check that it is the intended store",
            false,
        ),
        (
            StoreError::TooManyFiles { url: url(), limit: 10 },
            "the folder s3://models/team/a.tar.gz has more than 10 files (--max-entries)",
            false,
        ),
        (
            StoreError::TooLarge { url: url(), limit: 10 },
            "the folder s3://models/team/a.tar.gz has more than 10 bytes (--max-unpacked)",
            false,
        ),
        (
            StoreError::FileName {
                url: url(),
                reason: NameError::Backslash("a\\b".into()),
            },
            "a file in the folder s3://models/team/a.tar.gz cannot be used: the name \"a\\\\b\" has a backslash; \
             separate segments by \"/\"; rename it",
            false,
        ),
        (
            StoreError::FileAndFolder {
                url: url(),
                name: "a".to_owned(),
            },
            "the folder s3://models/team/a.tar.gz has \"a\" both as a file and as a folder; rename one",
            false,
        ),
        (
            StoreError::Outside { url: url() },
            "s3://models/team/a.tar.gz leads out of the model store; put the file itself there instead of a link",
            false,
        ),
        (
            StoreError::Special { url: url() },
            "s3://models/team/a.tar.gz is neither a file nor a directory; put a model there",
            false,
        ),
        (
            StoreError::Local {
                url: url(),
                reason: "permission denied".to_owned(),
            },
            "s3://models/team/a.tar.gz cannot be read (permission denied); make it readable for this user",
            false,
        ),
        (
            StoreError::Stopped { url: url() },
            "reading s3://models/team/a.tar.gz was interrupted: the server is stopping, or its log has the reason",
            true,
        ),
    ];
    for (error, expected, transient) in table {
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.is_transient(), transient, "{error}");
    }
}

#[test]
fn every_error_of_opening_says_what_to_change() {
    let (reason, path) = ("it is gone".to_owned(), PathBuf::from("/models"));
    let table = [
        (
            LocationError::Url {
                url: "ftp://a".to_owned(),
                reason: reason.clone(),
            },
            "\"ftp://a\" is not a model store (it is gone); give s3://bucket/prefix, gs://bucket/prefix, \
             az://container/prefix, https://host/path or a directory",
        ),
        (
            LocationError::Userinfo {
                url: "https://a".to_owned(),
            },
            "https://a has credentials in it; give them in the environment, or as the query of a presigned URL",
        ),
        (
            LocationError::Directory {
                path: path.clone(),
                reason: reason.clone(),
            },
            "the model store /models cannot be read (it is gone); make it a directory that this user may read",
        ),
        (
            LocationError::Profile {
                path: path.clone(),
                reason: reason.clone(),
            },
            "/models: it is gone",
        ),
        (
            LocationError::ProfileWithoutKeys {
                profile: "dev".to_owned(),
                path,
            },
            "the profile \"dev\" has no keys in /models; for a profile with a role or single sign-on, put its keys into \
             the environment with `aws configure export-credentials --profile dev --format env`",
        ),
        (
            LocationError::Settings {
                url: "s3://a".to_owned(),
                reason: reason.clone(),
            },
            "s3://a cannot be opened with the settings in the environment: it is gone",
        ),
        (
            LocationError::Thread { reason },
            "start the thread of the model store: it is gone",
        ),
    ];
    for (error, expected) in table {
        assert_eq!(error.to_string(), expected);
    }
}
