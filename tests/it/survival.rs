//! Survival of crashes: if a request or the kernel kills the serving process, the next one takes
//! over its state, and clients without a request at that moment notice nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    A_SECOND, Builder, FOREVER, Models, Process, Request, Server, Stop, eventually, fixture, in_parallel, skip_unless,
    try_send,
};

/// Runs `harm`, which kills the worker, and returns when another one answers.
#[track_caller]
fn restart(server: &Server, harm: impl FnOnce()) {
    let worker = server.process();
    assert_ne!(worker, server.supervisor());
    harm();
    eventually("the worker is gone", || !worker.is_alive());
    // This request waits for the next worker.
    server.ping();
    assert_ne!(server.process(), worker);
}

/// Crashes the worker with `signal` in the thread that runs the `spin` model `name`, which is then
/// blamed.
#[track_caller]
fn crash(server: &Server, name: &str, signal: Signal) {
    let address = server.address();
    thread::scope(|scope| {
        let running = scope.spawn(move || try_send(address, &Server::spin(name, FOREVER)));
        crash_running(server, signal);
        let ended = running.join().unwrap();
        assert!(ended.is_err(), "{ended:?}");
    });
}

/// Crashes the worker as [`crash`] does, for a model that is already running.
#[track_caller]
fn crash_running(server: &Server, signal: Signal) {
    server.wait_for_running(1);
    let running = server.process().busiest_thread("compute");
    restart(server, || running.signal(signal));
}

/// Loads the `spin` model with unique content.
fn load_spin(server: &Server, name: &str) -> String {
    let url = server.models().place_another("spin", name);
    server.load(name, &url).expect(200);
    url
}

/// Loads a base model that works as long as a request says, with an adapter.
fn load_spinning(server: &Server, name: &str, adapter: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adapters");
    let bytes = |file: &str| fs::read(folder.join(file)).unwrap();
    let url = server.models().place_model(name, &bytes("spinning.onnx"));
    let adapter = bytes(&format!("{adapter}.onnx_adapter"));
    fs::write(Path::new(&url).join("adapter.onnx_adapter"), adapter).unwrap();
    server.load(name, &url).expect(200);
}

fn assert_spins(server: &Server, name: &str) {
    let answer = server.send(&Server::spin(name, 100)).expect(200).json();
    assert_eq!(answer, json!({"outputs": 36.0}));
}

fn kill(server: &Server) {
    restart(server, || server.process().signal(Signal::KILL));
}

/// Returns the names and urls of all models.
fn list(server: &Server) -> BTreeMap<String, String> {
    let list = server.list("");
    assert!(list.get("nextPageToken").is_none(), "{list}");
    let models = list["models"].as_array().unwrap();
    let text = |model: &Value, key: &str| model[key].as_str().unwrap().to_owned();
    models
        .iter()
        .map(|model| (text(model, "modelName"), text(model, "modelUrl")))
        .collect()
}

