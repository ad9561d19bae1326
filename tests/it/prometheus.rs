//! The alert rules and the metrics in a real Prometheus. `scripts/test` installs it where it can.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::docs::dashboard::ALERTS_FILE;
use crate::harness::{Builder, Finished, Request, eventually, skip_unless};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn promtool_accepts_the_alert_rules() {
    if skip_unless(&["promtool", "--version"]) {
        return;
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "rules"]).arg(root().join(ALERTS_FILE));
    let output = Finished::after(&mut promtool).output();
    assert!(output.contains("SUCCESS: 10 rules found"), "{output}");
}

#[test]
fn promtool_accepts_the_page_of_metrics() {
    if skip_unless(&["promtool", "--version"]) {
        return;
    }
    let server = Builder::multi().start();
    let url = server.models().place_scale("scale", 2.0);
    server.load("a \"quoted\" näme", &url).expect(200);
    server.assert_scales("a \"quoted\" näme", 2.0);
    server.invoke("b", &json!({"instances": [1]})).expect(404);
    let page = server.send(&Request::get("/metrics")).expect(200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(&page.body).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && messages.is_empty(), "{messages}");
}

/// A Prometheus that is killed on drop.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `target` each second, with the alert rules.
    fn start(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [root().join(ALERTS_FILE)],
            "scrape_configs": [{"job_name": "longshore", "static_configs": [{"targets": [target.to_string()]}]}],
        });
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config.to_string()).unwrap();
        // Prometheus cannot report a port that the system chose.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// The result of a query of its API; `None` while it does not answer.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let answer: Value = serde_json::from_str(body).ok().filter(|_| head.contains(" 200 "))?;
        Some(answer["data"].clone())
    }

    /// The values of a query, as numbers.
    fn query(&self, expression: &str) -> Vec<f64> {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.get(&format!("/api/v1/query?query={query}")).unwrap_or_default();
        let results = data["result"].as_array().cloned().unwrap_or_default();
        let values = results
            .iter()
            .filter_map(|result| result["value"][1].as_str()?.parse().ok());
        values.collect()
    }
}

#[test]
fn a_prometheus_scrapes_a_server_and_evaluates_the_rules() {
    if skip_unless(&["prometheus", "--version"]) {
        return;
    }
    let server = Builder::multi().start();
    let url = server.models().place_scale("scale", 2.0);
    server.load("a", &url).expect(200);
    for _ in 0..5 {
        server.assert_scales("a", 2.0);
    }
    let prometheus = Prometheus::start(server.address());
    eventually("the server is scraped", || {
        prometheus.query("longshore_model_seconds_count{model=\"a\"}") == [5.0]
    });
    assert_eq!(prometheus.query("up{job=\"longshore\"}"), [1.0]);
    assert_eq!(prometheus.query("longshore_request_seconds_bucket{le=\"+Inf\"}"), [5.0]);
    assert_eq!(prometheus.query("longshore_models_loaded"), [1.0]);
    eventually("the rules are evaluated", || {
        let rules = prometheus.get("/api/v1/rules").unwrap_or_default();
        let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
    let alerts = prometheus.get("/api/v1/alerts").unwrap();
    assert_eq!(alerts["alerts"], json!([]), "a healthy server raises no alert");
}
