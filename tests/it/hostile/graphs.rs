//! Invalid graphs: missing and duplicate parts, cycles, wrong types and unknown operators.

use serde_json::json;

use super::artifact::{Hostile, gives_y, takes_x};
use crate::support::onnx::{Attribute, Function, Graph, Info, Model, Node, SparseTensor, Tensor, element};
use crate::support::protobuf::Message;

pub fn all() -> Vec<Hostile> {
    [
        structure(),
        names(),
        types(),
        versions(),
        initializers(),
        sparse(),
        functions(),
    ]
    .concat()
}

/// `y = x` through one node.
fn sound() -> Graph {
    gives_y(takes_x()).node(Node::new("Neg", ["x"], ["y"]))
}

fn structure() -> Vec<Hostile> {
    let floats = |name: &str| Info::floats(name, ["n".into(), 4.into()]);
    vec![
        Hostile::graph("a sound graph", sound()).serves(),
        Hostile::bytes("no graph", Message::default().int(1, 8).into_bytes()).refused(&["No graph"]),
        Hostile::graph("an empty graph", Graph::new()),
        Hostile::graph("no nodes", gives_y(takes_x())).refused(&["y"]),
        Hostile::graph("no outputs", takes_x().node(Node::new("Neg", ["x"], ["y"]))),
        Hostile::graph("no inputs", gives_y(Graph::new()).node(Node::new("Neg", ["x"], ["y"]))).refused(&["x"]),
        Hostile::graph("an output that no node makes", sound().output(floats("z"))).refused(&["z"]),
        Hostile::graph("an output that is an input", takes_x().output(floats("x"))),
        Hostile::graph(
            "an output that is an initializer",
            takes_x()
                .initializer(Tensor::floats("w", &[1], &[1.0]))
                .output(Info::floats("w", [1.into()])),
        ),
        Hostile::graph(
            "a node's input that no node makes",
            gives_y(takes_x()).node(Node::new("Add", ["x", "z"], ["y"])),
        )
        .refused(&["z"]),
        Hostile::graph(
            "a node that feeds itself",
            gives_y(takes_x()).node(Node::new("Add", ["x", "y"], ["y"])),
        )
        .refused(&["y"]),
        Hostile::graph(
            "three nodes in a circle",
            gives_y(takes_x())
                .node(Node::new("Add", ["x", "c"], ["a"]))
                .node(Node::new("Neg", ["a"], ["b"]))
                .node(Node::new("Neg", ["b"], ["c"]))
                .node(Node::new("Neg", ["c"], ["y"])),
        )
        .refused(&["acyclic"]),
        Hostile::graph("a value made twice", sound().node(Node::new("Abs", ["x"], ["y"]))).refused(&["y"]),
        Hostile::graph(
            "a node that makes a value twice",
            gives_y(takes_x()).node(Node::new("TopK", ["x", "x"], ["y", "y"])),
        ),
        Hostile::graph("an input twice", sound().input(floats("x"))),
        Hostile::graph("an output twice", sound().output(floats("y"))),
        Hostile::graph(
            "an input that a node makes",
            sound().node(Node::new("Abs", ["y"], ["x"])),
        )
        .refused(&["x"]),
        Hostile::graph(
            "the outputs of a node are none",
            sound().node(Node::new("Abs", ["x"], [])),
        ),
        Hostile::graph("a node without inputs", sound().node(Node::new("Abs", [], ["z"]))).refused(&["Abs"]),
        Hostile::graph(
            "a node with too many inputs",
            sound().node(Node::new("Abs", ["x"; 9], ["z"])),
        )
        .refused(&["Abs"]),
        Hostile::graph(
            "a node with too many outputs",
            sound().node(Node::new("Abs", ["x"], ["a", "b", "c"])),
        )
        .refused(&["Abs"]),
        Hostile::graph("an operator without a name", sound().node(Node::new("", ["x"], ["z"]))),
        Hostile::graph(
            "an unknown operator",
            sound().node(Node::new("Frobnicate", ["x"], ["z"])),
        )
        .refused(&["Frobnicate"]),
        Hostile::graph(
            "an unknown domain",
            sound().node(Node::new("Neg", ["x"], ["z"]).domain("com.example.custom")),
        )
        .refused(&["com.example.custom"]),
        Hostile::graph(
            "an operator of Microsoft's",
            sound().node(Node::new("Gelu", ["x"], ["z"]).domain("com.microsoft")),
        ),
        Hostile::graph(
            "an unknown attribute",
            sound().node(Node::new("Neg", ["x"], ["z"]).attribute("colour", 1)),
        )
        .refused(&["colour"]),
        Hostile::graph(
            "an attribute twice",
            sound().node(
                Node::new("Softmax", ["x"], ["z"])
                    .attribute("axis", 0)
                    .attribute("axis", 1),
            ),
        ),
        Hostile::graph("a branch without a graph", {
            let node = Node::new("If", ["yes"], ["z"])
                .attribute("then_branch", 1)
                .attribute("else_branch", 2);
            sound().initializer(Tensor::bools("yes", &[], &[true])).node(node)
        })
        .refused(&["branch"]),
        Hostile::graph("branches of nothing", {
            let node = Node::new("If", ["yes"], ["z"])
                .attribute("then_branch", Graph::new())
                .attribute("else_branch", Graph::new());
            sound().initializer(Tensor::bools("yes", &[], &[true])).node(node)
        })
        .refused(&["If"]),
        Hostile::graph("a loop without a body", {
            let node = Node::new("Loop", ["", "", "x"], ["z"]).attribute("body", Graph::new());
            sound().node(node)
        })
        .refused(&["Loop"]),
        Hostile::model(
            "two graphs in one",
            Model::new(sound()).field(7, &takes_x().into_message()),
        ),
        Hostile::model(
            "metadata that is none",
            Model::new(sound()).field(14, &Message::default().raw([0xff; 8])),
        ),
    ]
}

