//! Matrix products.

use super::elementwise::{broadcast, broadcast_extent, is_one_element};
use crate::engine::load::axes::call::{OperatorCall, RuleOutcome, UNKNOWN_RANK, dims, one};
use crate::engine::load::axes::extent::{Extent, Symbols};
use crate::engine::load::axes::value::{AbstractTensor, MIXES, Mix};

pub fn matmul(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    one(product(a, b, call.symbols)?)
}

/// A product whose operands may be transposed first.
pub fn fused_matmul(call: &mut OperatorCall<'_>) -> RuleOutcome {
    if call.int("transBatchA", 0) != 0 || call.int("transBatchB", 0) != 0 {
        return Err(Mix::new(
            "transposes its operands in a way that the analysis does not follow",
        ));
    }
    let a = flipped(call.tensor(0)?, call.int("transA", 0) != 0)?;
    let b = flipped(call.tensor(1)?, call.int("transB", 0) != 0)?;
    one(product(&a, &b, call.symbols)?)
}

/// `a, b, a_zero_point, b_zero_point`. The zero point of the operand with the records is a single
/// number.
pub fn matmul_integer(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    parameters_of(call, a, &[2])?;
    parameters_of(call, b, &[3])?;
    one(product(a, b, call.symbols)?)
}

/// `a, b, a_scale, b_scale, a_zero_point, b_zero_point, bias`
pub fn matmul_integer_to_float(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    parameters_of(call, a, &[2, 4])?;
    parameters_of(call, b, &[3, 5])?;
    call.same_or_none(6)?;
    one(product(a, b, call.symbols)?)
}

/// `a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point`
pub fn qlinear_matmul(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (a, b) = (call.tensor(0)?, call.tensor(3)?);
    parameters_of(call, a, &[1, 2, 6, 7])?;
    parameters_of(call, b, &[4, 5, 6, 7])?;
    one(product(a, b, call.symbols)?)
}

/// `a, a_scale, a_zero_point, b, b_scale, b_zero_point, c, y_scale, y_zero_point`
pub fn qgemm(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let a = flipped(call.tensor(0)?, call.int("transA", 0) != 0)?;
    let b = flipped(call.tensor(3)?, call.int("transB", 0) != 0)?;
    parameters_of(call, &a, &[1, 2, 7, 8])?;
    parameters_of(call, &b, &[4, 5, 7, 8])?;
    let product = product(&a, &b, call.symbols)?;
    let c = call.same_or_none(6)?;
    one(match c {
        Some(c) => broadcast(&[&product, c], call.symbols)?,
        None => product,
    })
}

pub fn gemm(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let a = flipped(call.tensor(0)?, call.int("transA", 0) != 0)?;
    let b = flipped(call.tensor(1)?, call.int("transB", 0) != 0)?;
    let product = product(&a, &b, call.symbols)?;
    one(match call.tensor_or_none(2)? {
        Some(c) => broadcast(&[&product, c], call.symbols)?,
        None => product,
    })
}

/// Products with packed weights: `y[..., n]` from `a[..., k]`.
pub fn packed_weights(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let a = call.tensor(0)?;
    call.all_same_from(1)?;
    let mut dims = dims(a)?.to_vec();
    if a.place().is_some_and(|place| place.axis + 1 == dims.len()) {
        return Err(MIXES);
    }
    let columns = u64::try_from(call.int("N", 0)).unwrap_or(0);
    let columns = if columns > 0 {
        Extent::known(columns)
    } else {
        call.fresh()
    };
    *dims.last_mut().ok_or(UNKNOWN_RANK)? = columns;
    one(AbstractTensor::placed(Some(dims), a.place().cloned()))
}

/// Checks the parameters of an operand: single numbers if it has records, of any shape otherwise.
fn parameters_of(call: &OperatorCall<'_>, operand: &AbstractTensor, parameters: &[usize]) -> Result<(), Mix> {
    for &index in parameters {
        let parameter = call.same_or_none(index)?;
        if operand.place().is_some() && parameter.is_some_and(|parameter| !is_one_element(parameter)) {
            return Err(Mix::new("has a scale or a zero point for each row"));
        }
    }
    Ok(())
}

/// The tensor with its last two axes swapped, if `is_flipped`.
fn flipped(tensor: &AbstractTensor, is_flipped: bool) -> Result<AbstractTensor, Mix> {
    if !is_flipped {
        return Ok(tensor.without_entries());
    }
    let mut dims = dims(tensor)?.to_vec();
    let Some(first) = dims.len().checked_sub(2) else {
        return Ok(tensor.without_entries());
    };
    dims.swap(first, first + 1);
    let place = tensor.place().map(|place| match place.axis {
        axis if axis == first => place.at(first + 1),
        axis if axis == first + 1 => place.at(first),
        axis => place.at(axis),
    });
    Ok(AbstractTensor::placed(Some(dims), place))
}

