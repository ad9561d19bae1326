//! Small files that need much memory or time, at the load or at a run.

use serde_json::json;

use super::artifact::{Hostile, gives_y, takes_x};
use crate::support::onnx::{Function, Graph, Info, Model, Node, Tensor, element};

pub fn all() -> Vec<Hostile> {
    [constants(), growth(), time(), loops(), depth(), requests()].concat()
}

/// Numbers of elements that make 1 GB, 1 TB and 2^64 bytes of floats.
const SIZES: [(&str, i64); 3] = [("1 GB", 1 << 28), ("1 TB", 1 << 38), ("2^64 bytes", 1 << 62)];

/// `y = sum(big)`, where `node` computes `big` from constants. ONNX Runtime computes constants
/// during the load.
fn folded(name: &str, tensors: impl IntoIterator<Item = Tensor>, node: Node) -> Hostile {
    let graph = tensors.into_iter().fold(Graph::new(), Graph::initializer);
    let graph = graph
        .node(node)
        .node(Node::new("ReduceMax", ["big"], ["y"]).attribute("keepdims", 0));
    Hostile::graph(name, gives_y(graph)).with_request(json!({"inputs": {}}))
}

/// Constants that one operator inflates.
fn constants() -> Vec<Hostile> {
    let mut all = Vec::new();
    for (size, count) in SIZES {
        let make = |operator: &str, tensors: Vec<Tensor>, inputs: &[&str]| {
            let node = Node::new(operator, inputs.iter().copied(), ["big"]);
            folded(&format!("{operator} to {size}"), tensors, node)
        };
        let one = || Tensor::floats("one", &[1], &[1.0]);
        let sizes = || Tensor::ints("sizes", &[1], &[count]);
        all.extend([
            make("ConstantOfShape", vec![sizes()], &["sizes"]),
            make("Expand", vec![one(), sizes()], &["one", "sizes"]),
            make("Tile", vec![one(), sizes()], &["one", "sizes"]),
            make(
                "Pad",
                vec![one(), Tensor::ints("pads", &[2], &[0, count])],
                &["one", "pads"],
            ),
            make("Resize", vec![one(), sizes()], &["one", "", "", "sizes"]),
            make("HannWindow", vec![Tensor::ints("count", &[], &[count])], &["count"]),
            {
                let limit = Tensor::floats("limit", &[], &[count as f32]);
                let ends = vec![
                    Tensor::floats("zero", &[], &[0.0]),
                    limit,
                    Tensor::floats("step", &[], &[1.0]),
                ];
                make("Range", ends, &["zero", "limit", "step"])
            },
            {
                let tensors = vec![
                    Tensor::ints("index", &[1], &[0]),
                    Tensor::ints("depth", &[], &[count]),
                    Tensor::floats("values", &[2], &[0.0, 1.0]),
                ];
                make("OneHot", tensors, &["index", "depth", "values"])
            },
        ]);
    }
    let side = 1 << 20;
    all.extend([
        folded(
            "ConstantOfShape of a negative size",
            [Tensor::ints("sizes", &[1], &[-5])],
            Node::new("ConstantOfShape", ["sizes"], ["big"]),
        ),
        folded(
            "ConstantOfShape whose size overflows",
            [Tensor::ints("sizes", &[3], &[1 << 32, 1 << 32, 1 << 32])],
            Node::new("ConstantOfShape", ["sizes"], ["big"]),
        ),
        folded(
            "ConstantOfShape of a million dimensions",
            [Tensor::ints("sizes", &[1_000_000], &vec![1; 1_000_000])],
            Node::new("ConstantOfShape", ["sizes"], ["big"]),
        ),
        folded(
            "a column times a row",
            [
                Tensor::floats("a", &[side, 1], &vec![1.0; 1 << 20]),
                Tensor::floats("b", &[1, side], &vec![1.0; 1 << 20]),
            ],
            Node::new("MatMul", ["a", "b"], ["big"]),
        ),
        folded(
            "an outer product",
            ["a", "b", "c", "d"].map(|name| Tensor::floats(name, &[1000], &[1.0; 1000])),
            Node::new("Einsum", ["a", "b", "c", "d"], ["big"]).attribute("equation", "i,j,k,l->ijkl"),
        ),
        folded(
            "Resize by 1.7e38",
            [
                Tensor::floats("a", &[1, 1, 2, 2], &[1.0; 4]),
                Tensor::floats("scales", &[4], &[1.0, 1.0, 1.7e38, 1.7e38]),
            ],
            Node::new("Resize", ["a", "", "scales"], ["big"]).attribute("mode", "linear"),
        ),
        folded(
            "Resize by NaN",
            [
                Tensor::floats("a", &[1, 1, 2, 2], &[1.0; 4]),
                Tensor::floats("scales", &[4], &[1.0, 1.0, f32::NAN, 1.0]),
            ],
            Node::new("Resize", ["a", "", "scales"], ["big"]),
        ),
        folded(
            "Resize to a negative size",
            [
                Tensor::floats("a", &[1, 1, 2, 2], &[1.0; 4]),
                Tensor::ints("sizes", &[4], &[1, 1, -7, 2]),
            ],
            Node::new("Resize", ["a", "", "", "sizes"], ["big"]),
        ),
        folded(
            "OneHot whose depth has 3x0x0 dimensions",
            [
                Tensor::ints("index", &[1], &[0]),
                Tensor::ints("depth", &[3, 0, 0], &[]),
                Tensor::floats("values", &[2], &[0.0, 1.0]),
            ],
            Node::new("OneHot", ["index", "depth", "values"], ["big"]),
        ),
        folded(
            "OneHot of a negative depth",
            [
                Tensor::ints("index", &[1], &[0]),
                Tensor::ints("depth", &[], &[-9]),
                Tensor::floats("values", &[2], &[0.0, 1.0]),
            ],
            Node::new("OneHot", ["index", "depth", "values"], ["big"]),
        ),
        folded(
            "Range by steps of 0",
            [
                Tensor::floats("zero", &[], &[0.0]),
                Tensor::floats("ten", &[], &[10.0]),
                Tensor::floats("step", &[], &[0.0]),
            ],
            Node::new("Range", ["zero", "ten", "step"], ["big"]),
        ),
        folded(
            "Range by NaN",
            [
                Tensor::floats("zero", &[], &[0.0]),
                Tensor::floats("ten", &[], &[10.0]),
                Tensor::floats("step", &[], &[f32::NAN]),
            ],
            Node::new("Range", ["zero", "ten", "step"], ["big"]),
        ),
        folded(
            "Pad by less than nothing",
            [
                Tensor::floats("a", &[4], &[1.0; 4]),
                Tensor::ints("pads", &[2], &[i64::MIN, i64::MIN]),
            ],
            Node::new("Pad", ["a", "pads"], ["big"]),
        ),
        folded(
            "Tile by less than nothing",
            [Tensor::floats("a", &[4], &[1.0; 4]), Tensor::ints("times", &[1], &[-3])],
            Node::new("Tile", ["a", "times"], ["big"]),
        ),
        folded("random numbers of 4 TB", [], {
            Node::new("RandomNormal", [], ["big"]).attribute("shape", &[side, side][..])
        }),
    ]);
    // ONNX Runtime leaves what it cannot compute at the load to the run, which fails.
    let expect = |hostile: Hostile| {
        let never = [
            "1 TB",
            "2^64 bytes",
            "overflows",
            "1.7e38",
            "column times",
            "outer product",
        ];
        let impossible = never.iter().any(|part| hostile.name.contains(part));
        if impossible { hostile.request_refused() } else { hostile }
    };
    all.into_iter().map(expect).collect()
}

