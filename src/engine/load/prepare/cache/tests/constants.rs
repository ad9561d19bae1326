//! Large constants in files of their own.

use super::*;
use crate::engine::load::onnx_file::{message, placed};

const CONSTANT: usize = 70_000;

/// The protobuf of a graph whose constants, of [`CONSTANT`] bytes each, are in the file `data`, one
/// after the other.
fn graph(names: &[&str]) -> Vec<u8> {
    let mut graph = Vec::new();
    for (index, name) in names.iter().enumerate() {
        // A float32 vector.
        let mut tensor = vec![0x0a, 0x03, 0xdc, 0x88, 0x01, 0x10, 0x01, 0x70, 0x01];
        message::append(&mut tensor, 8, name.as_bytes());
        let (offset, length) = ((index * CONSTANT).to_string(), CONSTANT.to_string());
        for (key, value) in [("location", "data"), ("offset", &offset), ("length", &length)] {
            let mut entry = Vec::new();
            message::append(&mut entry, 1, key.as_bytes());
            message::append(&mut entry, 2, value.as_bytes());
            message::append(&mut tensor, 13, &entry);
        }
        message::append(&mut graph, 5, &tensor);
    }
    let mut model = Vec::new();
    message::append(&mut model, 7, &graph);
    model
}

/// Findings about a graph with `count` constants, of which runs read all but the first.
fn split(count: usize) -> Findings {
    Findings {
        constants: Some((0..count).map(|index| index > 0).collect()),
        ..findings(true)
    }
}

/// Keeps a graph with a constant full of each of these bytes, named after it.
fn keep_split(cache: &PreparedCache, index: u64, fills: &[u8]) -> Prepared {
    let unfinished = cache.unfinished(true).unwrap();
    let names: Vec<String> = fills.iter().map(|fill| format!("c{fill}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    fs::write(unfinished.file.path(), graph(&names)).unwrap();
    let data: Vec<u8> = fills.iter().flat_map(|&fill| vec![fill; CONSTANT]).collect();
    fs::write(unfinished.constants.as_ref().unwrap().path(), data).unwrap();
    cache.keep(&content(index), true, Some(unfinished), split(names.len()), FACTS)
}

/// Checks that the graph of `prepared` and its list of constants lead to the expected bytes.
#[track_caller]
fn assert_leads_to(prepared: &Prepared, fills: &[u8]) {
    let file = prepared.file.as_ref().unwrap();
    assert_eq!(file.extension().unwrap(), "onnx");
    let found = placed::placed_constants(&fs::read(file).unwrap()).unwrap();
    let stored = &prepared.constants;
    assert_eq!((found.len(), stored.constants.len()), (fills.len(), fills.len()));
    for ((found, stored_constant), fill) in found.iter().zip(&stored.constants).zip(fills) {
        let name = &stored.files[stored_constant.file].name;
        assert_eq!((&found.place.file, found.place.offset), (name, stored_constant.offset));
        assert_eq!(
            (&found.name, &found.dims),
            (&stored_constant.name, &stored_constant.dims)
        );
        let bytes = fs::read(file.with_file_name(name)).unwrap();
        let start = usize::try_from(found.place.offset).unwrap();
        assert!(start.is_multiple_of(4096), "{start}");
        assert_eq!(bytes[start..start + CONSTANT], vec![*fill; CONSTANT]);
    }
}

/// Number of files of constants in `folder`.
fn files(folder: &Path) -> usize {
    let (_, names) = contents(folder);
    names.iter().filter(|name| name.ends_with(".constants")).count()
}

#[test]
fn equal_constants_of_different_models_are_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 4 * PLENTY);
    let first = keep_split(&cache, 1, &[1, 2, 3]);
    assert_leads_to(&first, &[1, 2, 3]);
    assert_eq!(files(folder.path()), 1);
    let second = keep_split(&cache, 2, &[4, 2, 1]);
    assert_leads_to(&second, &[4, 2, 1]);
    assert_eq!(files(folder.path()), 2);
    // Nothing new: the constants of both, in another order, one of them twice.
    let third = keep_split(&cache, 3, &[1, 4]);
    assert_leads_to(&third, &[1, 4]);
    assert_eq!(files(folder.path()), 2);
    let copied = |prepared: &Prepared| -> Vec<bool> {
        let constants = prepared.constants.constants.iter();
        constants.map(|constant| !constant.is_read).collect()
    };
    assert_eq!(copied(&second), [true, false, false]);
    // Another process finds the same.
    let other = open(folder.path(), 4 * PLENTY);
    for (index, kept) in [(1, &first), (2, &second), (3, &third)] {
        assert_eq!(other.find(&content(index)).as_ref(), Some(kept));
    }
    // It has seen these constants now.
    assert_leads_to(&keep_split(&other, 4, &[3, 2]), &[3, 2]);
    assert_eq!(files(folder.path()), 2);
}

