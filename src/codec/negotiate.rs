//! The format of a reply, chosen before the model runs.

use super::error::{EncodeError, excerpt};
use super::media_type::{Range, accept_ranges};
use super::{Format, ReplyPlan};
use crate::tensor::Signature;

/// Chooses the format of the reply (CT-2): the most wanted type of `Accept` that exists and that can carry the outputs.
///
/// Without `Accept`, and for `*/*`, it is `default`, except that a request of the Open Inference Protocol is answered
/// in that protocol. `type/*` is the default too when that is of this type, else the first format that is. Where a
/// wildcard leaves the choice and the default cannot carry the outputs, JSON does. A type that exists but cannot carry
/// the outputs is only an error when nothing else in `Accept` does better; so is having nothing in common (406).
pub fn negotiate(
    accept: Option<&str>,
    default: Format,
    plan: &ReplyPlan,
    signature: &Signature,
) -> Result<Format, EncodeError> {
    let implied = plan.implied_format(default);
    let accept = match accept.map(str::trim) {
        None | Some("") => "*/*",
        Some(accept) => accept,
    };
    let ranges = accept_ranges(accept);
    let mut refusal = None;
    for range in ranges.iter().filter(|range| range.quality > 0) {
        for format in candidates(range, implied).filter(|format| !is_excluded(*format, &ranges)) {
            match plan.fits(format, signature) {
                Ok(()) => return Ok(format),
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

/// The formats that an element of `Accept` asks for, the best first.
fn candidates(range: &Range, implied: Format) -> impl Iterator<Item = Format> {
    let wildcard: &[Format] = match (range.main.as_str(), range.sub.as_str()) {
        ("*", _) => &[Format::Json],
        (_, "*") => &Format::ALL,
        _ => &[],
    };
    let named = Format::from_essence(&format!("{}/{}", range.main, range.sub));
    let chosen = (!wildcard.is_empty()).then_some(implied);
    let offered = chosen
        .into_iter()
        .chain(wildcard.iter().copied())
        .filter(|format| range.matches(format.media_type()));
    named.into_iter().chain(offered)
}

/// Whether `Accept` says "not this": the most specific element about the format has `q=0`.
fn is_excluded(format: Format, ranges: &[Range]) -> bool {
    let about = ranges.iter().filter(|range| range.matches(format.media_type()));
    about
        .max_by_key(|range| range.specificity())
        .is_some_and(|range| range.quality == 0)
}
