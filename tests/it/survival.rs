//! A request, or the kernel, may kill the process that serves: the next one takes over where it was, and whoever did not
//! ask just then notices nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    A_SECOND, Builder, FOREVER, Process, Request, Server, Stop, eventually, fixture, in_parallel, skip_unless, try_send,
};

/// Data on which an integer division traps.
fn deadly() -> Value {
    json!({"inputs": {"a": [i64::MIN], "b": [-1]}})
}

fn assert_divides(server: &Server, name: &str) {
    let answer = server
        .invoke(name, &json!({"inputs": {"a": [7], "b": [2]}}))
        .expect(200);
    assert_eq!(answer.json(), json!({"outputs": [3]}));
}

/// Whether this machine's processor does not trap, so that there is nothing to see.
fn does_not_trap() -> bool {
    let skipped = !cfg!(target_arch = "x86_64");
    if skipped {
        eprintln!("SKIPPED: integer divisions do not trap on this processor");
    }
    skipped
}

/// Does `harm`, which kills the worker, and returns when another one answers.
#[track_caller]
fn restart(server: &Server, harm: impl FnOnce()) {
    let worker = server.process();
    assert_ne!(worker, server.supervisor());
    harm();
    eventually("the worker is gone", || !worker.is_alive());
    // Whoever comes now waits for the next one.
    server.ping();
    assert_ne!(server.process(), worker);
}

/// Sends what kills the worker, and checks that nobody is told otherwise.
#[track_caller]
fn kill_by_request(server: &Server, name: &str) {
    restart(server, || {
        let answer = try_send(server.address(), &Server::invocation(name).json(&deadly()));
        assert!(
            answer.as_ref().map_or(true, |answer| answer.status >= 500),
            "{answer:?}"
        );
    });
}

fn kill(server: &Server) {
    restart(server, || server.process().signal(Signal::KILL));
}

/// Name and url of all models.
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
fn a_request_that_kills_the_process_takes_nothing_but_itself() {
    if does_not_trap() {
        return;
    }
    let server = Builder::multi().start();
    let url = server.models().place("int_divide", "divide");
    server.load("divide", &url).expect(200);
    let indices: Vec<usize> = (0..50).collect();
    in_parallel(4, &indices, |index| {
        let url = server.models().place_scale(&format!("m{index}"), *index as f32);
        server.load(&format!("m{index}"), &url).expect(200);
    });
    let before = list(&server);
    assert_eq!(before.len(), 51);
    kill_by_request(&server, "divide");

    assert_eq!(list(&server), before);
    assert_eq!(server.describe("m7").expect(200).json()["modelUrl"], before["m7"]);
    // As loaded as ever: for the platform, and for requests.
    server.load("m7", &before["m7"]).expect(409);
    in_parallel(4, &indices, |index| {
        server.assert_scales(&format!("m{index}"), *index as f32);
    });
    assert_divides(&server, "divide");
    server.unload("m7").expect(200);
    server.describe("m7").expect(404);
    server.invoke("m7", &json!({"instances": [1]})).expect(404);
    server.load("m7", &before["m7"]).expect(200);
    server.assert_scales("m7", 7.0);
    assert_eq!(list(&server), before);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 1);
    server.wait_for_log("signal=\"SIGFPE\" models=[\"divide\"]");
    for name in before.keys() {
        server.unload(name).expect(200);
    }
    assert_eq!(server.reserved(), 0);
}

