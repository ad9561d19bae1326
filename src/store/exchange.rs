//! What happens on the wire while object_store makes one request.
//!
//! object_store decides what a request is (its URL, its signature) and keeps to itself how it went: its errors have the
//! status and the store's answer in their texts only. So the client that is given to it notes them down, for the requests
//! that carry an [`Exchange`]; those without one are for credentials. Bodies of errors are cut here, which object_store
//! would read to any length.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT_ENCODING, HeaderValue};

use super::error::Answer;

/// As much of an error's body is read; S3's have a few hundred bytes.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// As much of a text by a store is shown.
const MAX_SHOWN_CHARS: usize = 200;

/// One request and what came of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    as_stored: bool,
    sent: AtomicBool,
    seen: OnceLock<Seen>,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Seen {
    pub answer: Answer,
    /// Of the bucket, when it is another one than that which was asked.
    pub region: Option<String>,
}

impl Exchange {
    /// For an object that Google may have been told is compressed: unless it is asked for as it is stored, Google
    /// decompresses it on the way, of another size and without ranges.
    pub fn as_stored() -> Self {
        Self(Arc::new(Notes {
            as_stored: true,
            ..Notes::default()
        }))
    }

    /// Whether it came to the request: before it, credentials may have to be fetched.
    pub fn was_sent(&self) -> bool {
        self.0.sent.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> Option<&Seen> {
        self.0.seen.get()
    }

    pub fn status(&self) -> Option<u16> {
        self.seen().map(|seen| seen.answer.status)
    }
}

/// Makes the clients that note down.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Observing;

impl HttpConnector for Observing {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connector = ReqwestConnector::default();
        let client = connector.connect(options).or_else(|error| {
            // A machine without any certificates reaches what needs none.
            match options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() {
                Some("true") => connector.connect(&options.clone().with_no_system_certificates(true)),
                _ => Err(error),
            }
        })?;
        Ok(HttpClient::new(Observed(client)))
    }
}

struct Observed(HttpClient);

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observed")
    }
}

impl HttpService for Observed {
    fn call<'a, 'f>(
        &'a self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let exchange = request.extensions().get::<Exchange>().cloned().unwrap_or_default();
        exchange.0.sent.store(true, Ordering::Relaxed);
        if exchange.0.as_stored {
            let gzip = HeaderValue::from_static("gzip");
            request.headers_mut().insert(ACCEPT_ENCODING, gzip);
        }
        Box::pin(async move {
            let response = self.0.execute(request).await?;
            let (parts, body) = response.into_parts();
            let (body, text) = match parts.status.is_success() {
                true => (body, String::new()),
                false => {
                    let text = head(body).await;
                    (HttpResponseBody::from(text.clone()), text)
                }
            };
            let region = parts
                .headers
                .get("x-amz-bucket-region")
                .and_then(|value| value.to_str().ok())
                .map(shown)
                .or_else(|| element(&text, "Region"));
            let seen = Seen {
                answer: answer(parts.status, &text),
                region,
            };
            // One request has one answer; redirects are followed below.
            let _ = exchange.0.seen.set(seen);
            Ok(HttpResponse::from_parts(parts, body))
        })
    }
}

fn answer(status: StatusCode, text: &str) -> Answer {
    // The reason, where the message is the same for many: Azure's and Google's.
    let detail = element(text, "AuthenticationErrorDetail").or_else(|| element(text, "Details"));
    Answer {
        status: status.as_u16(),
        code: element(text, "Code"),
        message: match (element(text, "Message"), detail) {
            (Some(message), Some(detail)) => Some(format!("{message} {detail}")),
            (message, detail) => message.or(detail),
        },
    }
}

/// The beginning of a body. One that breaks off is an error all the same.
async fn head(body: HttpResponseBody) -> String {
    let mut bytes = Vec::new();
    let mut stream = body.bytes_stream();
    while let Some(Ok(chunk)) = stream.next().await {
        let left = MAX_ERROR_BYTES - bytes.len();
        bytes.extend(chunk.iter().take(left));
        if bytes.len() == MAX_ERROR_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text of the first element `name`, in the XML of S3, Google Cloud Storage and Azure alike.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    Some(shown(inner.lines().next()?)).filter(|inner| !inner.is_empty())
}

/// A text by a store, short and of one line.
pub(super) fn shown(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut short: String = text.trim().chars().take(MAX_SHOWN_CHARS).map(clean).collect();
    if text.trim().chars().nth(MAX_SHOWN_CHARS).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_messages_are_found_in_xml() {
        let text =
            "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>It is gone.\nReally</Message></Error>";
        let found = answer(StatusCode::NOT_FOUND, text);
        assert_eq!(found.to_string(), "404 NoSuchKey (It is gone.)");
        let text = "<Error><Code>AuthenticationFailed</Code><Message>Failed.\nRequestId: 1</Message>\
                    <AuthenticationErrorDetail>It has ended.</AuthenticationErrorDetail></Error>";
        let found = answer(StatusCode::FORBIDDEN, text);
        assert_eq!(found.to_string(), "403 AuthenticationFailed (Failed. It has ended.)");
        for text in ["", "<Code>", "<Code></Code>", "<html>Not Found</html>"] {
            assert_eq!(answer(StatusCode::NOT_FOUND, text).to_string(), "404");
        }
    }

    #[test]
    fn what_a_store_says_is_kept_short() {
        assert_eq!(shown(" a\tb\u{1b}[31m "), "a b [31m");
        assert_eq!(shown(&"\u{e9}".repeat(300)), format!("{}...", "\u{e9}".repeat(200)));
    }
}
