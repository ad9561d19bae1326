//! Which requests may run together: a batch is their rows, joined along the first axis of every input and taken apart
//! along that of every output.
//!
//! A request is never held back for others to come. Only what has queued up behind a busy model is joined (`turn.rs`),
//! as far as that pays (`knee.rs`).
//!
//! What always holds: requests in a batch have inputs of the same types and shapes but for the first axis, and ask for
//! the same outputs; a model of which it is not known that it treats rows independently is never given a batch. No
//! signature says that, since a first axis may as well be time: whoever packed the model says so in its manifest, or a
//! probe has compared a batch with single runs.

use std::num::NonZeroUsize;

use crate::tensor::{Dim, OutputRows, Signature, Tensor, Value, ValueType};

/// What a manifest says of batching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    Never,
    /// The rows are independent, and batches may have this many if it is said, else as many as those of any model.
    Allowed(Option<NonZeroUsize>),
}

/// Whether and how a model's requests may be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// At least 2.
    pub max_rows: usize,
    /// For each output, whether it can be taken apart by rows.
    divisible: Vec<bool>,
}

/// Decides for a model: `None` for "never". `independent` is what a probe has found out of its rows, if there was one;
/// what the manifest says counts more. No model has batches of more than `max_rows`.
pub fn allowed(
    signature: &Signature,
    said: Option<Override>,
    independent: Option<bool>,
    max_rows: usize,
) -> Option<Batching> {
    let max_rows = match (said, independent) {
        (Some(Override::Allowed(Some(most))), _) => most.get().min(max_rows),
        (Some(Override::Allowed(None)), _) | (None, Some(true)) => max_rows,
        (Some(Override::Never), _) | (None, Some(false) | None) => return None,
    };
    if max_rows < 2 || !inputs_have_one_dynamic_first_axis(signature) {
        return None;
    }
    let outputs = signature.outputs.iter().map(|output| match &output.value_type {
        _ if output.rows == OutputRows::Whole => false,
        ValueType::Tensor { dims: Some(dims), .. } => matches!(dims.first(), Some(Dim::Dynamic(_))),
        ValueType::Tensor { dims: None, .. } | ValueType::Sequence(_) | ValueType::Map { .. } => false,
    });
    let divisible: Vec<bool> = outputs.collect();
    divisible.contains(&true).then_some(Batching { max_rows, divisible })
}

/// One and the same, as far as the model names it.
fn inputs_have_one_dynamic_first_axis(signature: &Signature) -> bool {
    let mut name = None;
    let is_batch_axis = |dims: &Option<Vec<Dim>>| match dims.as_deref() {
        Some([Dim::Dynamic(None), ..]) => true,
        Some([Dim::Dynamic(Some(own)), ..]) => *name.get_or_insert_with(|| own.clone()) == *own,
        Some([Dim::Fixed(_), ..] | []) | None => false,
    };
    !signature.inputs.is_empty() && signature.inputs.iter().map(|input| &input.dims).all(is_batch_axis)
}

impl Batching {
    /// The rows of a request with these `inputs` for these outputs; `None` when it can only run alone.
    pub fn rows(&self, inputs: &[Tensor], outputs: Option<&[usize]>) -> Option<NonZeroUsize> {
        let divisible = match outputs {
            None => !self.divisible.contains(&false),
            Some(indices) => indices.iter().all(|&index| self.divisible.get(index) == Some(&true)),
        };
        let mut counts = inputs.iter().map(|input| input.shape().first());
        let rows = *counts.next()??;
        (divisible && counts.all(|count| count == Some(&rows)))
            .then(|| NonZeroUsize::new(rows))
            .flatten()
    }
}

/// Whether these inputs can be joined.
pub fn go_together(one: &[Tensor], other: &[Tensor]) -> bool {
    let differ_in_rows_only = |one: &Tensor, other: &Tensor| match (one.shape(), other.shape()) {
        ([_, one_row @ ..], [_, other_row @ ..]) => one.data_type() == other.data_type() && one_row == other_row,
        ([], _) | (_, []) => false,
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| differ_in_rows_only(one, other))
}

