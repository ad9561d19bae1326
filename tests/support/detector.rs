//! A detector whose run stays in one operator for a time that the caller chooses by the number of
//! boxes.
//!
//! NonMaxSuppression compares each box with all boxes that it has kept before. With a threshold of
//! 1 it keeps all of them, so the time grows with the square of the number of boxes. It takes
//! seconds for some ten thousand, in one kernel call that cannot be cancelled.

use serde_json::json;

use super::onnx::{Graph, Info, Model, Node, Tensor, element};
use super::random::Random;

/// A model that computes `kept[n, 3]` and `mark[1]` from `boxes[1, n, 4]` and `scores[1, 1, n]`.
/// Each `mark` makes a different content.
pub fn detector(mark: f32) -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::floats("boxes", [1.into(), "n".into(), 4.into()]))
        .input(Info::floats("scores", [1.into(), 1.into(), "n".into()]))
        .initializer(Tensor::ints("most", &[1], &[1 << 30]))
        .initializer(Tensor::floats("threshold", &[1], &[1.0]))
        .initializer(Tensor::floats("constant", &[1], &[mark]))
        .node(Node::new(
            "NonMaxSuppression",
            ["boxes", "scores", "most", "threshold"],
            ["kept"],
        ))
        .node(Node::new("Identity", ["constant"], ["mark"]))
        .output(Info::tensor("kept", element::INT64, ["kept_boxes".into(), 3.into()]))
        .output(Info::floats("mark", [1.into()]));
    Model::new(graph).into_bytes()
}

/// A body with `count` boxes that requests only the mark, and its content type: JSON, followed by
/// the binary tensors.
pub fn boxes(count: usize) -> (Vec<u8>, String) {
    let mut random = Random::new(3);
    let mut floats = |count: usize| -> Vec<u8> {
        (0..count)
            .flat_map(|_| (random.float(0.5) + 0.5).to_le_bytes())
            .collect()
    };
    let (boxes, scores) = (floats(4 * count), floats(count));
    let input = |name, shape: &[usize], data: &[u8]| {
        json!({
            "name": name, "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": data.len()},
        })
    };
    let header = json!({
        "inputs": [input("boxes", &[1, count, 4], &boxes), input("scores", &[1, 1, count], &scores)],
        "outputs": [{"name": "mark"}],
    })
    .to_string()
    .into_bytes();
    let media_type = format!(
        "application/vnd.sagemaker-triton.binary+json;json-header-size={}",
        header.len()
    );
    ([header, boxes, scores].concat(), media_type)
}
