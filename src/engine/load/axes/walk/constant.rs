//! The values of constants and of `Constant` nodes.

use super::Scope;
use crate::engine::load::axes::extent::Extent;
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, Mix, SizeEntry};
use crate::engine::load::onnx_file::{Attribute, Constant, Node};

pub(super) fn constant_node(node: &Node, scope: &Scope<'_, '_>) -> Result<Vec<AbstractValue>, Mix> {
    const NAMES: [&str; 7] = [
        "value",
        "value_int",
        "value_ints",
        "value_float",
        "value_floats",
        "value_string",
        "value_strings",
    ];
    let found = NAMES.iter().find_map(|name| node.attributes.get(*name));
    let found = match found {
        Some(Attribute::Reference(outer)) => scope.attributes.and_then(|outside| outside.get(&**outer).copied()),
        found => found,
    };
    let whole = |value: f32| {
        if value.fract() == 0.0 && value.abs() < 16_777_216.0 {
            SizeEntry::Number(value as i64)
        } else {
            SizeEntry::Same
        }
    };
    let list = |length: usize| Some(vec![Extent::known(length as u64)]);
    let tensor = match found {
        Some(Attribute::Tensor(constant)) => constant_value(constant),
        Some(Attribute::Int(value)) => AbstractTensor::sizes(vec![SizeEntry::Number(*value)], true),
        Some(Attribute::Float(value)) => AbstractTensor::sizes(vec![whole(*value)], true),
        Some(Attribute::Ints(Some(values))) => {
            AbstractTensor::sizes(values.iter().map(|&value| SizeEntry::Number(value)).collect(), false)
        }
        Some(Attribute::Floats(Some(values))) => {
            AbstractTensor::sizes(values.iter().map(|&value| whole(value)).collect(), false)
        }
        Some(Attribute::Text(_)) => AbstractTensor::scalar(),
        Some(Attribute::Texts(count)) => AbstractTensor::same(list(*count)),
        // A sparse tensor, or a long list.
        Some(_) | None => AbstractTensor::same(None),
    };
    Ok(vec![AbstractValue::Tensor(tensor)])
}

pub(super) fn constant_value(constant: &Constant) -> AbstractTensor {
    let entries = match (&constant.numbers, constant.dims.len()) {
        (Some(numbers), 0 | 1) => {
            let entry = |number: &Option<i64>| number.map_or(SizeEntry::Same, SizeEntry::Number);
            Some(numbers.iter().map(entry).collect())
        }
        _ => None,
    };
    AbstractTensor {
        entries,
        ..AbstractTensor::same(Some(constant.dims.iter().map(|&dim| Extent::known(dim)).collect()))
    }
}
