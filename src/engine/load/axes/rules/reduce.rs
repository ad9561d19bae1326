//! Operators that compute along axes: sums, maxima, normalisations, sorting.

use crate::engine::load::axes::call::{OperatorCall, RuleOutcome, UNKNOWN_RANK, apart, axis, dims, one, rank};
use crate::engine::load::axes::extent::Extent;
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, MIXES, Mix};

const UNKNOWN_AXES: Mix = Mix::new("has unknown axes");

/// Reductions over the axes in an attribute or in the second input.
pub fn reduce(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let numbers = match call.ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => match call.same_or_none(1)? {
            Some(axes) => axes.numbers().ok_or(UNKNOWN_AXES)?,
            None => Vec::new(),
        },
    };
    let keeps = call.int("keepdims", 1) != 0;
    if numbers.is_empty() && call.int("noop_with_empty_axes", 0) != 0 {
        return one(x.without_entries());
    }
    reduced(x, &numbers, keeps)
}

/// `ArgMax` and `ArgMin`: the index of the largest or smallest element along an axis.
pub fn arg(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    reduced(x, &[call.int("axis", 0)], call.int("keepdims", 1) != 0)
}

fn reduced(x: &AbstractTensor, numbers: &[i64], keeps: bool) -> RuleOutcome {
    let reduced = if numbers.is_empty() {
        // No axes stand for all axes.
        if x.place().is_some() {
            return Err(MIXES);
        }
        (0..rank(x)?).collect()
    } else {
        numbers
            .iter()
            .map(|&number| axis(number, x.rank()))
            .collect::<Result<Vec<_>, _>>()?
    };
    for &reduced in &reduced {
        apart(x, reduced)?;
    }
    let is_kept = |axis: &usize| keeps || !reduced.contains(axis);
    let place = x.place().map(|place| place.at((0..place.axis).filter(is_kept).count()));
    let dims = x.dims.as_ref().map(|dims| {
        let dims = dims.iter().enumerate().filter(|(axis, _)| is_kept(axis));
        dims.map(|(axis, dim)| {
            if reduced.contains(&axis) {
                Extent::ONE
            } else {
                dim.clone()
            }
        })
        .collect()
    });
    one(AbstractTensor::placed(dims, place))
}

/// `Softmax` and similar. Before version 13 the axis and all later ones are normalised together.
pub fn softmax(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let is_flattened = call.opset < 13;
    normalised(call, is_flattened)
}

/// `QLinearSoftmax`, which has the version of the operator set as an attribute.
pub fn qlinear_softmax(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.all_same_from(1)?;
    let is_flattened = call.int("opset", 0) < 13;
    normalised(call, is_flattened)
}

fn normalised(call: &mut OperatorCall<'_>, is_flattened: bool) -> RuleOutcome {
    let x = call.tensor(0)?;
    let number = call.int("axis", if is_flattened { 1 } else { -1 });
    if let Some(place) = x.place() {
        let along = axis(number, x.rank())?;
        if place.axis == along || (is_flattened && place.axis > along) {
            return Err(MIXES);
        }
    }
    one(x.without_entries())
}

/// Normalisations along one axis.
pub fn along_axis(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.all_same_from(1)?;
    let x = call.tensor(0)?;
    if x.place().is_some() {
        apart(x, axis(call.int("axis", -1), x.rank())?)?;
    }
    one(x.without_entries())
}

/// `CumSum`: cumulative sums along the axis in the second input.
pub fn cumulative(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let along = call.same(1)?.number();
    if x.place().is_some() {
        apart(x, axis(along.ok_or(UNKNOWN_AXES)?, x.rank())?)?;
    }
    one(x.without_entries())
}

/// `TopK`: the largest elements along an axis, and their indices.
pub fn top_k(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let count = match call.same_or_none(1)? {
        Some(count) => count.number(),
        None => Some(call.int("k", 0)),
    };
    let along = axis(call.int("axis", -1), x.rank())?;
    apart(x, along)?;
    let count = count.and_then(|count| u64::try_from(count).ok()).map(Extent::known);
    let count = count.unwrap_or_else(|| call.fresh());
    let mut dims = x.dims.clone();
    if let Some(dim) = dims.as_mut().and_then(|dims| dims.get_mut(along)) {
        *dim = count;
    }
    let values = AbstractValue::Tensor(AbstractTensor::placed(dims, x.place().cloned()));
    Ok(vec![values.clone(), values])
}

