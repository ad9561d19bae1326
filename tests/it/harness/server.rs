//! A running server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use longshore::wire::ModelPath;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::builder::Ended;
use super::client::{self, Connection, Request};
use super::image::Container;
use super::models::Models;
use super::process::Process;
use super::response::Response;
use super::{PATIENCE, eventually};

/// A running server. The drop kills it, and fails the test if it ended by itself or panicked.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The first process of the server, which supervises the others.
    first: Process,
    container: Option<Container>,
    address: SocketAddr,
    log: Log,
    models: Models,
    caught_panics: bool,
    ended: bool,
}

impl Server {
    /// Waits for the log line with the address on which the server listens.
    #[track_caller]
    pub(super) fn listening(
        mut child: Child,
        container: Option<Container>,
        models: Models,
        caught_panics: bool,
    ) -> Self {
        let log = Log::follow(child.stderr.take().unwrap());
        let address = log.wait_for(PATIENCE, |line| {
            if let Some((_, rest)) = line.split_once("\"listening\",\"address\":\"") {
                return rest.split('"').next()?.parse().ok();
            }
            let (_, rest) = line.split_once("listening address=")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        let Some(address) = address else {
            let _ = child.kill();
            panic!("the server does not listen; its log:\n{}", log.tail());
        };
        let first = match &container {
            Some(container) => container.process(),
            None => Process(child.id()).find("longshore").unwrap(),
        };
        Self {
            child,
            first,
            container,
            address,
            log,
            models,
            caught_panics,
            ended: false,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn models(&self) -> &Models {
        &self.models
    }

    /// The process that serves. A restart replaces it.
    pub fn process(&self) -> Process {
        self.first.child("longshore").unwrap_or(self.first)
    }

    /// The first process, which starts the one that serves.
    pub fn supervisor(&self) -> Process {
        self.first
    }

    /// The container's name; panics if the server is not in a container.
    #[track_caller]
    pub fn container(&self) -> &str {
        self.container.as_ref().unwrap().name()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        client::send(self.address, request)
    }

    /// Sends a request that SageMaker never sends, and skips the checks of its response.
    #[track_caller]
    pub fn send_unchecked(&self, request: &Request) -> Response {
        let mut connection = self.connect();
        let bytes = request.clone().header("Connection", "close").to_bytes();
        connection.write(&bytes).unwrap();
        connection.read_unchecked(request.method()).unwrap()
    }

    #[track_caller]
    pub fn ping(&self) -> Response {
        self.send(&Request::get("/ping"))
    }

    /// `POST /models` (MM-1).
    #[track_caller]
    pub fn load(&self, name: &str, url: &str) -> Response {
        self.send(&Request::post("/models").json(&json!({"model_name": name, "url": url})))
    }

    /// `GET /models` with a query such as `?limit=3` (MM-2).
    #[track_caller]
    pub fn list(&self, query: &str) -> Value {
        self.send(&Request::get(format!("/models{query}"))).expect(200).json()
    }

    /// `GET /models/{name}` (MM-3).
    #[track_caller]
    pub fn describe(&self, name: &str) -> Response {
        self.send(&Request::get(ModelPath::of(name)))
    }

    /// `DELETE /models/{name}` (MM-4).
    #[track_caller]
    pub fn unload(&self, name: &str) -> Response {
        self.send(&Request::delete(ModelPath::of(name)))
    }

    /// An invocation without a body, which the caller adds (MM-5).
    pub fn invocation(name: &str) -> Request {
        Request::post(format!("{}/invoke", ModelPath::of(name)))
    }

    /// `POST /models/{name}/invoke` with a JSON body.
    #[track_caller]
    pub fn invoke(&self, name: &str, body: &Value) -> Response {
        self.send(&Self::invocation(name).json(body))
    }

    /// Invokes a model of `place_scale`, and checks that it multiplies by `factor`.
    #[track_caller]
    pub fn assert_scales(&self, name: &str, factor: f32) {
        let answer = self.invoke(name, &json!({"instances": [4, -0.5]})).expect(200).json();
        assert_eq!(answer, json!({"predictions": [factor * 4.0, factor * -0.5]}), "{name}");
    }

    /// An invocation of the `spin` model.
    pub fn spin(name: &str, iterations: u64) -> Request {
        Self::invocation(name).json(&json!({"inputs": iterations}))
    }

    /// The value of a metric. `name` includes the labels, if any; a missing metric counts as 0.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.send(&Request::get("/metrics")).expect(200).text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Bytes that models have reserved: 0 if no model is loaded or loading.
    #[track_caller]
    pub fn reserved(&self) -> u64 {
        self.metric("longshore_memory_reserved_bytes")
    }

    /// Waits until exactly `count` requests run on the compute threads.
    #[track_caller]
    pub fn wait_for_running(&self, count: u64) {
        eventually("the requests run", || {
            self.metric("longshore_requests_running") == count
        });
    }

    /// Number of log lines that contain `part`.
    pub fn count_in_log(&self, part: &str) -> usize {
        self.log.lines().iter().filter(|line| line.contains(part)).count()
    }

    /// Resumes (`true`) or pauses (`false`) reading the server's log.
    pub fn read_log(&self, read: bool) {
        self.log.read(read);
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Waits for a log line that contains `part`.
    pub fn wait_for_log(&self, part: &str) {
        let found = self.log.wait_for(PATIENCE, |line| line.contains(part).then_some(()));
        assert!(
            found.is_some(),
            "the log does not contain {part:?}:\n{}",
            self.log.tail()
        );
    }

    pub fn terminate(&self) {
        self.first.signal(Signal::TERM);
    }

    /// Waits until the server has ended by itself.
    #[track_caller]
    pub fn wait_for_end(mut self) -> Ended {
        let mut status: Option<ExitStatus> = None;
        eventually("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.ended = true;
        Ended {
            status: status.unwrap(),
            log: self.log.finished(PATIENCE),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended_early = !self.ended && self.child.try_wait().is_ok_and(|status| status.is_some());
        if !self.ended {
            self.first.signal(Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log.tail());
            return;
        }
        assert!(!ended_early, "the server ended by itself:\n{}", self.log.tail());
        let panicked = self.log.lines().iter().any(|line| line.contains("ERROR panic"));
        assert!(
            self.caught_panics || !panicked,
            "the server panicked:\n{}",
            self.log.tail()
        );
    }
}

/// The lines of a log, collected as they arrive.
#[derive(Debug, Clone)]
pub(super) struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    closed: bool,
    /// Whether the reader thread is paused.
    unread: bool,
}

impl Log {
    pub fn follow(stderr: ChildStderr) -> Self {
        let log = Self { shared: Arc::default() };
        let (shared, lines) = (Arc::clone(&log.shared), BufReader::new(stderr).lines());
        thread::spawn(move || {
            let (state, changed) = &*shared;
            for line in lines.map_while(Result::ok) {
                let unread = |state: &mut Lines| state.unread;
                let mut state = changed.wait_while(state.lock().unwrap(), unread).unwrap();
                state.lines.push(line);
                changed.notify_all();
            }
            state.lock().unwrap().closed = true;
            changed.notify_all();
        });
        log
    }

    /// Resumes or pauses the reader. While it is paused, output stays in the pipe.
    pub fn read(&self, read: bool) {
        let (state, changed) = &*self.shared;
        state.lock().unwrap().unread = !read;
        changed.notify_all();
    }

    /// The first `Some` that `find` returns for a line; `None` after the timeout or the end of the
    /// log.
    pub fn wait_for<T>(&self, patience: Duration, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let (state, changed) = &*self.shared;
        let mut seen = 0;
        let mut found = None;
        let look = |state: &mut Lines| {
            found = state.lines[seen..].iter().find_map(|line| find(line));
            seen = state.lines.len();
            found.is_none() && !state.closed
        };
        let _unused = changed
            .wait_timeout_while(state.lock().unwrap(), patience, look)
            .unwrap();
        drop(_unused);
        found
    }

    /// All lines, after the process has closed its end of the pipe.
    pub fn finished(&self, patience: Duration) -> Vec<String> {
        let _ = self.wait_for(patience, |_| None::<()>);
        self.lines()
    }

    pub fn lines(&self) -> Vec<String> {
        self.shared.0.lock().unwrap().lines.clone()
    }

    pub fn tail(&self) -> String {
        const LINES: usize = 40;
        let lines = self.lines();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
