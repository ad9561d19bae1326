mod constants;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::engine::load::axes::Axes;
use crate::private::Key;

const PLENTY: u64 = 1 << 20;

fn content(index: u64) -> ContentHash {
    ContentHash::parse(&blake3::hash(&index.to_le_bytes()).to_hex()).unwrap()
}

fn findings(prepared: bool) -> Findings {
    Findings {
        prepared,
        constants: None,
        copies: 0,
        private: 1,
        growth: 0,
        mapped: 0,
        load_peak: 2,
        run_peak: Some(3),
        axes: Axes::unknown("a test"),
        independent_rows: None,
        rows: Vec::new(),
    }
}

const FACTS: Facts = Facts {
    weights: 4,
    widened: 0,
    large: 0,
    largest: 0,
    has_trees: false,
    has_unbounded_work: true,
    has_known_sizes: false,
};

/// The platform of this machine with the given build of ONNX Runtime.
fn platform(build: &str) -> Platform {
    Platform::here(build, None, String::new())
}

fn open(folder: &Path, limit: u64) -> PreparedCache {
    PreparedCache::open(folder, limit, &platform("build"), None).unwrap()
}

/// Keeps a prepared form with these `bytes`.
fn keep(cache: &PreparedCache, index: u64, bytes: &[u8]) -> Prepared {
    let unfinished = cache.unfinished(false).unwrap();
    fs::write(unfinished.file.path(), bytes).unwrap();
    cache.keep(&content(index), true, Some(unfinished), findings(true), FACTS)
}

#[track_caller]
fn assert_holds(prepared: Option<&Prepared>, bytes: &[u8]) {
    let prepared = prepared.unwrap();
    assert_eq!(fs::read(prepared.file.as_ref().unwrap()).unwrap(), bytes);
    assert_eq!((&prepared.findings, prepared.facts), (&findings(true), FACTS));
}

/// Total size of all files in `folder` except its key, and their names.
fn contents(folder: &Path) -> (u64, Vec<String>) {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let entries: Vec<_> = entries.filter(|entry| entry.file_name() != Key::FILE).collect();
    let bytes = entries.iter().map(|entry| entry.metadata().unwrap().len()).sum();
    let names = entries
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    (bytes, names.collect())
}

#[test]
fn a_kept_model_is_found_by_all_caches_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    assert_eq!(cache.find(&content(1)), None);
    let kept = keep(&cache, 1, b"model");
    assert_holds(Some(&kept), b"model");
    let other = open(folder.path(), PLENTY);
    for cache in [&cache, &other] {
        assert_eq!(cache.find(&content(1)).as_ref(), Some(&kept));
        assert_eq!(cache.find(&content(2)), None);
    }
    keep(&other, 2, b"another");
    assert_holds(cache.find(&content(2)).as_ref(), b"another");
    // The folder holds complete entries only.
    let (_, names) = contents(folder.path());
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
}

#[test]
fn findings_are_kept_even_without_a_prepared_form() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    let unfinished = cache.unfinished(false).unwrap();
    // A form whose answers differ from the model's is not kept.
    fs::write(unfinished.file.path(), "wrong").unwrap();
    let kept = cache.keep(&content(1), true, Some(unfinished), findings(false), FACTS);
    assert_eq!(kept.file, None);
    assert_eq!(open(folder.path(), PLENTY).find(&content(1)), Some(kept));
    assert_eq!(contents(folder.path()).1.len(), 1);
}

#[test]
fn an_entrys_name_depends_on_content_build_and_processor() {
    let folder = tempfile::tempdir().unwrap();
    keep(&open(folder.path(), PLENTY), 1, b"model");
    let another_build = PreparedCache::open(folder.path(), PLENTY, &platform("another build"), None).unwrap();
    assert_eq!(another_build.find(&content(1)), None);
    let mut another_processor = open(folder.path(), PLENTY);
    another_processor.platform.push_str(" avx1024");
    assert_eq!(another_processor.find(&content(1)), None);
    // Their entries do not disturb each other.
    keep(&another_build, 1, b"of another build");
    assert_holds(open(folder.path(), PLENTY).find(&content(1)).as_ref(), b"model");
}

