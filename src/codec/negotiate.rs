//! Chooses the format of the response before the model runs.

use super::error::{EncodeError, describe_outputs, excerpt};
use super::media_type::{Range, accept_ranges};
use super::{Format, ReplyPlan};
use crate::tensor::Signature;

/// Chooses the format of the response (CT-2): the type in `Accept` with the highest quality that
/// exists and can hold the outputs.
///
/// Without `Accept`, and for `*/*`, the format is `default`, except that a request of the Open
/// Inference Protocol gets a response in that protocol. For `type/*` it is the default if that has
/// this type, else the first format that has. If a wildcard leaves the choice and the default
/// cannot hold the outputs, the format is JSON. The result is an error (406) only if no element of
/// `Accept` is possible: because the type does not exist, or cannot hold the outputs.
///
/// Also returns the plan, which the element of `Accept` may change. The parameter `output`
/// restricts it to one output. `form=score` selects the form of SageMaker's built-in algorithms. A
/// format that holds one array restricts it to the first output: scikit-learn's container returns
/// the predictions, which come first.
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

/// The plan of a response in `format`, with the changes that an element of `Accept` requests.
fn wanted(range: &Range, format: Format, plan: &ReplyPlan, signature: &Signature) -> Result<ReplyPlan, EncodeError> {
    let mut wanted = plan.clone();
    if let Some(name) = &range.output {
        let position = signature.outputs.iter().position(|output| output.name == *name);
        let index = position.ok_or_else(|| EncodeError::CannotCarry {
            format,
            problem: format!(
                "the model has no output {}; it returns {}",
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

/// The formats that an element of `Accept` allows, the best first.
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

/// Whether `Accept` excludes the format: the most specific element that matches it has `q=0`.
fn is_excluded(format: Format, ranges: &[Range]) -> bool {
    let about = ranges.iter().filter(|range| range.matches(format.media_type()));
    about
        .max_by_key(|range| range.specificity())
        .is_some_and(|range| range.quality == 0)
}
