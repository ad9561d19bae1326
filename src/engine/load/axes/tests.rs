//! Tests of the rules, operator by operator, with graphs in a small notation:
//!
//! ```text
//! w:3,4                          a constant of floats with these dimensions
//! s=0,-1,12    s=3               a constant list of integers, or a single one
//! Transpose[perm=1:0] x -> y     an operator; `_` is an omitted input or output;
//!                                `ms.` and `ml.` are domains
//! ```

mod random;

use std::collections::HashMap;

use super::*;
use crate::engine::load::onnx_file::graph::{Attribute, Constant, Function, Graph, GraphInput, Node};

/// Builds a graph with inputs such as `x:n,3` and these statements. Its output is `y`.
pub(super) fn model(opset: i64, inputs: &str, statements: &str) -> ModelGraph {
    let mut model = ModelGraph {
        graph: graph(statements),
        ..ModelGraph::default()
    };
    model.graph.inputs = inputs.split_whitespace().map(input).collect();
    model.graph.outputs = vec!["y".to_owned()];
    model.opsets.insert(String::new(), opset);
    model
}

fn graph(statements: &str) -> Graph {
    let mut graph = Graph::default();
    for statement in statements
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
    {
        if statement.contains("->") {
            graph.nodes.push(node(statement));
        } else {
            graph.constants.push(constant(statement));
        }
    }
    graph
}

fn input(text: &str) -> GraphInput {
    let (name, dims) = text.split_once(':').unwrap();
    let dims = dims.split(',').map(|dim| match (dim, dim.parse()) {
        ("?", _) => Dimension::Open,
        (_, Ok(size)) => Dimension::Fixed(size),
        (name, Err(_)) => Dimension::Named(name.to_owned()),
    });
    GraphInput {
        name: name.to_owned(),
        dims: Some(dims.collect()),
    }
}

fn constant(text: &str) -> Constant {
    if let Some((name, values)) = text.split_once('=') {
        let numbers: Vec<Option<i64>> = values.split(',').map(|value| value.parse().ok()).collect();
        return Constant {
            name: name.to_owned(),
            dims: if values.contains(',') {
                let length = numbers.iter().filter(|number| number.is_some()).count();
                vec![length as u64]
            } else {
                Vec::new()
            },
            // `7,` is a list of one.
            numbers: Some(numbers.into_iter().filter(Option::is_some).collect()),
        };
    }
    let (name, dims) = text.split_once(':').unwrap();
    Constant {
        name: name.to_owned(),
        dims: dims.split(',').filter_map(|dim| dim.parse().ok()).collect(),
        numbers: None,
    }
}

fn node(text: &str) -> Node {
    let (left, right) = text.split_once("->").unwrap();
    let (head, inputs) = left.trim().split_once(' ').unwrap_or((left.trim(), ""));
    let (operator, attributes) = match head.split_once('[') {
        Some((operator, attributes)) => (operator, attributes.trim_end_matches(']')),
        None => (head, ""),
    };
    let (domain, operator) = match operator.split_once('.') {
        Some(("ms", operator)) => ("com.microsoft", operator),
        Some(("ml", operator)) => ("ai.onnx.ml", operator),
        Some((domain, operator)) => (domain, operator),
        None => ("", operator),
    };
    let names = |text: &str| {
        let names = text.split_whitespace();
        names
            .map(|name| if name == "_" { String::new() } else { name.to_owned() })
            .collect()
    };
    let attribute = |text: &str| {
        let (name, value) = text.split_once('=').unwrap();
        let list = || value.split(':').filter_map(|value| value.parse().ok()).collect();
        let value = match value.parse() {
            Ok(int) => Attribute::Int(int),
            Err(_) if value.contains(':') => Attribute::Ints(Some(list())),
            Err(_) => Attribute::Text(Some(value.to_owned())),
        };
        (name.to_owned(), value)
    };
    Node {
        operator: operator.to_owned(),
        domain: domain.to_owned(),
        inputs: names(inputs),
        outputs: names(right),
        attributes: attributes
            .split(',')
            .filter(|text| text.contains('='))
            .map(attribute)
            .collect(),
        ..Node::default()
    }
}

/// Returns where the records are: `records`, `elsewhere`, `whole`, or the reason that they are
/// mixed.
fn found(model: &ModelGraph) -> String {
    match &analysis(model).axes.outputs[0].1 {
        OutputAxis::Records => "records".to_owned(),
        OutputAxis::Elsewhere => "elsewhere".to_owned(),
        OutputAxis::Whole => "whole".to_owned(),
        OutputAxis::Mixed(reason) => reason.clone(),
    }
}

/// Checks a table of inputs, statements and expected results. If the records are mixed, the
/// expected result is the operator that does it.
#[track_caller]
fn check(opset: i64, table: &[(&str, &str, &str)]) {
    for (inputs, statements, expected) in table {
        let found = found(&model(opset, inputs, statements));
        assert!(
            found == *expected || found.starts_with(&format!("{expected} \"")),
            "{inputs} | {statements}: {found}, not {expected}"
        );
    }
}