#[test]
fn what_was_unloaded_before_stays_unloaded_and_loads_and_unloads_after_it_count_as_well() {
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
    // The second of the same name, with other files.
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
fn a_model_that_has_killed_twice_is_refused_with_the_reason_and_others_are_not() {
    if does_not_trap() {
        return;
    }
    let server = Builder::multi().start();
    let url = server.models().place("int_divide", "divide");
    let same = server.models().place("int_divide", "same");
    let other = server.models().place_scale("other", 2.0);
    server.load("divide", &url).expect(200);
    server.load("other", &other).expect(200);
    kill_by_request(&server, "divide");
    assert_divides(&server, "divide");
    kill_by_request(&server, "divide");

    let before = list(&server);
    let refusal = server
        .invoke("divide", &json!({"inputs": {"a": [7], "b": [2]}}))
        .expect(500);
    assert_eq!(refusal.json()["type"], "ModelRefusedException");
    for part in ["SIGFPE", "2 times", "again in"] {
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
    // The platform believes it loaded, and it is: only that it does not answer.
    assert_eq!(
        before,
        BTreeMap::from([("divide".to_owned(), url.clone()), ("other".to_owned(), other)])
    );
    assert_eq!(list(&server), before);
    server.load("divide", &url).expect(409);
    // The content is what is bad, whatever it is called and wherever it lies.
    let refusal = server.load("same", &same).expect(400);
    assert!(refusal.message().contains("SIGFPE"), "{}", refusal.message());
    server.assert_scales("other", 2.0);
    server.unload("divide").expect(200);
    server.load("divide", &url).expect(400);
    server.describe("divide").expect(404);
    // Also in the process after.
    kill(&server);
    server.load("divide", &url).expect(400);
    server.assert_scales("other", 2.0);
}

#[test]
fn a_refusal_has_an_end() {
    if does_not_trap() {
        return;
    }
    let server = Builder::multi().arguments(["--bad-model-ttl", "3s"]).start();
    let url = server.models().place("int_divide", "divide");
    server.load("divide", &url).expect(200);
    kill_by_request(&server, "divide");
    kill_by_request(&server, "divide");
    server
        .invoke("divide", &json!({"inputs": {"a": [7], "b": [2]}}))
        .expect(500);
    eventually("it is tried again", || {
        let answer = server.invoke("divide", &json!({"inputs": {"a": [7], "b": [2]}}));
        answer.status == 200
    });
}

#[test]
fn a_process_that_the_kernel_kills_is_followed_by_another_and_no_model_is_blamed() {
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
    server.wait_for_log("loaded=\"one.tar.gz\" asked=\"other.tar.gz\"");
}

#[test]
fn a_model_whose_files_are_gone_leaves_the_list_and_one_whose_files_are_others_too() {
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
    // The list is what it is now, not what it was at first.
    kill(&server);
    assert_eq!(list(&server).keys().collect::<Vec<_>>(), ["changed", "stays"]);
}

#[test]
fn a_model_that_was_prepared_needs_its_files_no_more() {
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
fn requests_of_others_at_that_moment_end_and_come_through_when_they_are_made_again() {
    let server = Builder::multi().start();
    let spin = server.models().place("spin", "spin");
    server.load("spin", &spin).expect(200);
    let address = server.address();
    thread::scope(|scope| {
        let running = scope.spawn(move || try_send(address, &Server::spin("spin", FOREVER)));
        server.wait_for_running(1);
        kill(&server);
        let ended = running.join().unwrap();
        assert!(ended.is_err(), "{ended:?}");
    });
    let answer = server.send(&Server::spin("spin", 100)).expect(200).json();
    assert_eq!(answer, json!({"outputs": 36.0}));
}

#[test]
fn callers_that_come_while_no_process_serves_are_answered_by_the_next() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    // Each over a connection of its own: none is refused.
    in_parallel(8, &[(); 40], |()| server.assert_scales("m", 2.0));
}

#[test]
fn a_load_that_the_process_does_not_survive_is_no_model_and_can_be_made_again() {
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
fn a_request_to_a_model_that_takes_long_to_load_again_waits_until_its_deadline() {
    let server = Builder::multi()
        .arguments(["--prepare", "off", "--request-timeout", "1s"])
        .start();
    let url = server.models().place_slow("slow", 13);
    // The load goes on after the request has given up.
    server.load("slow", &url);
    eventually("it is loaded", || server.describe("slow").status == 200);
    kill(&server);
    let early = server.invoke("slow", &json!({"instances": [1]})).status;
    // It is on the list all the while, and not loaded twice however many ask.
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
    eventually("it answers", || {
        server.invoke("slow", &json!({"instances": [1]})).status == 200
    });
    server.unload("slow").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn whatever_was_acknowledged_before_a_kill_holds_after_it() {
    let server = Builder::multi().start();
    let address = server.address();
    let stop = Stop::default();
    let names: Vec<String> = (0..8).map(|index| format!("m{index}")).collect();
    let urls: Vec<String> = names
        .iter()
        .map(|name| server.models().place_scale(name, 2.0))
        .collect();
    // Loads and unloads a model in turns, and returns what it must be: loaded or not, if that is known.
    let client = |name: &str, url: &str| {
        let load = Request::post("/models").json(&json!({"model_name": name, "url": url}));
        let unload = Request::delete(format!("/models/{name}"));
        let mut loaded = Some(false);
        let mut acknowledged = 0;
        while !stop.raised() {
            let wanted = loaded != Some(true);
            let answer = try_send(address, if wanted { &load } else { &unload });
            loaded = match (answer.map(|answer| answer.status), loaded) {
                // After an answer that was lost, either may be.
                (Ok(200), _) => Some(wanted),
                (Ok(409), None) => Some(true),
                (Err(_), _) => None,
                (answer, loaded) => panic!("{answer:?} for {name} where {loaded:?} was known, {wanted} wanted"),
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
            thread::sleep(std::time::Duration::from_millis(300));
            kill(&server);
        }
        drop(stop_clients);
        for (name, client) in names.iter().zip(clients) {
            let expected = client.join().unwrap();
            let status = server.describe(name).status;
            assert!(
                expected.is_none_or(|loaded| status == if loaded { 200 } else { 404 }),
                "{name} is {status}, and was {expected:?}"
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
fn a_nearly_full_server_is_as_full_after_a_restart() {
    // Models that had room one after another have it again, though they are loaded several at a time and a load takes
    // more memory than the model.
    let server = Builder::multi()
        .arguments(["--memory-limit", "160MiB", "--prepare", "off"])
        .start();
    let mut names = Vec::new();
    loop {
        let name = format!("big{}", names.len());
        let url = server.models().place_big(&name);
        // Another content each, so that each takes its own memory.
        let weights = std::path::Path::new(&url).join("weights.bin");
        let mut bytes = fs::read(&weights).unwrap();
        bytes[..4].copy_from_slice(&(names.len() as f32).to_le_bytes());
        fs::write(&weights, bytes).unwrap();
        if server.load(&name, &url).status == 507 {
            break;
        }
        names.push(name);
    }
    assert!(names.len() > 3, "{names:?}");
    // What a process takes for itself is not the same every time.
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
fn a_server_that_is_told_to_stop_while_it_restarts_stops() {
    for pause in [0, 2, 20] {
        let server = Builder::multi().start();
        server.process().signal(Signal::KILL);
        // Some time into the restart: before, while and after the next one starts.
        thread::sleep(std::time::Duration::from_millis(pause));
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
fn whoever_stops_the_worker_alone_stops_the_server() {
    let server = Builder::multi().start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let address = server.address();
    thread::scope(|scope| {
        let running = scope.spawn(move || try_send(address, &Server::spin("spin", 2 * A_SECOND)));
        server.wait_for_running(1);
        server.process().signal(Signal::TERM);
        // PI-6: the socket is nobody's any more, so that no connection waits in it for nothing.
        wait_until_refused(address);
        running.join().unwrap().unwrap().expect(200);
    });
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.last_line().contains("stopped"), "{ended:?}");
}

#[test]
fn a_worker_that_is_killed_while_it_stops_is_not_started_again() {
    let server = Builder::multi().start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let (address, worker) = (server.address(), server.process());
    thread::scope(|scope| {
        let running = scope.spawn(move || try_send(address, &Server::spin("spin", FOREVER)));
        server.wait_for_running(1);
        // Not by way of the supervisor, which hears of it nevertheless.
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
fn in_single_model_mode_the_model_is_loaded_again() {
    let server = Builder::single(fixture("int_divide")).start();
    eventually("the model is loaded", || server.ping().status == 200);
    // However often: there is no other model to protect.
    for _ in 0..3 {
        kill(&server);
        eventually("the model is loaded again", || server.ping().status == 200);
        let request = Request::post("/invocations").json(&json!({"inputs": {"a": [7], "b": [2]}}));
        assert_eq!(server.send(&request).expect(200).json(), json!({"outputs": [3]}));
    }
}

#[test]
fn a_process_that_is_killed_before_it_can_serve_is_given_up_with_the_reason() {
    // ST-12: a model that takes the process along whenever it is loaded. Here somebody else does it.
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
    for part in ["ERROR", "SIGKILL", "before it could serve"] {
        assert!(ended.last_line().contains(part), "{ended:?}");
    }
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
fn a_worker_is_not_started_by_hand() {
    let ended = Builder::multi().command("worker").run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.last_line().contains("longshore serve"), "{ended:?}");
}

#[test]
fn the_first_process_of_a_container_waits_for_orphans() {
    // ST-2
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if skip_unless(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    // The shell becomes the server, and so the server the parent of what the shell's child leaves behind.
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