#[test]
fn a_new_file_that_equals_a_known_one_does_not_take_the_place_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 4 * PLENTY);
    // Each constant is a name and the fillings of its pages.
    let keep_pages = |index: u64, constants: &[(&str, &[u8])]| {
        let pages = |fills: &[u8]| -> Vec<u8> { fills.iter().flat_map(|&fill| vec![fill; 4096]).collect() };
        let unfinished = cache.unfinished(true).unwrap();
        let (mut data, mut places) = (Vec::new(), Vec::new());
        for (name, fills) in constants {
            let place = placed::Place {
                file: "data".to_owned(),
                offset: data.len() as u64,
                bytes: 4096 * fills.len() as u64,
            };
            places.push((*name, place));
            data.extend(pages(fills));
        }
        let names: Vec<&str> = constants.iter().map(|(name, _)| *name).collect();
        let find = |name: &str| places.iter().find(|(known, _)| *known == name).map(|(_, place)| place);
        let graph = placed::with_places(&graph(&names), find).unwrap();
        fs::write(unfinished.file.path(), graph).unwrap();
        fs::write(unfinished.constants.as_ref().unwrap().path(), data).unwrap();
        let kept = cache.keep(&content(index), true, Some(unfinished), split(names.len()), FACTS);
        for (stored, (name, fills)) in kept.constants.constants.iter().zip(constants) {
            let file = &kept.constants.files[stored.file].name;
            let bytes = fs::read(kept.file.as_ref().unwrap().with_file_name(file)).unwrap();
            let start = usize::try_from(stored.offset).unwrap();
            assert_eq!(bytes[start..][..4096 * fills.len()], pages(fills), "{name}");
        }
    };
    keep_pages(1, &[("a", &[1, 2])]);
    keep_pages(2, &[("z", &[3, 4, 5])]);
    // The file of the two halves has the bytes of the first file.
    keep_pages(3, &[("a", &[1, 2]), ("z", &[3, 4, 5]), ("half", &[1]), ("other", &[2])]);
}

#[test]
fn a_damaged_file_of_constants_makes_its_models_unknown_and_no_others() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("gone", |file| fs::remove_file(file).unwrap()),
        ("cut", |file| fs::write(file, &fs::read(file).unwrap()[1..]).unwrap()),
        ("a byte changed", |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[CONSTANT / 2] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("emptied", |file| fs::write(file, "").unwrap()),
    ];
    for (name, harm) in harms {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 4 * PLENTY);
        let first = keep_split(&cache, 1, &[1, 2]);
        keep_split(&cache, 2, &[2, 3]);
        let stranger = keep_split(&cache, 3, &[4]);
        let file = first.file.as_ref().unwrap();
        harm(&file.with_file_name(&first.constants.files[0].name));
        assert_eq!(cache.find(&content(1)), None, "{name}");
        assert_eq!(cache.find(&content(2)), None, "{name}");
        assert_eq!(cache.find(&content(3)).as_ref(), Some(&stranger), "{name}");
        // Both can be prepared again, and the remains are not used.
        assert_leads_to(&keep_split(&cache, 2, &[2, 3]), &[2, 3]);
        assert_leads_to(&keep_split(&cache, 1, &[1, 2]), &[1, 2]);
        assert!(
            cache.find(&content(1)).is_some() && cache.find(&content(2)).is_some(),
            "{name}"
        );
    }
}

#[test]
fn graphs_that_do_not_match_their_data_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 4 * PLENTY);
    let cases: [(Vec<u8>, usize, usize); 5] = [
        (graph(&["a", "b"]), 2, CONSTANT),
        (graph(&["a"]), 1, CONSTANT - 1),
        (graph(&["a"]), 2, CONSTANT),
        (b"not a protobuf".to_vec(), 0, CONSTANT),
        (graph(&["a", "a"]), 2, 2 * CONSTANT),
    ];
    for (graph, count, bytes) in cases {
        let unfinished = cache.unfinished(true).unwrap();
        fs::write(unfinished.file.path(), graph).unwrap();
        fs::write(unfinished.constants.as_ref().unwrap().path(), vec![1; bytes]).unwrap();
        let kept = cache.keep(&content(1), true, Some(unfinished), split(count), FACTS);
        assert_eq!((kept.file, cache.find(&content(1))), (None, None));
    }
    assert_eq!(contents(folder.path()).1, Vec::<String>::new());
}

#[test]
fn files_of_constants_count_against_the_limit_and_stay_while_a_relative_is_used() {
    let folder = tempfile::tempdir().unwrap();
    // Room for two files of constants, with graphs and descriptions.
    let cache = open(folder.path(), 2 * CONSTANT as u64 + 20_000);
    keep_split(&cache, 1, &[1]);
    let relative = keep_split(&cache, 2, &[1]);
    let file = relative
        .file
        .as_ref()
        .unwrap()
        .with_file_name(&relative.constants.files[0].name);
    let is_there = |index| cache.find(&content(index)).is_some();
    for index in 3..8u8 {
        // Times of files are coarse.
        thread::sleep(std::time::Duration::from_millis(20));
        assert!(is_there(2), "{index}");
        thread::sleep(std::time::Duration::from_millis(20));
        keep_split(&cache, u64::from(index), &[index]);
        assert!(file.exists(), "{index}");
        let (bytes, _) = contents(folder.path());
        assert!(bytes <= 2 * CONSTANT as u64 + 20_000, "{bytes}");
    }
    assert!(is_there(2) && is_there(7) && !is_there(3));
}

#[test]
fn two_processes_that_keep_the_same_constants_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(folder.path(), 4 * PLENTY), open(folder.path(), 4 * PLENTY));
    let first = keep_split(&one, 1, &[1, 2]);
    let file = first
        .file
        .as_ref()
        .unwrap()
        .with_file_name(&first.constants.files[0].name);
    let mapped = File::open(&file).unwrap();
    let inode = mapped.metadata().unwrap().ino();
    assert_eq!(keep_split(&other, 1, &[1, 2]), first);
    assert_eq!(
        fs::metadata(&file).unwrap().ino(),
        inode,
        "the file was not written again"
    );
    thread::scope(|scope| {
        for cache in [&one, &other] {
            scope.spawn(move || {
                for index in 10..30u8 {
                    let kept = keep_split(cache, u64::from(index), &[index / 2, 1]);
                    assert_leads_to(&kept, &[index / 2, 1]);
                }
            });
        }
    });
    for index in 10..30u8 {
        assert_leads_to(&one.find(&content(u64::from(index))).unwrap(), &[index / 2, 1]);
    }
}
