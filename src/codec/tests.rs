//! Tests of all formats together.

use bytes::Bytes;
use proptest::prelude::*;

use super::testing::{
    decode, decode_str, encoded, identity, input, inputs, negotiate, output, pairs, row_plan, sample, signature,
    strings, tensor, zip_map,
};
use super::{DecodeError, EncodeError, Format, encode};
use crate::tensor::{DataType, Dim, Signature, Tensor, Value};

const OIP: &str = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;

/// CT-1, CT-4, MC-6.
#[test]
fn a_content_type_is_known_by_type_and_subtype_alone() {
    let csv = "1,2\n";
    for known in [
        "text/csv",
        "TEXT/CSV",
        "text/csv; charset=utf-8",
        "text/csv;Charset=\"UTF-8\"; x=y",
        "text/csv;charset=US-ASCII",
    ] {
        assert_eq!(
            decode_str(known, csv, &pairs()).unwrap().inputs,
            [tensor(&[1, 2], &[1f32, 2.])],
            "{known}"
        );
    }
    for charset in ["utf-16", "\"utf-8 \"", "windows-1252"] {
        let error = decode_str(&format!("text/csv;charset={charset}"), csv, &pairs()).unwrap_err();
        assert!(
            matches!(error, DecodeError::UnsupportedCharset { .. }),
            "{charset}: {error}"
        );
    }
    for unknown in [
        "text/html",
        "application/x-unknown",
        "text/*",
        "*/*",
        "csv",
        "",
        "text/csv charset",
    ] {
        let error = decode_str(unknown, csv, &pairs()).unwrap_err();
        assert!(
            matches!(error, DecodeError::UnsupportedMediaType { .. }),
            "{unknown}: {error}"
        );
    }
    // A binary format ignores the character set.
    let npy = encoded(
        Format::Npy,
        &row_plan(),
        &pairs(),
        &[Value::Tensor(tensor(&[1, 2], &[1f32, 2.]))],
    )
    .body;
    assert!(decode("application/x-npy; charset=binary", npy, &pairs()).is_ok());
}

/// CT-2.
#[test]
fn accept_chooses_the_format() {
    use Format::{Csv, Json, JsonLines, Npy, TritonBinary};
    let rows = row_plan();
    let table: [(Option<&str>, Format, Option<Format>); 29] = [
        (None, Json, Some(Json)),
        (None, Csv, Some(Csv)),
        (Some(""), Csv, Some(Csv)),
        (Some(" "), Csv, Some(Csv)),
        (Some("*/*"), Npy, Some(Npy)),
        (Some("*"), Npy, Some(Npy)),
        (Some("application/*"), Npy, Some(Npy)),
        (Some("application/*"), Csv, Some(Json)),
        (Some("text/*"), Json, Some(Csv)),
        (Some("text/*"), Csv, Some(Csv)),
        (Some("image/*"), Json, None),
        (Some("text/csv"), Json, Some(Csv)),
        (Some("TEXT/CSV; charset=utf-8"), Json, Some(Csv)),
        (Some("text/csv, application/json"), Json, Some(Csv)),
        (Some("text/csv;q=0.5, application/json"), Csv, Some(Json)),
        (Some("text/html, application/x-npy;q=0.1"), Csv, Some(Npy)),
        (Some("text/html, */*;q=0.1"), JsonLines, Some(JsonLines)),
        (Some("application/json; verbose=true"), Csv, Some(Json)),
        (Some("application/x-ndjson"), Json, Some(JsonLines)),
        (Some("application/jsonl;q=0.3, text/html"), Json, Some(JsonLines)),
        (
            Some("application/vnd.sagemaker-triton.binary+json;json-header-size=7"),
            Json,
            Some(TritonBinary),
        ),
        (Some("text/html"), Json, None),
        (Some("text/html, image/png"), Json, None),
        (Some("json"), Json, None),
        (Some("application/json;q=0"), Json, None),
        (Some("*/*;q=0"), Json, None),
        (Some("text/csv;q=0, text/*"), Csv, None),
        (Some("application/json;q=0, */*"), Json, None),
        (Some("application/json;q=0, */*"), Csv, Some(Csv)),
    ];
    for (accept, default, expected) in table {
        let chosen = negotiate(accept, default, &rows, &pairs());
        assert_eq!(
            chosen.as_ref().ok().copied(),
            expected,
            "{accept:?} {default:?}: {chosen:?}"
        );
        if expected.is_none() {
            assert!(matches!(chosen, Err(EncodeError::NotAcceptable { .. })), "{accept:?}");
        }
    }
}

