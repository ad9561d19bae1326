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

use std::net::{IpAddr, Ipv6Addr};

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, HeaderValue, ORIGIN,
};

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

/// Whether `allowed` has the name, the name with its port, or `*`.
fn is_listed(allowed: &[String], name: &str, host: &str) -> bool {
    allowed
        .iter()
        .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host))
}

/// The name that SageMaker, and programs that play its part, use for a container (ST-5). No page
/// can have it: names below `.local` are not in the DNS.
const PLATFORM_HOST: &str = "model.aws.local";

/// Whether `host` is a name or an address of the loopback interface, the platform's name, or empty.
fn is_own(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name.is_empty()
        || name.eq_ignore_ascii_case(PLATFORM_HOST)
        || is_localhost(name)
        || address(name).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Whether `host` is `localhost` or a name below it.
fn is_localhost(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_below_localhost = || {
        name.len() > ".localhost".len()
            && name.is_char_boundary(name.len() - ".localhost".len())
            && name[name.len() - ".localhost".len()..].eq_ignore_ascii_case(".localhost")
    };
    name.eq_ignore_ascii_case("localhost") || is_below_localhost()
}

/// Whether `host` is an IP address. Browsers connect to it without a name that could be rebound.
fn is_address(host: &str) -> bool {
    address(host).is_some()
}

fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    }
}

