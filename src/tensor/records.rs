//! The records in the inputs of a request.
//!
//! An input with an open first axis has a row for each record. An input with a fixed first axis, or
//! without axes, belongs to every record.

use super::{Dim, InputSpec, Signature, Tensor};

/// The records in a request's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// This many records. The model also takes each of them alone.
    Separable(usize),
    /// This many records. The model takes no other number of them.
    Together(usize),
    /// No axis for records: all inputs together are one record.
    One,
}

impl Signature {
    /// Counts the records in `inputs`, one tensor for each input.
    pub fn records(&self, inputs: &[Tensor]) -> Records {
        let pairs = || self.inputs.iter().zip(inputs);
        let mut open = pairs()
            .filter(|(spec, tensor)| spec.has_open_first_axis(tensor))
            .map(first);
        if let Some(count) = open.next().flatten() {
            return if open.all(|other| other == Some(count)) {
                Records::Separable(count)
            } else {
                Records::One
            };
        }
        let mut fixed = pairs().map(first);
        match fixed.next().flatten() {
            Some(count) if fixed.all(|other| other == Some(count)) => match count {
                1 => Records::Separable(1),
                count => Records::Together(count),
            },
            Some(_) | None => Records::One,
        }
    }

    /// Extracts the inputs of a run for the record at `index` of [`Records::Separable`] records,
    /// without copying their bytes. An input with a fixed number of rows gets that many in each
    /// run.
    pub fn record(&self, inputs: &[Tensor], index: usize) -> Vec<Tensor> {
        let symbol = self.record_symbol();
        let pairs = self.inputs.iter().zip(inputs);
        pairs
            .map(|(spec, tensor)| {
                let elsewhere = spec.record_axis(symbol).filter(|axis| *axis > 0);
                elsewhere
                    .and_then(|axis| tensor.slice_of_axis(axis, index))
                    .unwrap_or_else(|| spec.record(tensor, index))
            })
            .collect()
    }

    /// The graph's name for the axis that counts records.
    pub fn record_symbol(&self) -> Option<&str> {
        self.inputs.iter().find_map(|spec| match spec.dims.as_deref() {
            Some([Dim::Dynamic(Some(symbol)), ..]) => Some(symbol.as_str()),
            Some(_) | None => None,
        })
    }
}

impl InputSpec {
    /// The axis that counts records: the first one if it is open, or the only open one if its name
    /// in the graph is the `symbol` of the records.
    pub fn record_axis(&self, symbol: Option<&str>) -> Option<usize> {
        if self.has_record_axis() {
            return Some(0);
        }
        let mut open = self
            .dims
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(axis, dim)| match dim {
                Dim::Dynamic(name) => Some((axis, name.as_deref())),
                Dim::Fixed(_) => None,
            });
        let only = open.next().filter(|_| open.next().is_none());
        only.filter(|(_, name)| symbol.is_some() && *name == symbol)
            .map(|(axis, _)| axis)
    }

    /// The part of `tensor` that belongs to the record at `index`.
    pub(super) fn record(&self, tensor: &Tensor, index: usize) -> Tensor {
        let size = match self.dims.as_deref() {
            Some([Dim::Fixed(size), ..]) if first((self, tensor)) != Some(*size) => Some(*size),
            _ => self.has_open_first_axis(tensor).then_some(1),
        };
        let row = size.and_then(|size| {
            let start = index.checked_mul(size)?;
            tensor.rows(start..start.checked_add(size)?)
        });
        row.unwrap_or_else(|| tensor.clone())
    }

    fn has_open_first_axis(&self, given: &Tensor) -> bool {
        match self.dims.as_deref() {
            Some([Dim::Dynamic(_), ..]) => true,
            Some([Dim::Fixed(_), ..] | []) => false,
            None => !given.shape().is_empty(),
        }
    }
}

fn first((_, tensor): (&InputSpec, &Tensor)) -> Option<usize> {
    tensor.shape().first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    /// A signature with these dimensions: -1 is an open axis, `None` an unknown rank.
    fn signature(inputs: &[Option<&[i64]>]) -> Signature {
        let dim = |&dim: &i64| usize::try_from(dim).map_or(Dim::Dynamic(None), Dim::Fixed);
        let inputs = inputs.iter().map(|dims| InputSpec {
            name: "x".into(),
            data_type: DataType::I64,
            dims: dims.map(|dims| dims.iter().map(dim).collect()),
        });
        Signature {
            optional: Vec::new(),
            inputs: inputs.collect(),
            outputs: Vec::new(),
        }
    }

    fn tensor(shape: &[usize]) -> Tensor {
        let count = i64::try_from(shape.iter().product::<usize>()).unwrap();
        Tensor::from_vec(shape.to_vec(), (0..count).collect()).unwrap()
    }

    #[test]
    fn the_open_first_axis_counts_the_records() {
        type Case<'a> = (&'a [Option<&'a [i64]>], &'a [&'a [usize]], Records);
        let table: [Case<'_>; 12] = [
            (&[Some(&[-1, 2])], &[&[3, 2]], Records::Separable(3)),
            (&[Some(&[-1, 2])], &[&[0, 2]], Records::Separable(0)),
            (&[None], &[&[3, 2]], Records::Separable(3)),
            (&[None], &[&[]], Records::One),
            (&[Some(&[-1]), Some(&[-1, 2])], &[&[3], &[3, 2]], Records::Separable(3)),
            (&[Some(&[-1]), Some(&[-1, 2])], &[&[3], &[2, 2]], Records::One),
            (&[Some(&[-1]), Some(&[])], &[&[3], &[]], Records::Separable(3)),
            (&[Some(&[-1]), Some(&[4])], &[&[3], &[4]], Records::Separable(3)),
            (&[Some(&[1, 2])], &[&[1, 2]], Records::Separable(1)),
            (&[Some(&[3, 2])], &[&[3, 2]], Records::Together(3)),
            (&[Some(&[3, 2]), Some(&[])], &[&[3, 2], &[]], Records::One),
            (&[], &[], Records::One),
        ];
        for (specs, shapes, expected) in table {
            let inputs: Vec<Tensor> = shapes.iter().map(|shape| tensor(shape)).collect();
            assert_eq!(signature(specs).records(&inputs), expected, "{specs:?} {shapes:?}");
        }
    }

    #[test]
    fn extracts_a_record_from_an_input_with_the_records_on_another_axis() {
        let named = |dims: Vec<Dim>| InputSpec {
            name: "x".into(),
            data_type: DataType::I64,
            dims: Some(dims),
        };
        let records = || Dim::Dynamic(Some("N".to_owned()));
        let signature = Signature {
            inputs: vec![
                named(vec![records(), Dim::Fixed(1)]),
                named(vec![Dim::Fixed(2), records()]),
            ],
            optional: Vec::new(),
            outputs: Vec::new(),
        };
        let record = signature.record(&[tensor(&[3, 1]), tensor(&[2, 3])], 1);
        assert_eq!(record[1].shape(), [2, 1]);
        assert_eq!(record[1].as_slice::<i64>().unwrap(), [1, 4]);
    }

    #[test]
    fn a_record_has_its_row_of_inputs_with_an_open_first_axis_and_the_whole_of_others() {
        let signature = signature(&[Some(&[-1, 2]), Some(&[4]), Some(&[])]);
        let inputs = [tensor(&[3, 2]), tensor(&[4]), tensor(&[])];
        let record = signature.record(&inputs, 1);
        assert_eq!(record[0].shape(), [1, 2]);
        assert_eq!(record[0].as_slice::<i64>().unwrap(), [2, 3]);
        assert_eq!(record[1..], inputs[1..]);
    }
}
