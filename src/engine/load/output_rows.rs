//! Decides for each output of a model whether it has one entry for each record of a request
//! ([`OutputRows`]).
//!
//! There are two sources: the shapes that the model declares, and the trial in the preparing
//! child. The trial takes precedence, because exporters often leave the size of the example in an
//! output's shape, or give a time axis the name of the batch.

use crate::tensor::{Dim, InputSpec, OutputRows, Signature, Value, ValueType};

/// The relation of an output's entries to the records of the trial's runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialOutcome {
    /// Runs of different numbers of records each gave as many entries as records.
    Follows,
    /// A run gave another number of entries than it had records.
    Differs,
    /// The trial's runs did not show it.
    Nothing,
}

/// A run of the trial: its number of records, and its outputs.
#[derive(Debug, Clone, Copy)]
pub struct TrialRun<'a> {
    pub records: usize,
    pub outputs: &'a [Value],
}

/// The axis of records in the inputs' declared shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeclaredAxis {
    /// The first axis of an input is open.
    Open,
    /// All inputs have this first size.
    Fixed(usize),
    None,
}

/// Decides for an output from its declared type alone.
pub fn declared(inputs: &[InputSpec], output: &ValueType) -> OutputRows {
    let first = match output {
        ValueType::Tensor { dims: None, .. } | ValueType::Sequence(_) => return OutputRows::PerRecord,
        ValueType::Map { .. } => return OutputRows::Whole,
        ValueType::Tensor { dims: Some(dims), .. } => dims.first(),
    };
    match (first, axis(inputs)) {
        (None, _) => OutputRows::Whole,
        (Some(Dim::Dynamic(_)), _) | (Some(Dim::Fixed(_)), DeclaredAxis::None) => OutputRows::PerRecord,
        (Some(Dim::Fixed(entries)), DeclaredAxis::Fixed(records)) if *entries == records => OutputRows::PerRecord,
        (Some(Dim::Fixed(_)), DeclaredAxis::Fixed(_) | DeclaredAxis::Open) => OutputRows::Whole,
    }
}

/// Whether the declared types say for certain how each output relates to the records, so that a
/// trial could not find anything else. `has_known_sizes` says whether the sizes of outputs follow
/// from those of the inputs alone.
pub fn are_certain(signature: &Signature, has_known_sizes: bool) -> bool {
    let mut outputs = signature.outputs.iter();
    outputs.all(|output| is_certain(&signature.inputs, &output.value_type, has_known_sizes))
}

fn is_certain(inputs: &[InputSpec], output: &ValueType, has_known_sizes: bool) -> bool {
    let dims = match output {
        ValueType::Map { .. } => return true,
        ValueType::Sequence(_) => return has_known_sizes && has_only_records(inputs),
        ValueType::Tensor { dims: None, .. } => return false,
        ValueType::Tensor { dims: Some(dims), .. } => dims,
    };
    match dims.first() {
        None => true,
        Some(Dim::Dynamic(Some(name))) if is_name_of_records(inputs, name) => true,
        // Many exporters give each axis of an output a name of its own, or none.
        Some(Dim::Dynamic(_)) => has_known_sizes && has_only_records(inputs) && axis(inputs) == DeclaredAxis::Open,
        // Exporters leave the size of their example in the shape.
        Some(Dim::Fixed(_)) => axis(inputs) != DeclaredAxis::Open,
    }
}

/// Whether no axis of the inputs is open but the first ones, so that an output's open axis has no
/// other source.
fn has_only_records(inputs: &[InputSpec]) -> bool {
    let is_closed = |dims: &Vec<Dim>| dims.iter().skip(1).all(|dim| matches!(dim, Dim::Fixed(_)));
    inputs.iter().all(|input| input.dims.as_ref().is_some_and(is_closed))
}

/// Whether first axes of the inputs have this name, and no other axes.
fn is_name_of_records(inputs: &[InputSpec], name: &str) -> bool {
    let has_name = |dim: &Dim| matches!(dim, Dim::Dynamic(Some(found)) if found == name);
    let mut is_first = false;
    for dims in inputs.iter().filter_map(|input| input.dims.as_ref()) {
        is_first |= dims.first().is_some_and(has_name);
        if dims.iter().skip(1).any(has_name) {
            return false;
        }
    }
    is_first
}

