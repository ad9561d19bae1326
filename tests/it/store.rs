//! Own mode: models come out of an object store as they are asked for (`--model-store`).
//!
//! The store is a real S3 server behind a proxy that makes faults and keeps count. A name is a key
//! below the store's prefix, and chooses a model in the header that the platform's clients send,
//! or in the path. What holds for every request that asks for a model that is not loaded: a name
//! that cannot be one is 400, a missing object 404, no room for it 507, a deadline 504, and
//! whatever else goes wrong 503 with the reason.

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

/// What is before the models' names in the bucket's keys.
const PREFIX: &str = "models";

/// A bucket of models, and the proxy before it.
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

    /// What the model of this name has for a url.
    fn url_of(&self, name: &str) -> String {
        format!("{}{name}", self.url())
    }

    #[track_caller]
    fn put(&self, name: &str, content: &[u8]) {
        self.bucket.put(&format!("{PREFIX}/{name}"), content);
    }

    /// A model that multiplies by `factor`. Returns the bytes of its archive.
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

    /// A server of this store, to which nothing of others is known.
    fn server(&self) -> Builder {
        self.server_of(&self.url())
    }

    /// A server of another place in this S3.
    fn server_of(&self, url: &str) -> Builder {
        Builder::store(url, S3::environment(self.proxy.address()))
    }

    /// Bytes of the object that the server was sent.
    fn sent(&self, name: &str) -> u64 {
        self.proxy.bytes_of(&format!("/{PREFIX}/{name}"))
    }
}

/// `POST /invocations` with a model's name beside it, as clients of the platform send it.
fn request(name: &str, body: &Value) -> Request {
    Request::post("/invocations")
        .header("X-Amzn-SageMaker-Target-Model", name)
        .json(body)
}

/// What the models of [`scale`] are asked.
fn question() -> Value {
    json!({"instances": [4, -0.5]})
}

/// What the one of this factor answers.
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

/// The names of the models that `GET /models` shows.
fn listed(server: &Server) -> Vec<String> {
    let list = server.list("");
    let models = list["models"].as_array().unwrap();
    models
        .iter()
        .map(|model| model["modelName"].as_str().unwrap().to_owned())
        .collect()
}

/// Bytes that no compression makes fewer.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .take(bytes)
        .collect()
}

/// The files below `folder`, however deep, with this name.
fn files_called(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // It may go meanwhile.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Links are not followed.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) if entry.file_name().to_str() == Some(name) => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
