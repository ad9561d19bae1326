//! Ordinary models with random weights, as tenants upload them. Each seed makes a different model
//! of the same shape.
//!
//! All models take a batch of any size along the first axis and return finite numbers: the weights
//! are scaled so that values neither grow nor vanish from layer to layer.

use half::f16;

use super::onnx::{Dim, Graph, Info, Model, Node, Tensor, element};
use super::random::Random;

/// The perceptrons that `scripts/bench batching` measures, with their widths.
pub const BATCHED: [(&str, &[usize]); 2] = [
    ("perceptron, 11 KB", &[32, 64, 8]),
    ("perceptron, 60 MB", &[256, 3_800, 3_700, 16]),
];

/// The batch axis.
fn batch() -> Dim {
    "batch".into()
}

/// Dense layers of these widths: `y[batch, last] = mlp(x[batch, first])`. `[32, 64, 8]` has 11 KB.
pub fn mlp(widths: &[usize], seed: u64) -> Vec<u8> {
    let (first, last) = (widths[0] as i64, widths[widths.len() - 1] as i64);
    let graph = Graph::new()
        .input(Info::floats("x", [batch(), first.into()]))
        .output(Info::floats("y", [batch(), last.into()]));
    Model::new(dense(graph, "x", widths, &mut Random::new(seed))).into_bytes()
}

/// A model that scores items by an embedding of each: `y[batch, 1]` from `item[batch]` (int64,
/// below `items`) and `x[batch, features]`. Nearly all of its bytes are in the table: `4 * items *
/// width`.
pub fn recommender(items: usize, width: usize, features: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let table = weights("table", &[items, width], 1, &mut random);
    recommender_over(table, width, features, &mut random)
}

/// The model of [`recommender`] with a table that models of all seeds have in common.
pub fn related_recommender(items: usize, width: usize, features: usize, seed: u64) -> Vec<u8> {
    let table = weights("table", &[items, width], 1, &mut Random::new(u64::MAX));
    recommender_over(table, width, features, &mut Random::new(seed))
}

fn recommender_over(table: Tensor, width: usize, features: usize, random: &mut Random) -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::ints("item", [batch()]))
        .input(Info::floats("x", [batch(), (features as i64).into()]))
        .initializer(table)
        .node(Node::new("Gather", ["table", "item"], ["embedded"]))
        .node(Node::new("Concat", ["embedded", "x"], ["joined"]).attribute("axis", 1))
        .output(Info::floats("y", [batch(), 1.into()]));
    let widths = [width + features, 64, 32, 1];
    Model::new(dense(graph, "joined", &widths, random)).into_bytes()
}

