//! `application/vnd.sagemaker-triton.binary+json;json-header-size=N`: the first N bytes are an
//! [`open_inference`] document. The rest is the data of the tensors that declare a
//! `binary_data_size`, in order.
//!
//! The parameter replaces the header `Inference-Header-Content-Length`, which SageMaker does not
//! pass on. Data is little-endian, like tensors in memory, so a fixed-size tensor borrows the body.
//! Each string (`BYTES`) follows its length in four bytes. The sizes must add up to the body
//! exactly: a byte more or less means that client and server disagree about the layout.

use bytes::Bytes;

use crate::codec::alloc;
use crate::codec::column::wrong_size;
use crate::codec::element::ElementKind;
use crate::codec::error::{DecodeError, EncodeError, excerpt};
use crate::codec::json_reader::JsonReader;
use crate::codec::media_type::MediaType;
use crate::codec::numbers::{MAX_STRINGS, ValueProblem};
use crate::codec::open_inference::{self, BinaryTail, TensorOutput, unusable};
use crate::codec::values::tensor_json_bytes;
use crate::codec::{DecodedRequest, EncodedResponse, Format, Schema};
use crate::tensor::{DataType, InputSpec, Tensor, element_count};

pub(super) const MEDIA_TYPE: &str = "application/vnd.sagemaker-triton.binary+json";
const HEADER_SIZE: &str = "json-header-size";
/// The number of bytes of the length before a string.
const PREFIX_BYTES: usize = 4;

pub(super) fn decode(media_type: &MediaType<'_>, body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let malformed = |problem: String| DecodeError::malformed(Format::TritonBinary, problem);
    let Some(given) = media_type.parameter(HEADER_SIZE) else {
        return Err(malformed(format!("the content type needs the parameter {HEADER_SIZE}")));
    };
    let size = json_size(HEADER_SIZE, given, body).map_err(malformed)?;
    let header = body.slice(..size);
    let mut reader = JsonReader::new(Format::TritonBinary, &header)?;
    open_inference::decode(&mut reader, schema, &mut BinaryTail::Bytes(body.slice(size..)))
}

/// Parses the length of the JSON in `body` from `given`, the value of the parameter or header
/// `what`. The error is a message for the caller.
pub(super) fn json_size(what: &str, given: &str, body: &Bytes) -> Result<usize, String> {
    let size = given
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| given.parse::<usize>());
    match size {
        Some(Ok(size)) if size <= body.len() => Ok(size),
        Some(Ok(size)) => Err(format!("{what} is {size}, but the body has {} bytes", body.len())),
        _ => Err(format!("{what} is {}, not a number of bytes", excerpt(given))),
    }
}

/// Builds a tensor from its binary data.
pub(super) fn tensor(spec: &InputSpec, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor, DecodeError> {
    let tensor = match spec.data_type {
        DataType::String => {
            let count = element_count(&shape).unwrap_or(usize::MAX);
            Tensor::from_strings(shape, strings(spec, bytes, count)?)
        }
        DataType::Bool if bytes.iter().any(|&byte| byte > 1) => {
            return Err(unusable(spec, "a boolean is a byte that is 0 or 1".to_owned()));
        }
        fixed => Tensor::from_bytes(fixed, shape, bytes),
    };
    tensor.map_err(|error| wrong_size(spec, &error).into())
}

/// Splits `bytes` into strings, each after its length. The strings borrow `bytes`.
fn strings(spec: &InputSpec, mut bytes: Bytes, count: usize) -> Result<Vec<Bytes>, DecodeError> {
    let mut strings = alloc::with_capacity(count.min(bytes.len() / PREFIX_BYTES).min(MAX_STRINGS))?;
    while let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() {
        if strings.len() == MAX_STRINGS {
            let problem = ValueProblem::TooManyStrings.describe("", DataType::String);
            return Err(unusable(spec, problem));
        }
        let length = u32::from_le_bytes(*prefix) as usize;
        let left = bytes.len() - PREFIX_BYTES;
        if length > left {
            let problem = format!("string [{}] has {length} bytes, but {left} are left", strings.len());
            return Err(unusable(spec, problem));
        }
        let mut string = bytes.split_to(PREFIX_BYTES + length);
        strings.push(string.split_off(PREFIX_BYTES));
    }
    if !bytes.is_empty() {
        return Err(unusable(spec, format!("{} bytes follow the last string", bytes.len())));
    }
    Ok(strings)
}

/// Writes a response. `binary` flags the outputs whose data follows the JSON; outputs without a
/// flag do too.
pub(super) fn encode(
    id: Option<&str>,
    model: &str,
    outputs: &[TensorOutput<'_>],
    binary: &[bool],
) -> Result<EncodedResponse, EncodeError> {
    let is_binary = |i: usize| binary.get(i).copied().unwrap_or(true);
    let size = |i: usize| is_binary(i).then(|| binary_size(outputs[i].tensor));
    let data_bytes = |i: usize| size(i).unwrap_or_else(|| tensor_json_bytes(outputs[i].tensor));
    let total: usize = (0..outputs.len()).map(data_bytes).sum();
    let mut body = open_inference::encode(id, model, outputs, size, total)?;
    let header_size = body.len();
    for (_, TensorOutput { name, tensor }) in outputs.iter().enumerate().filter(|(i, _)| is_binary(*i)) {
        append(name, tensor, &mut body)?;
    }
    Ok(EncodedResponse {
        content_type: format!("{MEDIA_TYPE};{HEADER_SIZE}={header_size}").into(),
        json_bytes: Some(header_size),
        body: body.into(),
    })
}

fn binary_size(tensor: &Tensor) -> usize {
    match tensor.as_strings() {
        Some(strings) => strings.iter().map(|string| PREFIX_BYTES + string.len()).sum(),
        None => tensor.byte_len(),
    }
}

fn append(name: &str, tensor: &Tensor, body: &mut Vec<u8>) -> Result<(), EncodeError> {
    if let Some(bytes) = tensor.as_bytes() {
        body.extend_from_slice(bytes);
        return Ok(());
    }
    for string in <String as ElementKind>::items(tensor) {
        let length = u32::try_from(string.len()).map_err(|_| EncodeError::CannotCarry {
            format: Format::TritonBinary,
            problem: format!("a string of output {} is longer than 4 GiB", excerpt(name)),
        })?;
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(string);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
