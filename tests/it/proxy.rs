//! Tests of the proxy that injects faults for the tests of the store: without real faults, those
//! would prove nothing.

use std::io;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::harness::{Bucket, Connection, Fault, Proxy, Request, Response, Rule, S3};

/// Returns a body that the proxy sends in several pieces.
fn content() -> Vec<u8> {
    (0..100_000u32).map(|index| (index % 251) as u8).collect()
}

fn proxied() -> (Bucket, Proxy) {
    let s3 = S3::start();
    let bucket = s3.bucket();
    bucket.put("models/a b.bin", &content());
    (bucket, Proxy::before(s3.address()))
}

fn get(bucket: &Bucket) -> Request {
    Request::get(format!("/{}/models/a%20b.bin", bucket.name()))
}

/// A signature that moto accepts.
const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=key/20000101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=0";

fn ask(connection: &mut Connection, request: &Request) -> io::Result<Response> {
    let request = request
        .clone()
        .header("Host", "localhost")
        .header("Authorization", SIGNATURE);
    connection.write(&request.to_bytes())?;
    connection.read_unchecked(request.method())
}

#[test]
fn requests_without_a_rule_pass_unchanged_over_one_connection_and_are_recorded() {
    let (bucket, proxy) = proxied();
    let mut connection = Connection::open(proxy.address()).unwrap();
    let whole = ask(&mut connection, &get(&bucket)).unwrap().expect(200);
    assert_eq!(whole.body, content());
    let etag = whole.header("etag").unwrap().to_owned();

    let part = ask(&mut connection, &get(&bucket).header("Range", "bytes=10-19"))
        .unwrap()
        .expect(206);
    assert_eq!(part.body, content()[10..20]);
    assert_eq!(part.header("content-range"), Some("bytes 10-19/100000"));
    let same = ask(&mut connection, &get(&bucket).header("If-None-Match", &etag)).unwrap();
    assert_eq!(same.expect(304).body, b"");
    ask(&mut connection, &get(&bucket).header("If-Match", "\"other\""))
        .unwrap()
        .expect(412);
    let listing = Request::get(format!("/{}?list-type=2&prefix=models%2F", bucket.name()));
    let listing = ask(&mut connection, &listing).unwrap().expect(200).text();
    assert!(listing.contains("<Key>models/a b.bin</Key>"), "{listing}");
    let head = Request::new("HEAD", format!("/{}/models/a%20b.bin", bucket.name()));
    let head = ask(&mut connection, &head).unwrap().expect(200);
    assert_eq!(head.header("content-length"), Some("100000"));

    let requests = proxy.requests();
    let statuses: Vec<Option<u16>> = requests.iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [200, 206, 304, 412, 200, 200].map(Some));
    assert_eq!(requests[1].range.as_deref(), Some("bytes=10-19"));
    assert_eq!(requests[2].if_none_match, Some(etag));
    assert_eq!(requests[3].if_match.as_deref(), Some("\"other\""));
    assert_eq!(requests[4].query, "list-type=2&prefix=models%2F");
    assert_eq!(proxy.requests_of("models/a b.bin").len(), 5);
    assert_eq!(proxy.bytes_of("models/a b.bin"), 100_010);
}

#[test]
fn the_first_requests_fail_with_s3_errors_and_later_ones_pass() {
    let (bucket, proxy) = proxied();
    proxy.rule(Rule::new(Fault::INTERNAL).on("a b.bin").times(2));
    proxy.rule(Rule::new(Fault::DENIED).method("GET").on("a b.bin").times(1));
    proxy.rule(Rule::new(Fault::SLOW_DOWN).on("another"));
    let mut connection = Connection::open(proxy.address()).unwrap();
    let answers: Vec<Response> = (0..4).map(|_| ask(&mut connection, &get(&bucket)).unwrap()).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [500, 500, 403, 200]);
    assert!(
        answers[2].text().contains("<Code>AccessDenied</Code>"),
        "{}",
        answers[2].text()
    );
    assert_eq!(answers[3].body, content());
}

#[test]
fn a_connection_is_cut_within_the_body() {
    let (bucket, proxy) = proxied();
    proxy.rule(Rule::new(Fault::Cut(70_000)).times(1));
    let mut connection = Connection::open(proxy.address()).unwrap();
    let error = ask(&mut connection, &get(&bucket)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    assert_eq!(proxy.bytes_of("a b.bin"), 70_000);
    let mut connection = Connection::open(proxy.address()).unwrap();
    assert_eq!(ask(&mut connection, &get(&bucket)).unwrap().body, content());
}

#[test]
fn a_late_or_slow_response_is_complete() {
    let (bucket, proxy) = proxied();
    proxy.rule(Rule::new(Fault::Trickle(30_000, Duration::from_millis(1))).times(1));
    proxy.rule(Rule::new(Fault::Delay(Duration::from_millis(1))).times(1));
    let mut connection = Connection::open(proxy.address()).unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&mut connection, &get(&bucket)).unwrap().body, content());
    }
}

#[test]
fn a_held_request_is_in_flight_until_its_release() {
    for (fault, sent) in [(Fault::Hold, 0), (Fault::HoldAfter(40_000), 40_000)] {
        let (bucket, proxy) = proxied();
        proxy.rule(Rule::new(fault).on("a b.bin"));
        let (answered, answers) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (answered, address, request) = (answered.clone(), proxy.address(), get(&bucket));
                scope.spawn(move || {
                    let mut connection = Connection::open(address).unwrap();
                    answered.send(ask(&mut connection, &request).unwrap()).unwrap();
                });
            }
            proxy.wait_for_held(2);
            assert_eq!(proxy.bytes_of("a b.bin"), 2 * sent, "{fault:?}");
            assert!(answers.try_recv().is_err(), "{fault:?}");
            proxy.release();
        });
        assert!(
            answers.iter().take(2).all(|answer| answer.body == content()),
            "{fault:?}"
        );
        // The next request is not held either.
        ask(&mut Connection::open(proxy.address()).unwrap(), &get(&bucket))
            .unwrap()
            .expect(200);
    }
}

#[test]
fn connections_are_refused_and_accepted_again_at_the_same_address() {
    let (bucket, proxy) = proxied();
    let mut kept = Connection::open(proxy.address()).unwrap();
    ask(&mut kept, &get(&bucket)).unwrap().expect(200);
    for _ in 0..3 {
        proxy.refuse_connections();
        assert!(ask(&mut kept, &get(&bucket)).is_err());
        for _ in 0..3 {
            let error = TcpStream::connect(proxy.address()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        }
        proxy.accept_connections();
        kept = Connection::open(proxy.address()).unwrap();
        ask(&mut kept, &get(&bucket)).unwrap().expect(200);
    }
}