#[test]
fn open_inference_is_answered_in_its_own_protocol() {
    let json = decode_str("application/json", OIP, &pairs()).unwrap().reply;
    let binary = OIP.replace("}]}", r#"}],"parameters":{"binary_data_output":true}}"#);
    let binary = decode_str("application/json", &binary, &pairs()).unwrap().reply;
    let table = [
        (&json, None, Format::Json),
        (&json, Some("*/*"), Format::Json),
        (&json, Some("text/csv"), Format::Csv),
        (
            &json,
            Some("application/vnd.sagemaker-triton.binary+json"),
            Format::TritonBinary,
        ),
        (&binary, None, Format::TritonBinary),
        (&binary, Some("application/*"), Format::TritonBinary),
        (&binary, Some("application/json"), Format::Json),
    ];
    for (plan, accept, expected) in table {
        assert_eq!(
            negotiate(accept, Format::Npy, plan, &pairs()),
            Ok(expected),
            "{accept:?}"
        );
    }
}

#[test]
fn a_format_that_can_hold_the_outputs_replaces_one_that_cannot() {
    let two = signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[output("y", DataType::F32, &[-1]), zip_map("p", DataType::I64)],
    );
    let plan = row_plan();
    assert_eq!(negotiate(None, Format::Npy, &plan, &two), Ok(Format::Json));
    assert_eq!(
        negotiate(
            Some("application/vnd.sagemaker-triton.binary+json, text/csv;q=0.5"),
            Format::Json,
            &plan,
            &two
        ),
        Ok(Format::Csv)
    );
    assert_eq!(
        negotiate(Some("application/*"), Format::Npy, &plan, &two),
        Ok(Format::Json)
    );
    let triton = "application/vnd.sagemaker-triton.binary+json, text/html";
    let only = negotiate(Some(triton), Format::Json, &plan, &two).unwrap_err();
    assert!(
        matches!(
            only,
            EncodeError::CannotCarry {
                format: Format::TritonBinary,
                ..
            }
        ),
        "{only}"
    );
}

/// CT-2: the content type names the format that is really sent.
#[test]
fn a_response_names_its_format() {
    for format in Format::ALL.into_iter().filter(|format| format.is_written()) {
        let reply = encoded(
            format,
            &row_plan(),
            &pairs(),
            &[Value::Tensor(tensor(&[1, 2], &[1f32, 2.]))],
        );
        assert!(reply.content_type.starts_with(format.media_type()));
        let again = decode(&reply.content_type, reply.body, &pairs());
        assert!(
            !matches!(again, Err(DecodeError::UnsupportedMediaType { .. })),
            "{}",
            reply.content_type
        );
        assert_eq!(reply.content_type.contains(';'), format == Format::TritonBinary);
    }
}

#[test]
fn a_run_with_other_outputs_than_the_plan_is_an_error() {
    let error = encode(Format::Json, &row_plan(), "m", &pairs(), &[vec![]]).unwrap_err();
    assert_eq!(error, EncodeError::OutputCount { expected: 1, given: 0 });
    let error = encode(Format::Json, &row_plan(), "m", &pairs(), &[]).unwrap_err();
    assert_eq!(error, EncodeError::OutputCount { expected: 1, given: 0 });
}

#[test]
fn an_empty_output_with_an_enormous_shape_is_not_written_out_as_text() {
    let value = [Value::Tensor(tensor::<f32>(&[1 << 40, 1 << 40, 0], &[]))];
    let nested = [Value::Sequence(value.to_vec())];
    for format in [Format::Json, Format::JsonLines, Format::Csv] {
        for value in [&value, &nested] {
            let refused = encode(format, &row_plan(), "m", &pairs(), &[value.to_vec()]);
            assert!(matches!(refused, Err(EncodeError::CannotCarry { .. })), "{format:?}");
        }
    }
    assert!(encode(Format::Npy, &row_plan(), "m", &pairs(), &[value.to_vec()]).is_ok());
}

/// Converts a response in row form to a request.
fn as_request(format: Format, body: &[u8]) -> Bytes {
    match format {
        Format::Json => String::from_utf8(body.to_vec())
            .unwrap()
            .replacen("predictions", "instances", 1)
            .into(),
        Format::JsonLines
        | Format::Csv
        | Format::Npy
        | Format::TritonBinary
        | Format::Npz
        | Format::RecordIo
        | Format::LibSvm
        | Format::Octets => Bytes::copy_from_slice(body),
    }
}

