//! Finding and reading single objects.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::testing::{PART, PARTS, Reply, Server, Stored, TestRequest, fetched, name, read, remote, wait};
use crate::store::{FoundModel, Object, Remote, StoreError, Version};

fn found(remote: &Remote, known: Option<&Version>) -> Option<Object> {
    match wait(remote.find(&name("a.tar.gz"), known)).unwrap() {
        FoundModel::Object(object) => Some(object),
        FoundModel::Unchanged => None,
        FoundModel::Folder(_) => panic!("it is a folder"),
    }
}

#[test]
fn a_small_object_costs_one_request_and_a_known_one_no_bytes() {
    let stored = Stored::new(500);
    let bytes = stored.bytes.clone();
    let server = Server::start(move |request| stored.answer(request));
    let remote = server.remote();

    let object = found(&remote, None).unwrap();
    let version = object.version().clone();
    assert_eq!(object.bytes(), 500);
    assert_eq!(read(object.into_reader()).unwrap(), bytes);
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path(), "/bucket/store/a.tar.gz");
    assert_eq!(requests[0].header("range"), Some("bytes=0-999"));
    assert!(requests[0].header("authorization").unwrap().contains("/us-east-1/s3/"));

    assert!(found(&remote, Some(&version)).is_none());
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("if-none-match"), Some("\"one\""));
}

#[test]
fn a_replaced_object_is_found_with_its_new_version() {
    let stored = Stored::new(500);
    let server = Server::start(move |request| stored.answer(request));
    let known = Version::from("etag \"zero\"".to_owned());
    let object = found(&server.remote(), Some(&known)).unwrap();
    assert_ne!(*object.version(), known);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_large_object_is_downloaded_in_parts_of_one_version() {
    for bytes in [
        PART as usize,
        PART as usize + 1,
        10 * PART as usize - 1,
        10 * PART as usize,
    ] {
        let stored = Stored::new(bytes);
        let expected = stored.bytes.clone();
        let server = Server::start(move |request| stored.answer(request));
        assert!(fetched(&server.remote(), "a.tar.gz").unwrap() == expected, "{bytes}");
        let mut requests = server.requests();
        assert_eq!(requests.len(), bytes.div_ceil(PART as usize));
        requests.sort_by_key(|request| request.range().unwrap().start);
        for (index, request) in requests.iter().enumerate() {
            let start = index * PART as usize;
            let end = if index == 0 {
                PART as usize
            } else {
                bytes.min(start + PART as usize)
            };
            assert_eq!(request.range(), Some(start..end));
            assert_eq!(request.header("if-match"), (index > 0).then_some("\"one\""));
        }
    }
}

#[test]
fn an_empty_object_is_found() {
    let stored = Stored::new(0);
    let server = Server::start(move |request| stored.answer(request));
    assert_eq!(fetched(&server.remote(), "a").unwrap(), b"");
}

#[test]
fn names_reach_the_server_unchanged() {
    let names = [
        "a b/c+d.tar.gz",
        "country=de/day=2026-01-01/m.onnx",
        "100%/50%25/%2e%2e/m",
        "mod\u{e8}les/\u{6a21}\u{578b}.onnx",
        "a?b#c&d:e~f'(g)*!$,;@[]{}|^`\"<>",
        "...",
    ];
    let stored = Stored::new(10);
    let server = Server::start(move |request| stored.answer(request));
    for text in names {
        for (remote, root) in [(server.remote(), "/bucket/store"), (server.web(), "/store")] {
            fetched(&remote, text).unwrap();
            let paths: Vec<_> = server.requests().iter().map(TestRequest::path).collect();
            assert_eq!(paths, [format!("{root}/{text}")]);
        }
    }
}

#[test]
fn a_part_that_breaks_off_is_resumed_where_it_broke() {
    let stored = Stored::new(3 * PART as usize);
    let expected = stored.bytes.clone();
    let server = Server::start(move |request| match request.range() {
        // Each part comes in four pieces.
        Some(range) if range.len() > 250 => stored.answer(request).cut(250),
        _ => stored.answer(request),
    });
    assert!(fetched(&server.remote(), "a").unwrap() == expected);
    let mut starts: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.range().unwrap().start)
        .collect();
    starts.sort_unstable();
    assert_eq!(starts, (0..12).map(|index| index * 250).collect::<Vec<_>>());
}

