//! A fake container for tests: an HTTP server with the model API and a limited number of models.
//!
//! A test's script decides how it answers invocations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::client::Target;
use super::fleet::LiveAddress;
use super::spec::{Container, Mode};

/// A request that the fake container received.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl SeenRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    /// The request in short, such as `POST /models`, with the client's name for the model if any.
    pub fn line(&self) -> String {
        let path = match self.path.split('/').collect::<Vec<_>>()[..] {
            ["", "models", _] => "/models/*".to_owned(),
            ["", "models", _, "invoke"] => "/models/*/invoke".to_owned(),
            _ => self.path.clone(),
        };
        match self.header("x-amzn-sagemaker-target-model") {
            Some(model) => format!("{} {path} {model}", self.method),
            None => format!("{} {path}", self.method),
        }
    }
}

/// The fake container's response.
#[derive(Debug, Clone)]
pub enum FakeResponse {
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Chunks, and whether the final empty chunk follows.
    Chunked(Vec<&'static str>, bool),
    /// Closes the connection without a response.
    Reset,
    /// Sends nothing until the client leaves.
    Stall,
}

impl FakeResponse {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Whole(status, Vec::new(), body.into())
    }

    pub fn with(self, name: &'static str, value: impl Into<String>) -> Self {
        match self {
            Self::Whole(status, mut headers, body) => {
                headers.push((name, value.into()));
                Self::Whole(status, headers, body)
            }
            other => other,
        }
    }
}

type Script = dyn Fn(&SeenRequest) -> Option<FakeResponse> + Send + Sync;

/// A fake container.
pub struct FakeContainer {
    spec: Container,
    up: watch::Sender<Option<LiveAddress>>,
    starts: AtomicU64,
    inner: Arc<Inner>,
    /// The models root.
    folder: TempDir,
}

struct Inner {
    loaded: Mutex<BTreeSet<String>>,
    capacity: usize,
    /// Answers a request before the model API does, unless it returns `None`.
    script: Box<Script>,
    seen: Mutex<Vec<SeenRequest>>,
}

impl FakeContainer {
    pub fn start(
        spec: Container,
        script: impl Fn(&SeenRequest) -> Option<FakeResponse> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with_capacity(spec, usize::MAX, script)
    }

    /// A container in multi-model mode with room for `capacity` models.
    pub fn models(
        capacity: usize,
        script: impl Fn(&SeenRequest) -> Option<FakeResponse> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let mut spec = Container::new("model");
        spec.mode = Mode::MultiModel { cache: true };
        Self::with_capacity(spec, capacity, script)
    }

    pub fn with_capacity(
        spec: Container,
        capacity: usize,
        script: impl Fn(&SeenRequest) -> Option<FakeResponse> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::new(Inner {
            loaded: Mutex::default(),
            capacity,
            script: Box::new(script),
            seen: Mutex::default(),
        });
        let fake = Self {
            spec,
            up: watch::Sender::new(None),
            starts: AtomicU64::new(0),
            inner,
            folder,
        };
        fake.start_again();
        Arc::new(fake)
    }