#[test]
fn a_request_that_crashes_the_process_affects_only_itself() {
    let server = Builder::multi().start();
    load_spin(&server, "deadly");
    let indices: Vec<usize> = (0..50).collect();
    in_parallel(4, &indices, |index| {
        let url = server.models().place_scale(&format!("m{index}"), *index as f32);
        server.load(&format!("m{index}"), &url).expect(200);
    });
    let before = list(&server);
    assert_eq!(before.len(), 51);
    crash(&server, "deadly", Signal::SEGV);

    assert_eq!(list(&server), before);
    assert_eq!(server.describe("m7").expect(200).json()["modelUrl"], before["m7"]);
    // The models are still loaded, for the platform and for requests.
    server.load("m7", &before["m7"]).expect(409);
    in_parallel(4, &indices, |index| {
        server.assert_scales(&format!("m{index}"), *index as f32);
    });
    server.unload("m7").expect(200);
    server.describe("m7").expect(404);
    server.invoke("m7", &json!({"instances": [1]})).expect(404);
    server.load("m7", &before["m7"]).expect(200);
    server.assert_scales("m7", 7.0);
    assert_eq!(list(&server), before);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 1);
    server.wait_for_log("signal=\"SIGSEGV\" models=[\"deadly\"]");
    for name in before.keys() {
        server.unload(name).expect(200);
    }
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_crash_with_an_adapter_is_blamed_on_the_names_with_that_adapter_alone() {
    let server = Builder::multi().start();
    for (name, adapter) in [
        ("deadly", "spinning_one"),
        ("same", "spinning_one"),
        ("other", "spinning_two"),
    ] {
        load_spinning(&server, name, adapter);
    }
    crash(&server, "deadly", Signal::SEGV);
    for name in ["deadly", "same"] {
        server.send(&Server::spin(name, 100)).expect(500);
    }
    let answer = server.send(&Server::spin("other", 100)).expect(200).json();
    assert_eq!(answer, json!({"outputs": 3.0}));
    load_spinning(&server, "another", "spinning_two");
    let url = server.models().path("deadly").join("model");
    server.unload("deadly").expect(200);
    server.load("deadly", url.to_str().unwrap()).expect(400);
}

#[test]
fn loads_and_unloads_before_and_after_a_crash_are_remembered() {
    let server = Builder::multi().start();
    let urls: Vec<String> = (0..4)
        .map(|index| server.models().place_scale(&format!("m{index}"), index as f32))
        .collect();
    for (index, url) in urls.iter().enumerate().take(3) {
        server.load(&format!("m{index}"), url).expect(200);
    }
    server.unload("m0").expect(200);
    kill(&server);
    assert_eq!(list(&server).keys().collect::<Vec<_>>(), ["m1", "m2"]);
    server.unload("m1").expect(200);
    server.load("m3", &urls[3]).expect(200);
    // Load another model under the same name.
    server.load("m1", &urls[0]).expect(200);
    kill(&server);
    let expected = BTreeMap::from([("m1", &urls[0]), ("m2", &urls[2]), ("m3", &urls[3])]);
    let found = list(&server);
    assert_eq!(
        found
            .iter()
            .map(|(name, url)| (name.as_str(), url))
            .collect::<BTreeMap<_, _>>(),
        expected
    );
    for (name, factor) in [("m1", 0.0), ("m2", 2.0), ("m3", 3.0)] {
        server.assert_scales(name, factor);
    }
}

