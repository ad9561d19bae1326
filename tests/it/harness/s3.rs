//! S3: a moto server, which all tests of the process share.
//!
//! A start takes a second, hence one server; each test has its own buckets. `scripts/moto`
//! installs it.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{Connection, Request};
use super::python::{self, PythonServer};
use super::response::Response;

/// Characters that are percent-encoded in the path of a request.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The server is never dropped; it ends with this process.
static MOTO: LazyLock<PythonServer> = LazyLock::new(|| PythonServer::start(python::MOTO, "tests/s3/server.py"));

static BUCKETS: AtomicUsize = AtomicUsize::new(0);

/// Handle of the server. The first handle starts it.
#[derive(Debug, Clone, Copy)]
pub struct S3 {
    address: SocketAddr,
}

impl S3 {
    pub fn start() -> Self {
        Self {
            address: MOTO.address(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new bucket.
    pub fn bucket(&self) -> Bucket {
        let bucket = Bucket {
            s3: *self,
            name: format!("bucket-{}", BUCKETS.fetch_add(1, Ordering::Relaxed)),
        };
        bucket
            .send(Request::new("PUT", format!("/{}", bucket.name)))
            .expect(200);
        bucket
    }

    /// Variables that make a server or an AWS tool use the S3 at `at`: this server, or a proxy in
    /// front of it.
    pub fn environment(at: SocketAddr) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL_S3", format!("http://{at}")),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }
}

#[derive(Debug, Clone)]
pub struct Bucket {
    s3: S3,
    name: String,
}

impl Bucket {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn url(&self) -> String {
        format!("s3://{}", self.name)
    }

    /// Writes an object; replaces an existing object of this key.
    #[track_caller]
    pub fn put(&self, key: &str, content: &[u8]) {
        self.send(self.request("PUT", key).body(content)).expect(200);
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.send(self.request("DELETE", key)).expect(204);
    }

    fn request(&self, method: &str, key: &str) -> Request {
        Request::new(method, format!("/{}/{}", self.name, utf8_percent_encode(key, PATH)))
    }

    /// Sends a request over a new connection. The checks of our own responses do not apply to S3.
    #[track_caller]
    fn send(&self, request: Request) -> Response {
        let mut connection = Connection::open(self.s3.address).unwrap();
        // moto does not verify the signature, but it lets only signed requests replace objects.
        const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, \
                                     SignedHeaders=host, Signature=none";
        let request = request
            .header("Host", self.s3.address.to_string())
            .header("Connection", "close")
            .header("Authorization", AUTHORIZATION);
        connection.write(&request.to_bytes()).unwrap();
        connection.read_unchecked(request.method()).unwrap()
    }
}
