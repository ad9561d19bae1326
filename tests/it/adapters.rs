//! LoRA adapters: many names share the session of one base model, and each has the values of its
//! own adapter.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Builder, Models, Request, Server, Stop, assert_close, eventually, longshore};

/// Bytes that an adapter of `tests/adapters` may take, apart from its base model. A base model
/// takes 70 KB.
const AN_ADAPTER: u64 = 12 << 10;

/// Rows and their answers with an adapter, or without one.
struct Case {
    base: String,
    adapter: Option<String>,
    rows: Value,
    answers: Value,
}

impl Case {
    fn name(&self) -> String {
        format!("{}-{}", self.base, self.adapter.as_deref().unwrap_or("none"))
    }

    fn place(&self, models: &Models) -> String {
        place(models, &self.base, &self.name(), self.adapter.as_deref())
    }

    #[track_caller]
    fn assert_answered(&self, server: &Server) {
        let answer = server.invoke(&self.name(), &json!({"instances": self.rows}));
        let answer = answer.expect(200).json();
        assert_close(&answer["predictions"], &self.answers, &self.name());
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adapters")
}

fn bytes(file: &str) -> Vec<u8> {
    fs::read(folder().join(file)).unwrap()
}

/// The cases of these base models.
fn cases(bases: &[&str]) -> Vec<Case> {
    let cases: Vec<Value> = serde_json::from_slice(&bytes("cases.json")).unwrap();
    let cases = cases.into_iter().map(|mut case| Case {
        base: case["base"].as_str().unwrap().to_owned(),
        adapter: case["adapter"].as_str().map(str::to_owned),
        rows: case["x"].take(),
        answers: case["y"].take(),
    });
    cases.filter(|case| bases.contains(&&*case.base)).collect()
}

/// Places a base model under this name, with an adapter if one is given.
fn place(models: &Models, base: &str, name: &str, adapter: Option<&str>) -> String {
    let url = models.place_model(name, &bytes(&format!("{base}.onnx")));
    if let Some(adapter) = adapter {
        add(&url, &bytes(&format!("{adapter}.onnx_adapter")));
    }
    url
}

fn add(url: &str, adapter: &[u8]) {
    fs::write(Path::new(url).join("adapter.onnx_adapter"), adapter).unwrap();
}

#[track_caller]
fn load(server: &Server, cases: &[Case]) {
    for case in cases {
        server.load(&case.name(), &case.place(server.models())).expect(200);
    }
}

#[test]
fn names_keep_their_adapters_when_their_base_model_is_prepared_while_it_serves() {
    let server = Builder::multi().argument("--prepare=later").start();
    let cases = cases(&["optional"]);
    load(&server, &cases);
    for case in &cases {
        case.assert_answered(&server);
    }
    eventually("the models are prepared", || {
        server.count_in_log("model prepared") == cases.len()
    });
    for case in &cases {
        case.assert_answered(&server);
        server.unload(&case.name()).expect(200);
    }
    assert_eq!(server.reserved(), 0);
}

#[test]
fn each_name_has_the_answers_of_its_adapter() {
    let server = Builder::multi().start();
    let cases = cases(&["optional", "required", "mixing"]);
    load(&server, &cases);
    for _ in 0..2 {
        for case in &cases {
            case.assert_answered(&server);
        }
    }
    // Each row of a request with CSV, and of the Open Inference Protocol.
    let case = cases.iter().find(|case| case.name() == "required-second").unwrap();
    let row = case.rows[0].as_array().unwrap();
    let text: Vec<String> = row.iter().map(ToString::to_string).collect();
    let csv = Server::invocation(&case.name())
        .header("Content-Type", "text/csv")
        .header("Accept", "application/json")
        .body(text.join(","));
    let answer = server.send(&csv).expect(200).json();
    assert_close(&answer["predictions"][0], &case.answers[0], "CSV");
    let described = server
        .send(&Request::get("/v2/models/required-second"))
        .expect(200)
        .json();
    assert_eq!(described["inputs"].as_array().unwrap().len(), 1, "{described}");
}

#[test]
fn a_thousandth_adapter_costs_its_own_bytes_and_no_session() {
    let server = Builder::multi().start();
    let first = place(server.models(), "required", "m0", Some("first"));
    server.load("m0", &first).expect(200);
    let alone = server.reserved();
    for index in 1..40 {
        // Each has values of its own.
        let mut adapter = bytes("first.onnx_adapter");
        // The values of the first matrix follow their length.
        let length = 64u32.to_le_bytes();
        let at = adapter.windows(4).rposition(|window| window == length).unwrap() + 4;
        adapter[at..at + 4].copy_from_slice(&(index as f32).to_le_bytes());
        let url = place(server.models(), "required", &format!("m{index}"), None);
        add(&url, &adapter);
        server.load(&format!("m{index}"), &url).expect(200);
    }
    let each = (server.reserved() - alone) / 39;
    assert!(alone > 3 * AN_ADAPTER && each < AN_ADAPTER, "{alone} {each}");
    // An equal file is in memory once.
    let before = server.reserved();
    let again = place(server.models(), "required", "again", Some("first"));
    server.load("again", &again).expect(200);
    assert_eq!(server.reserved(), before);
    server.unload("m0").expect(200);
    assert_eq!(server.reserved(), before);
    let rows = json!({"instances": [[1, 0, 0, 0, 0, 0, 0, 0]]});
    let answers: Vec<Value> = (1..40)
        .map(|index| server.invoke(&format!("m{index}"), &rows).expect(200).json())
        .collect();
    assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "{answers:?}");
    for index in 1..40 {
        server.unload(&format!("m{index}")).expect(200);
    }
    server.unload("again").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_request_cannot_give_an_input_of_the_adapter() {
    let server = Builder::multi().start();
    let models = server.models();
    for base in ["optional", "required"] {
        let url = place(models, base, base, Some("first"));
        server.load(base, &url).expect(200);
        let a = json!([[0.0, 0.0]]);
        let body = json!({"inputs": {"x": [[0, 0, 0, 0, 0, 0, 0, 0]], "layers.0.lora_A.weight": a}});
        let refusal = server.invoke(base, &body).expect(400).message();
        assert!(refusal.contains("layers.0.lora_A.weight"), "{refusal}");
    }
    // Without an adapter, the inputs are those of the model.
    let url = place(models, "required", "bare", None);
    server.load("bare", &url).expect(200);
    let body = json!({"inputs": {"x": [[0, 0, 0, 0, 0, 0, 0, 0]]}});
    let refusal = server.invoke("bare", &body).expect(400).message();
    assert!(refusal.contains("layers.0.lora_A.weight"), "{refusal}");
}

#[test]
fn an_adapter_that_cannot_be_used_is_refused_with_the_reason() {
    let server = Builder::multi().start();
    let good = bytes("first.onnx_adapter");
    let bad = |name: &str| bytes(&format!("bad/{name}.onnx_adapter"));
    let table: [(&str, Vec<u8>, &str); 8] = [
        (
            "unknown-input",
            bad("unknown_input"),
            "parameter \"layers.7.lora_A.weight\" is not an input of the model, which has the inputs \"x\", \
             \"layers.0.lora_A.weight\"",
        ),
        (
            "wrong-shape",
            bad("wrong_shape"),
            "parameter \"layers.0.lora_A.weight\" is float32[9, 2], but the model takes float32[8, lora_r]",
        ),
        (
            "wrong-rank",
            bad("wrong_rank"),
            "parameter \"layers.0.lora_B.weight\" is float32[2, 6, 1], but the model takes float32[lora_r, 6]",
        ),
        (
            "wrong-type",
            bad("wrong_type"),
            "parameter \"layers.0.lora_A.weight\" is float64[8, 2], but the model takes float32[8, lora_r]",
        ),
        ("truncated", good[..good.len() - 100].to_vec(), "it is damaged"),
        (
            "short",
            good[..6].to_vec(),
            "it is not an adapter in ONNX Runtime's format",
        ),
        ("empty", Vec::new(), "it is not an adapter in ONNX Runtime's format"),
        (
            "text",
            b"lora_A lora_B".to_vec(),
            "it is not an adapter in ONNX Runtime's format",
        ),
    ];
    for (name, adapter, expected) in table {
        for base in ["optional", "required"] {
            let name = format!("{base}-{name}");
            let url = place(server.models(), base, &name, None);
            add(&url, &adapter);
            let refusal = server.load(&name, &url).expect(400).message();
            assert!(refusal.contains("\"adapter.onnx_adapter\" cannot be used"), "{refusal}");
            assert!(refusal.contains(expected), "{name}: {refusal}");
            server.describe(&name).expect(404);
            // The base model is not to blame.
            add(&url, &good);
            server.load(&name, &url).expect(200);
            server.unload(&name).expect(200);
        }
    }
    assert_eq!(server.reserved(), 0);
}

#[test]
fn the_adapter_is_the_only_one_next_to_the_model_or_has_the_usual_name() {
    let server = Builder::multi().start();
    let cases = cases(&["required"]);
    let [first, second] = ["first", "second"].map(|adapter| {
        let wanted = Some(adapter.to_owned());
        cases.iter().find(|case| case.adapter == wanted).unwrap()
    });
    let url = place(server.models(), "required", &first.name(), None);
    let add = |file: &str, adapter: &str| {
        fs::write(Path::new(&url).join(file), bytes(&format!("{adapter}.onnx_adapter"))).unwrap();
    };
    add("adapter_weights.onnx_adapter", "first");
    server.load(&first.name(), &url).expect(200);
    first.assert_answered(&server);
    server.unload(&first.name()).expect(200);
    add("other.onnx_adapter", "third");
    let refusal = server.load(&first.name(), &url).expect(400).message();
    assert!(
        refusal
            .contains("(adapter_weights.onnx_adapter, other.onnx_adapter): name the one to use adapter.onnx_adapter"),
        "{refusal}"
    );
    add("adapter.onnx_adapter", "second");
    server.load(&second.name(), &url).expect(200);
    second.assert_answered(&server);
    // An adapter outside the artifact is not read.
    let outside = server.models().path("outside");
    fs::write(&outside, bytes("first.onnx_adapter")).unwrap();
    let url = place(server.models(), "required", "linked", None);
    symlink(&outside, Path::new(&url).join("adapter.onnx_adapter")).unwrap();
    let refusal = server.load("linked", &url).expect(400).message();
    assert!(refusal.contains("is a link out of the artifact"), "{refusal}");
}

/// Sends the cases' rows from several clients each until enough batches have run. Every answer must
/// be that of the name's own adapter.
#[track_caller]
fn assert_kept_apart(server: &Server, cases: &[Case], until: impl Fn(usize) -> bool) {
    let (stop, answered) = (Stop::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop_clients = stop.on_drop();
        let clients: Vec<_> = cases
            .iter()
            .flat_map(|case| (0..4).map(move |row| (case, row % 3)))
            .map(|(case, row)| {
                scope.spawn({
                    let (stop, answered) = (&stop, &answered);
                    move || {
                        let mut connection = server.connect();
                        let request = Server::invocation(&case.name()).json(&json!({"instances": [case.rows[row]]}));
                        let request = request.not_inline();
                        while !stop.raised() {
                            let answer = connection.send(&request).expect(200).json();
                            assert_close(&answer["predictions"][0], &case.answers[row], &case.name());
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        eventually("there are enough answers", || {
            until(answered.load(Ordering::Relaxed)) || clients.iter().any(|client| client.is_finished())
        });
        drop(stop_clients);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn batches_hold_requests_of_one_adapter_only() {
    let server = Builder::multi()
        .arguments(["--threads", "1", "--http-threads", "2"])
        .environment("SAGEMAKER_CONTAINER_LOG_LEVEL", "10")
        .start();
    let cases = cases(&["optional", "required"]);
    load(&server, &cases);
    assert_eq!(server.count_in_log("requests to this model are batched"), cases.len());
    assert_kept_apart(&server, &cases, |_| {
        server.metric("longshore_batch_requests_count") > 30
    });
}

#[test]
fn a_base_model_that_mixes_rows_runs_each_request_alone_with_an_adapter() {
    let server = Builder::multi()
        .arguments(["--threads", "1", "--http-threads", "2"])
        .environment("SAGEMAKER_CONTAINER_LOG_LEVEL", "10")
        .start();
    let url = place(server.models(), "mixing", "m", Some("first"));
    server.load("m", &url).expect(200);
    server.wait_for_log("ReduceSum \"sum\" mixes the records of a batch");
    // Rows that are joined with others would have other answers than alone.
    let mut cases = cases(&["mixing"]);
    cases.truncate(1);
    let [case] = &mut *cases else { panic!("no case") };
    server.load(&case.name(), &case.place(server.models())).expect(200);
    let rows = case.rows.as_array().unwrap().clone();
    let answers = rows.iter().map(|row| {
        let answer = server.invoke(&case.name(), &json!({"instances": [row]}));
        answer.expect(200).json()["predictions"][0].clone()
    });
    case.answers = answers.collect();
    assert_kept_apart(&server, &cases, |answered| answered > 300);
    assert_eq!(server.metric("longshore_batch_requests_count"), 0);
}

#[test]
fn a_restarted_worker_has_the_adapters_without_their_artifacts() {
    let server = Builder::multi().start();
    let cases = cases(&["optional", "required"]);
    load(&server, &cases);
    let mut worker = server.process();
    for case in &cases {
        // The platform may delete them, or put other files there.
        let url = server.models().path(&case.name()).join("model");
        if case.base == "optional" {
            fs::remove_dir_all(url).unwrap();
        } else {
            add(url.to_str().unwrap(), &bytes("bad/wrong_shape.onnx_adapter"));
        }
    }
    for _ in 0..2 {
        let before = server.reserved();
        worker.signal(Signal::KILL);
        eventually("the worker is gone", || !worker.is_alive());
        server.ping();
        assert_ne!(server.process(), worker);
        worker = server.process();
        for case in &cases {
            case.assert_answered(&server);
        }
        // The server has restored every adapter, and one session for all of them.
        let after = server.reserved();
        assert!(after.abs_diff(before) < 32 << 10, "{before} {after}");
    }
    for case in &cases {
        server.unload(&case.name()).expect(200);
    }
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_changed_adapter_is_not_served_under_the_old_name_after_a_restart() {
    let server = Builder::multi().start();
    let url = place(server.models(), "required", "m", Some("first"));
    server.load("m", &url).expect(200);
    let worker = server.process();
    add(&url, &bytes("second.onnx_adapter"));
    for entry in fs::read_dir(server.models().cache()).unwrap() {
        let path = entry.unwrap().path();
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    server.ping();
    server
        .invoke("m", &json!({"instances": [[0, 0, 0, 0, 0, 0, 0, 0]]}))
        .expect(404);
    server.wait_for_log("its files now contain a different model");
    server.load("m", &url).expect(200);
}

#[test]
fn a_single_model_has_its_adapter() {
    let models = Models::new();
    let cases = cases(&["required"]);
    let case = &cases[1];
    let server = Builder::single(case.place(&models)).start();
    eventually("the model is loaded", || {
        server.send(&Request::get("/ping")).status == 200
    });
    let request = Request::post("/invocations").json(&json!({"instances": case.rows}));
    let answer = server.send(&request).expect(200).json();
    assert_close(&answer["predictions"], &case.answers, &case.name());
}

#[test]
fn inspect_shows_the_adapter_and_pack_carries_it() {
    let models = Models::new();
    let cases = cases(&["required"]);
    let case = &cases[0];
    let url = case.place(&models);
    let report = longshore(["inspect", "--json", &url]).json();
    assert_eq!(report["adapter"]["file"], "adapter.onnx_adapter");
    assert_eq!(report["adapter"]["values"]["layers.1.lora_B.weight"], "float32[2, 3]");
    assert_eq!(report["inputs"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["joined"], true, "{report}");
    let text = longshore(["inspect", &url]).output();
    assert!(text.contains("layers.1.lora_B.weight float32[2, 3]"), "{text}");

    let archive = models.path("packed.tar.gz");
    let packed = longshore(["pack", "--json", "-o", archive.to_str().unwrap(), &url]).json();
    assert!(
        packed["files"]
            .as_array()
            .unwrap()
            .contains(&json!("adapter.onnx_adapter")),
        "{packed}"
    );
    assert_ne!(packed["prepared_for"], Value::Null, "{packed}");
    let folder = models.path(&format!("unpacked-{}", case.name())).join("model");
    fs::create_dir_all(&folder).unwrap();
    let status = std::process::Command::new("tar")
        .args(["-xzf", archive.to_str().unwrap(), "-C", folder.to_str().unwrap()])
        .status();
    assert!(status.unwrap().success());
    let server = Builder::multi().start();
    let target = server.models().path("packed");
    fs::create_dir_all(&target).unwrap();
    fs::rename(&folder, target.join("model")).unwrap();
    server
        .load(&case.name(), target.join("model").to_str().unwrap())
        .expect(200);
    case.assert_answered(&server);

    fs::write(
        Path::new(&url).join("adapter.onnx_adapter"),
        bytes("bad/wrong_type.onnx_adapter"),
    )
    .unwrap();
    for command in ["inspect", "pack"] {
        let other = models.path("other.tar.gz");
        let output = ["-o", other.to_str().unwrap()];
        let options = if command == "pack" { &output[..] } else { &[] };
        let refusal = longshore([&[command], options, &[&*url]].concat()).refusal();
        assert!(
            refusal.contains("float64[8, 2], but the model takes float32[8, lora_r]"),
            "{refusal}"
        );
    }
}
