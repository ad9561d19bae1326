//! Operators that keep all elements and change their axes.

use crate::engine::load::axes::call::{
    OperatorCall, RuleOutcome, UNKNOWN_RANK, apart, axis, common_place, dims, one, rank,
};
use crate::engine::load::axes::extent::{Extent, Symbols};
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, Batch, MIXES, Mix, RecordPlace, SizeEntry};

const NOT_FOLLOWED: Mix = Mix::new("gives its output a shape that may not keep the records apart");

pub fn reshape(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let copies_zero = call.int("allowzero", 0) == 0;
    let target = call.any(1)?.list().ok_or(NOT_FOLLOWED)?;
    let x = call.any(0)?;
    if let Some(entries) = &x.entries
        && target.len() <= 1
    {
        return one(AbstractTensor::sizes(entries.clone(), target.is_empty()));
    }
    let x = call.tensor(0)?;
    let mut sizes = Vec::with_capacity(target.len());
    for (index, entry) in target.into_iter().enumerate() {
        let own = x.dims.as_ref().and_then(|dims| dims.get(index));
        sizes.push(match entry {
            SizeEntry::Number(-1) => None,
            SizeEntry::Number(0) if copies_zero => Some(match own {
                Some(own) => own.clone(),
                None => match x.place() {
                    Some(place) if place.axis == index => place.extent().ok_or(NOT_FOLLOWED)?,
                    Some(_) | None => call.fresh(),
                },
            }),
            // The number may be 0, which copies the number of records.
            SizeEntry::Same if copies_zero && x.place().is_some_and(|place| place.axis == index) => {
                return Err(NOT_FOLLOWED);
            }
            SizeEntry::Same => Some(call.fresh()),
            entry => Some(entry.extent().ok_or(NOT_FOLLOWED)?),
        });
    }
    one(reshaped(x, sizes, call.symbols)?)
}

pub fn flatten(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let number = call.int("axis", 1);
    let sizes = match &x.dims {
        Some(dims) => {
            let at = if number == i64::try_from(dims.len()).unwrap_or(i64::MAX) {
                dims.len()
            } else {
                axis(number, Some(dims.len()))?
            };
            let (first, second) = dims.split_at(at.min(dims.len()));
            let product = |extents| Extent::product(extents).ok_or(NOT_FOLLOWED);
            vec![Some(product(first)?), Some(product(second)?)]
        }
        None => match x.place() {
            Some(place) if place.axis == 0 && number == 1 => vec![place.extent(), Some(call.fresh())],
            Some(_) => return Err(UNKNOWN_RANK),
            None => vec![Some(call.fresh()), Some(call.fresh())],
        },
    };
    one(reshaped(x, sizes, call.symbols)?)
}