#[test]
fn a_download_that_breaks_off_without_progress_fails() {
    let stored = Stored::new(500);
    let server = Server::start(move |request| stored.answer(request).cut(10));
    let error = fetched(&server.remote(), "a").unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::CutShort {
                bytes: 500,
                read: 30,
                tries: 3,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn versions_of_an_object_replaced_during_the_read_are_not_mixed() {
    let (old, mut new) = (Stored::new(5 * PART as usize), Stored::new(5 * PART as usize));
    new.bytes.reverse();
    new.tag = Some("\"two\"".to_owned());
    let expected = old.bytes.clone();
    // Some stores ignore If-Match; the tag in the response reveals the replacement as well.
    for honours_if_match in [true, false] {
        let (old, new) = (old.clone(), new.clone());
        let server = Server::start(move |request| {
            let mut request = request.clone();
            if !honours_if_match {
                request.remove("if-match");
            }
            match request.range().unwrap().start / PART as usize {
                0..2 => old.answer(&request),
                _ => new.answer(&request),
            }
        });
        let remote = server.remote();
        let mut reader = found(&remote, None).unwrap().into_reader();
        let mut bytes = Vec::new();
        let error = reader.read_to_end(&mut bytes).unwrap_err();
        assert!(
            matches!(StoreError::of(&error), Some(StoreError::Changed { .. })),
            "{error}"
        );
        assert!(expected.starts_with(&bytes));
        // The error is permanent: nothing comes after it.
        assert!(reader.read_to_end(&mut bytes).is_err());
    }
}

#[test]
fn an_object_removed_during_the_read_has_changed() {
    let stored = Stored::new(2 * PART as usize);
    let server = Server::start(move |request| match request.range() {
        Some(range) if range.start > 0 => Reply::error(404, "NoSuchKey"),
        _ => stored.answer(request),
    });
    let error = fetched(&server.remote(), "a").unwrap_err();
    assert!(matches!(error, StoreError::Changed { .. }), "{error}");
}

#[test]
fn servers_without_ranges_are_read_in_one_go() {
    let mut stored = Stored::new(5 * PART as usize);
    (stored.ranges, stored.tag) = (false, None);
    let expected = stored.bytes.clone();
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        // The first read breaks off, so the next one skips the bytes that came before.
        1 => stored.answer(request).cut(1500),
        _ => stored.answer(request),
    });
    let remote = server.web();
    let object = found(&remote, None).unwrap();
    let version = object.version().clone();
    assert!(read(object.into_reader()).unwrap() == expected);
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.range().is_some())
        .collect();
    assert_eq!(ranges, [true, false, false]);

    assert!(found(&remote, Some(&version)).is_none());
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].header("if-modified-since").is_some());
}

#[test]
fn an_object_of_unknown_version_is_fetched_again_and_never_resumed() {
    let mut stored = Stored::new(3 * PART as usize);
    (stored.tag, stored.modified) = (None, None);
    let expected = stored.bytes.clone();
    let whole = stored.clone();
    let server = Server::start(move |request| whole.answer(request));
    let remote = server.web();
    let object = found(&remote, None).unwrap();
    let version = object.version().clone();
    assert!(read(object.into_reader()).unwrap() == expected);
    assert!(server.requests().last().unwrap().range().is_none());
    assert_ne!(*found(&remote, Some(&version)).unwrap().version(), version);

    let server = Server::start(move |request| match request.range() {
        Some(_) => stored.answer(request),
        None => stored.answer(request).cut(1500),
    });
    let error = fetched(&server.web(), "a").unwrap_err();
    assert!(matches!(error, StoreError::CutShort { read: 1500, .. }), "{error:?}");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn weak_tags_are_compared_but_not_sent_in_if_match() {
    let mut stored = Stored::new(2 * PART as usize);
    stored.tag = Some("W/\"one\"".to_owned());
    let expected = stored.bytes.clone();
    let server = Server::start(move |request| stored.answer(request));
    assert!(fetched(&server.remote(), "a").unwrap() == expected);
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.header("if-match").is_none())
    );
}