/// Chains in which each node doubles the size of its input.
fn growth() -> Vec<Hostile> {
    let chain = |name: &str, start: Tensor, operator: &str, node: fn(Node) -> Node| {
        let mut graph = Graph::new().initializer(start);
        for level in 0..40 {
            let (from, to) = (format!("v{level}"), format!("v{}", level + 1));
            graph = graph.node(node(Node::new(operator, [&*from, &*from], [&*to])));
        }
        graph = graph
            .node(Node::new("Size", ["v40"], ["y"]))
            .output(Info::ints("y", []));
        Hostile::model(name, Model::new(graph).opset(20).ir_version(9)).with_request(json!({"inputs": {}}))
    };
    vec![
        chain(
            "a constant doubled 40 times",
            Tensor::floats("v0", &[1], &[1.0]),
            "Concat",
            |node| node.attribute("axis", 0),
        ),
        chain(
            "a text doubled 40 times",
            Tensor::strings("v0", &[1], &["ha"]),
            "StringConcat",
            |node| node,
        ),
    ]
}

/// Work that takes much time and little memory.
fn time() -> Vec<Hostile> {
    let mut products = Graph::new()
        .initializer(Tensor::ints("sizes", &[2], &[2048, 2048]))
        .node(Node::new("ConstantOfShape", ["sizes"], ["v0"]));
    for level in 0..2000 {
        let (from, to) = (format!("v{level}"), format!("v{}", level + 1));
        products = products.node(Node::new("MatMul", [&*from, "v0"], [&*to]));
    }
    products = products.node(Node::new("ReduceMax", ["v2000"], ["y"]).attribute("keepdims", 0));
    vec![
        Hostile::graph("2,000 products of constants", gives_y(products)).with_request(json!({"inputs": {}})),
        function_bomb(28),
        function_bomb(60),
        Hostile::graph("a sum of a million values", {
            let names = vec!["x"; 1_000_000];
            gives_y(takes_x()).node(Node::new("Sum", names, ["y"]))
        }),
        Hostile::graph("a thousand outputs of a split", {
            let names: Vec<String> = (0..1000).map(|number| format!("s{number}")).collect();
            gives_y(takes_x())
                .node(Node::new("Split", ["x"], names.iter().map(String::as_str)).attribute("axis", 1))
                .node(Node::new("Neg", ["x"], ["y"]))
        }),
        Hostile::graph("100,000 inputs", {
            let add = |graph: Graph, number: usize| graph.input(Info::floats(&format!("i{number}"), [4.into()]));
            (0..100_000)
                .fold(gives_y(takes_x()), add)
                .node(Node::new("Neg", ["x"], ["y"]))
        })
        .refused(&["inputs and outputs"]),
        Hostile::graph("100,000 outputs", {
            let add = |graph: Graph, number: usize| {
                let name = format!("o{number}");
                graph
                    .node(Node::new("Neg", ["x"], [&*name]))
                    .output(Info::floats(&name, [4.into()]))
            };
            (0..100_000).fold(takes_x(), add)
        })
        .refused(&["inputs and outputs"]),
    ]
}

