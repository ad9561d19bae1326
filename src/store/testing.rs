//! An object store for tests: a web server with scripted replies that records its requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::found::{FoundModel, StoreReader};
use super::{Environment, Name, Remote, RemoteSettings, StoreError};

pub const PART: u64 = 1000;
pub const PARTS: usize = 3;

#[derive(Debug, Clone)]
pub struct TestRequest {
    pub target: String,
    headers: BTreeMap<String, String>,
}

impl TestRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.remove(name);
    }

    pub fn path(&self) -> String {
        let path = self.target.split('?').next().unwrap();
        percent_decode_str(path).decode_utf8().unwrap().into_owned()
    }

    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let (_, value) = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| *key == name)?;
        let value = value.replace('+', " ");
        Some(percent_decode_str(&value).decode_utf8().unwrap().into_owned())
    }

    pub fn range(&self) -> Option<Range<usize>> {
        let (start, end) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(start.parse().unwrap()..end.parse::<usize>().unwrap() + 1)
    }
}

pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    after: usize,
    then: EarlyEnd,
}

/// The way in which a body ends early.
enum EarlyEnd {
    Cut,
    Stall,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            after: usize::MAX,
            then: EarlyEnd::Cut,
        }
    }

    pub fn error(status: u16, code: &str) -> Self {
        let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>So it is.</Message></Error>");
        Self::new(status, text)
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Closes the connection after so many bytes of the body.
    pub fn cut(mut self, after: usize) -> Self {
        (self.after, self.then) = (after, EarlyEnd::Cut);
        self
    }

    /// Sends nothing after so many bytes of the body, until the client disconnects.
    pub fn stall(mut self, after: usize) -> Self {
        (self.after, self.then) = (after, EarlyEnd::Stall);
        self
    }
}

/// An object as S3 serves it.
#[derive(Clone)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub tag: Option<String>,
    pub modified: Option<&'static str>,
    pub ranges: bool,
}

pub const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

impl Stored {
    /// An object of so many varying bytes.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes: (0..bytes)
                .map(|index| (index % 251) as u8 ^ (index / 251) as u8)
                .collect(),
            tag: Some("\"one\"".to_owned()),
            modified: Some(MODIFIED),
            ranges: true,
        }
    }

    pub fn answer(&self, request: &TestRequest) -> Reply {
        let headers = |mut reply: Reply| {
            if let Some(tag) = &self.tag {
                reply = reply.with("etag", tag);
            }
            match self.modified {
                Some(modified) => reply.with("last-modified", modified),
                None => reply,
            }
        };
        let (tag, modified) = (self.tag.as_deref(), self.modified);
        if request.header("if-match").is_some_and(|sent| Some(sent) != tag) {
            return Reply::error(412, "PreconditionFailed");
        }
        let unmodified_since = request.header("if-unmodified-since");
        if unmodified_since.is_some_and(|sent| Some(sent) != modified) {
            return Reply::error(412, "PreconditionFailed");
        }
        let not_modified = match request.header("if-none-match") {
            Some(sent) => Some(sent) == tag,
            None => request
                .header("if-modified-since")
                .is_some_and(|sent| Some(sent) == modified),
        };
        if not_modified {
            return headers(Reply::new(304, ""));
        }
        match request.range().filter(|_| self.ranges) {
            Some(range) if range.start >= self.bytes.len() => Reply::error(416, "InvalidRange"),
            Some(range) => {
                let (range, size) = (range.start..range.end.min(self.bytes.len()), self.bytes.len());
                let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                headers(Reply::new(206, &self.bytes[range]).with("content-range", content_range))
            }
            None => headers(Reply::new(200, self.bytes.clone())),
        }
    }
}

