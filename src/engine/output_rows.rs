//! Decides for each output of a model whether it has one entry for each record of a request
//! ([`OutputRows`]).
//!
//! Two sources: the shapes that the model declares, and the trial that the preparing child makes.
//! The trial counts more: exporters often leave the size of the example in an output's shape, or
//! give a time axis the name of the batch.

use crate::tensor::{Dim, InputSpec, OutputRows, Signature, Value, ValueType};

/// The relation of an output's entries to the records of the trial's runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Runs of one record and of several each gave as many entries as records.
    Follows,
    /// A run gave another number of entries than it had records.
    Differs,
    /// The trial had no runs that could tell.
    Nothing,
}

/// A run of the trial: its number of records, and what it gave.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub records: usize,
    pub outputs: &'a [Value],
}

/// The axis of records among the inputs' declared shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    /// The first axis of an input is open.
    Open,
    /// All inputs have this first size.
    Fixed(usize),
    None,
}

/// Decides for an output by its declared type alone.
pub fn declared(inputs: &[InputSpec], output: &ValueType) -> OutputRows {
    let first = match output {
        ValueType::Tensor { dims: None, .. } | ValueType::Sequence(_) => return OutputRows::PerRecord,
        ValueType::Map { .. } => return OutputRows::Whole,
        ValueType::Tensor { dims: Some(dims), .. } => dims.first(),
    };
    match (first, axis(inputs)) {
        (None, _) => OutputRows::Whole,
        (Some(Dim::Dynamic(_)), _) | (Some(Dim::Fixed(_)), Axis::None) => OutputRows::PerRecord,
        (Some(Dim::Fixed(entries)), Axis::Fixed(records)) if *entries == records => OutputRows::PerRecord,
        (Some(Dim::Fixed(_)), Axis::Fixed(_) | Axis::Open) => OutputRows::Whole,
    }
}

