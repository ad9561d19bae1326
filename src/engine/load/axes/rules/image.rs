//! Operators over the pixels of `x[n, c, ...]`, such as convolutions and pools.

use crate::engine::load::axes::call::{OperatorCall, RuleOutcome, dims, one};
use crate::engine::load::axes::extent::Extent;
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, MIXES, Mix, SizeEntry};

/// Windows that move over the pixels.
struct Windows {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Before each axis, then after each.
    pads: Vec<i64>,
    auto_pad: String,
    rounds_up: bool,
}

impl Windows {
    fn new(call: &OperatorCall<'_>, kernel: Vec<i64>) -> Result<Self, Mix> {
        let axes = kernel.len();
        let list = |name, default| Ok(call.ints(name)?.map_or_else(|| default, <[i64]>::to_vec));
        Ok(Self {
            strides: list("strides", vec![1; axes])?,
            dilations: list("dilations", vec![1; axes])?,
            pads: list("pads", vec![0; 2 * axes])?,
            auto_pad: call.text("auto_pad").unwrap_or("NOTSET").to_owned(),
            rounds_up: call.int("ceil_mode", 0) != 0,
            kernel,
        })
    }

    /// The number of windows along an axis of `pixels` pixels. `None` if it is not certain.
    fn count(&self, axis: usize, pixels: i64) -> Option<u64> {
        let (kernel, stride) = (*self.kernel.get(axis)?, *self.strides.get(axis)?);
        let extent = kernel
            .checked_sub(1)?
            .checked_mul(*self.dilations.get(axis)?)?
            .checked_add(1)?;
        let count = match &*self.auto_pad {
            "SAME_UPPER" | "SAME_LOWER" => pixels.checked_add(stride - 1)?.checked_div(stride)?,
            "NOTSET" | "VALID" | "" => {
                let pads = if self.auto_pad == "VALID" {
                    0
                } else {
                    self.pads
                        .get(axis)?
                        .checked_add(*self.pads.get(axis + self.kernel.len())?)?
                };
                let travel = pixels.checked_add(pads)?.checked_sub(extent)?;
                // Rounding up follows special rules at the edge.
                if self.rounds_up && travel.checked_rem(stride)? != 0 {
                    return None;
                }
                travel.checked_div(stride)?.checked_add(1)?
            }
            _ => return None,
        };
        (stride > 0).then(|| u64::try_from(count).ok()).flatten()
    }

    /// The dimensions `[n, c, ...]` of the output for an input with the dimensions `own`.
    fn dims(&self, call: &mut OperatorCall<'_>, own: &[Extent], channels: Extent) -> Option<Vec<Extent>> {
        let mut result = vec![own.first()?.clone(), channels];
        for (axis, dim) in own.iter().skip(2).enumerate() {
            let count = dim
                .size()
                .and_then(|size| i64::try_from(size).ok())
                .and_then(|pixels| self.count(axis, pixels));
            result.push(count.map_or_else(|| call.symbols.fresh(), Extent::known));
        }
        Some(result)
    }
}

/// Returns an input of images. `Err` if it has the records on another axis than the first.
fn images<'a>(call: &OperatorCall<'a>, index: usize) -> Result<&'a AbstractTensor, Mix> {
    let x = call.tensor(index)?;
    match x.place() {
        Some(place) if place.axis != 0 => Err(MIXES),
        Some(_) | None => Ok(x),
    }
}

/// `x, w, b`, and `z`, which is added if the operator is fused with an addition.
pub fn conv(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (x, w) = (images(call, 0)?, call.same(1)?);
    call.same_or_none(2)?;
    if let Some(added) = call.tensor_or_none(3)?
        && added.batch != x.batch
    {
        return Err(MIXES);
    }
    call.all_same_from(4)?;
    convolved(call, x, w)
}

/// `x, w, x_zero_point, w_zero_point`
pub fn conv_integer(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (x, w) = (images(call, 0)?, call.same(1)?);
    call.all_same_from(2)?;
    convolved(call, x, w)
}

/// `x, x_scale, x_zero_point, w, ...`
pub fn qlinear_conv(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = images(call, 0)?;
    call.all_same_from(1)?;
    let w = call.same(3)?;
    if call.int("channels_last", 0) != 0 {
        let dims = x.rank().map(|rank| call.symbols.fresh_dims(rank));
        return one(AbstractTensor::placed(dims, x.place().cloned()));
    }
    convolved(call, x, w)
}