/// Decides for each output of `signature` from the runs of a trial. `signature` holds the
/// decisions from the declared types.
pub fn tried(signature: &Signature, runs: &[TrialRun<'_>]) -> Vec<OutputRows> {
    let outputs = signature.outputs.iter().enumerate();
    outputs
        .map(|(index, output)| match seen(index, runs) {
            TrialOutcome::Follows => OutputRows::PerRecord,
            TrialOutcome::Differs => OutputRows::Whole,
            TrialOutcome::Nothing => output.rows,
        })
        .collect()
}

/// Returns the number of records in a trial run whose open first axes have `rows` entries; `None`
/// if the inputs have no axis of records.
pub fn records_of(inputs: &[InputSpec], rows: usize) -> Option<usize> {
    match axis(inputs) {
        DeclaredAxis::Open => Some(rows),
        DeclaredAxis::Fixed(records) => Some(records),
        DeclaredAxis::None => None,
    }
}

fn seen(output: usize, runs: &[TrialRun<'_>]) -> TrialOutcome {
    let follows = |run: &TrialRun<'_>| {
        let value = run.outputs.get(output);
        value.is_some_and(|value| value.entries() == Some(run.records))
    };
    if !runs.iter().all(follows) {
        return TrialOutcome::Differs;
    }
    let differ_in_records = runs.windows(2).any(|pair| pair[0].records != pair[1].records);
    if differ_in_records {
        TrialOutcome::Follows
    } else {
        TrialOutcome::Nothing
    }
}

fn axis(inputs: &[InputSpec]) -> DeclaredAxis {
    let first = |input: &InputSpec| input.dims.as_ref().map(|dims| dims.first().cloned());
    let mut fixed = None;
    let mut all_fixed = !inputs.is_empty();
    for input in inputs {
        match first(input) {
            None | Some(Some(Dim::Dynamic(_))) => return DeclaredAxis::Open,
            Some(Some(Dim::Fixed(size))) => all_fixed &= *fixed.get_or_insert(size) == size,
            Some(None) => all_fixed = false,
        }
    }
    match fixed {
        Some(size) if all_fixed => DeclaredAxis::Fixed(size),
        Some(_) | None => DeclaredAxis::None,
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
    fn declared_shapes_decide_if_there_was_no_trial() {
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
    fn declared_shapes_are_certain_if_an_open_axis_has_one_source() {
        let shape = |dims: &[&str]| -> Option<Vec<Dim>> {
            let dim = |text: &&str| match text.parse() {
                Ok(size) => Dim::Fixed(size),
                Err(_) => Dim::Dynamic(Some((*text).to_owned()).filter(|name| name != "?")),
            };
            Some(dims.iter().map(dim).collect())
        };
        type Case<'a> = (&'a [&'a [&'a str]], &'a [&'a str], bool);
        let table: [Case<'_>; 14] = [
            (&[&["?", "4"]], &["?", "2"], true),
            (&[&["n", "4"]], &["n"], true),
            (&[&["n", "4"]], &["m", "6"], true),
            (&[&["1", "3", "64", "64"]], &["?", "6"], false),
            (&[&["n", "4"]], &[], true),
            (&[&["1", "4"]], &["1", "2"], true),
            // The size of the exporter's example, or time.
            (&[&["n", "4"]], &["1", "2"], false),
            (&[&["n", "4"]], &["20", "n", "37"], false),
            // Of texts.
            (
                &[&["batch", "tokens"], &["batch", "tokens"]],
                &["batch", "tokens", "8"],
                true,
            ),
            (&[&["batch", "tokens"]], &["tokens", "batch", "8"], false),
            (&[&["?", "?"]], &["?", "8"], false),
            (&[&["n", "n"]], &["n", "8"], false),
            (&[&["n", "t"]], &["m", "8"], false),
            (&[], &["3"], true),
        ];
        for (inputs, output, expected) in table {
            let specs: Vec<InputSpec> = inputs
                .iter()
                .map(|dims| InputSpec {
                    dims: shape(dims),
                    ..input(&[])
                })
                .collect();
            let output = ValueType::Tensor {
                data_type: DataType::F32,
                dims: shape(output),
            };
            assert_eq!(is_certain(&specs, &output, true), expected, "{inputs:?} {output:?}");
        }
    }

    #[test]
    fn an_open_axis_is_not_certain_where_sizes_depend_on_data() {
        let (inputs, boxes) = ([input(&[-1, 4])], output(&[-1, 6]));
        assert!(is_certain(&inputs, &boxes, true));
        assert!(!is_certain(&inputs, &boxes, false));
    }

    #[test]
    fn a_trial_overrides_the_declared_shapes() {
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
            let runs: Vec<TrialRun<'_>> = outputs
                .iter()
                .map(|(records, outputs)| TrialRun {
                    records: *records,
                    outputs,
                })
                .collect();
            assert_eq!(tried(&signature, &runs), [expected], "{runs:?}");
        }
    }
}
