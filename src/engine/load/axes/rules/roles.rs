//! Operators whose inputs each have the records along a fixed axis, or have none.

use crate::engine::load::axes::call::{OperatorCall, RuleOutcome};
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, MIXES, Mix, RecordPlace};

/// The relation of an operator's input to the records.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// The input has the records along this axis.
    Records(usize),
    /// Either [`Self::Records`], or the same for all records with one index along this axis.
    RecordsOrOne(usize),
    /// Either four dimensions with the records first, or the same for all records and broadcast
    /// to them.
    Bias,
    /// The same for all records.
    Shared,
}

use Role::{Bias, Records, RecordsOrOne, Shared};

/// The roles of an operator's inputs and outputs.
struct Roles {
    /// In order; further inputs are shared.
    inputs: &'static [Role],
    /// For each output, the axis of the records and the rank; `None` for the rank of the first
    /// input.
    outputs: &'static [(usize, Option<usize>)],
}

fn apply(call: &mut OperatorCall<'_>, roles: &Roles) -> RuleOutcome {
    let mut common: Option<RecordPlace> = None;
    let mut has_same = false;
    for index in 0..call.inputs.len() {
        let Some(input) = call.tensor_or_none(index)? else {
            continue;
        };
        let role = roles.inputs.get(index).copied().unwrap_or(Shared);
        let axis = match (role, input.place()) {
            (Shared, None) => continue,
            (Shared, Some(_)) => return Err(MIXES),
            (Records(_), None) => {
                has_same = true;
                continue;
            }
            (RecordsOrOne(axis), None) => {
                // This matters only if another input has records.
                has_same |= !is_one(input, axis);
                continue;
            }
            (Bias, None) => {
                has_same |= !(input.rank().is_some_and(|rank| rank < 4) || is_one(input, 0));
                continue;
            }
            (Bias, Some(_)) if input.rank() != Some(4) => return Err(MIXES),
            (Bias, Some(_)) => 0,
            (Records(axis) | RecordsOrOne(axis), Some(_)) => axis,
        };
        let Some(place) = input.place() else { continue };
        match &common {
            _ if place.axis != axis => return Err(MIXES),
            Some(common) if !common.is_like(place) => return Err(MIXES),
            Some(_) => {}
            None => common = Some(place.clone()),
        }
    }
    if common.is_some() && has_same {
        return Err(Mix::new(
            "combines the records with a tensor that may have one row for each",
        ));
    }
    let rank = call.tensor(0)?.rank();
    let outputs = roles.outputs.iter().take(call.outputs()).map(|&(axis, own)| {
        let dims = own.or(rank).map(|rank| call.symbols.fresh_dims(rank));
        AbstractValue::Tensor(AbstractTensor::placed(
            dims,
            common.as_ref().map(|place| place.at(axis)),
        ))
    });
    Ok(outputs.collect())
}

/// Whether the axis has one index.
fn is_one(input: &AbstractTensor, axis: usize) -> bool {
    let dims = input.dims.as_deref();
    dims.is_some_and(|dims| {
        dims.get(axis)
            .is_some_and(crate::engine::load::axes::extent::Extent::is_one)
    })
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident: [$($input:expr),*] -> [$($output:expr),*];)*) => {
        $(
            $(#[$doc])*
            pub fn $name(call: &mut OperatorCall<'_>) -> RuleOutcome {
                apply(call, &Roles { inputs: &[$($input),*], outputs: &[$($output),*] })
            }
        )*
    };
}

roles! {
    /// `x, grid`, with a grid of positions for each image.
    grid_sample: [Records(0), Records(0)] -> [(0, None)];
    /// `signal, frame_step, window, frame_length`
    stft: [Records(0), Shared, Shared, Shared] -> [(0, Some(4))];
    /// `q, k, v, mask, past_k, past_v`
    attention: [Records(0), Records(0), Records(0), Bias, Records(0), Records(0), Records(0)]
        -> [(0, None), (0, Some(4)), (0, Some(4))];
    /// `x, weights, bias, mask, past, attention_bias, past_sequence_length`
    ms_attention: [Records(0), Shared, Shared, Records(0), Records(1), Bias, Shared]
        -> [(0, None), (1, Some(5))];
    /// `q, k, v, bias, mask, attention_bias, past_k, past_v`
    multi_head_attention: [Records(0), Records(0), Records(0), Shared, Records(0), Bias, Records(0), Records(0)]
        -> [(0, Some(3)), (0, Some(4)), (0, Some(4))];
    /// `q, k, v, past_k, past_v, lengths, total, cos, sin`
    group_query_attention: [Records(0), Records(0), Records(0), Records(0), Records(0), Records(0), Shared, Shared, Shared]
        -> [(0, Some(3)), (0, Some(4)), (0, Some(4))];
    /// `x, weights, bias, x_scale, weight_scale, mask, x_zero_point, weight_zero_point, past`
    qattention: [Records(0), Shared, Shared, Shared, Shared, Records(0), Shared, Shared, Records(1)]
        -> [(0, None), (1, Some(5))];
    /// `ids, segments, tables, scale, bias, mask, positions`
    embed_layer_norm: [Records(0), Records(0), Shared, Shared, Shared, Shared, Shared, Records(0), RecordsOrOne(0)]
        -> [(0, Some(3)), (0, Some(1)), (0, Some(3))];
    /// `x, positions, cos, sin`
    rotary_embedding: [Records(0), RecordsOrOne(0), Shared, Shared] -> [(0, None)];
    /// `x, cos, sin, positions`
    standard_rotary_embedding: [Records(0), Shared, Shared, Records(0)] -> [(0, None)];
    /// `x, w, r, b, lengths, initial_h, initial_c, p`, with the steps on the first axis.
    recurrent_steps_first: [Records(1), Shared, Shared, Shared, Records(0), Records(1), Records(1), Shared]
        -> [(2, Some(4)), (1, Some(3)), (1, Some(3))];
    /// The same inputs, with the records on the first axis.
    recurrent_records_first: [Records(0), Shared, Shared, Shared, Records(0), Records(0), Records(0), Shared]
        -> [(0, Some(4)), (0, Some(3)), (0, Some(3))];
}

/// `LSTM`, `GRU` and `RNN`.
pub fn recurrent(call: &mut OperatorCall<'_>) -> RuleOutcome {
    if call.int("layout", 0) == 0 {
        recurrent_steps_first(call)
    } else {
        recurrent_records_first(call)
    }
}
