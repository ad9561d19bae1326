//! Decides which requests of web pages in browsers are served.
//!
//! Neither `serve` nor `endpoint` checks credentials, so a page of any site that a user of this
//! machine visits could load and invoke models. Browsers reveal such a request by `Origin`, by
//! `Sec-Fetch-Site`, and by the `Host` of a name that was rebound to this machine. Such requests
//! are refused unless an option names the origin or the host. SageMaker, AWS's clients and
//! command-line tools send none of these.
//!
//! The server's own page (`crate::page`) sends requests, too. Its origin is the address at which
//! the browser reached this server. That proves nothing for a name: a page of another site could
//! have rebound its own name to this server, and then has the same origin. So the server's own page
//! works only at addresses that no other site can have: IP addresses, `localhost`, and the names of
//! `--allow-host`.
//!
//! The crate actix-cors was considered: it adds headers for allowed origins, but serves the
//! requests of all others, and checks neither `Sec-Fetch-Site` nor `Host`.

mod host;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, HeaderValue, ORIGIN,
};

use host::{is_address, is_listed, is_localhost, is_own, without_port};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Paths of the server's own page.
const OWN_PAGES: [&str; 2] = ["/", "/ui"];
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");

/// The policy for requests of web pages.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    /// Origins whose pages are served, in lower case; `*` stands for every origin.
    pub origins: Vec<String>,
    /// Host names that requests may have; `*` or `None` stands for every name.
    pub hosts: Option<Vec<String>>,
    /// Host names at which the server's own page works, besides addresses and `localhost`; `*`
    /// stands for every name, `None` for a server without a page.
    pub own: Option<Vec<String>>,
}

/// The headers of a request that describe the page behind it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageRequest<'a> {
    pub is_options: bool,
    pub host: Option<&'a [u8]>,
    pub origin: Option<&'a [u8]>,
    pub fetch_site: Option<&'a [u8]>,
    /// `Access-Control-Request-Method`.
    pub method: Option<&'a [u8]>,
    /// `Access-Control-Request-Headers`.
    pub headers: Option<&'a [u8]>,
    /// `Access-Control-Request-Private-Network`.
    pub private_network: bool,
    /// A click on a link, or an address, opens the server's own page in a tab.
    pub opens_own_page: bool,
}

/// The decision about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Serve,
    /// Served, and the page may read the response.
    ServePage(Vec<Header>),
    /// Answered with 204 and these headers: a browser asks whether a page may send a request.
    Preflight(Vec<Header>),
    Refuse(PageRefusal),
}

/// A header of a response.
pub type Header = (&'static str, Vec<u8>);

/// Reasons to refuse the request of a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageRefusal {
    #[error("pages of the origin {origin} are not served here; --allow-origin {origin} serves them")]
    Origin { origin: String },
    #[error(
        "requests from pages of other sites without an Origin header are not served here; --allow-origin '*' serves them"
    )]
    Site,
    #[error(
        "this server listens on the loopback interface and does not serve the host {host}, because a page could have \
         rebound the name; --allow-host {host} serves it"
    )]
    Host { host: String },
    #[error(
        "the page of this server is not shown at the host {host}, because a page of another site could have rebound the \
         name; --allow-host {host} shows it, and so does the server's IP address"
    )]
    OwnPage { host: String },
}

