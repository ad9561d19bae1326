//! Files that an uploader replaces during a load: the server uses exactly the content that it
//! checked, under every name, and never reads files outside the roots (MM-8).

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::harness::{Builder, Models, Process, Server, scale, skip_unless};
use crate::hostile::watch::Watch;

/// Number of attempts of each kind.
const TRIES: u16 = 150;

/// Returns the factor of the scale model `name`.
#[track_caller]
fn factor(server: &Server, name: &str) -> f64 {
    let answer = server.invoke(name, &json!({"instances": [1]})).expect(200).json();
    answer["predictions"][0].as_f64().unwrap()
}

/// Repeats `exchange` on another thread while `work` runs.
fn meanwhile<T>(exchange: impl FnMut() + Send, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let mut exchange = exchange;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange();
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Loads a model while an uploader alternates between two contents, which are new in each attempt.
/// Then loads both contents from files that do not change, and checks their results. `exchange`
/// gets the file, and two files with the contents.
fn assert_none_is_taken_for_the_other(server: &Server, exchange: impl Fn(&Path, [&Path; 2]) + Sync) {
    let mut loaded = 0;
    for index in 0..TRIES {
        let factors = [2 * index + 1001, 2 * index + 1002].map(f32::from);
        let urls = ["a", "b"].map(|name| format!("{name}{index}"));
        let urls: Vec<String> = urls
            .iter()
            .zip(factors)
            .map(|(name, factor)| server.models().place_scale(name, factor))
            .collect();
        let url = server.models().place_scale("exchanged", factors[0]);
        let file = Path::new(&url).join("model.onnx");
        let [a, b] = ["a", "b"].map(|name| server.models().path(&format!("{name}.onnx")));
        let answer = meanwhile(
            || {
                for (path, factor) in [(&a, factors[0]), (&b, factors[1])] {
                    fs::write(path, scale(factor)).unwrap();
                }
                exchange(&file, [&a, &b]);
            },
            || server.load("exchanged", &url),
        );
        // One of the two contents, or an error: an incomplete file, or a file that changed.
        assert!(
            [200, 400, 503].contains(&answer.status),
            "{} {}",
            answer.status,
            answer.text()
        );
        if answer.status == 200 {
            loaded += 1;
            let used = factor(server, "exchanged");
            assert!(factors.map(f64::from).contains(&used), "{used}");
        }
        for (name, (url, factor)) in ["clean a", "clean b"].into_iter().zip(urls.iter().zip(factors)) {
            server.load(name, url).expect(200);
            server.assert_scales(name, factor);
            server.unload(name).expect(200);
        }
        if answer.status == 200 {
            server.unload("exchanged").expect(200);
        }
    }
    assert!(loaded > 0, "no load succeeded, so the test proves nothing");
}

/// Replaces a model with each of two files in turn.
fn by_rename(file: &Path, contents: [&Path; 2]) {
    for content in contents {
        fs::rename(content, file).unwrap();
        thread::yield_now();
    }
}

/// Overwrites a model with each of two contents in turn.
fn in_place(file: &Path, contents: [&Path; 2]) {
    let file = fs::File::options().write(true).open(file).unwrap();
    for content in contents {
        file.write_all_at(&fs::read(content).unwrap(), 0).unwrap();
        thread::yield_now();
    }
}

#[test]
fn a_file_replaced_during_preparation_is_never_served_as_another_content() {
    assert_none_is_taken_for_the_other(&Builder::multi().start(), by_rename);
}

#[test]
fn a_file_overwritten_during_preparation_is_never_served_as_another_content() {
    assert_none_is_taken_for_the_other(&Builder::multi().start(), in_place);
}

#[test]
fn a_file_replaced_during_an_unprepared_load_is_never_served_as_another_content() {
    let start = || Builder::multi().arguments(["--prepare", "off"]).start();
    assert_none_is_taken_for_the_other(&start(), by_rename);
    assert_none_is_taken_for_the_other(&start(), in_place);
}

#[test]
fn weights_overwritten_during_a_load_are_never_mixed_with_another_content() {
    for arguments in [&[][..], &["--prepare", "off"]] {
        let server = Builder::multi().arguments(arguments).start();
        let row = json!({"instances": [vec![1; 1024]]});
        for index in 0..20 {
            let url = server.models().place_big(&format!("m{index}"));
            let weights = Path::new(&url).join("weights.bin");
            let whole = fs::read(&weights).unwrap();
            let file = fs::File::options().write(true).open(&weights).unwrap();
            // Other weights of the same length.
            let others = 0.25f32.to_le_bytes().repeat(Models::BIG_BYTES / 4);
            let answer = meanwhile(
                || {
                    file.write_all_at(&others, 0).unwrap();
                    file.write_all_at(&whole, 0).unwrap();
                },
                || server.load("exchanged", &url),
            );
            assert!(
                [200, 503].contains(&answer.status),
                "{} {}",
                answer.status,
                answer.text()
            );
            // A load of the unchanged file must give the results of its own weights.
            let clean = server.models().place_big(&format!("m{index}"));
            server.load("clean", &clean).expect(200);
            let answered = server.invoke("clean", &row).expect(200).json();
            let sum = (Models::BIG_BYTES / 4) as f64 * 0.5;
            assert_eq!(answered, json!({"predictions": [sum]}));
            server.unload("clean").expect(200);
            if answer.status == 200 {
                server.unload("exchanged").expect(200);
            }
        }
    }
}

#[test]
fn a_folder_replaced_with_a_link_cannot_lead_outside_the_roots() {
    for arguments in [&[][..], &["--prepare", "off"]] {
        let server = Builder::multi().arguments(arguments).start();
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("model/model.onnx");
        fs::create_dir(outside.path().join("model")).unwrap();
        fs::write(&secret, scale(7777.0)).unwrap();
        let watch = Watch::on(&secret);
        let mut loaded = 0;
        for depth in ["", "model"] {
            let url = server.models().place_scale("linked", 2.0);
            let folder = server.models().path("linked").join(depth);
            let folder = folder.components().collect::<std::path::PathBuf>();
            let (target, aside) = (outside.path().join(depth), server.models().path("aside"));
            for _ in 0..TRIES {
                let exchange = || {
                    fs::rename(&folder, &aside).unwrap();
                    symlink(&target, &folder).unwrap();
                    thread::yield_now();
                    fs::remove_file(&folder).unwrap();
                    fs::rename(&aside, &folder).unwrap();
                    thread::yield_now();
                };
                let answer = meanwhile(exchange, || server.load("linked", &url));
                assert!(
                    [200, 400, 503].contains(&answer.status),
                    "{} {}",
                    answer.status,
                    answer.text()
                );
                if answer.status == 200 {
                    loaded += 1;
                    server.assert_scales("linked", 2.0);
                    server.unload("linked").expect(200);
                }
            }
        }
        assert!(loaded > 0, "no load succeeded, so the test proves nothing");
        watch.assert_unopened(&secret);
    }
}

#[test]
fn a_load_deletes_its_copies_of_files() {
    for arguments in [&[][..], &["--prepare", "off"]] {
        let server = Builder::multi().arguments(arguments).start();
        let good = server.models().place_scale("good", 2.0);
        let bad = server.models().place("bad/garbage", "bad");
        server.load("good", &good).expect(200);
        server.load("bad", &bad).expect(400);
        let cache = server.models().cache();
        let copies = || -> Vec<_> {
            let folders = fs::read_dir(cache).unwrap().flatten().map(|entry| entry.path());
            folders.filter(|path| path.join("model.onnx").exists()).collect()
        };
        assert_eq!(copies(), Vec::<std::path::PathBuf>::new());
    }
}

/// Returns the process that prepares models, if it is running.
fn preparing(server: &Server) -> Option<Process> {
    server.process().preparing().into_iter().next()
}

#[test]
fn processes_that_prepare_models_have_no_credentials_and_no_inherited_descriptors() {
    let server = Builder::multi()
        .environment("AWS_SECRET_ACCESS_KEY", "a-secret-that-is-not-passed-on")
        .environment("LONGSHORE_STORE_TOKEN", "another")
        .start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    // The process waits a few seconds for more work.
    let child = preparing(&server).expect("a process that prepares models");
    let environment = child.environment();
    assert!(!environment.is_empty());
    for variable in &environment {
        let (name, _) = variable.split_once('=').unwrap();
        let known = ["LD_LIBRARY_PATH", "LOCPATH", "ORT_DISABLE_TELEMETRY"];
        assert!(known.contains(&name), "{variable}");
    }
    let descriptors = child.descriptors();
    assert!(
        descriptors.iter().all(|target| !target.starts_with("socket:")),
        "{descriptors:?}"
    );
}

#[test]
fn other_processes_of_the_same_user_cannot_inspect_the_server() {
    let user = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"];
    if skip_unless(&[&user[..], &["true"]].concat()) {
        return;
    }
    let server = Builder::multi().through(user).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let worker = server.process();
    let child = preparing(&server).expect("a process that prepares models");
    for (name, process) in [("worker", worker), ("supervisor", worker.parent()), ("child", child)] {
        assert!(process.is_hidden(), "{name}");
    }
}