/// A transformer encoder of 23 MB that all seeds have in common, with a head of 100 KB of the
/// seed's own: `y[batch, 100]` from `ids[batch, tokens]` (int64, below 11,000). It has four layers
/// of four heads.
pub fn related_encoder(seed: u64) -> Vec<u8> {
    const WIDTH: usize = 256;
    const HEADS: i64 = 4;
    const INNER: usize = 4 * WIDTH;
    const LABELS: usize = 100;
    let mut random = Random::new(u64::MAX);
    let width = WIDTH as i64;
    let mut graph = Graph::new()
        .input(Info::ints("ids", [batch(), "tokens".into()]))
        .output(Info::floats("y", [batch(), (LABELS as i64).into()]))
        .initializer(Tensor::ints("split", &[4], &[0, -1, HEADS, width / HEADS]))
        .initializer(Tensor::ints("joined", &[3], &[0, -1, width]))
        .initializer(Tensor::floats(
            "scale",
            &[],
            &[((WIDTH as f32) / HEADS as f32).powf(-0.5)],
        ))
        .initializer(weights("embeddings", &[11_000, WIDTH], 1, &mut random))
        .node(Node::new("Gather", ["embeddings", "ids"], ["x0"]));
    let mut linear = |graph: Graph, from: &str, to: &str, inputs: usize, outputs: usize| {
        let [weight, bias, product] = ["w", "b", "p"].map(|part| format!("{to}_{part}"));
        graph
            .initializer(weights(&weight, &[inputs, outputs], inputs, &mut random))
            .initializer(Tensor::floats(&bias, &[outputs as i64], &vec![0.01; outputs]))
            .node(Node::new("MatMul", [from, &*weight], [&*product]))
            .node(Node::new("Add", [&*product, &*bias], [to]))
    };
    let normal = |graph: Graph, one: &str, other: &str, to: &str| {
        let [sum, scale, bias] = ["sum", "scale", "bias"].map(|part| format!("{to}_{part}"));
        graph
            .initializer(Tensor::floats(&scale, &[width], &vec![1.0; WIDTH]))
            .initializer(Tensor::floats(&bias, &[width], &vec![0.0; WIDTH]))
            .node(Node::new("Add", [one, other], [&*sum]))
            .node(Node::new("LayerNormalization", [&*sum, &*scale, &*bias], [to]))
    };
    for layer in 0..4 {
        let name = |part: &str| format!("l{layer}{part}");
        let from = format!("x{layer}");
        for part in ["q", "k", "v"] {
            let (flat, heads, turned) = (name(part), name(&format!("{part}h")), name(&format!("{part}t")));
            graph = linear(graph, &from, &flat, WIDTH, WIDTH)
                .node(Node::new("Reshape", [&*flat, "split"], [&*heads]))
                .node(
                    Node::new("Transpose", [&*heads], [&*turned])
                        .attribute("perm", &(if part == "k" { [0i64, 2, 3, 1] } else { [0, 2, 1, 3] })[..]),
                );
        }
        let [q, k, v] = ["qt", "kt", "vt"].map(name);
        let [products, scaled, shares, mixed, turned, flat] = ["s", "ss", "a", "m", "mt", "mf"].map(name);
        let [out, first, inner, active, last] = ["o", "n", "f", "r", "p"].map(name);
        graph = graph
            .node(Node::new("MatMul", [&*q, &*k], [&*products]))
            .node(Node::new("Mul", [&*products, "scale"], [&*scaled]))
            .node(Node::new("Softmax", [&*scaled], [&*shares]).attribute("axis", -1))
            .node(Node::new("MatMul", [&*shares, &*v], [&*mixed]))
            .node(Node::new("Transpose", [&*mixed], [&*turned]).attribute("perm", &[0i64, 2, 1, 3][..]))
            .node(Node::new("Reshape", [&*turned, "joined"], [&*flat]));
        graph = linear(graph, &flat, &out, WIDTH, WIDTH);
        graph = normal(graph, &from, &out, &first);
        graph = linear(graph, &first, &inner, WIDTH, INNER).node(Node::new("Relu", [&*inner], [&*active]));
        graph = linear(graph, &active, &last, INNER, WIDTH);
        graph = normal(graph, &first, &last, &format!("x{}", layer + 1));
    }
    graph = graph.node(
        Node::new("ReduceMean", ["x4"], ["mean"])
            .attribute("axes", &[1i64][..])
            .attribute("keepdims", 0),
    );
    let graph = dense(graph, "mean", &[WIDTH, LABELS], &mut Random::new(seed));
    Model::new(graph).into_bytes()
}

