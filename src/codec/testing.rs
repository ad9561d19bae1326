//! Helpers for the tests of the formats.

use bytes::Bytes;
use half::{bf16, f16};

use crate::codec::by_record::has_entries;
use crate::codec::{
    DecodeError, DecodedRequest, Documents, EncodeError, EncodedResponse, Format, ReplyPlan, Schema, encode,
};
use crate::tensor::{
    DataType, Dim, Element, InputSpec, OutputRows, OutputSpec, Records, Signature, Tensor, Value, ValueType,
};

/// Converts sizes to dimensions; -1 is a dynamic axis.
fn dims(dims: &[i64]) -> Option<Vec<Dim>> {
    let dim = |&dim| usize::try_from(dim).map_or_else(|_| Dim::Dynamic(Some("batch".into())), Dim::Fixed);
    Some(dims.iter().map(dim).collect())
}

pub fn input(name: &str, data_type: DataType, shape: &[i64]) -> InputSpec {
    InputSpec {
        name: name.into(),
        data_type,
        dims: dims(shape),
    }
}

pub fn output(name: &str, data_type: DataType, shape: &[i64]) -> OutputSpec {
    OutputSpec {
        name: name.into(),
        value_type: ValueType::Tensor {
            data_type,
            dims: dims(shape),
        },
        rows: OutputRows::PerRecord,
    }
}

/// scikit-learn's probabilities: a map per row.
pub fn zip_map(name: &str, key: DataType) -> OutputSpec {
    let value = Box::new(ValueType::Tensor {
        data_type: DataType::F32,
        dims: dims(&[]),
    });
    OutputSpec {
        name: name.into(),
        value_type: ValueType::Sequence(Box::new(ValueType::Map { key, value })),
        rows: OutputRows::PerRecord,
    }
}

pub fn signature(inputs: &[InputSpec], outputs: &[OutputSpec]) -> Signature {
    Signature {
        optional: Vec::new(),
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
    }
}

/// `x: float32[batch, 2]` to `y: float32[batch, 2]`.
pub fn pairs() -> Signature {
    signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[output("y", DataType::F32, &[-1, 2])],
    )
}

/// A model that returns its input, of any shape.
pub fn identity(data_type: DataType) -> Signature {
    let mut signature = signature(&[input("x", data_type, &[])], &[output("x", data_type, &[])]);
    signature.inputs[0].dims = None;
    signature.outputs[0].value_type = ValueType::Tensor { data_type, dims: None };
    signature
}

pub fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values.to_vec()).unwrap()
}

pub fn strings(shape: &[usize], values: &[&'static [u8]]) -> Tensor {
    Tensor::from_strings(shape.to_vec(), values.iter().map(|v| Bytes::from_static(v)).collect()).unwrap()
}

/// A tensor of shape `[2, 2]` with the extremes of the type.
pub fn sample(data_type: DataType) -> Tensor {
    let shape = &[2, 2];
    match data_type {
        DataType::F16 => tensor(shape, &[f16::MIN, f16::MAX, f16::from_f32(0.1), f16::INFINITY]),
        DataType::Bf16 => tensor(shape, &[bf16::MIN, bf16::MAX, bf16::from_f32(0.1), bf16::NEG_INFINITY]),
        DataType::F32 => tensor(shape, &[f32::MIN, f32::MIN_POSITIVE, 0.1, f32::INFINITY]),
        DataType::F64 => tensor(shape, &[f64::MIN, f64::MIN_POSITIVE, 0.1, f64::NEG_INFINITY]),
        DataType::I8 => tensor(shape, &[i8::MIN, i8::MAX, 0, -1]),
        DataType::I16 => tensor(shape, &[i16::MIN, i16::MAX, 0, -1]),
        DataType::I32 => tensor(shape, &[i32::MIN, i32::MAX, 0, -1]),
        DataType::I64 => tensor(shape, &[i64::MIN, i64::MAX, 0, -1]),
        DataType::U8 => tensor(shape, &[u8::MAX, 0, 1, 2]),
        DataType::U16 => tensor(shape, &[u16::MAX, 0, 1, 2]),
        DataType::U32 => tensor(shape, &[u32::MAX, 0, 1, 2]),
        DataType::U64 => tensor(shape, &[u64::MAX, 0, 1, 2]),
        DataType::Bool => Tensor::from_bools(shape.to_vec(), vec![1, 0, 0, 1]).unwrap(),
        DataType::String => strings(shape, &[b"plain", "é\u{1f600}".as_bytes(), b"a,\"b\"\n", b""]),
    }
}

/// The format of the response.
pub fn negotiate(
    accept: Option<&str>,
    default: Format,
    plan: &ReplyPlan,
    signature: &Signature,
) -> Result<Format, EncodeError> {
    crate::codec::negotiate(accept, default, plan, signature).map(|(format, _)| format)
}

/// Reads a request to a model without a manifest.
pub fn decode(content_type: &str, body: Bytes, signature: &Signature) -> Result<DecodedRequest, DecodeError> {
    crate::codec::decode(content_type, body, &Schema::of(signature.clone()), Documents::One)
}

pub fn decode_str(content_type: &str, body: &str, signature: &Signature) -> Result<DecodedRequest, DecodeError> {
    decode(content_type, Bytes::copy_from_slice(body.as_bytes()), signature)
}

/// The inputs of a JSON body.
pub fn inputs(body: &str, signature: &Signature) -> Vec<Tensor> {
    decode_str("application/json", body, signature)
        .unwrap_or_else(|e| panic!("{body}: {e}"))
        .inputs
}

/// The plan of a request in row form.
pub fn row_plan() -> ReplyPlan {
    plan_of("[[1,2]]")
}

/// The plan of a JSON request to [`pairs`].
pub fn plan_of(body: &str) -> ReplyPlan {
    decode_str("application/json", body, &pairs()).unwrap().reply
}

/// The plan for a request with one record per entry of `outputs`, if all have the same number.
fn for_records_of(plan: &ReplyPlan, outputs: &[Value]) -> ReplyPlan {
    let count = outputs.first().and_then(Value::entries);
    let records = match count {
        Some(count) if has_entries(outputs.iter(), count) => Records::Separable(count),
        Some(_) | None => Records::One,
    };
    ReplyPlan {
        records,
        ..plan.clone()
    }
}

/// The response with the `outputs` of one run, for one record per entry.
pub fn encoded(format: Format, plan: &ReplyPlan, signature: &Signature, outputs: &[Value]) -> EncodedResponse {
    let plan = for_records_of(plan, outputs);
    encode(format, &plan, "m", signature, &[outputs.to_vec()]).unwrap()
}

/// The body of a response as text.
pub fn reply(format: Format, plan: &ReplyPlan, signature: &Signature, outputs: &[Value]) -> String {
    String::from_utf8(encoded(format, plan, signature, outputs).body.to_vec()).unwrap()
}

pub fn refusal(format: Format, plan: &ReplyPlan, signature: &Signature, outputs: &[Value]) -> EncodeError {
    let plan = for_records_of(plan, outputs);
    encode(format, &plan, "m", signature, &[outputs.to_vec()]).unwrap_err()
}
