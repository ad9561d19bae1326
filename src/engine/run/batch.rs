//! Decides which requests may be batched. A batch joins the rows of its requests along the first
//! axis of every input, and is split along the first axis of every output.
//!
//! The server never delays a request in order to batch it. Only requests that have queued up
//! behind a busy model are batched (`turn.rs`), and only as many as make a run cheaper
//! (`batch_limit.rs`).
//!
//! Invariants: the requests of a batch ask for the same outputs, and their inputs have the same
//! types and, apart from the first axis, the same shapes. All of them are requests to one name, and
//! the inputs that its adapter gives are not joined (`adapter.rs`). A model has batches only if the
//! manifest allows them, or if its graph proves that no operator mixes the records of a batch
//! (`axes.rs`) and the trial has not refuted it. A signature cannot prove this: a first axis may
//! also be time.

use std::num::NonZeroUsize;

use crate::engine::load::axes::{Axes, OutputAxis};
use crate::manifest;
use crate::tensor::{Dim, OutputRows, Signature, Tensor, Value, ValueType};

/// The way in which a model's requests are batched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// At least 2.
    pub max_rows: usize,
    /// For each output, whether it can be split by rows.
    divisible: Vec<bool>,
    /// The reason that some output cannot be split.
    exception: Option<String>,
}

/// The results of preparing a model that tell whether its rows are independent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchingEvidence {
    /// The proof from the graph.
    pub axes: Axes,
    /// Whether a trial gave the same outputs for rows together as for each row alone.
    pub trial: Option<bool>,
}

/// The reason that a model's requests are not batched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBatching {
    #[error("longshore.json turns batching off")]
    Manifest,
    #[error("batches are limited to one row (--max-batch, or max_rows in longshore.json)")]
    OneRow,
    #[error("its inputs do not share one open first axis")]
    Inputs,
    #[error("none of its outputs has an open first axis")]
    Outputs,
    #[error("the model was not prepared (--prepare), so its graph was not analysed")]
    NotPrepared,
    #[error("{0}")]
    NotProven(String),
    #[error("in a trial, rows gave other outputs together than alone")]
    Refuted,
}

