//! Writes responses: one record for each record of the request, with the outputs as labels.

use std::borrow::Cow;

use super::wire::{put_bytes, put_varint};
use super::{
    BYTES_VALUE, ENTRY_KEY, ENTRY_VALUE, MAGIC, PART_BITS, RECORD_LABEL, TENSOR_SHAPE, TENSOR_VALUES, VALUE_BYTES,
    VALUE_FLOAT32, VALUE_FLOAT64, VALUE_INT32,
};
use crate::codec::Format;
use crate::codec::alloc;
use crate::codec::by_record::{ByRecord, RecordPart};
use crate::codec::element::{ElementKind, with_kind};
use crate::codec::error::{EncodeError, excerpt};
use crate::codec::numbers::{AnyNumber, Numeric};
use crate::codec::values::map_array;
use crate::tensor::{DataType, Tensor, Value};

/// Writes the outputs of each record under their names. Integers beyond the format's range become
/// doubles if that is exact.
pub(in crate::codec) fn encode(records: &ByRecord<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out: Vec<u8> = alloc::with_capacity(records.json_bytes())?;
    for record in 0..records.count() {
        let mut message = Vec::new();
        for (spec, part) in records.parts(record) {
            let problem = |problem: &str| EncodeError::CannotCarry {
                format: Format::RecordIo,
                problem: format!("output {} {problem}; accept application/json", excerpt(&spec.name)),
            };
            let tensor = row(&part).ok_or_else(|| problem("is neither a tensor nor a map of numbers"))?;
            let value = value(&tensor).ok_or_else(|| problem("has integers that a double cannot represent"))?;
            let mut entry = Vec::with_capacity(spec.name.len() + value.len() + 16);
            put_bytes(ENTRY_KEY, spec.name.as_bytes(), &mut entry);
            put_bytes(ENTRY_VALUE, &value, &mut entry);
            put_bytes(RECORD_LABEL, &entry, &mut message);
        }
        let length = u32::try_from(message.len())
            .ok()
            .filter(|length| length >> PART_BITS == 0)
            .ok_or_else(|| EncodeError::CannotCarry {
                format: Format::RecordIo,
                problem: "a record is larger than 512 MiB; accept application/json".to_owned(),
            })?;
        out.try_reserve(message.len() + 12)
            .map_err(|_| EncodeError::OutOfMemory)?;
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&message);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    Ok(out)
}

/// The part of an output that belongs to one record, as a tensor. The values of a map are in the
/// order of its keys.
pub(in crate::codec) fn row<'a>(part: &RecordPart<'a>) -> Option<Cow<'a, Tensor>> {
    match *part {
        RecordPart::Whole(Value::Tensor(tensor)) => Some(Cow::Borrowed(tensor)),
        RecordPart::Entry(Value::Tensor(tensor), entry) => {
            let row = tensor.rows(entry..entry + 1)?;
            let shape = row.shape().get(1..)?.to_vec();
            row.reshape(shape).ok().map(Cow::Owned)
        }
        RecordPart::Entry(Value::Sequence(values), entry) => match values.get(entry)? {
            Value::Tensor(tensor) => Some(Cow::Borrowed(tensor)),
            map => map_array(map).map(Cow::Owned),
        },
        RecordPart::Entry(map @ Value::Map { .. }, _) | RecordPart::Whole(map) => map_array(map).map(Cow::Owned),
    }
}

/// Writes the message `Value` of a tensor. `None` if the format cannot represent its integers.
fn value(tensor: &Tensor) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let number = match tensor.data_type() {
        DataType::String => {
            for string in tensor.as_strings().unwrap_or_default() {
                put_bytes(BYTES_VALUE, string, &mut content);
            }
            let mut message = Vec::with_capacity(content.len() + 8);
            put_bytes(VALUE_BYTES, &content, &mut message);
            return Some(message);
        }
        DataType::F64 => {
            put_bytes(TENSOR_VALUES, tensor.as_bytes()?, &mut content);
            VALUE_FLOAT64
        }
        DataType::F32 => {
            put_bytes(TENSOR_VALUES, tensor.as_bytes()?, &mut content);
            VALUE_FLOAT32
        }
        DataType::F16 | DataType::Bf16 => {
            let packed: Vec<u8> = numbers(tensor)
                .into_iter()
                .flat_map(|number| (float(number) as f32).to_le_bytes())
                .collect();
            put_bytes(TENSOR_VALUES, &packed, &mut content);
            VALUE_FLOAT32
        }
        DataType::I8
        | DataType::I16
        | DataType::I32
        | DataType::I64
        | DataType::U8
        | DataType::U16
        | DataType::U32
        | DataType::U64
        | DataType::Bool => {
            let numbers = numbers(tensor);
            let whole: Option<Vec<i32>> = numbers
                .iter()
                .map(|&number| <i32 as Numeric>::from_number(number).ok())
                .collect();
            let mut packed = Vec::with_capacity(numbers.len() * 8);
            match whole {
                Some(whole) => {
                    whole
                        .iter()
                        .for_each(|&value| put_varint(i64::from(value) as u64, &mut packed));
                    put_bytes(TENSOR_VALUES, &packed, &mut content);
                    VALUE_INT32
                }
                None => {
                    for number in numbers {
                        packed.extend_from_slice(&exact(number)?.to_le_bytes());
                    }
                    put_bytes(TENSOR_VALUES, &packed, &mut content);
                    VALUE_FLOAT64
                }
            }
        }
    };
    if tensor.shape().len() > 1 {
        let mut shape = Vec::new();
        tensor
            .shape()
            .iter()
            .for_each(|&size| put_varint(size as u64, &mut shape));
        put_bytes(TENSOR_SHAPE, &shape, &mut content);
    }
    let mut message = Vec::with_capacity(content.len() + 8);
    put_bytes(number, &content, &mut message);
    Some(message)
}

/// The elements as numbers. A boolean is 0 or 1; strings have no numbers.
fn numbers(tensor: &Tensor) -> Vec<AnyNumber> {
    with_kind!(tensor.data_type(), K => K::items(tensor).iter().filter_map(<K as ElementKind>::to_number).collect())
}

fn float(number: AnyNumber) -> f64 {
    match number {
        AnyNumber::Int(value) => value as f64,
        AnyNumber::Uint(value) => value as f64,
        AnyNumber::Float(value) => value,
    }
}

/// Converts a number to a double. `None` if that is not exact.
fn exact(number: AnyNumber) -> Option<f64> {
    const LIMIT: u64 = 1 << f64::MANTISSA_DIGITS;
    match number {
        AnyNumber::Int(value) if value.unsigned_abs() > LIMIT => None,
        AnyNumber::Uint(value) if value > LIMIT => None,
        number => Some(float(number)),
    }
}