#[test]
fn elementwise_operators_keep_records_and_broadcast_from_the_last_axis() {
    check(
        17,
        &[
            ("x:n,3", "Relu x -> y", "records"),
            ("x:n,3", "c:; Clip x c c -> y", "records"),
            ("x:n,3", "c:3; Clip x c c -> y", "Clip"),
            ("x:n,3", "c:3; Add x c -> y", "records"),
            ("x:n,3", "c:1,3; Add x c -> y", "records"),
            ("x:n,3", "c:5,1,3; Add x c -> y", "elsewhere"),
            // The constant could have one row for each record, and batches would shift the rows.
            ("x:n,3", "c:4,3; Add x c -> y", "Add"),
            ("x:n,3 z:n,3", "Mul x z -> y", "records"),
            ("x:n,3 z:n,1", "Mul x z -> y", "records"),
            ("x:n,3 z:n", "Mul x z -> y", "Mul"),
            ("x:n,3 z:n,2,3", "Mul x z -> y", "Mul"),
            ("x:n,3", "c:; Where x c x -> y", "records"),
            ("x:n,3", "Cast[to=7] x -> y", "records"),
            ("x:n,3", "Dropout x -> y _", "records"),
            ("x:n,3", "r:; t=1; Dropout x r t -> y", "Dropout"),
            ("x:n,3", "r:; t=0; Dropout x r t -> y", "records"),
            ("x:n,3", "d=4; v:2; OneHot x d v -> y", "records"),
            ("x:n,3", "d=4; v:2; OneHot[axis=0] x d v -> y", "elsewhere"),
            ("x:n,3", "RandomNormalLike x -> y", "RandomNormalLike"),
            ("x:n,3", "Frobnicate x -> y", "Frobnicate"),
            ("x:n,3", "other.Relu x -> y", "Relu"),
            ("x:n,3", "c:3; Relu c -> y", "whole"),
        ],
    );
}

#[test]
fn matrix_products_keep_records_in_rows_and_mix_them_in_columns() {
    check(
        17,
        &[
            ("x:n,3", "w:3,4; MatMul x w -> y", "records"),
            ("x:n,3", "w:4,3; Transpose x -> t; MatMul w t -> y", "elsewhere"),
            ("x:n,3", "Transpose x -> t; MatMul t x -> y", "MatMul"),
            ("x:n,3", "Transpose x -> t; MatMul x t -> y", "MatMul"),
            ("x:n,3,4 z:n,4,5", "MatMul x z -> y", "records"),
            ("x:n,3,4", "w:7,4,5; MatMul x w -> y", "MatMul"),
            ("x:n,4", "w:7,4,5; MatMul x w -> y", "elsewhere"),
            ("x:n,3,4", "w:4; MatMul x w -> y", "records"),
            ("x:n,3,4", "w:3; MatMul w x -> y", "records"),
            ("x:n", "w:3; MatMul w x -> y", "MatMul"),
            ("x:n,3", "w:4,3; b:4; Gemm[transB=1] x w b -> y", "records"),
            ("x:n,3", "w:4,3; b:2,4; Gemm[transB=1] x w b -> y", "Gemm"),
            ("x:n,3", "w:4,3; Gemm[transA=1] x w -> y", "Gemm"),
            ("x:n,3 z:n,4", "Gemm[transA=1] x z -> y", "Gemm"),
            ("x:n,3", "w:3,4; a:; MatMulInteger x w a -> y", "records"),
            ("x:n,3", "w:3,4; a:5; MatMulInteger x w a -> y", "MatMulInteger"),
            ("x:n,3", "w:8,3,4; ms.MatMulNBits[N=8] x w -> y", "records"),
            ("x:n,3,4 z:n,5,4", "ms.FusedMatMul[transB=1] x z -> y", "records"),
            (
                "x:n,3",
                "w:3,4; ms.DynamicQuantizeMatMul x w -> y",
                "DynamicQuantizeMatMul",
            ),
        ],
    );
}

#[test]
fn einsum_keeps_the_records_unless_it_sums_over_them() {
    let cases = [
        ("x:n,3 z:n,4", "na,nb->nab", "x z", "records"),
        ("x:n,3 z:n,4", "na,nb->ab", "x z", "Einsum"),
        ("x:n,3 z:n,4", "na,mb->nm", "x z", "Einsum"),
        ("x:n,3", "na,ab->nb", "x w", "records"),
        ("x:n,3", "na,ab->bn", "x w", "elsewhere"),
        ("x:n,3", "na,na->na", "x c", "Einsum"),
    ];
    for (inputs, equation, operands, expected) in cases {
        let mut model = model(17, inputs, &format!("w:3,4; c:5,3; Einsum {operands} -> y"));
        let equation = Attribute::Text(Some(equation.to_owned()));
        model.graph.nodes[0].attributes.insert("equation".to_owned(), equation);
        let found = found(&model);
        assert!(found.starts_with(expected), "{operands}: {found}");
    }
}