/// Decides whether a model's requests are batched. The manifest overrides the evidence. `max_rows`
/// limits the batches of every model.
pub fn decide(
    signature: &Signature,
    configured: Option<manifest::Batching>,
    evidence: Option<&BatchingEvidence>,
    max_rows: usize,
) -> Result<Batching, NoBatching> {
    let (max_rows, proof) = match configured {
        Some(manifest::Batching::Never) => return Err(NoBatching::Manifest),
        Some(manifest::Batching::Allowed(Some(most))) => (most.get().min(max_rows), None),
        Some(manifest::Batching::Allowed(None)) => (max_rows, None),
        None => {
            let evidence = evidence.ok_or(NoBatching::NotPrepared)?;
            if !evidence.axes.has_records() {
                let reason = evidence.axes.reason();
                return Err(NoBatching::NotProven(
                    reason.unwrap_or_else(|| "it has no outputs".to_owned()),
                ));
            }
            if evidence.trial == Some(false) {
                return Err(NoBatching::Refuted);
            }
            (max_rows, Some(&evidence.axes))
        }
    };
    if max_rows < 2 {
        return Err(NoBatching::OneRow);
    }
    if !inputs_have_one_dynamic_first_axis(signature) {
        return Err(NoBatching::Inputs);
    }
    let outputs = signature.outputs.iter().map(|output| match proof {
        Some(axes) => axes.of(&output.name) == Some(&OutputAxis::Records) && !has_fixed_first_axis(&output.value_type),
        None => output.rows == OutputRows::PerRecord && has_open_first_axis(&output.value_type),
    });
    let divisible: Vec<bool> = outputs.collect();
    if !divisible.contains(&true) {
        return Err(NoBatching::Outputs);
    }
    let exception = divisible.contains(&false).then(|| {
        let reason = proof.and_then(Axes::reason);
        reason.unwrap_or_else(|| NoBatching::Outputs.to_string())
    });
    Ok(Batching {
        max_rows,
        divisible,
        exception,
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

/// Whether the first axis of every input is open, and has the same name wherever it has one.
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
    /// Suffix for a message that names the requests which are not batched; empty if all are.
    pub fn exception(&self) -> String {
        match &self.exception {
            None => String::new(),
            Some(reason) => format!(", except those that ask for an output that cannot be split by rows: {reason}"),
        }
    }

    /// Returns the number of rows of a request with these `inputs` and requested `outputs`. `None`
    /// if it can only run alone.
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

/// Whether the inputs of two requests can be joined.
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

/// Joins the inputs of all `requests`. `None` if they cannot be joined, or if there is no memory
/// for the result.
pub fn join(requests: &[&[Tensor]]) -> Option<Vec<Tensor>> {
    let inputs = requests.first()?.len();
    (0..inputs)
        .map(|index| {
            let parts: Option<Vec<&Tensor>> = requests.iter().map(|inputs| inputs.get(index)).collect();
            Tensor::concatenate(&parts?)
        })
        .collect()
}

/// Splits the outputs of a batch into those of each request; `rows` holds the row count of each
/// request. `None` if an output does not have exactly one row, or one item of a sequence, for each
/// row of the inputs.
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

    /// The evidence from the graph and the trial, for a model whose outputs are named `y`.
    fn evidence(axis: OutputAxis, trial: Option<bool>) -> BatchingEvidence {
        BatchingEvidence {
            axes: Axes {
                outputs: vec![("y".to_owned(), axis)],
                unknown: None,
            },
            trial,
        }
    }

    #[test]
    fn a_model_has_batches_if_the_manifest_allows_them_or_graph_and_trial_show_independent_rows() {
        let plain = signature(&[Some(&[named("n")])], &[Some(&[named("n")])]);
        let some = |rows| Some(manifest::Batching::Allowed(NonZeroUsize::new(rows)));
        let any = Some(manifest::Batching::Allowed(None));
        let proven = |trial| Some(evidence(OutputAxis::Records, trial));
        let mixed = |trial| Some(evidence(OutputAxis::Mixed("q mixes".into()), trial));
        let not_proven = || Err(NoBatching::NotProven("q mixes".into()));
        let table = [
            // the manifest, the evidence, the limit; rows
            (None, None, 32, Err(NoBatching::NotPrepared)),
            (None, proven(Some(false)), 32, Err(NoBatching::Refuted)),
            (None, proven(Some(true)), 32, Ok(32)),
            (None, proven(None), 32, Ok(32)),
            (None, proven(Some(true)), 1, Err(NoBatching::OneRow)),
            (None, mixed(Some(true)), 32, not_proven()),
            (None, mixed(None), 32, not_proven()),
            (
                Some(manifest::Batching::Never),
                proven(Some(true)),
                32,
                Err(NoBatching::Manifest),
            ),
            (any, None, 32, Ok(32)),
            (any, mixed(Some(false)), 32, Ok(32)),
            (some(8), None, 32, Ok(8)),
            (some(64), proven(Some(true)), 32, Ok(32)),
            (some(1), proven(Some(true)), 32, Err(NoBatching::OneRow)),
            (any, None, 1, Err(NoBatching::OneRow)),
        ];
        for (configured, evidence, limit, expected) in table {
            let batching = decide(&plain, configured, evidence.as_ref(), limit);
            assert_eq!(
                batching.map(|batching| batching.max_rows),
                expected,
                "{configured:?} {evidence:?} {limit}"
            );
        }
    }

    #[test]
    fn a_graph_that_was_not_read_proves_nothing() {
        let plain = signature(&[Some(&[named("n")])], &[Some(&[named("n")])]);
        let evidence = BatchingEvidence {
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
    fn a_request_has_rows_if_all_its_inputs_have_as_many() {
        let n = [named("n")];
        let allowed = Some(manifest::Batching::Allowed(None));
        let batching = decide(&signature(&[Some(&n)], &[Some(&n), Some(&[])]), allowed, None, 32).unwrap();
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
    fn an_output_without_a_row_for_each_input_row_is_not_split() {
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

    /// A tensor of a random element type and width, whose values identify each element.
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
