//! A hostile artifact, and the expected outcome of its load and request.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::support::onnx::{Graph, Info, Model};

#[derive(Debug, Clone)]
pub struct Hostile {
    pub name: String,
    files: Vec<(String, Content)>,
    pub expected: Expected,
    /// The request to send if the artifact loads.
    pub body: Value,
}

/// Content of one path of an artifact.
#[derive(Debug, Clone)]
pub enum Content {
    File(Vec<u8>),
    Link(String),
    Fifo,
    Directory,
}

/// Expected outcome of a load. In any case the server survives and still serves.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// The load is refused with 400, and the message contains these words.
    Refused(&'static [&'static str]),
    /// The load may succeed; then the request is refused.
    RequestRefused,
    /// The load succeeds with 200. The request is answered with 200, or refused with 400 or 507.
    Serves,
    /// The load may succeed; then the request runs until its deadline, and gets 504.
    Endless,
    /// Any outcome that does no harm: the load and the request may succeed or fail.
    Harmless,
}

use Expected::{Endless, Harmless, Refused, RequestRefused, Serves};

impl Hostile {
    /// An empty artifact.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            files: Vec::new(),
            expected: Harmless,
            body: json!({"instances": [[1.0, 2.0, 3.0, 4.0]]}),
        }
    }

    pub fn model(name: impl Into<String>, model: Model) -> Self {
        Self::bytes(name, model.into_bytes())
    }

    pub fn graph(name: impl Into<String>, graph: Graph) -> Self {
        Self::model(name, Model::new(graph))
    }

    /// An artifact whose `model.onnx` consists of these bytes.
    pub fn bytes(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(name).with("model.onnx", Content::File(bytes.into()))
    }

    pub fn with(mut self, path: &str, content: Content) -> Self {
        self.files.push((path.to_owned(), content));
        self
    }

    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(path, Content::File(bytes.into()))
    }

    pub fn link(self, path: &str, target: impl Into<String>) -> Self {
        self.with(path, Content::Link(target.into()))
    }

    pub fn with_request(self, body: Value) -> Self {
        Self { body, ..self }
    }

    pub fn expecting(self, expected: Expected) -> Self {
        Self { expected, ..self }
    }

    pub fn refused(self, words: &'static [&'static str]) -> Self {
        self.expecting(Refused(words))
    }

    pub fn request_refused(self) -> Self {
        self.expecting(RequestRefused)
    }

    pub fn serves(self) -> Self {
        self.expecting(Serves)
    }

    pub fn endless(self) -> Self {
        self.expecting(Endless)
    }

    /// Writes the artifact into `folder`.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (path, content) in &self.files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content {
                Content::File(bytes) => fs::write(path, bytes).unwrap(),
                Content::Link(target) => symlink(target, path).unwrap(),
                Content::Fifo => mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
                Content::Directory => fs::create_dir(path).unwrap(),
            }
        }
    }
}

/// A graph with the input `x`, rows of four floats.
pub fn takes_x() -> Graph {
    Graph::new().input(Info::floats("x", ["n".into(), 4.into()]))
}

/// Adds the output `y`, of any shape.
pub fn gives_y(graph: Graph) -> Graph {
    graph.output(Info::any_rank("y", crate::support::onnx::element::FLOAT))
}
