//! Measures models from a bucket: the time to the first answer, by where the model is; and skewed
//! requests with memory for only some of the models.
//!
//! The bucket is moto's, on the same machine. So a download costs its processing, but no network
//! time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use longshore::archive::{self, PackSource};

use crate::bodies;
use crate::client::Connection;
use crate::load::{SIZES, Size};
use crate::server::Server;
use crate::support::networks;
use crate::support::random::Random;
use crate::table::{bytes, head, median, row, time};

/// The number of repeated requests to each model.
const AGAIN: usize = 5;

/// The second table: the number of models, the memory that holds about 8 of them, and the requests.
const TENANTS: usize = 40;
const LIMIT: &str = "64MiB";
const REQUESTS: usize = 5_000;
const CLIENTS: usize = 8;

pub fn run() {
    let Some(bucket) = Bucket::start() else {
        eprintln!("  skipped: this section needs the S3 server that scripts/moto installs");
        return;
    };
    curve(&bucket);
    println!();
    zipf(&bucket);
}

fn curve(bucket: &Bucket) {
    println!(
        "Times from the request to its response; medians. \"First\" is content that the server has never seen: downloaded, \
         unpacked, prepared, loaded. \"Store\" is known content that is not on disk. \"Disk\" is unpacked on disk and loaded \
         unchanged (`--prepare off`), \"mapped\" is unpacked and prepared, \"warm\" is in memory.\n"
    );
    head(&["model", "file", "archive", "first", "store", "disk", "mapped", "warm"]);
    for size in SIZES {
        eprintln!("  {}", size.name);
        let (mut file_bytes, mut archive_bytes) = (0, 0);
        for index in 0..size.count {
            let model = (size.make)(index as u64);
            file_bytes = model.len();
            archive_bytes = bucket.put_model(&key(size.name, index), model);
        }
        let (first, mapped, warm) = {
            let server = bucket.serve(&[]);
            (
                ask(&server, &size, false),
                again(&server, &size, true),
                again(&server, &size, false),
            )
        };
        let store = {
            let server = bucket.serve(&["--archive-cache-size", "1"]);
            ask(&server, &size, false);
            again(&server, &size, true)
        };
        let disk = {
            let server = bucket.serve(&["--prepare", "off"]);
            ask(&server, &size, false);
            again(&server, &size, true)
        };
        row(&[
            &size.name,
            &bytes(file_bytes as f64),
            &bytes(archive_bytes as f64),
            &time(median(&first)),
            &time(median(&store)),
            &time(median(&disk)),
            &time(median(&mapped)),
            &time(median(&warm)),
        ]);
    }
}

fn key(size: &str, index: usize) -> String {
    format!("{size}/{index}.tar.gz").replace(' ', "-")
}

/// The response time of each model of a size. With `is_unloaded`, the model is unloaded before.
fn ask(server: &Server, size: &Size, is_unloaded: bool) -> Vec<Duration> {
    let mut connection = server.connect();
    (0..size.count)
        .map(|index| {
            let name = key(size.name, index).replace('/', "%2F");
            if is_unloaded {
                server.unload(&name);
            }
            let request = (size.request)(&name);
            let started = Instant::now();
            connection.expect_ok(&request);
            started.elapsed()
        })
        .collect()
}

fn again(server: &Server, size: &Size, is_unloaded: bool) -> Vec<Duration> {
    (0..AGAIN).flat_map(|_| ask(server, size, is_unloaded)).collect()
}