#[test]
fn a_damaged_entry_is_not_found_and_can_be_prepared_again() {
    type Harm = fn(&Path, &Path);
    let table: [(&str, Harm); 13] = [
        ("model gone", |ort, _| fs::remove_file(ort).unwrap()),
        ("description gone", |_, json| fs::remove_file(json).unwrap()),
        ("both gone", |ort, json| {
            [ort, json].map(fs::remove_file).into_iter().for_each(Result::unwrap)
        }),
        ("model emptied", |ort, _| fs::write(ort, "").unwrap()),
        ("description emptied", |_, json| fs::write(json, "").unwrap()),
        ("model cut", |ort, _| fs::write(ort, "mode").unwrap()),
        ("model longer", |ort, _| fs::write(ort, "modell").unwrap()),
        ("model flipped", |ort, _| fs::write(ort, "molel").unwrap()),
        ("description cut", |_, json| {
            let text = fs::read(json).unwrap();
            fs::write(json, &text[..text.len() - 1]).unwrap();
        }),
        ("description of another", |_, json| fs::write(json, "{}").unwrap()),
        ("description changed", |_, json| {
            let text = fs::read_to_string(json)
                .unwrap()
                .replace("\"private\":1", "\"private\":9");
            fs::write(json, text).unwrap();
        }),
        ("description not a text", |_, json| {
            fs::write(json, [0xff; 300]).unwrap()
        }),
        ("model a folder", |ort, _| {
            fs::remove_file(ort).unwrap();
            fs::create_dir(ort).unwrap();
        }),
    ];
    for (name, harm) in table {
        // By a process that has checked the file before, and by one that has not.
        for is_restarted in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut cache = open(folder.path(), PLENTY);
            let ort = keep(&cache, 1, b"model").file.unwrap();
            keep(&cache, 2, b"neighbour");
            assert!(cache.find(&content(1)).is_some());
            harm(&ort, &ort.with_extension("json"));
            if is_restarted {
                cache = open(folder.path(), PLENTY);
            }
            assert_eq!(cache.find(&content(1)), None, "{name}");
            assert_holds(cache.find(&content(2)).as_ref(), b"neighbour");
            if name == "model a folder" {
                // The folder cannot be replaced by a file, so nothing is kept.
                assert_eq!(keep(&cache, 1, b"model").file, None, "{name}");
                assert_eq!(cache.find(&content(1)), None, "{name}");
            } else {
                assert_holds(Some(&keep(&cache, 1, b"model")), b"model");
                assert_holds(cache.find(&content(1)).as_ref(), b"model");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_flipped_bit_is_detected(is_model in any::<bool>(), byte in any::<prop::sample::Index>(), bit in 0u8..8) {
        let folder = tempfile::tempdir().unwrap();
        let ort = keep(&open(folder.path(), PLENTY), 1, b"model").file.unwrap();
        let file = if is_model { ort } else { ort.with_extension("json") };
        let mut bytes = fs::read(&file).unwrap();
        let at = byte.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&file, bytes).unwrap();
        let found = open(folder.path(), PLENTY).find(&content(1));
        // The hash may be in capital letters, too.
        prop_assert!(found.is_none() || (!is_model && at < 64 && bit == 5), "{found:?}");
    }
}

#[test]
fn a_mapped_file_outlives_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    let file = keep(&cache, 1, b"model").file.unwrap();
    let mapped = File::open(&file).unwrap();
    keep(&cache, 1, b"again");
    fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(io::read_to_string(mapped).unwrap(), "model");
}

#[test]
fn a_deleted_folder_is_created_again_for_this_user_alone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep/cache");
    let cache = open(&folder, PLENTY);
    keep(&cache, 1, b"model");
    fs::remove_dir_all(parent.path().join("deep")).unwrap();
    assert_eq!(cache.find(&content(1)), None);
    assert_holds(Some(&keep(&cache, 1, b"model")), b"model");
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    // The folder may also be deleted between the child's work and `keep`.
    let unfinished = cache.unfinished(false).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let kept = cache.keep(&content(2), true, Some(unfinished), findings(true), FACTS);
    assert_eq!(kept.file, None);
    assert_holds(Some(&keep(&cache, 2, b"another")), b"another");
}

#[test]
fn a_folder_that_others_can_write_to_is_refused_at_the_start_and_later() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str, mode: u32| {
        let folder = parent.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        folder
    };
    for mode in [0o770, 0o720, 0o702, 0o777] {
        let error = PreparedCache::open(&at("open", mode), PLENTY, &platform(""), None).unwrap_err();
        assert!(matches!(error, FolderError::NotOurs { .. }), "{mode:o} {error}");
    }
    assert!(PreparedCache::open(&at("readable", 0o755), PLENTY, &platform(""), None).is_ok());
    symlink(at("own", 0o700), parent.path().join("link")).unwrap();
    let error = PreparedCache::open(&parent.path().join("link"), PLENTY, &platform(""), None).unwrap_err();
    assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
    fs::write(parent.path().join("file"), "").unwrap();
    for below in ["file", "file/below"] {
        let error = PreparedCache::open(&parent.path().join(below), PLENTY, &platform(""), None).unwrap_err();
        assert!(matches!(error, FolderError::Unusable { .. }), "{below} {error}");
    }

    let cache = open(&at("own", 0o700), PLENTY);
    at("own", 0o777);
    assert!(cache.unfinished(false).is_none());
    at("own", 0o700);
    assert!(cache.unfinished(false).is_some());
}