fn names() -> Vec<Hostile> {
    let called = |input: &str, output: &str| {
        let floats = |name: &str| Info::floats(name, ["n".into(), 4.into()]);
        Graph::new()
            .input(floats(input))
            .output(floats(output))
            .node(Node::new("Neg", [input], [output]))
    };
    let long = "x".repeat(10 << 20);
    vec![
        Hostile::graph("a NUL in an input's name", called("a\0b", "y")),
        Hostile::graph("a NUL in an output's name", called("x", "a\0b")),
        Hostile::graph(
            "a NUL in an operator's name",
            sound().node(Node::new("Ab\0s", ["x"], ["z"])),
        )
        .refused(&["Ab"]),
        Hostile::graph(
            "names of control characters",
            called("\u{1b}[31m\r\n\t\u{7}", "\"}{'\\"),
        ),
        Hostile::graph(
            "names that are text of errors",
            called("std::bad_alloc", "Status Message: std::bad_alloc"),
        ),
        Hostile::graph("names in all scripts", called("вход 入力 🦀", "sortie — خرج")),
        Hostile::graph("an input without a name", called("", "y")),
        Hostile::graph("an output without a name", called("x", "")),
        Hostile::graph("an input's name of 10 MB", called(&long, "y")),
        Hostile::graph(
            "a node's name of 10 MB",
            sound().node(Node::new("Abs", ["x"], ["z"]).named(&long)),
        ),
        Hostile::graph(
            "an unknown operator's name of 4 KB",
            sound().node(Node::new(&long[..4000], ["x"], ["z"])),
        )
        .refused(&["xxx"]),
        Hostile::graph(
            "an operator's name of 10 MB",
            sound().node(Node::new(&long, ["x"], ["z"])),
        )
        .refused(&["4096"]),
        Hostile::graph(
            "a domain of 10 MB",
            sound().node(Node::new("Abs", ["x"], ["z"]).domain(&long)),
        )
        .refused(&["xxx"]),
        Hostile::graph(
            "an initializer's name of 10 MB",
            sound().initializer(Tensor::floats(&long, &[1], &[1.0])),
        ),
        Hostile::graph(
            "a missing value's name of 10 MB",
            gives_y(takes_x()).node(Node::new("Add", ["x", &*long], ["y"])),
        )
        .refused(&["xxx"]),
        Hostile::graph(
            "an attribute's name of 10 MB",
            sound().node(Node::new("Abs", ["x"], ["z"]).attribute(&long, 1)),
        )
        .refused(&["xxx"]),
        Hostile::graph(
            "a dimension's name of 10 MB",
            sound().input(Info::floats("z", [long.as_str().into()])),
        ),
        Hostile::model(
            "a name that is not UTF-8",
            Model::new(sound()).field(7, &Message::default().bytes(2, [0xff, 0xfe, 0x80])),
        ),
        Hostile::bytes("an operator's name that is not UTF-8", {
            let node = Message::default().bytes(4, [0xc3, 0x28]).bytes(1, "x").bytes(2, "z");
            Model::new(sound())
                .field(7, &Message::default().message(1, &node))
                .into_bytes()
        })
        .refused(&["No Op registered"]),
    ]
}

