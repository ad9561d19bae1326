//! HTTP clients: a single connection, and several connections that send requests in a closed loop.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::random::Random;

/// A persistent connection.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("set nodelay");
        Self(BufReader::new(stream))
    }

    /// Sends a request and reads the response: the status and the body.
    pub fn send(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
        self.0.get_mut().write_all(request).expect("send");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("read");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {line:?}"));
        let mut length = 0;
        while line.trim_end() != "" {
            line.clear();
            self.0.read_line(&mut line).expect("read");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim_end().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("read");
        (status, body)
    }

    /// Sends a request and returns the body of the response, which must have status 200.
    pub fn expect_ok(&mut self, request: &[u8]) -> Vec<u8> {
        let (status, body) = self.send(request);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        body
    }
}

/// The latencies that clients measured, and the CPU time of the server.
#[derive(Debug, Default)]
pub struct Measured {
    /// The latencies, sorted.
    latencies: Vec<Duration>,
    /// The duration of the measurement.
    pub time: Duration,
    /// CPU time of the server.
    pub cpu: Duration,
}

impl Measured {
    /// Merges several measurements into one.
    pub fn merge(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut merged = Self::default();
        for part in parts {
            merged.latencies.extend(part.latencies);
            merged.time += part.time;
            merged.cpu += part.cpu;
        }
        merged.latencies.sort_unstable();
        merged
    }

    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    pub fn percentile(&self, percent: usize) -> Duration {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).copied().unwrap_or_default()
    }

    pub fn slowest(&self) -> Duration {
        self.latencies.last().copied().unwrap_or_default()
    }

    /// CPU time of the server per request.
    pub fn cpu_each(&self) -> Duration {
        self.cpu.div_f64(self.latencies.len().max(1) as f64)
    }
}

/// Sends requests over `connections` connections for `time`. Each connection sends the next
/// request, chosen at random from `requests`, as soon as the response arrives. All responses must
/// have status 200.
pub fn drive(address: &str, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
    let started = Instant::now();
    let client = |seed| {
        let mut random = Random::new(seed);
        let mut connection = Connection::open(address);
        let mut latencies = Vec::new();
        while started.elapsed() < time {
            let request = &requests[random.below(requests.len())];
            let asked = Instant::now();
            connection.expect_ok(request);
            latencies.push(asked.elapsed());
        }
        latencies
    };
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|seed| scope.spawn(move || client(seed as u64)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client thread without a panic"))
            .collect()
    });
    latencies.sort_unstable();
    Measured {
        latencies,
        time: started.elapsed(),
        cpu: Duration::ZERO,
    }
}

/// Sends requests over one connection for `time`, at most `per_second` per second. A late request
/// is sent at once, but the requests after it do not catch up. All responses must have status 200.
pub fn drive_at_rate(address: &str, request: &[u8], per_second: u32, time: Duration) -> Measured {
    let interval = Duration::from_secs(1) / per_second;
    let mut connection = Connection::open(address);
    let mut latencies = Vec::new();
    let started = Instant::now();
    let mut next = started;
    while started.elapsed() < time {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        connection.expect_ok(request);
        latencies.push(asked.elapsed());
        next = (next + interval).max(asked);
    }
    latencies.sort_unstable();
    Measured {
        latencies,
        time: started.elapsed(),
        cpu: Duration::ZERO,
    }
}

/// An action that a thread repeats.
pub type Work<'a> = Box<dyn FnMut() + 'a>;

/// Runs `measure` while `count` threads repeat the actions that `work` creates. Also returns the
/// number of actions per second of all threads together.
pub fn measure_during<'a, T>(
    count: usize,
    work: &(dyn Fn(usize) -> Work<'a> + Sync),
    measure: impl FnOnce() -> T,
) -> (T, f64) {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    let started = Instant::now();
    let (measured, done) = thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|worker| {
                scope.spawn(move || {
                    let mut done = 0u64;
                    let mut work = work(worker);
                    while !stop.load(Ordering::Relaxed) {
                        work();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        let done: u64 = workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker thread without a panic"))
            .sum();
        (measured, done)
    });
    (measured, done as f64 / started.elapsed().as_secs_f64())
}
