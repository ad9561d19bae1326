//! The cache against a reference model, against crashes, and under concurrent threads.

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

#[derive(Debug, Clone)]
enum Step {
    /// The URL, and its number of blocks.
    Keep(usize, u64),
    Get(usize),
    /// One of the current leases.
    Drop(prop::sample::Index),
    Forget(usize),
    /// Begins a folder that is not finished.
    Begin,
    GiveUp,
    /// Reopens the cache with a limit of so many blocks.
    Reopen(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0usize..6, 0u64..12).prop_map(|(url, blocks)| Step::Keep(url, blocks + 1)),
        5 => (0usize..6).prop_map(Step::Get),
        7 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (0usize..6).prop_map(Step::Forget),
        1 => Just(Step::Begin),
        1 => Just(Step::GiveUp),
        1 => (0u64..50).prop_map(Step::Reopen),
    ]
}

/// The reference model of the cache.
#[derive(Default)]
struct ReferenceModel {
    bound: u64,
    /// Tag and bytes by URL.
    found: BTreeMap<usize, (u64, u64)>,
    /// URLs of entries without leases, the least recently used first.
    idle: Vec<usize>,
    /// URLs in the order in which they were kept.
    kept: Vec<usize>,
}

impl ReferenceModel {
    fn evict(&mut self) {
        while self.found.values().map(|(_, bytes)| bytes).sum::<u64>() > self.bound && !self.idle.is_empty() {
            let url = self.idle.remove(0);
            self.found.remove(&url);
        }
    }

    fn forget(&mut self, url: usize) {
        self.found.remove(&url);
        self.idle.retain(|idle| *idle != url);
    }
}

struct Held {
    url: usize,
    tag: u64,
    lease: Lease,
}

/// Drops a lease.
fn release(held: &mut Vec<Held>, at: usize, expected: &mut ReferenceModel) {
    let Held { url, tag, lease } = held.swap_remove(at);
    drop(lease);
    let is_last = held.iter().all(|held| held.tag != tag);
    if is_last && expected.found.get(&url).is_some_and(|found| found.0 == tag) {
        expected.idle.push(url);
        expected.evict();
    }
}

#[track_caller]
fn assert_as_expected(cache: &DiskCache, expected: &ReferenceModel, held: &[Held]) {
    for Held { url, tag, lease } in held {
        assert_whole(lease, &url.to_string(), &tag.to_string());
    }
    let usage = cache.usage();
    let on_disk = on_disk(cache);
    assert_eq!(cache.usage().bytes, on_disk);
    assert_eq!(usage.entries, expected.found.len() as u64);
    let leased: BTreeMap<&Path, u64> = held
        .iter()
        .map(|held| (held.lease.path(), held.lease.0.entry.bytes))
        .collect();
    let leased: u64 = leased.values().sum();
    assert_eq!(usage.leased, leased);
    assert!(on_disk <= expected.bound + leased, "{on_disk} with {leased} leased");
    // These folders exist, and no others.
    let mut paths: BTreeSet<PathBuf> = held
        .iter()
        .map(|held| held.lease.path().parent().unwrap().to_owned())
        .collect();
    for (url, (tag, _)) in &expected.found {
        let index = lock(&cache.shared.index).peek(&url.to_string()).unwrap();
        assert_eq!(index.version, version(&tag.to_string()), "{url}");
        paths.insert(index.folder.clone());
    }
    assert_eq!(entries(cache), paths);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_cache_behaves_as_its_reference_model(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = ReferenceModel { bound: 30 * 4096, ..ReferenceModel::default() };
        let mut cache = DiskCache::open(folder.path(), expected.bound).unwrap();
        let mut held: Vec<Held> = Vec::new();
        let mut unfinished = Vec::new();
        let base = SystemTime::now() - Duration::from_secs(100_000);
        for (tag, step) in (0u64..).zip(steps) {
            match step {
                Step::Keep(url, blocks) => {
                    let lease = keep(&cache, &url.to_string(), &tag.to_string(), blocks);
                    let description = File::open(lease.path().with_file_name("entry.json")).unwrap();
                    description.set_modified(base + Duration::from_secs(tag)).unwrap();
                    expected.forget(url);
                    expected.kept.retain(|kept| *kept != url);
                    expected.kept.push(url);
                    expected.found.insert(url, (tag, OVERHEAD + (1 + blocks) * 4096));
                    expected.evict();
                    held.push(Held { url, tag, lease });
                }
                Step::Get(url) => {
                    let lease = cache.get(&url.to_string());
                    prop_assert_eq!(lease.is_some(), expected.found.contains_key(&url));
                    if let Some(lease) = lease {
                        let tag = expected.found[&url].0;
                        expected.idle.retain(|idle| *idle != url);
                        held.push(Held { url, tag, lease });
                    }
                }
                Step::Drop(index) if !held.is_empty() => {
                    let at = index.index(held.len());
                    release(&mut held, at, &mut expected);
                }
                Step::Drop(_) => {}
                Step::Forget(url) => {
                    cache.forget(&url.to_string());
                    expected.forget(url);
                }
                Step::Begin => {
                    let begun = cache.begin().unwrap();
                    fill(&begun, "x", "x", 3);
                    unfinished.push(begun);
                }
                Step::GiveUp => drop(unfinished.pop()),
                Step::Reopen(blocks) => {
                    while !held.is_empty() {
                        release(&mut held, 0, &mut expected);
                    }
                    unfinished.clear();
                    drop(cache);
                    expected.bound = blocks * 4096;
                    cache = open_again(folder.path(), expected.bound);
                    expected.idle = expected.kept.clone();
                    expected.idle.retain(|url| expected.found.contains_key(url));
                    // Entries that exceed the limit on their own go before the order matters.
                    let bound = expected.bound;
                    expected.found.retain(|_, (_, bytes)| *bytes <= bound);
                    expected.idle.retain(|url| expected.found.contains_key(url));
                    expected.evict();
                }
            }
            assert_as_expected(&cache, &expected, &held);
        }
    }
}

#[test]
fn concurrent_threads_find_whole_entries_only() {
    const THREADS: u64 = 8;
    const STEPS: u64 = 150;
    let folder = tempfile::tempdir().unwrap();
    let bound = 4 * SMALL;
    let cache = DiskCache::open(folder.path(), bound).unwrap();
    let work = |thread: u64| {
        let mut state = thread + 1;
        let mut held: Vec<(String, String, Lease)> = Vec::new();
        for step in 0..STEPS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = state >> 33;
            let url = (random % 7).to_string();
            match random / 7 % 8 {
                0..3 => {
                    let tag = format!("{thread} {step}");
                    let lease = keep(&cache, &url, &tag, 1 + random % 3);
                    held.push((url, tag, lease));
                }
                3..7 => {
                    if let Some(lease) = cache.get(&url) {
                        let tag = lease.version().to_string();
                        held.push((url, tag, lease));
                    }
                }
                _ => cache.forget(&url),
            }
            for (url, tag, lease) in &held {
                assert_whole(lease, url, tag);
            }
            if held.len() > 3 {
                held.remove(0);
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
    });
    let usage = cache.usage();
    assert_eq!(usage.leased, 0);
    let on_disk = on_disk(&cache);
    assert!(on_disk <= bound, "{on_disk}");
    assert_eq!(cache.usage().bytes, on_disk);
    assert_eq!(entries(&cache).len() as u64, usage.entries);
}