#[test]
fn every_type_goes_through_every_format_and_back() {
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        for format in [Format::Json, Format::JsonLines, Format::Csv, Format::Npy, Format::Npz] {
            let body = encoded(format, &row_plan(), &signature, &[Value::Tensor(sample(data_type))]).body;
            let request = decode(format.media_type(), as_request(format, &body), &signature);
            assert_eq!(request.unwrap().inputs, [sample(data_type)], "{data_type} {format:?}");
        }
    }
}

/// Valid requests in every format, with the models that accept them.
fn valid_requests() -> Vec<(String, Bytes, Signature)> {
    let mixed = signature(
        &[
            input("x", DataType::F32, &[-1, 2]),
            input("n", DataType::I64, &[-1, 1]),
            input("s", DataType::String, &[-1]),
        ],
        &[output("y", DataType::F32, &[-1])],
    );
    let json = |body: &str, signature: &Signature| {
        (
            "application/json".to_owned(),
            Bytes::from(body.to_owned()),
            signature.clone(),
        )
    };
    let mut requests = vec![
        json(
            r#"{"signature_name":"s","instances":[[1.5,-2e-3],[NaN,null]],"k":{"a":["\u00e9"]}}"#,
            &pairs(),
        ),
        json(
            r#"{"inputs":{"s":["a\n",{"b64":"//79"}],"x":[[1,2],[3,4]],"n":[5,6]}}"#,
            &mixed,
        ),
        json(r#"[{"x":[1,2],"n":5,"s":"é"},{"s":"b","n":6,"x":[3,4]}]"#, &mixed),
        json(
            r#"{"id":"7","outputs":[{"name":"y"}],"inputs":[{"data":[[1,2]],"name":"x","shape":[1,2],"datatype":"FP32"},{"name":"n","shape":[1,1],"datatype":"INT64","data":[7]},{"name":"s","shape":[1],"datatype":"BYTES","data":["a"]}],"parameters":{"binary_data_output":true}}"#,
            &mixed,
        ),
        (
            "application/jsonlines".to_owned(),
            Bytes::from_static(b"{\"x\":[1,2],\"n\":5,\"s\":\"a\"}\r\n\n{\"s\":\"b\",\"n\":6,\"x\":[3,4]}\n"),
            mixed.clone(),
        ),
        (
            "text/csv".to_owned(),
            Bytes::from_static("1,2,3,\"a,\"\"b\"\"\"\r\n,-4.5e3,6,é\n".as_bytes()),
            mixed,
        ),
    ];
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        let value = [Value::Tensor(sample(data_type))];
        requests.push((
            "application/x-npy".to_owned(),
            encoded(Format::Npy, &row_plan(), &signature, &value).body,
            signature.clone(),
        ));
        let reply = encoded(Format::TritonBinary, &row_plan(), &signature, &value);
        let body = reply.body;
        let at = body.windows(9).position(|w| w == b"\"outputs\"").unwrap();
        // "inputs" is one byte shorter; a space keeps the size of the header.
        let body = [&body[..at], b"\"inputs\" ", &body[at + 9..]].concat();
        requests.push((reply.content_type.into_owned(), body.into(), signature));
    }
    requests
}

fn check(content_type: &str, body: Bytes, signature: &Signature) {
    match decode(content_type, body, signature) {
        Ok(request) => {
            assert_eq!(request.inputs.len(), signature.inputs.len());
            for (tensor, spec) in request.inputs.iter().zip(&signature.inputs) {
                assert_eq!(tensor.data_type(), spec.data_type);
                assert!(spec.accepts(tensor.shape()), "{spec} {:?}", tensor.shape());
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 900, "{} bytes: {message}", message.len());
            assert!(!message.contains(['\n', '\0']), "{message:?}");
        }
    }
}

#[test]
fn valid_requests_cut_short_anywhere_are_refused_or_fit() {
    for (content_type, body, signature) in valid_requests() {
        assert!(
            decode(&content_type, body.clone(), &signature).is_ok(),
            "{content_type} {body:?}"
        );
        for end in 0..body.len() {
            check(&content_type, body.slice(..end), &signature);
        }
    }
}

