//! Which requests may run together: a batch is their rows, joined along the first axis of every
//! input and taken apart along that of every output.
//!
//! A request is never held back for others to come. Only what has queued up behind a busy model is
//! joined (`turn.rs`), as far as that pays (`knee.rs`).
//!
//! What always holds: requests in a batch have inputs of the same types and shapes but for the
//! first axis, and ask for the same outputs. A model has batches only where its graph proves that
//! no operator mixes the records of a batch (`axes.rs`) and the trial has not shown the contrary,
//! or where the manifest says so. No signature says it, since a first axis may as well be time.

use std::num::NonZeroUsize;

use super::axes::{Axes, OutputAxis};
use crate::manifest;
use crate::tensor::{Dim, OutputRows, Signature, Tensor, Value, ValueType};

/// How a model's requests are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// At least 2.
    pub max_rows: usize,
    /// For each output, whether it can be taken apart by rows.
    divisible: Vec<bool>,
    /// Why an output cannot be.
    but: Option<String>,
}

/// What preparing a model has shown of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// What the graph proves.
    pub axes: Axes,
    /// Whether a trial answered rows together as it did alone.
    pub trial: Option<bool>,
}

/// Why a model's requests run alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Alone {
    #[error("longshore.json says so")]
    Manifest,
    #[error("batches have one row at most (--max-batch, or max_rows in longshore.json)")]
    OneRow,
    #[error("the first axis of its inputs is not one axis that is open")]
    Inputs,
    #[error("the first axis of its outputs is not open")]
    Outputs,
    #[error("the model was not prepared, so its graph was not analysed (--prepare)")]
    NotPrepared,
    #[error("{0}")]
    NotProven(String),
    #[error("in a trial, rows were answered differently together than alone")]
    Refuted,
}

/// Decides for a model. What the manifest says counts more than the evidence. No model has batches
/// of more than `max_rows`.
pub fn decide(
    signature: &Signature,
    said: Option<manifest::Batching>,
    evidence: Option<&Evidence>,
    max_rows: usize,
) -> Result<Batching, Alone> {
    let (max_rows, proof) = match said {
        Some(manifest::Batching::Never) => return Err(Alone::Manifest),
        Some(manifest::Batching::Allowed(Some(most))) => (most.get().min(max_rows), None),
        Some(manifest::Batching::Allowed(None)) => (max_rows, None),
        None => {
            let evidence = evidence.ok_or(Alone::NotPrepared)?;
            if !evidence.axes.has_records() {
                let reason = evidence.axes.reason();
                return Err(Alone::NotProven(
                    reason.unwrap_or_else(|| "it has no outputs".to_owned()),
                ));
            }
            if evidence.trial == Some(false) {
                return Err(Alone::Refuted);
            }
            (max_rows, Some(&evidence.axes))
        }
    };
    if max_rows < 2 {
        return Err(Alone::OneRow);
    }
    if !inputs_have_one_dynamic_first_axis(signature) {
        return Err(Alone::Inputs);
    }
    let outputs = signature.outputs.iter().map(|output| match proof {
        Some(axes) => axes.of(&output.name) == Some(&OutputAxis::Records) && !has_fixed_first_axis(&output.value_type),
        None => output.rows == OutputRows::PerRecord && has_open_first_axis(&output.value_type),
    });
    let divisible: Vec<bool> = outputs.collect();
    if !divisible.contains(&true) {
        return Err(Alone::Outputs);
    }
    let but = divisible.contains(&false).then(|| {
        let reason = proof.and_then(Axes::reason);
        reason.unwrap_or_else(|| Alone::Outputs.to_string())
    });
    Ok(Batching {
        max_rows,
        divisible,
        but,
    })
}

fn has_open_first_axis(output: &ValueType) -> bool {
    match output {
        ValueType::Tensor { dims: Some(dims), .. } => matches!(dims.first(), Some(Dim::Dynamic(_))),
        ValueType::Tensor { dims: None, .. } | ValueType::Sequence(_) | ValueType::Map { .. } => false,
    }
}

