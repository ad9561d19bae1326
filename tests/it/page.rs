//! The page for browsers, and `longshore top`.

mod accessibility;
mod browser;
mod data;
mod endpoint;
mod form;
mod sites;
mod top;

use serde_json::{Value, json};

use crate::harness::{Connection, Request, Server};

/// A request as the page's own requests are: to the address of the server.
fn own(server: &Server, request: Request) -> Request {
    request.header("Host", server.address().to_string())
}

#[track_caller]
fn state(server: &Server) -> Value {
    server
        .send_unchecked(&own(server, Request::get("/ui/state")))
        .expect(200)
        .json()
}

/// A model of a state.
#[track_caller]
fn row(state: &Value, name: &str) -> Value {
    let models = state["models"].as_array().unwrap();
    let found = models.iter().find(|model| model["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {state}")).clone()
}

/// A watcher of a server.
struct Watch(Connection);

impl Watch {
    #[track_caller]
    fn start(server: &Server) -> Self {
        let mut connection = server.connect();
        connection
            .write(&own(server, Request::get("/ui/events")).to_bytes())
            .unwrap();
        let mut watch = Self(connection);
        let head = watch.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.to_ascii_lowercase().contains("content-type: text/event-stream"),
            "{head}"
        );
        watch
    }

    /// Reads to the end of `end`.
    fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }

    /// Reads the next event of a kind. Each event is a chunk.
    #[track_caller]
    fn next(&mut self, kind: &str) -> Value {
        let event = loop {
            let chunk = self.chunk();
            if chunk.starts_with(&format!("event: {kind}\n")) {
                break chunk;
            }
        };
        let (_, data) = event.split_once("data: ").unwrap();
        serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {event}"))
    }

    fn chunk(&mut self) -> String {
        let size = self.until("\r\n");
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut bytes = vec![0; size + 2];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}

/// Loads the model that multiplies by `factor`.
#[track_caller]
fn load_scale(server: &Server, name: &str, factor: f32) {
    let url = server.models().place_scale(name, factor);
    server.load(name, &url).expect(200);
}

#[track_caller]
fn invoke(server: &Server, name: &str) {
    server.invoke(name, &json!({"instances": [1]})).expect(200);
}