#[test]
fn reshapes_keep_the_records_if_each_stays_in_one_piece() {
    check(
        17,
        &[
            ("x:n,3,4", "s=-1,12; Reshape x s -> y", "records"),
            ("x:n,3,4", "s=0,-1; Reshape x s -> y", "records"),
            ("x:n,3,4", "s=0,4,3; Reshape x s -> y", "records"),
            ("x:n,3,4", "s=-1,4; Reshape x s -> y", "elsewhere"),
            // Twelve is not divisible by five: a row may contain parts of two records.
            ("x:n,3,4", "s=-1,5; Reshape x s -> y", "Reshape"),
            ("x:n,4", "s=4,-1; Reshape x s -> y", "Reshape"),
            ("x:n,4", "s=1,-1; Reshape x s -> y", "elsewhere"),
            ("x:n,4", "s=-1,; Reshape x s -> y", "elsewhere"),
            ("x:n,4", "s=2,2; Reshape x s -> y", "Reshape"),
            (
                "x:n,s,4",
                "s=-1,4; Reshape x s -> a; t=-1,8; Reshape a t -> y",
                "Reshape",
            ),
            (
                "x:n,s,4",
                "s=-1,4; Reshape x s -> a; Shape x -> t; Reshape a t -> y",
                "records",
            ),
            (
                "x:n,s,8",
                "i=0; Shape x -> t; Gather t i -> d; z=0,; Unsqueeze d z -> u; r=-1,2,4; Concat u r -> c; Reshape x c -> y",
                "records",
            ),
            (
                "x:n,s,8",
                "i=1; Shape x -> t; Gather t i -> d; z=0,; Unsqueeze d z -> u; r=-1,8; Concat u r -> c; Reshape x c -> y",
                "Reshape",
            ),
            ("x:n,3,4", "Flatten x -> y", "records"),
            ("x:n,3,4", "Flatten[axis=0] x -> y", "elsewhere"),
            ("x:n,3,4", "Flatten[axis=2] x -> y", "elsewhere"),
            // Steps first and heads merged with the records, as in nn.MultiheadAttention.
            (
                "x:n,s,8",
                "Transpose[perm=1:0:2] x -> a; Shape a -> t; i=0; j=1; Gather t i -> d; Gather t j -> e; h=2; Mul e h -> f; z=0,; \
                 Unsqueeze d z -> u; Unsqueeze f z -> v; w=4,; Concat u v w -> c; Reshape a c -> b; Transpose[perm=1:0:2] b -> g; \
                 Transpose[perm=1:0:2] g -> k; Reshape k t -> l; Transpose[perm=1:0:2] l -> y",
                "records",
            ),
            ("x:n,3,4", "Transpose[perm=0:2:1] x -> y", "records"),
            ("x:n,3,4", "Transpose x -> y", "elsewhere"),
            ("x:n,1,4", "a=1,; Squeeze x a -> y", "records"),
            ("x:n,1,4", "Squeeze x -> y", "Squeeze"),
            ("x:n,4", "a=0,; Unsqueeze x a -> y", "elsewhere"),
            ("x:n,4", "a=-1,; Unsqueeze x a -> y", "records"),
            ("x:n,4", "a=0,; Squeeze x a -> y", "Squeeze"),
        ],
    );
}