/// A model that looks a number up: `y[batch, 1]` from `item[batch]` (int64, below `items`) is
/// exactly `first + item`. The numbers are the first column of a table of `4 * items * width`
/// bytes, which gzip hardly compresses.
pub fn lookup(items: usize, width: usize, first: f32) -> Vec<u8> {
    /// A block larger than gzip's window, repeated: generating only random numbers would take too
    /// long.
    const BLOCK: usize = 256 << 10;
    let mut random = Random::new(first.to_bits().into());
    let row = 4 * width;
    let block: Vec<u8> = (0..BLOCK.div_ceil(row) * width)
        .flat_map(|_| random.float(1.0).to_le_bytes())
        .collect();
    let mut table = block.repeat((items * row).div_ceil(block.len()));
    table.truncate(items * row);
    for (item, row) in table.chunks_mut(row).enumerate() {
        row[..4].copy_from_slice(&(first + item as f32).to_le_bytes());
    }
    let dims = [items as i64, width as i64];
    let graph = Graph::new()
        .input(Info::ints("item", [batch()]))
        .initializer(Tensor::raw("table", element::FLOAT, &dims, table))
        .initializer(Tensor::ints("starts", &[1], &[0]))
        .initializer(Tensor::ints("ends", &[1], &[1]))
        .initializer(Tensor::ints("axes", &[1], &[1]))
        .node(Node::new("Gather", ["table", "item"], ["row"]))
        .node(Node::new("Slice", ["row", "starts", "ends", "axes"], ["y"]))
        .output(Info::floats("y", [batch(), 1.into()]));
    Model::new(graph).into_bytes()
}

/// A residual network that classifies images of 3x64x64 into ten classes: `y[batch, 10]` from
/// `x[batch, 3, 64, 64]`. It has as many 3x3 convolutions as fit into `bytes`.
pub fn convolutions(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let (graph, channels) = convolutional(bytes, &mut random);
    Model::new(dense(graph, "flat", &[channels, 10], &mut random)).into_bytes()
}

/// The network of [`convolutions`], with convolutions that all seeds have in common.
pub fn related_convolutions(bytes: usize, seed: u64) -> Vec<u8> {
    let (graph, channels) = convolutional(bytes, &mut Random::new(u64::MAX));
    Model::new(dense(graph, "flat", &[channels, 10], &mut Random::new(seed))).into_bytes()
}

/// The convolutions, from `x` to `flat`, and the width of `flat`.
fn convolutional(bytes: usize, random: &mut Random) -> (Graph, usize) {
    // A layer of 512 channels has 9 MiB, like the last ones of a ResNet. One of 64 has 144 KiB.
    let channels = if bytes >= 20 << 20 { 512 } else { 64 };
    let layers = (bytes / (channels * channels * 9 * 4)).max(1);
    let mut graph = Graph::new()
        .input(Info::floats("x", [batch(), 3.into(), 64.into(), 64.into()]))
        .output(Info::floats("y", [batch(), 10.into()]));
    graph = convolution(graph, "x", "stem", [channels, 3], 8, random).node(Node::new("Relu", ["stem"], ["a0"]));
    for layer in 0..layers {
        let (from, sum, to) = (format!("a{layer}"), format!("s{layer}"), format!("a{}", layer + 1));
        let name = format!("c{layer}");
        graph = convolution(graph, &from, &name, [channels, channels], 1, random)
            .node(Node::new("Add", [&*name, &*from], [&*sum]))
            .node(Node::new("Relu", [&*sum], [&*to]));
    }
    let last = format!("a{layers}");
    let graph = graph
        .node(Node::new("GlobalAveragePool", [&*last], ["pooled"]))
        .node(Node::new("Flatten", ["pooled"], ["flat"]));
    (graph, channels)
}

/// A model that looks rows of a float16 table up: `y[batch, width]` from `item[batch]` (int64,
/// below `items`). With `cast_first`, it casts the whole table to float32 before the lookup, else
/// only the rows.
pub fn half_table(items: usize, width: usize, cast_first: bool, seed: u64) -> Vec<u8> {
    let table = halves("table", &[items, width], 1, &mut Random::new(seed));
    let graph = Graph::new()
        .input(Info::ints("item", [batch()]))
        .output(Info::floats("y", [batch(), (width as i64).into()]))
        .initializer(table);
    let cast = |from, to| Node::new("Cast", [from], [to]).attribute("to", element::FLOAT);
    let look_up = |from, to| Node::new("Gather", [from, "item"], [to]);
    Model::new(if cast_first {
        graph.node(cast("table", "wide")).node(look_up("wide", "y"))
    } else {
        graph.node(look_up("table", "row")).node(cast("row", "y"))
    })
    .into_bytes()
}