fn types() -> Vec<Hostile> {
    let input = |name: &'static str, element: i64| {
        Hostile::graph(
            name,
            Graph::new()
                .input(Info::tensor("x", element, [4.into()]))
                .output(Info::any_rank("y", element))
                .node(Node::new("Identity", ["x"], ["y"])),
        )
    };
    let shape = |name: &'static str, dims: &[i64]| {
        Hostile::graph(
            name,
            Graph::new()
                .input(Info::floats("x", dims.iter().map(|&dim| dim.into())))
                .output(Info::any_rank("y", element::FLOAT))
                .node(Node::new("Neg", ["x"], ["y"])),
        )
    };
    vec![
        input("no type", 0).refused(&["data type"]),
        input("type 99", 99).refused(&["data type"]),
        input("type -1", -1).refused(&["data type"]),
        input("type 2^31", 1 << 31).refused(&["data type"]),
        input("complex numbers", 14).refused(&["complex64"]),
        input("numbers of four bits", 22).refused(&["x"]),
        shape("a negative dimension", &[-5, 4]),
        shape("a dimension of 0", &[0, 4]),
        shape("the least dimension", &[i64::MIN]),
        shape("the greatest dimension", &[i64::MAX]),
        shape("dimensions that overflow", &[1 << 40, 1 << 40]),
        shape("dimensions that overflow to 0", &[1 << 32, 1 << 32]),
        shape("a thousand dimensions", &[1; 1000]),
        shape("ten thousand dimensions of 2", &[2; 10_000]),
        Hostile::graph("an input without a type", sound().input(Info::untyped("z"))),
        Hostile::graph(
            "floats and integers added",
            gives_y(takes_x())
                .initializer(Tensor::ints("i", &[1], &[1]))
                .node(Node::new("Add", ["x", "i"], ["y"])),
        )
        .refused(&["Type Error"]),
        Hostile::graph(
            "floats that are declared integers",
            takes_x()
                .output(Info::any_rank("y", element::INT64))
                .node(Node::new("Neg", ["x"], ["y"])),
        )
        .refused(&["Type Error"]),
        Hostile::graph(
            "shapes that are declared otherwise",
            takes_x()
                .output(Info::floats("y", [7.into(), 7.into(), 7.into()]))
                .node(Node::new("Neg", ["x"], ["y"])),
        ),
        Hostile::graph(
            "indices that are floats",
            gives_y(takes_x()).node(Node::new("Gather", ["x", "x"], ["y"])),
        )
        .refused(&["Gather"]),
        Hostile::graph(
            "an attribute of another type",
            gives_y(takes_x()).node(Node::new("Softmax", ["x"], ["y"]).attribute("axis", 1.0)),
        )
        .refused(&["axis"]),
        Hostile::graph(
            "a reference outside of a function",
            gives_y(takes_x()).node(Node::new("Softmax", ["x"], ["y"]).attribute("axis", Attribute::reference(2, "a"))),
        ),
        Hostile::graph("rows of no columns", {
            Graph::new()
                .input(Info::floats("x", ["n".into(), 0.into()]))
                .output(Info::any_rank("y", element::FLOAT))
                .node(Node::new("Neg", ["x"], ["y"]))
        })
        .with_request(json!({"instances": [[], []]})),
    ]
}

