//! Directories as stores.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use crate::store::testing::{fetched, name, read, remote, settings, wait};
use crate::store::{FoundModel, Remote, StoreError};

fn store() -> (TempDir, Remote) {
    let folder = tempfile::tempdir().unwrap();
    let remote = remote(folder.path().to_str().unwrap(), [("", "")]);
    (folder, remote)
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn error(remote: &Remote, text: &str) -> StoreError {
    wait(remote.find(&name(text), None)).err().unwrap()
}

#[test]
fn files_of_a_directory_are_objects() {
    let (folder, remote) = store();
    for text in ["a.tar.gz", "team=x/a b%20+.tar.gz", "\u{6a21}", "a\u{7f8e}#1"] {
        write(folder.path(), text, text);
        assert_eq!(fetched(&remote, text).unwrap(), text.as_bytes());
    }
    write(folder.path(), "empty", "");
    assert_eq!(fetched(&remote, "empty").unwrap(), b"");
}

#[test]
fn a_file_url_is_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a b/c", "content");
    let remote = remote(&format!("file://{}/a%20b", folder.path().display()), [("", "")]);
    assert_eq!(fetched(&remote, "c").unwrap(), b"content");
    assert_eq!(
        remote.url_of(&name("c")),
        folder.path().join("a b/c").display().to_string()
    );
}

#[test]
fn a_file_has_the_known_version_until_it_is_written() {
    let (folder, remote) = store();
    write(folder.path(), "a", "one");
    let FoundModel::Object(object) = wait(remote.find(&name("a"), None)).unwrap() else {
        panic!("it is not an object");
    };
    let known = object.version().clone();
    assert!(matches!(
        wait(remote.find(&name("a"), Some(&known))),
        Ok(FoundModel::Unchanged)
    ));
    write(folder.path(), "a", "other");
    assert!(matches!(
        wait(remote.find(&name("a"), Some(&known))),
        Ok(FoundModel::Object(_))
    ));
    // The file that was found is not the one that would be read now.
    assert!(matches!(read(object.into_reader()), Err(StoreError::Changed { .. })));
}

#[test]
fn a_write_during_the_read_is_an_error() {
    let (folder, remote) = store();
    write(folder.path(), "a", "one");
    let Ok(FoundModel::Object(object)) = wait(remote.find(&name("a"), None)) else {
        panic!("it is not an object");
    };
    let reader = object.into_reader();
    write(folder.path(), "a", "other");
    assert!(matches!(read(reader), Err(StoreError::Changed { .. })));
}

#[test]
fn a_file_that_is_replaced_during_the_read_is_read_to_its_end() {
    let (folder, remote) = store();
    write(folder.path(), "a", "one");
    let Ok(FoundModel::Object(object)) = wait(remote.find(&name("a"), None)) else {
        panic!("it is not an object");
    };
    let reader = object.into_reader();
    write(folder.path(), "b", "other");
    fs::rename(folder.path().join("b"), folder.path().join("a")).unwrap();
    assert_eq!(read(reader).unwrap(), b"one");
}

#[test]
fn folders_are_listed_and_confirmed() {
    let (folder, remote) = store();
    write(folder.path(), "m/model.onnx", "model");
    write(folder.path(), "m/data/x", "data");
    let Ok(FoundModel::Folder(found)) = wait(remote.find(&name("m"), None)) else {
        panic!("it is not a folder");
    };
    let names: Vec<_> = found.files().iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["data/x", "model.onnx"]);
    assert_eq!(read(found.reader(&found.files()[0])).unwrap(), b"data");
    wait(found.confirm()).unwrap();
    let known = found.version();
    assert!(matches!(
        wait(remote.find(&name("m"), Some(known))),
        Ok(FoundModel::Unchanged)
    ));
    write(folder.path(), "m/more", "more");
    assert!(matches!(wait(found.confirm()), Err(StoreError::Changed { .. })));
}

#[test]
fn links_are_followed_as_long_as_they_stay_inside() {
    let (folder, remote) = store();
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "secret");
    write(folder.path(), "..data/m/model.onnx", "model");
    symlink("..data/m", folder.path().join("m")).unwrap();
    symlink("m/model.onnx", folder.path().join("model")).unwrap();
    assert_eq!(fetched(&remote, "model").unwrap(), b"model");
    assert_eq!(fetched(&remote, "m/model.onnx").unwrap(), b"model");

    symlink(outside.path(), folder.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("file")).unwrap();
    fs::create_dir(folder.path().join("f")).unwrap();
    symlink("../../", folder.path().join("f/up")).unwrap();
    for text in ["out", "out/secret", "file", "f", "f/up"] {
        assert!(matches!(error(&remote, text), StoreError::Outside { .. }), "{text}");
    }
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    assert!(matches!(error(&remote, "dangling"), StoreError::NotFound { .. }));
}

#[test]
fn a_file_replaced_by_a_link_to_the_outside_is_not_read() {
    let (folder, remote) = store();
    write(folder.path(), "m/a", "one");
    let Ok(FoundModel::Folder(found)) = wait(remote.find(&name("m"), None)) else {
        panic!("it is not a folder");
    };
    fs::remove_file(folder.path().join("m/a")).unwrap();
    symlink("/etc/passwd", folder.path().join("m/a")).unwrap();
    assert!(matches!(
        read(found.reader(&found.files()[0])),
        Err(StoreError::Outside { .. })
    ));
}

#[test]
fn a_cycle_of_links_is_an_error() {
    let (folder, remote) = store();
    write(folder.path(), "m/a", "a");
    symlink(".", folder.path().join("m/again")).unwrap();
    assert!(matches!(error(&remote, "m"), StoreError::TooManyFiles { .. }));
    symlink("circle", folder.path().join("circle")).unwrap();
    assert!(matches!(error(&remote, "circle"), StoreError::Local { .. }));
}

#[test]
fn only_files_and_folders_are_found() {
    let (folder, remote) = store();
    let pipe = folder.path().join("m/pipe");
    fs::create_dir(folder.path().join("m")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    for text in ["m", "m/pipe"] {
        assert!(matches!(error(&remote, text), StoreError::Special { .. }), "{text}");
    }
    let long = "a".repeat(300);
    write(folder.path(), "file", "");
    for text in ["nothing", "file/below", long.as_str()] {
        assert!(matches!(error(&remote, text), StoreError::NotFound { .. }), "{text}");
    }
}

#[test]
fn an_empty_folder_is_not_found() {
    let (folder, remote) = store();
    fs::create_dir(folder.path().join("m")).unwrap();
    assert!(matches!(error(&remote, "m"), StoreError::NotFound { .. }));
}

#[test]
fn a_file_is_not_a_store() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = settings(file.path().to_str().unwrap(), [("", "")]);
    let message = Remote::open(&settings).err().unwrap().to_string();
    assert!(message.contains("make it a directory"), "{message}");
}