/// Reshapes `x` in row-major order to `sizes`, of which one may be open.
pub fn reshaped(x: &AbstractTensor, sizes: Vec<Option<Extent>>, symbols: &mut Symbols) -> Result<AbstractTensor, Mix> {
    let open = sizes.iter().filter(|size| size.is_none()).count();
    let given = Extent::product(sizes.iter().flatten());
    let Some(place) = x.place() else {
        let total = x.dims.as_ref().and_then(Extent::product);
        // The tensor is the same for every batch, so no size can be the number of records.
        if sizes.iter().flatten().any(Extent::has_batch) {
            return Err(NOT_FOLLOWED);
        }
        let rest = total.zip(given).and_then(|(total, given)| total.over(&given));
        let dims = sizes.into_iter().map(|size| {
            let rest = rest.clone();
            size.or(rest).unwrap_or_else(|| symbols.fresh())
        });
        return Ok(AbstractTensor::same(Some(dims.collect())));
    };
    // The layout in memory: `before` times the records, each with `after` elements.
    let (before, after) = match &x.dims {
        Some(dims) => (
            Extent::product(dims.get(..place.axis).unwrap_or_default()),
            Extent::product(dims.get(place.axis + 1..).unwrap_or_default()),
        ),
        None if place.axis == 0 => (Some(Extent::ONE), Some(symbols.fresh())),
        None => return Err(UNKNOWN_RANK),
    };
    let before = before
        .and_then(|before| before.times(&place.outer))
        .ok_or(NOT_FOLLOWED)?;
    let after = after.and_then(|after| after.times(&place.inner)).ok_or(NOT_FOLLOWED)?;
    let mut dims = Vec::with_capacity(sizes.len());
    let given = given.ok_or(NOT_FOLLOWED)?;
    let rest = match (open, given.has_batch()) {
        (0, _) => None,
        // The open size does not contain the number of records.
        (1, true) => {
            let total = before.times(&after).ok_or(NOT_FOLLOWED)?;
            let per_record = given.over(&Extent::BATCH).ok_or(NOT_FOLLOWED)?;
            Some(total.over(&per_record).unwrap_or_else(|| symbols.fresh()))
        }
        (1, false) => {
            let total = before.times(&Extent::BATCH).and_then(|size| size.times(&after));
            Some(total.and_then(|total| total.over(&given)).ok_or(NOT_FOLLOWED)?)
        }
        (_, _) => return Err(NOT_FOLLOWED),
    };
    for size in sizes {
        dims.push(size.or_else(|| rest.clone()).ok_or(NOT_FOLLOWED)?);
    }
    let new = dims.iter().position(Extent::has_batch).ok_or(NOT_FOLLOWED)?;
    let outer = Extent::product(&dims[..new]).and_then(|prefix| before.over(&prefix));
    let outer = outer.ok_or(NOT_FOLLOWED)?;
    let blocks = outer.times(&Extent::BATCH).ok_or(NOT_FOLLOWED)?;
    let inner = dims[new].over(&blocks).ok_or(NOT_FOLLOWED)?;
    Ok(AbstractTensor::records(
        Some(dims),
        RecordPlace {
            axis: new,
            outer,
            inner,
        },
    ))
}

pub fn transpose(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.any(0)?;
    if x.rank().is_some_and(|rank| rank < 2) {
        return one(x.clone());
    }
    let x = call.tensor(0)?;
    let order: Vec<usize> = match call.ints("perm")? {
        Some(order) => order
            .iter()
            .map(|&from| axis(from, x.rank().or(Some(order.len()))))
            .collect::<Result<_, _>>()?,
        None => (0..rank(x)?).rev().collect(),
    };
    let place = match x.place() {
        None => None,
        Some(place) => {
            let new = order.iter().position(|&from| from == place.axis).ok_or(MIXES)?;
            Some(place.at(new))
        }
    };
    let dims = match &x.dims {
        Some(dims) if dims.len() == order.len() => order.iter().map(|&from| dims[from].clone()).collect(),
        Some(_) => return Err(NOT_FOLLOWED),
        None => call.symbols.fresh_dims(order.len()),
    };
    one(AbstractTensor::placed(Some(dims), place))
}

/// The axes of an operator that has them as an attribute in early versions and as its second
/// input in later ones. `None` for all axes.
fn axes(call: &OperatorCall<'_>) -> Result<Option<Vec<i64>>, Mix> {
    if let Some(axes) = call.ints("axes")? {
        return Ok(Some(axes.to_vec()));
    }
    match call.same_or_none(1)? {
        Some(axes) => Ok(Some(axes.numbers().ok_or(Mix::new("has unknown axes"))?)),
        None => Ok(None),
    }
}

pub fn squeeze(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let numbers = axes(call)?;
    let x = call.any(0)?;
    if let Some(entries) = &x.entries
        && entries.len() == 1
    {
        return one(AbstractTensor::sizes(entries.clone(), true));
    }
    let x = call.tensor(0)?;
    let Some(numbers) = numbers else {
        // A batch of one record would lose the axis of the records.
        let dims = match x.place() {
            Some(_) => return Err(Mix::new("removes the axis of the records when there is one record")),
            None => dims(x)?,
        };
        let is_known = dims.iter().all(|dim| dim.size().is_some());
        let left: Vec<Extent> = dims.iter().filter(|dim| !dim.is_one()).cloned().collect();
        return one(AbstractTensor::same(is_known.then_some(left)));
    };
    let removed = numbers
        .iter()
        .map(|&number| axis(number, x.rank()))
        .collect::<Result<Vec<_>, _>>()?;
    for &removed in &removed {
        apart(x, removed)?;
    }
    let kept = |axis: &usize| !removed.contains(axis);
    let place = x.place().map(|place| place.at((0..place.axis).filter(kept).count()));
    let dims = x
        .dims
        .as_ref()
        .map(|dims| (0..dims.len()).filter(kept).map(|axis| dims[axis].clone()).collect());
    one(AbstractTensor::placed(dims, place))
}