#[test]
fn the_number_of_parts_in_transit_is_limited() {
    let stored = Stored::new(20 * PART as usize);
    let expected = stored.bytes.clone();
    // Upper limit of the bytes read, recorded before each read.
    let read = Arc::new(AtomicUsize::new(0));
    let (recorded, too_early) = (read.clone(), Arc::new(AtomicUsize::new(0)));
    let early = too_early.clone();
    let server = Server::start(move |request| {
        let part = request.range().unwrap().start / PART as usize;
        if part >= recorded.load(Ordering::SeqCst) / PART as usize + PARTS {
            early.fetch_add(1, Ordering::SeqCst);
        }
        stored.answer(request)
    });
    let remote = server.remote();
    let mut reader = found(&remote, None).unwrap().into_reader();
    let mut bytes = Vec::new();
    let mut buffer = [0; 100];
    loop {
        read.store(bytes.len() + 1, Ordering::SeqCst);
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    assert!(bytes == expected);
    assert_eq!(too_early.load(Ordering::SeqCst), 0);
}

#[test]
fn dropping_the_reader_ends_the_download() {
    // All parts are in transit.
    let stored = Stored::new(2 * PART as usize);
    let server = Server::start(move |request| match request.range().unwrap().start {
        0 => stored.answer(request),
        _ => stored.answer(request).stall(10),
    });
    let remote = server.remote();
    let mut reader = found(&remote, None).unwrap().into_reader();
    reader.read_exact(&mut [0; PART as usize + 5]).unwrap();
    drop(reader);
    server.wait_for_leaver();
}

#[test]
fn dropping_the_search_ends_its_request() {
    let server = Server::start(|_| Reply::new(200, "x").stall(0));
    let remote = server.remote();
    wait(async {
        let key = name("a");
        let mut find = Box::pin(remote.find(&key, None));
        // The request is in transit once the server has recorded it.
        loop {
            tokio::select! {
                _ = &mut find => panic!("the search returned without a response"),
                () = tokio::task::yield_now() => {}
            }
            if !server.requests().is_empty() {
                break;
            }
        }
    });
    server.wait_for_leaver();
}

#[test]
fn a_reader_ends_with_its_store() {
    let stored = Stored::new(2 * PART as usize);
    let server = Server::start(move |request| stored.answer(request).stall(10));
    let remote = server.remote();
    let reader = found(&remote, None).unwrap().into_reader();
    drop(remote);
    let error = read(reader).unwrap_err();
    assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
}

#[test]
fn a_query_is_sent_but_not_shown() {
    let server = Server::start(|_| Reply::new(500, "no"));
    let remote = server.web();
    let error = fetched(&remote, "a").unwrap_err();
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.target == "/store/a?sig=secret")
    );
    for text in [error.to_string(), remote.url(), remote.url_of(&name("a"))] {
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn redirects_are_followed() {
    let stored = Stored::new(10);
    let expected = stored.bytes.clone();
    let server = Server::start(move |request| match request.path().as_str() {
        "/store/a" => Reply::new(302, "").with("location", "/elsewhere"),
        _ => stored.answer(request),
    });
    assert_eq!(fetched(&server.web(), "a").unwrap(), expected);
}

#[test]
fn several_stores_on_one_server_are_separate() {
    let stored = Stored::new(10);
    let server = Server::start(move |request| stored.answer(request));
    let stores = [
        remote("s3://one", server.environment()),
        remote("s3://two/x", server.environment()),
    ];
    for store in &stores {
        fetched(store, "a").unwrap();
    }
    let paths: Vec<_> = server.requests().iter().map(TestRequest::path).collect();
    assert_eq!(paths, ["/one/a", "/two/x/a"]);
}
