//! Models with equal large constants: each constant is in memory and on disk once, answers do not
//! depend on who shares what, and memory is counted exactly (MM-4, MM-17, MM-18).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Builder, Models, Request, Server, eventually, in_parallel, longshore, try_send};
use crate::memory::group::GroupServer;
use crate::support::networks::{self, Sibling};
use crate::support::onnx::{Graph, Info, Model, Node, Tensor, element};
use crate::support::random::Random;

const fn sibling(table: u64, layer: u64, head: u64) -> Sibling {
    Sibling { table, layer, head }
}

fn load(server: &Server, name: &str, sibling: Sibling) -> String {
    let url = server.models().place_model(name, &sibling.model());
    server.load(name, &url).expect(200);
    url
}

/// Whether `answer` has the scores of these items.
fn has_scores(answer: &Value, sibling: Sibling, items: &[usize]) -> bool {
    let rows = answer["predictions"].as_array().cloned().unwrap_or_default();
    let is_near = |found: &Value, expected: &f64| found.as_f64().is_some_and(|found| (found - expected).abs() < 1e-4);
    rows.len() == items.len()
        && rows.iter().zip(items).all(|(row, &item)| {
            let (found, expected) = (row.as_array().cloned().unwrap_or_default(), sibling.scores(item));
            found.len() == expected.len()
                && found
                    .iter()
                    .zip(&expected)
                    .all(|(found, expected)| is_near(found, expected))
        })
}

