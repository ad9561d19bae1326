//! The entries that a process finds after another one was killed, or after they were changed.

use super::*;

/// A copy of `folder`, as another process would find it.
fn copied(folder: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&to).unwrap();
                let mode = entry.metadata().unwrap().permissions();
                fs::set_permissions(&to, mode).unwrap();
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(folder, to.path());
    to
}

/// The versions of `urls` that the next process finds when this one is killed now.
fn after_crash(folder: &Path, urls: &[&str]) -> Vec<Option<String>> {
    let copy = copied(folder);
    let cache = DiskCache::open(copy.path(), ROOMY).unwrap();
    let found: Vec<_> = urls
        .iter()
        .map(|url| {
            let lease = cache.get(url)?;
            assert_whole(&lease, url, &lease.version().to_string());
            assert_eq!(lease.checked(), None);
            Some(lease.version().to_string())
        })
        .collect();
    // Everything other than the entries was removed.
    assert_eq!(cache.usage().bytes, on_disk(&cache));
    assert_eq!(entries(&cache).len(), found.iter().flatten().count());
    let left = fs::read_dir(copy.path().join("archives-0/v3")).into_iter().flatten();
    assert_eq!(left.count(), found.iter().flatten().count());
    found
}

#[test]
fn a_crash_leaves_whole_entries_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let cache = DiskCache::open(root, ROOMY).unwrap();
    let some = |version: &str| Some(version.to_owned());
    drop(keep(&cache, "a", "1", 1));
    assert_eq!(after_crash(root, &["a", "b"]), [some("1"), None]);
    let unfinished = cache.begin().unwrap();
    assert_eq!(after_crash(root, &["a", "b"]), [some("1"), None]);
    fill(&unfinished, "b", "1", 1);
    assert_eq!(after_crash(root, &["a", "b"]), [some("1"), None]);
    let b = cache.keep("b", &version("1"), unfinished).unwrap();
    assert_eq!(after_crash(root, &["a", "b"]), [some("1"), some("1")]);
    // Still in use, but not to be found.
    drop(keep(&cache, "b", "2", 1));
    cache.shared.janitor.wait();
    assert_eq!(after_crash(root, &["a", "b"]), [some("1"), some("2")]);
    cache.forget("b");
    cache.shared.janitor.wait();
    assert_eq!(after_crash(root, &["a", "b"]), [some("1"), None]);
    drop(b);
    // A crash during its removal.
    let entry = entries(&cache).pop_first().unwrap();
    fs::remove_file(entry.join("entry.json")).unwrap();
    assert_eq!(after_crash(root, &["a"]), [None]);
}

#[test]
fn the_newer_of_two_versions_is_found_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    let old = keep(&cache, "a", "1", 1);
    let description = old.path().with_file_name("entry.json");
    let text = fs::read(&description).unwrap();
    let new = keep(&cache, "a", "2", 1);
    cache.shared.janitor.wait();
    fs::write(description, text).unwrap();
    assert_eq!(after_crash(folder.path(), &["a"]), [Some("2".to_owned())]);
    drop((old, new));
}

/// Changes the only entry of a cache, and returns whether it is still found.
fn found_after(change: impl FnOnce(&Path)) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    drop(keep(&cache, "a", "1", 1));
    let entry = entries(&cache).pop_first().unwrap();
    drop(cache);
    change(&entry);
    after_crash(folder.path(), &["a"]) == [Some("1".to_owned())]
}

fn boot_of_yesterday(entry: &Path) {
    let path = entry.join("entry.json");
    let mut description = EntryDescription::read(&path).unwrap();
    description.boot = Some("yesterday".to_owned());
    fs::remove_file(&path).unwrap();
    description.write(&path).unwrap();
    // The name that an entry with this description has.
    let folder = CacheFolder::open(entry.ancestors().nth(2).unwrap()).unwrap();
    let name = description.name(&folder).unwrap();
    fs::rename(entry, entry.with_file_name(name)).unwrap();
}

#[test]
fn a_changed_entry_is_not_trusted() {
    assert!(found_after(|_| {}));
    assert!(!found_after(|entry| fs::write(entry.join("entry.json"), "{").unwrap()));
    assert!(!found_after(|entry| fs::remove_file(entry.join("entry.json")).unwrap()));
    assert!(!found_after(|entry| fs::remove_dir_all(entry.join("content")).unwrap()));
    assert!(!found_after(
        |entry| fs::remove_file(entry.join("content/model.onnx")).unwrap()
    ));
    assert!(!found_after(|entry| fs::write(entry.join("content/more"), "x").unwrap()));
    assert!(!found_after(
        |entry| fs::rename(entry, entry.with_file_name("0-0-0")).unwrap()
    ));
}

#[test]
fn an_entry_made_without_the_key_is_not_trusted() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = DiskCache::open(theirs.path(), ROOMY).unwrap();
    drop(keep(&cache, "a", "1", 1));
    let entry = entries(&cache).pop_first().unwrap();
    drop((cache, DiskCache::open(ours.path(), ROOMY).unwrap()));
    let entries = ours.path().join("archives-0/v3");
    fs::create_dir_all(&entries).unwrap();
    fs::rename(&entry, entries.join(entry.file_name().unwrap())).unwrap();
    assert!(DiskCache::open(ours.path(), ROOMY).unwrap().get("a").is_none());
    assert_eq!(fs::read_dir(&entries).unwrap().count(), 0, "it is removed");
}

#[test]
fn after_a_reboot_only_settled_entries_are_trusted() {
    assert!(!found_after(boot_of_yesterday));
    assert!(found_after(|entry| {
        bucket::settle(entry).unwrap();
        boot_of_yesterday(entry);
    }));
}