/// The inputs of all `requests` as those of one. `None` when they do not go together, or there is no memory for it.
pub fn join(requests: &[&[Tensor]]) -> Option<Vec<Tensor>> {
    let inputs = requests.first()?.len();
    (0..inputs)
        .map(|index| {
            let parts: Option<Vec<&Tensor>> = requests.iter().map(|inputs| inputs.get(index)).collect();
            Tensor::concatenate(&parts?)
        })
        .collect()
}

/// Takes the outputs of a batch apart: for each request, of so many `rows`, its own. `None` when an output has not one
/// row for each row of the inputs.
pub fn split(outputs: &[Value], rows: &[usize]) -> Option<Vec<Vec<Value>>> {
    let all: usize = rows.iter().sum();
    let tensors: Vec<&Tensor> = outputs
        .iter()
        .map(|output| match output {
            Value::Tensor(tensor) if tensor.shape().first() == Some(&all) => Some(tensor),
            Value::Tensor(_) | Value::Sequence(_) | Value::Map { .. } => None,
        })
        .collect::<Option<_>>()?;
    let mut start = 0;
    rows.iter()
        .map(|count| {
            let range = start..start + count;
            start = range.end;
            tensors
                .iter()
                .map(|tensor| tensor.rows(range.clone()).map(Value::Tensor))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{DataType, InputSpec, OutputRows, OutputSpec};

    fn signature(inputs: &[Option<&[Dim]>], outputs: &[Option<&[Dim]>]) -> Signature {
        let inputs = inputs.iter().map(|dims| InputSpec {
            name: "x".into(),
            data_type: DataType::F32,
            dims: dims.map(<[Dim]>::to_vec),
        });
        let outputs = outputs.iter().map(|dims| OutputSpec {
            name: "y".into(),
            value_type: ValueType::Tensor {
                data_type: DataType::F32,
                dims: dims.map(<[Dim]>::to_vec),
            },
            rows: OutputRows::PerRecord,
        });
        Signature {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
        }
    }

    fn named(name: &str) -> Dim {
        Dim::Dynamic(Some(name.into()))
    }

    #[test]
    fn the_manifest_decides_before_the_probe_and_nobody_goes_beyond_the_limit() {
        let plain = signature(&[Some(&[named("n")])], &[Some(&[named("n")])]);
        let some = |rows| Some(Override::Allowed(NonZeroUsize::new(rows)));
        let any = Some(Override::Allowed(None));
        let table = [
            // the manifest, the probe, the limit; rows
            (None, None, 32, None),
            (None, Some(false), 32, None),
            (None, Some(true), 32, Some(32)),
            (None, Some(true), 1, None),
            (Some(Override::Never), Some(true), 32, None),
            (any, None, 32, Some(32)),
            (any, Some(false), 32, Some(32)),
            (some(8), None, 32, Some(8)),
            (some(64), Some(true), 32, Some(32)),
            (some(1), Some(true), 32, None),
            (any, None, 1, None),
        ];
        for (said, independent, limit, expected) in table {
            let batching = allowed(&plain, said, independent, limit);
            assert_eq!(
                batching.map(|batching| batching.max_rows),
                expected,
                "{said:?} {independent:?} {limit}"
            );
        }
    }

    #[test]
    fn only_models_whose_inputs_share_a_dynamic_first_axis_have_batches() {
        let (n, m, any, two) = (named("n"), named("m"), Dim::Dynamic(None), Dim::Fixed(2));
        let [n_2, n, m, any, two, two_n] = [
            vec![n.clone(), two.clone()],
            vec![n.clone()],
            vec![m],
            vec![any],
            vec![two.clone()],
            vec![two, n],
        ];
        let good = || vec![Some(&*n)];
        let table = [
            (good(), good(), true),
            (vec![Some(&*n_2), Some(&n)], good(), true),
            (vec![Some(&*any), Some(&n)], good(), true),
            (vec![Some(&*n), Some(&m)], good(), false),
            (vec![Some(&*two_n)], good(), false),
            (vec![Some(&[])], good(), false),
            (vec![None], good(), false),
            (vec![], good(), false),
            (good(), vec![Some(&*m)], true),
            (good(), vec![Some(&*two)], false),
            (good(), vec![None, Some(&[])], false),
        ];
        for (inputs, outputs, expected) in table {
            let batching = allowed(&signature(&inputs, &outputs), None, Some(true), 32);
            assert_eq!(batching.is_some(), expected, "{inputs:?} {outputs:?}");
        }
    }

    fn tensor(shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape.to_vec(), vec![0f32; shape.iter().product()]).unwrap()
    }

    #[test]
    fn a_request_has_the_rows_that_all_its_inputs_have() {
        let n = [named("n")];
        let batching = allowed(&signature(&[Some(&n)], &[Some(&n), Some(&[])]), None, Some(true), 32).unwrap();
        type Row<'a> = (&'a [Tensor], Option<&'a [usize]>, Option<usize>);
        let table: [Row<'_>; 8] = [
            (&[tensor(&[3, 2])], Some(&[0]), Some(3)),
            (&[tensor(&[3, 2]), tensor(&[3])], Some(&[0]), Some(3)),
            (&[tensor(&[3, 2]), tensor(&[2])], Some(&[0]), None),
            (&[tensor(&[0, 2])], Some(&[0]), None),
            (&[tensor(&[])], Some(&[0]), None),
            (&[tensor(&[3])], None, None),
            (&[tensor(&[3])], Some(&[1, 0]), None),
            (&[tensor(&[3])], Some(&[7]), None),
        ];
        for (inputs, outputs, expected) in table {
            let rows = batching.rows(inputs, outputs).map(NonZeroUsize::get);
            assert_eq!(rows, expected, "{inputs:?} {outputs:?}");
        }
    }

    #[test]
    fn an_output_without_a_row_for_each_row_is_not_taken_apart() {
        let table = [
            (vec![Value::Tensor(tensor(&[5, 2]))], true),
            (vec![Value::Tensor(tensor(&[5])), Value::Tensor(tensor(&[4]))], false),
            (vec![Value::Tensor(tensor(&[]))], false),
            (vec![Value::Sequence(Vec::new())], false),
            (Vec::new(), true),
        ];
        for (outputs, expected) in table {
            assert_eq!(split(&outputs, &[2, 3]).is_some(), expected, "{outputs:?}");
        }
    }

    /// A tensor of some element type and width; its values tell all elements of a test apart.
    fn any_tensor(rows: usize, first: u8) -> impl Strategy<Value = Tensor> {
        (0..3usize, 0..3usize).prop_map(move |(width, kind)| {
            let shape = vec![rows, width];
            let values = (0..rows * width).map(|index| first.wrapping_add(index as u8));
            match kind {
                0 => Tensor::from_vec(shape, values.collect::<Vec<u8>>()),
                1 => Tensor::from_vec(shape, values.map(i64::from).collect::<Vec<i64>>()),
                _ => Tensor::from_strings(shape, values.map(|value| vec![value].into()).collect()),
            }
            .unwrap()
        })
    }

    fn any_request() -> impl Strategy<Value = Vec<Tensor>> {
        (1..4usize, any::<u8>(), 1..3usize)
            .prop_flat_map(|(rows, first, inputs)| prop::collection::vec(any_tensor(rows, first), inputs))
    }

    proptest! {
        #[test]
        fn joining_mixes_neither_types_nor_shapes_and_splitting_undoes_it(
            requests in prop::collection::vec(any_request(), 1..6)
        ) {
            let first = &requests[0];
            let (group, others): (Vec<&[Tensor]>, Vec<&[Tensor]>) = requests
                .iter()
                .map(Vec::as_slice)
                .partition(|request| go_together(first, request));
            for other in others {
                let kind = |request: &[Tensor]| -> Vec<_> {
                    request.iter().map(|tensor| (tensor.data_type(), tensor.shape()[1..].to_vec())).collect()
                };
                prop_assert_ne!(kind(first), kind(other));
            }
            let rows: Vec<usize> = group.iter().map(|request| request[0].shape()[0]).collect();
            let joined: Vec<Value> = join(&group).unwrap().into_iter().map(Value::Tensor).collect();
            let parts = split(&joined, &rows).unwrap();
            for (request, part) in group.iter().zip(parts) {
                let part: Vec<Tensor> = part
                    .into_iter()
                    .filter_map(|value| if let Value::Tensor(tensor) = value { Some(tensor) } else { None })
                    .collect();
                prop_assert_eq!(*request, &part[..]);
            }
        }
    }
}
