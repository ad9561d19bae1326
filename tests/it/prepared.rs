//! Preparation: unknown models are prepared in a separate process and mapped from a cache folder,
//! which may fail in any way (PI-4).

mod later;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Builder, Process, Request, Response, Server, cases, eventually, fixture, in_parallel, skip_unless, to_text,
    try_send,
};
use crate::support::networks;
use crate::support::onnx::{Graph, Info, Model, Node, SparseTensor, Tensor};

/// Builds a server whose prepared models are in `cache`.
fn sharing(cache: &Path) -> Builder {
    Builder::multi().argument("--cache-dir").argument(cache)
}

/// Lists the files in `folder` whose names have this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

/// Lists the files of prepared models in `cache`.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let is_entry = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("prepared-"))
    };
    files(cache, "").into_iter().filter(is_entry).collect()
}

/// Asserts that `cache` contains `count` complete entries, each a model and its description, and
/// no other files.
#[track_caller]
fn assert_entries(cache: &Path, count: usize) {
    let found = entries(cache);
    assert_eq!(files(cache, ".ort").len(), count, "{found:?}");
    assert_eq!(files(cache, ".json").len(), count, "{found:?}");
    assert_eq!(found.len(), 2 * count, "{found:?}");
}

#[track_caller]
fn kill_worker(server: &Server) {
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    server.ping();
}

#[test]
fn a_model_is_mapped_from_its_prepared_form_at_the_first_load() {
    let server = Builder::multi().start();
    let cache = server.models().cache();
    let url = server.models().place_scale("m", 2.0);
    let maps_prepared = || server.process().maps_files_below(cache);
    let mut written = None;
    for _ in 0..3 {
        server.load("m", &url).expect(200);
        server.assert_scales("m", 2.0);
        assert!(maps_prepared());
        assert!(!server.process().maps_files_below(server.models().root()));
        assert!(!server.process().opens_files_below(server.models().root()));
        // The model is prepared only once.
        assert_entries(cache, 1);
        let now = fs::metadata(&files(cache, ".ort")[0]).unwrap().modified().unwrap();
        assert_eq!(*written.get_or_insert(now), now);
        server.unload("m").expect(200);
        assert!(!maps_prepared());
    }
}

#[test]
fn prepared_models_give_the_same_results_as_unprepared_ones() {
    let unprepared = Builder::multi().arguments(["--prepare", "off"]).start();
    let prepared = Builder::multi().start();
    let entries = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap());
    let with_cases = entries.filter(|entry| entry.path().join("cases.json").is_file());
    let models: Vec<String> = with_cases
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(models.len() > 25, "{models:?}");
    for model in &models {
        let answers = |server: &Server| -> Vec<Response> {
            let url = server.models().place(model, model);
            server.load(model, &url).expect(200);
            let requests = cases(model).into_iter().map(|case| {
                let inputs: serde_json::Map<_, _> = case
                    .inputs
                    .iter()
                    .map(|(name, tensor)| (name.clone(), tensor.nested()))
                    .collect();
                let has_floats = case.inputs.values().any(|tensor| tensor.is_float());
                let body = to_text(&json!({"inputs": inputs}), has_floats);
                Server::invocation(model)
                    .header("Content-Type", "application/json")
                    .body(body)
            });
            let answers = requests.map(|request| server.send(&request)).collect();
            server.unload(model).expect(200);
            answers
        };
        let expected = answers(&unprepared);
        for _ in 0..2 {
            for (answer, expected) in answers(&prepared).iter().zip(&expected) {
                assert_eq!(
                    (answer.status, answer.text()),
                    (expected.status, expected.text()),
                    "{model}"
                );
            }
        }
    }
    assert!(files(unprepared.models().cache(), "").is_empty());
    // Almost every model has a prepared form.
    assert!(files(prepared.models().cache(), ".ort").len() + 3 > models.len());
}

