//! Standalone mode: requests load models from an object store (`--model-store`).
//!
//! The store is a real S3 server behind a proxy that injects faults and counts requests. The name
//! of a model is a key below the store's prefix; it is in the header that the platform's clients
//! send, or in the path. A request for a model that is not loaded gets a 400 for an invalid name,
//! 404 for a missing object, 507 for lack of memory, 504 at its deadline, and 503 with the reason
//! for any other failure.

mod ahead;
mod broken;
mod cold;
mod current;
mod disk;
mod faults;
mod forms;
mod hostile;
mod names;
mod restart;
mod room;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bucket, Builder, Proxy, Request, Response, S3, Server, scale};
use crate::support::archive::archive_of;
use crate::support::random::Random;

/// Prefix of the models' names in the keys of the bucket.
const PREFIX: &str = "models";

/// A bucket of models with the proxy in front of it.
#[derive(Debug)]
struct Store {
    bucket: Bucket,
    proxy: Proxy,
}

impl Store {
    fn new() -> Self {
        let s3 = S3::start();
        Self {
            bucket: s3.bucket(),
            proxy: Proxy::before(s3.address()),
        }
    }

    fn url(&self) -> String {
        format!("{}/{PREFIX}/", self.bucket.url())
    }

    /// Returns the url of the model with this name.
    fn url_of(&self, name: &str) -> String {
        format!("{}{name}", self.url())
    }

    #[track_caller]
    fn put(&self, name: &str, content: &[u8]) {
        self.bucket.put(&format!("{PREFIX}/{name}"), content);
    }

    /// Puts a model that multiplies by `factor` into the bucket. Returns the size of its archive.
    #[track_caller]
    fn put_scale(&self, name: &str, factor: f32) -> u64 {
        let archive = archive_of(&scale(factor));
        self.put(name, &archive);
        archive.len() as u64
    }

    #[track_caller]
    fn delete(&self, name: &str) {
        self.bucket.delete(&format!("{PREFIX}/{name}"));
    }

    /// Builds a server for this store, with an empty cache.
    fn server(&self) -> Builder {
        self.server_of(&self.url())
    }

    /// Builds a server for another url in this S3 server.
    fn server_of(&self, url: &str) -> Builder {
        Builder::store(url, S3::environment(self.proxy.address()))
    }

    /// Returns the number of bytes of the object that the proxy has sent to servers.
    fn sent(&self, name: &str) -> u64 {
        self.proxy.bytes_of(&format!("/{PREFIX}/{name}"))
    }
}

/// Builds `POST /invocations` with the model's name in the header, as clients of the platform do.
fn request(name: &str, body: &Value) -> Request {
    Request::post("/invocations")
        .header("X-Amzn-SageMaker-Target-Model", name)
        .json(body)
}

/// Returns the request body for models of [`scale`].
fn question() -> Value {
    json!({"instances": [4, -0.5]})
}

/// Returns the response of a model with this factor.
fn answer(factor: f32) -> Value {
    json!({"predictions": [factor * 4.0, factor * -0.5]})
}

#[track_caller]
fn ask(server: &Server, name: &str) -> Response {
    server.send(&request(name, &question()))
}

#[track_caller]
fn assert_scales(server: &Server, name: &str, factor: f32) {
    assert_eq!(ask(server, name).expect(200).json(), answer(factor), "{name}");
}

/// Returns the names of the models that `GET /models` lists.
fn listed(server: &Server) -> Vec<String> {
    let list = server.list("");
    let models = list["models"].as_array().unwrap();
    models
        .iter()
        .map(|model| model["modelName"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns bytes that cannot be compressed.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .take(bytes)
        .collect()
}

/// Lists the files with this name at any depth below `folder`.
fn files_called(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // The folder may be deleted in the meantime.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Do not follow links.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) if entry.file_name().to_str() == Some(name) => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