#[test]
fn a_folder_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a folder away");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(54321), None).unwrap();
    let error = PreparedCache::open(folder.path(), PLENTY, &platform(""), None).unwrap_err();
    assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
}

#[test]
fn entries_with_predictable_names_are_removed_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let name = blake3::hash(b"a hash that anyone can compute").to_hex();
    let old = |kind: &str| folder.path().join(format!("{name}.{kind}"));
    fs::write(old("ort"), "model").unwrap();
    fs::write(old("json"), "description").unwrap();
    fs::create_dir(old("tensorrt")).unwrap();
    open(folder.path(), PLENTY);
    assert_eq!(contents(folder.path()).1, Vec::<String>::new());
}

#[test]
fn an_entry_of_another_folder_is_not_accepted_under_any_name() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = keep(&open(ours.path(), PLENTY), 1, b"model");
    keep(&open(theirs.path(), PLENTY), 1, b"another model");
    // As if they could write to our folder: under their names, and under ours.
    let our_file = kept.file.unwrap();
    for entry in fs::read_dir(theirs.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if let Some((_, kind)) = name.rsplit_once('.') {
            fs::copy(entry.path(), ours.path().join(&name)).unwrap();
            fs::copy(entry.path(), our_file.with_extension(kind)).unwrap();
        }
    }
    assert_eq!(open(ours.path(), PLENTY).find(&content(1)), None);
}

#[test]
fn two_processes_share_entries_and_continue_after_the_key_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (open(folder.path(), PLENTY), open(folder.path(), PLENTY));
    keep(&first, 1, b"model");
    assert_holds(second.find(&content(1)).as_ref(), b"model");
    fs::remove_file(folder.path().join(Key::FILE)).unwrap();
    keep(&first, 2, b"another");
    assert_holds(open(folder.path(), PLENTY).find(&content(2)).as_ref(), b"another");
}

#[test]
fn a_file_that_replaced_an_unfinished_one_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(elsewhere.path(), "another").unwrap();
    for replace in [
        |_: &Path, to: &Path| fs::write(to, "another").unwrap(),
        |from: &Path, to: &Path| symlink(from, to).unwrap(),
    ] {
        let unfinished = cache.unfinished(false).unwrap();
        fs::write(unfinished.file.path(), "model").unwrap();
        // Otherwise the new file could get the inode of the removed one.
        fs::hard_link(unfinished.file.path(), folder.path().join("held")).unwrap();
        fs::remove_file(unfinished.file.path()).unwrap();
        replace(elsewhere.path(), unfinished.file.path());
        let kept = cache.keep(&content(1), true, Some(unfinished), findings(true), FACTS);
        assert_eq!((kept.file, cache.find(&content(1))), (None, None));
        fs::remove_file(folder.path().join("held")).unwrap();
    }
}

#[test]
fn a_folder_in_memory_is_refused() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("SKIPPED: there is no /dev/shm");
        return;
    };
    if !is_in_memory(folder.path()).unwrap() {
        eprintln!("SKIPPED: /dev/shm is not in memory");
        return;
    }
    let error = PreparedCache::open(folder.path(), PLENTY, &platform(""), None).unwrap_err();
    assert!(matches!(error, FolderError::InMemory { .. }), "{error}");
}

#[test]
fn foreign_files_are_neither_used_nor_touched() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["notes.txt", "model.onnx", "new-1", ".hidden"];
    for name in names {
        fs::write(folder.path().join(name), [0; 100]).unwrap();
    }
    fs::create_dir(folder.path().join("folder.d")).unwrap();
    let cache = open(folder.path(), 2000);
    for index in 0..20 {
        keep(&cache, index, &[0; 500]);
    }
    let (_, found) = contents(folder.path());
    assert!(
        names.iter().all(|name| found.contains(&(*name).to_owned())),
        "{found:?}"
    );
}