/// A float16 table that all seeds have in common and that is cast as a whole, with a head of the
/// seed's own: `y[batch, 8]` from `item[batch]` (int64, below `items`).
pub fn related_half_table(items: usize, width: usize, seed: u64) -> Vec<u8> {
    let table = halves("table", &[items, width], 1, &mut Random::new(u64::MAX));
    let graph = Graph::new()
        .input(Info::ints("item", [batch()]))
        .output(Info::floats("y", [batch(), 8.into()]))
        .initializer(table)
        .node(Node::new("Cast", ["table"], ["wide"]).attribute("to", element::FLOAT))
        .node(Node::new("Gather", ["wide", "item"], ["row"]));
    Model::new(dense(graph, "row", &[width, 8], &mut Random::new(seed))).into_bytes()
}

/// Square layers in float16 over rows of float32: `y[rows, width]` from `x[rows, width]`. Without
/// `rows`, the model takes any number.
pub fn half_mlp(layers: usize, width: usize, rows: Option<i64>, seed: u64) -> Vec<u8> {
    let cast = |from: &str, to: &str, element: i64| Node::new("Cast", [from], [to]).attribute("to", element);
    let mut random = Random::new(seed);
    let graph = square(layers, width, rows, |graph, name| {
        graph.initializer(halves(name, &[width, width], width, &mut random))
    });
    let graph = graph.node(cast("x", "a0", element::FLOAT16));
    let graph = multiplied(graph, layers);
    Model::new(graph.node(cast(&format!("a{layers}"), "y", element::FLOAT))).into_bytes()
}

/// The model of [`half_mlp`] with weights in int8 and a scale for each layer.
pub fn int8_mlp(layers: usize, width: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let scale = (6.0 / width as f32).sqrt() / 127.0;
    let graph = square(layers, width, None, |graph, name| {
        let data: Vec<u8> = (0..width * width)
            .map(|_| (random.float(127.0) as i8).cast_unsigned())
            .collect();
        let small = format!("{name}_int8");
        let dims = [width as i64, width as i64];
        graph
            .initializer(Tensor::raw(&small, element::INT8, &dims, data))
            .node(Node::new("DequantizeLinear", [&*small, "scale"], [name]))
    });
    let graph = graph
        .initializer(Tensor::floats("scale", &[], &[scale]))
        .node(Node::new("Identity", ["x"], ["a0"]));
    let graph = multiplied(graph, layers);
    Model::new(graph.node(Node::new("Identity", [&*format!("a{layers}")], ["y"]))).into_bytes()
}

/// A graph from `x` to `y` with the weights `w0`, `w1` and so on of square layers, which `add`
/// creates.
fn square(layers: usize, width: usize, rows: Option<i64>, mut add: impl FnMut(Graph, &str) -> Graph) -> Graph {
    let shape = || [rows.map_or_else(batch, Dim::from), (width as i64).into()];
    let graph = Graph::new()
        .input(Info::floats("x", shape()))
        .output(Info::floats("y", shape()));
    (0..layers).fold(graph, |graph, layer| add(graph, &format!("w{layer}")))
}

/// Multiplies `a0` by the weights of all layers, one after the other.
fn multiplied(graph: Graph, layers: usize) -> Graph {
    (0..layers).fold(graph, |graph, layer| {
        let (from, weights, to) = (format!("a{layer}"), format!("w{layer}"), format!("a{}", layer + 1));
        graph.node(Node::new("MatMul", [&*from, &*weights], [&*to]))
    })
}

fn halves(name: &str, dims: &[usize], fan_in: usize, random: &mut Random) -> Tensor {
    let limit = (6.0 / fan_in as f32).sqrt();
    let data: Vec<u8> = (0..dims.iter().product())
        .flat_map(|_| f16::from_f32(random.float(limit)).to_le_bytes())
        .collect();
    let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
    Tensor::raw(name, element::FLOAT16, &dims, data)
}