fn has_fixed_first_axis(output: &ValueType) -> bool {
    match output {
        ValueType::Tensor { dims: Some(dims), .. } => !matches!(dims.first(), Some(Dim::Dynamic(_))),
        ValueType::Tensor { dims: None, .. } | ValueType::Sequence(_) => false,
        ValueType::Map { .. } => true,
    }
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
    /// What limits the joining, as an addition to a message: empty where nothing does.
    pub fn but(&self) -> String {
        match &self.but {
            None => String::new(),
            Some(reason) => format!(", but not those that ask for an output that keeps no rows apart: {reason}"),
        }
    }

    /// The rows of a request with these `inputs` for these outputs; `None` when it can only run
    /// alone.
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

/// The inputs of all `requests` as those of one. `None` when they do not go together, or there is
/// no memory for it.
pub fn join(requests: &[&[Tensor]]) -> Option<Vec<Tensor>> {
    let inputs = requests.first()?.len();
    (0..inputs)
        .map(|index| {
            let parts: Option<Vec<&Tensor>> = requests.iter().map(|inputs| inputs.get(index)).collect();
            Tensor::concatenate(&parts?)
        })
        .collect()
}

/// Takes the outputs of a batch apart: for each request, of so many `rows`, its own. `None` when an
/// output has not one row, or one item of a sequence, for each row of the inputs.
pub fn split(outputs: &[Value], rows: &[usize]) -> Option<Vec<Vec<Value>>> {
    let all: usize = rows.iter().sum();
    let is_divisible = |output: &Value| match output {
        Value::Tensor(tensor) => tensor.shape().first() == Some(&all),
        Value::Sequence(items) => items.len() == all,
        Value::Map { .. } => false,
    };
    if !outputs.iter().all(is_divisible) {
        return None;
    }
    let mut start = 0;
    rows.iter()
        .map(|count| {
            let range = start..start + count;
            start = range.end;
            let part = |output: &Value| match output {
                Value::Tensor(tensor) => tensor.rows(range.clone()).map(Value::Tensor),
                Value::Sequence(items) => items.get(range.clone()).map(|items| Value::Sequence(items.to_vec())),
                Value::Map { .. } => None,
            };
            outputs.iter().map(part).collect()
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
            optional: Vec::new(),
            inputs: inputs.collect(),
            outputs: outputs.collect(),
        }
    }

    fn named(name: &str) -> Dim {
        Dim::Dynamic(Some(name.into()))
    }

    /// What the graph and the trial say, of a model whose outputs are called `y`.
    fn evidence(axis: OutputAxis, trial: Option<bool>) -> Evidence {
        Evidence {
            axes: Axes {
                outputs: vec![("y".to_owned(), axis)],
                unknown: None,
            },
            trial,
        }
    }

    #[test]
    fn a_model_has_batches_when_the_manifest_says_so_or_the_graph_proves_it_and_the_trial_agrees() {
        let plain = signature(&[Some(&[named("n")])], &[Some(&[named("n")])]);
        let some = |rows| Some(manifest::Batching::Allowed(NonZeroUsize::new(rows)));
        let any = Some(manifest::Batching::Allowed(None));
        let proven = |trial| Some(evidence(OutputAxis::Records, trial));
        let mixed = |trial| Some(evidence(OutputAxis::Mixed("q mixes".into()), trial));
        let not_proven = || Err(Alone::NotProven("q mixes".into()));
        let table = [
            // the manifest, the evidence, the limit; rows
            (None, None, 32, Err(Alone::NotPrepared)),
            (None, proven(Some(false)), 32, Err(Alone::Refuted)),
            (None, proven(Some(true)), 32, Ok(32)),
            (None, proven(None), 32, Ok(32)),
            (None, proven(Some(true)), 1, Err(Alone::OneRow)),
            (None, mixed(Some(true)), 32, not_proven()),
            (None, mixed(None), 32, not_proven()),
            (
                Some(manifest::Batching::Never),
                proven(Some(true)),
                32,
                Err(Alone::Manifest),
            ),
            (any, None, 32, Ok(32)),
            (any, mixed(Some(false)), 32, Ok(32)),
            (some(8), None, 32, Ok(8)),
            (some(64), proven(Some(true)), 32, Ok(32)),
            (some(1), proven(Some(true)), 32, Err(Alone::OneRow)),
            (any, None, 1, Err(Alone::OneRow)),
        ];
        for (said, evidence, limit, expected) in table {
            let batching = decide(&plain, said, evidence.as_ref(), limit);
            assert_eq!(
                batching.map(|batching| batching.max_rows),
                expected,
                "{said:?} {evidence:?} {limit}"
            );
        }
    }

    #[test]
    fn an_unread_graph_proves_nothing() {
        let plain = signature(&[Some(&[named("n")])], &[Some(&[named("n")])]);
        let evidence = Evidence {
            axes: Axes::unknown("it is not read"),
            trial: Some(true),
        };
        let refusal = decide(&plain, None, Some(&evidence), 32).unwrap_err();
        assert_eq!(refusal.to_string(), "it is not read");
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
            let batching = decide(
                &signature(&inputs, &outputs),
                Some(manifest::Batching::Allowed(None)),
                None,
                32,
            );
            assert_eq!(batching.is_ok(), expected, "{inputs:?} {outputs:?}");
        }
    }

    fn tensor(shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape.to_vec(), vec![0f32; shape.iter().product()]).unwrap()
    }

    #[test]
    fn a_request_has_the_rows_that_all_its_inputs_have() {
        let n = [named("n")];
        let said = Some(manifest::Batching::Allowed(None));
        let batching = decide(&signature(&[Some(&n)], &[Some(&n), Some(&[])]), said, None, 32).unwrap();
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
            (vec![Value::Sequence(vec![Value::Tensor(tensor(&[2])); 5])], true),
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
