//! Operators with attributes and shapes that no exporter writes. ONNX Runtime checks most of them,
//! and some only when it computes. It computes constants during the load.

use serde_json::json;

use super::artifact::{Hostile, gives_y, takes_x};
use crate::support::onnx::{Graph, Model, Node, Tensor, element};

pub fn all() -> Vec<Hostile> {
    [folded(), division(), trees()].concat()
}

/// A node over constants: an image `i` of 1x4x8x8, a kernel `k` of 4x4x3x3, a matrix `m` of 4x4
/// and four integers `n`.
fn constant_node(what: &str, node: Node) -> Hostile {
    let graph = gives_y(constants(takes_x()))
        .node(node)
        .node(Node::new("Shape", ["z"], ["s"]))
        .node(Node::new("Cast", ["s"], ["y"]).attribute("to", element::FLOAT));
    recent(what, graph)
}

/// A model whose opset has recent operators.
fn recent(what: &str, graph: Graph) -> Hostile {
    Hostile::model(what, Model::new(graph).opset(20).ir_version(9))
}

fn constants(graph: Graph) -> Graph {
    graph
        .initializer(Tensor::floats("i", &[1, 4, 8, 8], &[0.5; 256]))
        .initializer(Tensor::floats("k", &[4, 4, 3, 3], &[0.5; 144]))
        .initializer(Tensor::floats("m", &[4, 4], &[0.5; 16]))
        .initializer(Tensor::ints("n", &[4], &[0, 1, 2, 3]))
        .initializer(Tensor::ints("far", &[1], &[1 << 40]))
        .initializer(Tensor::ints("least", &[1], &[i64::MIN]))
        .initializer(Tensor::ints("minus", &[1], &[-1]))
        .initializer(Tensor::ints("zero", &[1], &[0]))
        .initializer(Tensor::floats("f", &[1], &[0.0]))
        .initializer(Tensor::raw("b", element::UINT8, &[1], [0]))
        .initializer(Tensor::strings("t", &[2], &["a", "b"]))
}

