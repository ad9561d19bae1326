//! A record of the HTTP exchange behind one request of object_store.
//!
//! object_store builds each request (its URL, its signature), but its errors contain the status and
//! the store's response as text only. So the HTTP client given to it records them, for requests
//! that carry an [`Exchange`]; requests without one fetch credentials. Error bodies are cut here,
//! because object_store would read them to any length.

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

use super::error::StoreResponse;

/// Most bytes of an error body that are read; S3's have a few hundred.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// Most characters of a store's text that are shown.
const MAX_SHOWN_CHARS: usize = 200;

/// One request and its response.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange(Arc<ExchangeRecord>);

#[derive(Debug, Default)]
struct ExchangeRecord {
    as_stored: bool,
    sent: AtomicBool,
    seen: OnceLock<ResponseHead>,
}

/// The status and headers of a response.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub response: StoreResponse,
    /// The region of the bucket, where the request went to another one.
    pub region: Option<String>,
}

impl Exchange {
    /// An exchange for objects that may be stored compressed on Google: unless a request accepts
    /// gzip, Google decompresses the object, which changes its size and disables ranges.
    pub fn as_stored() -> Self {
        Self(Arc::new(ExchangeRecord {
            as_stored: true,
            ..ExchangeRecord::default()
        }))
    }

    /// Whether the request was sent. Before it, credentials may have to be fetched.
    pub fn was_sent(&self) -> bool {
        self.0.sent.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> Option<&ResponseHead> {
        self.0.seen.get()
    }

    pub fn status(&self) -> Option<u16> {
        self.seen().map(|seen| seen.response.status)
    }
}

/// Creates the HTTP clients that record exchanges.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ObservingConnector;

impl HttpConnector for ObservingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connector = ReqwestConnector::default();
        let client = connector.connect(options).or_else(|error| {
            // A machine without any certificates can still reach plain HTTP endpoints.
            match options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() {
                Some("true") => connector.connect(&options.clone().with_no_system_certificates(true)),
                _ => Err(error),
            }
        })?;
        Ok(HttpClient::new(ObservingClient(client)))
    }
}

struct ObservingClient(HttpClient);

impl fmt::Debug for ObservingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObservingClient")
    }
}

impl HttpService for ObservingClient {
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
            let seen = ResponseHead {
                response: store_response(parts.status, &text),
                region,
            };
            // One request has one response; the client inside follows redirects.
            let _ = exchange.0.seen.set(seen);
            Ok(HttpResponse::from_parts(parts, body))
        })
    }
}

fn store_response(status: StatusCode, text: &str) -> StoreResponse {
    // Azure and Google put the reason here; their message is the same for many.
    let detail = element(text, "AuthenticationErrorDetail").or_else(|| element(text, "Details"));
    StoreResponse {
        status: status.as_u16(),
        code: element(text, "Code"),
        message: match (element(text, "Message"), detail) {
            (Some(message), Some(detail)) => Some(format!("{message} {detail}")),
            (message, detail) => message.or(detail),
        },
    }
}

/// Reads the beginning of an error body, also where the body breaks off.
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

/// The text of the first element `name`, in the XML of S3, Google Cloud Storage or Azure.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    Some(shown(inner.lines().next()?)).filter(|inner| !inner.is_empty())
}

/// A text from a store, cut to one short line.
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
        let found = store_response(StatusCode::NOT_FOUND, text);
        assert_eq!(found.to_string(), "404 NoSuchKey (It is gone.)");
        let text = "<Error><Code>AuthenticationFailed</Code><Message>Failed.\nRequestId: 1</Message>\
                    <AuthenticationErrorDetail>It has ended.</AuthenticationErrorDetail></Error>";
        let found = store_response(StatusCode::FORBIDDEN, text);
        assert_eq!(found.to_string(), "403 AuthenticationFailed (Failed. It has ended.)");
        for text in ["", "<Code>", "<Code></Code>", "<html>Not Found</html>"] {
            assert_eq!(store_response(StatusCode::NOT_FOUND, text).to_string(), "404");
        }
    }

    #[test]
    fn texts_from_a_store_are_cut_to_one_short_line() {
        assert_eq!(shown(" a\tb\u{1b}[31m "), "a b [31m");
        assert_eq!(shown(&"\u{e9}".repeat(300)), format!("{}...", "\u{e9}".repeat(200)));
    }
}
