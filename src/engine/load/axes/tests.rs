//! Tests with graphs in a small notation:
//!
//! ```text
//! w:3,4                          a constant of floats with these dimensions
//! s=0,-1,12    s=3               a constant list of integers, or a single one
//! Transpose[perm=1:0] x -> y     an operator; `_` is an omitted input or output;
//!                                `ms.` and `ml.` are domains
//! ```

mod fixed;
mod graphs;
mod random;
mod rules;

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
