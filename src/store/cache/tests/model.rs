//! The cache against a reference model, and under concurrent threads.

use super::*;

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
