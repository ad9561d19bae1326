//! Files that are not models, and artifacts that point outside of themselves.

use std::path::Path;

use super::artifact::{Content, Hostile};
use crate::support::networks;

/// Artifacts that try to read `secret`, a file outside of them.
pub fn all(secret: &Path) -> Vec<Hostile> {
    let outside = secret.parent().unwrap().display().to_string();
    let secret = secret.display().to_string();
    let good = networks::mlp(&[4, 4], 1);
    let no_model = &["is not a model"];
    let mut all = vec![
        Hostile::bytes("a zip", *b"PK\x03\x04\x14\x00\x00\x00\x08\x00\x21\x5a\x4f\x5b").refused(&["is a zip archive"]),
        Hostile::bytes("a gzip", *b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xed\xc1\x01\x0d")
            .refused(&["is compressed with gzip"]),
        Hostile::bytes("a tar", tar()).refused(&["is a tar archive"]),
        Hostile::bytes("a page", "<!DOCTYPE html><html><body>404 Not Found</body></html>")
            .refused(&["is an HTML or XML document"]),
        Hostile::bytes("an answer", r#"{"message": "Access Denied"}"#).refused(&["is a JSON document"]),
        Hostile::bytes(
            "a pointer",
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        )
        .refused(&["is a pointer of Git LFS"]),
        Hostile::bytes(
            "a pickle",
            *b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins",
        )
        .refused(&["is a Python pickle"]),
        Hostile::bytes("a program", *b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
            .refused(&["is an executable"]),
        Hostile::bytes("a picture", *b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR").refused(no_model),
        Hostile::bytes("a safetensors", *b"\x40\x00\x00\x00\x00\x00\x00\x00{\"w\":{}}")
            .refused(&["is a safetensors file"]),
        Hostile::bytes("one zero", *b"\0").refused(no_model),
        Hostile::bytes("a megabyte of zeros", vec![0; 1 << 20]).refused(no_model),
        Hostile::bytes("a megabyte of ones", vec![0xff; 1 << 20]).refused(no_model),
        Hostile::bytes("nothing", *b"").refused(&["is not a model", "empty"]),
        Hostile::bytes("only the magic bytes of the ORT format", *b"\x08\0\0\0ORTM").refused(no_model),
        Hostile::new("a truncated file in the ORT format")
            .file(
                "model.ort",
                *b"\x1c\x00\x00\x00ORTM\x00\x00\x00\x00\xff\xff\xff\x7f\x01\x02\x03\x04",
            )
            .refused(&["ORT model verification failed"]),
        Hostile::new("an HTML page named model.ort")
            .file("model.ort", "<!DOCTYPE html>")
            .refused(&["model.ort is an HTML or XML document"]),
        Hostile::new("no file").refused(&["no model in"]),
        Hostile::new("a pipe")
            .with("model.onnx", Content::Fifo)
            .refused(&["not a regular file"]),
        Hostile::new("a directory")
            .with("model.onnx", Content::Directory)
            .refused(&["no model in"]),
        Hostile::new("a device")
            .link("model.onnx", "/dev/zero")
            .refused(&["link out of the artifact"]),
        Hostile::new("a terminal")
            .link("model.onnx", "/dev/tty")
            .refused(&["model.onnx"]),
        Hostile::new("the memory of the server")
            .link("model.onnx", "/proc/self/mem")
            .refused(&["link out of the artifact"]),
        Hostile::new("a link to nothing")
            .link("model.onnx", "gone.onnx")
            .refused(&["does not exist"]),
        Hostile::new("a link to itself")
            .link("model.onnx", "model.onnx")
            .refused(&["model.onnx"]),
        Hostile::new("a link out")
            .link("model.onnx", &*secret)
            .refused(&["link out of the artifact"]),
        Hostile::new("a link to a directory outside")
            .link("1", &*outside)
            .refused(&["out of the artifact"]),
        Hostile::new("a link to the root")
            .link("models", "/")
            .refused(&["out of the artifact"]),
        Hostile::new("a link inside")
            .file("weights/net.onnx", &*good)
            .link("model.onnx", "weights/net.onnx")
            .serves(),
        manifest("a manifest that is not JSON", "model: model.onnx").refused(&["longshore.json"]),
        manifest("a manifest that is a list", "[]").refused(&["longshore.json"]),
        manifest("a manifest too long", " ".repeat(1 << 21)).refused(&["longshore.json", "longer than"]),
        manifest("a manifest nested deeply", "[".repeat(60_000)).refused(&["longshore.json"]),
        manifest("a manifest that points up", r#"{"model": "../good/model.onnx"}"#).refused(&["inside the artifact"]),
        manifest("a manifest that points to the root", r#"{"model": "/etc/passwd"}"#).refused(&["inside the artifact"]),
        manifest("a manifest that points to a NUL", r#"{"model": "a\u0000b"}"#).refused(&["not in the artifact"]),
        manifest("a manifest that points to a directory", r#"{"model": "."}"#).refused(&["not in the artifact"]),
        manifest("a manifest that points to a link out", r#"{"model": "link"}"#)
            .link("link", &*secret)
            .refused(&["link out of the artifact"]),
        Hostile::new("a manifest that is a pipe")
            .file("model.onnx", &*good)
            .with("longshore.json", Content::Fifo)
            .refused(&["longshore.json", "not a regular file"]),
        Hostile::new("a manifest that is a link out")
            .file("model.onnx", &*good)
            .link("longshore.json", &*secret)
            .refused(&["link out of the artifact"]),
        Hostile::new("a manifest that is a device")
            .file("model.onnx", &*good)
            .link("longshore.json", "/dev/zero")
            .refused(&["link out of the artifact"]),
    ];
    let mut crowd = Hostile::new("a thousand models");
    for number in 0..1000 {
        crowd = crowd.file(&format!("{number}.onnx"), *b"");
    }
    all.push(crowd.refused(&["more than one model", "and 995 more"]));
    all
}

fn manifest(name: &str, text: impl Into<Vec<u8>>) -> Hostile {
    Hostile::new(name).file("longshore.json", text)
}

/// The first block of a tar archive that contains `model.onnx`.
fn tar() -> Vec<u8> {
    let mut block = vec![0; 1024];
    block[..10].copy_from_slice(b"model.onnx");
    block[100..107].copy_from_slice(b"0000644");
    block[257..262].copy_from_slice(b"ustar");
    block
}