fn versions() -> Vec<Hostile> {
    let sound = || Model::new(sound());
    vec![
        Hostile::model("IR version 0", sound().ir_version(0)),
        Hostile::model("IR version -1", sound().ir_version(-1)),
        Hostile::model("IR version 99", sound().ir_version(99)).refused(&["IR version"]),
        Hostile::model("the greatest IR version", sound().ir_version(i64::MAX)).refused(&["IR version"]),
        Hostile::model("operators of version 0", sound().opset(0)),
        Hostile::model("operators of version -1", sound().opset(-1)),
        Hostile::model("operators of version 999", sound().opset(999)).refused(&["opset"]),
        Hostile::model("the greatest version of operators", sound().opset(i64::MAX)),
        Hostile::model("operators of version 1", sound().opset(1)),
        Hostile::model("two versions of operators", sound().import("", 9)),
        Hostile::model("an import of nothing", sound().import("com.example.void", 1)),
        Hostile::model("a future of another domain", sound().import("ai.onnx.ml", 99)),
        Hostile::model("ten thousand imports", {
            (0..10_000).fold(sound(), |model, number| model.import(&format!("domain{number}"), 1))
        }),
    ]
}

fn initializers() -> Vec<Hostile> {
    let with = |name: &str, tensor: Tensor| {
        let graph = gives_y(takes_x())
            .initializer(tensor)
            .node(Node::new("Add", ["x", "w"], ["y"]));
        Hostile::graph(format!("an initializer {name}"), graph)
    };
    let refused: &[&str] = &["ONNX Runtime refuses the model"];
    vec![
        with("without data", Tensor::empty("w", element::FLOAT, &[4])).refused(refused),
        with("of 2^60 numbers", Tensor::empty("w", element::FLOAT, &[1 << 60])).refused(refused),
        with(
            "whose size overflows",
            Tensor::empty("w", element::FLOAT, &[1 << 32, 1 << 32]),
        )
        .refused(refused),
        with(
            "whose size overflows to 16",
            Tensor::raw("w", element::FLOAT, &[i64::MAX, i64::MAX, 4], [0; 16]),
        )
        .refused(refused),
        with("of a negative size", Tensor::raw("w", element::FLOAT, &[-4], [0; 16])).refused(refused),
        with(
            "of the least size",
            Tensor::raw("w", element::FLOAT, &[i64::MIN], [0; 16]),
        )
        .refused(refused),
        with(
            "of two negative sizes",
            Tensor::raw("w", element::FLOAT, &[-2, -2], [0; 16]),
        )
        .refused(refused),
        with("of 3x0x0", Tensor::floats("w", &[3, 0, 0], &[])).refused(&["ONNX Runtime"]),
        with("with too little data", Tensor::raw("w", element::FLOAT, &[4], [0; 8])).refused(refused),
        with("with too much data", Tensor::raw("w", element::FLOAT, &[4], [0; 1000])).refused(refused),
        with("with an odd length", Tensor::raw("w", element::FLOAT, &[4], [0; 15])).refused(refused),
        with("with too few floats", Tensor::typed_floats("w", &[4], &[1.0])).refused(refused),
        with("with too many floats", Tensor::typed_floats("w", &[4], &[1.0; 1000])).refused(refused),
        with("of no type", Tensor::raw("w", 0, &[4], [0; 16])).refused(refused),
        with("of type 99", Tensor::raw("w", 99, &[4], [0; 16])).refused(refused),
        with("of strings as bytes", Tensor::raw("w", element::STRING, &[4], [0; 16])).refused(refused),
        with(
            "of strings in an addition",
            Tensor::strings("w", &[4], &["a", "b", "c", "d"]),
        )
        .refused(refused),
        with("of 2^40 strings", Tensor::strings("w", &[1 << 40], &["a"])).refused(refused),
        with(
            "of booleans that are none",
            Tensor::raw("w", element::BOOL, &[4], [7; 4]),
        )
        .refused(refused),
        with("of ten thousand dimensions", Tensor::floats("w", &[1; 10_000], &[1.0])),
        with("of a million dimensions", Tensor::floats("w", &[1; 1_000_000], &[1.0])),
        Hostile::graph("an initializer twice", {
            let w = || Tensor::floats("w", &[4], &[1.0; 4]);
            sound().initializer(w()).initializer(w())
        }),
        Hostile::graph(
            "an initializer that a node makes",
            sound().initializer(Tensor::floats("y", &[4], &[1.0; 4])),
        ),
        Hostile::graph(
            "an initializer of no name",
            sound().initializer(Tensor::floats("", &[4], &[1.0; 4])),
        ),
        Hostile::graph("100,000 initializers", {
            let add =
                |graph: Graph, number: usize| graph.initializer(Tensor::floats(&format!("w{number}"), &[1], &[1.0]));
            (0..100_000).fold(sound(), add)
        }),
    ]
}

