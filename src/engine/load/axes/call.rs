//! An operator with its inputs and attributes, as a rule receives it.

use std::collections::HashMap;

use super::extent::{Extent, Symbols};
use super::value::{AbstractTensor, AbstractValue, Batch, MIXES, Mix, RecordPlace};
use crate::engine::load::onnx_file::{Attribute, Node};

/// Attributes by name.
pub type Attributes<'a> = HashMap<&'a str, &'a Attribute>;

/// The result of a rule: the values of the outputs, or the reason that they are unknown.
pub type RuleOutcome = Result<Vec<AbstractValue>, Mix>;

/// The effect of an operator on the records of its inputs.
pub type Rule = fn(&mut OperatorCall<'_>) -> RuleOutcome;

/// An operator with its inputs and attributes.
pub struct OperatorCall<'a> {
    pub operator: &'a str,
    pub node: &'a Node,
    /// The attributes of the node that called the function which contains this node.
    pub outer: Option<&'a Attributes<'a>>,
    /// The version of the operator set.
    pub opset: i64,
    pub inputs: Vec<Option<&'a AbstractValue>>,
    pub symbols: &'a mut Symbols,
}

/// An input is missing or of the wrong kind. ONNX Runtime rejects such a model.
const WRONG_INPUT: Mix = Mix::new("has an input that it does not accept");

const USES_COUNT: Mix = Mix::new("computes with the number of records");

pub const UNKNOWN_RANK: Mix = Mix::new("takes a tensor with an unknown number of dimensions");

pub fn one(tensor: AbstractTensor) -> RuleOutcome {
    Ok(vec![AbstractValue::Tensor(tensor)])
}

impl<'a> OperatorCall<'a> {
    pub fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        match self.node.attributes.get(name)? {
            Attribute::Reference(outer) => self.outer?.get(&**outer).copied(),
            attribute => Some(attribute),
        }
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attribute(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        match self.attribute(name) {
            Some(Attribute::Text(Some(text))) => Some(text),
            _ => None,
        }
    }

    /// A list of integers. `Err` if it was too long to be kept.
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Mix> {
        match self.attribute(name) {
            Some(Attribute::Ints(Some(values))) => Ok(Some(values)),
            Some(Attribute::Ints(None)) => Err(Mix::new("has an attribute that is too long")),
            _ => Ok(None),
        }
    }

    /// A tensor that may depend on the number of records.
    pub fn any(&self, index: usize) -> Result<&'a AbstractTensor, Mix> {
        self.any_or_none(index)?.ok_or(WRONG_INPUT)
    }

    pub fn any_or_none(&self, index: usize) -> Result<Option<&'a AbstractTensor>, Mix> {
        match self.inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(AbstractValue::Tensor(tensor)) => Ok(Some(tensor)),
            Some(AbstractValue::Sequence(_) | AbstractValue::Items | AbstractValue::Mixed(_)) => Err(WRONG_INPUT),
        }
    }

    pub fn tensor(&self, index: usize) -> Result<&'a AbstractTensor, Mix> {
        self.tensor_or_none(index)?.ok_or(WRONG_INPUT)
    }

    pub fn tensor_or_none(&self, index: usize) -> Result<Option<&'a AbstractTensor>, Mix> {
        let tensor = self.any_or_none(index)?;
        match tensor {
            Some(tensor) if tensor.batch == Batch::Sizes => Err(USES_COUNT),
            _ => Ok(tensor),
        }
    }

    /// Checks that all inputs from this one on are the same for every batch.
    pub fn all_same_from(&self, first: usize) -> Result<(), Mix> {
        for index in first..self.inputs.len() {
            self.same_or_none(index)?;
        }
        Ok(())
    }

    /// An input that is the same for every batch.
    pub fn same(&self, index: usize) -> Result<&'a AbstractTensor, Mix> {
        self.same_or_none(index)?.ok_or(WRONG_INPUT)
    }

    pub fn same_or_none(&self, index: usize) -> Result<Option<&'a AbstractTensor>, Mix> {
        match self.tensor_or_none(index)? {
            Some(tensor) if !tensor.is_same() => Err(MIXES),
            tensor => Ok(tensor),
        }
    }

    pub fn sequence(&self, index: usize) -> Result<&'a AbstractTensor, Mix> {
        match self.inputs.get(index).copied().flatten() {
            Some(AbstractValue::Sequence(element)) => Ok(element),
            _ => Err(WRONG_INPUT),
        }
    }

    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    pub fn fresh(&mut self) -> Extent {
        self.symbols.fresh()
    }
}

/// Resolves the number of an axis; a negative one counts from the end.
pub fn axis(number: i64, rank: Option<usize>) -> Result<usize, Mix> {
    let number = isize::try_from(number).map_err(|_| WRONG_INPUT)?;
    match (usize::try_from(number), rank) {
        (Ok(axis), Some(rank)) if axis < rank.max(1) => Ok(axis),
        (Ok(axis), None) => Ok(axis),
        (Err(_), Some(rank)) => rank.checked_add_signed(number).ok_or(WRONG_INPUT),
        (Ok(_), Some(_)) => Err(WRONG_INPUT),
        (Err(_), None) => Err(UNKNOWN_RANK),
    }
}

/// Checks that the records are not along `axis`.
pub fn apart(tensor: &AbstractTensor, axis: usize) -> Result<(), Mix> {
    match tensor.place() {
        Some(place) if place.axis == axis => Err(MIXES),
        Some(_) | None => Ok(()),
    }
}

pub fn rank(tensor: &AbstractTensor) -> Result<usize, Mix> {
    tensor.rank().ok_or(UNKNOWN_RANK)
}

pub fn dims(tensor: &AbstractTensor) -> Result<&[Extent], Mix> {
    tensor.dims.as_deref().ok_or(UNKNOWN_RANK)
}

/// Returns the common place of the records in these tensors; `None` if none has records. `Err` if
/// the places differ.
pub fn common_place<'a>(tensors: impl IntoIterator<Item = &'a AbstractTensor>) -> Result<Option<RecordPlace>, Mix> {
    let mut common: Option<RecordPlace> = None;
    for tensor in tensors {
        match (&common, tensor.place()) {
            (Some(common), Some(place)) if common != place => return Err(MIXES),
            (None, Some(place)) => common = Some(place.clone()),
            _ => {}
        }
    }
    Ok(common)
}
