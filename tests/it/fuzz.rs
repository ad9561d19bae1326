//! The fuzz targets over the fixtures, and over damaged copies of them: `scripts/fuzz` goes on from
//! there with a fuzzer.

use std::fs;
use std::path::Path;

use serde_json::json;

#[path = "../fuzz/targets.rs"]
mod targets;

/// The files of a folder of `tests`.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file());
    files.map(|path| fs::read(path).unwrap()).collect()
}

/// A file, its beginnings, and copies with a byte changed.
fn damaged(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const COPIES: usize = 12;
    let beginnings = (1..=COPIES).map(|part| file[..file.len() * part / COPIES].to_vec());
    let changes = (0..COPIES).map(|copy| {
        let mut changed = file.to_vec();
        if !changed.is_empty() {
            // Most of what a reader decides on is in the first bytes.
            let near = if copy % 2 == 0 {
                changed.len().min(64)
            } else {
                changed.len()
            };
            changed[copy.wrapping_mul(0x9e37_79b1) % near] ^= [0x01, 0x80, 0xff][copy % 3];
        }
        changed
    });
    beginnings.chain(changes)
}

fn run(target: &str, files: &[Vec<u8>]) {
    assert!(!files.is_empty());
    files
        .iter()
        .flat_map(|file| damaged(file))
        .for_each(|bytes| targets::run(target, &bytes));
}

/// Bodies that each of a target's content types is to read.
fn bodies(bodies: &[&[u8]]) -> Vec<Vec<u8>> {
    let typed = |body: &&[u8]| (0u8..8).map(|number| [&[number], *body].concat()).collect::<Vec<_>>();
    bodies.iter().flat_map(typed).collect()
}

#[test]
fn damaged_pictures_break_no_promise() {
    run("picture", &files("vision/pictures"));
}

#[test]
fn damaged_sounds_break_no_promise() {
    run("wav", &files("audio"));
}

#[test]
fn damaged_tokenizers_break_no_promise() {
    run("tokenizer", &files("text/tokenizers"));
}

#[test]
fn damaged_requests_break_no_promise() {
    let png = &files("vision/pictures")[0];
    let form = [
        b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n".as_slice(),
        png,
        b"\r\n--x--\r\n",
    ]
    .concat();
    run("picture_body", &bodies(&[&form, png, br#"{"inputs": "iVBORw0KGgo="}"#]));
    let texts = json!({"inputs": ["a", "b a"], "parameters": {"max_length": 2}}).to_string();
    run(
        "text_body",
        &bodies(&[texts.as_bytes(), b"a,b\n\"c\",d\n", b"{\"text\": \"a\"}\n"]),
    );
    let rows = json!({"instances": [{"x": [1, 2.5], "name": "a"}]}).to_string();
    run(
        "body",
        &bodies(&[rows.as_bytes(), b"x_0,x_1,name\n1,2,a\n", b"[[1, 2]]\n[[3, 4]]\n"]),
    );
    let arrays = files("arrays");
    run("body", &bodies(&arrays.iter().map(Vec::as_slice).collect::<Vec<_>>()));
}

#[test]
fn damaged_archives_break_no_promise() {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for name in ["model.onnx", "code/labels.txt"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        tar.append_data(&mut header, name, b"bytes".as_slice()).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    run("archive", &[archive]);
}
