//! Tests of the cache. `crashes` and `model` have those of its promises as a whole.

mod crashes;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::SystemTime;

use proptest::prelude::*;
use tempfile::TempDir;

use super::description::{EntryDescription, OVERHEAD, weigh};
use super::*;
use crate::disk_cache::CacheFolder;

/// Bytes of an entry with one block of content.
const SMALL: u64 = OVERHEAD + 2 * 4096;

const ROOMY: u64 = 1 << 30;

fn version(text: &str) -> Version {
    Version::from(text.to_owned())
}

/// Opens the first number in `folder` again, which this process had before. A child process that
/// another test starts inherits all open files, and so the lock, until it executes its program.
fn open_again(folder: &Path, bound: u64) -> DiskCache {
    loop {
        let cache = DiskCache::open(folder, bound).unwrap();
        if cache.shared.bucket.folder().ends_with("archives-0") {
            return cache;
        }
        drop(cache);
        std::thread::yield_now();
    }
}

/// Keeps an entry whose files name its URL and version, and take `blocks`.
fn keep(cache: &DiskCache, url: &str, tag: &str, blocks: u64) -> Lease {
    let unfinished = cache.begin().unwrap();
    fill(&unfinished, url, tag, blocks);
    cache.keep(url, &version(tag), unfinished).unwrap()
}

fn fill(unfinished: &Unfinished, url: &str, tag: &str, blocks: u64) {
    let mut content = format!("{url} {tag}").into_bytes();
    content.resize(usize::try_from(blocks * 4096).unwrap(), b'.');
    fs::write(unfinished.path().join("model.onnx"), content).unwrap();
}

#[track_caller]
fn assert_whole(lease: &Lease, url: &str, tag: &str) {
    let content = fs::read_to_string(lease.path().join("model.onnx")).unwrap();
    assert!(content.starts_with(&format!("{url} {tag}.")), "{url} {tag}");
    assert_eq!(lease.version(), &version(tag));
}

/// The folders of the entries in the cache, after all jobs are done.
fn entries(cache: &DiskCache) -> BTreeSet<PathBuf> {
    cache.shared.janitor.wait();
    let entries = fs::read_dir(cache.shared.bucket.folder().join(bucket::FORMAT))
        .into_iter()
        .flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| !path.to_str().unwrap().contains("unfinished-"))
        .collect()
}

/// The measured size of the entries on disk.
fn on_disk(cache: &DiskCache) -> u64 {
    let entries = entries(cache);
    entries
        .iter()
        .map(|entry| weigh(&bucket::content(entry)).unwrap())
        .sum()
}

#[test]
fn an_entry_is_found_until_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    assert!(cache.get("a").is_none());
    let lease = keep(&cache, "a", "1", 1);
    assert!(lease.checked().is_some());
    assert_whole(&cache.get("a").unwrap(), "a", "1");
    let expected = Usage {
        bytes: SMALL,
        entries: 1,
        leased: SMALL,
    };
    assert_eq!(cache.usage(), expected);
    cache.forget("a");
    cache.forget("b");
    assert!(cache.get("a").is_none());
    assert_whole(&lease, "a", "1");
    drop(lease);
    assert_eq!(entries(&cache).len(), 0);
    let expected = Usage {
        bytes: 0,
        entries: 0,
        leased: 0,
    };
    assert_eq!(cache.usage(), expected);
}

#[test]
fn clear_idle_removes_entries_without_leases_only() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    let used = keep(&cache, "used", "1", 1);
    for url in ["a", "b"] {
        drop(keep(&cache, url, "1", 1));
    }
    assert!(cache.clear_idle());
    assert_eq!(entries(&cache).len(), 1);
    assert!(cache.get("a").is_none());
    assert_whole(&cache.get("used").unwrap(), "used", "1");
    assert!(!cache.clear_idle());
    drop(used);
    assert!(cache.clear_idle());
    assert_eq!(entries(&cache).len(), 0);
}

#[test]
fn a_new_version_replaces_the_old_one_which_goes_with_its_last_lease() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    let first = keep(&cache, "a", "1", 1);
    let again = first.clone();
    let other = cache.get("a").unwrap();
    let second = keep(&cache, "a", "2", 1);
    assert_whole(&cache.get("a").unwrap(), "a", "2");
    drop((first, other));
    assert_whole(&again, "a", "1");
    assert_eq!(entries(&cache).len(), 2);
    drop(again);
    assert_eq!(entries(&cache).len(), 1);
    // The same version again, while it is in use.
    let third = keep(&cache, "a", "2", 2);
    assert_ne!(second.path(), third.path());
    assert_whole(&second, "a", "2");
    assert_whole(&third, "a", "2");
    drop(second);
    assert_eq!(entries(&cache).len(), 1);
    assert_whole(&cache.get("a").unwrap(), "a", "2");
}

