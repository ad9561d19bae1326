//! Stuck runs: a run inside one operator cannot be cancelled, so it outlives its deadline. Other
//! models, unloads, the stop of the server and the memory ledger must not be affected.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Builder, Models, Request, Response, Server, eventually, try_send};
use crate::support::detector::{boxes, detector};

/// Number of boxes for a run of some seconds: beyond its deadline, but not endless.
const SECONDS: usize = 18_000;

/// Number of boxes for a run of minutes.
const MINUTES: usize = 120_000;

/// Options with a deadline that a run of [`SECONDS`] misses.
const IMPATIENT: [&str; 4] = ["--request-timeout", "1s", "--stuck-after", "100ms"];

fn place(models: &Models, name: &str, mark: f32) -> String {
    models.place_model(name, &detector(mark))
}

/// Starts a server with the detector `slow` and the model `other`.
fn with_detector(arguments: &[&str]) -> Server {
    let server = Builder::multi().arguments(IMPATIENT).arguments(arguments).start();
    let url = place(server.models(), "slow", 1.0);
    server.load("slow", &url).expect(200);
    let url = server.models().place_scale("other", 2.0);
    server.load("other", &url).expect(200);
    server
}

fn detection(request: Request, count: usize) -> Request {
    let (body, media_type) = boxes(count);
    request.header("Content-Type", media_type).body(body)
}

/// Sends a request with `count` boxes to the detector `name`.
#[track_caller]
fn detect(server: &Server, name: &str, count: usize) -> Response {
    server.send(&detection(Server::invocation(name), count))
}

#[track_caller]
fn assert_detects(server: &Server, name: &str, mark: f32) {
    let answer = detect(server, name, 2).expect(200).json();
    assert_eq!(answer["outputs"][0]["data"], json!([mark]), "{answer}");
}

/// Makes a run of `slow` stuck for the time that `count` boxes take.
#[track_caller]
fn make_stuck(server: &Server, count: usize) {
    let stuck = server.metric("longshore_stuck_runs_total");
    let refusal = detect(server, "slow", count).expect(504);
    assert_eq!(refusal.json()["type"], "DeadlineExceededException");
    eventually("the run is stuck", || {
        server.metric("longshore_stuck_runs_total") > stuck
    });
}

