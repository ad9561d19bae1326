//! Operators of classical machine learning, which take a row of numbers or texts for each record.

use super::layout::reshaped;
use crate::engine::load::axes::call::{OperatorCall, RuleOutcome, common_place, one, rank};
use crate::engine::load::axes::extent::Extent;
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, MIXES, Mix};
use crate::engine::load::onnx_file::Attribute;

/// Returns the input `x[n, features]`. A list of numbers is rejected: it would be one record.
fn rows<'a>(call: &OperatorCall<'a>) -> Result<&'a AbstractTensor, Mix> {
    let x = call.tensor(0)?;
    match x.place() {
        Some(place) if place.axis != 0 || x.rank() != Some(2) => Err(MIXES),
        Some(_) | None => Ok(x),
    }
}

/// The first axis of `x`, and one for the values that are computed for each record.
fn row_dims(call: &mut OperatorCall<'_>, x: &AbstractTensor) -> Vec<Extent> {
    let first = x.dims.as_ref().and_then(|dims| dims.first().cloned());
    let first = first.unwrap_or_else(|| call.fresh());
    vec![first, call.fresh()]
}

/// Operators that return numbers for each record.
pub fn regressor(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = rows(call)?;
    call.all_same_from(1)?;
    let dims = row_dims(call, x);
    one(AbstractTensor::placed(Some(dims), x.place().cloned()))
}

/// Operators that return a label and numbers for each record.
pub fn classifier(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = rows(call)?;
    let scores = row_dims(call, x);
    let labels = vec![scores[0].clone()];
    let value = |dims| AbstractValue::Tensor(AbstractTensor::placed(Some(dims), x.place().cloned()));
    Ok(vec![value(labels), value(scores)])
}

/// Operators that scale or complete the features of each record.
pub fn features(call: &mut OperatorCall<'_>) -> RuleOutcome {
    one(rows(call)?.without_entries())
}

/// Operators that map each element separately.
pub fn elements(call: &mut OperatorCall<'_>) -> RuleOutcome {
    one(call.tensor(0)?.without_entries())
}

/// `FeatureVectorizer`: concatenates rows of features.
pub fn concatenated(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let tensors = (0..call.inputs.len()).map(|index| call.tensor(index));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    let place = common_place(tensors.iter().copied())?;
    let is_row = |tensor: &&AbstractTensor| tensor.rank() == Some(2) && tensor.place().is_some();
    if place.as_ref().is_some_and(|place| place.axis != 0) || (place.is_some() && !tensors.iter().all(is_row)) {
        return Err(MIXES);
    }
    let dims = call.symbols.fresh_dims(2);
    one(AbstractTensor::placed(Some(dims), place))
}

/// `ArrayFeatureExtractor`: selects columns of the last axis.
pub fn extract(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let (x, columns) = (call.tensor(0)?, call.tensor(1)?);
    let rank = rank(x)?;
    if columns.place().is_some() {
        // One element of a list of labels for each record: `[1, n]`.
        if !x.is_same() || rank > 1 {
            return Err(MIXES);
        }
        return one(reshaped(columns, vec![Some(Extent::ONE), None], call.symbols)?);
    }
    if x.place().is_some_and(|place| place.axis + 1 >= rank) {
        return Err(MIXES);
    }
    if rank < 2 {
        return one(AbstractTensor::same(None));
    }
    let count = columns.dims.as_ref().and_then(Extent::product);
    let count = count.unwrap_or_else(|| call.fresh());
    let mut dims = x.dims.clone();
    if let Some(last) = dims.as_mut().and_then(|dims| dims.last_mut()) {
        *last = count;
    }
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// `OneHotEncoder`: adds an axis at the end, with one index for each category.
pub fn one_hot(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = call.tensor(0)?;
    let categories = match (call.attribute("cats_int64s"), call.attribute("cats_strings")) {
        (Some(Attribute::Ints(Some(categories))), _) => Some(categories.len()),
        (_, Some(Attribute::Texts(count))) => Some(*count),
        _ => None,
    };
    let categories = categories.map(|count| Extent::known(count as u64));
    let categories = categories.unwrap_or_else(|| call.fresh());
    let dims = x.dims.clone().map(|mut dims| {
        dims.push(categories);
        dims
    });
    one(AbstractTensor::placed(dims, x.place().cloned()))
}

/// `ZipMap`: a map for each record.
pub fn zip_map(call: &mut OperatorCall<'_>) -> RuleOutcome {
    let x = rows(call)?;
    match x.place() {
        Some(place) if *place == crate::engine::load::axes::value::RecordPlace::plain(0) => {
            Ok(vec![AbstractValue::Items])
        }
        Some(_) | None => Err(MIXES),
    }
}

/// `TfIdfVectorizer`: counts the n-grams of each record.
pub fn n_grams(call: &mut OperatorCall<'_>) -> RuleOutcome {
    regressor(call)
}

/// `StringNormalizer`: maps each text separately, unless it removes some.
pub fn normalised_texts(call: &mut OperatorCall<'_>) -> RuleOutcome {
    if matches!(call.attribute("stopwords"), Some(Attribute::Texts(count)) if *count > 0) {
        return Err(Mix::new("removes some of the texts of a batch"));
    }
    elements(call)
}
