use bytes::Bytes;
use proptest::prelude::*;

use crate::codec::testing::{encoded, identity, input, negotiate, pairs, sample, signature, strings, tensor};
use crate::codec::{DecodeError, DecodedRequest, Format, Schema, datatype_name};
use crate::tensor::{DataType, Signature, Value};

/// Reads a request to a model without a manifest.
fn decode(json_bytes: Option<&str>, body: &Bytes, signature: &Signature) -> Result<DecodedRequest, DecodeError> {
    super::decode(json_bytes, body, &Schema::of(signature.clone()))
}

fn error(json_bytes: Option<&str>, body: &[u8], signature: &Signature) -> String {
    let error = decode(json_bytes, &Bytes::copy_from_slice(body), signature).unwrap_err();
    assert!(
        matches!(error, DecodeError::Malformed { .. } | DecodeError::Input(_)),
        "{error:?}"
    );
    error.to_string()
}

#[test]
fn refuses_a_header_that_does_not_fit_the_body_and_names_it() {
    let table = [
        ("", "Inference-Header-Content-Length is \"\", not a number of bytes"),
        ("+2", "Inference-Header-Content-Length is \"+2\", not a number of bytes"),
        ("-1", "Inference-Header-Content-Length is \"-1\", not a number of bytes"),
        ("2 ", "Inference-Header-Content-Length is \"2 \", not a number of bytes"),
        (
            "0x2",
            "Inference-Header-Content-Length is \"0x2\", not a number of bytes",
        ),
        (
            "18446744073709551616",
            "is \"18446744073709551616\", not a number of bytes",
        ),
        ("3", "Inference-Header-Content-Length is 3, but the body has 2 bytes"),
        ("0", "EOF while parsing a value at line 1 column 0"),
        ("1", "EOF while parsing an object at line 1 column 1"),
        ("2", "the JSON has no \"inputs\""),
    ];
    for (given, expected) in table {
        let error = error(Some(given), b"{}", &pairs());
        assert!(
            error.starts_with("the body is not a valid Open Inference Protocol request: "),
            "{error}"
        );
        assert!(error.ends_with(expected), "{given}: {error}");
    }
}

#[test]
fn refuses_bodies_that_are_not_documents_of_the_protocol() {
    let table: [(&[u8], &str); 8] = [
        (b"", "the body is empty"),
        (b"[[1,2]]", "the JSON must be an object with \"inputs\""),
        (b"1,2", "the JSON must be an object with \"inputs\""),
        (b"{\"instances\":[[1,2]]}", "the JSON has no \"inputs\""),
        (
            b"{\"inputs\":{\"x\":[[1,2]]}}",
            "\"inputs\" must be an array of objects with name, shape, datatype and data",
        ),
        (b"{\"inputs\":[[1,2]]}", "inputs[0] is not an object"),
        (
            b"{\"inputs\":[]}",
            "input \"x\" is missing; the model takes \"x\" float32[batch, 2]",
        ),
        (b"{\"inputs\":[", "EOF while parsing a list at line 1 column 11"),
    ];
    for (body, expected) in table {
        let error = error(None, body, &pairs());
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn refuses_binary_data_without_the_header_and_names_the_header() {
    let body =
        br#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}12345678"#;
    assert_eq!(
        error(None, body, &pairs()),
        "input \"x\": binary_data_size needs the header Inference-Header-Content-Length"
    );
}

#[test]
fn a_body_is_json_alone_or_json_followed_by_its_tensors() {
    let signature = signature(
        &[input("n", DataType::I32, &[-1]), input("s", DataType::String, &[-1])],
        &[],
    );
    let plain = br#"{"inputs":[{"name":"n","shape":[2],"datatype":"INT32","data":[1,-1]},
        {"name":"s","shape":[2],"datatype":"BYTES","data":["abc",""]}]}"#;
    let json = r#"{"inputs":[{"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":11}},
        {"name":"n","shape":[2],"datatype":"INT32","parameters":{"binary_data_size":8}}]}"#;
    let binary = [json.as_bytes(), b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0\xff\xff\xff\xff"].concat();
    let size = json.len().to_string();
    let length = plain.len().to_string();
    for (json_bytes, body) in [
        (None, &plain[..]),
        // The header covers the whole body, which means the same.
        (Some(length.as_str()), &plain[..]),
        (Some(size.as_str()), &binary),
    ] {
        let request = decode(json_bytes, &Bytes::copy_from_slice(body), &signature).unwrap();
        assert_eq!(
            request.inputs,
            [tensor(&[2], &[1i32, -1]), strings(&[2], &[b"abc", b""])]
        );
    }
}

#[test]
fn samples_of_every_type_come_back_as_they_were_sent() {
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        let (given, element) = (Value::Tensor(sample(data_type)), datatype_name(data_type));
        let data = if data_type == DataType::String { "\"\"" } else { "0" };
        for binary in [true, false] {
            let ask = format!(
                r#"{{"inputs":[{{"name":"x","shape":[],"datatype":"{element}","data":[{data}]}}],
                    "parameters":{{"binary_data_output":{binary}}}}}"#
            );
            let plan = decode(None, &ask.into(), &signature).unwrap().reply;
            let format = negotiate(None, Format::Json, &plan, &signature).unwrap();
            let reply = encoded(format, &plan, &signature, std::slice::from_ref(&given));
            assert_eq!(reply.json_bytes.is_some(), binary);
            // The decoder reads what the encoder writes, once the outputs are renamed to inputs.
            let (json, tail) = reply.body.split_at(reply.json_bytes.unwrap_or(reply.body.len()));
            let json = std::str::from_utf8(json).unwrap().replace("\"outputs\"", "\"inputs\"");
            let header = reply.json_bytes.map(|_| json.len().to_string());
            let body = [json.as_bytes(), tail].concat();
            let again = decode(header.as_deref(), &body.into(), &signature).unwrap();
            assert_eq!(again.inputs, [sample(data_type)], "{json}");
        }
    }
}

proptest! {
    #[test]
    fn any_header_and_body_are_read_or_refused_with_a_short_message(
        header in prop::option::of("[0-9]{0,3}|\\PC{0,200}"),
        body in prop::collection::vec(any::<u8>(), 0..200),
        valid in any::<bool>(),
    ) {
        let json = br#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#;
        let body = if valid { [&json[..], &body].concat() } else { body };
        if let Err(error) = decode(header.as_deref(), &body.into(), &pairs()) {
            prop_assert!(error.to_string().len() < 900, "{}", error);
        }
    }
}