#[test]
fn indexing_operators_keep_the_records_only_along_other_axes() {
    check(
        17,
        &[
            ("x:n,3 z:n,4", "Concat[axis=1] x z -> y", "records"),
            ("x:n,3 z:n,3", "Concat[axis=0] x z -> y", "Concat"),
            ("x:n,3", "c:1,3; Concat[axis=1] x c -> y", "Concat"),
            ("x:n,6", "Split[axis=1] x -> y z", "records"),
            ("x:n,6", "Split[axis=0] x -> y z", "Split"),
            ("x:n,6", "a=0,; b=3,; c=1,; Slice x a b c -> y", "records"),
            ("x:n,6", "a=0,; b=3,; c=0,; Slice x a b c -> y", "Slice"),
            (
                "x:n,6",
                "a=0,; b=9223372036854775807,; c=0,; Slice x a b c -> y",
                "records",
            ),
            (
                "x:n,6",
                "a=-1,; b=-9223372036854775807,; c=0,; d=-1,; Slice x a b c d -> y",
                "Slice",
            ),
            ("x:n,6", "i=0; Gather[axis=1] x i -> y", "records"),
            ("x:n,6", "i=0; Gather[axis=0] x i -> y", "Gather"),
            ("x:n,6", "t:100,8; Gather t x -> y", "records"),
            ("x:n,6", "t:100,8; Gather[axis=1] t x -> y", "elsewhere"),
            ("x:n,6 i:n,2", "GatherElements[axis=1] x i -> y", "records"),
            ("x:n,6 i:n,2", "GatherElements[axis=0] x i -> y", "GatherElements"),
            ("x:n,6", "i:3,2; GatherElements[axis=1] x i -> y", "GatherElements"),
            ("x:n,6 i:n,2,1", "GatherND[batch_dims=1] x i -> y", "records"),
            ("x:n,6 i:n,2,2", "GatherND x i -> y", "GatherND"),
            ("i:n,2,2", "t:5,6; GatherND t i -> y", "records"),
            ("x:n,6 i:n,2 u:n,2", "ScatterElements[axis=1] x i u -> y", "records"),
            (
                "x:n,6 i:n,2 u:n,2",
                "ScatterElements[axis=0] x i u -> y",
                "ScatterElements",
            ),
            ("x:n,6 i:n,2 u:n,2", "ScatterND x i u -> y", "ScatterND"),
            ("x:n,6", "r=1,2; Tile x r -> y", "records"),
            ("x:n,6", "r=2,1; Tile x r -> y", "elsewhere"),
            ("x:n,6", "p=0,1,0,1; Pad x p -> y", "records"),
            ("x:n,6", "p=1,0,0,0; Pad x p -> y", "Pad"),
            ("x:n,1,6", "s=1,4,1; Expand x s -> y", "records"),
            ("x:n,6", "s=7,6; Expand x s -> y", "Expand"),
            ("x:n,6", "Shape x -> s; c:1,6; Expand c s -> y", "records"),
            ("x:n,6", "Shape x -> s; ConstantOfShape s -> y", "records"),
            (
                "x:n,6",
                "Shape x -> s; i=0; Gather s i -> n; a=0; d=1; Range a n d -> y",
                "Range",
            ),
            ("x:n,6", "Shape x -> s; Cast[to=1] s -> f; Mul x f -> y", "Mul"),
            (
                "x:n,6",
                "Size x -> s; Cast[to=1] s -> f; ReduceSum x f -> y",
                "ReduceSum",
            ),
            ("x:n,6,6", "Trilu x -> y", "records"),
            ("x:n,6", "Trilu x -> y", "Trilu"),
            ("x:n,6", "NonZero x -> y", "NonZero"),
            ("x:n,6", "Unique x -> y", "Unique"),
            ("x:n,6", "c:6; Compress[axis=1] x c -> y", "records"),
            ("x:n,6", "c:6; Compress[axis=0] x c -> y", "Compress"),
            ("x:n,6", "c:6; Compress x c -> y", "Compress"),
            (
                "x:n,6 l:n",
                "ReverseSequence[batch_axis=0,time_axis=1] x l -> y",
                "records",
            ),
            (
                "x:n,6 l:n",
                "ReverseSequence[batch_axis=1,time_axis=0] x l -> y",
                "ReverseSequence",
            ),
            (
                "x:n,6",
                "SplitToSequence[axis=1] x -> s; i=0; SequenceAt s i -> y",
                "records",
            ),
            (
                "x:n,6",
                "SplitToSequence x -> s; i=0; SequenceAt s i -> y",
                "SplitToSequence",
            ),
            (
                "x:n,6",
                "SequenceConstruct x x -> s; ConcatFromSequence[axis=1] s -> y",
                "records",
            ),
            (
                "x:n,6",
                "SequenceConstruct x x -> s; ConcatFromSequence[axis=0] s -> y",
                "ConcatFromSequence",
            ),
            (
                "x:n,6",
                "SequenceConstruct x x -> s; ConcatFromSequence[axis=1,new_axis=1] s -> y",
                "records",
            ),
        ],
    );
}

#[test]
fn sums_and_normalisations_keep_the_records_only_along_other_axes() {
    check(
        17,
        &[
            ("x:n,3,4", "ReduceMean[axes=1:2] x -> y", "records"),
            ("x:n,3,4", "ReduceMean[axes=0:] x -> y", "ReduceMean"),
            ("x:n,3,4", "ReduceMean x -> y", "ReduceMean"),
            ("x:n,3,4", "a=1,; ReduceSum[keepdims=0] x a -> y", "records"),
            ("x:n,3,4", "a=-3,; ReduceSum[keepdims=0] x a -> y", "ReduceSum"),
            ("x:n,3,4", "ReduceSum[noop_with_empty_axes=1] x -> y", "records"),
            ("x:n,3", "ArgMax[axis=1] x -> y", "records"),
            ("x:n,3", "ArgMax x -> y", "ArgMax"),
            ("x:n,3", "Softmax x -> y", "records"),
            ("x:n,3", "Softmax[axis=0] x -> y", "Softmax"),
            ("x:n,3", "k=2,; TopK x k -> y _", "records"),
            ("x:n,3", "k=2,; TopK[axis=0] x k -> y _", "TopK"),
            ("x:n,3", "k=2,; TopK[axis=0] x k -> _ y", "TopK"),
            ("x:n,3", "a=1; CumSum x a -> y", "records"),
            ("x:n,3", "a=0; CumSum x a -> y", "CumSum"),
            ("x:n,3,4", "s:4; LayerNormalization x s s -> y", "records"),
            ("x:n,3,4", "s:3,4; LayerNormalization x s s -> y", "LayerNormalization"),
            (
                "x:n,3,4",
                "s:4; LayerNormalization[axis=0] x s s -> y",
                "LayerNormalization",
            ),
            (
                "x:n,3,4 z:n,3,4",
                "s:4; ms.SkipLayerNormalization x z s s -> y",
                "records",
            ),
            (
                "x:n,3,4",
                "z:5,3,4; s:4; ms.SkipLayerNormalization x z s s -> y",
                "SkipLayerNormalization",
            ),
            ("x:n,3,4", "LpNormalization[axis=1] x -> y", "records"),
            ("x:n,3,4", "LpNormalization[axis=0] x -> y", "LpNormalization"),
            (
                "x:n,3,4,4",
                "MeanVarianceNormalization x -> y",
                "MeanVarianceNormalization",
            ),
            ("x:n,3,4,4", "MeanVarianceNormalization[axes=2:3] x -> y", "records"),
            ("x:n,3,4,4", "s:3; BatchNormalization x s s s s -> y", "records"),
            (
                "x:n,3,4,4",
                "s:3; BatchNormalization[training_mode=1] x s s s s -> y m v",
                "BatchNormalization",
            ),
            ("x:n,3,4,4", "s:3; InstanceNormalization x s s -> y", "records"),
            ("x:n,3", "DynamicQuantizeLinear x -> y s z", "DynamicQuantizeLinear"),
            ("x:n,3", "s:; QuantizeLinear x s -> y", "records"),
            ("x:n,3", "s:3; QuantizeLinear x s -> y", "records"),
            ("x:n,3", "s:5; QuantizeLinear[axis=0] x s -> y", "QuantizeLinear"),
            (
                "x:n,3",
                "s:5,3; QuantizeLinear[block_size=1] x s -> y",
                "QuantizeLinear",
            ),
        ],
    );
}