fn sparse() -> Vec<Hostile> {
    let with = |name: &str, values: Tensor, indices: Tensor, dims: &[i64]| {
        let graph = gives_y(takes_x())
            .sparse_initializer(&SparseTensor::new(values, indices, dims))
            .node(Node::new("Add", ["x", "w"], ["y"]));
        Hostile::graph(format!("a sparse tensor {name}"), graph)
    };
    let values = |count: usize| Tensor::floats("w", &[count as i64], &vec![1.0; count]);
    let indices = |at: &[i64]| Tensor::ints("i", &[at.len() as i64], at);
    vec![
        with("that is sound", values(2), indices(&[0, 3]), &[4]),
        with("with an index beyond the end", values(2), indices(&[0, 4000]), &[4]),
        with(
            "with an index beyond everything",
            values(2),
            indices(&[0, i64::MAX]),
            &[4],
        ),
        with("with a negative index", values(2), indices(&[-1, 0]), &[4]),
        with("with an index twice", values(2), indices(&[1, 1]), &[4]),
        with("with fewer indices than values", values(4), indices(&[0]), &[4]),
        with("with more indices than values", values(1), indices(&[0, 1, 2, 3]), &[4]),
        with("of 4 TB", values(2), indices(&[0, 3]), &[1 << 20, 1 << 20]),
        with("of 1 GB", values(2), indices(&[0, 3]), &[1 << 28]),
        with(
            "whose size overflows",
            values(2),
            indices(&[0, 3]),
            &[1 << 32, 1 << 32, 4],
        ),
        with("of a negative size", values(2), indices(&[0, 3]), &[-4]),
        with("without a shape", values(2), indices(&[0, 3]), &[]),
        with(
            "without values",
            Tensor::empty("w", element::FLOAT, &[2]),
            indices(&[0, 3]),
            &[4],
        ),
        with(
            "with float indices",
            values(2),
            Tensor::floats("i", &[2], &[0.0, 1.0]),
            &[4],
        ),
        with(
            "with indices of three axes",
            values(2),
            Tensor::ints("i", &[1, 2, 1], &[0, 1]),
            &[4],
        ),
        with(
            "with coordinates",
            values(2),
            Tensor::ints("i", &[2, 2], &[0, 0, 1, 9]),
            &[2, 2],
        ),
    ]
}