/// `x, scale, bias`: normalises over the axis and all later ones. The other outputs are the means
/// and deviations.
pub fn layer_norm(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let rank = rank(x)?;
    let first = axis(call.int("axis", -1), Some(rank))?;
    if x.place().is_some_and(|place| place.axis >= first) {
        return Err(MIXES);
    }
    for index in 1..call.inputs.len() {
        let parameter = call.same_or_none(index)?;
        if parameter.is_some_and(|parameter| parameter.rank().is_none_or(|own| own > rank - first)) {
            return Err(Mix::new("has a scale or a bias of more dimensions than it normalises"));
        }
    }
    let mut dims = dims(x)?.to_vec();
    let normalised = AbstractValue::Tensor(x.without_entries());
    dims[first..].fill(Extent::ONE);
    let statistics = AbstractValue::Tensor(AbstractTensor::placed(Some(dims), x.place().cloned()));
    Ok(vec![normalised, statistics.clone(), statistics])
}

/// `x, skip, scale, bias, bias`: normalises the sum of the first two over the last axis. The
/// fourth output is the sum.
pub fn skip_layer_norm(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.all_same_from(2)?;
    for index in 2..call.inputs.len() {
        if call
            .same_or_none(index)?
            .is_some_and(|parameter| parameter.rank() != Some(1))
        {
            return Err(UNKNOWN_RANK);
        }
    }
    let sum = super::elementwise::broadcast(&[call.tensor(0)?, call.tensor(1)?], call.symbols)?;
    let mut dims = dims(&sum)?.to_vec();
    if sum.place().is_some_and(|place| place.axis + 1 == dims.len()) {
        return Err(MIXES);
    }
    *dims.last_mut().ok_or(UNKNOWN_RANK)? = Extent::ONE;
    let statistics = AbstractValue::Tensor(AbstractTensor::placed(Some(dims), sum.place().cloned()));
    let sum = AbstractValue::Tensor(sum);
    Ok(vec![sum.clone(), statistics.clone(), statistics, sum])
}

/// `MeanVarianceNormalization` over the axes in an attribute. By default they include that of the
/// records.
pub fn mean_variance(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let across = call.int("across_channels", 0);
    for &number in call.ints("axes")?.unwrap_or(&[0, 2, 3]) {
        apart(x, axis(number, x.rank())?)?;
    }
    if across != 0 && x.place().is_some() {
        return Err(MIXES);
    }
    one(x.without_entries())
}

/// `x, scale, bias, mean, variance`: normalises with fixed numbers for each channel, except in
/// training.
pub fn batch_norm(call: &mut OperatorCall<'_>) -> RuleOutcome {
    const TRAINS: Mix = Mix::new("computes the mean of all records, as in training");
    let x = call.tensor(0)?;
    let is_training = call.int("training_mode", 0) != 0
        || (call.opset < 14 && call.node.outputs.iter().skip(1).any(|name| !name.is_empty()));
    if is_training {
        return Err(TRAINS);
    }
    call.all_same_from(1)?;
    if x.place().is_some_and(|place| place.axis != 0) {
        return Err(MIXES);
    }
    one(x.without_entries())
}

/// Operators that normalise each `x[n, ...]` separately, with parameters for each channel.
pub fn first_axis(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    call.all_same_from(1)?;
    if x.place().is_some_and(|place| place.axis != 0) {
        return Err(MIXES);
    }
    one(x.without_entries())
}

/// Conversions to or from a quantised type, with one scale or with one for each index of an axis.
pub fn quantise(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    call.all_same_from(1)?;
    if let Some(place) = x.place() {
        let scale = call.same(1)?;
        match scale.rank() {
            _ if super::elementwise::is_one_element(scale) => {}
            Some(1) if axis(call.int("axis", 1), x.rank())? != place.axis && call.int("block_size", 0) == 0 => {}
            Some(_) | None => return Err(Mix::new("has a scale that may differ between records")),
        }
    }
    one(x.without_entries())
}

/// Operators that never compute record by record.
pub fn mixes(_: &mut OperatorCall<'_>) -> RuleOutcome {
    Err(MIXES)
}

/// Operators that draw random numbers.
pub fn draws(_: &mut OperatorCall<'_>) -> RuleOutcome {
    Err(Mix {
        text: "draws random numbers",
        always: true,
    })
}

/// Operators on inputs that do not depend on the batch. The shape of the output is unknown.
pub fn from_same(call: &mut OperatorCall<'_>) -> RuleOutcome {
    call.all_same_from(0)?;
    one(AbstractTensor::same(None))
}
