//! Operators that compute each element separately, from one tensor or from several broadcast ones.

use crate::engine::load::axes::call::{OperatorCall, RuleOutcome, UNKNOWN_RANK, one};
use crate::engine::load::axes::extent::{Extent, Symbols};
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, MIXES, Mix, RecordPlace, SizeEntry};

/// From this number on, a float may not represent a whole number exactly.
const LARGE: i64 = 1 << 24;

/// Operators on the first input, whose other inputs are parameters for all elements.
pub fn unary(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    parameters(call, 1)?;
    one(x.without_entries())
}

/// Checks that each input from `first` on is a single number for all elements.
fn parameters(call: &OperatorCall<'_>, first: usize) -> Result<(), Mix> {
    for index in first..call.inputs.len() {
        if call
            .same_or_none(index)?
            .is_some_and(|parameter| !is_one_element(parameter))
        {
            return Err(Mix::new("has a parameter that may not be a single number"));
        }
    }
    Ok(())
}

/// `Identity`: the tensor unchanged, with its known elements.
pub fn identity(call: &mut OperatorCall<'_>) -> RuleOutcome {
    match call.inputs.first().copied().flatten() {
        Some(value) => Ok(vec![value.clone()]),
        None => Err(MIXES),
    }
}

/// Conversions to another type. Small whole numbers keep their values, and sizes do so as
/// integers.
pub fn cast(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (x, to) = (call.any(0)?, call.int("to", 0));
    let keeps_sizes = matches!(to, 6 | 7);
    let kept = |entry: &SizeEntry| match entry {
        SizeEntry::Number(number) if (keeps_sizes || matches!(to, 1 | 11)) && number.abs() < LARGE => entry.clone(),
        SizeEntry::Extent(_) if keeps_sizes => entry.clone(),
        entry if entry.is_same() => SizeEntry::Same,
        _ => SizeEntry::Mixed,
    };
    one(AbstractTensor {
        entries: x.entries.as_ref().map(|entries| entries.iter().map(kept).collect()),
        ..x.clone()
    })
}

pub fn cast_like(call: &mut OperatorCall<'_>) -> RuleOutcome {
    one(call.tensor(0)?.without_entries())
}

/// Operators that broadcast all inputs against each other.
pub fn broadcast_all(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let inputs = (0..call.inputs.len()).map(|index| call.tensor(index));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    one(broadcast(&inputs, call.symbols)?)
}

/// Arithmetic, which is evaluated where it computes sizes.
pub fn arithmetic(call: &mut OperatorCall<'_>) -> RuleOutcome {
    if call.inputs.len() == 2
        && let (Some(left), Some(right)) = (call.any(0)?.list(), call.any(1)?.list())
        && (call.any(0)?.entries.is_some() || call.any(1)?.entries.is_some())
        && (left.len() == right.len() || left.len() == 1 || right.len() == 1)
    {
        let is_scalar = call.any(0)?.rank() == Some(0) && call.any(1)?.rank() == Some(0);
        let length = if left.is_empty() || right.is_empty() {
            0
        } else {
            left.len().max(right.len())
        };
        let at = |list: &[SizeEntry], index: usize| list.get(if list.len() == 1 { 0 } else { index }).cloned();
        let entries = (0..length).map(|index| {
            let (left, right) = (
                at(&left, index).unwrap_or(SizeEntry::Mixed),
                at(&right, index).unwrap_or(SizeEntry::Mixed),
            );
            computed(call.operator, &left, &right)
        });
        return one(AbstractTensor::sizes(entries.collect(), is_scalar));
    }
    broadcast_all(call)
}

