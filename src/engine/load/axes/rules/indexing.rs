//! Operators that select, scatter, repeat or generate elements by their indices.

use super::elementwise::broadcast_extent;
use crate::engine::load::axes::call::{
    OperatorCall, RuleOutcome, UNKNOWN_RANK, apart, axis, common_place, dims, one, rank,
};
use crate::engine::load::axes::extent::Extent;
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, Batch, MIXES, Mix, RecordPlace, SizeEntry};

const UNKNOWN_AXES: Mix = Mix::new("has unknown axes or bounds");
const NOT_FOLLOWED: Mix = Mix::new("gives its output a shape that may not keep the records apart");

pub fn slice(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (starts, ends, axes, steps) = if call.opset < 10 {
        let list = |name| {
            Ok(call
                .ints(name)?
                .map(|numbers| numbers.iter().map(|&n| SizeEntry::Number(n)).collect()))
        };
        (list("starts")?, list("ends")?, list("axes")?, None)
    } else {
        let list = |index| Ok(call.any_or_none(index)?.map(|tensor| tensor.list().unwrap_or_default()));
        (list(1)?, list(2)?, list(3)?, list(4)?)
    };
    let (starts, ends) = (starts.ok_or(UNKNOWN_AXES)?, ends.ok_or(UNKNOWN_AXES)?);
    let count = starts.len();
    let numbers = |list: &[SizeEntry]| {
        let number = |entry: &SizeEntry| match entry {
            SizeEntry::Number(number) => Some(*number),
            SizeEntry::Extent(_) | SizeEntry::Same | SizeEntry::Mixed => None,
        };
        list.iter().map(number).collect::<Option<Vec<i64>>>()
    };
    let axes = match &axes {
        Some(axes) => numbers(axes).ok_or(UNKNOWN_AXES)?,
        None => (0..count as i64).collect(),
    };
    let steps: Vec<SizeEntry> = steps.unwrap_or_else(|| vec![SizeEntry::Number(1); count]);
    if count == 0 || ends.len() != count || axes.len() != count || steps.len() != count {
        return Err(UNKNOWN_AXES);
    }
    let x = call.any(0)?;
    if let Some(entries) = &x.entries
        && x.rank() == Some(1)
    {
        let bounds = numbers(&starts).zip(numbers(&ends)).zip(numbers(&steps));
        if let Some(((starts, ends), steps)) = bounds
            && let ([start], [end], [1]) = (&*starts, &*ends, &*steps)
        {
            let length = entries.len() as i64;
            let bound = |number: i64| {
                if number < 0 {
                    number.saturating_add(length)
                } else {
                    number
                }
                .clamp(0, length)
            };
            let (start, end) = (bound(*start) as usize, bound(*end) as usize);
            let part = entries.get(start..end.max(start)).unwrap_or_default();
            return one(AbstractTensor::sizes(part.to_vec(), false));
        }
    }
    let x = call.tensor(0)?;
    let mut dims = x.dims.clone();
    for index in 0..count {
        let along = axis(axes[index], x.rank())?;
        let own = x.dims.as_ref().and_then(|dims| dims.get(along));
        let whole = is_whole(&starts[index], &ends[index], &steps[index], own, x.place(), along);
        if x.place().is_some_and(|place| place.axis == along) {
            if !whole {
                return Err(Mix::new("selects some of the records of a batch"));
            }
            continue;
        }
        if ![&starts[index], &ends[index], &steps[index]]
            .iter()
            .all(|entry| entry.is_same())
        {
            return Err(Mix::new("computes with the number of records"));
        }
        if let Some(dim) = dims.as_mut().and_then(|dims| dims.get_mut(along))
            && !whole
        {
            *dim = sliced(&starts[index], &ends[index], &steps[index], dim).unwrap_or_else(|| call.symbols.fresh());
        }
    }
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// Whether a slice covers its whole axis, whatever its length.
fn is_whole(
    start: &SizeEntry,
    end: &SizeEntry,
    step: &SizeEntry,
    own: Option<&Extent>,
    place: Option<&RecordPlace>,
    along: usize,
) -> bool {
    let records = place.filter(|place| place.axis == along).and_then(RecordPlace::extent);
    let own = own.or(records.as_ref());
    let ends = match end {
        // Beyond the end of any axis.
        SizeEntry::Number(number) => *number >= i64::from(i32::MAX),
        SizeEntry::Extent(end) => own == Some(end),
        SizeEntry::Same | SizeEntry::Mixed => false,
    };
    *start == SizeEntry::Number(0) && *step == SizeEntry::Number(1) && ends
}

/// The extent after a slice; `None` if it is unknown.
fn sliced(start: &SizeEntry, end: &SizeEntry, step: &SizeEntry, dim: &Extent) -> Option<Extent> {
    let (SizeEntry::Number(start), SizeEntry::Number(end), SizeEntry::Number(1)) = (start, end, step) else {
        return None;
    };
    let Some(size) = dim.size().and_then(|size| i64::try_from(size).ok()) else {
        // The axis may be empty, so even `x[:, 0:1]` and `x[:, -1:]` have zero or one element.
        return None;
    };
    let bound = |number: i64| {
        if number < 0 {
            number.saturating_add(size)
        } else {
            number
        }
        .clamp(0, size)
    };
    u64::try_from(bound(*end) - bound(*start)).ok().map(Extent::known)
}

pub fn gather(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (data, number) = (call.any(0)?, call.int("axis", 0));
    if let Some(entries) = &data.entries
        && data.rank() == Some(1)
        && let Some(indices) = call.any(1)?.numbers()
    {
        let length = entries.len() as i64;
        let chosen = indices.iter().map(|&index| {
            let index = if index < 0 { index.saturating_add(length) } else { index };
            usize::try_from(index)
                .ok()
                .and_then(|index| entries.get(index).cloned())
        });
        let chosen = chosen.collect::<Option<Vec<_>>>().ok_or(NOT_FOLLOWED)?;
        return one(AbstractTensor::sizes(chosen, call.any(1)?.rank() == Some(0)));
    }
    let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
    let along = axis(number, data.rank())?;
    apart(data, along)?;
    let place = match (data.place(), indices.place()) {
        (None, None) => None,
        (None, Some(place)) => Some(place.at(place.axis + along)),
        (Some(place), None) if place.axis < along => Some(place.clone()),
        (Some(place), None) => {
            let axis = (place.axis + rank(indices)?).checked_sub(1).ok_or(MIXES)?;
            Some(place.at(axis))
        }
        (Some(_), Some(_)) => return Err(MIXES),
    };
    let dims = match (&data.dims, &indices.dims) {
        (Some(data), Some(indices)) if along < data.len() => {
            Some([&data[..along], indices, &data[along + 1..]].concat())
        }
        _ => None,
    };
    one(AbstractTensor::placed(dims, place))
}

/// `GatherElements`: for each index, the element at that index along an axis, at the same
/// position on all other axes.
pub fn gather_elements(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
    let along = axis(call.int("axis", 0), data.rank().or(indices.rank()))?;
    if data.place().is_some() != indices.place().is_some() {
        return Err(MIXES);
    }
    let place = common_place([data, indices])?;
    apart(data, along)?;
    one(AbstractTensor::placed(indices.dims.clone(), place))
}

pub fn gather_nd(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
    let shared = usize::try_from(call.int("batch_dims", 0)).map_err(|_| MIXES)?;
    let index_dims = dims(indices)?;
    let place = match (data.place(), indices.place()) {
        (None, None) => None,
        (Some(one), Some(other)) if one == other && one.axis < shared => Some(one.clone()),
        (None, Some(place)) if shared == 0 && place.axis + 1 < index_dims.len() => Some(place.clone()),
        _ => return Err(MIXES),
    };
    let taken = index_dims
        .last()
        .and_then(Extent::size)
        .and_then(|size| usize::try_from(size).ok());
    let dims = match (&data.dims, taken) {
        (Some(own), Some(taken)) => {
            let rest = own.get(shared.saturating_add(taken)..).ok_or(UNKNOWN_RANK)?;
            Some([&index_dims[..index_dims.len() - 1], rest].concat())
        }
        _ => None,
    };
    one(AbstractTensor::placed(dims, place))
}

/// `data, indices, updates`. All have the records along the same axis, which is not the indexed
/// one.
pub fn scatter_elements(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let tensors = [call.tensor(0)?, call.tensor(1)?, call.tensor(2)?];
    let along = axis(call.int("axis", 0), tensors.iter().find_map(|tensor| tensor.rank()))?;
    let place = common_place(tensors)?;
    if place.is_some() && tensors.iter().any(|tensor| tensor.place().is_none()) {
        return Err(MIXES);
    }
    apart(tensors[0], along)?;
    one(AbstractTensor::placed(tensors[0].dims.clone(), place))
}

pub fn expand(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let target = call.any(1)?;
    let x = call.tensor(0)?;
    let Some(entries) = target.list() else {
        return if x.is_same() && target.is_same() {
            one(AbstractTensor::same(None))
        } else {
            Err(NOT_FOLLOWED)
        };
    };
    const ONE: &Extent = &Extent::ONE;
    let own = dims(x)?;
    let rank = own.len().max(entries.len());
    let mut place = x.place().map(|place| place.at(place.axis + rank - own.len()));
    let mut result = Vec::with_capacity(rank);
    for axis in 0..rank {
        let dim = (axis + own.len()).checked_sub(rank).map_or(ONE, |axis| &own[axis]);
        let entry = (axis + entries.len()).checked_sub(rank).map(|axis| &entries[axis]);
        let is_records = place.as_ref().is_some_and(|place| place.axis == axis);
        result.push(match entry {
            None | Some(SizeEntry::Number(1)) => dim.clone(),
            Some(entry) => match entry.extent() {
                Some(extent) if is_records || extent.has_batch() => {
                    if dim.is_one() && place.is_none() {
                        // Each record gets the same elements.
                        let inner = extent.over(&Extent::BATCH).ok_or(NOT_FOLLOWED)?;
                        place = Some(RecordPlace {
                            axis,
                            outer: Extent::ONE,
                            inner,
                        });
                        extent
                    } else if *dim == extent {
                        extent
                    } else {
                        return Err(NOT_FOLLOWED);
                    }
                }
                Some(extent) => broadcast_extent(dim, &extent, call.symbols),
                None if is_records || *entry == SizeEntry::Mixed => return Err(NOT_FOLLOWED),
                None => call.symbols.fresh(),
            },
        });
    }
    one(AbstractTensor::placed(Some(result), place))
}

pub fn tile(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let repeats = call.any(1)?.list().ok_or(NOT_FOLLOWED)?;
    let x = call.tensor(0)?;
    let own = dims(x)?;
    let mut place = x.place().cloned();
    let mut result = Vec::with_capacity(own.len());
    for (axis, dim) in own.iter().enumerate() {
        let repeat = repeats.get(axis).ok_or(NOT_FOLLOWED)?;
        let is_records = place.as_ref().is_some_and(|place| place.axis == axis);
        result.push(match repeat.extent() {
            Some(repeat) if repeat.is_one() => dim.clone(),
            Some(repeat) if repeat.has_batch() && place.is_none() => {
                let inner = repeat.over(&Extent::BATCH).and_then(|inner| inner.times(dim));
                place = Some(RecordPlace {
                    axis,
                    outer: Extent::ONE,
                    inner: inner.ok_or(NOT_FOLLOWED)?,
                });
                repeat.times(dim).ok_or(NOT_FOLLOWED)?
            }
            Some(repeat) if repeat.has_batch() => return Err(NOT_FOLLOWED),
            Some(repeat) if is_records => {
                if let Some(place) = &mut place {
                    place.outer = place.outer.times(&repeat).ok_or(NOT_FOLLOWED)?;
                }
                repeat.times(dim).ok_or(NOT_FOLLOWED)?
            }
            Some(repeat) => repeat.times(dim).unwrap_or_else(|| call.symbols.fresh()),
            None if is_records || *repeat == SizeEntry::Mixed => return Err(NOT_FOLLOWED),
            None => call.symbols.fresh(),
        });
    }
    one(AbstractTensor::placed(Some(result), place))
}

pub fn pad(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let pads = match call.ints("pads")?.or(call.ints("paddings")?) {
        Some(pads) => pads.iter().map(|&number| SizeEntry::Number(number)).collect(),
        None => {
            call.same_or_none(2)?;
            call.same(1)?.list().ok_or(UNKNOWN_AXES)?
        }
    };
    let rank = rank(x)?;
    let padded: Vec<usize> = match call.same_or_none(3)? {
        Some(axes) => {
            let numbers = axes.numbers().ok_or(UNKNOWN_AXES)?;
            numbers
                .iter()
                .map(|&number| axis(number, Some(rank)))
                .collect::<Result<_, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * padded.len() {
        return Err(UNKNOWN_AXES);
    }
    let mut result = dims(x)?.to_vec();
    for (index, &along) in padded.iter().enumerate() {
        let (before, after) = (&pads[index], &pads[index + padded.len()]);
        if (before, after) == (&SizeEntry::Number(0), &SizeEntry::Number(0)) {
            continue;
        }
        apart(x, along)?;
        let sum = match (before, after, result[along].size()) {
            (SizeEntry::Number(before), SizeEntry::Number(after), Some(size)) => before
                .checked_add(*after)
                .and_then(|more| size.checked_add_signed(more))
                .map(Extent::known),
            _ => None,
        };
        result[along] = sum.unwrap_or_else(|| call.symbols.fresh());
    }
    one(AbstractTensor::placed(Some(result), x.place().cloned()))
}

/// `ConstantOfShape`: a tensor of equal elements, whose shape may contain the number of records.
pub fn constant_of_shape(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let shape = call.any(0)?;
    if shape.place().is_some() {
        return Err(MIXES);
    }
    let Some(entries) = shape.list() else {
        return match shape.batch {
            Batch::Same => one(AbstractTensor::same(None)),
            Batch::Records(_) | Batch::Sizes => Err(NOT_FOLLOWED),
        };
    };
    let value = match call.attribute("value") {
        None => Some(0),
        Some(crate::engine::load::onnx_file::Attribute::Tensor(constant)) => match constant.numbers.as_deref() {
            Some([number]) => *number,
            _ => None,
        },
        Some(_) => None,
    };
    if let [SizeEntry::Number(length)] = &*entries
        && let (Ok(length), Some(value)) = (usize::try_from(*length), value)
        && length <= crate::engine::load::axes::value::MAX_ENTRIES
    {
        return one(AbstractTensor::sizes(vec![SizeEntry::Number(value); length], false));
    }
    let mut place = None;
    let mut dims = Vec::with_capacity(entries.len());
    for (axis, entry) in entries.iter().enumerate() {
        let extent = match entry.extent() {
            Some(extent) => extent,
            None if *entry == SizeEntry::Same => call.fresh(),
            None => return Err(NOT_FOLLOWED),
        };
        if extent.has_batch() {
            let inner = extent.over(&Extent::BATCH).ok_or(NOT_FOLLOWED)?;
            let new = RecordPlace {
                axis,
                outer: Extent::ONE,
                inner,
            };
            if place.replace(new).is_some() {
                return Err(NOT_FOLLOWED);
            }
        }
        dims.push(extent);
    }
    one(AbstractTensor::placed(Some(dims), place))
}

/// `Range`: consecutive numbers, as many as the inputs say.
pub fn range(call: &mut OperatorCall<'_>) -> RuleOutcome {
    for index in 0..3 {
        if !call.any(index)?.is_same() {
            return Err(Mix::new("counts the records of a batch"));
        }
    }
    let numbers = [call.any(0)?, call.any(1)?, call.any(2)?].map(AbstractTensor::number);
    if let [Some(0), Some(limit), Some(1)] = numbers
        && let Ok(length) = u64::try_from(limit)
    {
        return one(AbstractTensor::same(Some(vec![Extent::known(length)])));
    }
    // The symbol of the limit, if that is a size.
    let length = match (&numbers[0], call.any(1)?.entries.as_deref(), &numbers[2]) {
        (Some(0), Some([SizeEntry::Extent(limit)]), Some(1)) => limit.clone(),
        _ => call.fresh(),
    };
    one(AbstractTensor::same(Some(vec![length])))
}

/// `Compress`: the indices of an axis for which a condition holds. It must not be the axis of the
/// records.
pub fn compress(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    call.same(1)?;
    let Some(crate::engine::load::onnx_file::Attribute::Int(number)) = call.attribute("axis") else {
        return Err(MIXES);
    };
    let along = axis(*number, x.rank())?;
    apart(x, along)?;
    let mut dims = x.dims.clone();
    if let Some(dim) = dims.as_mut().and_then(|dims| dims.get_mut(along)) {
        *dim = call.symbols.fresh();
    }
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// `Trilu`: the upper or lower triangle of the last two axes.
pub fn triangle(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    call.same_or_none(1)?;
    let from_end = match x.place() {
        Some(place) => rank(x)?.saturating_sub(place.axis),
        None => 3,
    };
    if from_end <= 2 {
        return Err(MIXES);
    }
    one(x.without_entries())
}

/// `ReverseSequence`: reverses the elements within the length of each record's sequence.
pub fn reverse_sequence(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (x, lengths) = (call.tensor(0)?, call.tensor(1)?);
    let records = usize::try_from(call.int("batch_axis", 1)).map_err(|_| MIXES)?;
    match (x.place(), lengths.place()) {
        (None, None) => {}
        (Some(place), Some(other)) if place.axis == records && other.axis == 0 && place.is_like(other) => {}
        _ => return Err(MIXES),
    }
    one(x.without_entries())
}

/// `NonZero`: the positions of elements other than 0. Their number depends on the data.
pub fn non_zero(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    if !x.is_same() {
        return Err(MIXES);
    }
    let dims = match x.rank() {
        // In a list without zeros, every element counts.
        Some(1) => match x.dims.as_deref() {
            Some([length])
                if x.numbers()
                    .is_some_and(|numbers| numbers.iter().all(|&number| number != 0)) =>
            {
                vec![Extent::ONE, length.clone()]
            }
            _ => vec![Extent::ONE, call.fresh()],
        },
        Some(rank) => vec![Extent::known(rank.max(1) as u64), call.fresh()],
        None => call.symbols.fresh_dims(2),
    };
    one(AbstractTensor::same(Some(dims)))
}

pub fn sequence_of(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let mut element = call.tensor(0)?.without_entries();
    for index in 1..call.inputs.len() {
        let other = call.tensor(index)?.without_entries();
        element = element.join(&other, call.symbols).ok_or(MIXES)?;
    }
    Ok(vec![AbstractValue::Sequence(element)])
}

pub fn sequence_at(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.same(1)?;
    one(call.sequence(0)?.clone())
}

pub fn sequence_length(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.sequence(0)?;
    one(AbstractTensor::scalar())
}

pub fn sequence_insert(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.same_or_none(2)?;
    let (sequence, tensor) = (call.sequence(0)?, call.tensor(1)?.without_entries());
    let element = sequence.join(&tensor, call.symbols).ok_or(MIXES)?;
    Ok(vec![AbstractValue::Sequence(element)])
}

pub fn split_to_sequence(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let has_lengths = call.same_or_none(1)?.is_some();
    let along = axis(call.int("axis", 0), x.rank())?;
    apart(x, along)?;
    let keeps = has_lengths || call.int("keepdims", 1) != 0;
    let mut dims = x.dims.clone();
    if let Some(dims) = &mut dims
        && along < dims.len()
    {
        if keeps {
            dims[along] = call.symbols.fresh();
        } else {
            dims.remove(along);
        }
    }
    let place = x
        .place()
        .map(|place| place.at(place.axis - usize::from(!keeps && place.axis > along)));
    Ok(vec![AbstractValue::Sequence(AbstractTensor::placed(dims, place))])
}

pub fn concat_from_sequence(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let element = call.sequence(0)?;
    let is_new = call.int("new_axis", 0) != 0;
    let along = axis(
        call.int("axis", 0),
        element.rank().map(|rank| rank + usize::from(is_new)),
    )?;
    let mut dims = element.dims.clone();
    if is_new {
        if let Some(dims) = &mut dims {
            dims.insert(along.min(dims.len()), call.symbols.fresh());
        }
        let place = element
            .place()
            .map(|place| place.at(place.axis + usize::from(place.axis >= along)));
        return one(AbstractTensor::placed(dims, place));
    }
    apart(element, along)?;
    if let Some(dim) = dims.as_mut().and_then(|dims| dims.get_mut(along)) {
        *dim = call.symbols.fresh();
    }
    one(AbstractTensor::placed(dims, element.place().cloned()))
}
