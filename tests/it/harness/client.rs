//! A small HTTP/1.1 client, which can also send requests that a client library would refuse.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;
use super::response::Response;

/// An HTTP request.
#[derive(Debug, Clone)]
#[must_use]
pub struct Request {
    method: String,
    target: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Whole(Vec<u8>),
    Chunks(Vec<Vec<u8>>),
}

impl Request {
    pub fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_ref().to_owned(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: impl AsRef<[u8]>) -> Self {
        Self::new("POST", target)
    }

    pub fn delete(target: impl AsRef<[u8]>) -> Self {
        Self::new("DELETE", target)
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds a body and its Content-Length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// Adds a body in the chunked transfer encoding.
    pub fn chunks(mut self, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.body = Body::Chunks(chunks.into_iter().map(|chunk| chunk.as_ref().to_owned()).collect());
        self
    }

    pub fn json(self, value: &Value) -> Self {
        self.header("Content-Type", "application/json").body(value.to_string())
    }

    /// Appends white space to a JSON body until the server runs the request on a compute thread,
    /// where requests wait for each other, and never inline on the thread that reads it.
    pub fn not_inline(mut self) -> Self {
        const LARGER_THAN_INLINE: usize = 80 << 10;
        let is_json = self.headers.iter().any(|(_, value)| value == b"application/json");
        if let Body::Whole(body) = &mut self.body
            && is_json
        {
            body.resize(LARGER_THAN_INLINE.max(body.len()), b' ');
        }
        self
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    /// The request as it goes over the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(self.method.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(&self.target);
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        // A test may set Host itself: S3 reads the name of the bucket from it.
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            bytes.extend_from_slice(b"Host: model.aws.local:8080\r\n");
        }
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        match &self.body {
            Body::None => bytes.extend_from_slice(b"\r\n"),
            Body::Whole(body) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            Body::Chunks(chunks) => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

/// Sends a request over a new connection.
#[track_caller]
pub fn send(address: SocketAddr, request: &Request) -> Response {
    match try_send(address, request) {
        Ok(response) => response,
        Err(error) => panic!(
            "{} {}: {error}",
            request.method,
            String::from_utf8_lossy(&request.target)
        ),
    }
}

/// Sends a request like [`send`], to a server that may have ended or may end meanwhile.
pub fn try_send(address: SocketAddr, request: &Request) -> io::Result<Response> {
    let mut connection = Connection::open(address)?;
    connection.write(&request.clone().header("Connection", "close").to_bytes())?;
    connection.read_response(&request.method)
}

/// One connection, for tests that depend on which connection carries a request.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and leaves the connection open.
    #[track_caller]
    pub fn send(&mut self, request: &Request) -> Response {
        self.write(&request.to_bytes()).unwrap();
        self.read_response(&request.method).unwrap()
    }

    /// Sends bytes of any kind.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Closes the sending half; responses can still be read.
    pub fn close_half(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Reads a response to a request of `method`, and checks what holds for every response.
    pub fn read_response(&mut self, method: &str) -> io::Result<Response> {
        let response = self.read_unchecked(method)?;
        response.check(method);
        Ok(response)
    }

    /// Reads a response without these checks, for requests that are refused before the routes.
    pub fn read_unchecked(&mut self, method: &str) -> io::Result<Response> {
        let status_line = self.line()?;
        let mut parts = status_line.splitn(3, ' ');
        let version = parts.next().unwrap_or_default();
        let status = parts.next().and_then(|status| status.parse().ok());
        let (true, Some(status)) = (version.starts_with("HTTP/1."), status) else {
            return Err(broken(format!("no status line: {status_line:?}")));
        };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| broken(format!("no header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if method != "HEAD" && ![204, 304].contains(&status) {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(bytes)
    }

    /// Reads until the server closes the connection.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
                    .map_err(|_| broken(format!("no chunk size: {size:?}")))?;
                let start = body.len();
                body.resize(start + size, 0);
                self.stream.read_exact(&mut body[start..])?;
                self.line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        body.resize(length.ok_or_else(|| broken("no length".to_owned()))?, 0);
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// A line of the head, without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            )),
        }
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
