//! Graphs as a whole: the batch, branches, loops, scans and functions.

use super::*;

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
