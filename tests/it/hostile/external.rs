//! External weights: files that the model must not read, and files that differ from what the model
//! declares.

use std::path::Path;

use super::artifact::{Content, Hostile, gives_y, takes_x};
use crate::support::onnx::{Graph, Model, Node, SparseTensor, Tensor};

/// Artifacts that try to read `secret`, a file outside of them with the bytes of four floats.
///
/// Each artifact lies two directories below that of the secret.
pub fn all(secret: &Path) -> Vec<Hostile> {
    const OUTSIDE: &[&str] = &["outside the artifact"];
    const MISSING: &[&str] = &["not in the artifact"];
    let name = secret.file_name().unwrap().to_str().unwrap();
    let outside = secret.parent().unwrap().display().to_string();
    let file = secret.display().to_string();
    let up = format!("../../{name}");
    let links = |entry: &str, target: &str| {
        reads(&format!("a link {entry}"), entry).link(entry.split('/').next().unwrap(), target)
    };
    vec![
        reads("up", &up).refused(OUTSIDE),
        reads("up behind a directory", &format!("weights/../../../{name}")).refused(OUTSIDE),
        reads("up behind a dot", &format!("./{up}")).refused(OUTSIDE),
        reads("up with doubled slashes", &format!("..//..//{name}")).refused(OUTSIDE),
        reads("absolute", &file).refused(OUTSIDE),
        reads("absolute twice", &format!("/{file}")).refused(OUTSIDE),
        reads("the passwords", "/etc/passwd").refused(OUTSIDE),
        reads("the memory of the server", "/proc/self/mem").refused(OUTSIDE),
        reads("the environment of the server", "/proc/self/environ").refused(OUTSIDE),
        reads("zeros without end", "/dev/zero").refused(OUTSIDE),
        reads("standard input", "/dev/stdin").refused(OUTSIDE),
        reads("the directory", ".").refused(&["not a regular file"]),
        reads("no name", "").refused(OUTSIDE),
        reads("a URL", "https://example.com/weights.bin").refused(MISSING),
        reads("a file URL", &format!("file://{file}")).refused(MISSING),
        reads("a NUL", "weights.bin\0").refused(&["weights.bin"]),
        reads("a Windows path", "..\\..\\secret.bin").refused(MISSING),
        reads("a home", "~/secret.bin").refused(MISSING),
        reads("a variable", "$HOME/secret.bin").refused(MISSING),
        reads("a name too long", &"w".repeat(5000)).refused(&["4096"]),
        reads("a component too long", &"w".repeat(4000)).refused(&["www"]),
        reads("an address in memory", "*/_ORT_MEM_ADDR_/*").refused(&["address"]),
        reads("an address in memory that is a file too", "*/_ORT_MEM_ADDR_/*")
            .file("*/_ORT_MEM_ADDR_/*", [0; 16])
            .refused(&["address"]),
        links("out.bin", &file).refused(&["link out of the artifact"]),
        links("folder/secret.bin", &outside).refused(&["link out of the artifact"]),
        links("root/etc/passwd", "/").refused(&["link out of the artifact"]),
        links("zeros.bin", "/dev/zero").refused(&["link out of the artifact"]),
        links("loop.bin", "loop.bin").refused(&["loop.bin"]),
        links("nothing.bin", "gone.bin").refused(MISSING),
        links("up.bin", &format!("../../{name}")).refused(&["link out of the artifact"]),
        links("chain.bin", "second.bin")
            .link("second.bin", &*file)
            .refused(&["link out of the artifact"]),
        links("inside.bin", "weights/w.bin")
            .file("weights/w.bin", [0; 16])
            .serves(),
        reads("a pipe", "pipe.bin")
            .with("pipe.bin", Content::Fifo)
            .refused(&["not a regular file"]),
        reads("a directory", "weights.bin")
            .with("weights.bin", Content::Directory)
            .refused(&["not a regular file"]),
        reads("a file below a file", "model.onnx/w.bin").refused(&["model.onnx"]),
        reads("the model itself", "model.onnx"),
        reads("an empty file", "weights.bin")
            .file("weights.bin", [])
            .refused(&["External initializer: w", "out of bounds"]),
        reads("a short file", "weights.bin")
            .file("weights.bin", [0; 15])
            .refused(&["External initializer: w", "out of bounds"]),
        span("an offset beyond the end", "64", "16").refused(&["weights.bin"]),
        span("an offset beyond everything", "9223372036854775807", "16").refused(&["weights.bin"]),
        span("a negative offset", "-16", "16").refused(&["weights.bin"]),
        span("an offset that is not a number", "many", "16").refused(&["weights.bin"]),
        span(
            "an offset of forty digits",
            "1000000000000000000000000000000000000000",
            "16",
        )
        .refused(&["weights.bin"]),
        span("a length beyond the end", "0", "1000").refused(&["weights.bin"]),
        span("a length beyond everything", "0", "18446744073709551615").refused(&["weights.bin"]),
        span("a negative length", "0", "-1").refused(&["weights.bin"]),
        span("a length that is not the shape's", "0", "8").refused(&["w external data size mismatch"]),
        span("an odd offset", "1", "16"),
        Hostile::graph(
            "a terabyte of weights",
            gives_y(Graph::new())
                .initializer(Tensor::external("w", &[1 << 38], &[("location", "weights.bin")]))
                .node(Node::new("Neg", ["w"], ["y"])),
        )
        .file("weights.bin", [0; 16])
        .refused(&["External initializer: w", "out of bounds"]),
        adds(
            "weights without a location",
            Tensor::external("w", &[4], &[("offset", "0"), ("length", "16")]),
        )
        .refused(&["ONNX Runtime refuses the model"]),
        adds(
            "two places",
            Tensor::external("w", &[4], &[("location", "weights.bin"), ("location", &up)]),
        )
        .file("weights.bin", [0; 16])
        .refused(OUTSIDE),
        Hostile::bytes(
            "a location behind the magic bytes of the other format",
            marked("zeros.bin"),
        )
        .link("zeros.bin", "/dev/zero")
        .refused(&["link out of the artifact"]),
        Hostile::bytes("a location behind a field number too large", overflowing(&up)).refused(&["field"]),
        Hostile::graph(
            "up in an attribute",
            gives_y(takes_x())
                .node(Node::new("Constant", [], ["w"]).attribute("value", secret_tensor(&up)))
                .node(Node::new("Add", ["x", "w"], ["y"])),
        )
        .refused(OUTSIDE),
        Hostile::graph(
            "up in a sparse tensor",
            gives_y(takes_x())
                .sparse_initializer(&SparseTensor::new(
                    secret_tensor(&up),
                    Tensor::ints("i", &[4], &[0, 1, 2, 3]),
                    &[4],
                ))
                .node(Node::new("Add", ["x", "w"], ["y"])),
        )
        .refused(OUTSIDE),
        Hostile::graph(
            "up in a branch",
            gives_y(takes_x()).initializer(Tensor::bools("yes", &[], &[true])).node(
                Node::new("If", ["yes"], ["y"])
                    .attribute("then_branch", branch(&up))
                    .attribute("else_branch", branch(&up)),
            ),
        )
        .refused(OUTSIDE),
    ]
}

