//! Pictures and sentences as requests, and labels as responses, without Python code before or
//! after the model.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Builder, Finished, Request, Response, Server, eventually, longshore};
use crate::support::onnx::{Dim, Graph, Info, Model, Node, Tensor, element};

/// Returns a picture of one colour.
fn picture(colour: [u8; 3], format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(40, 30, Rgb(colour))
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

/// Returns a model that finds the main colour of a picture: its logits are the means of the
/// channels.
fn colours() -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::floats(
            "pixel_values",
            ["batch".into(), 3.into(), 8.into(), 8.into()],
        ))
        .node(Node::new("GlobalAveragePool", ["pixel_values"], ["means"]))
        .node(Node::new("Flatten", ["means"], ["logits"]))
        .output(Info::floats("logits", ["batch".into(), 3.into()]));
    Model::new(graph).into_bytes()
}

const COLOURS: [&str; 3] = ["red", "green", "blue"];

const PREPROCESSOR: &str = r#"{"image_processor_type": "ViTImageProcessor", "do_resize": true,
    "size": {"height": 8, "width": 8}, "resample": 2, "do_rescale": true, "rescale_factor": 0.00392156862745098,
    "do_normalize": false}"#;

fn write(url: &str, file: &str, text: &str) {
    fs::write(Path::new(url).join(file), text).unwrap();
}

/// Returns the folder of an artifact without a model.
fn folder(server: &Server, name: &str) -> String {
    let folder = server.models().path(name).join("model");
    fs::create_dir_all(&folder).unwrap();
    folder.display().to_string()
}

fn id2label(labels: &[&str]) -> Value {
    let labels = labels.iter().enumerate();
    labels
        .map(|(number, label)| (number.to_string(), json!(label)))
        .collect()
}

/// Starts a server with the colour model, in the form in which a Hugging Face library publishes
/// it.
fn with_colours() -> Server {
    let server = Builder::multi().start();
    let url = place_colours(&server, "colours");
    server.load("colours", &url).expect(200);
    server
}

/// Writes the colour model, and returns the `url` of a load.
pub fn place_colours(server: &Server, name: &str) -> String {
    let url = server.models().place_model(name, &colours());
    let config = json!({"architectures": ["ViTForImageClassification"], "id2label": id2label(&COLOURS)});
    write(&url, "config.json", &config.to_string());
    write(&url, "preprocessor_config.json", PREPROCESSOR);
    url
}

/// Returns a PNG file of 40 x 30 pixels of one colour.
pub fn png_of(colour: [u8; 3]) -> Vec<u8> {
    picture(colour, ImageFormat::Png)
}

fn send(server: &Server, model: &str, content_type: &str, body: &[u8], accept: &str) -> Response {
    let request = Server::invocation(model)
        .header("Content-Type", content_type)
        .body(body);
    server.send(&request.header("Accept", accept))
}

fn labels(answer: &Value) -> Vec<&str> {
    answer
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["label"].as_str().unwrap())
        .collect()
}

