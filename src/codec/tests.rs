//! Tests of all formats together.

mod hostile;
mod round_trips;

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
