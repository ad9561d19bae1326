//! The requests of `longshore top` to a server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;

use crate::page::state::{Change, FORM, State};
use crate::telemetry::escape::plain;
use crate::tls;

/// Longest event in bytes: a state of a hundred thousand models.
const MAX_EVENT: usize = 64 << 20;

/// Longest time without a byte from the server, which sends a change each second.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest part of an unexpected response that a message quotes.
const MAX_QUOTE: usize = 300;

/// The connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

/// An event from the server.
#[derive(Debug)]
pub enum News {
    State(Box<State>),
    Change(Box<Change>),
}

/// The events of a server.
pub struct Watch {
    /// The connection that is being opened.
    opening: Option<BoxFuture<'static, Result<Response>>>,
    response: Option<Response>,
    received: Vec<u8>,
}

impl Client {
    pub fn new(url: &str) -> Result<Self> {
        let with_scheme = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let mut base = Url::parse(&with_scheme)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| {
                format!("invalid address \"{url}\": expected one such as localhost:8080 or https://host/path")
            })?;
        // The page may be copied from a browser: without its file, its data are below its folder.
        let path = base.path().trim_end_matches("/ui").trim_end_matches('/').to_owned();
        base.set_path(&format!("{path}/"));
        base.set_query(None);
        base.set_fragment(None);
        tls::provide();
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE);
        let builder = match base.scheme() {
            // Plain HTTP needs no certificates, which take long to read.
            "http" => builder.tls_certs_only([]),
            _ => builder,
        };
        let http = builder.build().context("start the HTTP client")?;
        Ok(Self { http, base })
    }

    /// The address, for people.
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Reads the state once.
    pub async fn state(&self) -> Result<State> {
        let response = self.get("ui/state").await?;
        let body = response.bytes().await.context("read the state")?;
        parse(&body)
    }

    /// Reads the metrics once.
    pub async fn metrics(&self) -> Result<String> {
        let text = self.get("metrics").await?.text().await;
        text.context("read the metrics")
    }

    /// Starts to watch; fails if the server does not answer.
    pub async fn watch(&self) -> Result<Watch> {
        Ok(Watch {
            opening: None,
            response: Some(self.open().await?),
            received: Vec::new(),
        })
    }

    pub async fn open(&self) -> Result<Response> {
        self.get("ui/events").await
    }

    async fn get(&self, path: &str) -> Result<Response> {
        let url = self.base.join(path).context("join the address")?;
        let response = self.http.get(url).send().await;
        let response = response
            .map_err(|error| error.without_url())
            .with_context(|| format!("no answer from {}", self.address()))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let message = serde_json::from_slice::<Value>(&body).ok();
        let message = message.as_ref().and_then(|body| body.get("message")?.as_str());
        match (status, message) {
            (StatusCode::NOT_FOUND, _) => bail!(
                "{}/{path} is missing (404): {}",
                self.address(),
                match path {
                    "metrics" => "it is not `longshore serve`, or it was started with --metrics off",
                    _ => "it is not a Longshore server, or it was started with --no-ui",
                }
            ),
            (status, Some(message)) => bail!("{} answers {}: {}", self.address(), status.as_u16(), plain(message)),
            (status, None) => bail!("{} answers {}", self.address(), status),
        }
    }
}

fn parse(body: &[u8]) -> Result<State> {
    let state: State = serde_json::from_slice(body).with_context(|| {
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_QUOTE)]).into_owned();
        format!("the answer is not the state of a Longshore server: {}", plain(&text))
    })?;
    if state.form != FORM {
        bail!(
            "the server sends its state in form {}, and this program knows form {FORM}; use the `longshore` of the server's \
             version, {}",
            state.form,
            state.server.version
        );
    }
    Ok(state)
}

impl Watch {
    /// A watch whose connection `opening` opens.
    pub fn opening(opening: impl Future<Output = Result<Response>> + Send + 'static) -> Self {
        Self {
            opening: Some(opening.boxed()),
            response: None,
            received: Vec::new(),
        }
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing that has arrived is lost.
    pub async fn next(&mut self) -> Result<News> {
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            self.response = Some(opened?);
        }
        let response = self.response.as_mut().context("the connection is closed")?;
        loop {
            if let Some(end) = end_of_event(&self.received) {
                let event: Vec<u8> = self.received.drain(..end).collect();
                if let Some(news) = event_of(&event)? {
                    return Ok(news);
                }
                continue;
            }
            if self.received.len() > MAX_EVENT {
                bail!("an event has more than {MAX_EVENT} bytes");
            }
            match response.chunk().await.context("the connection was lost")? {
                Some(chunk) => self.received.extend_from_slice(&chunk),
                None => bail!("the server closed the connection"),
            }
        }
    }
}

/// The end of the first event, which an empty line ends.
fn end_of_event(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\n\n").map(|at| at + 2)
}

/// Reads an event; `None` for one of an unknown kind.
fn event_of(event: &[u8]) -> Result<Option<News>> {
    let field = |name: &str| {
        let mut lines = event.split(|&byte| byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name.as_bytes()))
    };
    let data = field("data: ").unwrap_or_default();
    Ok(match field("event: ") {
        Some(b"state") => Some(News::State(Box::new(parse(data)?))),
        Some(b"change") => Some(News::Change(Box::new(
            serde_json::from_slice(data).context("the server sent a change that this program does not understand")?,
        ))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_people_and_of_browsers_are_understood() {
        for (given, address) in [
            ("localhost:8080", "http://localhost:8080"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("http://localhost:8090/ui", "http://localhost:8090"),
            ("https://host/prefix/ui#model=a", "https://host/prefix"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(Client::new(given).unwrap().address(), address);
        }
        for wrong in ["", "ftp://host", "http://", "a b"] {
            assert!(Client::new(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn events_are_read_in_any_pieces() {
        let state = State {
            form: FORM,
            time: 5,
            ..State::default()
        };
        let text = format!(
            "event: other\ndata: 1\n\nevent: state\ndata: {}\n\n",
            serde_json::to_string(&state).unwrap()
        );
        let end = end_of_event(text.as_bytes()).unwrap();
        assert!(event_of(&text.as_bytes()[..end]).unwrap().is_none());
        let rest = &text.as_bytes()[end..];
        assert_eq!(end_of_event(&rest[..rest.len() - 1]), None);
        match event_of(rest).unwrap() {
            Some(News::State(read)) => assert_eq!(*read, state),
            other => panic!("{other:?}"),
        }
        assert!(event_of(b"event: change\ndata: {}\n\n").is_err());
    }

    #[test]
    fn a_state_of_another_form_is_refused_with_the_version_of_the_server() {
        let mut state = State {
            form: FORM + 1,
            ..State::default()
        };
        state.server.version = "9.9.9".to_owned();
        let error = parse(&serde_json::to_vec(&state).unwrap()).unwrap_err().to_string();
        assert!(error.contains("9.9.9"), "{error}");
        assert!(parse(b"<html>").unwrap_err().to_string().contains("<html>"));
    }
}
