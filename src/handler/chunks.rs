//! Lets a model that was exported for a fixed batch size answer any number of records.
//!
//! The records run in chunks of that size. A model for one record takes them one by one. A model
//! for several is divided only if the manifest declares its records independent, because the last
//! chunk is padded with copies of its last record. Otherwise the model accepts exactly the number
//! of records that it was exported for.
//!
//! Invariants: a record is answered by the run that it was in, and no response contains answers to
//! the padding.

use std::borrow::Cow;

use crate::codec::{EncodeError, Format, ReplyPlan};
use crate::manifest::Batching;
use crate::tensor::{Dim, OutputRows, OutputSpec, Records, Signature, Tensor, Value};

/// The division of records into runs of a fixed size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Records per run.
    size: usize,
}

impl Chunks {
    /// The chunks of a model; `None` if the model takes any number of records, or if they may not
    /// be divided.
    pub fn of(signature: &Signature, batching: Option<Batching>) -> Option<Self> {
        // A scalar applies to every record.
        let inputs = signature
            .inputs
            .iter()
            .filter(|input| input.dims.as_deref() != Some(&[]));
        let mut sizes = inputs.map(|input| match input.dims.as_deref() {
            Some([Dim::Fixed(size), ..]) => Some(*size),
            Some([Dim::Dynamic(_), ..] | []) | None => None,
        });
        let size = sizes.next().flatten().filter(|&size| size > 0)?;
        let is_allowed = size == 1 || matches!(batching, Some(Batching::Allowed(_)));
        (is_allowed && sizes.all(|other| other == Some(size))).then_some(Self { size })
    }

    /// Makes the first dimension of every input dynamic, so that requests may hold any number of
    /// records.
    pub fn open(signature: &mut Signature) {
        for input in &mut signature.inputs {
            if let Some(first) = input.dims.as_mut().and_then(|dims| dims.first_mut()) {
                *first = Dim::Dynamic(None);
            }
        }
    }

    /// The number of runs that answer a request; `None` if one run does.
    pub fn runs(self, plan: &ReplyPlan, has_run: bool) -> Option<usize> {
        let Records::Separable(count) = plan.records() else {
            return None;
        };
        let runs = count.div_ceil(self.size);
        (runs != 1 && !has_run).then_some(runs)
    }

    /// Pads the last chunk. `None` if there is not enough memory.
    pub fn fill(self, plan: &ReplyPlan, inputs: Vec<Tensor>) -> Option<Vec<Tensor>> {
        let Records::Separable(count) = plan.records() else {
            return Some(inputs);
        };
        let lacking = count.next_multiple_of(self.size) - count;
        if lacking == 0 {
            return Some(inputs);
        }
        let fill = |input: Tensor| {
            if input.shape().is_empty() {
                return Some(input);
            }
            let last = input.rows(count - 1..count)?;
            let mut parts = vec![&input];
            parts.extend(std::iter::repeat_n(&last, lacking));
            Tensor::concatenate(&parts)
        };
        inputs.into_iter().map(fill).collect()
    }

    /// Joins the outputs of all runs into those of one, if the response needs that.
    pub fn joined<'a>(
        self,
        format: Format,
        plan: &ReplyPlan,
        signature: &Signature,
        runs: Cow<'a, [Vec<Value>]>,
    ) -> Result<Cow<'a, [Vec<Value>]>, EncodeError> {
        let Records::Separable(count) = plan.records() else {
            return Ok(runs);
        };
        if self.size == 1 && (runs.len() == 1 || plan.is_by_record(format)) {
            return Ok(runs);
        }
        let specs = plan.selected(signature);
        let joined = specs.iter().enumerate().map(|(index, spec)| {
            self.join(spec, index, count, &runs)
                .ok_or_else(|| EncodeError::CannotCarry {
                    format,
                    problem: format!(
                        "the model takes {} records at a time, and output {:?} has no entry for each record; accept \
                         application/jsonlines, or send fewer records",
                        self.size, spec.name
                    ),
                })
        });
        Ok(Cow::Owned(vec![joined.collect::<Result<_, _>>()?]))
    }

    /// Joins the outputs of all runs into those of one, for the answer of a task, which may depend
    /// on all records. `None` if they cannot be joined.
    pub fn together(self, plan: &ReplyPlan, signature: &Signature, runs: &[Vec<Value>]) -> Option<Vec<Value>> {
        let Records::Separable(count) = plan.records() else {
            return None;
        };
        let specs = plan.selected(signature);
        let joined = specs.iter().enumerate();
        joined
            .map(|(index, spec)| self.join(spec, index, count, runs))
            .collect()
    }

    /// The output at `index` of all runs as that of one.
    fn join(self, spec: &OutputSpec, index: usize, count: usize, runs: &[Vec<Value>]) -> Option<Value> {
        let values: Vec<&Value> = runs.iter().filter_map(|run| run.get(index)).collect();
        let is_joinable = spec.rows == OutputRows::PerRecord
            && values.iter().all(|value| value.entries() == Some(self.size))
            && values.len() == count.div_ceil(self.size);
        is_joinable.then(|| join(&values, count)).flatten()
    }
}

/// The first `count` entries of all values.
fn join(values: &[&Value], count: usize) -> Option<Value> {
    match values.first()? {
        Value::Tensor(_) => {
            let tensors: Option<Vec<&Tensor>> = values
                .iter()
                .map(|value| match value {
                    Value::Tensor(tensor) => Some(tensor),
                    Value::Sequence(_) | Value::Map { .. } => None,
                })
                .collect();
            Some(Value::Tensor(Tensor::concatenate(&tensors?)?.rows(0..count)?))
        }
        Value::Sequence(_) => {
            let mut all = Vec::new();
            for value in values {
                let Value::Sequence(values) = value else { return None };
                all.extend_from_slice(values);
            }
            all.truncate(count);
            Some(Value::Sequence(all))
        }
        Value::Map { .. } => None,
    }
}
