//! `application/octet-stream`: the elements of one tensor, little-endian, in row-major order.
//!
//! The element type is that of the model. The shape is the parameter `shape`
//! (`application/octet-stream; shape="2,3,224,224"`). Without it, the shape follows from the number
//! of elements if the model leaves at most one axis open.

use bytes::Bytes;

use super::error::{DecodeError, EncodeError, InputError, describe_inputs, excerpt};
use super::fit::{ShapeForm, fit, mismatch};
use super::media_type::MediaType;
use super::schema::Schema;
use super::{DecodedRequest, Format, ReplyPlan};
use crate::codec::column::wrong_size;
use crate::codec::reply_plan::Dialect;
use crate::tensor::{DataType, Dim, InputSpec, Shape, Tensor};

fn malformed(problem: impl Into<String>) -> DecodeError {
    DecodeError::malformed(Format::Octets, problem)
}

pub(super) fn decode(media_type: &MediaType<'_>, body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let unnamed = || InputError::Unnamed {
        what: "an octet stream",
        takes: describe_inputs(schema.signature()),
        instead: "send application/x-npz or application/json with the inputs by name",
    };
    let input = schema.only_input().ok_or_else(unnamed)?;
    let spec = &schema.signature().inputs[input];
    let size = spec.data_type.size().ok_or_else(|| mismatch(spec, "bytes"))?;
    if !body.len().is_multiple_of(size) {
        let problem = format!(
            "{} bytes are not a multiple of the size of {}",
            body.len(),
            spec.data_type
        );
        return Err(malformed(problem));
    }
    let count = body.len() / size;
    let shape = match media_type.parameter("shape") {
        Some(shape) => parse_shape(shape)?,
        None => shape_of(spec, count).ok_or_else(|| {
            malformed(format!(
                "{count} elements do not determine a shape; give it, as in application/octet-stream; shape=\"1,{count}\""
            ))
        })?,
    };
    let given = format!("{}{}", spec.data_type, Shape(&shape));
    let fitted = fit(spec, shape, ShapeForm::Whole).map_err(|_| mismatch(spec, given))?;
    if spec.data_type == DataType::Bool && body.iter().any(|&byte| byte > 1) {
        return Err(malformed("a boolean is a byte of 0 or 1"));
    }
    let tensor = Tensor::from_bytes(spec.data_type, fitted, body.clone()).map_err(|error| wrong_size(spec, &error))?;
    let mut inputs = schema.empty_slots();
    inputs[input] = Some(tensor);
    Ok(DecodedRequest::new(
        schema.complete(inputs, None)?,
        ReplyPlan::new(Dialect::Rows),
    ))
}

/// Parses the parameter `shape`.
fn parse_shape(text: &str) -> Result<Vec<usize>, DecodeError> {
    let inner = text.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
    let sizes = inner.split([',', 'x']).map(str::trim).filter(|size| !size.is_empty());
    sizes
        .map(|size| {
            size.parse().map_err(|_| {
                malformed(format!(
                    "its parameter shape has {} where a size is expected",
                    excerpt(size)
                ))
            })
        })
        .collect()
}

/// The shape of `count` elements of an input. `None` if the model leaves more than one axis open,
/// or `count` does not fit.
fn shape_of(spec: &InputSpec, count: usize) -> Option<Vec<usize>> {
    let dims = spec.dims.as_deref()?;
    let fixed = dims.iter().filter_map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Dynamic(_) => None,
    });
    let unit = fixed.fold(1, usize::saturating_mul);
    let open = dims.iter().filter(|dim| matches!(dim, Dim::Dynamic(_))).count();
    if open > 1 || unit == 0 || !count.is_multiple_of(unit) {
        return None;
    }
    let shape = dims.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic(_) => count / unit,
    });
    Some(shape.collect())
}

/// Writes the elements of the only output.
pub(super) fn encode(name: &str, tensor: &Tensor) -> Result<Bytes, EncodeError> {
    tensor.as_bytes().cloned().ok_or_else(|| EncodeError::CannotCarry {
        format: Format::Octets,
        problem: format!(
            "output {} holds strings, which have no fixed size; accept application/json",
            excerpt(name)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{decode, input, signature, tensor};
    use crate::tensor::Signature;

    fn read(content_type: &str, body: Vec<u8>, signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
        decode(content_type, body.into(), signature).map(|request| request.inputs)
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn the_shape_follows_from_the_number_of_elements_or_is_a_parameter() {
        let one = |dims: &[i64]| signature(&[input("x", DataType::F32, dims)], &[]);
        let six = floats(&[1., 2., 3., 4., 5., 6.]);
        let table: [(&str, &[i64], &[usize]); 6] = [
            ("application/octet-stream", &[-1, 3], &[2, 3]),
            ("application/octet-stream", &[2, 3], &[2, 3]),
            ("application/octet-stream", &[1, -1, 2], &[1, 3, 2]),
            ("application/octet-stream; shape=\"3,2\"", &[-1, -1], &[3, 2]),
            ("application/octet-stream; shape=[3,2]", &[-1, 2], &[3, 2]),
            ("application/octet-stream; shape=6", &[-1, 6], &[1, 6]),
        ];
        for (content_type, dims, shape) in table {
            let inputs = read(content_type, six.clone(), &one(dims)).unwrap();
            assert_eq!(
                inputs,
                [tensor(shape, &[1f32, 2., 3., 4., 5., 6.])],
                "{content_type} {dims:?}"
            );
        }
        let table: [(&str, &[i64], usize, &str); 5] = [
            ("application/octet-stream", &[-1, -1], 24, "do not determine a shape"),
            ("application/octet-stream", &[-1, 5], 24, "do not determine a shape"),
            (
                "application/octet-stream",
                &[-1, 3],
                23,
                "23 bytes are not a multiple of the size of float32",
            ),
            (
                "application/octet-stream; shape=2,a",
                &[-1, 3],
                24,
                "where a size is expected",
            ),
            (
                "application/octet-stream; shape=\"9,3\"",
                &[-1, 3],
                24,
                "the shape [9, 3] needs 108 bytes, 24 given",
            ),
        ];
        for (content_type, dims, length, expected) in table {
            let error = read(content_type, vec![0; length], &one(dims)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let flags = signature(&[input("x", DataType::Bool, &[-1])], &[]);
        assert!(read("application/octet-stream", vec![0, 2], &flags).is_err());
        let texts = signature(&[input("x", DataType::String, &[-1])], &[]);
        assert!(read("application/octet-stream", vec![0, 2], &texts).is_err());
    }
}
