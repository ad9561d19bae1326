//! Peculiarities of Azure and Google Cloud Storage.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;

use crate::store::testing::{MODIFIED, PART, Reply, Server, Stored, fetched, name, read, remote, wait};
use crate::store::{Environment, FoundModel, Objects, Remote, StoreError};

/// The server as a container of Azure's, with the address in the form of the portal.
fn azure(server: &Server) -> Remote {
    let variables = [
        ("AZURE_STORAGE_ENDPOINT", format!("http://{}/account/", server.address)),
        ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5".to_owned()),
    ];
    remote("az://container/store", variables)
}

fn google(server: &Server) -> Remote {
    let address = format!("http://{}", server.address);
    remote("gs://bucket/store", [("STORAGE_EMULATOR_HOST", address)])
}

/// A page of a listing with one file, as Azure serves it.
fn list_of(key: &str, stored: &Stored) -> Reply {
    let tag = stored.tag.as_deref().unwrap().trim_matches('"');
    let size = stored.bytes.len();
    Reply::new(
        200,
        format!(
            "<EnumerationResults><Blobs><Blob><Name>{key}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified>\
             <Etag>{tag}</Etag><Content-Length>{size}</Content-Length><Content-Type>a</Content-Type></Properties></Blob>\
             </Blobs><NextMarker/></EnumerationResults>"
        ),
    )
}

#[test]
fn folder_markers_of_azure_are_not_objects() {
    let folder = ("x-ms-resource-type", "directory");
    // An empty object has no ranges, so it is requested again without; or a store sends it at once.
    for (marker, ranges) in [
        (folder, true),
        (folder, false),
        (("x-ms-meta-hdi_isfolder", "true"), true),
    ] {
        let mut empty = Stored::new(0);
        empty.ranges = ranges;
        let file = Stored::new(2 * PART as usize);
        let server = Server::start(move |request| match request.path().as_str() {
            "/account/container" => list_of("store/m/model.onnx", &file),
            "/account/container/store/m/model.onnx" => file.answer(request),
            _ => match empty.answer(request) {
                reply if reply.status() == 200 => reply.with(marker.0, marker.1),
                reply => reply,
            },
        });
        let remote = azure(&server);
        let FoundModel::Folder(folder) = wait(remote.find(&name("m"), None)).unwrap() else {
            panic!("{marker:?} is an object");
        };
        assert_eq!(
            read(folder.reader(&folder.files()[0])).unwrap().len(),
            2 * PART as usize
        );
        let requests = server.requests();
        let parts = requests.iter().filter(|request| request.path().ends_with(".onnx"));
        assert!(parts.clone().all(|request| request.range().is_some()) && parts.count() == 2);
    }
}

#[test]
fn empty_objects_are_objects() {
    let server = Server::start(|request| Stored::new(0).answer(request));
    assert_eq!(fetched(&azure(&server), "a"), Ok(Vec::new()));
}

#[test]
fn google_serves_objects_as_they_are_stored() {
    let stored = Stored::new(2 * PART as usize);
    let server = Server::start(move |request| match request.header("accept-encoding") {
        _ if request.path().ends_with("/missing") => Reply::error(404, "NoSuchKey"),
        _ if request.parameter("list-type").is_some() => Reply::new(200, "<ListBucketResult/>"),
        Some("gzip") => stored.answer(request).with("content-encoding", "gzip"),
        // Decompressed in transit, which disables ranges.
        _ => Reply::new(200, "other bytes").with("etag", "\"one\""),
    });
    let remote = google(&server);
    assert_eq!(fetched(&remote, "a").unwrap(), Stored::new(2 * PART as usize).bytes);
    assert!(fetched(&remote, "missing").is_err());
    for request in server.requests() {
        let expected = request.parameter("list-type").is_none().then_some("gzip");
        assert_eq!(request.header("accept-encoding"), expected, "{}", request.target);
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn objects_are_written_without_a_signature() {
    let server = Server::start(|_| Reply::new(200, "").with("etag", "\"one\""));
    let address = ("STORAGE_EMULATOR_HOST", server.address.to_string());
    let objects = Objects::open(Environment::from_iter([address]), Duration::from_secs(600), 0).unwrap();
    wait(objects.put("gs://bucket/x.out", Bytes::from_static(b"result"), "text/csv")).unwrap();
    assert_eq!(server.requests()[0].path(), "/bucket/x.out");
}

#[test]
fn google_credentials_may_name_a_server() {
    let server = Server::start(|request| Stored::new(10).answer(request));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        r#"{{"type": "service_account", "gcs_base_url": "http://{}/", "disable_oauth": true, "private_key": "",
            "private_key_id": "", "client_email": ""}}"#,
        server.address
    );
    file.write_all(text.as_bytes()).unwrap();
    for variable in ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"] {
        let remote = remote("gs://bucket", [(variable, file.path().display().to_string())]);
        assert_eq!(fetched(&remote, "a").unwrap().len(), 10);
        assert_eq!(server.requests()[0].path(), "/bucket/a");
    }
}

#[test]
fn refusals_quote_the_cloud_and_say_what_to_change() {
    type Make = fn() -> Reply;
    type Open = fn(&Server) -> Remote;
    let table: [(Open, Make, &str); 7] = [
        (
            azure,
            || {
                let text = "<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.\n\
                            RequestId:1</Message><AuthenticationErrorDetail>Signature not valid in the specified time frame\
                            </AuthenticationErrorDetail></Error>";
                Reply::new(403, text)
            },
            "az://container/store/a is refused: 403 AuthenticationFailed (Server failed to authenticate the request. \
             Signature not valid in the specified time frame); get a new AZURE_STORAGE_SAS_TOKEN",
        ),
        (
            azure,
            || Reply::error(409, "PublicAccessNotPermitted"),
            "is refused: 409 PublicAccessNotPermitted (So it is.); unset AZURE_SKIP_SIGNATURE",
        ),
        (
            azure,
            || Reply::error(404, "ContainerNotFound"),
            "there is no container for az://container/store/a; check its name, and AZURE_STORAGE_ACCOUNT_NAME",
        ),
        (
            google,
            || Reply::error(401, "AuthenticationRequired"),
            "is refused: 401 AuthenticationRequired (So it is.); correct the credentials",
        ),
        (
            google,
            || {
                let text = "<Error><Code>AccessDenied</Code><Message>Access denied.</Message><Details>a@b does not have \
                            storage.objects.get access</Details></Error>";
                Reply::new(403, text)
            },
            "403 AccessDenied (Access denied. a@b does not have storage.objects.get access); allow these credentials \
             storage.objects.get",
        ),
        (
            google,
            || Reply::error(404, "NoSuchBucket"),
            "there is no bucket for gs://bucket/store/a; check its name, and GOOGLE_BASE_URL",
        ),
        (
            google,
            || Reply::error(412, "PreconditionFailed"),
            "was replaced while it was read",
        ),
    ];
    for (open, reply, expected) in table {
        let server = Server::start(move |_| reply());
        let message = fetched(&open(&server), "a").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(server.requests().len(), 1, "{message}");
    }
}

#[test]
fn an_unknown_account_points_to_the_environment() {
    let variables = [
        ("AZURE_STORAGE_ENDPOINT", "http://account.blob.invalid"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5"),
    ];
    let error = fetched(&remote("az://container", variables), "a").unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("check AZURE_STORAGE_ACCOUNT_NAME"),
        "{error}"
    );
}
