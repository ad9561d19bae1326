//! Headless Chromium, controlled by chromedriver: WebDriver is JSON over HTTP, so no client library
//! is needed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Connection, Request};
use super::{PATIENCE, eventually_within, skip_unless};

/// The colours and the width that a page sees.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub name: &'static str,
    pub is_dark: bool,
    pub width: u32,
}

pub const LIGHT: Look = Look {
    name: "light",
    is_dark: false,
    width: 1280,
};
pub const DARK: Look = Look {
    name: "dark",
    is_dark: true,
    ..LIGHT
};
pub const PHONE: Look = Look {
    name: "phone",
    is_dark: false,
    width: 390,
};

/// A browser with one page. The drop closes it.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts a browser; `None` on a machine without Chromium, which is printed.
    pub fn start() -> Option<Self> {
        if skip_unless(&["chromedriver", "--version"]) || skip_unless(&["chromium", "--version"]) {
            return None;
        }
        let profile = tempfile::Builder::new().prefix("longshore-browser-").tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        // The driver would block on a full pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let mut browser = Self {
            driver,
            address: ([127, 0, 0, 1], port.expect("chromedriver has a port")).into(),
            session: String::new(),
            profile,
        };
        browser.open_session();
        Some(browser)
    }

    fn open_session(&mut self) {
        let profile = format!("--user-data-dir={}", self.profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // Names of other sites lead to this machine, as after DNS rebinding.
            "--host-resolver-rules=MAP *.example 127.0.0.1",
            &profile,
        ];
        let options = json!({"args": arguments});
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = self.call("POST", "/session", Some(&capabilities));
        self.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Value> {
        let mut request = Request::new(method, path).header("Host", self.address.to_string());
        request = request.header("Connection", "close");
        if method == "POST" {
            request = request.json(body.unwrap_or(&json!({})));
        }
        let mut connection = Connection::open(self.address).unwrap();
        connection.write(&request.to_bytes()).unwrap();
        let response = connection.read_unchecked(method).unwrap();
        let value = response.json()["value"].clone();
        match response.status {
            200 => Ok(value),
            _ => Err(value),
        }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), Some(body))
    }

    fn protocol(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}));
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Sets the colours and the width.
    pub fn look(&self, look: Look) {
        let scheme = if look.is_dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.protocol("Emulation.setEmulatedMedia", &json!({"features": features}));
        let screen = json!({"width": look.width, "height": 1000, "deviceScaleFactor": 1, "mobile": false});
        self.protocol("Emulation.setDeviceMetricsOverride", &screen);
    }

    /// Lets tools such as axe run in a page whose policy forbids foreign scripts. Call it before
    /// the page is opened.
    pub fn bypass_policy(&self) {
        self.protocol("Page.setBypassCSP", &json!({"enabled": true}));
    }

    /// Runs a script in each page that is opened later, before its own.
    pub fn before_pages(&self, script: &str) {
        self.protocol("Page.addScriptToEvaluateOnNewDocument", &json!({"source": script}));
    }

    /// Runs the body of a function in the page, and returns its result, also that of a promise.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.run_with(script, &json!([]))
    }

    #[track_caller]
    pub fn run_with(&self, script: &str, arguments: &Value) -> Value {
        let body = json!({"script": script, "args": arguments});
        let path = format!("{}/execute/sync", self.session);
        match self.try_call("POST", &path, Some(&body)) {
            Ok(value) => value,
            Err(error) => panic!("{script}: {}", error["message"]),
        }
    }

    /// Waits until a script returns true.
    #[track_caller]
    pub fn wait(&self, what: &str, script: &str) {
        let holds = eventually_within(PATIENCE, || self.run(script) == json!(true));
        if !holds {
            self.screenshot("failed");
            panic!("timeout while waiting until {what}; the page:\n{}", self.text("body"));
        }
    }

    /// The visible text of the first element that the CSS selector matches.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.run_with(
            "return document.querySelector(arguments[0])?.innerText ?? null",
            &json!([selector]),
        );
        match text {
            Value::String(text) => text,
            _ => panic!("nothing matches {selector}"),
        }
    }

    /// An element, by a CSS selector. Waits until it is there.
    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let path = format!("{}/element", self.session);
        let mut id = None;
        let is_found = eventually_within(PATIENCE, || {
            let found = self.try_call("POST", &path, Some(&body)).unwrap_or_default();
            let found = found.as_object().and_then(|found| found.values().next()?.as_str());
            // An error is an object as well.
            id = found.filter(|id| !id.contains(' ')).map(ToOwned::to_owned);
            id.is_some()
        });
        assert!(is_found, "nothing matches {selector}; the page:\n{}", self.text("body"));
        format!("/element/{}", id.unwrap())
    }

    /// Clicks on an element, as a person does: it must be visible.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/click"), &json!({}));
    }

    /// Types into an element. For an input of files the text is a path.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/value"), &json!({"text": text}));
    }

    /// Replaces the text of an element.
    #[track_caller]
    pub fn replace(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/clear"), &json!({}));
        self.type_into(selector, text);
    }

    /// Presses keys on the page.
    pub fn press(&self, keys: &str) {
        let mut actions = Vec::new();
        for key in keys.chars() {
            let key = key.to_string();
            actions.push(json!({"type": "keyDown", "value": key}));
            actions.push(json!({"type": "keyUp", "value": key}));
        }
        let source = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.post("/actions", &json!({"actions": [source]}));
    }

    /// The messages of the page's console since the last call, except those about its requests.
    pub fn console(&self) -> Vec<String> {
        let messages = self.post("/se/log", &json!({"type": "browser"}));
        let messages = messages.as_array().unwrap().iter();
        let messages = messages.filter(|message| message["source"] != "network");
        messages
            .map(|message| message["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Writes a screenshot of the whole page into `target/screenshots`.
    pub fn screenshot(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        fs::create_dir_all(&folder).unwrap();
        let coded = self.call("GET", &format!("{}/screenshot", self.session), None);
        let picture = STANDARD.decode(coded.as_str().unwrap()).unwrap();
        fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// The findings of axe about accessibility that are serious or critical; `None` if axe is not
    /// installed.
    pub fn accessibility(&self) -> Option<Vec<String>> {
        let source = fs::read_to_string(axe()).ok()?;
        self.run(&source);
        let found = self.run(
            "return axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations
                .filter((one) => ['serious', 'critical'].includes(one.impact))
                .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.target}: ${node.failureSummary}`)))",
        );
        let found = found.as_array().unwrap().iter();
        Some(found.map(|one| one.as_str().unwrap().to_owned()).collect())
    }
}

/// The file of axe, which `scripts/axe` installs.
pub fn axe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".axe/node_modules/axe-core/axe.min.js")
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.try_call("DELETE", &self.session.clone(), None);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