#[test]
fn a_model_that_crashed_the_process_is_refused_with_the_reason() {
    let server = Builder::multi().start();
    let url = server.models().place("spin", "deadly");
    let same = server.models().place("spin", "same");
    let other = server.models().place_scale("other", 2.0);
    server.load("deadly", &url).expect(200);
    server.load("other", &other).expect(200);
    crash(&server, "deadly", Signal::FPE);

    let before = list(&server);
    let refusal = server.send(&Server::spin("deadly", 100)).expect(500);
    assert_eq!(refusal.json()["type"], "ModelRefusedException");
    for part in ["SIGFPE", "once", "again in"] {
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
    // The platform believes that the model is loaded, and it is; it only refuses requests.
    assert_eq!(
        before,
        BTreeMap::from([("deadly".to_owned(), url.clone()), ("other".to_owned(), other)])
    );
    assert_eq!(list(&server), before);
    server.load("deadly", &url).expect(409);
    // The quarantine applies to the content, under any name and url.
    let refusal = server.load("same", &same).expect(400);
    assert!(refusal.message().contains("SIGFPE"), "{}", refusal.message());
    server.assert_scales("other", 2.0);
    server.unload("deadly").expect(200);
    server.load("deadly", &url).expect(400);
    server.describe("deadly").expect(404);
    // The quarantine also applies in the next process.
    kill(&server);
    server.load("deadly", &url).expect(400);
    server.assert_scales("other", 2.0);
}

#[test]
fn a_quarantine_ends_and_the_next_one_is_longer() {
    let server = Builder::multi()
        .arguments(["--first-refusal", "1s", "--bad-model-ttl", "1h"])
        .start();
    load_spin(&server, "deadly");
    let is_answered = || server.send(&Server::spin("deadly", 100)).status == 200;
    for kills in 1..=2 {
        crash(&server, "deadly", Signal::ABORT);
        let logged = format!("refused_seconds={kills}.0");
        server.wait_for_log(&logged);
        eventually("the quarantine ends", is_answered);
    }
    assert_spins(&server, "deadly");
}

#[test]
fn models_that_crash_in_sequence_do_not_affect_other_models() {
    const CULPRITS: usize = 8;
    let server = Builder::multi().start();
    let names: Vec<String> = (0..CULPRITS).map(|index| format!("deadly{index}")).collect();
    for name in &names {
        load_spin(&server, name);
    }
    let good: Vec<usize> = (0..4).collect();
    for index in &good {
        let name = format!("good{index}");
        let url = server.models().place_scale(&name, *index as f32);
        server.load(&name, &url).expect(200);
    }
    let (address, stop) = (server.address(), Stop::default());
    // Sends each request over a new connection. Returns the number of responses that the end of a
    // process cut off.
    let client = |index: usize| {
        let (mut cut, mut answered) = (0, 0);
        let request = Server::invocation(&format!("good{index}")).json(&json!({"instances": [4, -0.5]}));
        while !stop.raised() {
            match try_send(address, &request) {
                Ok(answer) => {
                    let expected = json!({"predictions": [index as f32 * 4.0, index as f32 * -0.5]});
                    assert_eq!(answer.expect(200).json(), expected);
                    answered += 1;
                }
                Err(_) => cut += 1,
            }
        }
        assert!(answered > CULPRITS, "{answered}");
        cut
    };
    thread::scope(|scope| {
        let stop_clients = stop.on_drop();
        let clients: Vec<_> = good.iter().map(|&index| scope.spawn(move || client(index))).collect();
        let signals = [Signal::SEGV, Signal::FPE, Signal::ABORT, Signal::BUS];
        for (name, signal) in names.iter().zip(signals.into_iter().cycle()) {
            let running = scope.spawn(|| try_send(address, &Server::spin(name, FOREVER)));
            crash_running(&server, signal);
            assert!(running.join().unwrap().is_err());
            // The next request is answered at once. The culprit is refused with the reason,
            // without a second crash.
            server.assert_scales("good3", 3.0);
            server.send(&Server::spin(name, 100)).expect(500);
        }
        drop(stop_clients);
        for client in clients {
            // Only requests that were running at the moment of a kill may be cut off.
            let cut = client.join().unwrap();
            assert!(cut <= CULPRITS, "{cut}");
        }
    });
    assert_eq!(server.metric("longshore_worker_restarts_total"), CULPRITS as u64);
    for name in &names {
        server.send(&Server::spin(name, 100)).expect(500);
    }
}

#[test]
fn recently_used_models_are_restored_first_and_crashed_ones_last() {
    let server = Builder::multi()
        .arguments(["--load-threads", "1"])
        .environment("SAGEMAKER_CONTAINER_LOG_LEVEL", "debug")
        .start();
    load_spin(&server, "deadly");
    for index in 0..6 {
        let name = format!("m{index}");
        let url = server.models().place_scale(&name, index as f32);
        server.load(&name, &url).expect(200);
    }
    for index in [4, 1] {
        server.assert_scales(&format!("m{index}"), index as f32);
        // The worker reports the models in use once a second.
        thread::sleep(Duration::from_secs(3));
    }
    crash(&server, "deadly", Signal::SEGV);
    server.wait_for_log("models restored");
    let log = server.log();
    let order: Vec<&str> = log
        .iter()
        .filter(|line| line.contains("model restored"))
        .filter_map(|line| line.split_once("restore{model=\"")?.1.split('"').next())
        .collect();
    assert_eq!(order, ["m1", "m4", "m5", "m3", "m2", "m0"]);
}

#[test]
fn a_process_killed_by_the_kernel_is_replaced_and_no_model_is_blamed() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    for restarts in 1..=3 {
        kill(&server);
        server.assert_scales("m", 2.0);
        assert_eq!(server.metric("longshore_worker_restarts_total"), restarts);
    }
    assert_eq!(server.count_in_log("signal=\"SIGKILL\""), 3);
}

