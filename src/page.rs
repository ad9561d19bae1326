//! The page for browsers, at `/` of `serve` and at `/ui` of `endpoint`: its files, the form of its
//! data, and the events that keep it up to date.
//!
//! The page is a few files in the binary: no build step makes them, and they load nothing from
//! elsewhere, so the page works without a network. A front-end framework was considered; the page
//! is a table, a few charts and a form, which the platform of browsers has.
//!
//! - `state`: the data of the page and of `longshore top`, and their changes.
//! - `history`: the last fifteen minutes.
//! - `feed`: the thread that reads the data and sends them to watchers.
//!
//! This module knows neither models nor containers: `contract` and `endpoint` each read their own
//! state ([`feed::Source`]). They also decide who may see it: `connections::pages` refuses pages of
//! other sites.
//!
//! Invariant: a response with a file forbids the browser to load or run anything from elsewhere,
//! and to show the page inside another one.

pub mod feed;
mod history;
mod pieces;
pub mod state;
pub mod time;

use actix_web::body::SizedStream;
use actix_web::http::header::{ACCEPT, CACHE_CONTROL, HeaderMap, VARY};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;

use feed::Watcher;
use pieces::Pieces;

/// Path of the page, next to `/` where that is free.
pub const PATH: &str = "/ui";

/// Start of the paths of its files and data.
pub const BELOW: &str = "/ui/";

/// The part of the page that a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The page itself.
    Page,
    /// A file that the page loads.
    File(&'static PageFile),
    /// The state, as JSON.
    State,
    /// The state and its changes, as server-sent events.
    Events,
    /// The number of watchers.
    Watchers,
    /// The description of one model.
    Model,
    /// The log of a container.
    Log,
}

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub struct PageFile {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal: $media_type:expr),+ $(,)?) => {
        [$(PageFile { name: $name, media_type: $media_type, text: include_str!(concat!("page/files/", $name)) }),+]
    };
}

static PAGE: PageFile = PageFile {
    name: "page.html",
    media_type: HTML,
    text: include_str!("page/files/page.html"),
};

static FILES: [PageFile; 10] = files![
    "page.css": CSS,
    "page.js": SCRIPT,
    "charts.js": SCRIPT,
    "endpoint.js": SCRIPT,
    "form.js": SCRIPT,
    "format.js": SCRIPT,
    "live.js": SCRIPT,
    "model.js": SCRIPT,
    "overview.js": SCRIPT,
    "table.js": SCRIPT,
];

impl Part {
    /// The part at a path; `None` for other paths. `/` is the page.
    pub fn of(path: &str) -> Option<Self> {
        if path == "/" || path == PATH {
            return Some(Self::Page);
        }
        Some(match path.strip_prefix(BELOW)? {
            "state" => Self::State,
            "events" => Self::Events,
            "watchers" => Self::Watchers,
            "model" => Self::Model,
            "log" => Self::Log,
            name => Self::File(FILES.iter().find(|file| file.name == name)?),
        })
    }
}

/// Everything that the page may load: its own files and data. `data:` is its icon, `blob:` a
/// picture to send or to show. Trusted types keep scripts from turning text into markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src \
                      'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Starts a response with the headers of all responses of the page.
fn guarded(media_type: &'static str) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .content_type(media_type)
        .insert_header(("content-security-policy", POLICY))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cross-origin-resource-policy", "same-origin"))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        // An updated server has other files at the same paths.
        .insert_header((CACHE_CONTROL, "no-store"));
    response
}

/// Responds with the page.
pub fn page() -> HttpResponse {
    let mut response = guarded(PAGE.media_type);
    response.insert_header((VARY, ACCEPT.as_str())).body(PAGE.text)
}

/// Responds to a client that does not ask for HTML, such as curl, in place of the page.
pub fn text(text: String) -> HttpResponse {
    let mut response = guarded("text/plain; charset=utf-8");
    response.insert_header((VARY, ACCEPT.as_str())).body(text)
}

/// Responds with a file of the page.
pub fn file(file: &'static PageFile) -> HttpResponse {
    guarded(file.media_type).body(file.text)
}

/// Responds with the state.
pub fn state(state: feed::StateText) -> HttpResponse {
    guarded("application/json").body(SizedStream::new(state.length, state))
}

/// Responds with JSON.
pub fn json(json: Bytes) -> HttpResponse {
    let length = json.len() as u64;
    guarded("application/json").body(SizedStream::new(length, Pieces(json)))
}

/// Responds with the number of watchers.
pub fn watchers(feed: &feed::Feed) -> HttpResponse {
    let (open, most) = (feed.watchers(), feed::WATCHERS);
    json(format!("{{\"open\":{open},\"most\":{most}}}").into())
}

/// Responds with the events of a watcher, until either side ends them.
pub fn events(watcher: Watcher) -> HttpResponse {
    guarded("text/event-stream").streaming(watcher)
}

/// Whether a client asks for HTML, as browsers do.
pub fn wants_html(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(ACCEPT);
    accepts.any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_part() {
        let file = |name: &str| FILES.iter().find(|file| file.name == name).map(Part::File);
        for (path, part) in [
            ("/", Some(Part::Page)),
            ("/ui", Some(Part::Page)),
            ("/ui/state", Some(Part::State)),
            ("/ui/events", Some(Part::Events)),
            ("/ui/model", Some(Part::Model)),
            ("/ui/page.css", file("page.css")),
            ("/ui/", None),
            ("/ui/page.html", None),
            ("/ui/../page.css", None),
            ("/page.css", None),
            ("/uistate", None),
        ] {
            assert_eq!(Part::of(path), part, "{path}");
        }
    }

    #[test]
    fn the_files_name_each_other_and_load_nothing_from_elsewhere() {
        for file in FILES.iter().chain([&PAGE]) {
            for (index, _) in file.text.match_indices("from \"") {
                let rest = &file.text[index + "from \"".len()..];
                let name = rest.split('"').next().unwrap().trim_start_matches("./");
                assert!(
                    FILES.iter().any(|known| known.name == name),
                    "{} imports {name}",
                    file.name
                );
            }
            // The name of a namespace is not an address to load.
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            for address in ["http://", "https://", "//cdn", "@import", "url("] {
                assert!(!text.contains(address), "{} has {address}", file.name);
            }
            for markup in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!file.text.contains(markup), "{} has {markup}", file.name);
            }
        }
        for part in ["ui/page.css", "ui/page.js"] {
            assert!(
                PAGE.text.contains(part) && Part::of(&format!("/{part}")).is_some(),
                "{part}"
            );
        }
    }

    #[test]
    fn a_client_that_asks_for_html_gets_it() {
        let headers = |accept: &'static str| HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        assert!(wants_html(&headers("text/html,application/xhtml+xml,*/*;q=0.8")));
        assert!(!wants_html(&headers("*/*")));
        assert!(!wants_html(&HeaderMap::new()));
    }
}