/// `y = x + w`, where `w` is the whole file at `location`.
fn reads(name: &str, location: &str) -> Hostile {
    adds(&format!("weights: {name}"), secret_tensor(location))
}

/// `y = x + w`, where `w` is a part of a file of 64 bytes.
fn span(name: &str, offset: &str, length: &str) -> Hostile {
    let entries = [("location", "weights.bin"), ("offset", offset), ("length", length)];
    adds(&format!("weights: {name}"), Tensor::external("w", &[4], &entries)).file("weights.bin", [0; 64])
}

fn adds(name: &str, w: Tensor) -> Hostile {
    Hostile::graph(name, graph(w))
}

fn graph(w: Tensor) -> Graph {
    gives_y(takes_x())
        .initializer(w)
        .node(Node::new("Add", ["x", "w"], ["y"]))
}

fn secret_tensor(location: &str) -> Tensor {
    Tensor::external("w", &[4], &[("location", location)])
}

fn branch(location: &str) -> Graph {
    gives_y(Graph::new())
        .initializer(secret_tensor(location))
        .node(Node::new("Add", ["x", "w"], ["y"]))
}

/// A model whose graph has the field number 2^29 + 7. A reader that keeps 32 bits of a tag takes
/// it for 7. One that keeps more bits skips it as unknown, and would never see the location
/// inside.
fn overflowing(location: &str) -> Vec<u8> {
    let graph = graph(secret_tensor(location)).into_message();
    Model::new(Graph::new()).field(1 << 29 | 7, &graph).into_bytes()
}

/// A model that starts with the magic bytes of ONNX Runtime's own format, inside the producer's
/// name.
fn marked(location: &str) -> Vec<u8> {
    let mut bytes = b"\x12\x06xxORTM".to_vec();
    bytes.extend(Model::new(graph(secret_tensor(location))).into_bytes());
    bytes
}