fn computed(operator: &str, left: &SizeEntry, right: &SizeEntry) -> SizeEntry {
    let unknown = || {
        if left.is_same() && right.is_same() {
            SizeEntry::Same
        } else {
            SizeEntry::Mixed
        }
    };
    let number = |result: Option<i64>| {
        let small = result.filter(|number| (-LARGE..LARGE).contains(number));
        small.map_or_else(unknown, SizeEntry::Number)
    };
    let compared = |result: Option<bool>| number(result.map(i64::from));
    let sizes = left.extent().zip(right.extent());
    match (operator, left, right) {
        ("Add", SizeEntry::Number(left), SizeEntry::Number(right)) => number(left.checked_add(*right)),
        ("Add", entry, SizeEntry::Number(0)) | ("Add", SizeEntry::Number(0), entry) => entry.clone(),
        ("Sub", SizeEntry::Number(left), SizeEntry::Number(right)) => number(left.checked_sub(*right)),
        ("Sub", entry, SizeEntry::Number(0)) => entry.clone(),
        ("Mul", SizeEntry::Number(left), SizeEntry::Number(right)) => number(left.checked_mul(*right)),
        ("Mul", entry, SizeEntry::Number(1)) | ("Mul", SizeEntry::Number(1), entry) => entry.clone(),
        ("Mul", ..) => sizes
            .and_then(|(left, right)| left.times(&right))
            .map_or_else(unknown, SizeEntry::of),
        ("Div", SizeEntry::Number(left), SizeEntry::Number(right)) => {
            number(left.checked_rem(*right).filter(|&rest| rest == 0).map(|_| left / right))
        }
        ("Div", ..) => sizes
            .and_then(|(left, right)| left.over(&right))
            .map_or_else(unknown, SizeEntry::of),
        ("Equal", SizeEntry::Number(left), SizeEntry::Number(right)) => compared(Some(left == right)),
        ("Equal", SizeEntry::Extent(_), SizeEntry::Number(number))
        | ("Equal", SizeEntry::Number(number), SizeEntry::Extent(_))
            if *number < 0 =>
        {
            SizeEntry::Number(0)
        }
        ("Equal", SizeEntry::Extent(left), SizeEntry::Extent(right)) if left == right => SizeEntry::Number(1),
        ("Less", SizeEntry::Number(left), SizeEntry::Number(right)) => compared(Some(left < right)),
        ("Greater", SizeEntry::Number(left), SizeEntry::Number(right)) => compared(Some(left > right)),
        ("Max", SizeEntry::Number(left), SizeEntry::Number(right)) => number(Some(*left.max(right))),
        ("Min", SizeEntry::Number(left), SizeEntry::Number(right)) => number(Some(*left.min(right))),
        _ => unknown(),
    }
}

/// A choice by a condition, which is evaluated where it computes sizes.
pub fn choose(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let parts = [call.any(0)?, call.any(1)?, call.any(2)?];
    if let [Some(condition), Some(yes), Some(no)] = parts.map(AbstractTensor::list)
        && parts[0].entries.is_some()
        && parts
            .iter()
            .all(|part| part.rank() == Some(1) || part.rank() == Some(0))
    {
        let length = condition.len().max(yes.len()).max(no.len());
        let at = |list: &[SizeEntry], index: usize| list.get(if list.len() == 1 { 0 } else { index }).cloned();
        let chosen = (0..length).map(|index| {
            let (condition, yes, no) = (at(&condition, index)?, at(&yes, index)?, at(&no, index)?);
            Some(match condition {
                SizeEntry::Number(0) => no,
                SizeEntry::Number(_) => yes,
                SizeEntry::Same if yes == no => yes,
                SizeEntry::Same if yes.is_same() && no.is_same() => SizeEntry::Same,
                SizeEntry::Same | SizeEntry::Extent(_) | SizeEntry::Mixed => SizeEntry::Mixed,
            })
        });
        if let Some(entries) = chosen.collect::<Option<Vec<_>>>() {
            return one(AbstractTensor::sizes(
                entries,
                parts.iter().all(|part| part.rank() == Some(0)),
            ));
        }
    }
    let parts = [call.tensor(0)?, call.tensor(1)?, call.tensor(2)?];
    one(broadcast(&parts, call.symbols)?)
}

/// `Dropout`: keeps all elements, except in training.
pub fn dropout(call: &mut OperatorCall<'_>) -> RuleOutcome {
    const TRAINS: Mix = Mix {
        text: "draws random numbers",
        always: true,
    };
    if let Some(training) = call.any_or_none(2)?
        && training.number() != Some(0)
    {
        return Err(TRAINS);
    }
    let x = call.tensor(0)?.without_entries();
    Ok(vec![AbstractValue::Tensor(x.clone()), AbstractValue::Tensor(x)])
}