pub fn unsqueeze(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let numbers = axes(call)?.ok_or(NOT_FOLLOWED)?;
    let x = call.any(0)?;
    if let Some(entries) = &x.entries
        && x.rank() == Some(0)
        && numbers.len() == 1
    {
        return one(AbstractTensor::sizes(entries.clone(), false));
    }
    let x = call.tensor(0)?;
    let new_rank = x.rank().map(|rank| rank + numbers.len());
    let added = numbers
        .iter()
        .map(|&number| axis(number, new_rank))
        .collect::<Result<Vec<_>, _>>()?;
    // The old axes fill the other places in order.
    let total = new_rank
        .or_else(|| x.place().map(|place| place.axis + 1 + added.len()))
        .unwrap_or(0);
    let old: Vec<usize> = (0..total).filter(|axis| !added.contains(axis)).collect();
    let place = match x.place() {
        None => None,
        Some(place) => Some(place.at(*old.get(place.axis).ok_or(NOT_FOLLOWED)?)),
    };
    let dims = x.dims.as_ref().map(|dims| {
        let mut new = vec![Extent::ONE; total];
        for (&to, dim) in old.iter().zip(dims) {
            new[to] = dim.clone();
        }
        new
    });
    one(AbstractTensor::placed(dims, place))
}

pub fn concat(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let number = call.int("axis", 0);
    let parts = (0..call.inputs.len()).map(|index| call.any(index));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    if parts
        .iter()
        .all(|part| part.rank() == Some(1) && part.place().is_none())
    {
        let lists: Option<Vec<Vec<SizeEntry>>> = parts.iter().map(|part| part.list()).collect();
        match lists {
            Some(lists) => return one(AbstractTensor::sizes(lists.concat(), false)),
            None if parts.iter().all(|part| part.is_same()) => {
                let length = vec![call.fresh()];
                return one(AbstractTensor::same(Some(length)));
            }
            None => return Err(NOT_FOLLOWED),
        }
    }
    let tensors = (0..call.inputs.len()).map(|index| call.tensor(index));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    one(joined(&tensors, number, call.symbols)?)
}

/// Concatenates the tensors along an axis.
pub fn joined(tensors: &[&AbstractTensor], number: i64, symbols: &mut Symbols) -> Result<AbstractTensor, Mix> {
    let known_rank = tensors.iter().find_map(|tensor| tensor.rank());
    let along = axis(number, known_rank)?;
    let place = common_place(tensors.iter().copied())?;
    if let Some(place) = &place {
        if place.axis == along {
            return Err(MIXES);
        }
        if tensors.iter().any(|tensor| tensor.place().is_none()) {
            return Err(Mix::new(
                "joins the records with a tensor that does not have one row for each",
            ));
        }
    }
    let Some(rank) = known_rank else {
        return Ok(AbstractTensor::placed(None, place));
    };
    let mut result = vec![None; rank];
    let mut sum = Some(0u64);
    for tensor in tensors {
        let Some(dims) = &tensor.dims else {
            sum = None;
            continue;
        };
        for (axis, (known, dim)) in result.iter_mut().zip(dims).enumerate() {
            if axis != along && known.is_none() {
                *known = Some(dim.clone());
            }
        }
        let size = dims.get(along).and_then(Extent::size);
        sum = sum.zip(size).and_then(|(sum, size)| sum.checked_add(size));
    }
    result[along] = match (sum, tensors) {
        (Some(sum), _) => Some(Extent::known(sum)),
        (None, [only]) => only.dims.as_ref().and_then(|dims| dims.get(along).cloned()),
        (None, _) => None,
    };
    let dims = result
        .into_iter()
        .map(|dim| dim.unwrap_or_else(|| symbols.fresh()))
        .collect();
    Ok(AbstractTensor::placed(Some(dims), place))
}