#[test]
fn the_least_recently_used_entry_is_evicted_first() {
    let folder = tempfile::tempdir().unwrap();
    // Space for four entries with their descriptions, and not for five.
    let cache = open(folder.path(), 9000);
    for index in 0..4 {
        keep(&cache, index, &[0; 1800]);
        // File times are not finer than the kernel's tick.
        thread::sleep(std::time::Duration::from_millis(15));
    }
    cache.find(&content(0)).unwrap();
    cache.find(&content(2)).unwrap();
    keep(&cache, 4, &[0; 1800]);
    let left: Vec<u64> = (0..5).filter(|&index| cache.find(&content(index)).is_some()).collect();
    assert_eq!(left, [0, 2, 3, 4]);
    // An entry without a prepared form needs space as well.
    for index in 100..140 {
        cache.keep(&content(index), false, None, findings(false), FACTS);
    }
    assert!(contents(folder.path()).0 <= 9000);
    assert!(cache.find(&content(139)).is_some());
    assert!(cache.find(&content(100)).is_none());
}

#[test]
fn an_entry_larger_than_the_limit_is_not_kept_and_evicts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 5000);
    keep(&cache, 1, b"model");
    assert_eq!(keep(&cache, 2, &[0; 5001]).file, None);
    assert_holds(cache.find(&content(1)).as_ref(), b"model");
    assert_eq!(contents(folder.path()).1.len(), 2);
}

#[test]
fn a_smaller_limit_applies_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    for index in 0..10 {
        keep(&cache, index, &[0; 1000]);
    }
    open(folder.path(), 4000);
    assert!(contents(folder.path()).0 <= 4000);
}

#[test]
fn many_threads_and_two_caches_stay_within_the_limit() {
    const LIMIT: u64 = 64 << 10;
    let folder = tempfile::tempdir().unwrap();
    let caches = [open(folder.path(), LIMIT), open(folder.path(), LIMIT)];
    thread::scope(|scope| {
        for worker in 0..4u64 {
            let (cache, folder) = (&caches[usize::from(worker % 2 == 1)], folder.path());
            scope.spawn(move || {
                for index in 0..60 {
                    // Half of the contents are also those of other threads.
                    let index = if index % 2 == 0 { index } else { 1000 * worker + index };
                    let bytes = index.to_le_bytes().repeat(256);
                    keep(cache, index, &bytes);
                    if let Some(found) = cache.find(&content(index)) {
                        // The file may be gone meanwhile, but it is never another one's.
                        if let Ok(found) = fs::read(found.file.unwrap()) {
                            assert_eq!(found, bytes);
                        }
                    }
                    let finished: u64 = entries(folder).unwrap().values().map(|entry| entry.bytes).sum();
                    assert!(finished <= LIMIT + LIMIT / 16 + (8 << 10), "{finished}");
                }
            });
        }
    });
    // A single cache keeps the limit exactly.
    open(folder.path(), LIMIT);
    assert!(contents(folder.path()).0 <= LIMIT);
}

#[test]
fn without_a_folder_findings_are_remembered_within_limits() {
    let cache = PreparedCache::without_folder();
    assert!(cache.unfinished(false).is_none());
    assert_eq!(cache.engines(&content(1)), None);
    let kept = cache.keep(&content(1), false, None, findings(false), FACTS);
    assert_eq!(cache.find(&content(1)), Some(kept));
    assert_eq!(cache.find(&content(2)), None);
    for index in 0..=MOST_REMEMBERED as u64 {
        cache.keep(&content(index), false, None, findings(false), FACTS);
    }
    assert!(lock(&cache.remembered).len() <= MOST_REMEMBERED);
    assert!(cache.find(&content(MOST_REMEMBERED as u64)).is_some());
}

#[test]
fn the_remains_of_a_killed_process_are_removed_at_the_start_and_other_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    let unfinished = cache.unfinished(false).unwrap();
    fs::write(unfinished.file.path(), b"model").unwrap();
    fs::write(folder.path().join(".new-7-0-0"), "left").unwrap();
    open(folder.path(), PLENTY);
    assert_eq!(contents(folder.path()).1.len(), 1);
    let kept = cache.keep(&content(1), true, Some(unfinished), findings(true), FACTS);
    assert_holds(Some(&kept), b"model");
}

#[test]
fn a_missing_prepared_form_is_remembered_unless_the_disk_was_full() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    for (index, weights, is_remembered) in [(1, 1, true), (2, u64::MAX, false)] {
        let facts = Facts { weights, ..FACTS };
        let kept = cache.keep(&content(index), true, cache.unfinished(false), findings(false), facts);
        assert_eq!((kept.file, kept.findings), (None, findings(false)));
        assert_eq!(cache.find(&content(index)).is_some(), is_remembered, "{weights}");
    }
}

#[test]
fn a_folder_that_is_refused_for_a_while_leaves_no_findings_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), PLENTY);
    let kept = cache.keep(&content(1), true, None, findings(false), FACTS);
    assert_eq!(kept.file, None);
    assert!(cache.find(&content(1)).is_none(), "the next load prepares the model");
}