fn folded() -> Vec<Hostile> {
    const FAR: i64 = 1 << 40;
    let pool = |name: &str, attribute: &str, values: &[i64]| {
        let mut node = Node::new("MaxPool", ["i"], ["z"]).attribute(attribute, values);
        if attribute != "kernel_shape" {
            node = node.attribute("kernel_shape", &[2i64, 2][..]);
        }
        constant_node(&format!("MaxPool with {name}"), node)
    };
    let conv = |name: &str, attribute: &str, values: &[i64]| {
        let node = Node::new("Conv", ["i", "k"], ["z"]).attribute(attribute, values);
        constant_node(&format!("Conv with {name}"), node)
    };
    let transposed = |name: &str, attribute: &str, values: &[i64]| {
        let node = Node::new("ConvTranspose", ["i", "k"], ["z"]).attribute(attribute, values);
        constant_node(&format!("ConvTranspose with {name}"), node)
    };
    let ints = |operator: &str, inputs: &[&str], attribute: &str, values: &[i64]| {
        let node = Node::new(operator, inputs.iter().copied(), ["z"]).attribute(attribute, values);
        constant_node(&format!("{operator} with {attribute} {values:?}"), node)
    };
    let int = |operator: &str, inputs: &[&str], attribute: &str, value: i64| {
        let node = Node::new(operator, inputs.iter().copied(), ["z"]).attribute(attribute, value);
        constant_node(
            &format!("{operator} of {} with {attribute} {value}", inputs.join(" ")),
            node,
        )
    };
    let node = |operator: &str, inputs: &[&str]| {
        let node = Node::new(operator, inputs.iter().copied(), ["z"]);
        constant_node(&format!("{operator} of {}", inputs.join(" ")), node)
    };
    vec![
        conv("strides of 0", "strides", &[0, 0]),
        conv("negative strides", "strides", &[-1, -1]),
        conv("huge strides", "strides", &[FAR, FAR]),
        conv("dilations of 0", "dilations", &[0, 0]),
        conv("huge dilations", "dilations", &[i64::MAX, i64::MAX]),
        conv("huge pads", "pads", &[FAR, FAR, FAR, FAR]),
        conv("negative pads", "pads", &[-9, -9, -9, -9]),
        conv("pads of one axis", "pads", &[1]),
        conv("a kernel of 0", "kernel_shape", &[0, 0]),
        conv("a huge kernel", "kernel_shape", &[FAR, FAR]),
        int("Conv", &["i", "k"], "group", 0),
        int("Conv", &["i", "k"], "group", -1),
        int("Conv", &["i", "k"], "group", i64::MIN),
        transposed("strides of 0", "strides", &[0, 0]),
        transposed("huge strides", "strides", &[FAR, FAR]),
        transposed("huge output padding", "output_padding", &[FAR, FAR]),
        transposed("a negative output shape", "output_shape", &[-1, -1]),
        transposed("a huge output shape", "output_shape", &[FAR, FAR]),
        int("ConvTranspose", &["i", "k"], "group", 0),
        pool("a kernel of 0", "kernel_shape", &[0, 0]),
        pool("a negative kernel", "kernel_shape", &[-1, -1]),
        pool("a huge kernel", "kernel_shape", &[FAR, FAR]),
        pool("strides of 0", "strides", &[0, 0]),
        pool("dilations of 0", "dilations", &[0, 0]),
        pool("huge pads", "pads", &[FAR, FAR, FAR, FAR]),
        pool("negative pads", "pads", &[-3, -3, -3, -3]),
        int("DepthToSpace", &["i"], "blocksize", 0),
        int("DepthToSpace", &["i"], "blocksize", -2),
        int("DepthToSpace", &["i"], "blocksize", 1 << 32),
        int("SpaceToDepth", &["i"], "blocksize", 0),
        int("SpaceToDepth", &["i"], "blocksize", i64::MAX),
        int("Concat", &["m", "m"], "axis", 100),
        int("Concat", &["m", "m"], "axis", i64::MIN),
        int("Softmax", &["m"], "axis", i64::MAX),
        int("Gather", &["m", "n"], "axis", 9),
        int("Gather", &["m", "far"], "axis", 0),
        int("Gather", &["m", "least"], "axis", 0),
        int("GatherElements", &["n", "far"], "axis", 0),
        int("GatherND", &["m", "n"], "batch_dims", 100),
        int("Flatten", &["m"], "axis", 77),
        int("ArgMax", &["m"], "axis", i64::MIN),
        int("CumSum", &["m", "far"], "reverse", 7),
        int("Cast", &["m"], "to", 99),
        int("Cast", &["t"], "to", element::FLOAT),
        int("EyeLike", &["m"], "k", i64::MIN),
        int("EyeLike", &["m"], "dtype", 99),
        int("LRN", &["i"], "size", 0),
        int("LRN", &["i"], "size", i64::MAX),
        int("OneHot", &["n", "n", "f"], "axis", 99),
        int("Split", &["m"], "num_outputs", 0),
        int("Mod", &["n", "zero"], "fmod", 0),
        int("LpNormalization", &["m"], "p", 0),
        int("GroupNormalization", &["i", "f", "f"], "num_groups", 0),
        int("BatchNormalization", &["i", "f", "f", "f", "f"], "training_mode", 9),
        int("GlobalLpPool", &["i"], "p", 0),
        int("LSTM", &["i", "i", "i"], "hidden_size", -1),
        int("GRU", &["i", "i", "i"], "hidden_size", i64::MAX),
        int("RNN", &["i", "i", "i"], "hidden_size", 0),
        int("DFT", &["i", "far"], "axis", 1),
        ints("Transpose", &["m"], "perm", &[0, 0]),
        ints("Transpose", &["m"], "perm", &[7, -7]),
        ints("Transpose", &["m"], "perm", &[1]),
        ints("Constant", &[], "value_ints", &[1, 2, 3]),
        ints("RandomUniform", &[], "shape", &[-1, 4]),
        ints("RandomUniform", &[], "shape", &[FAR, FAR]),
        node("Constant", &[]),
        node("Reshape", &["m", "n"]),
        node("Reshape", &["m", "least"]),
        node("Reshape", &["m", "far"]),
        node("Expand", &["m", "minus"]),
        node("Unsqueeze", &["m", "far"]),
        node("Squeeze", &["m", "least"]),
        node("Slice", &["m", "least", "far", "zero", "zero"]),
        node("Slice", &["m", "far", "least", "zero", "least"]),
        node("TopK", &["m", "minus"]),
        node("TopK", &["m", "far"]),
        node("ScatterElements", &["n", "far", "zero"]),
        node("ScatterND", &["n", "far", "zero"]),
        node("Trilu", &["m", "least"]),
        node("Tile", &["m", "n"]),
        node("Gemm", &["m", "i"]),
        node("MatMul", &["m", "i"]),
        node("QuantizeLinear", &["m", "f", "b"]),
        node("DequantizeLinear", &["b", "f", "b"]),
        node("DynamicQuantizeLinear", &["m"]),
        node("BitShift", &["b", "b"]),
        node("NonZero", &["i"]),
        node("Unique", &["i"]),
        node("Compress", &["m", "n"]),
        node("ReduceSum", &["m", "far"]),
        node("Det", &["i"]),
        node("MelWeightMatrix", &["far", "far", "far", "f", "f"]),
        node("HannWindow", &["minus"]),
        node("STFT", &["i", "zero"]),
        node("GridSample", &["i", "i"]),
        node("RoiAlign", &["i", "m", "n"]),
        node("NonMaxSuppression", &["i", "i", "far"]),
        node("MaxUnpool", &["i", "n"]),
        node("CenterCropPad", &["m", "far"]),
        node("Col2Im", &["i", "far", "zero"]),
        node("SequenceAt", &["m", "far"]),
        node("StringNormalizer", &["t"]),
        Hostile::graph("Einsum of an invalid equation", {
            let node = Node::new("Einsum", ["m", "m"], ["y"]).attribute("equation", "ij,,kl->...->z");
            gives_y(constants(takes_x())).node(node)
        }),
        Hostile::graph("TfIdfVectorizer of nothing", {
            let node = Node::new("TfIdfVectorizer", ["n"], ["y"])
                .attribute("max_gram_length", i64::MAX)
                .attribute("max_skip_count", i64::MAX)
                .attribute("min_gram_length", -1)
                .attribute("mode", "TF")
                .attribute("ngram_counts", &[0i64, -5, FAR][..])
                .attribute("ngram_indexes", &[FAR, -1][..])
                .attribute("pool_int64s", &[1i64, 2][..]);
            gives_y(constants(takes_x())).node(node)
        }),
        recent("RegexFullMatch that never ends", {
            let node = Node::new("RegexFullMatch", ["t"], ["z"]).attribute("pattern", "((((a*)*)*)*)*b{1000}{1000}");
            gives_y(constants(takes_x()))
                .node(node)
                .node(Node::new("Cast", ["z"], ["y"]).attribute("to", element::FLOAT))
        }),
    ]
}