#[test]
fn a_model_with_a_stuck_run_refuses_requests_and_other_models_are_served() {
    let server = with_detector(&["--threads", "1"]);
    assert_detects(&server, "slow", 1.0);
    make_stuck(&server, SECONDS);
    assert_eq!(server.metric("longshore_requests_running"), 0);
    assert_eq!(server.metric("longshore_stuck_runs"), 1);
    assert_eq!(server.metric("longshore_stuck_models"), 1);
    let refusal = detect(&server, "slow", 2).expect(503);
    assert_eq!(refusal.json()["type"], "ServiceUnavailableException");
    for part in ["\"slow\"", "cannot be interrupted"] {
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
    assert_eq!(server.describe("slow").expect(200).json()["stuckRuns"], 1);
    server.send(&Request::get("/v2/models/slow/ready")).expect(503);
    let index = server.send(&Request::post("/v2/repository/index")).expect(200).text();
    assert!(index.contains("UNAVAILABLE"), "{index}");
    server.wait_for_log("model=\"slow\"");
    for _ in 0..20 {
        server.assert_scales("other", 2.0);
        server.ping().expect(200);
    }
    assert!(server.describe("other").expect(200).json().get("stuckRuns").is_none());

    eventually("the run ends", || server.metric("longshore_stuck_runs") == 0);
    assert_detects(&server, "slow", 1.0);
    let expected = json!({"modelName": "slow", "modelUrl": server.models().path("slow").join("model")});
    assert_eq!(server.describe("slow").expect(200).json(), expected);
    server.send(&Request::get("/v2/models/slow/ready")).expect(200);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
}

#[test]
fn the_run_of_a_profile_counts_as_stuck_and_ends_as_any_other() {
    let server = with_detector(&["--profiles"]);
    let profile = |count| server.send_unchecked(&detection(Request::post("/debug/profile/slow"), count));
    profile(2).expect(200);
    profile(SECONDS).expect(504);
    eventually("the run is stuck", || server.metric("longshore_stuck_runs") == 1);
    detect(&server, "slow", 2).expect(503);
    // The run has the only permit for profiles, and keeps its model.
    let refusal = server.send_unchecked(&Request::post("/debug/profile/other").body("[1]"));
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    eventually("the run ends", || server.metric("longshore_stuck_runs") == 0);
    eventually("there is a profile again", || profile(2).status == 200);
    server.unload("slow").expect(200);
}

#[test]
fn another_model_gets_a_thread_even_if_all_threads_are_stuck() {
    let server = with_detector(&["--threads", "1"]);
    let names: Vec<String> = (2..4).map(|index| format!("slow{index}")).collect();
    for (index, name) in names.iter().enumerate() {
        let url = place(server.models(), name, index as f32 + 2.0);
        server.load(name, &url).expect(200);
        let url = server.models().place("spin", &format!("spin{index}"));
        server.load(&format!("spin{index}"), &url).expect(200);
    }
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| detect(&server, name, MINUTES).expect(504));
        }
    });
    eventually("both runs are stuck", || server.metric("longshore_stuck_runs") == 2);
    assert_eq!(server.metric("longshore_stuck_models"), 2);
    // These models never run on the HTTP threads.
    for index in 0..2 {
        server.send(&Server::spin(&format!("spin{index}"), 100)).expect(200);
    }
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
}

#[test]
fn requests_queued_behind_a_stuck_run_are_refused() {
    let server = Builder::multi()
        .arguments(["--threads", "1", "--request-timeout", "10s", "--stuck-after", "100ms"])
        .start();
    let url = place(server.models(), "slow", 1.0);
    server.load("slow", &url).expect(200);
    let mut caller = server.connect();
    let request = detection(Server::invocation("slow"), MINUTES);
    caller.write(&request.to_bytes()).unwrap();
    server.wait_for_running(1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| detect(&server, "slow", 2));
        eventually("the second request waits", || {
            server.metric("longshore_requests_waiting") == 1
        });
        // The client hangs up: the run is cancelled, but does not end.
        drop(caller);
        waiting.join().unwrap().expect(503);
    });
    assert_eq!(server.metric("longshore_stuck_runs_total"), 1);
}

#[test]
fn an_unload_does_not_wait_for_a_stuck_run_and_reports_that_it_holds_memory() {
    // MM-4: the unload must not answer 200 before the memory is free.
    let server = with_detector(&[]);
    server.unload("other").expect(200);
    make_stuck(&server, SECONDS);
    let reserved = server.reserved();
    let refusal = server.unload("slow").expect(503);
    assert!(
        refusal.message().contains("its memory is not free yet"),
        "{}",
        refusal.message()
    );
    // Unloaded for clients, but still in the ledger.
    server.describe("slow").expect(404);
    detect(&server, "slow", 2).expect(404);
    assert_eq!(server.list(""), json!({"models": []}));
    assert_eq!(server.reserved(), reserved);
    // The memory becomes free at the end of the run, without another request.
    eventually("the memory is free", || server.reserved() == 0);
    server.unload("slow").expect(200);
    server.unload("slow").expect(404);
}

