//! Writes the model's outputs as text: whole, or row by row.
//!
//! A row is the part for one instance: an index of a tensor's first axis, or an element of a
//! sequence. scikit-learn's `ZipMap` returns its probabilities as a sequence with a map per row.
//! Scalars and single maps have no rows.

use std::ops::Range;

use crate::codec::element::{ElementKind, with_kind, write_json_string};
use crate::codec::fit::is_overclaimed;
use crate::tensor::{Tensor, Value};

/// An output of the response.
#[derive(Clone, Copy)]
pub(super) struct NamedOutput<'a> {
    pub name: &'a str,
    pub value: &'a Value,
}

impl NamedOutput<'_> {
    /// The name as a JSON key with its colon, for responses that repeat it.
    pub fn json_key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.name.len() + 3);
        write_key(self.name, &mut key);
        key
    }
}

/// The number of rows, if all outputs have the same number.
pub(super) fn common_rows(outputs: &[NamedOutput<'_>]) -> Option<usize> {
    let mut counts = outputs.iter().map(|output| output.value.entries());
    let first = counts.next()??;
    counts.all(|count| count == Some(first)).then_some(first)
}

/// Whether the text of a value would be out of proportion to its content: see [`is_overclaimed`].
pub(super) fn is_disproportionate(value: &Value) -> bool {
    match value {
        Value::Tensor(tensor) => is_overclaimed(tensor.shape()),
        Value::Sequence(values) => values.iter().any(is_disproportionate),
        Value::Map { .. } => false,
    }
}

pub(super) fn write_key(name: &str, out: &mut Vec<u8>) {
    write_json_string(name, out);
    out.push(b':');
}

/// Writes a value as JSON: a tensor as nested arrays, a sequence as an array, a map as an object
/// with string keys.
pub(super) fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Tensor(tensor) => write_tensor(tensor, tensor.shape(), 0..tensor.len(), out),
        Value::Sequence(values) => {
            out.push(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_value(value, out);
            }
            out.push(b']');
        }
        Value::Map { keys, values } => {
            out.push(b'{');
            for i in 0..keys.len().min(values.len()) {
                if i > 0 {
                    out.push(b',');
                }
                write_map_key(keys, i, out);
                out.push(b':');
                write_tensor(values, &[], i..i + 1, out);
            }
            out.push(b'}');
        }
    }
}

/// Writes one row of a value as JSON. The value must have the row.
pub(super) fn write_row(value: &Value, row: usize, out: &mut Vec<u8>) {
    match value {
        Value::Tensor(tensor) => write_tensor(tensor, &tensor.shape()[1..], tensor_row(tensor, row), out),
        Value::Sequence(values) => write_value(&values[row], out),
        Value::Map { .. } => write_value(value, out),
    }
}

/// The elements of a tensor's row.
fn tensor_row(tensor: &Tensor, row: usize) -> Range<usize> {
    let rows = tensor.shape().first().copied().unwrap_or(1);
    let width = tensor.len().checked_div(rows).unwrap_or(0);
    row * width..(row + 1) * width
}

fn write_map_key(keys: &Tensor, index: usize, out: &mut Vec<u8>) {
    match keys.as_strings() {
        Some(strings) => write_json_string(&String::from_utf8_lossy(&strings[index]), out),
        None => {
            out.push(b'"');
            write_tensor(keys, &[], index..index + 1, out);
            out.push(b'"');
        }
    }
}

/// Writes elements of a tensor as nested arrays of `shape`, or as a flat list if `shape` is their
/// number.
pub(super) fn write_tensor(tensor: &Tensor, shape: &[usize], elements: Range<usize>, out: &mut Vec<u8>) {
    with_kind!(tensor.data_type(), K => write_nested::<K>(&K::items(tensor)[elements], shape, out));
}

fn write_nested<K: ElementKind>(items: &[K::Item], shape: &[usize], out: &mut Vec<u8>) {
    // Below an axis of size 0 there are no lists to write.
    let rank = shape
        .iter()
        .position(|&dim| dim == 0)
        .map_or(shape.len(), |axis| axis + 1);
    let Some((&width, outer)) = shape[..rank].split_last() else {
        return write_run::<K>(items, out);
    };
    let lists: usize = outer.iter().product();
    for list in 0..lists {
        // One bracket for this innermost list, and one for each outer list that starts with it.
        let mut begins = 1;
        let mut period = 1;
        for dim in outer.iter().rev() {
            period *= dim;
            if !list.is_multiple_of(period) {
                break;
            }
            begins += 1;
        }
        if list > 0 {
            out.extend(std::iter::repeat_n(b']', begins));
            out.push(b',');
        }
        out.extend(std::iter::repeat_n(b'[', begins));
        write_run::<K>(&items[list * width..(list + 1) * width], out);
    }
    out.extend(std::iter::repeat_n(b']', rank));
}

#[inline]
fn write_run<K: ElementKind>(items: &[K::Item], out: &mut Vec<u8>) {
    let mut items = items.iter();
    if let Some(first) = items.next() {
        K::write_json(first, out);
    }
    for item in items {
        out.push(b',');
        K::write_json(item, out);
    }
}

/// Estimates the size of the outputs as JSON, so that one allocation suffices. Too low only for
/// strings with many escapes.
pub(super) fn json_bytes(outputs: &[NamedOutput<'_>]) -> usize {
    // Each row repeats the names if there are several outputs.
    let repeats = match outputs {
        [_] => 1,
        _ => common_rows(outputs).unwrap_or(1),
    };
    let one = |output: &NamedOutput<'_>| {
        let keys = (output.name.len() + 4).saturating_mul(repeats);
        keys.saturating_add(value_bytes(output.value))
    };
    outputs.iter().map(one).fold(0, usize::saturating_add)
}