/// On x86-64 an integer division by 0 kills the process, and so does one whose result overflows.
fn division() -> Vec<Hostile> {
    let divide = |name: &str, operator: &str, by: &str| {
        constant_node(
            &format!("{operator} of {name}"),
            Node::new(operator, ["least", by], ["z"]),
        )
    };
    let mut all = vec![
        divide("the least integer by -1", "Div", "minus"),
        divide("the least integer by 0", "Div", "zero"),
        divide("the least integer by -1", "Mod", "minus"),
        divide("the least integer by 0", "Mod", "zero"),
    ];
    for (name, by) in [("-1", -1), ("0", 0)] {
        let graph = takes_x()
            .initializer(Tensor::ints("least", &[1], &[i64::MIN]))
            .initializer(Tensor::ints("by", &[1], &[by]))
            .node(Node::new("Cast", ["least"], ["a"]).attribute("to", element::INT32))
            .node(Node::new("Cast", ["by"], ["b"]).attribute("to", element::INT32))
            .node(Node::new("Div", ["a", "b"], ["z"]))
            .node(Node::new("Cast", ["z"], ["y"]).attribute("to", element::FLOAT));
        all.push(Hostile::graph(
            format!("Div of narrow integers by {name}"),
            gives_y(graph),
        ));
    }
    all
}

