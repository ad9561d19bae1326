//! Responses in the form of SageMaker's built-in algorithms, for `Accept: application/json;
//! form=score`.
//!
//! ```text
//! {"predictions": [{"score": 0.98, "predicted_label": 1}, ..]}
//! ```
//!
//! The label is the first output with one integer, string or boolean per record. The score is the
//! first output with floats or a map of floats. For two classes, it is the score of the second, as
//! in the linear learner; for more, it is the list of all scores. The response of a model without
//! labels has scores only.

use std::borrow::Cow;

use super::Format;
use super::alloc;
use super::by_record::ByRecord;
use super::error::EncodeError;
use super::recordio::row;
use super::values::write_tensor;
use crate::tensor::{DataType, Tensor};

/// Writes all records as one document, or one line for each.
pub(super) fn encode(format: Format, records: &ByRecord<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = alloc::with_capacity(records.json_bytes().saturating_add(64))?;
    let is_lines = format == Format::JsonLines;
    if !is_lines {
        out.extend_from_slice(b"{\"predictions\":[");
    }
    for record in 0..records.count() {
        if record > 0 && !is_lines {
            out.push(b',');
        }
        write_record(format, records, record, &mut out)?;
        if is_lines {
            out.push(b'\n');
        }
    }
    if !is_lines {
        out.extend_from_slice(b"]}");
    }
    Ok(out)
}

fn write_record(format: Format, records: &ByRecord<'_>, record: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let (mut label, mut score) = (None, None);
    for (_, part) in records.parts(record) {
        let Some(tensor) = row(&part) else { continue };
        let is_float = matches!(
            tensor.data_type(),
            DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64
        );
        if is_float && score.is_none() && !tensor.is_empty() {
            score = Some(tensor);
        } else if !is_float && label.is_none() && tensor.len() == 1 {
            label = Some(tensor);
        }
    }
    let Some(score) = score else {
        return Err(EncodeError::CannotCarry {
            format,
            problem: "no output has scores: form=score needs an output of floats; accept application/json without it"
                .to_owned(),
        });
    };
    out.extend_from_slice(b"{\"score\":");
    match score.len() {
        1 => write_tensor(&score, &[], 0..1, out),
        2 => write_tensor(&score, &[], 1..2, out),
        count => write_tensor(&score, &[count], 0..count, out),
    }
    if let Some(label) = label.as_ref().map(Cow::<Tensor>::as_ref) {
        out.extend_from_slice(b",\"predicted_label\":");
        write_tensor(label, &[], 0..1, out);
    }
    out.push(b'}');
    Ok(())
}
