//! A model that was exported for a fixed number of records answers any number of them.
//!
//! Its records run in chunks of that number. A model for one record takes them one by one. One for
//! several records takes chunks only where the manifest says that its records are independent,
//! because the last chunk is filled up with copies of its last record; without that word it takes
//! the number that it was exported for and no other.
//!
//! What always holds: a record is answered by the run that it was in, and nothing of the copies is
//! in any reply.

use std::borrow::Cow;

use crate::codec::{EncodeError, Format, ReplyPlan};
use crate::manifest::Batching;
use crate::tensor::{Dim, OutputRows, Records, Signature, Tensor, Value};

/// How records are put into runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    /// The records of a run.
    size: usize,
}

impl Chunks {
    /// The chunks of a model; `None` for one that takes any number of records, or whose records may
    /// not be put apart.
    pub fn of(signature: &Signature, batching: Option<Batching>) -> Option<Self> {
        // A scalar belongs to each record as it is.
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

    /// Lets the inputs of a signature take any number of records.
    pub fn open(signature: &mut Signature) {
        for input in &mut signature.inputs {
            if let Some(first) = input.dims.as_mut().and_then(|dims| dims.first_mut()) {
                *first = Dim::Dynamic(None);
            }
        }
    }

    /// How many runs answer a request; `None` where one run does.
    pub fn runs(self, plan: &ReplyPlan, has_run: bool) -> Option<usize> {
        let Records::Separable(count) = plan.records() else {
            return None;
        };
        let runs = count.div_ceil(self.size);
        (runs != 1 && !has_run).then_some(runs)
    }

    /// Fills up the last chunk. `None` when there is no memory.
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

    /// The outputs of all runs as those of one, where the reply needs that.
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
            let values: Vec<&Value> = runs.iter().filter_map(|run| run.get(index)).collect();
            let is_joinable = spec.rows == OutputRows::PerRecord
                && values.iter().all(|value| value.entries() == Some(self.size))
                && values.len() == count.div_ceil(self.size);
            is_joinable
                .then(|| join(&values, count))
                .flatten()
                .ok_or_else(|| EncodeError::CannotCarry {
                    format,
                    problem: format!(
                        "the model takes {} at a time, and output {:?} has no entry for each record; accept \
                         application/jsonlines, or send fewer records",
                        self.size, spec.name
                    ),
                })
        });
        Ok(Cow::Owned(vec![joined.collect::<Result<_, _>>()?]))
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
