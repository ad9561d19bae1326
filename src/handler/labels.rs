//! Replaces class numbers by class names in responses.
//!
//! | output | in the response |
//! |---|---|
//! | whole numbers, the numbers of classes | strings, the names of these classes |
//! | floats with as many columns as there are classes | a map from name to number for each record |
//! | maps by class number, as `ZipMap` makes them | maps by name |
//!
//! Formats of tensors (NPY, the Open Inference Protocol) keep the numbers. CSV keeps all numbers
//! except those of classes, because a line has no names for its cells. The number of a class
//! without a name becomes its digits.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{Format, ReplyPlan};
use crate::tensor::{Tensor, Value};

/// The names of classes, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels(Arc<[Bytes]>);

/// Replaces class numbers by names in the outputs of each run. `labels` has an entry for each
/// output of the model.
pub(super) fn apply(labels: &[Option<Labels>], format: Format, plan: &ReplyPlan, runs: &mut [Vec<Value>]) {
    if !plan.has_names(format) {
        return;
    }
    for run in runs {
        for (position, value) in run.iter_mut().enumerate() {
            let index = plan
                .outputs()
                .map_or(Some(position), |outputs| outputs.get(position).copied());
            if let Some(Some(labels)) = index.and_then(|index| labels.get(index))
                && let Some(named) = labels.name(format, value)
            {
                *value = named;
            }
        }
    }
}

impl Labels {
    pub fn new(names: &[String]) -> Self {
        Self(
            names
                .iter()
                .map(|name| Bytes::copy_from_slice(name.as_bytes()))
                .collect(),
        )
    }

    fn of(&self, class: i64) -> Bytes {
        let known = usize::try_from(class).ok().and_then(|class| self.0.get(class));
        known.cloned().unwrap_or_else(|| class.to_string().into())
    }

    /// The value with names; `None` if it keeps its numbers.
    fn name(&self, format: Format, value: &Value) -> Option<Value> {
        match value {
            // A line of cells has no names; its numbers are in the order of the classes.
            _ if format == Format::Csv => match value {
                Value::Tensor(tensor) => self.strings(tensor).map(Value::Tensor),
                Value::Sequence(_) | Value::Map { .. } => None,
            },
            Value::Tensor(tensor) => self.name_tensor(tensor),
            Value::Sequence(values) => {
                let named = values
                    .iter()
                    .map(|value| self.name(format, value).unwrap_or_else(|| value.clone()));
                Some(Value::Sequence(named.collect()))
            }
            Value::Map { keys, values } => Some(Value::Map {
                keys: self.strings(keys)?,
                values: values.clone(),
            }),
        }
    }

    fn name_tensor(&self, tensor: &Tensor) -> Option<Value> {
        if let Some(names) = self.strings(tensor) {
            return Some(Value::Tensor(names));
        }
        let (&classes, outer) = tensor.shape().split_last()?;
        if classes != self.0.len() {
            return None;
        }
        let keys = Tensor::from_strings(vec![classes], self.0.to_vec()).ok()?;
        let map = |values: Tensor| {
            Some(Value::Map {
                keys: keys.clone(),
                values: values.reshape(vec![classes]).ok()?,
            })
        };
        match *outer {
            [] => map(tensor.clone()),
            [records] => {
                let rows = (0..records).map(|record| map(tensor.rows(record..record + 1)?));
                Some(Value::Sequence(rows.collect::<Option<_>>()?))
            }
            _ => None,
        }
    }

    /// The names for a tensor of class numbers.
    fn strings(&self, tensor: &Tensor) -> Option<Tensor> {
        let numbers: Vec<i64> = if let Some(numbers) = tensor.as_slice::<i64>() {
            numbers.to_vec()
        } else if let Some(numbers) = tensor.as_slice::<i32>() {
            numbers.iter().copied().map(i64::from).collect()
        } else if let Some(numbers) = tensor.as_slice::<u8>() {
            numbers.iter().copied().map(i64::from).collect()
        } else {
            return None;
        };
        let names = numbers.into_iter().map(|class| self.of(class)).collect();
        Tensor::from_strings(tensor.shape().to_vec(), names).ok()
    }
}