    /// Restarts at another port, without loaded models.
    pub fn start_again(&self) {
        self.forget_all();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::clone(&self.inner);
        // The thread ends with the test process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let inner = Arc::clone(&inner);
                // An error means that the client has left.
                thread::spawn(move || serve(&stream.unwrap(), &inner));
            }
        });
        let generation = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        let address = address.into();
        self.up.send_replace(Some(LiveAddress { address, generation }));
    }

    /// The spec of the same container as an attached one.
    pub fn attached(&self) -> Container {
        let mut spec = self.spec.clone();
        spec.address = self.up.borrow().as_ref().map(|up| up.address.to_string());
        spec
    }

    /// Marks the container as down.
    pub fn stop(&self) {
        self.up.send_replace(None);
    }

    /// Simulates a crash that is not noticed yet: the known address refuses connections.
    pub fn vanish(&self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        self.up.send_modify(|up| up.as_mut().unwrap().address = address.into());
    }

    /// Forgets all models, as after an unnoticed restart.
    pub fn forget_all(&self) {
        self.inner.loaded.lock().unwrap().clear();
    }

    /// Takes the requests since the last call.
    pub fn seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.inner.seen.lock().unwrap())
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(SeenRequest::line).collect()
    }

    pub fn loaded(&self) -> usize {
        self.inner.loaded.lock().unwrap().len()
    }

    /// The number of model folders.
    pub fn folders(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

impl Target for FakeContainer {
    fn container(&self) -> &Container {
        &self.spec
    }

    fn up(&self) -> Option<LiveAddress> {
        self.up.borrow().clone()
    }

    fn wait_up(&self) -> BoxFuture<'_, Option<LiveAddress>> {
        let mut up = self.up.subscribe();
        async move { up.wait_for(Option::is_some).await.ok()?.clone() }.boxed()
    }

    fn lost(&self, generation: u64) -> BoxFuture<'_, ()> {
        let mut up = self.up.subscribe();
        async move {
            let other = |up: &Option<LiveAddress>| up.as_ref().is_none_or(|up| up.generation != generation);
            let _ = up.wait_for(other).await;
        }
        .boxed()
    }

    fn kill(&self) {
        self.up.send_replace(None);
    }

    fn models_root(&self) -> &Path {
        self.folder.path()
    }

    fn models_root_inside(&self) -> &Path {
        self.folder.path()
    }

    fn label(&self) -> &str {
        "shop/blue/instance-1/model"
    }
}

impl Inner {
    fn answer(&self, seen: &SeenRequest) -> FakeResponse {
        if let Some(answer) = (self.script)(seen) {
            return answer;
        }
        let mut loaded = self.loaded.lock().unwrap();
        let path: Vec<_> = seen.path.split('/').collect();
        match (&*seen.method, &path[1..]) {
            ("POST", ["models"]) => {
                let request: Value = serde_json::from_slice(&seen.body).unwrap();
                let name = request["model_name"].as_str().unwrap().to_owned();
                let url = request["url"].as_str().unwrap();
                assert!(Path::new(url).join("model.onnx").is_file(), "{url}");
                if loaded.contains(&name) {
                    return FakeResponse::new(409, "there");
                }
                if loaded.len() >= self.capacity {
                    return FakeResponse::new(507, "full");
                }
                loaded.insert(name);
                FakeResponse::new(200, "{}")
            }
            ("DELETE", ["models", name]) => match loaded.remove(*name) {
                true => FakeResponse::new(200, "{}"),
                false => FakeResponse::new(404, "unknown"),
            },
            ("POST", ["models", name, "invoke"]) => match loaded.contains(*name) {
                true => {
                    let model = seen.header("x-amzn-sagemaker-target-model").unwrap();
                    FakeResponse::new(200, format!("{model} {}", String::from_utf8_lossy(&seen.body)))
                }
                false => FakeResponse::new(404, "unknown"),
            },
            _ => FakeResponse::new(404, "no route"),
        }
    }
}

fn serve(stream: &TcpStream, inner: &Inner) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let seen = read(&mut reader)?;
        let mut writer = stream;
        // Health checks are not recorded.
        if seen.method == "GET" {
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
            continue;
        }
        inner.seen.lock().unwrap().push(seen.clone());
        match inner.answer(&seen) {
            FakeResponse::Whole(status, headers, body) => {
                let headers: String = headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}\r\n"))
                    .collect();
                let length = body.len();
                let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n{headers}\r\n");
                writer.write_all(&[head.as_bytes(), &body].concat()).ok()?;
            }
            FakeResponse::Chunked(chunks, ends) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
                writer.write_all(head.as_bytes()).ok()?;
                for chunk in chunks {
                    write!(writer, "{:x}\r\n{chunk}\r\n", chunk.len()).ok()?;
                }
                if !ends {
                    return None;
                }
                writer.write_all(b"0\r\n\r\n").ok()?;
            }
            FakeResponse::Reset => return None,
            FakeResponse::Stall => {
                let _ = reader.read(&mut [0]);
                return None;
            }
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<SeenRequest> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        let line = String::from_utf8(line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(SeenRequest {
        method,
        path,
        headers,
        body,
    })
}

/// Longer than any test waits: no test may depend on this timeout.
pub const FOREVER: Duration = Duration::from_secs(600);