/// Adds a 3x3 convolution from `from` to a value with the name `name`.
fn convolution(
    graph: Graph,
    from: &str,
    name: &str,
    [outputs, inputs]: [usize; 2],
    stride: i64,
    random: &mut Random,
) -> Graph {
    let kernel = format!("{name}_w");
    // Small compared with the value to which a residual layer adds.
    let fan_in = if inputs == outputs { inputs * 9 * 64 } else { inputs * 9 };
    graph
        .initializer(weights(&kernel, &[outputs, inputs, 3, 3], fan_in, random))
        .node(
            Node::new("Conv", [from, &*kernel], [name])
                .attribute("pads", &[1i64, 1, 1, 1][..])
                .attribute("strides", &[stride, stride][..]),
        )
}

/// Adds dense layers from `from` to `y`, with a rectifier between any two.
fn dense(mut graph: Graph, from: &str, widths: &[usize], random: &mut Random) -> Graph {
    let mut from = from.to_owned();
    let last = widths.len() - 2;
    for (layer, pair) in widths.windows(2).enumerate() {
        let (weight, bias) = (format!("w{layer}"), format!("b{layer}"));
        let sum = if layer == last {
            "y".to_owned()
        } else {
            format!("d{layer}")
        };
        graph = graph
            .initializer(weights(&weight, &[pair[0], pair[1]], pair[0], random))
            .initializer(weights(&bias, &[pair[1]], pair[0], random))
            .node(Node::new("Gemm", [&*from, &*weight, &*bias], [&*sum]));
        if layer < last {
            from = format!("h{layer}");
            graph = graph.node(Node::new("Relu", [&*sum], [&*from]));
        }
    }
    graph
}

/// A dense layer as `quantize_dynamic` writes it: the range of the whole batch quantises its input.
pub fn dynamically_quantized(inputs: usize, outputs: usize, seed: u64) -> Vec<u8> {
    let graph = quantized_layer(Graph::new(), "x", inputs, outputs, "y", &mut Random::new(seed))
        .input(Info::floats("x", [batch(), (inputs as i64).into()]))
        .output(Info::floats("y", [batch(), (outputs as i64).into()]));
    Model::new(graph).into_bytes()
}

/// A classifier of two such layers that returns only the label: `label[batch]` (int64).
pub fn dynamically_quantized_labels(inputs: usize, hidden: usize, labels: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let graph =
        quantized_layer(Graph::new(), "x", inputs, hidden, "h", &mut random).node(Node::new("Relu", ["h"], ["a"]));
    let graph = quantized_layer(graph, "a", hidden, labels, "s", &mut random)
        .node(
            Node::new("ArgMax", ["s"], ["label"])
                .attribute("axis", 1)
                .attribute("keepdims", 0),
        )
        .input(Info::floats("x", [batch(), (inputs as i64).into()]))
        .output(Info::ints("label", [batch()]));
    Model::new(graph).into_bytes()
}

fn quantized_layer(graph: Graph, from: &str, inputs: usize, outputs: usize, to: &str, random: &mut Random) -> Graph {
    let name = |part: &str| format!("{to}_{part}");
    let [weight, scale, quantized, input_scale, zero, sum, float, factor] =
        ["w", "scale", "q", "q_scale", "q_zero", "sum", "float", "factor"].map(name);
    let values: Vec<u8> = (0..inputs * outputs)
        .map(|_| (random.float(127.0) as i8) as u8)
        .collect();
    let largest = 1.0 / (127.0 * (inputs as f32).sqrt());
    graph
        .initializer(Tensor::raw(
            &weight,
            element::INT8,
            &[inputs as i64, outputs as i64],
            values,
        ))
        .initializer(Tensor::floats(&scale, &[], &[largest]))
        .node(Node::new(
            "DynamicQuantizeLinear",
            [from],
            [&*quantized, &*input_scale, &*zero],
        ))
        .node(Node::new("MatMulInteger", [&*quantized, &*weight, &*zero], [&*sum]))
        .node(Node::new("Cast", [&*sum], [&*float]).attribute("to", element::FLOAT))
        .node(Node::new("Mul", [&*input_scale, &*scale], [&*factor]))
        .node(Node::new("Mul", [&*float, &*factor], [to]))
}

