//! The format of a reply, chosen before the model runs.

use super::error::{EncodeError, describe_outputs, excerpt};
use super::media_type::{Range, accept_ranges};
use super::{Format, ReplyPlan};
use crate::tensor::Signature;

/// Chooses the format of the reply (CT-2): the most wanted type of `Accept` that exists and that
/// can carry the outputs.
///
/// Without `Accept`, and for `*/*`, it is `default`, except that a request of the Open Inference
/// Protocol is answered in that protocol. `type/*` is the default too when that is of this type,
/// else the first format that is. Where a wildcard leaves the choice and the default cannot carry
/// the outputs, JSON does. A type that exists but cannot carry the outputs is only an error when
/// nothing else in `Accept` does better; so is having nothing in common (406).
///
/// Returns the plan as well: the parameter `output` of a media type leaves it at one output,
/// `form=score` asks for the form of SageMaker's built-in algorithms, and a format that holds one
/// array leaves it at the first output, as scikit-learn's container answers predictions.
pub fn negotiate(
    accept: Option<&str>,
    default: Format,
    plan: &ReplyPlan,
    signature: &Signature,
) -> Result<(Format, ReplyPlan), EncodeError> {
    let implied = plan.implied_format(default);
    let accept = match accept.map(str::trim) {
        None | Some("") => "*/*",
        Some(accept) => accept,
    };
    let ranges = accept_ranges(accept);
    let mut refusal = None;
    for range in ranges.iter().filter(|range| range.quality > 0) {
        for format in candidates(range, implied).filter(|format| !is_excluded(*format, &ranges)) {
            let wanted = wanted(range, format, plan, signature);
            match wanted.and_then(|wanted| wanted.fits(format, signature).map(|()| wanted)) {
                Ok(wanted) => return Ok((format, wanted)),
                Err(error) => {
                    refusal.get_or_insert(error);
                }
            }
        }
    }
    Err(refusal.unwrap_or_else(|| EncodeError::NotAcceptable {
        accept: excerpt(accept),
    }))
}

/// The plan of a reply in a format, as an element of `Accept` wants it.
fn wanted(range: &Range, format: Format, plan: &ReplyPlan, signature: &Signature) -> Result<ReplyPlan, EncodeError> {
    let mut wanted = plan.clone();
    if let Some(name) = &range.output {
        let position = signature.outputs.iter().position(|output| output.name == *name);
        let index = position.ok_or_else(|| EncodeError::CannotCarry {
            format,
            problem: format!(
                "the model has no output {}; it gives {}",
                excerpt(name),
                describe_outputs(signature)
            ),
        })?;
        wanted.keep_only(&[index]);
    } else if matches!(format, Format::Npy | Format::Octets) && Format::from_essence(&range.essence()) == Some(format) {
        let first = match wanted.outputs() {
            None => (!signature.outputs.is_empty()).then_some(0),
            Some(outputs) => outputs.first().copied(),
        };
        wanted.keep_only(&Vec::from_iter(first));
    }
    match range.form.as_deref() {
        None => {}
        Some("score") if matches!(format, Format::Json | Format::JsonLines) => wanted.has_scores = true,
        Some(form) => {
            return Err(EncodeError::CannotCarry {
                format,
                problem: format!(
                    "the form {} is not known; application/json and application/jsonlines have form=score",
                    excerpt(form)
                ),
            });
        }
    }
    Ok(wanted)
}

/// The formats that an element of `Accept` asks for, the best first.
fn candidates(range: &Range, implied: Format) -> impl Iterator<Item = Format> {
    let wildcard: &[Format] = match (range.main.as_str(), range.sub.as_str()) {
        ("*", _) => &[Format::Json],
        (_, "*") => &Format::ALL,
        _ => &[],
    };
    let named = Format::from_essence(&range.essence());
    let chosen = (!wildcard.is_empty()).then_some(implied);
    let offered = chosen
        .into_iter()
        .chain(wildcard.iter().copied())
        .filter(|format| format.is_written() && range.matches(format.media_type()));
    named.into_iter().chain(offered)
}

/// Whether `Accept` says "not this": the most specific element about the format has `q=0`.
fn is_excluded(format: Format, ranges: &[Range]) -> bool {
    let about = ranges.iter().filter(|range| range.matches(format.media_type()));
    about
        .max_by_key(|range| range.specificity())
        .is_some_and(|range| range.quality == 0)
}
