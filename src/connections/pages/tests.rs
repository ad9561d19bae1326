use std::net::{IpAddr, Ipv4Addr};

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
        assert!(
            matches!(policy.judge(page), Verdict::Refuse(_)),
            "a server without a page served {origin}"
        );
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

#[test]
fn a_link_of_any_site_opens_the_own_page_and_no_page_sends_other_requests() {
    let own = Pages::new(Vec::new(), Vec::new(), EVERYWHERE).with_own_page(Vec::new());
    for site in ["same-site", "cross-site"] {
        let request = PageRequest {
            fetch_site: Some(site.as_bytes()),
            ..PageRequest::default()
        };
        assert_eq!(own.judge(request), Verdict::Refuse(PageRefusal::Site));
        let link = PageRequest {
            opens_own_page: true,
            ..request
        };
        assert_eq!(own.judge(link), Verdict::Serve);
    }
}
