//! Inputs that have the same value in all requests, such as those of an adapter.

use super::*;

/// The axis of the output `y`, if the inputs with the names `fixed` do not belong to requests.
#[track_caller]
fn check_fixed(table: &[(&str, &str, &str, &str)]) {
    for (inputs, fixed, statements, expected) in table {
        let fixed = fixed.split_whitespace().map(str::to_owned).collect();
        let axes = with_fixed(model(17, inputs, statements), &fixed);
        let found = match axes.of("y") {
            Some(OutputAxis::Records) => "records".to_owned(),
            Some(OutputAxis::Mixed(reason)) => reason.clone(),
            other => format!("{other:?}"),
        };
        assert!(found.starts_with(expected), "{inputs} {statements}: {found}");
    }
}

#[test]
fn inputs_with_the_same_value_in_all_requests_need_no_axis_of_records() {
    let low_rank = "MatMul x a -> h; MatMul h b -> d; w:3,5; MatMul x w -> f; Add f d -> y";
    check_fixed(&[
        ("x:n,3 a:3,r b:r,5", "a b", low_rank, "records"),
        ("x:n,3 a:3,4 b:4,5", "a b", low_rank, "records"),
        // The input that is left has no records.
        (
            "x:n,3 a:3,r b:r,5",
            "a",
            low_rank,
            "the first axes of the inputs have the names",
        ),
        (
            "x:n,3 a:3,r b:r,5",
            "",
            low_rank,
            "input \"a\" does not have an open first axis",
        ),
        ("x:n,3 a:3,3", "x a", "MatMul x a -> y", "the model has no inputs"),
        ("x:n,3 a:m,n", "a", "MatMul a x -> y", "MatMul"),
    ]);
}

#[test]
fn the_size_of_such_an_input_is_not_taken_for_the_number_of_records() {
    check_fixed(&[
        ("x:n,3 a:3", "a", "Add x a -> y", "records"),
        ("x:n,3 a:1,3", "a", "Add x a -> y", "records"),
        // One row for each of some number of records, whatever their name.
        ("x:n,3 a:m,3", "a", "Add x a -> y", "Add"),
        ("x:n,3 a:n,3", "a", "Add x a -> y", "Add"),
        ("x:n,3 a:?,?", "a", "Concat[axis=0] x a -> y", "Concat"),
    ]);
}

#[test]
fn the_models_own_value_of_such_an_input_does_not_apply() {
    check_fixed(&[
        ("x:n,3 s:2", "", "s=-1,3; Reshape x s -> y", "records"),
        ("x:n,3 s:2", "s", "s=-1,3; Reshape x s -> y", "Reshape"),
        ("x:n,3 c:1", "", "c=1,; Mul x c -> y", "records"),
        (
            "x:n,3 a:3,r b:r,3",
            "a b",
            "a:3,0; b:0,3; MatMul x a -> h; MatMul h b -> y",
            "records",
        ),
    ]);
}