/// Tree ensembles, whose attributes form graphs of indices.
fn trees() -> Vec<Hostile> {
    struct Tree<'a> {
        name: &'a str,
        trees: &'a [i64],
        nodes: &'a [i64],
        features: &'a [i64],
        modes: &'a [&'a str],
        yes: &'a [i64],
        no: &'a [i64],
        target_nodes: &'a [i64],
        target_ids: &'a [i64],
        targets: i64,
    }
    const SOUND: Tree<'_> = Tree {
        name: "that is sound",
        trees: &[0, 0, 0],
        nodes: &[0, 1, 2],
        features: &[0, 0, 0],
        modes: &["BRANCH_LEQ", "LEAF", "LEAF"],
        yes: &[1, 0, 0],
        no: &[2, 0, 0],
        target_nodes: &[1, 2],
        target_ids: &[0, 0],
        targets: 1,
    };
    let table = [
        SOUND,
        Tree {
            name: "whose root is its own child",
            yes: &[0, 0, 0],
            ..SOUND
        },
        Tree {
            name: "in a circle",
            modes: &["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
            yes: &[1, 0, 0],
            ..SOUND
        },
        Tree {
            name: "of branches only",
            modes: &["BRANCH_LEQ"; 3],
            ..SOUND
        },
        Tree {
            name: "with a child beyond the end",
            yes: &[1000, 0, 0],
            ..SOUND
        },
        Tree {
            name: "with a child far beyond the end",
            yes: &[i64::MAX, 0, 0],
            no: &[i64::MIN, 0, 0],
            ..SOUND
        },
        Tree {
            name: "with a negative child",
            yes: &[-1, 0, 0],
            ..SOUND
        },
        Tree {
            name: "with a feature beyond the end",
            features: &[1000, 0, 0],
            ..SOUND
        },
        Tree {
            name: "with a feature far beyond the end",
            features: &[1 << 31, 0, 0],
            ..SOUND
        },
        Tree {
            name: "with a negative feature",
            features: &[-5, 0, 0],
            ..SOUND
        },
        Tree {
            name: "with a node twice",
            nodes: &[0, 1, 1],
            ..SOUND
        },
        Tree {
            name: "with nodes of huge numbers",
            nodes: &[i64::MAX, i64::MIN, 0],
            ..SOUND
        },
        Tree {
            name: "with trees of huge numbers",
            trees: &[i64::MAX, i64::MIN, 0],
            ..SOUND
        },
        Tree {
            name: "with modes that do not exist",
            modes: &["SPARKLE", "LEAF", "LEAF"],
            ..SOUND
        },
        Tree {
            name: "with fewer modes than nodes",
            modes: &["BRANCH_LEQ"],
            ..SOUND
        },
        Tree {
            name: "with fewer features than nodes",
            features: &[0],
            ..SOUND
        },
        Tree {
            name: "with fewer children than nodes",
            yes: &[1],
            no: &[2],
            ..SOUND
        },
        Tree {
            name: "without nodes",
            trees: &[],
            nodes: &[],
            features: &[],
            modes: &[],
            yes: &[],
            no: &[],
            ..SOUND
        },
        Tree {
            name: "with a target beyond the end",
            target_ids: &[0, 1000],
            ..SOUND
        },
        Tree {
            name: "with a target far beyond the end",
            target_ids: &[0, 1 << 40],
            ..SOUND
        },
        Tree {
            name: "with a negative target",
            target_ids: &[0, -1],
            ..SOUND
        },
        Tree {
            name: "with leaves beyond the end",
            target_nodes: &[1000, 2000],
            ..SOUND
        },
        Tree {
            name: "with a leaf that is a branch",
            target_nodes: &[0, 0],
            ..SOUND
        },
        Tree {
            name: "with no targets",
            targets: 0,
            ..SOUND
        },
        Tree {
            name: "with a negative number of targets",
            targets: -1,
            ..SOUND
        },
        Tree {
            name: "with 2^40 targets",
            targets: 1 << 40,
            ..SOUND
        },
        Tree {
            name: "with 2^63 targets",
            targets: i64::MAX,
            ..SOUND
        },
    ];
    let model = |tree: Tree<'_>| {
        let zeros = vec![0.5f32; tree.nodes.len()];
        let node = Node::new("TreeEnsembleRegressor", ["x"], ["y"])
            .domain("ai.onnx.ml")
            .attribute("n_targets", tree.targets)
            .attribute("nodes_treeids", tree.trees)
            .attribute("nodes_nodeids", tree.nodes)
            .attribute("nodes_featureids", tree.features)
            .attribute("nodes_modes", tree.modes)
            .attribute("nodes_values", &*zeros)
            .attribute("nodes_truenodeids", tree.yes)
            .attribute("nodes_falsenodeids", tree.no)
            .attribute("target_treeids", &[0i64, 0][..])
            .attribute("target_nodeids", tree.target_nodes)
            .attribute("target_ids", tree.target_ids)
            .attribute("target_weights", &[1.0f32, 2.0][..]);
        let model = Model::new(gives_y(takes_x()).node(node)).import("ai.onnx.ml", 3);
        Hostile::model(format!("a tree {}", tree.name), model)
            .with_request(json!({"instances": [[0.0, 1.0, 2.0, 3.0]]}))
    };
    table.map(model).into()
}