/// A page of a listing, as S3 serves it.
pub fn page(files: &[(&str, &Stored)], next: Option<&str>) -> Reply {
    let contents: String = files
        .iter()
        .map(|(key, stored)| {
            let tag = stored.tag.as_deref().unwrap_or("\"none\"");
            let size = stored.bytes.len();
            format!(
                "<Contents><Key>{key}</Key><LastModified>2015-10-21T07:28:00.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{size}</Size></Contents>",
                tag.replace('"', "&quot;")
            )
        })
        .collect();
    let next = next.map_or_else(String::new, |token| {
        format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
    });
    Reply::new(200, format!("<ListBucketResult>{contents}{next}</ListBucketResult>"))
}

pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<TestRequest>>>,
    left: Receiver<()>,
}

impl Server {
    pub fn start(answer: impl Fn(&TestRequest) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<TestRequest>>>::default();
        let (answer, recorded) = (Arc::new(answer), requests.clone());
        let (leaving, left) = channel();
        // Ends with the process of the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, recorded, leaving) = (answer.clone(), recorded.clone(), leaving.clone());
                // Errors are clients that disconnected, as tests let them.
                thread::spawn(move || serve(&stream.unwrap(), &*answer, &recorded, &leaving));
            }
        });
        Self {
            address,
            requests,
            left,
        }
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<TestRequest> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// Waits until a client has disconnected from a stalled reply.
    pub fn wait_for_leaver(&self) {
        self.left.recv_timeout(Duration::from_secs(30)).unwrap();
    }

    /// The environment of a store at this server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", "id".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    }

    /// This server as `s3://bucket/store`.
    pub fn remote(&self) -> Remote {
        remote("s3://bucket/store/", self.environment())
    }

    /// This server as a web server with files below `/store`.
    pub fn web(&self) -> Remote {
        remote(&format!("http://{}/store/?sig=secret", self.address), [("", "")])
    }
}

fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(&TestRequest) -> Reply,
    recorded: &Mutex<Vec<TestRequest>>,
    leaving: &Sender<()>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let mut request = TestRequest {
            target: words.nth(1)?.to_owned(),
            headers: BTreeMap::new(),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            request
                .headers
                .insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        recorded.lock().unwrap().push(request.clone());
        let reply = answer(&request);
        let headers: String = reply
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let status = reply.status;
        let length = match status {
            304 => String::new(),
            _ => format!("content-length: {}\r\n", reply.body.len()),
        };
        let head = format!("HTTP/1.1 {status} Status\r\n{length}{headers}\r\n");
        let mut writer = stream;
        // Without any bytes of the body, the head is not sent either.
        if reply.after > 0 {
            writer.write_all(head.as_bytes()).ok()?;
        }
        let body = &reply.body[..reply.body.len().min(reply.after)];
        writer.write_all(body).ok()?;
        if body.len() < reply.body.len() {
            if let EarlyEnd::Stall = reply.then {
                let _ = reader.read(&mut [0]);
                let _ = leaving.send(());
            }
            return None;
        }
    }
}

pub fn settings<V: Into<String>>(
    url: &str,
    environment: impl IntoIterator<Item = (&'static str, V)>,
) -> RemoteSettings {
    RemoteSettings {
        url: url.to_owned(),
        environment: Environment::from_iter(environment),
        // Longer than any test waits, so that a timeout cannot end a test.
        timeout: Duration::from_secs(600),
        retries: 2,
        part_bytes: PART,
        parts: PARTS,
        max_files: 10,
        max_bytes: 100_000,
    }
}

pub fn remote<V: Into<String>>(url: &str, environment: impl IntoIterator<Item = (&'static str, V)>) -> Remote {
    Remote::open(&settings(url, environment)).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// Awaits a future on a runtime that is not the store's.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

/// Reads to the end.
pub fn read(mut reader: StoreReader) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(StoreError::of(&error).unwrap().clone()),
    }
}

/// Finds a single object, and reads it.
pub fn fetched(remote: &Remote, text: &str) -> Result<Vec<u8>, StoreError> {
    match wait(remote.find(&name(text), None))? {
        FoundModel::Object(object) => read(object.into_reader()),
        FoundModel::Unchanged | FoundModel::Folder(_) => panic!("{text} is not an object"),
    }
}
