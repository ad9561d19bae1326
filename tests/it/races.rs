//! Concurrent requests (MM-16).

use std::collections::BTreeMap;
use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Builder, Response, Stop, eventually, in_parallel};

/// Starts `count` calls at the same time, and counts their statuses.
fn race(count: usize, call: impl Fn(usize) -> Response + Sync) -> BTreeMap<u16, usize> {
    let start = Barrier::new(count);
    let statuses = thread::scope(|scope| {
        let calls: Vec<_> = (0..count)
            .map(|index| {
                let (start, call) = (&start, &call);
                scope.spawn(move || {
                    start.wait();
                    call(index).status
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
    });
    statuses.into_iter().fold(BTreeMap::new(), |mut counts, status| {
        *counts.entry(status).or_default() += 1;
        counts
    })
}

#[test]
fn exactly_one_of_fifty_concurrent_loads_of_a_name_succeeds() {
    let server = Builder::multi().start();
    let urls: Vec<String> = (0..50)
        .map(|index| server.models().place_scale(&format!("m{index}"), index as f32))
        .collect();
    for _ in 0..5 {
        let counts = race(50, |index| server.load("m", &urls[index]));
        assert_eq!(counts, BTreeMap::from([(200, 1), (409, 49)]));
        // The url and the results must be of the same load.
        let winner = server.describe("m").expect(200).json()["modelUrl"]
            .as_str()
            .unwrap()
            .to_owned();
        let factor = urls.iter().position(|url| *url == winner).unwrap();
        server.assert_scales("m", factor as f32);
        server.unload("m").expect(200);
        assert_eq!(server.reserved(), 0);
    }
}

#[test]
fn concurrent_loads_of_a_broken_model_never_get_a_409() {
    let server = Builder::multi().start();
    let url = server.models().place("bad/truncated", "m");
    assert_eq!(race(20, |_| server.load("m", &url)), BTreeMap::from([(400, 20)]));
    assert_eq!(server.reserved(), 0);
}

#[test]
fn exactly_one_of_several_concurrent_unloads_succeeds() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    for _ in 0..10 {
        server.load("m", &url).expect(200);
        assert_eq!(race(20, |_| server.unload("m")), BTreeMap::from([(200, 1), (404, 19)]));
    }
}

#[test]
fn an_invocation_during_an_unload_gets_the_right_result_or_a_404() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 3.0);
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = Stop::default();
    thread::scope(|scope| {
        let stop_callers = stop.on_drop();
        let callers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.raised() {
                        let response = server.invoke("m", &json!({"instances": [2]}));
                        match response.status {
                            200 => {
                                assert_eq!(response.json(), json!({"predictions": [6.0]}));
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            404 => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => panic!("{}", response.text()),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            server.load("m", &url).expect(200);
            server.unload("m").expect(200);
        }
        // Both kinds of responses must occur, or there was no race.
        server.load("m", &url).expect(200);
        eventually("some are answered", || answered.load(Ordering::Relaxed) > 0);
        server.unload("m").expect(200);
        eventually("some are refused", || refused.load(Ordering::Relaxed) > 0);
        drop(stop_callers);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    assert_eq!(server.reserved(), 0);
}

#[test]
fn an_unload_during_a_load_leaves_nothing() {
    // MM-16: the unload waits for the load or finds nothing; in the end the model is unloaded or
    // loaded completely.
    let server = Builder::multi().start();
    let url = server.models().place_slow("slow", 12);
    thread::scope(|scope| {
        let loading = scope.spawn(|| server.load("slow", &url));
        eventually("the load has begun", || server.reserved() > 0);
        // Only models that can answer are listed.
        assert_eq!(server.list(""), json!({"models": []}));
        let unloaded = server.unload("slow").status;
        let loaded = loading.join().unwrap().status;
        assert_eq!(loaded, 200);
        match unloaded {
            200 => server.describe("slow").expect(404),
            404 | 409 => server.unload("slow").expect(200),
            other => panic!("{other}"),
        };
    });
    assert_eq!(server.reserved(), 0);
    server.load("slow", &url).expect(200);
}

#[test]
fn a_load_during_an_unload_waits_for_it_and_loads() {
    let server = Builder::multi().start();
    let url = server.models().place("spin", "spin");
    let other = server.models().place_scale("scale", 2.0);
    server.load("m", &url).expect(200);
    thread::scope(|scope| {
        let running = scope.spawn(|| server.send(&crate::harness::Server::spin("m", 64_000)));
        server.wait_for_running(1);
        // The unload waits for the run (MM-15).
        let unloading = scope.spawn(|| server.unload("m"));
        eventually("the unload has begun", || server.describe("m").status == 404);
        server.load("m", &other).expect(200);
        assert_eq!(running.join().unwrap().expect(200).json(), json!({"outputs": 0.0}));
        unloading.join().unwrap().expect(200);
    });
    server.assert_scales("m", 2.0);
}

#[test]
fn loads_and_unloads_of_many_names_do_not_disturb_each_other() {
    let server = Builder::multi().start();
    let indices: Vec<usize> = (0..32).collect();
    in_parallel(16, &indices, |&index| {
        let name = format!("m{index}");
        let url = server.models().place_scale(&name, index as f32);
        for _ in 0..10 {
            server.load(&name, &url).expect(200);
            server.assert_scales(&name, index as f32);
            server.unload(&name).expect(200);
            server.describe(&name).expect(404);
        }
    });
    assert_eq!(server.list(""), json!({"models": []}));
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_model_is_not_blamed_if_the_system_kills_the_process_that_prepares_it() {
    let server = Builder::multi().start();
    let url = server.models().place_slow("m", 12);
    let status = thread::scope(|scope| {
        let loading = scope.spawn(|| server.load("m", &url));
        while !loading.is_finished() {
            for child in server.process().children() {
                child.signal(Signal::KILL);
            }
            thread::sleep(Duration::from_millis(200));
        }
        loading.join().unwrap().status
    });
    // If the process is killed before it has read its task, it reveals nothing about the model,
    // and the server loads the model without it.
    assert!([200, 507].contains(&status), "{status}");
    if status == 507 {
        assert_eq!(server.reserved(), 0);
        server.load("m", &url).expect(200);
    }
    server.invoke("m", &json!({"instances": [1]})).expect(200);
}

#[test]
fn a_model_whose_files_are_replaced_during_a_load_is_loaded_consistently() {
    for prepare in ["auto", "off"] {
        let server = Builder::multi().arguments(["--prepare", prepare]).start();
        let models = server.models();
        let (url, other) = (models.place_slow("m", 12), models.place_scale("other", 2.0));
        let (was, copy) = (format!("{url}/model.onnx"), models.place_slow("copy", 12));
        thread::scope(|scope| {
            let loading = scope.spawn(|| server.load("m", &url));
            eventually("the load has begun", || server.reserved() > 0);
            fs::rename(format!("{other}/model.onnx"), &was).unwrap();
            loading.join().unwrap().expect(200);
        });
        let answer = server.invoke("m", &json!({"instances": [4, -0.5]})).text();
        assert!(!answer.contains("[8.0,-1.0]"), "{answer}");
        server.unload("m").expect(200);
        assert_eq!(server.reserved(), 0);
        // The files now contain the other model; findings about the first one must not apply to
        // it.
        server.load("m", &url).expect(200);
        server.assert_scales("m", 2.0);
        server.load("copy", &copy).expect(200);
        server.invoke("copy", &json!({"instances": [1]})).expect(200);
        let answer = server.invoke("copy", &json!({"instances": [4, -0.5]})).text();
        assert!(!answer.contains("[8.0,-1.0]"), "{answer}");
    }
}

#[test]
fn models_load_while_their_prepared_forms_are_deleted() {
    // The cache has room for one model only, and another thread deletes the folder.
    let server = Builder::multi().arguments(["--cache-size", "2KiB"]).start();
    let urls: Vec<String> = (0..8)
        .map(|index| server.models().place_scale(&format!("m{index}"), index as f32))
        .collect();
    let stop = Stop::default();
    thread::scope(|scope| {
        let stop_deleting = stop.on_drop();
        let deleting = scope.spawn(|| {
            while !stop.raised() {
                let _ = fs::remove_dir_all(server.models().cache());
                thread::yield_now();
            }
        });
        in_parallel(8, &(0..160).collect::<Vec<_>>(), |&index| {
            let name = format!("n{index}");
            server.load(&name, &urls[index % 8]).expect(200);
            server.assert_scales(&name, (index % 8) as f32);
            server.unload(&name).expect(200);
        });
        drop(stop_deleting);
        deleting.join().unwrap();
    });
    assert_eq!(server.reserved(), 0);
}
