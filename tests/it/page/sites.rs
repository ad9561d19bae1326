//! Pages of other sites, which must neither read the page's data nor send requests by it.

use serde_json::json;

use super::{load_scale, own, row, state};
use crate::harness::{Browser, Builder, Request, Server};

fn on_loopback() -> Server {
    // Overrides the harness, which allows all hosts.
    Builder::multi().arguments(["--allow-host", "laptop.example"]).start()
}

const PARTS: [&str; 7] = [
    "/",
    "/ui",
    "/ui/state",
    "/ui/events",
    "/ui/watchers",
    "/ui/page.js",
    "/ui/model?name=m",
];

#[test]
fn a_page_of_another_site_gets_no_part_of_the_page() {
    let server = on_loopback();
    for path in PARTS {
        for (name, value) in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Origin", "http://localhost:1"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            server
                .send_unchecked(&own(&server, Request::get(path)).header(name, value))
                .expect(403);
        }
        // DNS rebinding.
        for host in ["evil.example", "laptop.example.evil.example"] {
            server
                .send_unchecked(&Request::get(path).header("Host", host))
                .expect(403);
        }
    }
    server
        .send_unchecked(&Request::get("/ui/state").header("Host", "laptop.example:8080"))
        .expect(200);
}

#[test]
fn a_link_of_another_site_opens_the_page_in_a_tab_and_nothing_else() {
    let server = on_loopback();
    let follow = |path: &str, mode: &str, dest: &str, host: &str| {
        let request = Request::get(path)
            .header("Host", host)
            .header("Sec-Fetch-Site", "cross-site")
            .header("Sec-Fetch-Mode", mode)
            .header("Sec-Fetch-Dest", dest);
        server.send_unchecked(&request).status
    };
    assert_eq!(follow("/", "navigate", "document", "localhost"), 200);
    assert_eq!(follow("/ui", "navigate", "document", "localhost"), 200);
    assert_eq!(follow("/", "navigate", "iframe", "localhost"), 403);
    assert_eq!(follow("/", "no-cors", "document", "localhost"), 403);
    assert_eq!(follow("/", "navigate", "document", "evil.example"), 403);
    for path in ["/ui/state", "/models", "/ping", "/metrics"] {
        assert_eq!(follow(path, "navigate", "document", "localhost"), 403, "{path}");
    }
}

#[test]
fn a_rebound_name_gets_no_part_of_the_page_of_a_server_that_listens_everywhere() {
    let server = Builder::multi()
        .arguments(["--bind", "0.0.0.0", "--allow-host", "known.example"])
        .start();
    let port = server.address().port();
    let at = |host: &str| Request::get("/ui/state").header("Host", format!("{host}:{port}"));
    for (host, status) in [
        ("evil.example", 403),
        ("longshore", 403),
        ("known.example", 200),
        ("localhost", 200),
        ("10.1.2.3", 200),
        ("[2001:db8::1]", 200),
    ] {
        let address = ([127, 0, 0, 1], port).into();
        let mut connection = crate::harness::Connection::open(address).unwrap();
        connection
            .write(&at(host).header("Connection", "close").to_bytes())
            .unwrap();
        let answer = connection.read_unchecked("GET").unwrap();
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
        if status == 403 {
            assert!(answer.message().contains("--allow-host"), "{}", answer.message());
        }
        // The same holds for requests that the page would send.
        let load = Request::post("/models")
            .header("Host", format!("{host}:{port}"))
            .header("Origin", format!("http://{host}:{port}"))
            .header("Content-Type", "text/plain")
            .header("Connection", "close")
            .body(json!({"model_name": "m", "url": "/nowhere"}).to_string());
        let mut connection = crate::harness::Connection::open(address).unwrap();
        connection.write(&load.to_bytes()).unwrap();
        let expected = if status == 403 { 403 } else { 400 };
        let answer = connection.read_unchecked("POST").unwrap();
        assert_eq!(answer.status, expected, "{host}: {}", answer.text());
    }
}