#[test]
fn messages_stay_short_whatever_the_request_and_the_signature_hold() {
    let specs: Vec<_> = (0..200)
        .map(|i| {
            let mut spec = input(&format!("{i}{}", "\u{7}é".repeat(2000)), DataType::F32, &[]);
            spec.dims = Some(vec![Dim::Dynamic(Some("d".repeat(3000))); 40]);
            spec
        })
        .collect();
    let one = signature(&specs[..1], &[output(&"o".repeat(9000), DataType::F32, &[])]);
    let many = signature(&specs, &vec![output(&"o".repeat(9000), DataType::F32, &[]); 200]);
    let name = serde_json::to_string(&specs[0].name).unwrap();
    let long = format!("\"{}\"", "\\u0007é".repeat(3000));
    let digits = "7".repeat(5000);
    for signature in [&one, &many] {
        for body in [
            "[]".to_owned(),
            format!("[{long}]"),
            format!("[{digits}]"),
            format!("[0.{digits}]"),
            format!("[{{{long}: 1}}]"),
            format!("[{{{name}: {long}}}]"),
            format!("[{{{name}: 1, {name}: 2}}]"),
            format!("[{{{name}: 1}}]"),
            format!("{{\"inputs\": {{{long}: 1}}}}"),
            format!("{{\"inputs\":[{{\"name\":{long}}}]}}"),
            format!(
                "{{\"inputs\":[{{\"name\":{name},\"datatype\":{long},\"shape\":[{}1],\"data\":[1]}}]}}",
                "1000000000000,".repeat(30)
            ),
            format!(
                "{{\"inputs\":[{{\"name\":{name},\"datatype\":\"FP32\",\"shape\":[{}1],\"data\":[1]}}]}}",
                "1000000000000,".repeat(30)
            ),
            format!("{{\"outputs\":[{{\"name\":{long}}}],\"inputs\":[]}}"),
        ] {
            check("application/json", body.clone().into(), signature);
            check("application/jsonlines", body.clone().into(), signature);
            check("text/csv", body.clone().into(), signature);
            check(
                &format!("text/csv;charset={}", "x".repeat(5000)),
                body.clone().into(),
                signature,
            );
            check(&"x".repeat(5000), body.clone().into(), signature);
            check(
                &format!(
                    "application/vnd.sagemaker-triton.binary+json;json-header-size=\"{}\"",
                    "é".repeat(500)
                ),
                body.into(),
                signature,
            );
        }
        check(
            "application/x-npy",
            Bytes::from_static(b"\x93NUMPY\x01\0\x00\0"),
            signature,
        );
        for accept in [
            "x/y,".repeat(4000),
            format!("application/x-npy; output={}", "x".repeat(5000)),
        ] {
            let message = negotiate(Some(&accept), Format::Json, &row_plan(), &many)
                .unwrap_err()
                .to_string();
            assert!(message.len() < 900, "{message}");
        }
    }
}

#[test]
fn several_formats_read_a_single_row_as_the_same_tensor() {
    let expected = [tensor(&[1, 2], &[1f32, 2.])];
    assert_eq!(inputs("[1, 2]", &pairs()), expected);
    assert_eq!(decode_str("text/csv", "1,2", &pairs()).unwrap().inputs, expected);
    assert_eq!(
        decode_str("application/jsonlines", "[1,2]", &pairs()).unwrap().inputs,
        expected
    );
    let npy = encoded(
        Format::Npy,
        &row_plan(),
        &pairs(),
        &[Value::Tensor(tensor(&[2], &[1f32, 2.]))],
    )
    .body;
    assert_eq!(decode("application/x-npy", npy, &pairs()).unwrap().inputs, expected);
}