#[test]
fn the_folder_of_prepared_models_may_be_deleted_while_models_from_it_are_served() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("cache");
    let server = sharing(&folder).start();
    for (name, factor) in [("a", 2.0), ("b", 3.0), ("c", 4.0)] {
        let url = server.models().place_scale(name, factor);
        server.load(name, &url).expect(200);
        fs::remove_dir_all(&folder).unwrap();
        server.assert_scales(name, factor);
    }
    server.assert_scales("a", 2.0);
    // The server then works as before.
    let url = server.models().place_scale("d", 5.0);
    server.load("d", &url).expect(200);
    assert_entries(&folder, 1);
    kill_worker(&server);
    for (name, factor) in [("a", 2.0), ("b", 3.0), ("c", 4.0), ("d", 5.0)] {
        server.assert_scales(name, factor);
    }
    assert_entries(&folder, 4);
    assert_eq!(server.count_in_log("WARN"), 0);
}

#[test]
fn a_damaged_prepared_model_is_prepared_again_with_a_log_message() {
    type Harm = fn(&Path, &Path);
    // The flag is whether a log message is expected: without a description, the server does not
    // know that an entry is missing.
    let table: [(&str, bool, Harm); 6] = [
        ("flipped", true, |ort, _| flip(ort)),
        ("cut", true, |ort, _| cut(ort)),
        ("gone", true, |ort, _| fs::remove_file(ort).unwrap()),
        ("description flipped", true, |_, json| flip(json)),
        ("description cut", true, |_, json| cut(json)),
        ("description gone", false, |_, json| fs::remove_file(json).unwrap()),
    ];
    let cache = tempfile::tempdir().unwrap();
    let mut server = sharing(cache.path()).start();
    for (name, is_logged, harm) in table {
        for is_restarted in [false, true] {
            let url = server.models().place_scale("m", 2.0);
            server.load("m", &url).expect(200);
            server.unload("m").expect(200);
            assert_entries(cache.path(), 1);
            if is_restarted {
                server = sharing(cache.path()).start();
            }
            let ort = files(cache.path(), ".ort").remove(0);
            harm(&ort, &ort.with_extension("json"));
            let logged = server.count_in_log("damaged or gone");
            let url = server.models().place_scale("m", 2.0);
            server.load("m", &url).expect(200);
            server.assert_scales("m", 2.0);
            assert!(server.process().maps_files_below(cache.path()), "{name}");
            assert_entries(cache.path(), 1);
            if is_logged {
                eventually("the log reports it", || {
                    server.count_in_log("damaged or gone") == logged + 1
                });
            }
            server.unload("m").expect(200);
        }
    }
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

/// Waits until a model is being prepared, and returns the process that prepares it.
fn wait_for_preparation(server: &Server, cache: &Path) -> Process {
    let mut found = None;
    eventually("the model is being prepared", || {
        found = server.process().preparing().first().copied();
        found.is_some()
            && files(cache, "")
                .iter()
                .any(|folder| folder.join("out/prepared.ort").exists())
    });
    found.unwrap()
}

/// Starts a slow load, runs `harm` on the child process during it, and returns the response.
fn disturb(server: &Server, cache: &Path, harm: impl FnOnce(Process)) -> std::io::Result<Response> {
    let url = server.models().place_slow("slow", SLOW);
    let request = Request::post("/models").json(&json!({"model_name": "slow", "url": url}));
    thread::scope(|scope| {
        let loading = scope.spawn(|| try_send(server.address(), &request));
        harm(wait_for_preparation(server, cache));
        loading.join().unwrap()
    })
}

/// Nesting levels of functions that make ONNX Runtime load for most of a second.
const SLOW: u8 = 12;

#[test]
fn a_preparation_is_repeated_after_its_child_process_is_killed() {
    let cache = tempfile::tempdir().unwrap();
    let server = sharing(cache.path()).start();
    let answer = disturb(&server, cache.path(), |child| child.signal(Signal::KILL));
    answer.unwrap().expect(200);
    assert_entries(cache.path(), 1);
    server.unload("slow").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_worker_killed_during_a_preparation_leaves_no_child_and_a_usable_folder() {
    let cache = tempfile::tempdir().unwrap();
    let server = sharing(cache.path()).start();
    let answer = disturb(&server, cache.path(), |child| {
        kill_worker(&server);
        eventually("the child is gone", || !child.is_alive());
    });
    assert!(answer.is_err(), "{answer:?}");
    assert_entries(cache.path(), 0);
    let url = server.models().place_slow("slow", SLOW);
    server.load("slow", &url).expect(200);
    assert_entries(cache.path(), 1);
}

#[test]
fn a_server_killed_during_a_preparation_leaves_no_child_and_a_usable_folder() {
    let cache = tempfile::tempdir().unwrap();
    let server = sharing(cache.path()).start();
    let url = server.models().place_slow("slow", SLOW);
    let request = Request::post("/models").json(&json!({"model_name": "slow", "url": url}));
    let address = server.address();
    let loading = thread::spawn(move || try_send(address, &request));
    let child = wait_for_preparation(&server, cache.path());
    let worker = server.process();
    drop(server);
    eventually("all are gone", || !worker.is_alive() && !child.is_alive());
    let answer = loading.join().unwrap();
    assert!(answer.is_err(), "{answer:?}");
    assert!(files(cache.path(), ".json").is_empty());

    let server = sharing(cache.path()).start();
    assert_entries(cache.path(), 0);
    let url = server.models().place_slow("slow", SLOW);
    server.load("slow", &url).expect(200);
    assert_entries(cache.path(), 1);
}

#[test]
fn two_servers_share_one_folder_while_both_prepare_the_same_models() {
    const MODELS: usize = 50;
    let cache = tempfile::tempdir().unwrap();
    let servers = [sharing(cache.path()).start(), sharing(cache.path()).start()];
    thread::scope(|scope| {
        for server in &servers {
            scope.spawn(move || {
                let indices: Vec<usize> = (0..MODELS).collect();
                in_parallel(4, &indices, |index| {
                    let name = format!("m{index}");
                    let url = server.models().place_scale(&name, *index as f32);
                    server.load(&name, &url).expect(200);
                    server.assert_scales(&name, *index as f32);
                });
            });
        }
    });
    assert_entries(cache.path(), MODELS);
    for server in &servers {
        assert_eq!(server.count_in_log("WARN"), 0);
        kill_worker(server);
        for index in 0..MODELS {
            server.assert_scales(&format!("m{index}"), index as f32);
        }
    }
    assert_entries(cache.path(), MODELS);
}

/// Asserts that a server with an unusable cache folder serves models and logs the warning once.
#[track_caller]
fn assert_serves_without(server: &Server, warning: &str) {
    let urls: Vec<String> = (0..3)
        .map(|index| server.models().place_scale(&format!("m{index}"), index as f32))
        .collect();
    for _ in 0..2 {
        for (index, url) in urls.iter().enumerate() {
            let name = format!("m{index}");
            server.load(&name, url).expect(200);
            server.assert_scales(&name, index as f32);
        }
        for index in 0..urls.len() {
            server.unload(&format!("m{index}")).expect(200);
        }
    }
    assert_eq!(server.count_in_log(warning), 1);
    assert_eq!(server.count_in_log("WARN"), 1);
}

const NOT_KEPT: &str = "prepared models are not kept";

#[test]
fn an_unusable_cache_folder_is_reported_once_and_models_are_served_without_it() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert_serves_without(&sharing(&file).start(), NOT_KEPT);

    let open = parent.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert_serves_without(&sharing(&open).start(), NOT_KEPT);
    assert!(files(&open, "").is_empty());
}

#[test]
fn a_cache_folder_in_memory_is_not_used() {
    if skip_unless(&["sh", "-c", "test \"$(stat -f -c %T /dev/shm)\" = tmpfs"]) {
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    assert_serves_without(&sharing(folder.path()).start(), NOT_KEPT);
    assert!(files(folder.path(), "").is_empty());
}

#[test]
fn a_read_only_cache_folder_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount --bind -o ro {0} {0} && exec \"$@\"", folder.path().display());
    let sandbox = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let touch = format!("! touch {}/file", folder.path().display());
    if skip_unless(&[&sandbox[..], &["sh", "-c", &touch]].concat()) {
        return;
    }
    assert_serves_without(&sharing(folder.path()).through(sandbox).start(), NOT_KEPT);
}