/// Functions, each of which calls the one below twice: 2^`levels` nodes once they are inlined.
fn function_bomb(levels: usize) -> Hostile {
    const DOMAIN: &str = "local";
    let name = |level: usize| {
        if level == 0 {
            "Neg".to_owned()
        } else {
            format!("f{level}")
        }
    };
    let call = |level: usize, from: &str, to: &str| {
        Node::new(&name(level), [from], [to]).domain(if level == 0 { "" } else { DOMAIN })
    };
    let mut model = Model::new(gives_y(takes_x()).node(call(levels, "x", "y"))).import(DOMAIN, 1);
    for level in 1..=levels {
        let function = Function::new(DOMAIN, &name(level))
            .import(DOMAIN, 1)
            .input("a")
            .output("b");
        model = model.function(&function.node(call(level - 1, "a", "c")).node(call(level - 1, "c", "b")));
    }
    Hostile::model(format!("functions that call twice, {levels} deep"), model).refused(&[])
}

/// A `Loop` over `x` with the greatest number of iterations and this body.
fn endless_loop(body: Graph) -> Node {
    Node::new("Loop", ["rounds", "yes", "start"], ["y"]).attribute("body", body)
}

/// A loop body that computes `next` from `state` with `node`, and always continues.
fn body(node: Node) -> Graph {
    Graph::new()
        .input(Info::ints("round", []))
        .input(Info::tensor("go", element::BOOL, []))
        .input(Info::any_rank("state", element::FLOAT))
        .node(Node::new("Identity", ["go"], ["on"]))
        .node(node)
        .output(Info::tensor("on", element::BOOL, []))
        .output(Info::any_rank("next", element::FLOAT))
}

fn loops() -> Vec<Hostile> {
    let rounds = || {
        Graph::new()
            .initializer(Tensor::ints("rounds", &[], &[i64::MAX]))
            .initializer(Tensor::bools("yes", &[], &[true]))
    };
    let turn = || body(Node::new("Neg", ["state"], ["next"]));
    let on_x = |body: Graph| {
        let graph = rounds()
            .input(Info::floats("x", ["n".into(), 4.into()]))
            .node(Node::new("Identity", ["x"], ["start"]));
        gives_y(graph.node(endless_loop(body)))
    };
    let on_constant = |body: Graph| {
        let graph = rounds().initializer(Tensor::floats("start", &[1], &[1.0]));
        gives_y(graph.node(endless_loop(body)))
    };
    let collecting = {
        let body = turn()
            .node(Node::new("Expand", ["state", "megabyte"], ["shown"]))
            .output(Info::any_rank("shown", element::FLOAT));
        let graph = rounds()
            .initializer(Tensor::ints("megabyte", &[2], &[1 << 16, 4]))
            .initializer(Tensor::floats("start", &[1], &[1.0]))
            .input(Info::floats("x", ["n".into(), 4.into()]));
        let node = Node::new("Loop", ["rounds", "yes", "start"], ["end", "big"]).attribute("body", body);
        gives_y(
            graph
                .node(node)
                .node(Node::new("Shape", ["big"], ["s"]))
                .node(Node::new("Cast", ["s"], ["y"]).attribute("to", 1)),
        )
    };
    let nested = {
        let inner = Node::new("Loop", ["rounds", "yes", "state"], ["next"]).attribute("body", renamed());
        on_x(body(inner))
    };
    vec![
        Hostile::graph("a loop without end over the request", on_x(turn())).endless(),
        Hostile::graph("a loop without end in a loop without end", nested).endless(),
        Hostile::graph("a loop without end over a constant", on_constant(turn()))
            .with_request(json!({"inputs": {}}))
            .endless(),
        Hostile::graph(
            "a loop that doubles",
            on_x(body(
                Node::new("Concat", ["state", "state"], ["next"]).attribute("axis", 0),
            )),
        ),
        Hostile::graph("a loop that doubles a constant", {
            on_constant(body(
                Node::new("Concat", ["state", "state"], ["next"]).attribute("axis", 0),
            ))
        })
        .with_request(json!({"inputs": {}})),
        Hostile::graph("a loop that keeps a megabyte each round", collecting),
        Hostile::graph("a loop of fewer than no rounds", {
            let graph = Graph::new()
                .initializer(Tensor::ints("rounds", &[], &[i64::MIN]))
                .initializer(Tensor::bools("yes", &[], &[true]))
                .initializer(Tensor::floats("start", &[1], &[1.0]));
            gives_y(graph.node(endless_loop(turn())))
        })
        .with_request(json!({"inputs": {}})),
    ]
}