/// A tensor of any type and of a shape with at least one axis.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(1usize..4, 1..4);
    (shape, prop::sample::select(DataType::ALL.to_vec()), any::<u64>()).prop_map(|(shape, data_type, seed)| {
        let count: usize = shape.iter().product();
        let mut state = seed | 1;
        let mut next = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 11
        };
        match data_type {
            DataType::String => {
                let text = |bits: u64| Bytes::from(char::from_u32(bits as u32 % 0xd800).unwrap_or('a').to_string());
                // NumPy cannot distinguish a trailing NUL from padding.
                let items = (0..count)
                    .map(|_| text(next() + 1))
                    .map(|b| if b == "\0" { Bytes::from_static(b"0") } else { b });
                Tensor::from_strings(shape, items.collect()).unwrap()
            }
            DataType::Bool => Tensor::from_bools(shape, (0..count).map(|_| (next() & 1) as u8).collect()).unwrap(),
            _ => {
                let size = data_type.size().unwrap();
                let mut bytes: Vec<u8> = (0..count * size).map(|_| next() as u8).collect();
                // A NaN does not equal itself. Clearing an exponent bit in every float avoids it.
                if matches!(
                    data_type,
                    DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64
                ) {
                    bytes
                        .chunks_exact_mut(size)
                        .for_each(|element| element[size - 1] &= 0xbf);
                }
                Tensor::from_bytes(data_type, shape, bytes.into()).unwrap()
            }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_tensor_goes_through_every_format_and_back(value in any_tensor()) {
        let signature = identity(value.data_type());
        for format in [Format::Json, Format::JsonLines, Format::Npy] {
            let body = encoded(format, &row_plan(), &signature, &[Value::Tensor(value.clone())]).body;
            let request = decode(format.media_type(), as_request(format, &body), &signature).unwrap();
            prop_assert_eq!(&request.inputs[0], &value);
        }
        // CSV keeps only rows and columns, not the other axes.
        let body = encoded(Format::Csv, &row_plan(), &signature, &[Value::Tensor(value.clone())]).body;
        let request = decode("text/csv", body, &signature).unwrap();
        prop_assert_eq!(&request.inputs[0], &value.clone().reshape(request.inputs[0].shape().to_vec()).unwrap());
        prop_assert_eq!(request.inputs[0].shape()[0], value.shape()[0]);
    }

    #[test]
    fn changed_requests_are_refused_or_fit(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let requests = valid_requests();
        let (content_type, body, signature) = which.get(&requests);
        let mut body = body.to_vec();
        for (at, byte, change) in changes {
            let at = at.index(body.len() + 1);
            match change {
                0 if at < body.len() => body[at] = byte,
                1 if at < body.len() => { body.remove(at); }
                _ => body.insert(at, byte),
            }
        }
        check(content_type, body.into(), signature);
    }

    #[test]
    fn any_bytes_of_any_type_are_refused_or_fit(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        content_type in "(application/(json|jsonlines|x-npy|vnd.sagemaker-triton.binary\\+json)|text/csv)(;json-header-size=[0-9]{1,2})?",
        data_type in prop::sample::select(DataType::ALL.to_vec()),
    ) {
        check(&content_type, bytes.into(), &identity(data_type));
    }

    #[test]
    fn any_header_text_is_understood_or_refused(content_type in any::<String>(), accept in "[a-z*/;,q=\"\\\\0-9. ]{0,60}") {
        check(&content_type, Bytes::from_static(b"[1,2]"), &pairs());
        if let Err(error) = negotiate(Some(&accept), Format::Json, &row_plan(), &pairs()) {
            prop_assert!(error.to_string().len() < 900);
        }
    }
}

#[test]
fn strings_of_any_bytes_survive_in_formats_that_can_hold_them() {
    let bytes = [strings(&[3], &[b"\xff\xfe", b"", b"\0a"])];
    let signature = identity(DataType::String);
    for format in [Format::Json, Format::JsonLines] {
        let body = encoded(format, &row_plan(), &signature, &[Value::Tensor(bytes[0].clone())]).body;
        assert_eq!(
            decode(format.media_type(), as_request(format, &body), &signature)
                .unwrap()
                .inputs,
            bytes
        );
    }
}

#[test]
fn refuses_more_strings_than_the_limit_in_every_format() {
    let signature = signature(&[input("x", DataType::String, &[-1, 1])], &[]);
    let count = super::numbers::MAX_STRINGS + 1;
    let binary_header = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{count},1],"datatype":"BYTES","parameters":{{"binary_data_size":{}}}}}]}}"#,
        count * 4
    );
    let triton = format!(
        "{};json-header-size={}",
        Format::TritonBinary.media_type(),
        binary_header.len()
    );
    let npy_header = format!("{{'descr': '|S1', 'fortran_order': False, 'shape': ({count}, 1), }}\n");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend(u16::try_from(npy_header.len()).unwrap().to_le_bytes());
    npy.extend(npy_header.bytes());
    npy.extend(vec![b'a'; count]);
    let bodies: [(&str, Vec<u8>); 4] = [
        (
            "application/json",
            format!("[{}[\"\"]]", "[\"\"],".repeat(count - 1)).into_bytes(),
        ),
        ("text/csv", "a\n".repeat(count).into_bytes()),
        (&triton, [binary_header.into_bytes(), vec![0; count * 4]].concat()),
        ("application/x-npy", npy),
    ];
    for (content_type, body) in bodies {
        let error = decode(content_type, Bytes::from(body), &signature).unwrap_err();
        assert!(
            error.to_string().contains("more than 1048576 strings"),
            "{content_type}: {error}"
        );
    }
}