#[test]
fn a_name_can_be_loaded_again_while_a_stuck_run_of_its_old_model_continues() {
    let server = with_detector(&[]);
    make_stuck(&server, MINUTES);
    server.unload("slow").expect(503);
    let url = server.models().path("slow").join("model").display().to_string();
    server.load("slow", &url).expect(200);
    assert_detects(&server, "slow", 1.0);
    server.unload("slow").expect(200);
    server.load("slow", &url).expect(200);
    make_stuck(&server, MINUTES);
    server.unload("slow").expect(503);
    let another = server.models().place_scale("another", 3.0);
    server.load("slow", &another).expect(200);
    server.assert_scales("slow", 3.0);
    // The old model stays unloaded after a crash of the process.
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    server.assert_scales("slow", 3.0);
    server.assert_scales("other", 2.0);
    server.unload("slow").expect(200);
    server.unload("other").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn too_many_stuck_runs_replace_the_worker_and_their_models_are_refused() {
    let server = with_detector(&["--threads", "1", "--max-stuck", "1"]);
    let url = place(server.models(), "second", 2.0);
    server.load("second", &url).expect(200);
    let before = server.list("");
    let (worker, address) = (server.process(), server.address());
    make_stuck(&server, MINUTES);
    assert_eq!(server.process(), worker);
    // On a slow machine, the request may be cut off.
    let _ = try_send(address, &detection(Server::invocation("second"), MINUTES));
    eventually("the worker is replaced", || !worker.is_alive());
    server.assert_scales("other", 2.0);
    assert_eq!(server.list(""), before);
    for name in ["slow", "second"] {
        let refusal = detect(&server, name, 2).expect(500);
        assert_eq!(refusal.json()["type"], "ModelRefusedException");
        assert!(
            refusal.message().contains("could not be ended"),
            "{}",
            refusal.message()
        );
    }
    assert_eq!(server.metric("longshore_stuck_runs"), 0);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 1);
    server.wait_for_log("models=[\"second\"]");
    server.wait_for_log("starting another");
}

#[test]
fn too_many_stuck_runs_of_a_single_model_make_it_load_again() {
    let models = Models::new();
    let url = place(&models, "slow", 1.0);
    let server = Builder::single(url)
        .arguments(IMPATIENT)
        .arguments(["--threads", "2", "--max-stuck", "1"])
        .start();
    eventually("the model is loaded", || server.ping().status == 200);
    let (worker, address) = (server.process(), server.address());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| try_send(address, &detection(Request::post("/invocations"), MINUTES)).is_ok());
        }
    });
    eventually("the worker is replaced", || !worker.is_alive());
    let answer = server
        .send(&detection(Request::post("/invocations"), 2))
        .expect(200)
        .json();
    assert_eq!(answer["outputs"][0]["data"], json!([1.0]));
    assert_eq!(server.metric("longshore_worker_restarts_total"), 1);
}

#[test]
fn a_stuck_run_does_not_delay_the_stop() {
    let server = with_detector(&["--drain-timeout", "2s"]);
    make_stuck(&server, MINUTES);
    server.terminate();
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn a_worker_without_heartbeats_is_replaced() {
    let server = Builder::multi().arguments(["--worker-timeout", "2s"]).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let worker = server.process();
    worker.pause();
    server.assert_scales("m", 2.0);
    assert_ne!(server.process(), worker);
    server.wait_for_log("--worker-timeout");
    assert_eq!(server.metric("longshore_worker_restarts_total"), 1);
}

#[test]
fn a_paused_server_and_one_without_a_worker_timeout_keep_their_worker() {
    const PAUSE: Duration = Duration::from_secs(3);
    let (paused, patient) = (
        Builder::multi().arguments(["--worker-timeout", "1s"]).start(),
        Builder::multi().arguments(["--worker-timeout", "off"]).start(),
    );
    let workers = [paused.process(), patient.process()];
    let stopped = [paused.supervisor(), paused.process(), patient.process()];
    for process in stopped {
        process.pause();
    }
    thread::sleep(PAUSE);
    // In this order, a process that wakes up and checks finds the other one still paused.
    for process in stopped {
        process.signal(Signal::CONT);
    }
    for server in [&paused, &patient] {
        server.ping().expect(200);
        assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
    }
    assert_eq!([paused.process(), patient.process()], workers);
}