#[track_caller]
fn assert_answers(server: &Server, name: &str, sibling: Sibling) {
    let items = [7, 1_999];
    let answer = server.invoke(name, &json!({"instances": items})).expect(200).json();
    assert!(has_scores(&answer, sibling, &items), "{name} {sibling:?}: {answer}");
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

fn size(files: &[PathBuf]) -> u64 {
    files.iter().map(|file| fs::metadata(file).unwrap().len()).sum()
}

fn kill_worker(server: &Server) {
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    server.ping();
}

/// Numbers of shared constants, their bytes, and the bytes that sharing saves.
fn shared(server: &Server) -> (u64, u64, u64) {
    let metric = |name: &str| server.metric(&format!("longshore_shared_constant{name}"));
    (metric("s"), metric("_bytes"), metric("_saved_bytes"))
}

#[test]
fn a_constant_of_several_models_is_in_memory_and_on_disk_once() {
    const COUNT: u64 = 8;
    let server = Builder::multi().start();
    let mapped = || server.metric("longshore_memory_mapped_bytes");
    load(&server, "first", sibling(1, 2, 100));
    assert_answers(&server, "first", sibling(1, 2, 100));
    let alone = server.reserved();
    assert_eq!(mapped(), Sibling::TABLE);
    assert!(alone > Sibling::LAYER + Sibling::HEAD, "{alone}");
    let (constants, bytes, saved) = shared(&server);
    assert_eq!((constants, saved), (3, 0));
    assert!(bytes >= Sibling::TABLE + Sibling::LAYER + Sibling::HEAD, "{bytes}");
    // The next model has only the table and the layer in common with the first one, so it has a
    // container of its own for the copy of the layer. Further ones share that.
    load(&server, "second", sibling(1, 2, 101));
    let (second, on_disk) = (server.reserved(), size(&files(server.models().cache(), ".constants")));
    for index in 1..=COUNT {
        let (name, model) = (format!("m{index}"), sibling(1, 2, 101 + index));
        load(&server, &name, model);
        assert_answers(&server, &name, model);
    }
    // Each takes its head, and its session.
    assert_eq!(mapped(), Sibling::TABLE);
    let each = (server.reserved() - second) / COUNT;
    assert!(
        each > Sibling::HEAD && each < alone - Sibling::LAYER / 2,
        "{each} {alone}"
    );
    let saved = shared(&server).2;
    let expected = (COUNT + 1) * Sibling::TABLE + COUNT * Sibling::LAYER;
    assert!(
        saved >= expected && saved < expected + expected / 4,
        "{saved} {expected}"
    );
    let grown = size(&files(server.models().cache(), ".constants")) - on_disk;
    assert_eq!(grown, COUNT * Sibling::HEAD);
    let found = |line: &String| -> Option<u64> {
        let (_, rest) = line.split_once("shared_bytes=")?;
        rest.split(' ').next()?.parse().ok()
    };
    let log = server.log();
    let found = log
        .iter()
        .filter_map(found)
        .filter(|&found| found >= Sibling::TABLE + Sibling::LAYER);
    assert_eq!(found.count() as u64, COUNT, "{log:?}");
    // An unload frees what no other model uses, and says so.
    server.unload("m1").expect(200);
    assert_eq!(mapped(), Sibling::TABLE);
    server.wait_for_log("freed_bytes=");
    for index in 2..=COUNT {
        server.unload(&format!("m{index}")).expect(200);
    }
    assert!(server.reserved() < second + Sibling::LAYER / 2, "{second}");
    server.unload("second").expect(200);
    assert_answers(&server, "first", sibling(1, 2, 100));
    server.unload("first").expect(200);
    assert_eq!((server.reserved(), mapped()), (0, 0));
    assert_eq!(shared(&server), (0, 0, 0));
    assert!(!server.process().maps_files_below(server.models().cache()));
}

#[test]
fn constants_that_onnx_runtime_has_made_from_equal_weights_are_equal() {
    // It reorders the weights of convolutions for the processor, and widens float16 tables.
    type Make = fn(u64) -> Vec<u8>;
    let kinds: [(&str, Make, u64); 2] = [
        (
            "convolutions",
            |seed| networks::related_convolutions(3 << 20, seed),
            3 << 20,
        ),
        (
            "a float16 table",
            |seed| networks::related_half_table(20_000, 64, seed),
            20_000 * 64 * 4,
        ),
    ];
    for (what, make, common) in kinds {
        let server = Builder::multi().start();
        for seed in 0..2 {
            let name = format!("m{seed}");
            let url = server.models().place_model(&name, &make(seed));
            server.load(&name, &url).expect(200);
        }
        let saved = shared(&server).2;
        assert!(saved > common * 8 / 10, "{what}: {saved} of {common}");
    }
}

/// A convolution in int8. Its kernel packs the weights, and cannot share the packed ones.
fn int8_convolution(scale: f32) -> Vec<u8> {
    let mut random = Random::new(7);
    let weights: Vec<u8> = (0..128 * 64 * 9).map(|_| random.below(256) as u8).collect();
    let graph = Graph::new()
        .input(Info::tensor(
            "x",
            element::UINT8,
            [1.into(), 64.into(), 8.into(), 8.into()],
        ))
        .output(Info::tensor(
            "y",
            element::UINT8,
            [1.into(), 128.into(), 6.into(), 6.into()],
        ))
        .initializer(Tensor::raw("w", element::INT8, &[128, 64, 3, 3], weights))
        .initializer(Tensor::floats("scale", &[], &[scale]))
        .initializer(Tensor::raw("zero", element::UINT8, &[], [9]))
        .initializer(Tensor::raw("w_zero", element::INT8, &[], [0]))
        .node(Node::new(
            "QLinearConv",
            ["x", "scale", "zero", "w", "scale", "w_zero", "scale", "zero"],
            ["y"],
        ));
    Model::new(graph).into_bytes()
}

#[test]
fn models_whose_kernels_cannot_share_copies_are_served_as_without_sharing() {
    let shared = Builder::multi().start();
    let apart = Builder::multi().arguments(["--shared-constants", "0"]).start();
    let body = json!({"inputs": {"x": [vec![vec![vec![5; 8]; 8]; 64]]}});
    for (name, scale) in [("one", 0.02), ("other", 0.03)] {
        let answers = [&shared, &apart].map(|server| {
            let url = server.models().place_model(name, &int8_convolution(scale));
            server.load(name, &url).expect(200);
            server.invoke(name, &body).expect(200).json()
        });
        assert_eq!(answers[0], answers[1], "{name}");
    }
}

#[test]
fn a_model_has_copies_in_common_only_with_models_that_have_the_same_constants() {
    // ONNX Runtime finds a copy by a short hash. A model could contain a constant whose copy has
    // the hash of another one, so models with other constants must not see its copies.
    let server = Builder::multi().start();
    load(&server, "m", sibling(1, 2, 3));
    let one = server.reserved();
    // Of the first file of constants, this model has the table and the layer only.
    load(&server, "n", sibling(1, 2, 2));
    let grown = server.reserved() - one;
    assert!(grown > Sibling::LAYER + Sibling::HEAD, "{grown}");
}

#[test]
fn inspect_shows_what_a_model_shares_with_prepared_models() {
    let server = Builder::multi().start();
    for head in [100, 101] {
        load(&server, &format!("m{head}"), sibling(1, 2, head));
    }
    let url = server.models().place_model("new", &sibling(1, 2, 102).model());
    let inspect = |cache: &Path, more: &[&str]| {
        let cache = cache.to_str().unwrap();
        longshore([&["inspect", url.as_str(), "--cache-dir", cache][..], more].concat())
    };
    let cache = server.models().cache();
    let report = inspect(cache, &["--json"]).json();
    let constants = report["large_constants"].as_array().unwrap();
    let of_size = |bytes: u64| {
        constants
            .iter()
            .find(|constant| constant["bytes"] == bytes)
            .cloned()
            .unwrap()
    };
    let expected =
        |bytes, is_copied, models| json!({"bytes": bytes, "is_copied": is_copied, "prepared_models": models});
    assert_eq!(of_size(Sibling::TABLE), expected(Sibling::TABLE, false, 2));
    assert_eq!(of_size(Sibling::LAYER), expected(Sibling::LAYER, true, 2));
    assert_eq!(of_size(Sibling::HEAD), expected(Sibling::HEAD, true, 0));
    let text = inspect(cache, &[]).printed();
    assert!(
        text.contains("2 of them, of 628.0 KiB, are in up to 2 prepared models"),
        "{text}"
    );
    // A folder without prepared models is not created.
    let missing = server.models().root().join("missing");
    let text = inspect(&missing, &[]).printed();
    assert!(text.contains("none of them is in a prepared model"), "{text}");
    assert!(!missing.exists());
}

#[test]
fn without_the_option_each_prepared_model_is_one_file() {
    let server = Builder::multi().arguments(["--shared-constants", "0"]).start();
    for index in 0..2 {
        let (name, model) = (format!("m{index}"), sibling(1, 2, index));
        load(&server, &name, model);
        assert_answers(&server, &name, model);
    }
    assert!(files(server.models().cache(), ".constants").is_empty());
    assert_eq!(files(server.models().cache(), ".ort").len(), 2);
    assert_eq!(shared(&server), (0, 0, 0));
}

#[test]
fn loads_and_unloads_in_any_order_leave_nothing_and_never_a_wrong_answer() {
    for seed in 0..3 {
        let server = Builder::multi().start();
        let mut random = Random::new(seed);
        let mut number = |bound: usize| random.below(bound) as u64;
        let mut loaded: BTreeMap<String, Sibling> = BTreeMap::new();
        let mut next = 0;
        for _ in 0..40 {
            if loaded.len() < 2 || (loaded.len() < 8 && number(2) == 0) {
                // Any of two tables and two layers, with heads that are sometimes equal too.
                let model = sibling(1 + number(2), 11 + number(2), 21 + number(5));
                let name = format!("m{next}");
                next += 1;
                load(&server, &name, model);
                loaded.insert(name, model);
            } else {
                let index = number(loaded.len()) as usize;
                let name = loaded.keys().nth(index).unwrap().clone();
                loaded.remove(&name);
                server.unload(&name).expect(200);
            }
            for (name, model) in &loaded {
                assert_answers(&server, name, *model);
            }
            let tables: std::collections::BTreeSet<u64> = loaded.values().map(|model| model.table).collect();
            let mapped = server.metric("longshore_memory_mapped_bytes");
            // A table may be in the files of two models that were prepared at different times.
            assert!(mapped >= tables.len() as u64 * Sibling::TABLE, "{mapped} {loaded:?}");
        }
        for name in loaded.keys() {
            server.unload(name).expect(200);
        }
        assert_eq!(
            (server.reserved(), server.metric("longshore_memory_mapped_bytes")),
            (0, 0)
        );
        assert_eq!(shared(&server), (0, 0, 0));
        assert!(!server.process().maps_files_below(server.models().cache()));
    }
}

#[test]
fn parallel_loads_and_requests_of_siblings_are_all_right() {
    let server = Builder::multi().start();
    let indices: Vec<u64> = (0..24).collect();
    let model = |index: u64| sibling(1 + index % 2, 2, 100 + index);
    in_parallel(6, &indices, |&index| {
        let name = format!("m{index}");
        load(&server, &name, model(index));
        for _ in 0..4 {
            assert_answers(&server, &name, model(index));
        }
    });
    let mapped = server.metric("longshore_memory_mapped_bytes");
    // Several first loads at a time may each have written their own copy.
    assert!(mapped <= 12 * Sibling::TABLE, "{mapped}");
    in_parallel(6, &indices, |&index| {
        server.unload(&format!("m{index}")).expect(200);
    });
    assert_eq!(
        (server.reserved(), server.metric("longshore_memory_mapped_bytes")),
        (0, 0)
    );
}

#[test]
fn siblings_are_restored_after_a_kill_without_their_uploads() {
    let server = Builder::multi().start();
    let models: HashMap<String, Sibling> = (0..6)
        .map(|index| (format!("m{index}"), sibling(1, 2, index)))
        .collect();
    let urls: Vec<String> = models.iter().map(|(name, model)| load(&server, name, *model)).collect();
    // MM-17: the platform may delete the files of a loaded model.
    for url in urls {
        fs::remove_dir_all(url).unwrap();
    }
    for _ in 0..2 {
        kill_worker(&server);
        for (name, model) in &models {
            assert_answers(&server, name, *model);
        }
        assert_eq!(server.metric("longshore_memory_mapped_bytes"), Sibling::TABLE);
    }
}

#[test]
fn a_worker_that_is_killed_while_it_writes_leaves_no_wrong_model() {
    let models = Models::new();
    for round in 0..6u64 {
        let server = Builder::multi()
            .argument("--cache-dir")
            .argument(models.cache())
            .start();
        let address = server.address();
        let names: Vec<(String, Sibling)> = (0..4)
            .map(|index| (format!("m{index}"), sibling(1 + round / 2, 2, 10 * round + index)))
            .collect();
        thread::scope(|scope| {
            for (name, model) in &names {
                let url = server.models().place_model(name, &model.model());
                let request = Request::post("/models").json(&json!({"model_name": name, "url": url}));
                scope.spawn(move || try_send(address, &request));
            }
            thread::sleep(std::time::Duration::from_millis(30 * round));
            kill_worker(&server);
        });
        for (name, model) in &names {
            let url = server.models().path(name).join("model").display().to_string();
            let status = server.load(name, &url).status;
            assert!(matches!(status, 200 | 409), "{status}");
            assert_answers(&server, name, *model);
        }
    }
    // A new server finds only complete files.
    let server = Builder::multi()
        .argument("--cache-dir")
        .argument(models.cache())
        .start();
    load(&server, "again", sibling(1, 2, 1));
    assert_answers(&server, "again", sibling(1, 2, 1));
    let left = fs::read_dir(models.cache()).unwrap().flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with(".new-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn damaged_and_deleted_files_of_constants_are_prepared_again() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("flipped", |file| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            // A file that is mapped is never changed in place.
            fs::remove_file(file).unwrap();
            fs::write(file, bytes).unwrap();
        }),
        ("cut", |file| {
            let bytes = fs::read(file).unwrap();
            fs::remove_file(file).unwrap();
            fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("deleted", |file| fs::remove_file(file).unwrap()),
        ("the whole folder deleted", |file| {
            fs::remove_dir_all(file.parent().unwrap()).unwrap()
        }),
    ];
    for (name, harm) in harms {
        let server = Builder::multi().start();
        let urls = [0, 1, 2].map(|index| load(&server, &format!("m{index}"), sibling(1, 2, index)));
        let largest = |files: Vec<PathBuf>| files.into_iter().max_by_key(|file| fs::metadata(file).unwrap().len());
        harm(&largest(files(server.models().cache(), ".constants")).unwrap());
        // Loaded models keep their mapping.
        for index in 0..3 {
            assert_answers(&server, &format!("m{index}"), sibling(1, 2, index));
        }
        for index in 0..2 {
            server.unload(&format!("m{index}")).expect(200);
        }
        for (index, url) in urls.iter().enumerate().take(2) {
            server.load(&format!("m{index}"), url).expect(200);
            assert_answers(&server, &format!("m{index}"), sibling(1, 2, index as u64));
        }
        assert_answers(&server, "m2", sibling(1, 2, 2));
        // The file was not used again: the models were prepared, and the log says why.
        if name != "the whole folder deleted" {
            server.wait_for_log("a prepared model is damaged or gone");
        }
    }
}

#[test]
fn two_servers_share_one_cache() {
    let models = Models::new();
    let start = || {
        Builder::multi()
            .argument("--cache-dir")
            .argument(models.cache())
            .start()
    };
    let (one, other) = (start(), start());
    for index in 0..4 {
        let (name, model) = (format!("m{index}"), sibling(1, 2, index));
        let server = if index % 2 == 0 { &one } else { &other };
        load(server, &name, model);
        assert_answers(server, &name, model);
    }
    drop(one);
    let forms = files(models.cache(), ".onnx").len();
    for index in 0..4 {
        let (name, model) = (format!("again{index}"), sibling(1, 2, index));
        load(&other, &name, model);
        assert_answers(&other, &name, model);
    }
    // This server uses the forms that the other one has written.
    assert_eq!(files(models.cache(), ".onnx").len(), forms);
}

#[test]
fn siblings_and_strangers_fill_a_control_group_to_its_limit() {
    let Some(full) = GroupServer::start(160 << 20) else {
        return;
    };
    let server = &full.server;
    let mut count = 0u64;
    loop {
        let name = format!("m{count}");
        // Every fifth model is a stranger.
        let status = if count % 5 == 4 {
            let url = server
                .models()
                .place_model(&name, &networks::recommender(10_000, 64, 2, count));
            server.load(&name, &url).status
        } else {
            let url = server.models().place_model(&name, &sibling(1, 2, 100 + count).model());
            server.load(&name, &url).status
        };
        match status {
            200 if count % 5 == 4 => {
                let row = json!({"item": 7, "x": [0.1, 0.2]});
                server.invoke(&name, &json!({"instances": [row]})).expect(200);
            }
            200 => assert_answers(server, &name, sibling(1, 2, 100 + count)),
            507 => break,
            status => panic!("{status}"),
        }
        count += 1;
        assert!(count < 600, "the memory limit is not enforced");
    }
    full.assert_full(count);
    for index in (0..count).step_by(7) {
        if index % 5 != 4 {
            assert_answers(server, &format!("m{index}"), sibling(1, 2, 100 + index));
        }
    }
    // Unloading all siblings but one frees little more than their heads and sessions: the ledger
    // still holds the common constants.
    let siblings: Vec<u64> = (0..count).filter(|index| index % 5 != 4).collect();
    for index in &siblings[1..] {
        server.unload(&format!("m{index}")).expect(200);
    }
    assert_answers(server, "m0", sibling(1, 2, 100));
    assert!(server.metric("longshore_shared_constant_bytes") >= Sibling::TABLE + Sibling::LAYER);
    full.assert_nothing_killed();
}
