use bytes::Bytes;

use crate::codec::testing::{
    decode, encoded, identity, input, negotiate, output, refusal, row_plan, sample, signature, strings, tensor, zip_map,
};
use crate::codec::{DecodeError, DecodedRequest, Format};
use crate::tensor::{DataType, Signature, Value};

fn content_type(size: impl std::fmt::Display) -> String {
    format!("application/vnd.sagemaker-triton.binary+json;json-header-size={size}")
}

fn send(header: &str, tail: &[u8], signature: &Signature) -> Result<DecodedRequest, DecodeError> {
    let body = [header.as_bytes(), tail].concat();
    decode(&content_type(header.len()), body.into(), signature)
}

/// `a: int32[batch]`, `s: string[batch]`, `f: bool[batch]`.
fn three() -> Signature {
    signature(
        &[
            input("a", DataType::I32, &[-1]),
            input("s", DataType::String, &[-1]),
            input("f", DataType::Bool, &[-1]),
        ],
        &[output("a", DataType::I32, &[-1]), output("s", DataType::String, &[-1])],
    )
}

const HEADER: &str = r#"{"id":"1","inputs":[
    {"name":"f","shape":[2],"datatype":"BOOL","data":[true,false]},
    {"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":11}},
    {"name":"a","shape":[2],"datatype":"INT32","parameters":{"binary_data_size":8}}],
    "parameters":{"binary_data_output":true}}"#;
const TAIL: &[u8] = b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0\xff\xff\xff\xff";

#[test]
fn binary_tensors_are_in_the_order_of_the_header() {
    let request = send(HEADER, TAIL, &three()).unwrap();
    assert_eq!(request.inputs[0], tensor(&[2], &[1i32, -1]));
    assert_eq!(request.inputs[1], strings(&[2], &[b"abc", b""]));
    assert_eq!(request.inputs[2].as_bytes().unwrap().as_ref(), [1, 0]);
}

#[test]
fn an_aligned_tensor_borrows_the_body() {
    let mut header =
        r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","parameters":{"binary_data_size":16}}]}"#.to_owned();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    // Whole words align the body for its tensor.
    let mut words = vec![0u64; header.len() / 8 + 2];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..header.len()].copy_from_slice(header.as_bytes());
    let body = Bytes::from_owner(AlignedWords(words));
    let data = body.as_ptr().wrapping_add(header.len());
    let request = decode(&content_type(header.len()), body, &identity(DataType::F64)).unwrap();
    assert_eq!(request.inputs[0].as_bytes().unwrap().as_ptr(), data);
}

struct AlignedWords(Vec<u64>);

impl AsRef<[u8]> for AlignedWords {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[test]
fn the_header_size_is_between_zero_and_the_length_of_the_body() {
    let body = Bytes::from_static(b"{}");
    let table = [
        ("", "the content type needs the parameter json-header-size"),
        (";json-header-size=", "json-header-size is \"\", not a number of bytes"),
        (
            ";json-header-size=-1",
            "json-header-size is \"-1\", not a number of bytes",
        ),
        (
            ";json-header-size=%2B1",
            "json-header-size is \"%2B1\", not a number of bytes",
        ),
        (
            ";json-header-size=+1",
            "json-header-size is \"+1\", not a number of bytes",
        ),
        (
            ";json-header-size=2.0",
            "json-header-size is \"2.0\", not a number of bytes",
        ),
        (
            ";json-header-size=\"\"",
            "json-header-size is \"\", not a number of bytes",
        ),
        (";json-header-size=3", "json-header-size is 3, but the body has 2 bytes"),
        (
            ";json-header-size=18446744073709551615",
            "json-header-size is 18446744073709551615, but the body has 2 bytes",
        ),
        (
            ";json-header-size=18446744073709551616",
            "json-header-size is \"18446744073709551616\", not a number of bytes",
        ),
        (";json-header-size=0", "EOF while parsing a value at line 1 column 0"),
        (";json-header-size=2", "the JSON has no \"inputs\""),
        (";json-header-size=1", "EOF while parsing an object at line 1 column 1"),
    ];
    for (parameter, expected) in table {
        let content_type = format!("application/vnd.sagemaker-triton.binary+json{parameter}");
        let error = decode(&content_type, body.clone(), &three()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DecodeError::Malformed { .. }), "{text}");
        assert!(text.ends_with(expected), "{parameter}: {text}");
    }
}