/// A header's value for a message.
fn shown(value: &[u8]) -> String {
    const MAX_BYTES: usize = 200;
    let text = String::from_utf8_lossy(value);
    text[..text.floor_char_boundary(MAX_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn pages(origins: &[&str]) -> Pages {
        let origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        Pages::new(origins, Vec::new(), EVERYWHERE)
    }

    fn from(origin: &str) -> PageRequest<'_> {
        PageRequest {
            origin: Some(origin.as_bytes()),
            ..PageRequest::default()
        }
    }

    #[test]
    fn a_page_is_served_only_if_its_origin_is_allowed() {
        let table: [(&[&str], &str, bool); 8] = [
            (&[], "https://evil.example", false),
            (&[], "null", false),
            (&["https://app.example"], "https://app.example", true),
            (&["https://APP.example"], "https://app.EXAMPLE", true),
            (&["https://app.example"], "https://app.example:8443", false),
            (&["https://app.example"], "http://app.example", false),
            (&["https://app.example"], "https://app.example.evil.example", false),
            (&["*"], "null", true),
        ];
        for (allowed, origin, is_served) in table {
            let verdict = pages(allowed).judge(from(origin));
            assert_eq!(
                matches!(verdict, Verdict::ServePage(_)),
                is_served,
                "{allowed:?} {origin}"
            );
            assert_eq!(
                matches!(verdict, Verdict::Refuse(_)),
                !is_served,
                "{allowed:?} {origin}"
            );
        }
    }

    #[test]
    fn a_served_page_may_read_the_response_and_caches_keep_origins_apart() {
        let listed = pages(&["https://app.example"]);
        let expected = vec![
            (ALLOW_ORIGIN, b"https://app.example".to_vec()),
            ("access-control-expose-headers", b"*".to_vec()),
        ];
        assert_eq!(listed.judge(from("https://app.example")), Verdict::ServePage(expected));
        assert_eq!(listed.vary(), Some((VARY, b"Origin".to_vec())));
        let expected = vec![
            (ALLOW_ORIGIN, b"*".to_vec()),
            ("access-control-expose-headers", b"*".to_vec()),
        ];
        assert_eq!(
            pages(&["*"]).judge(from("https://app.example")),
            Verdict::ServePage(expected)
        );
        assert_eq!((pages(&["*"]).vary(), pages(&[]).vary()), (None, None));
    }

    #[test]
    fn a_preflight_is_answered_for_allowed_origins_only() {
        let preflight = PageRequest {
            is_options: true,
            method: Some(b"POST"),
            headers: Some(b"content-type,x-amzn-sagemaker-target-model"),
            private_network: true,
            ..from("https://app.example")
        };
        let Verdict::Preflight(headers) = pages(&["https://app.example"]).judge(preflight) else {
            panic!("no preflight");
        };
        for (name, value) in [
            (ALLOW_ORIGIN, b"https://app.example".as_slice()),
            ("access-control-allow-methods", METHODS),
            (
                "access-control-allow-headers",
                b"content-type,x-amzn-sagemaker-target-model",
            ),
            ("access-control-allow-private-network", b"true"),
        ] {
            assert!(headers.contains(&(name, value.to_vec())), "{name}");
        }
        assert!(matches!(pages(&[]).judge(preflight), Verdict::Refuse(_)));
        let no_preflight = PageRequest {
            method: None,
            ..preflight
        };
        assert!(matches!(pages(&["*"]).judge(no_preflight), Verdict::ServePage(_)));
    }

    #[test]
    fn requests_from_pages_of_other_sites_without_an_origin_are_refused() {
        let table = [
            (None, true),
            (Some("none"), true),
            (Some("same-origin"), true),
            (Some("same-site"), false),
            (Some("cross-site"), false),
            (Some("Cross-Site"), false),
            (Some("of the future"), false),
        ];
        for (site, is_served) in table {
            let page = PageRequest {
                fetch_site: site.map(str::as_bytes),
                ..PageRequest::default()
            };
            assert_eq!(pages(&[]).judge(page) == Verdict::Serve, is_served, "{site:?}");
            assert_eq!(pages(&["*"]).judge(page), Verdict::Serve, "{site:?}");
        }
    }

    #[test]
    fn the_own_page_works_only_where_no_other_site_can_be() {
        let table = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://localhost:8080", "localhost:8080", true),
            ("http://app.localhost:8080", "app.localhost:8080", true),
            ("https://10.0.0.5", "10.0.0.5", true),
            ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080", true),
            ("http://named.example:8080", "named.example:8080", true),
            ("http://NAMED.example:8080", "named.example:8080", true),
            // A site that has rebound its own name has the same origin and host.
            ("http://evil.example:8080", "evil.example:8080", false),
            ("http://model.aws.local:8080", "model.aws.local:8080", false),
            ("http://longshore:8080", "longshore:8080", false),
            // Another server of the same machine.
            ("http://localhost:3000", "localhost:8080", false),
            ("http://127.0.0.1:8080", "localhost:8080", false),
            ("null", "localhost:8080", false),
            ("localhost:8080", "localhost:8080", false),
            ("ftp://localhost:8080", "localhost:8080", false),
        ];
        let policy = Pages::new(Vec::new(), Vec::new(), EVERYWHERE);
        let own = policy.clone().with_own_page(vec!["named.example".to_owned()]);
        for (origin, host, is_served) in table {
            let page = PageRequest {
                host: Some(host.as_bytes()),
                ..from(origin)
            };
            assert_eq!(own.judge(page) == Verdict::Serve, is_served, "{origin} at {host}");
            assert!(matches!(policy.judge(page), Verdict::Refuse(_)), "there is no page");
            for (site, is_same) in [("same-origin", true), ("same-site", false), ("cross-site", false)] {
                let page = PageRequest {
                    fetch_site: Some(site.as_bytes()),
                    ..page
                };
                assert_eq!(
                    own.judge(page) == Verdict::Serve,
                    is_served && is_same,
                    "{origin} {site}"
                );
            }
        }
        let no_host = PageRequest {
            host: None,
            ..from("http://localhost:8080")
        };
        assert!(matches!(own.judge(no_host), Verdict::Refuse(_)));
    }

    #[test]
    fn on_the_loopback_interface_only_its_own_names_are_served() {
        let table: [(&str, bool); 22] = [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("localhost.:8080", true),
            ("app.localhost:80", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8080", true),
            ("127.8.9.10:1", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:8080", true),
            ("", true),
            ("allowed.example:8080", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.evil.example:8080", false),
            ("10.0.0.1:8080", false),
            ("[2001:db8::1]:8080", false),
            ("0.0.0.0:8080", false),
            ("evil.example:localhost", false),
            ("\u{e9}.localhost", true),
        ];
        let pages = Pages::new(Vec::new(), vec!["allowed.example".to_owned()], LOOPBACK);
        for (host, is_served) in table {
            let page = PageRequest {
                host: Some(host.as_bytes()),
                ..PageRequest::default()
            };
            assert_eq!(pages.judge(page) == Verdict::Serve, is_served, "{host}");
            assert_eq!(
                Pages::new(Vec::new(), Vec::new(), EVERYWHERE).judge(page),
                Verdict::Serve
            );
            let all = Pages::new(Vec::new(), vec!["*".to_owned()], LOOPBACK);
            assert_eq!(all.judge(page), Verdict::Serve);
        }
        let no_text = PageRequest {
            host: Some(b"\xff"),
            ..PageRequest::default()
        };
        assert!(matches!(pages.judge(no_text), Verdict::Refuse(_)));
        assert_eq!(
            pages.judge(PageRequest::default()),
            Verdict::Serve,
            "HTTP/1.0 has no Host"
        );
    }
}