/// Measures more models than fit, with requests by Zipf's law: the n-th model gets 1/n as many as
/// the first.
fn zipf(bucket: &Bucket) {
    eprintln!("  {TENANTS} models in {LIMIT}");
    let model = |seed| networks::mlp(&[512, 1_600, 128], seed);
    for index in 0..TENANTS {
        bucket.put_model(&key("tenant", index), model(index as u64));
    }
    let server = bucket.serve(&["--memory-limit", LIMIT]);
    let requests: Vec<Vec<u8>> = (0..TENANTS)
        .map(|index| bodies::npy(&key("tenant", index).replace('/', "%2F"), &[1, 512]))
        .collect();
    let shares: Vec<f64> = (1..=TENANTS)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect();
    let (left, failed) = (AtomicUsize::new(REQUESTS), AtomicUsize::new(0));
    let latencies = Mutex::new(Vec::new());
    let most_loaded = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (requests, shares, left, failed) = (&requests, &shares, &left, &failed);
            let (latencies, most_loaded, server) = (&latencies, &most_loaded, &server);
            scope.spawn(move || {
                let mut random = Random::new(client as u64);
                let mut connection = server.connect();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let at = f64::from(random.float(0.5) + 0.5) * shares[TENANTS - 1];
                    let index = shares.partition_point(|&share| share < at).min(TENANTS - 1);
                    let asked = Instant::now();
                    let (status, body) = connection.send(&requests[index]);
                    latencies.lock().expect("no panic").push(asked.elapsed());
                    if status != 200 {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("  {status}: {}", String::from_utf8_lossy(&body));
                    }
                    if client == 0 {
                        most_loaded.fetch_max(server.metric("longshore_models_loaded") as usize, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let elapsed = started.elapsed();
    let mut latencies = latencies.into_inner().expect("no panic");
    latencies.sort_unstable();
    let (hits, misses) = (
        server.metric("longshore_model_lookups_total{state=\"warm\"}"),
        server.metric("longshore_model_lookups_total{state=\"cold\"}"),
    );
    println!(
        "{TENANTS} perceptrons of {}, with requests by Zipf's law over {CLIENTS} connections and `--memory-limit {LIMIT}`.\n",
        bytes(model(0).len() as f64)
    );
    head(&[
        "requests",
        "failed",
        "hit rate",
        "most in memory",
        "requests/s",
        "p50",
        "p99",
        "slowest",
    ]);
    row(&[
        &REQUESTS,
        &failed.into_inner(),
        &format!("{:.1} %", 100.0 * hits / (hits + misses)),
        &most_loaded.into_inner(),
        &format!("{:.0}", REQUESTS as f64 / elapsed.as_secs_f64()),
        &time(latencies[latencies.len() / 2]),
        &time(latencies[latencies.len() * 99 / 100]),
        &time(latencies[latencies.len() - 1]),
    ]);
}

/// A bucket on its own S3 server. Dropping the value ends the server.
struct Bucket {
    moto: Child,
    address: String,
}

impl Bucket {
    const NAME: &str = "models";

    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".moto/bin/python");
        if !python.exists() {
            return None;
        }
        let mut moto = Command::new(python)
            .arg(root.join("tests/s3/server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start moto");
        let mut address = String::new();
        BufReader::new(moto.stdout.take().expect("its output"))
            .read_line(&mut address)
            .expect("moto's address");
        let bucket = Self {
            moto,
            address: address.trim().to_owned(),
        };
        bucket.send(&format!("/{}", Self::NAME), b"");
        Some(bucket)
    }

    /// Uploads an archive of `model` and returns its size.
    fn put_model(&self, key: &str, model: Vec<u8>) -> usize {
        let files = BTreeMap::from([("model.onnx".to_owned(), PackSource::Bytes(model))]);
        let mut packed = Vec::new();
        archive::write(&files, &mut packed).expect("pack");
        self.send(&format!("/{}/{key}", Self::NAME), &packed);
        packed.len()
    }

    fn send(&self, path: &str, content: &[u8]) {
        let mut request = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            content.len()
        )
        .into_bytes();
        request.extend_from_slice(content);
        Connection::open(&self.address).expect_ok(&request);
    }

    fn serve(&self, flags: &[&str]) -> Server {
        let store = format!("s3://{}", Self::NAME);
        let mut arguments = vec!["--model-store", &store];
        arguments.extend(flags);
        Server::start_with(
            &arguments,
            &[
                ("AWS_ENDPOINT_URL_S3", &format!("http://{}", self.address)),
                ("AWS_ACCESS_KEY_ID", "key"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_REGION", "eu-central-1"),
            ],
        )
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.moto.kill();
        let _ = self.moto.wait();
    }
}