fn weights(name: &str, dims: &[usize], fan_in: usize, random: &mut Random) -> Tensor {
    let limit = (6.0 / fan_in as f32).sqrt();
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| random.float(limit)).collect();
    let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
    Tensor::floats(name, &dims, &values)
}

/// A model of three large constants, each made of a seed of its own, so that models can have any of
/// them in common: `y[batch, 40]` from `item[batch]` (int64, below 2,000). ONNX Runtime reads the
/// table (500 KB) in place, and copies the layer (128 KB) and the head (80 KB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sibling {
    pub table: u64,
    pub layer: u64,
    pub head: u64,
}

impl Sibling {
    const ITEMS: usize = 2_000;
    const WIDTH: usize = 64;
    const HIDDEN: usize = 512;
    const SCORES: usize = 40;

    /// Bytes of the table.
    pub const TABLE: u64 = (4 * Self::ITEMS * Self::WIDTH) as u64;
    /// Bytes of the layer and of the head.
    pub const LAYER: u64 = (4 * Self::WIDTH * Self::HIDDEN) as u64;
    pub const HEAD: u64 = (4 * Self::HIDDEN * Self::SCORES) as u64;

    fn numbers(seed: u64, count: usize, inputs: usize) -> Vec<f32> {
        let mut random = Random::new(seed);
        let scale = 1.0 / (inputs as f32).sqrt();
        (0..count).map(|_| random.float(1.0) * scale).collect()
    }

    pub fn model(self) -> Vec<u8> {
        let constant = |name: &str, seed, rows: usize, columns: usize, inputs| {
            let numbers = Self::numbers(seed, rows * columns, inputs);
            Tensor::floats(name, &[rows as i64, columns as i64], &numbers)
        };
        let graph = Graph::new()
            .input(Info::ints("item", [batch()]))
            .initializer(constant("table", self.table, Self::ITEMS, Self::WIDTH, 1))
            .initializer(constant("layer", self.layer, Self::WIDTH, Self::HIDDEN, Self::WIDTH))
            .initializer(constant("head", self.head, Self::HIDDEN, Self::SCORES, Self::HIDDEN))
            .node(Node::new("Gather", ["table", "item"], ["row"]))
            .node(Node::new("MatMul", ["row", "layer"], ["hidden"]))
            .node(Node::new("Relu", ["hidden"], ["active"]))
            .node(Node::new("MatMul", ["active", "head"], ["y"]))
            .output(Info::floats("y", [batch(), (Self::SCORES as i64).into()]));
        Model::new(graph).into_bytes()
    }

    /// The scores of an item, computed in double precision.
    pub fn scores(self, item: usize) -> Vec<f64> {
        let table = Self::numbers(self.table, Self::ITEMS * Self::WIDTH, 1);
        let layer = Self::numbers(self.layer, Self::WIDTH * Self::HIDDEN, Self::WIDTH);
        let head = Self::numbers(self.head, Self::HIDDEN * Self::SCORES, Self::HIDDEN);
        let row: Vec<f64> = table[item * Self::WIDTH..][..Self::WIDTH]
            .iter()
            .copied()
            .map(f64::from)
            .collect();
        let product = |row: &[f64], matrix: &[f32], columns: usize| -> Vec<f64> {
            let entry = |column: usize| {
                let rows = row.iter().enumerate();
                rows.map(|(index, value)| value * f64::from(matrix[index * columns + column]))
                    .sum()
            };
            (0..columns).map(entry).collect()
        };
        let hidden = product(&row, &layer, Self::HIDDEN);
        let active: Vec<f64> = hidden.into_iter().map(|value| value.max(0.0)).collect();
        product(&active, &head, Self::SCORES)
    }
}