#[test]
fn the_least_recently_used_entry_is_evicted_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 3 * SMALL).unwrap();
    for url in ["a", "b", "c"] {
        keep(&cache, url, "1", 1);
    }
    drop(cache.get("a"));
    let b = cache.get("b").unwrap();
    keep(&cache, "d", "1", 1);
    keep(&cache, "e", "1", 1);
    let found = |url| cache.get(url).is_some();
    assert_eq!(["a", "b", "c", "d", "e"].map(found), [false, true, false, true, true]);
    assert_whole(&b, "b", "1");
    assert_eq!(on_disk(&cache), 3 * SMALL);
}

#[test]
fn an_entry_over_the_limit_stays_as_long_as_it_is_leased() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 2 * SMALL).unwrap();
    keep(&cache, "small", "1", 1);
    let large = keep(&cache, "large", "1", 100);
    assert_whole(&cache.get("large").unwrap(), "large", "1");
    assert!(cache.get("small").is_none(), "there is no room for both");
    drop(large);
    assert!(cache.get("large").is_none());
    assert_eq!(on_disk(&cache), 0);
    // Each on its own is within the limit.
    let all = ["a", "b", "c"].map(|url| keep(&cache, url, "1", 1));
    for url in ["a", "b", "c"] {
        assert_whole(&cache.get(url).unwrap(), url, "1");
    }
    assert_eq!(on_disk(&cache), 3 * SMALL);
    drop(all);
    assert_eq!(on_disk(&cache), 2 * SMALL);
    assert_eq!(cache.usage().bytes, 2 * SMALL);
}

#[test]
fn a_limit_of_zero_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 0).unwrap();
    let lease = keep(&cache, "a", "1", 1);
    assert_whole(&lease, "a", "1");
    drop(lease);
    assert_eq!(on_disk(&cache), 0);
    assert!(cache.get("a").is_none());
}

#[test]
fn an_abandoned_folder_is_gone_before_the_next_one_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    let unfinished = cache.begin().unwrap();
    fill(&unfinished, "a", "1", 1);
    let path = unfinished.path().to_owned();
    drop(unfinished);
    let next = cache.begin().unwrap();
    assert!(!path.exists() && next.path().is_dir());
    // Also after the cache has ended.
    let last = cache.begin().unwrap();
    drop(cache);
    drop(last);
    drop(next);
    assert_eq!(fs::read_dir(folder.path().join("archives-0/v3")).unwrap().count(), 0);
}

#[test]
fn files_that_the_cache_did_not_make_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("precious"), "x").unwrap();
    fs::write(folder.path().join("note"), "x").unwrap();
    fs::create_dir(folder.path().join("prepared")).unwrap();
    drop(DiskCache::open(folder.path(), ROOMY).unwrap().begin().unwrap());
    let entries = folder.path().join("archives-0/v3");
    symlink(elsewhere.path(), entries.join("removed-link")).unwrap();
    symlink(elsewhere.path(), entries.join("link")).unwrap();
    symlink(elsewhere.path(), folder.path().join("archives-0/v0")).unwrap();
    fs::create_dir(entries.join("stray")).unwrap();
    symlink(elsewhere.path(), entries.join("stray/link")).unwrap();
    drop(open_again(folder.path(), ROOMY));
    assert_eq!(fs::read_dir(&entries).unwrap().count(), 0);
    assert!(!folder.path().join("archives-0/v0").is_symlink());
    assert!(elsewhere.path().join("precious").exists());
    assert!(folder.path().join("note").exists() && folder.path().join("prepared").is_dir());
}

#[test]
fn a_lower_limit_keeps_the_most_recently_used_entries() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    for (url, age) in [("a", 10), ("b", 30), ("c", 0), ("d", 20)] {
        let lease = keep(&cache, url, "1", 1);
        used(&lease, age);
    }
    drop(cache);
    let cache = open_again(folder.path(), 2 * SMALL + 1000);
    assert_eq!(on_disk(&cache), 2 * SMALL);
    assert_eq!(cache.usage().bytes, 2 * SMALL);
    let found = |url| cache.get(url).is_some();
    assert_eq!(["a", "b", "c", "d"].map(found), [true, false, true, false]);
}