pub fn split(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let along = call.int("axis", 0);
    let lengths = match call.ints("split")? {
        Some(lengths) => Some(lengths.to_vec()),
        None => call
            .same_or_none(1)?
            .map(|lengths| lengths.numbers().unwrap_or_default()),
    };
    let parts = call.outputs();
    if let Some(entries) = &call.any(0)?.entries
        && let Some(lengths) = &lengths
    {
        let mut rest = &entries[..];
        let mut lists = Vec::new();
        for &length in lengths {
            let length = usize::try_from(length).map_err(|_| NOT_FOLLOWED)?;
            let (list, after) = rest.split_at_checked(length).ok_or(NOT_FOLLOWED)?;
            lists.push(AbstractValue::Tensor(AbstractTensor::sizes(list.to_vec(), false)));
            rest = after;
        }
        return Ok(lists);
    }
    let x = call.tensor(0)?;
    let along = axis(along, x.rank())?;
    apart(x, along)?;
    let mut values = Vec::new();
    for part in 0..parts {
        let length = match &lengths {
            Some(lengths) => lengths
                .get(part)
                .and_then(|&length| u64::try_from(length).ok())
                .map(Extent::known),
            // Equal parts, if the size is divisible by their number.
            None => x
                .dims
                .as_ref()
                .and_then(|dims| dims.get(along)?.over(&Extent::known(parts as u64))),
        };
        let length = length.unwrap_or_else(|| call.symbols.fresh());
        let dims = x.dims.as_ref().map(|dims| {
            let mut dims = dims.clone();
            if let Some(dim) = dims.get_mut(along) {
                *dim = length;
            }
            dims
        });
        values.push(AbstractValue::Tensor(AbstractTensor::placed(dims, x.place().cloned())));
    }
    Ok(values)
}

/// `Shape`: the dimensions of a tensor as a list of sizes.
pub fn shape(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.any(0)?;
    let Some(dims) = &x.dims else {
        return match x.batch {
            Batch::Same => one(AbstractTensor::same(Some(vec![call.fresh()]))),
            Batch::Records(_) | Batch::Sizes => Err(UNKNOWN_RANK),
        };
    };
    let rank = i64::try_from(dims.len()).map_err(|_| UNKNOWN_RANK)?;
    let bound = |number: i64| {
        usize::try_from(
            if number < 0 {
                number.saturating_add(rank)
            } else {
                number
            }
            .clamp(0, rank),
        )
    };
    let start = bound(call.int("start", 0)).map_err(|_| UNKNOWN_RANK)?;
    let end = bound(call.int("end", rank)).map_err(|_| UNKNOWN_RANK)?;
    let entries = dims.get(start..end.max(start)).unwrap_or_default();
    one(AbstractTensor::sizes(
        entries.iter().cloned().map(SizeEntry::of).collect(),
        false,
    ))
}

pub fn size(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.any(0)?;
    let entry = match x.dims.as_ref().map(Extent::product) {
        Some(Some(total)) => SizeEntry::of(total),
        Some(None) | None if x.is_same() => SizeEntry::Same,
        Some(None) | None => return Err(NOT_FOLLOWED),
    };
    one(AbstractTensor::sizes(vec![entry], true))
}

/// `DepthToSpace` and `SpaceToDepth`: exchange channels and pixels of `[n, c, h, w]`.
pub fn depth_and_space(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    if x.place().is_some_and(|place| place.axis != 0) {
        return Err(MIXES);
    }
    let dims = call.symbols.fresh_dims(4);
    let dims = match &x.dims {
        Some(own) if own.len() == 4 => {
            let first = own[0].clone();
            std::iter::once(first).chain(dims.into_iter().skip(1)).collect()
        }
        Some(_) => return Err(NOT_FOLLOWED),
        None => dims,
    };
    one(AbstractTensor::placed(Some(dims), x.place().cloned()))
}

/// `y_scale, y_zero_point`, followed by `tensor, scale, zero_point` for each tensor.
pub fn qlinear_concat(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.same_or_none(0)?;
    call.same_or_none(1)?;
    let mut tensors = Vec::new();
    for index in (2..call.inputs.len()).step_by(3) {
        tensors.push(call.tensor(index)?);
        call.same_or_none(index + 1)?;
        call.same_or_none(index + 2)?;
    }
    one(joined(&tensors, call.int("axis", 0), call.symbols)?)
}