#[test]
fn older_versions_of_operators_have_their_own_rules() {
    // The axis and all later ones are normalised together.
    check(11, &[("x:n,3,4", "Softmax[axis=1] x -> y", "records")]);
    check(
        11,
        &[(
            "x:n,3,4",
            "Transpose[perm=1:0:2] x -> t; Softmax[axis=0] t -> y",
            "Softmax",
        )],
    );
    check(
        13,
        &[(
            "x:n,3,4",
            "Transpose[perm=1:0:2] x -> t; Softmax[axis=0] t -> y",
            "elsewhere",
        )],
    );
    check(9, &[("x:n,3", "Slice[starts=0:,ends=2:,axes=1:] x -> y", "records")]);
    check(9, &[("x:n,3", "Slice[starts=0:,ends=2:] x -> y", "Slice")]);
    check(
        9,
        &[(
            "x:n,3",
            "s:3; BatchNormalization x s s s s -> y m v a b",
            "BatchNormalization",
        )],
    );
    check(11, &[("x:n,3,4", "ReduceSum[axes=1:] x -> y", "records")]);
    check(6, &[("x:n,3", "Relu x -> y", "Relu")]);
    check(1000, &[("x:n,3", "Relu x -> y", "Relu")]);
}

#[test]
fn image_operators_keep_records_on_the_first_axis() {
    check(
        17,
        &[
            ("x:n,3,8,8", "w:4,3,3,3; Conv x w -> y", "records"),
            ("x:n,3,8,8 w:n,3,3,3", "Conv x w -> y", "Conv"),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Transpose[perm=1:0:2:3] x -> t; Conv t w -> y",
                "Conv",
            ),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Conv x w -> a; s=-1,144; Reshape a s -> y",
                "records",
            ),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Conv[auto_pad=SAME_UPPER] x w -> a; s=-1,256; Reshape a s -> y",
                "records",
            ),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Conv x w -> a; s=-1,143; Reshape a s -> y",
                "Reshape",
            ),
            (
                "x:n,3,h,w",
                "w:4,3,3,3; Conv x w -> a; s=-1,144; Reshape a s -> y",
                "Reshape",
            ),
            ("x:n,3,8,8", "w:3,4,2,2; ConvTranspose x w -> y", "records"),
            (
                "x:n,3,8,8",
                "MaxPool[kernel_shape=2:2,strides=2:2] x -> a; s=-1,48; Reshape a s -> y",
                "records",
            ),
            (
                "x:n,3,8,8",
                "MaxPool[kernel_shape=2:2] x -> _ y",
                "the indices of MaxPool count across the records of a batch",
            ),
            (
                "x:n,3,8,8",
                "GlobalAveragePool x -> a; s=-1,3; Reshape a s -> y",
                "records",
            ),
            ("x:n,3,8,8", "s=1,1,2,2; Resize x _ s -> y", "records"),
            ("x:n,3,8,8", "s=2,1,2,2; Resize x _ s -> y", "Resize"),
            (
                "x:n,3,8,8",
                "s=1,1,2,2; Resize[coordinate_transformation_mode=tf_crop_and_resize] x _ s -> y",
                "Resize",
            ),
            ("x:n,3,8,8", "s=4,3,2,2; Resize x _ _ s -> y", "Resize"),
            ("x:n,3,8,8 g:n,4,4,2", "GridSample x g -> y", "records"),
            ("x:n,3,8,8", "g:5,4,4,2; GridSample x g -> y", "GridSample"),
            ("b:n,9,4 s:n,2,9", "NonMaxSuppression b s -> y", "NonMaxSuppression"),
            ("x:n,4,8,8", "DepthToSpace[blocksize=2] x -> y", "records"),
        ],
    );
}