#[test]
fn the_target_model_of_the_load_is_remembered() {
    // MM-7
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let load = Request::post("/models").header("X-Amzn-SageMaker-Target-Model", "one.tar.gz");
    server
        .send(&load.json(&json!({"model_name": "m", "url": url})))
        .expect(200);
    kill(&server);
    let other = Server::invocation("m").header("X-Amzn-SageMaker-Target-Model", "other.tar.gz");
    server.send(&other.json(&json!({"instances": [1]}))).expect(200);
    server.wait_for_log("target_model=\"one.tar.gz\" asked=\"other.tar.gz\"");
}

#[test]
fn a_model_whose_files_are_missing_or_changed_leaves_the_list_after_a_restart() {
    // MM-20
    let server = Builder::multi().arguments(["--prepare", "off"]).start();
    let gone = server.models().place_scale("gone", 2.0);
    let changed = server.models().place_scale("changed", 3.0);
    let stays = server.models().place_scale("stays", 4.0);
    for (name, url) in [("gone", &gone), ("changed", &changed), ("stays", &stays)] {
        server.load(name, url).expect(200);
    }
    fs::remove_dir_all(server.models().path("gone")).unwrap();
    server.models().place_scale("changed", 30.0);
    kill(&server);
    server.assert_scales("stays", 4.0);
    for name in ["gone", "changed"] {
        server.invoke(name, &json!({"instances": [1]})).expect(404);
        server.describe(name).expect(404);
    }
    assert_eq!(list(&server).keys().collect::<Vec<_>>(), ["stays"]);
    server.load("changed", &changed).expect(200);
    server.assert_scales("changed", 30.0);
    // The second restart restores the current list, not the original one.
    kill(&server);
    assert_eq!(list(&server).keys().collect::<Vec<_>>(), ["changed", "stays"]);
}

#[test]
fn a_prepared_model_is_restored_without_its_files() {
    // MM-17
    let cache = tempfile::tempdir().unwrap();
    let server = Builder::multi().argument("--cache-dir").argument(cache.path()).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    fs::remove_dir_all(server.models().path("m")).unwrap();
    kill(&server);
    server.assert_scales("m", 2.0);
    assert_eq!(server.describe("m").expect(200).json()["modelUrl"], url);
}

#[test]
fn other_requests_during_a_crash_fail_and_their_retries_succeed() {
    let server = Builder::multi().start();
    let spin = server.models().place("spin", "spin");
    server.load("spin", &spin).expect(200);
    crash(&server, "spin", Signal::KILL);
    // SIGKILL is not the fault of the model.
    assert_spins(&server, "spin");
}

#[test]
fn connections_during_a_restart_are_answered_by_the_next_process() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    // Each request uses a new connection, and none is refused.
    in_parallel(8, &[(); 40], |()| server.assert_scales("m", 2.0));
}

#[test]
fn a_load_that_crashes_the_process_leaves_no_model_and_can_be_repeated() {
    let server = Builder::multi().arguments(["--prepare", "off"]).start();
    let url = server.models().place_slow("slow", 12);
    let loaded = server.models().place_scale("loaded", 2.0);
    server.load("loaded", &loaded).expect(200);
    let (address, reserved) = (server.address(), server.reserved());
    thread::scope(|scope| {
        let request = Request::post("/models").json(&json!({"model_name": "slow", "url": url}));
        let loading = scope.spawn(move || try_send(address, &request));
        eventually("the load has begun", || server.reserved() > reserved);
        kill(&server);
        assert!(loading.join().unwrap().is_err());
    });
    assert_eq!(list(&server).keys().collect::<Vec<_>>(), ["loaded"]);
    server.describe("slow").expect(404);
    server.load("slow", &url).expect(200);
    server.assert_scales("loaded", 2.0);
}