/// Estimates the size of a value as JSON.
pub(super) fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Tensor(tensor) => tensor_json_bytes(tensor),
        Value::Sequence(values) => values.iter().map(|value| value_bytes(value) + 1).sum::<usize>() + 2,
        Value::Map { keys, values } => tensor_json_bytes(keys) + 3 * keys.len() + tensor_json_bytes(values) + 2,
    }
}

pub(super) fn tensor_json_bytes(tensor: &Tensor) -> usize {
    let per_element = with_kind!(tensor.data_type(), K => K::TEXT_BYTES) + 1;
    let text: usize = tensor.as_strings().unwrap_or_default().iter().map(|s| s.len()).sum();
    // A list costs two brackets and a comma. An axis of size 1 makes as many lists as the axes
    // before it.
    let mut lists = 1usize;
    let mut brackets = 3usize;
    for &dim in tensor.shape().iter().take_while(|&&dim| dim != 0) {
        lists = lists.saturating_mul(dim);
        brackets = brackets.saturating_add(lists.saturating_mul(3));
    }
    let innermost = tensor.shape().last().map_or(0, |_| tensor.len().saturating_mul(3));
    (tensor.len().saturating_mul(per_element))
        .saturating_add(text)
        .saturating_add(brackets.saturating_sub(innermost))
}

/// Writes a row as cells with commas between them. `first` is true until a cell is written.
pub(super) fn write_cells(value: &Value, row: usize, first: &mut bool, out: &mut Vec<u8>) {
    match value {
        Value::Tensor(tensor) => write_tensor_cells(tensor, tensor_row(tensor, row), first, out),
        Value::Sequence(values) => write_all_cells(&values[row], first, out),
        Value::Map { .. } => write_all_cells(value, first, out),
    }
}

/// Writes all of a value as cells.
pub(super) fn write_all_cells(value: &Value, first: &mut bool, out: &mut Vec<u8>) {
    match value {
        Value::Tensor(tensor) => write_tensor_cells(tensor, 0..tensor.len(), first, out),
        Value::Sequence(values) => {
            for value in values {
                write_all_cells(value, first, out);
            }
        }
        Value::Map { keys, values } => {
            for index in key_order(keys).into_iter().filter(|&i| i < values.len()) {
                write_tensor_cells(values, index..index + 1, first, out);
            }
        }
    }
}

/// The values of a map as a tensor, in the order of its keys.
pub(super) fn map_array(value: &Value) -> Option<Tensor> {
    let Value::Map { keys, values } = value else {
        return None;
    };
    let order = key_order(keys);
    if order.iter().any(|&at| at >= values.len()) {
        return None;
    }
    let picked = with_kind!(values.data_type(), K => {
        let items = K::items(values);
        K::tensor(vec![order.len()], order.iter().filter_map(|&at| items.get(at)).cloned().collect())
    });
    picked.ok()
}

/// Converts a list of maps with the same keys to one array with a row for each map.
fn maps_array(maps: &[Value]) -> Result<Tensor, &'static str> {
    let keys = |value: &Value| match value {
        Value::Map { keys, .. } => {
            let order = key_order(keys);
            with_kind!(keys.data_type(), K => {
                let items = K::items(keys);
                let ordered = order.iter().filter_map(|&at| items.get(at)).cloned().collect();
                K::tensor(vec![order.len()], ordered)
            })
            .ok()
        }
        Value::Tensor(_) | Value::Sequence(_) => None,
    };
    let Some(first) = maps.first() else {
        return Tensor::from_vec(vec![0, 0], Vec::<f32>::new()).map_err(|_| "has no rows");
    };
    let names = keys(first).ok_or("is neither a tensor nor a list of maps")?;
    let mut rows = Vec::with_capacity(maps.len());
    for map in maps {
        if keys(map).as_ref() != Some(&names) {
            return Err("does not have the same keys in every row");
        }
        let row = map_array(map).ok_or("is neither a tensor nor a list of maps")?;
        let shape = vec![1, row.len()];
        rows.push(row.reshape(shape).map_err(|_| "has uneven rows")?);
    }
    let rows: Vec<&Tensor> = rows.iter().collect();
    Tensor::concatenate(&rows).ok_or("has values of different types")
}

/// Converts an output to one array: a tensor unchanged, a list of maps in the order of their keys.
pub(super) fn as_array(value: &Value) -> Result<Tensor, &'static str> {
    match value {
        Value::Tensor(tensor) => Ok(tensor.clone()),
        Value::Sequence(values) => maps_array(values),
        Value::Map { .. } => map_array(value).ok_or("is not a map of numbers"),
    }
}

/// The indices of a map's entries, sorted by key. So a column has the same key in every row.
fn key_order(keys: &Tensor) -> Vec<usize> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    if let Some(strings) = keys.as_strings() {
        order.sort_by_key(|&i| &strings[i]);
    } else if let Some(numbers) = keys.as_slice::<i64>() {
        order.sort_by_key(|&i| numbers[i]);
    }
    order
}

fn write_tensor_cells(tensor: &Tensor, elements: Range<usize>, first: &mut bool, out: &mut Vec<u8>) {
    with_kind!(tensor.data_type(), K => for item in &K::items(tensor)[elements] {
        if !std::mem::take(first) {
            out.push(b',');
        }
        K::write_cell(item, out);
    });
}