fn convolved(call: &mut OperatorCall<'_>, x: &AbstractTensor, w: &AbstractTensor) -> RuleOutcome {
    let weights = w.dims.as_deref().unwrap_or_default();
    let kernel = weights
        .get(2..)
        .unwrap_or_default()
        .iter()
        .map(|dim| dim.size().map(|size| size as i64));
    let kernel: Option<Vec<i64>> = kernel.collect();
    let channels = weights.first().cloned().unwrap_or_else(|| call.fresh());
    let dims = match (&x.dims, kernel) {
        (Some(own), Some(kernel)) if kernel.len() + 2 == own.len() => {
            Windows::new(call, kernel)?.dims(call, own, channels)
        }
        (Some(own), _) => Some(call.symbols.fresh_dims(own.len())),
        (None, _) => None,
    };
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// `ConvTranspose`. Of the output's dimensions only their number is tracked.
pub fn conv_transpose(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = images(call, 0)?;
    call.all_same_from(1)?;
    let dims = x.rank().map(|rank| call.symbols.fresh_dims(rank));
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// Pools. The second output of `MaxPool` counts elements across all records.
pub fn pool(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = images(call, 0)?;
    call.all_same_from(1)?;
    let kernel = call.ints("kernel_shape")?.unwrap_or_default().to_vec();
    let dims = match &x.dims {
        Some(own) if kernel.len() + 2 == own.len() && call.int("channels_last", 0) == 0 => {
            let channels = own[1].clone();
            Windows::new(call, kernel)?.dims(call, own, channels)
        }
        Some(own) => Some(call.symbols.fresh_dims(own.len())),
        None => None,
    };
    let values = AbstractValue::Tensor(AbstractTensor::placed(dims.clone(), x.place().cloned()));
    let indices = match x.place() {
        None => AbstractValue::Tensor(AbstractTensor::same(dims)),
        Some(_) => AbstractValue::Mixed("the indices of MaxPool count across the records of a batch".into()),
    };
    Ok(vec![values, indices])
}

pub fn global_pool(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = images(call, 0)?;
    call.all_same_from(1)?;
    let is_last = call.int("channels_last", 0) != 0;
    let dims = x.dims.as_ref().map(|own| {
        let kept = |axis: usize| axis == 0 || axis == if is_last { own.len() - 1 } else { 1 };
        let dims = own.iter().enumerate();
        dims.map(|(axis, dim)| if kept(axis) { dim.clone() } else { Extent::ONE })
            .collect()
    });
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// `x, roi, scales, sizes`, or `x, scales` in early versions: resizes by factors or to sizes. The
/// axis of the records must keep its size.
pub fn resize(call: &mut OperatorCall<'_>) -> RuleOutcome {
    const NOT_FOLLOWED: Mix = Mix::new("has scales or sizes that may change the axis of the records");
    let x = call.tensor(0)?;
    if call.text("coordinate_transformation_mode") == Some("tf_crop_and_resize") && x.place().is_some() {
        return Err(NOT_FOLLOWED);
    }
    let own = dims(x)?;
    let is_scaled = |tensor: &AbstractTensor| tensor.list().filter(|list| !list.is_empty());
    let (scales, sizes) = match call.attribute("scales") {
        Some(crate::engine::load::onnx_file::Attribute::Floats(Some(scales))) => {
            let whole = |&scale: &f32| {
                if scale == 1.0 {
                    SizeEntry::Number(1)
                } else {
                    SizeEntry::Same
                }
            };
            (Some(scales.iter().map(whole).collect()), None)
        }
        _ if call.inputs.len() == 2 => (call.any(1)?.list(), None),
        _ => {
            call.same_or_none(1)?;
            let scales = call.any_or_none(2)?.and_then(is_scaled);
            (scales, call.any_or_none(3)?.and_then(is_scaled))
        }
    };
    let axes: Vec<usize> = match call.ints("axes")? {
        Some(axes) => axes
            .iter()
            .map(|&number| crate::engine::load::axes::call::axis(number, Some(own.len())))
            .collect::<Result<_, _>>()?,
        None => (0..own.len()).collect(),
    };
    let (entries, are_scales): (Vec<SizeEntry>, bool) = match (scales, sizes) {
        (Some(scales), _) => (scales, true),
        (None, Some(sizes)) => (sizes, false),
        (None, None) => return Err(NOT_FOLLOWED),
    };
    if entries.len() != axes.len()
        || (!are_scales
            && call
                .text("keep_aspect_ratio_policy")
                .is_some_and(|policy| policy != "stretch"))
    {
        return Err(NOT_FOLLOWED);
    }
    let mut result = own.to_vec();
    for (&axis, entry) in axes.iter().zip(&entries) {
        let is_unchanged = if are_scales {
            *entry == SizeEntry::Number(1)
        } else {
            entry.extent().as_ref() == Some(&own[axis])
        };
        if is_unchanged {
            continue;
        }
        if x.place().is_some_and(|place| place.axis == axis) || !entry.is_same() {
            return Err(NOT_FOLLOWED);
        }
        let size = entry.extent();
        let size = if are_scales {
            size.and_then(|scale| scale.times(&own[axis]))
        } else {
            size
        };
        result[axis] = size.unwrap_or_else(|| call.symbols.fresh());
    }
    one(AbstractTensor::placed(Some(result), x.place().cloned()))
}

/// Operators on blocks of channels. They return one image for each image, with other dimensions.
pub fn reordered(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = images(call, 0)?;
    call.all_same_from(1)?;
    let dims = call.symbols.fresh_dims(4);
    one(AbstractTensor::placed(Some(dims), x.place().cloned()))
}

/// Like [`reordered`], with a fourth input that is added.
pub fn blocked_conv(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = images(call, 0)?;
    if let Some(added) = call.tensor_or_none(3)?
        && added.batch != x.batch
    {
        return Err(MIXES);
    }
    call.same(1)?;
    call.same_or_none(2)?;
    let dims = call.symbols.fresh_dims(4);
    one(AbstractTensor::placed(Some(dims), x.place().cloned()))
}