/// Decides for each output of `signature`, which holds the decision by declared types, with the
/// runs of a trial.
pub fn tried(signature: &Signature, runs: &[Run<'_>]) -> Vec<OutputRows> {
    let outputs = signature.outputs.iter().enumerate();
    outputs
        .map(|(index, output)| match seen(index, runs) {
            Seen::Follows => OutputRows::PerRecord,
            Seen::Differs => OutputRows::Whole,
            Seen::Nothing => output.rows,
        })
        .collect()
}

/// The number of records in a trial run whose open first axes have `rows` entries; `None` when the
/// inputs have no axis of records.
pub fn records_of(inputs: &[InputSpec], rows: usize) -> Option<usize> {
    match axis(inputs) {
        Axis::Open => Some(rows),
        Axis::Fixed(records) => Some(records),
        Axis::None => None,
    }
}

fn seen(output: usize, runs: &[Run<'_>]) -> Seen {
    let follows = |run: &Run<'_>| {
        let value = run.outputs.get(output);
        value.is_some_and(|value| value.entries() == Some(run.records))
    };
    if !runs.iter().all(follows) {
        return Seen::Differs;
    }
    let differ_in_records = runs.windows(2).any(|pair| pair[0].records != pair[1].records);
    if differ_in_records {
        Seen::Follows
    } else {
        Seen::Nothing
    }
}

fn axis(inputs: &[InputSpec]) -> Axis {
    let first = |input: &InputSpec| input.dims.as_ref().map(|dims| dims.first().cloned());
    let mut fixed = None;
    let mut all_fixed = !inputs.is_empty();
    for input in inputs {
        match first(input) {
            None | Some(Some(Dim::Dynamic(_))) => return Axis::Open,
            Some(Some(Dim::Fixed(size))) => all_fixed &= *fixed.get_or_insert(size) == size,
            Some(None) => all_fixed = false,
        }
    }
    match fixed {
        Some(size) if all_fixed => Axis::Fixed(size),
        Some(_) | None => Axis::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DataType, OutputSpec, Tensor};

    /// -1 is an open axis.
    fn dims(dims: &[i64]) -> Option<Vec<Dim>> {
        let dim = |&dim: &i64| usize::try_from(dim).map_or(Dim::Dynamic(None), Dim::Fixed);
        Some(dims.iter().map(dim).collect())
    }

    fn input(shape: &[i64]) -> InputSpec {
        InputSpec {
            name: "x".into(),
            data_type: DataType::F32,
            dims: dims(shape),
        }
    }

    fn output(shape: &[i64]) -> ValueType {
        ValueType::Tensor {
            data_type: DataType::F32,
            dims: dims(shape),
        }
    }

    fn value(entries: usize) -> Value {
        Value::Tensor(Tensor::from_vec(vec![entries], vec![0f32; entries]).unwrap())
    }

    #[test]
    fn declared_shapes_decide_where_there_was_no_trial() {
        use OutputRows::{PerRecord, Whole};
        type Case<'a> = (&'a [&'a [i64]], &'a [i64], OutputRows);
        let table: [Case<'_>; 12] = [
            (&[&[-1, 4]], &[-1, 2], PerRecord),
            // Time before the batch, or a sum over all records.
            (&[&[-1, 4]], &[20, -1, 37], Whole),
            (&[&[-1, 4]], &[2], Whole),
            (&[&[-1, 4]], &[], Whole),
            (&[&[1, 4]], &[1, 2], PerRecord),
            (&[&[1, 4]], &[26, 1, 37], Whole),
            (&[&[1, 4]], &[-1, 6], PerRecord),
            (&[&[8, 4]], &[8], PerRecord),
            (&[&[-1, 4], &[]], &[3], Whole),
            (&[&[], &[]], &[3], PerRecord),
            (&[&[2], &[3]], &[3], PerRecord),
            (&[], &[3], PerRecord),
        ];
        for (inputs, shape, expected) in table {
            let inputs: Vec<InputSpec> = inputs.iter().map(|dims| input(dims)).collect();
            assert_eq!(declared(&inputs, &output(shape)), expected, "{inputs:?} {shape:?}");
        }
        let map = ValueType::Map {
            key: DataType::I64,
            value: Box::new(output(&[])),
        };
        assert_eq!(declared(&[input(&[-1])], &map), Whole);
        assert_eq!(
            declared(&[input(&[-1])], &ValueType::Sequence(Box::new(map))),
            PerRecord
        );
        let unknown = ValueType::Tensor {
            data_type: DataType::F32,
            dims: None,
        };
        assert_eq!(declared(&[input(&[-1])], &unknown), PerRecord);
    }

    #[test]
    fn a_trial_counts_more_than_what_is_declared() {
        use OutputRows::{PerRecord, Whole};
        // Records and entries of each run; declared; decided.
        type Case<'a> = (&'a [(usize, usize)], OutputRows, OutputRows);
        let table: [Case<'_>; 9] = [
            (&[], PerRecord, PerRecord),
            (&[], Whole, Whole),
            (&[(1, 1), (2, 2)], PerRecord, PerRecord),
            // The shape of the exporter's example stayed in the declaration.
            (&[(1, 1), (2, 2)], Whole, PerRecord),
            (&[(1, 10), (2, 10)], PerRecord, Whole),
            (&[(1, 2), (2, 3)], PerRecord, Whole),
            (&[(1, 1), (2, 1)], PerRecord, Whole),
            // Only one number of records could be tried.
            (&[(1, 1), (1, 1)], Whole, Whole),
            (&[(1, 1), (1, 0)], PerRecord, Whole),
        ];
        for (runs, rows, expected) in table {
            let signature = Signature {
                optional: Vec::new(),
                inputs: vec![input(&[-1, 4])],
                outputs: vec![OutputSpec {
                    name: "y".into(),
                    value_type: output(&[-1]),
                    rows,
                }],
            };
            let outputs: Vec<(usize, [Value; 1])> = runs
                .iter()
                .map(|&(records, entries)| (records, [value(entries)]))
                .collect();
            let runs: Vec<Run<'_>> = outputs
                .iter()
                .map(|(records, outputs)| Run {
                    records: *records,
                    outputs,
                })
                .collect();
            assert_eq!(tried(&signature, &runs), [expected], "{runs:?}");
        }
    }
}