#[test]
fn recurrent_and_attention_operators_expect_the_records_on_fixed_axes() {
    check(
        17,
        &[
            (
                "x:n,5,8",
                "w:1,64,8; r:1,64,16; LSTM[hidden_size=16] x w r -> y",
                "LSTM",
            ),
            (
                "x:n,5,8",
                "w:1,64,8; r:1,64,16; Transpose[perm=1:0:2] x -> t; LSTM t w r -> _ h; a=0,; Squeeze h a -> y",
                "records",
            ),
            ("x:n,5,8", "w:1,64,8; r:1,64,16; LSTM[layout=1] x w r -> y", "records"),
            (
                "x:n,5,8",
                "w:1,64,8; r:1,64,16; h:1,5,16; Transpose[perm=1:0:2] x -> t; LSTM t w r _ _ h -> y",
                "LSTM",
            ),
            ("x:n,5,8 m:n,5", "w:8,24; b:24; ms.Attention x w b m -> y", "records"),
            ("x:n,5,8", "w:8,24; b:24; m:3,5; ms.Attention x w b m -> y", "Attention"),
            ("q:n,5,8 k:n,5,8 v:n,5,8", "ms.MultiHeadAttention q k v -> y", "records"),
            (
                "q:n,5,8 k:n,5,8 v:n,5,8",
                "b:1,1,5,5; ms.MultiHeadAttention q k v _ _ b -> y",
                "records",
            ),
            (
                "q:n,5,8 k:n,5,8 v:n,5,8",
                "b:4,1,5,5; ms.MultiHeadAttention q k v _ _ b -> y",
                "MultiHeadAttention",
            ),
            (
                "i:n,5",
                "t:9,8; s:8; ms.EmbedLayerNormalization i _ t t _ s s -> y",
                "records",
            ),
            ("x:n,5,8", "s:1,5; c:9,4; ms.RotaryEmbedding x s c c -> y", "records"),
            (
                "x:n,5,8",
                "s:3,5; c:9,4; ms.RotaryEmbedding x s c c -> y",
                "RotaryEmbedding",
            ),
        ],
    );
    check(
        23,
        &[
            (
                "q:n,2,5,8 k:n,2,5,8 v:n,2,5,8",
                "m:5,5; Attention q k v m -> y",
                "records",
            ),
            (
                "q:n,2,5,8 k:n,2,5,8 v:n,2,5,8",
                "m:3,1,5,5; Attention q k v m -> y",
                "Attention",
            ),
            // Three dimensions are broadcast as heads.
            (
                "q:n,2,5,8 k:n,2,5,8 v:n,2,5,8 m:n,5,5",
                "Attention q k v m -> y",
                "Attention",
            ),
        ],
    );
}

#[test]
fn classical_models_expect_one_row_for_each_record() {
    check(
        17,
        &[
            ("x:n,4", "ml.TreeEnsembleRegressor x -> y", "records"),
            ("x:n,4", "ml.TreeEnsembleClassifier x -> y _", "records"),
            ("x:n,4", "ml.LinearClassifier x -> _ y", "records"),
            // A list is a single record.
            ("x:n", "ml.TreeEnsembleRegressor x -> y", "TreeEnsembleRegressor"),
            ("x:n", "ml.Normalizer x -> y", "Normalizer"),
            ("x:n,4", "ml.SVMClassifier x -> _ p; ml.ZipMap p -> y", "records"),
            ("x:n,4", "ml.LabelEncoder x -> y", "records"),
            ("x:n,4", "i=1,2; ml.ArrayFeatureExtractor x i -> y", "records"),
            (
                "x:n",
                "i=1,2; ml.ArrayFeatureExtractor x i -> y",
                "ArrayFeatureExtractor",
            ),
            (
                "x:n,4",
                "c=7,8,9; ArgMax[axis=1] x -> i; ml.ArrayFeatureExtractor c i -> a; s=-1,; Reshape a s -> y",
                "records",
            ),
            ("x:n,4 z:n,2", "ml.FeatureVectorizer x z -> y", "records"),
            ("x:n,1", "ml.OneHotEncoder[cats_int64s=1:2:3] x -> y", "records"),
            ("x:n", "StringNormalizer x -> y", "records"),
            ("x:n,4", "TfIdfVectorizer x -> y", "records"),
            ("x:n", "TfIdfVectorizer x -> y", "TfIdfVectorizer"),
            ("x:n", "ms.Tokenizer x -> y", "Tokenizer"),
        ],
    );
}

#[test]
fn the_batch_is_the_one_open_first_axis_of_all_inputs() {
    check(
        17,
        &[
            ("x:n,3 z:?,3", "Add x z -> y", "records"),
            ("x:4,3", "Relu x -> y", "input \"x\" does not have an open first axis"),
            (
                "x:n,3 z:m,3",
                "Add x z -> y",
                "the first axes of the inputs have the names \"n\" and \"m\"",
            ),
            // Requests cannot set an input that has a constant value.
            ("x:n,3 w:3", "w:3; Add x w -> y", "records"),
            ("", "c:3; Relu c -> y", "the model has no inputs"),
            // Two dimensions of one name need not have the same size.
            (
                "x:n,s,4 z:n,s,4",
                "Shape z -> t; i=1; Gather t i -> d; a=0,; Unsqueeze d a -> u; m=-1,; Concat m u -> c; Reshape x c -> y",
                "Reshape",
            ),
        ],
    );
}