#[test]
fn a_request_to_a_model_that_is_restored_slowly_waits_until_its_deadline() {
    let server = Builder::multi()
        .arguments(["--prepare", "off", "--request-timeout", "1s"])
        .start();
    let url = server.models().place_slow("slow", 13);
    // The load continues after the request has timed out.
    server.load("slow", &url);
    eventually("the model is loaded", || server.describe("slow").status == 200);
    kill(&server);
    let early = server.invoke("slow", &json!({"instances": [1]})).status;
    // The model stays listed, and parallel requests load it only once.
    server.describe("slow").expect(200);
    server.load("slow", &url).expect(409);
    let mut statuses = in_parallel(8, &[(); 8], |()| {
        server.invoke("slow", &json!({"instances": [1]})).status
    });
    statuses.push(early);
    assert!(
        statuses.iter().all(|status| [200, 504].contains(status)),
        "{statuses:?}"
    );
    eventually("the model answers", || {
        server.invoke("slow", &json!({"instances": [1]})).status == 200
    });
    server.unload("slow").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn acknowledged_loads_and_unloads_survive_a_kill() {
    let server = Builder::multi().start();
    let address = server.address();
    let stop = Stop::default();
    let names: Vec<String> = (0..8).map(|index| format!("m{index}")).collect();
    let urls: Vec<String> = names
        .iter()
        .map(|name| server.models().place_scale(name, 2.0))
        .collect();
    // Loads and unloads a model in turn. Returns whether the model must be loaded at the end, if
    // that is known.
    let client = |name: &str, url: &str| {
        let load = Request::post("/models").json(&json!({"model_name": name, "url": url}));
        let unload = Request::delete(format!("/models/{name}"));
        let mut loaded = Some(false);
        let mut acknowledged = 0;
        while !stop.raised() {
            let wanted = loaded != Some(true);
            let answer = try_send(address, if wanted { &load } else { &unload });
            loaded = match (answer.map(|answer| answer.status), loaded) {
                // After a lost response, the model may be loaded or not.
                (Ok(200), _) => Some(wanted),
                (Ok(409), None) => Some(true),
                (Err(_), _) => None,
                (answer, loaded) => panic!("{answer:?} for {name}: loaded before: {loaded:?}, wanted: {wanted}"),
            };
            acknowledged += usize::from(loaded.is_some());
        }
        assert!(acknowledged > 0);
        loaded
    };
    thread::scope(|scope| {
        let stop_clients = stop.on_drop();
        let clients: Vec<_> = names
            .iter()
            .zip(&urls)
            .map(|(name, url)| scope.spawn(|| client(name, url)))
            .collect();
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(300));
            kill(&server);
        }
        drop(stop_clients);
        for (name, client) in names.iter().zip(clients) {
            let expected = client.join().unwrap();
            let status = server.describe(name).status;
            assert!(
                expected.is_none_or(|loaded| status == if loaded { 200 } else { 404 }),
                "status of {name} is {status}, but loaded must be {expected:?}"
            );
        }
    });
    for name in list(&server).keys() {
        server.assert_scales(name, 2.0);
        server.unload(name).expect(200);
    }
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_nearly_full_server_restores_all_models() {
    // Models that fitted when they were loaded one at a time must fit again, although the restore
    // loads several in parallel and a load needs more memory than the model.
    let server = Builder::multi()
        .arguments(["--memory-limit", "160MiB", "--prepare", "off"])
        .start();
    let mut names = Vec::new();
    loop {
        let name = format!("big{}", names.len());
        let url = server.models().place_big(&name);
        // Each model has different content, so that each takes its own memory.
        let weights = Path::new(&url).join("weights.bin");
        let mut bytes = fs::read(&weights).unwrap();
        bytes[..4].copy_from_slice(&(names.len() as f32).to_le_bytes());
        fs::write(&weights, bytes).unwrap();
        if server.load(&name, &url).status == 507 {
            break;
        }
        names.push(name);
    }
    assert!(names.len() > 3, "{names:?}");
    // Leave some memory free, because the memory of the process itself varies.
    let last = names.pop().unwrap();
    server.unload(&last).expect(200);
    kill(&server);
    in_parallel(4, &names, |name| {
        server
            .invoke(name, &json!({"instances": [vec![1.0; 1024]]}))
            .expect(200);
    });
    assert_eq!(list(&server).len(), names.len());
}

