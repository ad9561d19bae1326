//! A response, and the checks that every response must pass.

use serde_json::Value;

/// All headers that the container may send. The platform silently drops others (IN-2), so a new
/// header must be added here deliberately.
const HEADERS: [&str; 12] = [
    "allow",
    "connection",
    // Only if the operator enables compression, which the platform does not request.
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    // Part of the Open Inference Protocol, which the platform does not use.
    "inference-header-content-length",
    "traceparent",
    "x-amzn-sagemaker-inference-id",
    "transfer-encoding",
    "vary",
    "x-amzn-sagemaker-custom-attributes",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        values.next().map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {}", self.text()),
        }
    }

    /// Asserts that the response has this status, and returns it.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The message of an error.
    #[track_caller]
    pub fn message(&self) -> String {
        match &self.json()["message"] {
            Value::String(message) => message.clone(),
            other => panic!("no message: {other}"),
        }
    }

    /// The message of an error of the Open Inference Protocol.
    #[track_caller]
    pub fn error(&self) -> String {
        match &self.json()["error"] {
            Value::String(message) => message.clone(),
            other => panic!("no error: {other}"),
        }
    }

    /// Checks what the platform relies on in every response, whatever the request was.
    pub fn check(&self, method: &str) {
        let text = format!("{} {:?} {}", self.status, self.headers, self.text());
        // IN-4: neither 1xx nor 3xx. MM-13: never 202 (accepted).
        assert!(
            self.status == 200 || (400..600).contains(&self.status),
            "a status that the platform does not know: {text}"
        );
        for (name, _) in &self.headers {
            assert!(HEADERS.contains(&name.as_str()), "an unexpected header: {text}");
            let count = self.headers.iter().filter(|(other, _)| other == name).count();
            assert_eq!(count, 1, "a header is sent twice: {text}");
        }
        // IN-4: the end of the body is known.
        let lengths = [self.header("content-length"), self.header("transfer-encoding")];
        assert_eq!(lengths.iter().flatten().count(), 1, "{text}");
        if method == "HEAD" {
            return;
        }
        if !self.body.is_empty() {
            assert!(self.header("content-type").is_some(), "no content type: {text}");
        }
        if self.status != 200 {
            self.check_error(&text);
        }
    }

    /// Checks that an error is small JSON with a message.
    fn check_error(&self, text: &str) {
        assert_eq!(self.header("content-type"), Some("application/json"), "{text}");
        assert!(self.body.len() <= 1024, "an error of {} bytes: {text}", self.body.len());
        let body = self.json();
        let fields: Vec<&String> = body.as_object().map(|body| body.keys().collect()).unwrap_or_default();
        if fields == ["error"] {
            // An error of the Open Inference Protocol.
            assert!(!self.error().is_empty(), "{text}");
            return;
        }
        assert_eq!(fields, ["code", "message", "type"], "{text}");
        assert_eq!(body["code"], self.status, "{text}");
        let kind = body["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with("Exception"), "{text}");
        assert!(!self.message().is_empty(), "{text}");
        // Positions in source code do not help a caller.
        for trace in ["/onnxruntime_src/", ".rs:"] {
            assert!(!self.message().contains(trace), "{text}");
        }
    }
}