#[test]
fn a_full_cache_folder_is_reported_once_and_models_are_served_without_it() {
    let server = Builder::multi().arguments(["--cache-size", "100B"]).start();
    assert_serves_without(&server, "prepared models cannot be kept");
    assert!(entries(server.models().cache()).is_empty());
}

#[test]
fn equal_contents_share_memory_under_several_names() {
    let server = Builder::multi().start();
    let names: Vec<String> = (0..100).map(|index| format!("m{index}")).collect();
    let place = |name: &String| server.models().place("mlp", name);
    let ask = |name: &String| {
        let answer = server.invoke(name, &json!({"instances": [vec![0.5; 32]]}));
        answer.expect(200).json()
    };
    server.load(&names[0], &place(&names[0])).expect(200);
    let (one, expected) = (server.reserved(), ask(&names[0]));
    assert!(one > 0);
    in_parallel(4, &names[1..], |name| server.load(name, &place(name)).expect(200));
    assert_eq!(server.reserved(), one);
    assert_entries(server.models().cache(), 1);
    for name in &names[..99] {
        server.unload(name).expect(200);
        server.invoke(name, &json!({"instances": [vec![0.5; 32]]})).expect(404);
        assert_eq!(server.reserved(), one);
    }
    assert_eq!(ask(&names[99]), expected);
    server.unload(&names[99]).expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_model_that_never_finishes_loading_is_a_400_and_stays_refused_for_a_time() {
    const AGAIN: &str = "it may be tried again in";
    let server = Builder::multi()
        .arguments(["--prepare-timeout", "1s", "--bad-model-ttl", "3s"])
        .start();
    let url = server.models().place("bad/function_bomb", "bomb");
    let same = server.models().place("bad/function_bomb", "same");
    let refusal = server.load("bomb", &url).expect(400).message();
    assert!(
        refusal.contains("--prepare-timeout") && !refusal.contains(AGAIN),
        "{refusal}"
    );
    // Loads of the same content are refused without another attempt, under any name.
    for (name, url) in [("bomb", &url), ("same", &same)] {
        let refusal = server.load(name, url).expect(400).message();
        assert!(
            refusal.contains("--prepare-timeout") && refusal.contains(AGAIN),
            "{refusal}"
        );
        assert_eq!(server.process().preparing(), []);
    }
    eventually("the quarantine ends", || {
        !server.load("bomb", &url).expect(400).message().contains(AGAIN)
    });
    assert_eq!(server.reserved(), 0);
    assert_entries(server.models().cache(), 0);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
}

#[test]
fn a_model_that_needs_too_much_memory_to_load_is_a_400() {
    let server = Builder::multi().arguments(["--prepare-memory", "64MiB"]).start();
    // A gigabyte of zeros except for one element.
    let (values, indices) = (Tensor::floats("w", &[1], &[1.0]), Tensor::ints("at", &[1], &[7]));
    let graph = Graph::new()
        .input(Info::floats("x", [1.into()]))
        .sparse_initializer(&SparseTensor::new(values, indices, &[1 << 28]))
        .node(Node::new("Add", ["x", "w"], ["y"]))
        .output(Info::floats("y", [(1 << 28).into()]));
    let url = server.models().place_model("bomb", &Model::new(graph).into_bytes());
    let refusal = server.load("bomb", &url).expect(400).message();
    assert!(refusal.contains("--prepare-memory"), "{refusal}");
    let refusal = server.load("bomb", &url).expect(400).message();
    assert!(refusal.contains("it may be tried again in"), "{refusal}");
    assert_eq!(server.reserved(), 0);
}

#[test]
fn endless_preparations_do_not_delay_known_models() {
    let server = Builder::multi()
        .arguments(["--prepare-processes", "2", "--prepare-timeout", "1h"])
        .start();
    let known = server.models().place_scale("known", 2.0);
    server.load("known", &known).expect(200);
    server.unload("known").expect(200);
    let loading: Vec<_> = (0..6)
        .map(|index| {
            let name = format!("bomb{index}");
            let url = server.models().place_another("bad/function_bomb", &name);
            let request = Request::post("/models").json(&json!({"model_name": name, "url": url}));
            let address = server.address();
            thread::spawn(move || try_send(address, &request))
        })
        .collect();
    let preparing = || server.process().preparing();
    eventually("all processes are busy", || preparing().len() == 2);
    let busy: BTreeSet<u32> = preparing().iter().map(|child| child.0).collect();
    for _ in 0..3 {
        server.load("known", &known).expect(200);
        server.assert_scales("known", 2.0);
        server.unload("known").expect(200);
    }
    assert_eq!(preparing().iter().map(|child| child.0).collect::<BTreeSet<u32>>(), busy);
    drop(server);
    for load in loading {
        assert!(load.join().unwrap().is_err());
    }
    for child in busy {
        eventually("the children are gone", || !Process(child).is_alive());
    }
}

#[test]
fn child_processes_end_when_idle_and_with_the_server() {
    let server = Builder::multi().start();
    let load = |name: &str| {
        let url = server.models().place_scale(name, name.len() as f32);
        server.load(name, &url).expect(200);
        server.process().preparing()
    };
    // A process is used again, unless the next model arrives before it is idle.
    let children = [load("a"), load("bb")].concat();
    assert!(!children.is_empty());
    for child in children {
        eventually("the child has ended", || !child.is_alive());
    }
    assert_eq!(server.process().preparing(), []);
    let children = load("ccc");
    assert_eq!(children.len(), 1);
    server.terminate();
    server.wait_for_end();
    eventually("the child is gone", || !children[0].is_alive());
}

/// Returns the size of the only prepared form in `cache`, with its constants.
#[track_caller]
fn prepared_bytes(cache: &Path) -> u64 {
    let forms = [files(cache, ".ort"), files(cache, ".onnx")].concat();
    assert_eq!(forms.len(), 1, "{forms:?}");
    let files = [forms, files(cache, ".constants")].concat();
    files.iter().map(|file| fs::metadata(file).unwrap().len()).sum()
}

#[test]
fn float16_constants_are_folded_only_if_that_costs_less() {
    // With one row, casting all weights takes most of the time of a run; with a thousand rows it
    // hardly matters.
    let table = [
        ("rows of any number", networks::half_mlp(6, 512, None, 1), 2.0),
        ("a thousand rows", networks::half_mlp(6, 512, Some(1024), 2), 1.0),
        ("a table", networks::half_table(30_000, 64, true, 3), 2.0),
        ("rows of a table", networks::half_table(30_000, 64, false, 4), 1.0),
    ];
    for (what, model, expected) in table {
        let server = Builder::multi().start();
        let url = server.models().place_model("m", &model);
        server.load("m", &url).expect(200);
        let times = prepared_bytes(server.models().cache()) as f64 / model.len() as f64;
        assert!((times - expected).abs() < 0.1, "{what}: {times} times the model");
        // The ledger contains all of it, as private memory of the session or as mapped.
        let booked = server.reserved() + server.metric("longshore_memory_mapped_bytes");
        assert!(booked as f64 > 0.95 * expected * model.len() as f64, "{what}: {booked}");
    }
}

#[test]
fn an_unprepared_load_that_widens_constants_reserves_their_memory() {
    let model = networks::half_mlp(6, 512, None, 5);
    let server = Builder::multi().arguments(["--prepare", "off"]).start();
    let url = server.models().place_model("m", &model);
    server.load("m", &url).expect(200);
    assert!(server.reserved() > 2 * model.len() as u64, "{}", server.reserved());
}