#[test]
fn the_process_that_serves_does_not_outlive_its_supervisor() {
    let server = Builder::multi().start();
    let worker = server.process();
    server.supervisor().signal(Signal::KILL);
    let ended = server.wait_for_end();
    assert!(!ended.status.success(), "{ended:?}");
    eventually("the worker is gone", || !worker.is_alive());
}

#[test]
fn a_stop_signal_during_a_restart_stops_the_server() {
    for pause in [0, 2, 20] {
        let server = Builder::multi().start();
        server.process().signal(Signal::KILL);
        // At different moments of the restart: before, during and after the start of the next
        // worker.
        thread::sleep(Duration::from_millis(pause));
        server.terminate();
        let ended = server.wait_for_end();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
}

fn wait_until_refused(address: SocketAddr) {
    eventually("connections are refused", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn sigterm_to_the_worker_stops_the_server() {
    let server = Builder::multi().start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let address = server.address();
    thread::scope(|scope| {
        let running = scope.spawn(move || try_send(address, &Server::spin("spin", 2 * A_SECOND)));
        server.wait_for_running(1);
        server.process().signal(Signal::TERM);
        // PI-6: no process holds the listening socket, so that no connection waits there in vain.
        wait_until_refused(address);
        running.join().unwrap().unwrap().expect(200);
    });
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.last_line().contains("stopped"), "{ended:?}");
}

#[test]
fn a_worker_killed_during_the_stop_is_not_restarted() {
    let server = Builder::multi().start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let (address, worker) = (server.address(), server.process());
    thread::scope(|scope| {
        let running = scope.spawn(move || try_send(address, &Server::spin("spin", FOREVER)));
        server.wait_for_running(1);
        // Sent directly to the worker; the supervisor notices it nevertheless.
        worker.signal(Signal::TERM);
        wait_until_refused(address);
        worker.signal(Signal::KILL);
        assert!(running.join().unwrap().is_err());
    });
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.last_line().contains("SIGKILL"), "{ended:?}");
}

#[test]
fn a_single_model_is_loaded_again_after_a_crash_and_never_quarantined() {
    let server = Builder::single(fixture("spin")).start();
    eventually("the model is loaded", || server.ping().status == 200);
    let address = server.address();
    let request = |iterations: u64| Request::post("/invocations").json(&json!({"inputs": iterations}));
    // After any number of crashes, because there is no other model to protect.
    for signal in [Signal::SEGV, Signal::KILL, Signal::ABORT, Signal::FPE] {
        // The response to the last request arrives shortly before its run is counted as ended.
        server.wait_for_running(0);
        thread::scope(|scope| {
            let running = scope.spawn(|| try_send(address, &request(FOREVER)));
            server.wait_for_running(1);
            restart(&server, || server.process().signal(signal));
            assert!(running.join().unwrap().is_err());
        });
        let answer = server.send(&request(100)).expect(200);
        assert_eq!(answer.json(), json!({"outputs": 36.0}));
        server.ping().expect(200);
    }
}

#[test]
fn requests_to_a_single_model_wait_until_it_is_loaded_again() {
    let models = Models::new();
    let folder = models.place_slow("slow", 12);
    let server = Builder::single(folder).arguments(["--prepare", "off"]).start();
    let request = Request::post("/invocations").json(&json!({"instances": [1]}));
    // At the first start, requests do not wait: the platform does not send any (PI-3).
    server.ping().expect(503);
    server.send(&request).expect(503);
    eventually("the model is loaded", || server.ping().status == 200);
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    let infer = Request::post("/v2/models/model/infer").json(&json!({
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]
    }));
    let requests = [
        request.clone(),
        infer,
        Server::invocation("model").json(&json!({"instances": [1]})),
        Request::get("/v2/models/model"),
        request,
    ];
    in_parallel(requests.len(), &requests, |request| {
        server.send(request).expect(200);
    });
    assert_eq!(server.metric("longshore_worker_restarts_total"), 1);
}