/// The body of an inner loop, whose names must differ from those of the outer one.
fn renamed() -> Graph {
    Graph::new()
        .input(Info::ints("round2", []))
        .input(Info::tensor("go2", element::BOOL, []))
        .input(Info::any_rank("state2", element::FLOAT))
        .node(Node::new("Identity", ["go2"], ["on2"]))
        .node(Node::new("Neg", ["state2"], ["next2"]))
        .output(Info::tensor("on2", element::BOOL, []))
        .output(Info::any_rank("next2", element::FLOAT))
}

fn depth() -> Vec<Hostile> {
    let chain = |length: usize| {
        let mut graph = takes_x();
        let mut from = "x".to_owned();
        for level in 0..length {
            let to = format!("v{level}");
            graph = graph.node(Node::new("Neg", [&*from], [&*to]));
            from = to;
        }
        gives_y(graph.node(Node::new("Neg", [&*from], ["y"])))
    };
    let branches = |depth: usize| {
        let mut graph = gives_y(Graph::new()).node(Node::new("Neg", ["x"], ["y"]));
        for _ in 0..depth {
            let node = Node::new("If", ["yes"], ["y"])
                .attribute("then_branch", graph.clone())
                .attribute(
                    "else_branch",
                    gives_y(Graph::new()).node(Node::new("Abs", ["x"], ["y"])),
                );
            graph = gives_y(Graph::new()).node(node);
        }
        let outer = graph.into_message();
        let around = takes_x().initializer(Tensor::bools("yes", &[], &[true])).into_message();
        Model::new(Graph::new()).field(7, &outer).field(7, &around)
    };
    vec![
        Hostile::graph("a chain of 10,000 nodes", chain(10_000)),
        Hostile::graph("a chain of 100,000 nodes", chain(100_000)),
        Hostile::model("branches 5 deep", branches(5)),
        Hostile::model("branches 30 deep", branches(30)),
        Hostile::model("branches 100 deep", branches(100)).refused(&["nested"]),
        Hostile::model("branches 1,000 deep", branches(1_000)).refused(&["nested"]),
    ]
}

/// Valid models whose requests need much memory.
fn requests() -> Vec<Hostile> {
    let sized = |operator: &str, input: Info, node: Node, body: serde_json::Value| {
        let graph = gives_y(
            Graph::new()
                .initializer(Tensor::floats("one", &[1], &[1.0]))
                .input(input),
        );
        Hostile::graph(format!("a request to {operator} for 1 TB"), graph.node(node))
            .with_request(body)
            .serves()
    };
    let sizes = || Info::ints("sizes", [1.into()]);
    let ask = json!({"inputs": [1_i64 << 38]});
    vec![
        sized(
            "ConstantOfShape",
            sizes(),
            Node::new("ConstantOfShape", ["sizes"], ["y"]),
            ask.clone(),
        ),
        sized(
            "Expand",
            sizes(),
            Node::new("Expand", ["one", "sizes"], ["y"]),
            ask.clone(),
        ),
        sized("Tile", sizes(), Node::new("Tile", ["one", "sizes"], ["y"]), ask.clone()),
        sized(
            "Resize",
            sizes(),
            Node::new("Resize", ["one", "", "", "sizes"], ["y"]),
            ask,
        ),
        sized(
            "Pad",
            Info::ints("pads", [2.into()]),
            Node::new("Pad", ["one", "pads"], ["y"]),
            json!({"inputs": [0, 1_i64 << 38]}),
        ),
    ]
}
