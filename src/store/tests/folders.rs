//! Folders of files that are not packed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::testing::{PART, Reply, Server, Stored, name, page, read, wait};
use crate::store::{Folder, FoundModel, Remote, StoreError, Version};

/// A bucket with these objects, two on a page of the listing.
fn bucket(objects: Vec<(String, Stored)>) -> Server {
    Server::start(move |request| {
        let Some(prefix) = request.parameter("prefix") else {
            let path = request.path();
            let stored = objects.iter().find(|(key, _)| format!("/bucket/{key}") == path);
            return stored.map_or_else(|| Reply::error(404, "NoSuchKey"), |(_, stored)| stored.answer(request));
        };
        let start = request
            .parameter("continuation-token")
            .map_or(0, |token| token.parse().unwrap());
        let below: Vec<_> = objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(key, stored)| (key.as_str(), stored))
            .collect();
        let end = below.len().min(start + 2);
        let next = (end < below.len()).then(|| end.to_string());
        page(&below[start..end], next.as_deref())
    })
}

fn with(keys: &[(&str, usize)]) -> Server {
    bucket(
        keys.iter()
            .map(|(key, bytes)| ((*key).to_owned(), Stored::new(*bytes)))
            .collect(),
    )
}

fn found(remote: &Remote, known: Option<&Version>) -> Result<Option<Folder>, StoreError> {
    match wait(remote.find(&name("m"), known))? {
        FoundModel::Folder(folder) => Ok(Some(folder)),
        FoundModel::Unchanged => Ok(None),
        FoundModel::Object(_) => panic!("it is an object"),
    }
}

#[test]
fn a_folder_is_found_where_there_is_no_object() {
    let large = 2 * PART as usize + 500;
    let server = with(&[
        ("store/m/", 0),
        ("store/m/model.onnx", large),
        ("store/m/data/", 0),
        ("store/m/data/a b%.bin", 10),
        ("store/m/empty", 0),
        ("store/mother", 10),
    ]);
    let remote = server.remote();
    let folder = found(&remote, None).unwrap().unwrap();
    let files: Vec<_> = folder
        .files()
        .iter()
        .map(|file| (file.name.as_str(), file.bytes))
        .collect();
    assert_eq!(
        files,
        [("data/a b%.bin", 10), ("empty", 0), ("model.onnx", large as u64)]
    );
    assert_eq!(folder.bytes(), large as u64 + 10);
    for file in folder.files() {
        let bytes = read(folder.reader(file)).unwrap();
        assert!(bytes == Stored::new(file.bytes as usize).bytes, "{}", file.name);
    }
    wait(folder.confirm()).unwrap();
    assert!(found(&remote, Some(folder.version())).unwrap().is_none());
}

#[test]
fn changed_files_are_noticed_by_the_read_and_by_the_confirmation() {
    let changed = Arc::new(AtomicBool::new(false));
    let seen = changed.clone();
    let server = Server::start(move |request| {
        let mut stored = Stored::new(10);
        if seen.load(Ordering::SeqCst) {
            stored.tag = Some("\"two\"".to_owned());
        }
        match (request.parameter("prefix"), request.path().as_str()) {
            (Some(_), _) => page(&[("store/m/a", &stored)], None),
            (None, "/bucket/store/m/a") => stored.answer(request),
            _ => Reply::error(404, "NoSuchKey"),
        }
    });
    let remote = server.remote();
    let folder = found(&remote, None).unwrap().unwrap();
    changed.store(true, Ordering::SeqCst);
    let error = read(folder.reader(&folder.files()[0])).unwrap_err();
    assert!(matches!(error, StoreError::Changed { .. }), "{error:?}");
    let error = wait(folder.confirm()).unwrap_err();
    assert!(matches!(error, StoreError::Changed { .. }), "{error:?}");
    assert!(found(&remote, Some(folder.version())).unwrap().is_some());
}

#[test]
fn a_folder_without_files_is_not_found() {
    for keys in [&[("store/m/", 0)][..], &[("store/mother", 1)], &[]] {
        let error = found(&with(keys).remote(), None).err().unwrap();
        let url = "s3://bucket/store/m".to_owned();
        assert_eq!(error, StoreError::NotFound { url });
    }
}

#[test]
fn a_folder_that_may_not_be_listed_is_not_found() {
    let server = Server::start(|request| match request.parameter("prefix") {
        Some(_) => Reply::error(403, "AccessDenied"),
        None => Reply::error(404, "NoSuchKey"),
    });
    let error = found(&server.remote(), None).err().unwrap();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
}

#[test]
fn folders_are_limited_and_their_names_are_checked() {
    let many: Vec<_> = (0..11)
        .map(|index| (format!("store/m/{index}"), Stored::new(1)))
        .collect();
    let server = bucket(many);
    let error = found(&server.remote(), None).err().unwrap();
    assert!(matches!(error, StoreError::TooManyFiles { limit: 10, .. }), "{error:?}");
    let large = [("store/m/a", 60_000), ("store/m/b", 60_000)];
    let error = found(&with(&large).remote(), None).err().unwrap();
    assert!(
        matches!(error, StoreError::TooLarge { limit: 100_000, .. }),
        "{error:?}"
    );
    let error = found(&with(&[("store/m/a\\..\\b", 1)]).remote(), None).err().unwrap();
    assert!(matches!(error, StoreError::FileName { .. }), "{error:?}");
    for key in ["store/m/../../x", "store/m//x", "store/m/./x"] {
        let error = found(&with(&[(key, 1)]).remote(), None).err().unwrap();
        assert!(matches!(error, StoreError::InvalidResponse { .. }), "{error:?}");
    }
}

#[test]
fn a_failed_listing_is_retried() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let stored = Stored::new(1);
    let server = Server::start(move |request| match request.parameter("prefix") {
        Some(_) => match count.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::error(503, "SlowDown"),
            1 => page(&[("store/m/a", &stored)], None).cut(20),
            _ => page(&[("store/m/a", &stored)], None),
        },
        None => Reply::error(404, "NoSuchKey"),
    });
    assert_eq!(found(&server.remote(), None).unwrap().unwrap().files().len(), 1);
    assert_eq!(server.requests().len(), 4);
}