#[test]
fn a_request_to_a_single_model_waits_at_most_until_its_deadline() {
    let models = Models::new();
    let folder = models.place_slow("slow", 13);
    let server = Builder::single(folder)
        .arguments(["--prepare", "off", "--request-timeout", "100ms"])
        .start();
    eventually("the model is loaded", || server.ping().status == 200);
    kill(&server);
    let request = Request::post("/invocations").json(&json!({"instances": [1]}));
    let mut statuses = Vec::new();
    eventually("the request is answered", || {
        statuses.push(server.send(&request).status);
        statuses.last() == Some(&200)
    });
    assert!(
        statuses.iter().all(|status| [200, 504].contains(status)),
        "{statuses:?}"
    );
}

#[test]
fn the_supervisor_gives_up_on_a_worker_that_is_killed_at_every_start() {
    // ST-12: this simulates a model that crashes the process at every load; here the test kills
    // it.
    let server = Builder::single(fixture("bad/function_bomb")).start();
    let mut killed: Vec<Process> = Vec::new();
    eventually("three workers have been killed", || {
        let worker = server.process();
        if worker != server.supervisor() && worker.is_alive() && !killed.contains(&worker) {
            worker.signal(Signal::KILL);
            killed.push(worker);
        }
        killed.len() == 3
    });
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for part in ["ERROR", "SIGKILL", "during startup"] {
        assert!(ended.last_line().contains(part), "{ended:?}");
    }
}

#[test]
fn a_crashed_process_writes_no_core_dump_unless_core_dumps_is_set() {
    let dumps = |arguments: &[&str]| {
        let server = Builder::multi()
            .through(["sh", "-c", "ulimit -S -c $(ulimit -H -c); exec \"$0\" \"$@\""])
            .arguments(arguments)
            .start();
        server.process().soft_limit("Max core file size")
    };
    let allowed = dumps(&["--core-dumps"]);
    if allowed == "0" {
        eprintln!("SKIPPED: this machine does not allow core dumps");
        return;
    }
    assert_eq!(dumps(&[]), "1", "bytes, instead of {allowed}");
}

#[test]
fn the_supervisor_is_small_and_has_one_thread() {
    let server = Builder::multi().start();
    let supervisor = server.supervisor();
    assert_eq!(supervisor.threads(), 1);
    let memory = supervisor.anonymous_memory();
    assert!(memory < 8 << 20, "{memory}");
}

#[test]
fn without_a_supervisor_there_is_one_process() {
    let server = Builder::multi().argument("--supervise=false").start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server.assert_scales("m", 2.0);
    assert_eq!(server.supervisor().child("longshore"), None);
    server.terminate();
    assert_eq!(server.wait_for_end().status.code(), Some(0));
}

#[test]
fn the_worker_command_refuses_to_run_without_a_supervisor() {
    let ended = Builder::multi().command("worker").run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.last_line().contains("longshore serve"), "{ended:?}");
}

#[test]
fn the_server_reaps_orphans_if_it_is_process_1() {
    // ST-2
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if skip_unless(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    // The shell becomes the server by `exec`, and as process 1 the server inherits the orphan of
    // the shell's child.
    let script = "(sleep 0.2 & ) ; exec \"$@\"";
    let server = Builder::multi()
        .through(namespace)
        .through(["sh", "-c", script, "sh"])
        .start();
    eventually("nothing is left but the worker", || {
        server.supervisor().children() == [server.process()]
    });
    kill(&server);
    server.ping().expect(200);
}