/// Adds headers to a response.
pub fn add<B>(response: &mut ServiceResponse<B>, headers: Vec<Header>) {
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const VARY: &str = "vary";
const METHODS: &[u8] = b"GET, HEAD, POST, DELETE";
/// Lifetime of a preflight response in seconds.
const MAX_AGE: &[u8] = b"600";

impl Pages {
    /// The policy of a server that listens on `address`. On the loopback interface, only its own
    /// names and `hosts` are served. Elsewhere every name is served, because the server cannot know
    /// its names.
    pub fn new(origins: Vec<String>, hosts: Vec<String>, address: IpAddr) -> Self {
        let is_loopback = address.to_canonical().is_loopback();
        Self {
            origins: origins.into_iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            hosts: is_loopback.then_some(hosts),
            own: None,
        }
    }

    /// The same policy for a server with a page of its own, which also works at `hosts`.
    pub fn with_own_page(self, hosts: Vec<String>) -> Self {
        Self {
            own: Some(hosts),
            ..self
        }
    }

    /// Refuses a request for the server's own page at a host that another site could have.
    pub fn judge_own_page(&self, request: &ServiceRequest) -> Result<(), PageRefusal> {
        match request.headers().get(HOST).map(HeaderValue::as_bytes) {
            Some(host) if !self.is_safe_host(host) => Err(PageRefusal::OwnPage { host: shown(host) }),
            // A browser sends a host.
            Some(_) | None => Ok(()),
        }
    }

    /// The header of all responses that makes caches keep the responses for each origin apart.
    pub fn vary(&self) -> Option<Header> {
        let is_list = !self.origins.is_empty() && !self.serves_all();
        is_list.then(|| (VARY, b"Origin".to_vec()))
    }

    /// Judges a request by its headers.
    pub fn judge_request(&self, request: &ServiceRequest) -> Verdict {
        let headers = request.headers();
        let value = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
        let mut page = PageRequest {
            host: self.hosts.as_ref().and_then(|_| value(&HOST)),
            origin: value(&ORIGIN),
            fetch_site: value(&SEC_FETCH_SITE),
            opens_own_page: self.opens_own_page(request),
            ..PageRequest::default()
        };
        if page.origin.is_some() {
            page.host = value(&HOST);
            page.is_options = request.method() == Method::OPTIONS;
            page.method = value(&ACCESS_CONTROL_REQUEST_METHOD);
            page.headers = value(&ACCESS_CONTROL_REQUEST_HEADERS);
            page.private_network = headers.contains_key(PRIVATE_NETWORK);
        }
        self.judge(page)
    }

    /// Whether a browser opens the server's own page in a tab, from a link of any site. The page is
    /// a file without data, and no site can read it or show it inside its own page.
    fn opens_own_page(&self, request: &ServiceRequest) -> bool {
        let has = |name: &HeaderName, value: &[u8]| {
            let found = request.headers().get(name);
            found.is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value))
        };
        self.own.is_some()
            && OWN_PAGES.contains(&request.path())
            && *request.method() == Method::GET
            && has(&SEC_FETCH_MODE, b"navigate")
            && has(&SEC_FETCH_DEST, b"document")
    }

    /// Judges a request.
    pub fn judge(&self, page: PageRequest<'_>) -> Verdict {
        if let Some(host) = page.host
            && !self.serves_host(host)
        {
            return Verdict::Refuse(PageRefusal::Host { host: shown(host) });
        }
        let Some(origin) = page.origin else {
            let is_foreign = page
                .fetch_site
                .is_some_and(|site| !site.eq_ignore_ascii_case(b"none") && !site.eq_ignore_ascii_case(b"same-origin"));
            return match is_foreign && !page.opens_own_page && !self.serves_all() {
                true => Verdict::Refuse(PageRefusal::Site),
                false => Verdict::Serve,
            };
        };
        if !self.serves_origin(origin) {
            return match self.is_own_page(origin, &page) {
                true => Verdict::Serve,
                false => Verdict::Refuse(PageRefusal::Origin { origin: shown(origin) }),
            };
        }
        let allowed = if self.serves_all() { b"*".as_slice() } else { origin };
        let mut reply = vec![(ALLOW_ORIGIN, allowed.to_vec())];
        let mut add_header = |name, value: &[u8]| reply.push((name, value.to_vec()));
        match page.method {
            Some(_) if page.is_options => {
                add_header("access-control-allow-methods", METHODS);
                if let Some(headers) = page.headers {
                    add_header("access-control-allow-headers", headers);
                }
                add_header("access-control-max-age", MAX_AGE);
                if page.private_network {
                    add_header("access-control-allow-private-network", b"true");
                }
                add_header(VARY, b"Access-Control-Request-Method, Access-Control-Request-Headers");
                Verdict::Preflight(reply)
            }
            _ => {
                // Without credentials, `*` means all headers, those of AWS's APIs included.
                add_header("access-control-expose-headers", b"*");
                Verdict::ServePage(reply)
            }
        }
    }

    fn serves_all(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }

    fn serves_origin(&self, origin: &[u8]) -> bool {
        self.serves_all()
            || self
                .origins
                .iter()
                .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
    }

    /// Whether the server's own page sent the request.
    fn is_own_page(&self, origin: &[u8], page: &PageRequest<'_>) -> bool {
        let authority = [b"http://".as_slice(), b"https://"]
            .into_iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        let is_same_site = page
            .fetch_site
            .is_none_or(|site| site.eq_ignore_ascii_case(b"same-origin"));
        match (authority, page.host) {
            (Some(authority), Some(host)) => {
                is_same_site && authority.eq_ignore_ascii_case(host) && self.is_safe_host(host)
            }
            _ => false,
        }
    }

    /// Whether the server has a page, and no other site can have the host.
    fn is_safe_host(&self, host: &[u8]) -> bool {
        let Some(own) = &self.own else { return false };
        let Ok(host) = std::str::from_utf8(host) else {
            return own.iter().any(|allowed| allowed == "*");
        };
        let name = without_port(host.trim());
        is_address(name) || is_localhost(name) || is_listed(own, name, host)
    }

    fn serves_host(&self, host: &[u8]) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let Ok(host) = std::str::from_utf8(host) else {
            return hosts.iter().any(|allowed| allowed == "*");
        };
        let name = without_port(host.trim());
        is_own(name) || is_listed(hosts, name, host)
    }
}

/// A header's value for a message.
fn shown(value: &[u8]) -> String {
    const MAX_BYTES: usize = 200;
    let text = String::from_utf8_lossy(value);
    text[..text.floor_char_boundary(MAX_BYTES)].to_owned()
}