#[test]
fn the_declared_sizes_must_add_up_to_the_body() {
    let x = |size: &str, datatype: &str, shape: &str| {
        format!(
            r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    let ints = identity(DataType::I32);
    let texts = identity(DataType::String);
    let bools = identity(DataType::Bool);
    let table: [(&Signature, String, &[u8], &str); 12] = [
        (
            &ints,
            x("8", "INT32", "[2]"),
            &[0; 7],
            "input \"x\": binary_data_size is 8, but 7 bytes are left",
        ),
        (
            &ints,
            x("8", "INT32", "[2]"),
            &[0; 9],
            "1 bytes follow the binary data that the inputs declare",
        ),
        (
            &ints,
            x("7", "INT32", "[2]"),
            &[0; 7],
            "input \"x\": the shape [2] needs 8 bytes, 7 given",
        ),
        (
            &ints,
            x("0", "INT32", "[2]"),
            &[],
            "input \"x\": the shape [2] needs 8 bytes, 0 given",
        ),
        (
            &ints,
            x("18446744073709551615", "INT32", "[2]"),
            &[0; 8],
            "binary_data_size is 18446744073709551615, but 8 bytes are left",
        ),
        (
            &ints,
            x("18446744073709551616", "INT32", "[2]"),
            &[0; 8],
            "binary_data_size must be a whole number, not negative",
        ),
        (
            &ints,
            x("-8", "INT32", "[2]"),
            &[0; 8],
            "binary_data_size must be a whole number, not negative",
        ),
        (
            &texts,
            x("5", "BYTES", "[1]"),
            b"\x02\0\0\0a",
            "input \"x\": string [0] has 2 bytes, but 1 are left",
        ),
        (
            &texts,
            x("4", "BYTES", "[1]"),
            b"\xff\xff\xff\xff",
            "string [0] has 4294967295 bytes, but 0 are left",
        ),
        (
            &texts,
            x("6", "BYTES", "[1]"),
            b"\x01\0\0\0ab",
            "input \"x\": 1 bytes follow the last string",
        ),
        (
            &texts,
            x("4", "BYTES", "[2]"),
            b"\0\0\0\0",
            "input \"x\": the shape [2] needs 2 elements, 1 given",
        ),
        (
            &bools,
            x("2", "BOOL", "[2]"),
            &[1, 2],
            "input \"x\": a boolean is a byte that is 0 or 1",
        ),
    ];
    for (signature, header, tail, expected) in table {
        let error = send(&header, tail, signature).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{header}: {error}");
    }
    let both =
        r#"{"inputs":[{"name":"x","shape":[2],"datatype":"INT32","data":[1,2],"parameters":{"binary_data_size":8}}]}"#;
    let error = send(both, &[0; 8], &ints).unwrap_err().to_string();
    assert!(
        error.ends_with("inputs[0] has both \"data\" and \"binary_data_size\""),
        "{error}"
    );
}

#[test]
fn a_huge_declared_shape_of_strings_allocates_nothing() {
    let header =
        r#"{"inputs":[{"name":"x","shape":[1099511627776],"datatype":"BYTES","parameters":{"binary_data_size":0}}]}"#;
    let error = send(header, &[], &identity(DataType::String)).unwrap_err().to_string();
    assert!(error.ends_with("needs 1099511627776 elements, 0 given"), "{error}");
}

#[test]
fn the_response_has_its_own_header_size_and_the_data_after_the_json() {
    let plan = send(HEADER, TAIL, &three()).unwrap().reply;
    let outputs = [
        Value::Tensor(tensor(&[2], &[1i32, -1])),
        Value::Tensor(strings(&[2], &[b"abc", b""])),
    ];
    assert_eq!(negotiate(None, Format::Json, &plan, &three()), Ok(Format::TritonBinary));
    let reply = encoded(Format::TritonBinary, &plan, &three(), &outputs);
    let header = concat!(
        r#"{"model_name":"m","model_version":"1","id":"1","outputs":["#,
        r#"{"name":"a","datatype":"INT32","shape":[2],"parameters":{"binary_data_size":8}},"#,
        r#"{"name":"s","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11}}]}"#
    );
    assert_eq!(reply.content_type, content_type(header.len()));
    let (given, tail) = reply.body.split_at(header.len());
    assert_eq!(std::str::from_utf8(given).unwrap(), header);
    assert_eq!(tail, b"\x01\0\0\0\xff\xff\xff\xff\x03\0\0\0abc\0\0\0\0");
}

#[test]
fn only_the_flagged_outputs_are_binary() {
    let header = HEADER.replace(
        r#""parameters":{"binary_data_output":true}"#,
        r#""outputs":[{"name":"s"},{"name":"a","parameters":{"binary_data":true}}]"#,
    );
    let plan = send(&header, TAIL, &three()).unwrap().reply;
    let outputs = [
        Value::Tensor(strings(&[1], &[b"abc"])),
        Value::Tensor(tensor(&[1], &[7i32])),
    ];
    let reply = encoded(Format::TritonBinary, &plan, &three(), &outputs);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(text.contains(r#""shape":[1],"data":["abc"]}"#), "{text}");
    assert!(
        text.ends_with("\"parameters\":{\"binary_data_size\":4}}]}\x07\0\0\0"),
        "{text}"
    );
    // Accept can still ask for plain JSON.
    assert_eq!(
        negotiate(Some("application/json"), Format::Json, &plan, &three()),
        Ok(Format::Json)
    );
}

#[test]
fn accept_can_request_a_binary_response_for_any_request() {
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        let reply = encoded(
            Format::TritonBinary,
            &row_plan(),
            &signature,
            &[Value::Tensor(sample(data_type))],
        );
        // The decoder reads what the encoder writes, once the outputs are renamed to inputs.
        let (kind, size) = reply.content_type.rsplit_once('=').unwrap();
        let size: usize = size.parse().unwrap();
        let header = std::str::from_utf8(&reply.body[..size])
            .unwrap()
            .replace("\"outputs\"", "\"inputs\"");
        let body = [header.as_bytes(), &reply.body[size..]].concat();
        let request = decode(&format!("{kind}={}", header.len()), body.into(), &signature).unwrap();
        assert_eq!(request.inputs, [sample(data_type)]);
    }
}

#[test]
fn refuses_outputs_that_are_not_tensors_before_and_after_the_run() {
    let mut signature = identity(DataType::I64);
    signature.outputs = vec![zip_map("p", DataType::I64)];
    let error = negotiate(Some(super::MEDIA_TYPE), Format::Json, &row_plan(), &signature).unwrap_err();
    assert!(error.to_string().contains("output \"p\" is not a tensor"), "{error}");
    let error = refusal(
        Format::TritonBinary,
        &row_plan(),
        &signature,
        &[Value::Sequence(vec![])],
    );
    assert!(error.to_string().contains("output \"p\" is not a tensor"), "{error}");
}