#[test]
fn values_that_are_defined_twice_or_too_late_count_as_mixed() {
    let twice = "a value of the graph is defined twice";
    check(17, &[("x:n,3", "Relu x -> a; Relu x -> a; Relu a -> y", twice)]);
    check(17, &[("x:n,3", "c:3; c:3; Add x c -> y", twice)]);
    check(17, &[("x:n,3", "Relu a -> y; Relu x -> a", "Relu")]);
    check(
        17,
        &[("x:n,3", "Relu x -> z", "output \"y\" is not computed by the graph")],
    );
}

/// Sets `body` as an attribute of the node at `index`.
fn with_body(model: &mut ModelGraph, index: usize, name: &str, inputs: &[&str], body: &str, outputs: &[&str]) {
    let mut graph = graph(body);
    graph.inputs = inputs
        .iter()
        .map(|name| GraphInput {
            name: (*name).to_owned(),
            dims: None,
        })
        .collect();
    graph.outputs = outputs.iter().map(|name| (*name).to_owned()).collect();
    let attributes = &mut model.graph.nodes[index].attributes;
    attributes.insert(name.to_owned(), Attribute::Graph(Box::new(graph)));
}

#[test]
fn branches_are_analysed_if_the_condition_does_not_depend_on_the_data() {
    let table = [
        ("c:; If c -> y", "Relu x -> a", "Tanh x -> b", "records"),
        ("c:; If c -> y", "Relu x -> a", "Softmax[axis=0] x -> b", "Softmax"),
        ("c=1; If c -> y", "Relu x -> a", "Softmax[axis=0] x -> b", "records"),
        ("c=0; If c -> y", "Relu x -> a", "Softmax[axis=0] x -> b", "Softmax"),
        ("c:; If c -> y", "Relu x -> a", "Transpose x -> b", "If"),
        ("Cast[to=9] x -> c; If c -> y", "Relu x -> a", "Tanh x -> b", "If"),
        (
            "Shape x -> s; i=0; Gather s i -> d; o=1; Equal d o -> c; If c -> y",
            "Relu x -> a",
            "Tanh x -> b",
            "If",
        ),
        (
            "Shape x -> s; i=1; Gather s i -> d; o=3; Equal d o -> c; If c -> y",
            "Relu x -> a",
            "Softmax[axis=0] x -> b",
            "records",
        ),
    ];
    for (statements, yes, no, expected) in table {
        let mut model = model(17, "x:n,3", statements);
        let last = model.graph.nodes.len() - 1;
        with_body(&mut model, last, "then_branch", &[], yes, &["a"]);
        with_body(&mut model, last, "else_branch", &[], no, &["b"]);
        let found = found(&model);
        assert!(
            found == expected || found.starts_with(&format!("{expected} \"")),
            "{statements}: {found}"
        );
    }
}

#[test]
fn loops_are_analysed_until_nothing_changes() {
    let table = [
        ("m=3; Loop m _ x -> y", "Relu v -> w", "records"),
        ("m=3; Loop m _ x -> y", "Concat[axis=1] v v -> w", "records"),
        ("m=3; Loop m _ x -> y", "Concat[axis=0] v v -> w", "Concat"),
        // In the second round the records are on another axis.
        ("m=3; Loop m _ x -> y", "Transpose v -> w", "Loop"),
        (
            "Shape x -> s; i=0; Gather s i -> m; Loop m _ x -> y",
            "Relu v -> w",
            "Loop",
        ),
        ("Cast[to=7] x -> m; Loop m _ x -> y", "Relu v -> w", "Loop"),
    ];
    for (statements, body, expected) in table {
        let mut model = model(17, "x:n,3", statements);
        let last = model.graph.nodes.len() - 1;
        with_body(
            &mut model,
            last,
            "body",
            &["i", "c", "v"],
            &format!("{body}; Identity c -> d"),
            &["d", "w"],
        );
        let found = found(&model);
        assert!(
            found == expected || found.starts_with(&format!("{expected} \"")),
            "{statements} {body}: {found}"
        );
    }
    // The condition for another round depends on the data.
    let mut other = model(17, "x:n,3", "m=3; Loop m _ x -> y");
    with_body(
        &mut other,
        0,
        "body",
        &["i", "c", "v"],
        "Relu v -> w; Cast[to=9] v -> d",
        &["d", "w"],
    );
    assert!(found(&other).starts_with("Loop"));
    // The elements of all rounds are stacked along a new first axis.
    let mut stacked = model(17, "x:n,3", "m=3; Loop m _ -> a; Transpose[perm=1:0:2] a -> y");
    with_body(
        &mut stacked,
        0,
        "body",
        &["i", "c"],
        "Relu x -> w; Identity c -> d",
        &["d", "w"],
    );
    assert_eq!(found(&stacked), "records");
}

