//! Measures the effect on other tenants of requests that crash the worker, each to a different
//! model.
//!
//! No request crashes ONNX Runtime at will. So the benchmark sends a signal to the thread that
//! runs a culprit's request; from there on, the server behaves as in a real crash.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bodies;
use crate::process;
use crate::server::{Models, Server};
use crate::support::networks;
use crate::table::{head, median, row, time};

const CULPRITS: usize = 20;
const GOOD: usize = 100;
const PROBES: usize = 4;
const FEATURES: usize = 32;
/// The pause between two requests to culprits: 21 of them take a little more than a minute.
const SPACING: Duration = Duration::from_millis(3100);
/// The pause between two requests of a probe.
const PAUSE: Duration = Duration::from_millis(5);
/// The times of a probe's request: the first attempt, the last attempt, and the response.
#[derive(Debug, Clone, Copy)]
struct ProbeTimes {
    wanted: Instant,
    asked: Instant,
    answered: Instant,
}

pub fn run() {
    let models = Models::new();
    let server = Server::start(&models, &[]);
    let spin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/spin/model.onnx");
    let spin = fs::read(spin).expect("the spin model");
    let culprits: Vec<String> = (0..CULPRITS).map(|index| format!("culprit-{index:02}")).collect();
    for name in &culprits {
        let mut model = spin.clone();
        // A different `doc_string` (field 6 of `ModelProto`) makes the content unique.
        model.extend([6 << 3 | 2, u8::try_from(name.len()).expect("a short name")]);
        model.extend(name.as_bytes());
        server.load(name, &models.write(name, &model));
    }
    let good: Vec<String> = (0..GOOD).map(|index| format!("good-{index}")).collect();
    for (seed, name) in good.iter().enumerate() {
        server.load(
            name,
            &models.write(name, &networks::mlp(&[FEATURES, 64, 8], seed as u64)),
        );
    }
    println!(
        "{CULPRITS} models, each of which crashes the worker when it runs, and one of them again: a request every \
         {:.1} s. Meanwhile {PROBES} clients send requests to {GOOD} other models, each over a new connection, and retry \
         if it is cut.\n",
        SPACING.as_secs_f64()
    );

    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (answers, kills) = thread::scope(|scope| {
        let probes: Vec<_> = (0..PROBES)
            .map(|probe| {
                let (server, good, stop) = (&server, &good, &stop);
                scope.spawn(move || probe_until(server.address(), good, probe, stop))
            })
            .collect();
        let mut kills = Vec::new();
        for (number, name) in culprits.iter().chain(culprits.first()).enumerate() {
            thread::sleep(SPACING);
            eprintln!("  {} of {}", number + 1, CULPRITS + 1);
            kills.extend(kill(&server, name));
        }
        thread::sleep(SPACING);
        stop.store(true, Ordering::Relaxed);
        let answers: Vec<Vec<ProbeTimes>> = probes
            .into_iter()
            .map(|probe| probe.join().expect("a probe thread without a panic"))
            .collect();
        (answers, kills)
    });
    let all = began.elapsed() * u32::try_from(PROBES).expect("few");
    let of_each: Vec<Duration> = answers
        .iter()
        .flat_map(|answers| kills.iter().map(|&kill| outage(answers, kill)))
        .collect();
    let unanswered: Duration = of_each.iter().sum();
    let mut together: Vec<ProbeTimes> = answers.into_iter().flatten().collect();
    together.sort_unstable_by_key(|answer| answer.answered);
    let mut next: Vec<Duration> = kills.iter().map(|&kill| outage(&together, kill)).collect();
    next.sort_unstable();
    let cut = together.iter().filter(|answer| answer.asked > answer.wanted).count();
    head(&[
        "kills",
        "restarts",
        "answers",
        "cut off",
        "time unanswered",
        "without any answer, median",
        "slowest",
    ]);
    row(&[
        &kills.len(),
        &format!("{:.0}", server.metric("longshore_worker_restarts_total")),
        &together.len(),
        &cut,
        &format!("{:.1} %", 100.0 * unanswered.as_secs_f64() / all.as_secs_f64()),
        &time(median(&next)),
        &time(next.last().copied().unwrap_or_default()),
    ]);
}

/// The longest time without a response soon after `kill`. The time to the next response alone
/// would be too short: the process may still send some, because the signal takes effect only when
/// its thread runs.
fn outage(answers: &[ProbeTimes], kill: Instant) -> Duration {
    const SOON: Duration = Duration::from_secs(2);
    let times = answers.iter().map(|answer| answer.answered);
    let soon: Vec<Instant> = times.filter(|&time| time >= kill && time <= kill + SOON).collect();
    let gaps = soon.windows(2).map(|pair| pair[1] - pair[0]);
    let first = soon.first().map_or(SOON, |&first| first - kill);
    gaps.max().unwrap_or_default().max(first)
}

/// Sends requests to one model after the other until `stop`.
fn probe_until(address: &str, good: &[String], probe: usize, stop: &AtomicBool) -> Vec<ProbeTimes> {
    let requests: Vec<Vec<u8>> = good.iter().map(|name| bodies::json(name, 1, FEATURES)).collect();
    let mut answers = Vec::new();
    for request in requests.iter().cycle().skip(probe * GOOD / PROBES) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let wanted = Instant::now();
        let mut asked = wanted;
        while !try_request(address, request) {
            asked = Instant::now();
        }
        answers.push(ProbeTimes {
            wanted,
            asked,
            answered: Instant::now(),
        });
        thread::sleep(PAUSE);
    }
    answers
}

/// Sends a request over a new connection. True if the response has status 200, false if the
/// connection is cut. Any other status fails the benchmark.
fn try_request(address: &str, request: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut answer = [0; 12];
    let read = stream.write_all(request).and_then(|()| stream.read_exact(&mut answer));
    if read.is_err() {
        return false;
    }
    assert_eq!(&answer, b"HTTP/1.1 200", "the response of another model");
    true
}

/// Runs the culprit and crashes the thread that runs it. `None` if the server refuses the request.
fn kill(server: &Server, name: &str) -> Option<Instant> {
    let body = br#"{"inputs": 1099511627776}"#;
    let request = bodies::post(&format!("/models/{name}/invoke"), "application/json", body);
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    stream.write_all(&request).expect("send");
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("set a timeout");
    if stream.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {
        return None;
    }
    let thread = process::busiest_thread(server.root(), "compute");
    let at = Instant::now();
    let thread = Pid::from_raw(i32::try_from(thread).expect("an id")).expect("an id");
    kill_process(thread, Signal::SEGV).expect("send a signal");
    Some(at)
}