fn functions() -> Vec<Hostile> {
    const DOMAIN: &str = "local";
    let call = |name: &str| Node::new(name, ["x"], ["y"]).domain(DOMAIN);
    let model = |name: &str| Model::new(gives_y(takes_x()).node(call(name))).import(DOMAIN, 1);
    let function = |name: &str| Function::new(DOMAIN, name).import(DOMAIN, 1).input("a").output("b");
    let calls = |name: &str, callee: &str| function(name).node(Node::new(callee, ["a"], ["b"]).domain(DOMAIN));
    let chain = |length: usize| {
        let last = function("f0").node(Node::new("Neg", ["a"], ["b"]));
        let model = model(&format!("f{}", length - 1)).function(&last);
        (1..length).fold(model, |model, level| {
            model.function(&calls(&format!("f{level}"), &format!("f{}", level - 1)))
        })
    };
    vec![
        Hostile::model(
            "a sound function",
            model("f").function(&function("f").node(Node::new("Neg", ["a"], ["b"]))),
        )
        .serves(),
        Hostile::model("a function that calls itself", model("f").function(&calls("f", "f"))).refused(&["recurs"]),
        Hostile::model(
            "two functions that call each other",
            model("f").function(&calls("f", "g")).function(&calls("g", "f")),
        )
        .refused(&["recurs"]),
        Hostile::model(
            "a function that calls a missing function",
            model("f").function(&calls("f", "g")),
        )
        .refused(&["g"]),
        Hostile::model("a function that is not there", model("f")).refused(&["f"]),
        Hostile::model("a function without nodes", model("f").function(&function("f"))),
        Hostile::model(
            "a function that does not make its output",
            model("f").function(&function("f").node(Node::new("Neg", ["a"], ["c"]))),
        ),
        Hostile::model(
            "a function of a value that no node makes",
            model("f").function(&function("f").node(Node::new("Neg", ["c"], ["b"]))),
        ),
        Hostile::model("a function with a circle", {
            let f = function("f")
                .node(Node::new("Neg", ["d"], ["c"]))
                .node(Node::new("Neg", ["c"], ["d"]));
            model("f").function(&f.node(Node::new("Neg", ["a"], ["b"])))
        }),
        Hostile::model("a function twice", {
            let f = function("f").node(Node::new("Neg", ["a"], ["b"]));
            model("f")
                .function(&f)
                .function(&function("f").node(Node::new("Abs", ["a"], ["b"])))
        }),
        Hostile::model("a function without a name", {
            let f = Function::new(DOMAIN, "")
                .input("a")
                .output("b")
                .node(Node::new("Neg", ["a"], ["b"]));
            model("").function(&f)
        }),
        Hostile::model("a function called as a standard operator", {
            let f = Function::new("", "Neg")
                .input("a")
                .output("b")
                .node(Node::new("Neg", ["a"], ["b"]));
            Model::new(sound()).function(&f)
        }),
        Hostile::model("a function of a domain that is not imported", {
            let f = function("f").node(Node::new("Neg", ["a"], ["b"]));
            Model::new(gives_y(takes_x()).node(call("f"))).function(&f)
        })
        .refused(&["local"]),
        Hostile::model("a function with an attribute that no caller gives", {
            let node = Node::new("Softmax", ["a"], ["b"]).attribute("axis", Attribute::reference(2, "axis"));
            model("f").function(&function("f").attribute("axis").node(node))
        }),
        Hostile::model("a function with more inputs than its caller gives", {
            let f = function("f").input("c").node(Node::new("Add", ["a", "c"], ["b"]));
            model("f").function(&f)
        }),
        Hostile::model("a function in which every node is called the same", {
            let f = function("f")
                .node(Node::new("Neg", ["a"], ["c"]).named("n"))
                .node(Node::new("Neg", ["c"], ["b"]).named("n"));
            model("f").function(&f)
        }),
        Hostile::model("functions 1,000 deep", chain(1_000)),
        Hostile::model("functions 20,000 deep", chain(20_000)),
    ]
}