/// The product as defined by `numpy.matmul`.
pub fn product(a: &AbstractTensor, b: &AbstractTensor, symbols: &mut Symbols) -> Result<AbstractTensor, Mix> {
    let (mut a_dims, mut b_dims) = (dims(a)?.to_vec(), dims(b)?.to_vec());
    if a_dims.is_empty() || b_dims.is_empty() {
        return Err(UNKNOWN_RANK);
    }
    // Axes are counted from the end: 1 is the last one. Axes before the last two form a batch of
    // matrices.
    let from_end = |tensor: &AbstractTensor| tensor.place().zip(tensor.rank()).map(|(place, rank)| rank - place.axis);
    let (a_records, mut b_records) = (from_end(a), from_end(b));
    let (a_is_row, b_is_column) = (a_dims.len() == 1, b_dims.len() == 1);
    if a_is_row {
        a_dims.insert(0, Extent::ONE);
    }
    if b_is_column {
        b_dims.push(Extent::ONE);
        b_records = b_records.map(|records| records + 1);
    }
    let contracted = a_records == Some(1) || b_records == Some(2);
    let extent = |dims: &[Extent], from_end: usize| dims.len().checked_sub(from_end).map(|axis| dims[axis].clone());
    let is_shared = |dims: &[Extent], from_end: usize| extent(dims, from_end).is_none_or(|extent| extent.is_one());
    let is_apart = match (a_records, b_records) {
        (None, None) => true,
        (Some(2), None) | (None, Some(1)) => true,
        (Some(records), None) => is_shared(&b_dims, records),
        (None, Some(records)) => is_shared(&a_dims, records),
        (Some(one), Some(other)) => {
            one == other && one > 2 && a.place().zip(b.place()).is_some_and(|(a, b)| a.is_like(b))
        }
    };
    if contracted || !is_apart {
        return Err(MIXES);
    }
    let rank = a_dims.len().max(b_dims.len());
    let mut result = Vec::with_capacity(rank);
    for from_end in (3..=rank).rev() {
        let (one, other) = (extent(&a_dims, from_end), extent(&b_dims, from_end));
        result.push(match (one, other) {
            (Some(one), Some(other)) => broadcast_extent(&one, &other, symbols),
            (Some(extent), None) | (None, Some(extent)) => extent,
            (None, None) => symbols.fresh(),
        });
    }
    let mut records = a_records.or(b_records);
    if !a_is_row {
        result.push(a_dims[a_dims.len() - 2].clone());
    } else if let Some(records) = &mut records
        && *records > 2
    {
        *records -= 1;
    }
    if !b_is_column {
        result.push(b_dims[b_dims.len() - 1].clone());
    } else if let Some(records) = &mut records {
        *records -= 1;
    }
    let place = a.place().or(b.place()).zip(records);
    let place = match place {
        None => None,
        Some((place, records)) => Some(place.at(result.len().checked_sub(records).ok_or(MIXES)?)),
    };
    Ok(AbstractTensor::placed(Some(result), place))
}

/// `Einsum`: the sum of products that an equation describes.
pub fn einsum(call: &mut OperatorCall<'_>) -> RuleOutcome {
    const NOT_FOLLOWED: Mix = Mix::new("has an equation that the analysis does not follow");
    let equation: String = call.text("equation").ok_or(NOT_FOLLOWED)?.split_whitespace().collect();
    let (left, right) = equation.split_once("->").ok_or(NOT_FOLLOWED)?;
    let terms: Vec<&str> = left.split(',').collect();
    if equation.contains('.') || terms.len() != call.inputs.len() || !right.is_ascii() || !left.is_ascii() {
        return Err(NOT_FOLLOWED);
    }
    let mut records: Option<(u8, &crate::engine::load::axes::value::RecordPlace)> = None;
    let mut sizes: Vec<(u8, Extent)> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let tensor = call.tensor(index)?;
        if dims(tensor)?.len() != term.len() {
            return Err(NOT_FOLLOWED);
        }
        for (axis, label) in term.bytes().enumerate() {
            let extent = &dims(tensor)?[axis];
            match sizes.iter_mut().find(|(known, _)| *known == label) {
                Some((_, size)) => *size = broadcast_extent(size, extent, call.symbols),
                None => sizes.push((label, extent.clone())),
            }
            if let Some(place) = tensor.place()
                && place.axis == axis
            {
                match &records {
                    Some((known, other)) if *known != label || !other.is_like(place) => return Err(MIXES),
                    _ => records = Some((label, place)),
                }
            }
        }
    }
    let place = match records {
        None => None,
        Some((label, place)) => {
            for (index, term) in terms.iter().enumerate() {
                let tensor = call.tensor(index)?;
                let times = term.bytes().filter(|&own| own == label).count();
                // A tensor without records may be shared by all of them, but must not select a
                // diagonal.
                let is_shared = || {
                    let axis = term.bytes().position(|own| own == label);
                    times == 0
                        || (times == 1 && axis.is_some_and(|axis| dims(tensor).is_ok_and(|dims| dims[axis].is_one())))
                };
                if times > 1 || (tensor.place().is_none() && !is_shared()) {
                    return Err(MIXES);
                }
            }
            let axis = right.bytes().position(|own| own == label).ok_or(MIXES)?;
            Some(place.at(axis))
        }
    };
    let result = right.bytes().map(|label| {
        let known = sizes
            .iter()
            .find(|(own, _)| *own == label)
            .map(|(_, size)| size.clone());
        known.unwrap_or_else(|| call.symbols.fresh())
    });
    let result = result.collect();
    one(AbstractTensor::placed(Some(result), place))
}