#[test]
fn a_picture_gets_labels_in_every_request_format() {
    let server = with_colours();
    let green = [20, 200, 90];
    let png = picture(green, ImageFormat::Png);
    let coded = STANDARD.encode(&png);
    let form = [
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n".as_slice(),
        &png,
        b"\r\n--x--\r\n",
    ];
    let form = form.concat();
    let single: Vec<(&str, Vec<u8>)> = vec![
        ("image/png", png.clone()),
        ("image/jpeg", picture(green, ImageFormat::Jpeg)),
        ("image/gif", picture(green, ImageFormat::Gif)),
        ("image/bmp", picture(green, ImageFormat::Bmp)),
        ("image/tiff", picture(green, ImageFormat::Tiff)),
        ("image/webp", picture(green, ImageFormat::WebP)),
        ("application/x-image", png.clone()),
        ("application/octet-stream", png.clone()),
        // The generic type that some clients send.
        ("application/x-www-form-urlencoded", png.clone()),
        ("multipart/form-data; boundary=x", form),
        ("application/json", json!({"inputs": coded}).to_string().into_bytes()),
        (
            "application/json",
            json!({"inputs": {"image_bytes": {"b64": coded}}})
                .to_string()
                .into_bytes(),
        ),
    ];
    for (content_type, body) in single {
        let answer = send(&server, "colours", content_type, &body, "application/json")
            .expect(200)
            .json();
        assert_eq!(labels(&answer), ["green", "blue", "red"], "{content_type}");
        let scores: f64 = answer
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["score"].as_f64().unwrap())
            .sum();
        assert!((scores - 1.0).abs() < 1e-5, "{content_type}: {answer}");
    }
    let blue = STANDARD.encode(picture([0, 0, 255], ImageFormat::Png));
    let two = json!({"inputs": [coded, blue], "parameters": {"top_k": 1}}).to_string();
    let answer = send(&server, "colours", "application/json", two.as_bytes(), "*/*")
        .expect(200)
        .json();
    assert_eq!(
        [&answer[0][0]["label"], &answer[1][0]["label"]],
        ["green", "blue"],
        "{answer}"
    );
    let instances = json!({"instances": [{"b64": coded}]}).to_string();
    let answer = send(&server, "colours", "application/json", instances.as_bytes(), "*/*")
        .expect(200)
        .json();
    assert_eq!(labels(&answer["predictions"][0])[0], "green", "{answer}");
    let lines = format!("{}\n{}\n", json!({"inputs": coded}), json!({"inputs": blue}));
    let answer = send(
        &server,
        "colours",
        "application/jsonlines",
        lines.as_bytes(),
        "application/jsonlines",
    )
    .expect(200);
    assert_eq!(answer.text().lines().count(), 2);
    let csv = send(&server, "colours", "image/png", &png, "text/csv")
        .expect(200)
        .text();
    assert!(csv.starts_with("green,"), "{csv}");
    // Programs can request the tensors.
    let npy = send(&server, "colours", "image/png", &png, "application/x-npy").expect(200);
    assert!(npy.body.starts_with(b"\x93NUMPY"));
    // The model also accepts tensors.
    let ones = json!({"instances": [vec![vec![vec![1.0; 8]; 8]; 3]]});
    let answer = server.invoke("colours", &ones).expect(200).json();
    assert_eq!(answer["predictions"][0].as_array().unwrap().len(), 3, "{answer}");
}

