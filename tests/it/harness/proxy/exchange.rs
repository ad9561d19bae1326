//! Serves one connection: forwards its requests one by one, and returns the responses.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{Fault, Seen, Shared};
use crate::harness::client::Connection;
use crate::harness::response::Response;

/// Bytes of a body that are written and counted at a time.
const PIECE: usize = 16 << 10;

/// Headers that belong to one connection and are not forwarded.
const HOP: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "content-length"];

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Reads the next request; `None` if the client has closed the connection.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(ToOwned::to_owned);
        let mut request = Self {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            request
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = request.header("content-length").and_then(|length| length.parse().ok());
        request.body.resize(length.unwrap_or(0), 0);
        from.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        values.next().map(|(_, value)| value.clone())
    }

    fn seen(&self) -> Seen {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        Seen {
            method: self.method.clone(),
            path: percent_decode_str(path).decode_utf8_lossy().into_owned(),
            query: query.to_owned(),
            range: self.header("range"),
            if_match: self.header("if-match"),
            if_none_match: self.header("if-none-match"),
            status: None,
            sent: 0,
        }
    }

    /// Forwards the request and reads the whole response: objects of tests are small.
    fn forward(&self, shared: &Shared) -> io::Result<Response> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in self.headers.iter().filter(|(name, _)| !HOP.contains(&name.as_str())) {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len());
        let mut upstream = Connection::open(shared.upstream)?;
        upstream.write(head.as_bytes())?;
        upstream.write(&self.body)?;
        upstream.read_unchecked(&self.method)
    }
}

/// Serves a connection to its end.
pub fn serve(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = Request::read(&mut reader)? {
        let (at, fault) = shared.begin(request.seen());
        match fault {
            Some(Fault::Delay(time)) => thread::sleep(time),
            Some(Fault::Hold) => shared.hold(),
            _ => {}
        }
        let response = match fault {
            Some(Fault::Error(status, code)) => error(status, code),
            _ => request.forward(shared)?,
        };
        shared.note(at, |seen| seen.status = Some(response.status));
        ResponseWriter { shared, at, to: stream }.send(&request, &response, fault)?;
        let is_last = request
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if is_last || matches!(fault, Some(Fault::Cut(_))) {
            break;
        }
    }
    Ok(())
}

struct ResponseWriter<'a> {
    shared: &'a Shared,
    at: usize,
    to: &'a TcpStream,
}

impl ResponseWriter<'_> {
    fn send(&mut self, request: &Request, response: &Response, fault: Option<Fault>) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Proxied\r\n", response.status);
        let headers = response.headers.iter();
        for (name, value) in headers.filter(|(name, _)| !HOP.contains(&name.as_str())) {
            head += &format!("{name}: {value}\r\n");
        }
        let length = response.body.len().to_string();
        let length = match &*request.method {
            "HEAD" => response.header("content-length"),
            _ => Some(length.as_str()).filter(|_| ![204, 304].contains(&response.status)),
        };
        head += &length.map_or(String::new(), |length| format!("content-length: {length}\r\n"));
        head += "\r\n";
        self.to.write_all(head.as_bytes())?;
        let body = &response.body[..];
        match fault {
            Some(Fault::Cut(bytes)) => self.body(&body[..bytes.min(body.len())]),
            Some(Fault::HoldAfter(bytes)) => {
                let (first, rest) = body.split_at(bytes.min(body.len()));
                self.body(first)?;
                self.shared.hold();
                self.body(rest)
            }
            Some(Fault::Trickle(bytes, pause)) => self.trickle(body, bytes, pause),
            _ => self.body(body),
        }
    }

    fn trickle(&mut self, body: &[u8], bytes: usize, pause: Duration) -> io::Result<()> {
        for piece in body.chunks(bytes.max(1)) {
            thread::sleep(pause);
            self.body(piece)?;
        }
        Ok(())
    }

    fn body(&mut self, body: &[u8]) -> io::Result<()> {
        for piece in body.chunks(PIECE) {
            self.to.write_all(piece)?;
            self.shared.note(self.at, |seen| seen.sent += piece.len() as u64);
        }
        Ok(())
    }
}

/// An error response in S3's form.
fn error(status: u16, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code} by the proxy</Message>\
         <RequestId>0</RequestId></Error>"
    );
    Response {
        status,
        headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
        body: body.into_bytes(),
    }
}