#[test]
fn the_own_page_may_send_requests_and_others_may_not() {
    let server = on_loopback();
    load_scale(&server, "m", 2.0);
    let (address, port) = (server.address(), server.address().port());
    let invocation = || Request::post("/models/m/invoke").json(&json!({"instances": [1]}));
    let from = |host: &str, origin: &str| {
        server
            .send_unchecked(&invocation().header("Host", host).header("Origin", origin))
            .status
    };
    let own_host = address.to_string();
    assert_eq!(from(&own_host, &format!("http://{own_host}")), 200);
    assert_eq!(
        from(&format!("localhost:{port}"), &format!("http://localhost:{port}")),
        200
    );
    for origin in ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"] {
        assert_eq!(from(&own_host, origin), 403, "{origin}");
    }
    let cross_site = invocation()
        .header("Host", &own_host)
        .header("Origin", format!("http://{own_host}"))
        .header("Sec-Fetch-Site", "cross-site");
    server.send_unchecked(&cross_site).expect(403);
}

/// Tries everything that a page can do to another site: read, watch, send without a preflight, and
/// show in a frame.
const ATTACK: &str = "
    const [target] = arguments;
    const reads = ['/', '/ui/state', '/ui/model?name=m', '/metrics', '/models'];
    const results = {};
    for (const path of reads) {
        results[path] = await fetch(target + path).then((r) => r.text(), () => 'blocked');
    }
    results.send = await fetch(target + '/models/m/invoke', {method: 'POST', body: '[1]', headers: {'Content-Type': 'text/plain'}})
        .then((r) => r.text(), () => 'blocked');
    results.blind = await fetch(target + '/models/m/invoke', {method: 'POST', mode: 'no-cors', body: '[1]'})
        .then((r) => r.type, () => 'blocked');
    results.watch = await new Promise((done) => {
        const source = new EventSource(target + '/ui/events');
        source.addEventListener('state', () => done('read'));
        source.onerror = () => done('blocked');
    });
    results.script = await new Promise((done) => {
        const script = document.createElement('script');
        script.src = target + '/ui/page.js';
        script.onload = () => done('loaded');
        script.onerror = () => done('blocked');
        document.head.append(script);
    });
    const frame = document.createElement('iframe');
    frame.src = target + '/';
    await new Promise((done) => { frame.onload = done; frame.onerror = done; document.body.append(frame); });
    try { results.frame = frame.contentDocument ? 'read' : 'blocked'; } catch { results.frame = 'blocked'; }
    return results;";

#[test]
fn a_browser_keeps_another_site_from_reading_and_sending() {
    let Some(browser) = Browser::start() else { return };
    let server = on_loopback();
    load_scale(&server, "m", 2.0);
    // Another server of this machine is another site for the browser.
    let other = Builder::multi().start();
    let target = format!("http://{}", server.address());
    for site in [
        format!("http://{}/models", other.address()),
        format!("http://evil.example:{}/models", other.address().port()),
    ] {
        browser.open(&site);
        let attack = format!(
            "return (async () => {{ {} }})()",
            ATTACK.replace(
                "const [target] = arguments;",
                &format!("const target = {};", json!(target))
            )
        );
        let results = browser.run(&attack);
        for (what, result) in results.as_object().unwrap() {
            let result = result.as_str().unwrap();
            // A blind request is sent, and the server refuses it.
            assert!(
                result == "blocked" || (what == "blind" && result == "opaque"),
                "{site}: {what}: {result}"
            );
        }
    }
    // DNS rebinding: the browser takes the page of the other name for that site's own.
    browser.open(&format!("http://evil.example:{}/", server.address().port()));
    assert!(
        browser.text("body").contains("AccessDeniedException"),
        "{}",
        browser.text("body")
    );
    let model = row(&state(&server), "m");
    assert_eq!(model["p50"], json!(null), "no request reached the model");
    assert_eq!(model["errors"], model["causes"]["forbidden"], "{model}");
}