/// Sets the recorded time of an entry's last use to `age` seconds ago.
fn used(lease: &Lease, age: u64) {
    let time = SystemTime::now() - Duration::from_secs(age);
    let description = File::open(lease.path().with_file_name("entry.json")).unwrap();
    description.set_modified(time).unwrap();
}

#[test]
fn the_last_use_is_recorded_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    let lease = keep(&cache, "a", "1", 1);
    let path = lease.path().with_file_name("entry.json");
    let age = || {
        cache.shared.janitor.wait();
        fs::metadata(&path)
            .unwrap()
            .modified()
            .unwrap()
            .elapsed()
            .unwrap_or_default()
    };
    used(&lease, 1000);
    drop(cache.get("a"));
    assert!(
        age() >= Duration::from_secs(1000),
        "not so soon after the entry was kept"
    );
    *lock(&lease.0.entry.touched) -= 2 * TOUCH_INTERVAL;
    drop(cache.get("a"));
    assert!(age() < Duration::from_secs(1000));
}

#[test]
fn entries_deleted_by_another_program_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    drop(keep(&cache, "a", "1", 1));
    drop(keep(&cache, "b", "1", 1));
    let entry = cache.get("a").unwrap().path().parent().unwrap().to_owned();
    fs::remove_dir_all(entry).unwrap();
    assert!(cache.get("a").is_none());
    assert_whole(&cache.get("b").unwrap(), "b", "1");
    assert_eq!(on_disk(&cache), SMALL);
    assert_eq!(cache.usage().bytes, SMALL);
    assert_eq!(cache.usage().entries, 1);
    // The whole folder.
    fs::remove_dir_all(folder.path()).unwrap();
    assert!(cache.get("b").is_none());
    let lease = keep(&cache, "b", "2", 1);
    assert_whole(&lease, "b", "2");
    assert_eq!(cache.usage().bytes, SMALL);
    let other = DiskCache::open(folder.path(), ROOMY).unwrap();
    assert_ne!(other.shared.bucket.folder(), cache.shared.bucket.folder());
}

#[test]
fn a_number_that_another_process_has_claimed_meanwhile_is_not_shared() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), ROOMY).unwrap();
    fs::remove_dir_all(folder.path().join("archives-0")).unwrap();
    let other = DiskCache::open(folder.path(), ROOMY).unwrap();
    let error = cache.begin().unwrap_err();
    assert!(matches!(error, DiskCacheError::Lost { .. }), "{error}");
    drop(other);
    assert!(cache.begin().is_ok());
}

#[test]
fn processes_that_share_a_folder_have_numbers_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let first = DiskCache::open(folder.path(), ROOMY).unwrap();
    drop(keep(&first, "a", "1", 1));
    let second = DiskCache::open(folder.path(), ROOMY).unwrap();
    assert!(second.get("a").is_none());
    drop(keep(&second, "a", "2", 1));
    drop(first);
    let third = open_again(folder.path(), ROOMY);
    assert_whole(&third.get("a").unwrap(), "a", "1");
    assert_whole(&second.get("a").unwrap(), "a", "2");
}

#[test]
fn a_folder_that_cannot_be_used_is_refused_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DiskCache::open(&file, ROOMY).unwrap_err();
    assert!(
        matches!(error, DiskCacheError::Folder(FolderError::Unusable { .. })),
        "{error}"
    );
    let error = DiskCache::open(Path::new("/proc/self"), ROOMY).unwrap_err();
    assert!(
        matches!(error, DiskCacheError::Folder(FolderError::Unusable { .. })),
        "{error}"
    );
    let place = folder.path().join("archives-0");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let error = DiskCache::open(folder.path(), ROOMY).unwrap_err();
    assert!(
        matches!(error, DiskCacheError::Folder(FolderError::NotOurs { .. })),
        "{error}"
    );
    fs::remove_dir(&place).unwrap();
    symlink("/tmp", &place).unwrap();
    let error = DiskCache::open(folder.path(), ROOMY).unwrap_err();
    assert!(
        matches!(error, DiskCacheError::Folder(FolderError::NotOurs { .. })),
        "{error}"
    );
}