#[test]
fn scans_keep_the_records_unless_they_iterate_over_them() {
    for (axis, expected) in [(1, "records"), (0, "Scan")] {
        let statements = format!(
            "z:1,4; Shape x -> t; a=0,2; Gather t a -> s; Expand z s -> h; \
             Scan[num_scan_inputs=1,scan_input_axes={axis}:] h x -> y _"
        );
        let mut model = model(17, "x:n,3,4", &statements);
        let last = model.graph.nodes.len() - 1;
        with_body(
            &mut model,
            last,
            "body",
            &["h", "e"],
            "Add h e -> k; Identity k -> o",
            &["k", "o"],
        );
        let found = found(&model);
        assert!(found.starts_with(expected), "{axis}: {found}");
    }
}

#[test]
fn functions_are_analysed_at_each_call() {
    let call = |body: &str, domain: &str| {
        let mut model = model(17, "x:n,3", &format!("{domain}.F x -> y"));
        model.functions.push(Function {
            name: "F".to_owned(),
            domain: domain.to_owned(),
            inputs: vec!["a".to_owned()],
            outputs: vec!["b".to_owned()],
            nodes: graph(body).nodes,
            opsets: [(String::new(), 17)].into(),
            ..Function::default()
        });
        model
    };
    assert_eq!(found(&call("Relu a -> b", "local")), "records");
    assert!(found(&call("Softmax[axis=0] a -> b", "local")).starts_with("Softmax"));
    // An attribute of the calling node.
    for (axis, expected) in [(1, "records"), (0, "Softmax")] {
        let mut model = call("Softmax a -> b", "local");
        let softmax = &mut model.functions[0].nodes[0];
        softmax
            .attributes
            .insert("axis".to_owned(), Attribute::Reference("along".to_owned()));
        model.graph.nodes[0]
            .attributes
            .insert("along".to_owned(), Attribute::Int(axis));
        assert!(found(&model).starts_with(expected), "{axis}");
    }
    // A function with the name of a known operator.
    let mut taken = call("Softmax[axis=0] a -> b", "local");
    (taken.functions[0].domain, taken.functions[0].name) = (String::new(), "Relu".to_owned());
    (taken.graph.nodes[0].domain, taken.graph.nodes[0].operator) = (String::new(), "Relu".to_owned());
    assert!(found(&taken).starts_with("Relu"));
}

#[test]
fn the_analysis_of_functions_that_call_each_other_is_limited() {
    let mut bomb = model(17, "x:n,3", "local.F40 x -> y");
    for level in 0..=40 {
        let body = match level {
            0 => "Relu a -> b".to_owned(),
            _ => format!("local.F{0} a -> c; local.F{0} c -> b", level - 1),
        };
        bomb.functions.push(Function {
            name: format!("F{level}"),
            domain: "local".to_owned(),
            inputs: vec!["a".to_owned()],
            outputs: vec!["b".to_owned()],
            nodes: graph(&body).nodes,
            opsets: [(String::new(), 17)].into(),
            ..Function::default()
        });
    }
    assert!(found(&bomb).contains("too many operators"), "{}", found(&bomb));
    // A function that calls itself.
    bomb.functions[0].nodes = graph("local.F40 a -> b").nodes;
    assert!(found(&bomb).contains("too many operators"));
}

#[test]
fn the_values_by_which_an_output_is_chosen_are_found() {
    let chosen = model(
        17,
        "x:n,3",
        "w:3,4; MatMul x w -> s; ArgMax[axis=1] s -> a; Cast[to=6] a -> y",
    );
    assert_eq!(analysis(&chosen).inner, ["s"]);
    let plain = model(17, "x:n,3", "w:3,4; MatMul x w -> y");
    assert!(analysis(&plain).inner.is_empty());
}

#[test]
fn the_documentation_lists_exactly_the_known_operators() {
    let page = include_str!("../../../../docs/batching.md");
    let mut documented: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut domain = "";
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            domain = title.split('`').nth(1).unwrap_or("");
        } else if !domain.is_empty() {
            let names = line.split('`').skip(1).step_by(2);
            documented.entry(domain).or_default().extend(names);
        }
    }
    for (title, domain) in [
        ("ai.onnx", ""),
        ("ai.onnx.ml", "ai.onnx.ml"),
        ("com.microsoft", "com.microsoft"),
        ("com.microsoft.nchwc", "com.microsoft.nchwc"),
    ] {
        let groups = operators::GROUPS.iter().filter(|group| group.domain == domain);
        let mut known: Vec<&str> = groups.flat_map(|group| group.names).copied().collect();
        if domain.is_empty() {
            known.extend(operators::CONTROL_FLOW);
            known.push(operators::CONSTANT);
        }
        known.sort_unstable();
        let mut listed = documented.remove(title).unwrap_or_default();
        listed.sort_unstable();
        let all: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        assert_eq!(
            listed,
            known,
            "docs/batching.md must list for {title}: {}",
            all.join(", ")
        );
        known.dedup();
        assert_eq!(listed.len(), known.len(), "an operator of {title} has two rules");
    }
}