/// `OneHot`: adds an axis at the end, or where an attribute says.
pub fn one_hot(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let depth = call.same(1)?.list();
    call.same(2)?;
    let depth = match depth.as_deref() {
        Some([entry]) => entry.extent(),
        _ => None,
    };
    let depth = depth.unwrap_or_else(|| call.fresh());
    let place = x.place();
    let dims = match (&x.dims, call.int("axis", -1)) {
        (Some(dims), number) => {
            let new = crate::engine::load::axes::call::axis(number, Some(dims.len() + 1))?;
            let mut dims = dims.clone();
            dims.insert(new, depth);
            let place = place.map(|place| place.at(place.axis + usize::from(place.axis >= new)));
            return one(AbstractTensor::placed(Some(dims), place));
        }
        (None, -1) => None,
        (None, _) => return Err(UNKNOWN_RANK),
    };
    one(AbstractTensor::placed(dims, place.cloned()))
}

pub fn is_one_element(tensor: &AbstractTensor) -> bool {
    tensor.dims.as_ref().is_some_and(|dims| dims.iter().all(Extent::is_one))
}

/// The extent of an axis after two tensors are broadcast.
pub fn broadcast_extent(one: &Extent, other: &Extent, symbols: &mut Symbols) -> Extent {
    match (one.size(), other.size()) {
        _ if one == other => one.clone(),
        (Some(1), _) => other.clone(),
        (_, Some(1)) => one.clone(),
        // The other size is this one or 1.
        (Some(size), None) | (None, Some(size)) if size > 1 => Extent::known(size),
        _ => symbols.fresh(),
    }
}

/// Whether the tensor is a scalar or a list of one element. Broadcasting it does not change the
/// rank of a tensor that has axes.
fn is_small(tensor: &AbstractTensor) -> bool {
    is_one_element(tensor) && tensor.dims.as_ref().is_some_and(|dims| dims.len() <= 1)
}

/// Broadcasts the tensors against each other, aligned at their last axes.
pub fn broadcast(parts: &[&AbstractTensor], symbols: &mut Symbols) -> Result<AbstractTensor, Mix> {
    let records: Vec<&&AbstractTensor> = parts.iter().filter(|part| part.place().is_some()).collect();
    let ranks: Option<Vec<usize>> = parts.iter().map(|part| part.rank()).collect();
    let Some(ranks) = ranks else {
        // The rank is unknown. A tensor that is only combined with small ones keeps its shape.
        return match &records[..] {
            [] => Ok(AbstractTensor::same(None)),
            [first] if parts.iter().all(|part| part.place().is_some() || is_small(part)) => Ok(first.without_entries()),
            _ => Err(UNKNOWN_RANK),
        };
    };
    let rank = ranks.into_iter().max().unwrap_or(0);
    let mut common: Option<(usize, &RecordPlace)> = None;
    for part in &records {
        let (Some(place), Some(own)) = (part.place(), part.rank()) else {
            continue;
        };
        let from_end = own.checked_sub(place.axis).ok_or(MIXES)?;
        match common {
            Some((other_from_end, other)) if other_from_end != from_end || !other.is_like(place) => return Err(MIXES),
            _ => common = Some((from_end, place)),
        }
    }
    let mut dims = Vec::with_capacity(rank);
    for axis in 0..rank {
        let from_end = rank - axis;
        let is_batch = common.is_some_and(|(common, _)| common == from_end);
        let mut extent = Extent::ONE;
        for part in parts {
            let own = part.dims.as_deref().unwrap_or_default();
            let Some(dim) = own.len().checked_sub(from_end).and_then(|axis| own.get(axis)) else {
                continue;
            };
            if is_batch && part.place().is_none() && !dim.is_one() {
                return Err(Mix::new(
                    "combines the records with a tensor that may have one row for each",
                ));
            }
            extent = broadcast_extent(&extent, dim, symbols);
        }
        dims.push(extent);
    }
    let place = common.map(|(from_end, place)| place.at(rank - from_end));
    Ok(AbstractTensor::placed(Some(dims), place))
}

/// `a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point`
pub fn qlinear_binary(call: &mut OperatorCall<'_>) -> RuleOutcome {
    for index in [1, 2, 4, 5, 6, 7] {
        if call
            .same_or_none(index)?
            .is_some_and(|parameter| !is_one_element(parameter))
        {
            return Err(Mix::new("has a parameter that may not be a single number"));
        }
    }
    one(broadcast(&[call.tensor(0)?, call.tensor(3)?], call.symbols)?)
}