#[test]
fn an_invalid_picture_is_refused_with_the_reason_and_takes_no_memory() {
    let server = with_colours();
    let png = picture([1, 2, 3], ImageFormat::Png);
    // Only the header of a picture of 60,000 x 60,000 pixels.
    let mut huge = png[..33].to_vec();
    huge[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    huge[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    huge.extend_from_slice(&[0; 2000]);
    let table: [(&str, Vec<u8>, u16, &str); 8] = [
        ("image/png", png[..png.len() / 2].to_vec(), 400, "end of file"),
        ("image/png", huge, 413, "--max-pixels"),
        ("image/png", b"GIF".to_vec(), 400, "begin"),
        ("image/jpeg", vec![0xff; 100], 400, "begin"),
        ("application/x-image", Vec::new(), 400, "begin"),
        (
            "application/json",
            br#"{"inputs": "https://example.com/a.png"}"#.to_vec(),
            400,
            "does not fetch URLs",
        ),
        (
            "application/json",
            br#"{"inputs": "a picture!"}"#.to_vec(),
            400,
            "base64",
        ),
        ("multipart/form-data; boundary=x", b"--y--".to_vec(), 400, "boundary"),
    ];
    for (content_type, body, status, part) in table {
        let refusal = send(&server, "colours", content_type, &body, "*/*").expect(status);
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
    let wrong = json!({"inputs": STANDARD.encode(&png), "parameters": {"top_q": 1}}).to_string();
    let refusal = send(&server, "colours", "application/json", wrong.as_bytes(), "*/*").expect(400);
    assert!(refusal.message().contains("top_k"), "{}", refusal.message());
    send(&server, "colours", "image/png", &png, "*/*").expect(200);
}

/// Computes the checksum of a PNG chunk (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[test]
fn an_unknown_preprocessing_step_is_named_and_the_model_still_accepts_tensors() {
    let server = Builder::multi().start();
    let url = server.models().place_model("colours", &colours());
    write(
        &url,
        "preprocessor_config.json",
        r#"{"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 8}, "image_grid_pinpoints": [[1, 1]]}"#,
    );
    server.load("colours", &url).expect(200);
    let refusal = send(
        &server,
        "colours",
        "image/png",
        &picture([1, 2, 3], ImageFormat::Png),
        "*/*",
    )
    .expect(415);
    assert!(
        refusal.message().contains("preprocessor_config.json"),
        "{}",
        refusal.message()
    );
    let ones = json!({"instances": [vec![vec![vec![1.0; 8]; 8]; 3]]});
    server.invoke("colours", &ones).expect(200);
    // Keys of the manifest must be valid.
    write(&url, "longshore.json", r#"{"image": {"sise": 8}}"#);
    let refusal = server.load("other", &url).expect(400);
    assert!(
        refusal.message().contains("did you mean \"size\""),
        "{}",
        refusal.message()
    );
}

#[test]
fn three_small_archives_are_a_pipeline_from_a_picture_to_a_label() {
    let server = with_colours();
    let (pixels, bare, names) = (
        folder(&server, "pixels"),
        server.models().place_model("bare", &colours()),
        folder(&server, "names"),
    );
    write(&pixels, "preprocessor_config.json", PREPROCESSOR);
    let config = json!({"architectures": ["ViTForImageClassification"], "id2label": id2label(&COLOURS)});
    write(&names, "config.json", &config.to_string());
    for (name, url) in [("pixels", &pixels), ("bare", &bare), ("names", &names)] {
        server.load(name, url).expect(200);
    }
    let red = picture([200, 30, 20], ImageFormat::Png);
    let whole = send(&server, "colours", "image/png", &red, "application/json")
        .expect(200)
        .json();
    for between in ["application/x-npy", "application/json", "application/jsonlines"] {
        let pixels = send(&server, "pixels", "image/png", &red, between).expect(200);
        let logits = send(&server, "bare", between, &pixels.body, between).expect(200);
        let answer = send(&server, "names", between, &logits.body, "application/json")
            .expect(200)
            .json();
        assert_eq!(labels(&answer), labels(&whole), "{between}");
        for (one, other) in answer.as_array().unwrap().iter().zip(whole.as_array().unwrap()) {
            let difference = one["score"].as_f64().unwrap() - other["score"].as_f64().unwrap();
            assert!(difference.abs() < 1e-6, "{between}: {answer} {whole}");
        }
    }
    // Weights in another format are a model that was not exported, not a preprocessing step.
    write(&pixels, "model.safetensors", "x");
    let refusal = server.load("again", &pixels).expect(400);
    assert!(
        refusal.message().contains("export the model as ONNX"),
        "{}",
        refusal.message()
    );
}

/// Returns a tokenizer of whole words.
fn tokenizer(words: &[&str]) -> String {
    let special = ["[PAD]", "[UNK]"].into_iter();
    let vocabulary: serde_json::Map<String, Value> = special
        .chain(words.iter().copied())
        .enumerate()
        .map(|(id, word)| (word.to_owned(), json!(id)))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "added_tokens": [],
        "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    })
    .to_string()
}

/// A graph that takes tokens, as exporters name them.
fn tokens() -> Graph {
    let input = |name| Info::tensor(name, element::INT64, ["batch".into(), "sequence".into()]);
    Graph::new().input(input("input_ids")).input(input("attention_mask"))
}

/// Returns a model that adds up the scores of the words.
fn moods() -> Vec<u8> {
    sums_of_words("logits")
}

fn sums_of_words(output: &str) -> Vec<u8> {
    sums_in(tokens(), output, "batch".into())
}

/// A model over a graph with the inputs of [`tokens`], for `batch` texts.
fn sums_in(graph: Graph, output: &str, batch: Dim) -> Vec<u8> {
    let table = [0., 0., 0., 0., 0., 3., 3., 0.];
    let graph = graph
        .initializer(Tensor::floats("table", &[4, 2], &table))
        .initializer(Tensor::ints("last", &[1], &[2]))
        .initializer(Tensor::ints("words", &[1], &[1]))
        .node(Node::new("Gather", ["table", "input_ids"], ["each"]))
        .node(Node::new("Cast", ["attention_mask"], ["mask"]).attribute("to", element::FLOAT))
        .node(Node::new("Unsqueeze", ["mask", "last"], ["wide"]))
        .node(Node::new("Mul", ["each", "wide"], ["kept"]))
        .node(Node::new("ReduceSum", ["kept", "words"], [output]).attribute("keepdims", 0))
        .output(Info::floats(output, [batch, 2.into()]));
    Model::new(graph).opset(13).into_bytes()
}

/// Writes the model that adds up the scores of words, and returns the `url` of a load.
pub fn place_moods(server: &Server, name: &str) -> String {
    let url = server.models().place_model(name, &moods());
    write(&url, "tokenizer.json", &tokenizer(&["good", "bad"]));
    let config =
        json!({"architectures": ["BertForSequenceClassification"], "id2label": id2label(&["NEGATIVE", "POSITIVE"])});
    write(&url, "config.json", &config.to_string());
    url
}

#[test]
fn a_sentence_gets_a_label_in_every_request_format() {
    let server = Builder::multi().start();
    let url = place_moods(&server, "moods");
    server.load("moods", &url).expect(200);
    for (content_type, body) in [
        ("application/json", r#"{"inputs": "A GOOD ferry"}"#),
        ("application/json", r#"{"text": "A good ferry"}"#),
        ("text/plain", "A good ferry"),
    ] {
        let answer = send(&server, "moods", content_type, body.as_bytes(), "application/json")
            .expect(200)
            .json();
        assert_eq!(labels(&answer), ["POSITIVE"], "{content_type} {body}");
    }
    let two = r#"{"inputs": ["good", "bad bad and bad"], "parameters": {"top_k": null}}"#;
    let answer = send(&server, "moods", "application/json", two.as_bytes(), "*/*")
        .expect(200)
        .json();
    assert_eq!(labels(&answer[0]), ["POSITIVE", "NEGATIVE"], "{answer}");
    assert_eq!(labels(&answer[1]), ["NEGATIVE", "POSITIVE"], "{answer}");
    let csv = send(&server, "moods", "text/csv", b"good\nbad\n", "text/csv")
        .expect(200)
        .text();
    let first: Vec<&str> = csv.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(first, ["POSITIVE", "NEGATIVE"], "{csv}");
    let ids = json!({"inputs": {"input_ids": [[2, 2]], "attention_mask": [[1, 1]]}});
    assert_eq!(labels(&server.invoke("moods", &ids).expect(200).json()), ["POSITIVE"]);
    let npz = Server::invocation("moods")
        .json(&ids)
        .header("Accept", "application/x-npy");
    assert!(server.send(&npz).expect(200).body.starts_with(b"\x93NUMPY"));

    let long = "a ".repeat(600_000);
    for (content_type, body, status, part) in [
        ("text/plain", long.as_bytes(), 413, "--max-text"),
        ("text/plain", b"caf\xe9".as_slice(), 400, "UTF-8"),
        ("application/json", br#"{"inputs": []}"#, 400, "no texts"),
        (
            "application/json",
            br#"{"inputs": "a", "parameters": {"max_length": "x"}}"#,
            400,
            "max_length",
        ),
    ] {
        let refusal = send(&server, "moods", content_type, body, "*/*").expect(status);
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
}

#[test]
fn a_model_for_one_text_at_a_time_answers_several_as_one_that_takes_them_together() {
    let server = Builder::multi().start();
    let place = |name: &str, batch: Dim| {
        let input = |name| Info::tensor(name, element::INT64, [batch.clone(), "sequence".into()]);
        let graph = Graph::new().input(input("input_ids")).input(input("attention_mask"));
        let url = server
            .models()
            .place_model(name, &sums_in(graph, "logits", batch.clone()));
        write(&url, "tokenizer.json", &tokenizer(&["good", "bad"]));
        let config = json!({"architectures": ["BertForSequenceClassification"], "id2label": id2label(&["NEGATIVE", "POSITIVE"])});
        write(&url, "config.json", &config.to_string());
        server.load(name, &url).expect(200);
        url
    };
    place("one", 1.into());
    place("any", "batch".into());
    let texts = json!({"inputs": ["good", "bad bad and bad"]});
    let answers = ["one", "any"].map(|name| server.invoke(name, &texts).expect(200).json());
    assert_eq!(answers[0], answers[1]);
    // An answer that depends on several rows, too.
    let labels_of = json!({"candidate_labels": ["good", "bad"], "hypothesis_template": "{}"});
    let pairs = json!({"inputs": "ferry", "parameters": labels_of});
    for (name, batch) in [("one-pair", 1.into()), ("any-pairs", "batch".into())] {
        let url = place(name, batch);
        let config = json!({"id2label": id2label(&["CONTRADICTION", "ENTAILMENT"])});
        write(&url, "config.json", &config.to_string());
        write(&url, "longshore.json", r#"{"task": "zero-shot-classification"}"#);
        server.load(&format!("{name}-again"), &url).expect(200);
    }
    let answers = ["one-pair-again", "any-pairs-again"].map(|name| server.invoke(name, &pairs).expect(200).json());
    assert_eq!(answers[0]["labels"], json!(["good", "bad"]), "{}", answers[0]);
    assert_eq!(answers[0], answers[1]);
    // A fixed number of texts runs as it is, whatever their lengths.
    place("two", 2.into());
    let texts = json!({"inputs": ["good", "bad ".repeat(100)]});
    let answer = server.invoke("two", &texts).expect(200).json();
    assert_eq!(labels(&answer), ["POSITIVE", "NEGATIVE"], "{answer}");
}

#[test]
fn texts_that_are_copied_for_each_label_or_text_are_bounded_before_they_are_copied() {
    let server = Builder::multi().start();
    let url = place_moods(&server, "moods");
    write(&url, "longshore.json", r#"{"task": "zero-shot-classification"}"#);
    server.load("moods", &url).expect(200);
    let labels: Vec<String> = (0..1000).map(|label| label.to_string()).collect();
    let body = json!({"inputs": "a ".repeat(100_000), "parameters": {"candidate_labels": labels}});
    let refusal = server.invoke("moods", &body).expect(413).message();
    assert!(
        refusal.contains("once for each label") && refusal.contains("--max-tokens"),
        "{refusal}"
    );
    let body = json!({"query": "a ".repeat(100_000), "texts": vec!["b"; 1000]});
    let refusal = server.invoke("moods", &body).expect(413).message();
    assert!(
        refusal.contains("once for each text") && refusal.contains("--max-tokens"),
        "{refusal}"
    );
}

/// `longshore pack` of the artifact at `url`.
fn pack(server: &Server, url: &str, name: &str) -> Finished {
    let archive = server.models().path(name);
    longshore(["pack", "-o", archive.to_str().unwrap(), url])
}

#[test]
fn pack_runs_golden_pictures_and_sentences_and_refuses_what_cannot_work() {
    let server = Builder::multi().start();
    let colours_url = server.models().place_model("colours", &colours());
    let config = json!({"architectures": ["ViTForImageClassification"], "id2label": id2label(&COLOURS)});
    write(&colours_url, "config.json", &config.to_string());
    write(&colours_url, "preprocessor_config.json", PREPROCESSOR);
    let green = picture([20, 200, 90], ImageFormat::Png);
    fs::write(Path::new(&colours_url).join("green.png"), &green).unwrap();
    let golden = |label: &str| {
        json!({
            "answer": {"top_k": 1, "function_to_apply": "none"},
            "golden": [{
                "request": {"file": "green.png", "content_type": "image/png"},
                "response": [{"label": label, "score": 0.7843}],
                "rtol": 0.01,
            }],
        })
        .to_string()
    };
    write(&colours_url, "longshore.json", &golden("green"));
    pack(&server, &colours_url, "colours.tar.gz").output();
    server.load("colours", &colours_url).expect(200);
    write(&colours_url, "longshore.json", &golden("red"));
    let refusal = pack(&server, &colours_url, "wrong.tar.gz").refusal();
    assert!(refusal.contains("golden request 1"), "{refusal}");
    assert!(refusal.contains("green") && refusal.contains("red"), "{refusal}");
    assert!(!server.models().path("wrong.tar.gz").exists());

    let moods_url = place_moods(&server, "moods");
    let golden = json!({
        "answer": {"top_k": 1, "function_to_apply": "none"},
        "golden": [{"request": {"body": "A good ferry", "content_type": "text/plain"},
                    "response": [{"label": "POSITIVE", "score": 3}]}],
    });
    write(&moods_url, "longshore.json", &golden.to_string());
    pack(&server, &moods_url, "moods.tar.gz").output();

    // The model takes pictures of another size than the file makes.
    let broken = server.models().place_model("broken", &colours());
    let preprocessor = PREPROCESSOR.replace("{\"height\": 8, \"width\": 8}", "{\"height\": 9, \"width\": 9}");
    write(&broken, "preprocessor_config.json", &preprocessor);
    write(&broken, "longshore.json", r#"{"image": true}"#);
    let refusal = pack(&server, &broken, "broken.tar.gz").refusal();
    assert!(refusal.contains("9 x 9") && refusal.contains("8 x 8"), "{refusal}");
}

#[test]
fn a_model_that_is_only_a_tokenizer_returns_the_tokens_of_a_sentence() {
    let server = Builder::multi().start();
    let (url, model) = (
        folder(&server, "tokens"),
        server.models().place_model("moods", &moods()),
    );
    write(&url, "tokenizer.json", &tokenizer(&["good", "bad"]));
    server.load("tokens", &url).expect(200);
    server.load("moods", &model).expect(200);
    let tokens = send(
        &server,
        "tokens",
        "application/json",
        br#"{"inputs": ["good", "bad bad"]}"#,
        "application/json",
    );
    let logits = send(
        &server,
        "moods",
        "application/json",
        &tokens.expect(200).body,
        "application/json",
    )
    .expect(200);
    assert_eq!(logits.json()["predictions"], json!([[0.0, 3.0], [6.0, 0.0]]));
}

#[test]
fn a_restarted_worker_restores_the_tokenizer_without_the_artifact() {
    // MM-17, MM-20
    let server = Builder::multi().start();
    let url = place_moods(&server, "moods");
    server.load("moods", &url).expect(200);
    fs::remove_dir_all(&url).unwrap();
    let worker = server.process();
    worker.signal(Signal::KILL);
    eventually("the worker is gone", || !worker.is_alive());
    let ask = || send(&server, "moods", "text/plain", b"bad", "application/json");
    let answer = ask().expect(200).json();
    assert_eq!(labels(&answer), ["NEGATIVE"]);
}

#[test]
fn equal_tokenizers_share_memory() {
    let server = Builder::multi().start();
    let words: Vec<String> = (0..20_000).map(|number| format!("word{number}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut reserved = Vec::new();
    for number in 0..4 {
        let name = format!("m{number}");
        let url = place_moods(&server, &name);
        write(&url, "tokenizer.json", &tokenizer(&words));
        server.load(&name, &url).expect(200);
        reserved.push(server.reserved());
    }
    let first = reserved[1] - reserved[0];
    let others = reserved[3] - reserved[1];
    assert!(
        reserved[0] > 500_000,
        "a tokenizer of 20,000 words is counted: {reserved:?}"
    );
    assert!(first < reserved[0] / 10 && others < reserved[0] / 10, "{reserved:?}");
    for number in 0..4 {
        server.unload(&format!("m{number}")).expect(200);
    }
    assert!(
        server.reserved() < reserved[0] / 10,
        "{} {reserved:?}",
        server.reserved()
    );
}

/// Places a model that embeds every sentence except an empty one in two numbers.
fn place_embeddings(server: &Server, name: &str) -> String {
    let url = server.models().place_model(name, &sums_of_words("sentence_embedding"));
    write(&url, "tokenizer.json", &tokenizer(&["good", "bad"]));
    write(
        &url,
        "longshore.json",
        r#"{"task": "sentence-similarity", "answer": {"normalize": true}}"#,
    );
    url
}

/// An embedding of one number: the tokens of a text in its run, padding included.
fn lengths() -> Vec<u8> {
    let graph = tokens()
        .initializer(Tensor::ints("words", &[1], &[1]))
        .initializer(Tensor::ints("one", &[1], &[1]))
        .node(Node::new("Mul", ["input_ids", "input_ids"], ["squares"]))
        .node(Node::new("Add", ["squares", "one"], ["above"]))
        .node(Node::new("Min", ["above", "one"], ["ones"]))
        .node(Node::new("Cast", ["ones"], ["each"]).attribute("to", element::FLOAT))
        .node(Node::new("ReduceSum", ["each", "words"], ["sentence_embedding"]).attribute("keepdims", 1))
        .output(Info::floats("sentence_embedding", ["batch".into(), 1.into()]));
    Model::new(graph).opset(13).into_bytes()
}

#[test]
fn texts_of_different_lengths_run_in_groups_of_similar_lengths_and_are_answered_in_their_order() {
    let server = Builder::multi().start();
    let url = server.models().place_model("lengths", &lengths());
    write(&url, "tokenizer.json", &tokenizer(&["good", "bad"]));
    write(&url, "longshore.json", r#"{"task": "sentence-similarity"}"#);
    server.load("lengths", &url).expect(200);
    let words = |count: usize| "good ".repeat(count);
    let texts = [words(3), words(200), words(1), words(199), words(90)];
    let answer = server.invoke("lengths", &json!({"inputs": texts})).expect(200).json();
    assert_eq!(answer, json!([[3.0], [200.0], [3.0], [200.0], [90.0]]));
    let compared = json!({"inputs": {"source_sentence": words(200), "sentences": [words(1), words(90)]}});
    assert_eq!(
        server.invoke("lengths", &compared).expect(200).json(),
        json!([1.0, 1.0])
    );
    // Tensors go out as one, so their texts have one length.
    let tensors = send(
        &server,
        "lengths",
        "application/json",
        json!({"inputs": texts}).to_string().as_bytes(),
        "application/x-npy",
    );
    let numbers: Vec<f32> = tensors.expect(200).body[128..]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(numbers, [200.0; 5]);
}

#[test]
fn clients_of_other_text_servers_get_responses_in_their_format() {
    let server = Builder::multi().start();
    let url = place_embeddings(&server, "words");
    server.load("words", &url).expect(200);
    let post = |path: &str, body: &Value| server.send(&Request::post(path).json(body));
    let answer = post(
        "/v1/embeddings",
        &json!({"model": "words", "input": ["good", "bad bad"], "user": "u"}),
    )
    .expect(200);
    let answer = answer.json();
    assert_eq!(answer["data"][0]["embedding"], json!([0.0, 1.0]), "{answer}");
    assert_eq!(answer["data"][1]["embedding"], json!([1.0, 0.0]), "{answer}");
    assert_eq!(
        (&answer["model"], &answer["usage"]["total_tokens"]),
        (&json!("words"), &json!(3)),
        "{answer}"
    );
    let coded = json!({"model": "words", "input": "good", "encoding_format": "base64"});
    let answer = post("/v1/embeddings", &coded).expect(200).json();
    let bytes = STANDARD
        .decode(answer["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    assert_eq!(bytes, [0f32.to_le_bytes(), 1f32.to_le_bytes()].concat());
    let compared = json!({"inputs": {"source_sentence": "good", "sentences": ["good good", "bad"]}});
    assert_eq!(server.invoke("words", &compared).expect(200).json(), json!([1.0, 0.0]));
    post("/v1/embeddings", &json!({"model": "missing", "input": "good"})).expect(404);
    post(
        "/v1/embeddings",
        &json!({"model": "words", "input": "good", "encoding_format": "hex"}),
    )
    .expect(400);

    let single = Builder::single(&url).start();
    eventually("the model is loaded", || single.ping().status == 200);
    let post = |path: &str, body: &Value| single.send(&Request::post(path).json(body));
    assert_eq!(
        post("/embed", &json!({"inputs": "good"})).expect(200).json(),
        json!([[0.0, 1.0]])
    );
    let refusal = post("/rerank", &json!({"query": "good", "texts": ["bad"]})).expect(400);
    assert!(
        refusal.message().contains("does not take texts"),
        "{}",
        refusal.message()
    );
    single.send(&Request::get("/embed")).expect(405);

    let moods = place_moods(&server, "moods");
    let single = Builder::single(&moods).start();
    eventually("the model is loaded", || single.ping().status == 200);
    let answer = single
        .send(&Request::post("/predict").json(&json!({"inputs": "bad"})))
        .expect(200)
        .json();
    assert_eq!(labels(&answer), ["NEGATIVE", "POSITIVE"], "{answer}");
    // The environment can also set the task.
    let ranking = Builder::single(&moods)
        .environment("HF_TASK", "no-such-task")
        .run_to_end();
    assert!(ranking.last_line().contains("no-such-task"), "{}", ranking.last_line());
}
