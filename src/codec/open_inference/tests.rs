use crate::codec::testing::{
    decode_str, identity, input, inputs, negotiate, output, pairs, plan_of, reply, sample, signature, strings, tensor,
    zip_map,
};
use crate::codec::{Dialect, EncodeError, Format, ReplyPlan};
use crate::tensor::{DataType, Signature, Tensor, Value};

use super::datatype_name;

fn error(body: &str, signature: &Signature) -> String {
    decode_str("application/json", body, signature)
        .expect_err(body)
        .to_string()
}

fn two_outputs() -> Signature {
    signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[
            output("a", DataType::F32, &[-1, 2]),
            output("b", DataType::String, &[-1]),
        ],
    )
}

/// A request for [`two_outputs`] with further keys of the document.
fn request(more: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}}]{more}}}"#)
}

fn plan(more: &str) -> ReplyPlan {
    decode_str("application/json", &request(more), &two_outputs())
        .unwrap()
        .reply
}

fn values() -> [Value; 2] {
    [
        Value::Tensor(tensor(&[2, 2], &[1f32, 2., f32::NAN, 4.5])),
        Value::Tensor(strings(&[2], &[b"yes", b"\xff"])),
    ]
}

#[test]
fn keys_may_come_in_any_order_and_data_may_be_nested() {
    let expected = [tensor(&[2, 2], &[1f32, 2., 3., 4.])];
    for body in [
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#,
        r#"{"id":"7","inputs":[{"data":[1,2,3,4],"datatype":"FP32","shape":[2,2],"name":"x"}]}"#,
        r#"{"inputs":[{"datatype":"FP32","data":[[1,2],[3,4]],"name":"x","parameters":{"a":[1]},"shape":[2,2]}]}"#,
        r#"{"outputs":[],"inputs":[{"name":"x","data":[[1,2],[3,4]],"shape":[2,2],"datatype":"FP32","z":{}}],"q":0}"#,
    ] {
        assert_eq!(inputs(body, &pairs()), expected, "{body}");
    }
}

#[test]
fn inputs_are_put_into_the_models_order() {
    let signature = signature(
        &[input("a", DataType::I64, &[-1]), input("b", DataType::Bool, &[])],
        &[],
    );
    let body = r#"{"inputs":[{"name":"b","shape":[],"datatype":"BOOL","data":[true]},
                             {"name":"a","shape":[2],"datatype":"INT64","data":[1,2]}]}"#;
    let b = Tensor::from_bools(vec![], vec![1]).unwrap();
    assert_eq!(inputs(body, &signature), [tensor(&[2], &[1i64, 2]), b]);
}

#[test]
fn every_datatype_has_its_own_name() {
    let mut names: Vec<_> = DataType::ALL.into_iter().map(datatype_name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), DataType::ALL.len());
    for data_type in DataType::ALL {
        for other in DataType::ALL {
            let (name, data) = (
                datatype_name(other),
                if other == DataType::String { "\"\"" } else { "1" },
            );
            let body = format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"{name}","data":[{data}]}}]}}"#);
            let given = decode_str("application/json", &body, &identity(data_type));
            assert_eq!(given.is_ok(), data_type == other, "{data_type} {name}");
        }
    }
}

#[test]
fn errors_name_the_declared_type_and_that_of_the_model() {
    let head = "the body is not a valid application/json request: ";
    let table: [(&str, &str); 22] = [
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["text"]}]}"#,
            "input \"x\": given string[1], the model takes float32[batch, 2]",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[2,31],"datatype":"FP64","data":[]}]}"#,
            "input \"x\": given float64[2, 31], the model takes float32[batch, 2]",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[2,31],"datatype":"FP32","data":[]}]}"#,
            "input \"x\": given float32[2, 31], the model takes float32[batch, 2]",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}"#,
            "input \"x\": given float32[2], the model takes float32[batch, 2]",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"float","data":[1,2]}]}"#,
            "input \"x\": given \"float\"[1, 2], the model takes float32[batch, 2]",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2,3]}]}"#,
            "input \"x\": the shape [1, 2] needs 2 elements, 3 given",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[4611686018427387904,2],"datatype":"FP32","data":[1,2,3]}]}"#,
            "input \"x\": the shape [4611686018427387904, 2] needs 9223372036854775808 elements, 3 given",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[9223372036854775808,2],"datatype":"FP32","data":[1,2,3]}]}"#,
            "input \"x\": the shape [9223372036854775808, 2] has more elements than memory can hold",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,null,"a"]}]}"#,
            "input \"x\" at [2]: the string \"a\" is not a number, float32 is needed",
        ),
        (
            r#"{"inputs":[{"name":"y","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#,
            "the model has no input \"y\"; it takes \"x\" float32[batch, 2]",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#,
            "input \"x\": binary_data_size needs content type application/vnd.sagemaker-triton.binary+json",
        ),
        (
            r#"{"inputs":[{"shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#,
            "inputs[0] has no \"name\"",
        ),
        (
            r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1,2]}]}"#,
            "inputs[0] has no \"shape\"",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"data":[1,2]}]}"#,
            "inputs[0] has no \"datatype\"",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32"}]}"#,
            "inputs[0] has no \"data\"",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1],"data":[2]}]}"#,
            "inputs[0] has \"data\" twice",
        ),
        (r#"{"inputs":[{"name":7}]}"#, "the name of an input must be a string"),
        (
            r#"{"inputs":[{"name":"x","shape":[-1,2]}]}"#,
            "each dimension of a shape must be a whole number, not negative",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1.5,2]}]}"#,
            "each dimension of a shape must be a whole number, not negative",
        ),
        (r#"{"inputs":[{"name":"x","shape":2}]}"#, "\"shape\" must be an array"),
        (
            r#"{"inputs":[{"name":"x","parameters":1}]}"#,
            "\"parameters\" must be an object",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}, 1]}"#,
            "inputs[1] is not an object",
        ),
    ];
    for (body, expected) in table {
        let given = error(body, &pairs());
        assert_eq!(given.strip_prefix(head).unwrap_or(&given), expected, "{body}");
    }
    // Data that was read for one input must not become another.
    let renamed = r#"{"inputs":[{"name":"a","datatype":"INT64","shape":[1],"data":[1],"name":"b","datatype":"FP32"}]}"#;
    let two = signature(
        &[input("a", DataType::I64, &[-1]), input("b", DataType::F32, &[-1])],
        &[],
    );
    assert!(error(renamed, &two).ends_with("inputs[0] has \"name\" twice"));
    let twice = request("").replace("}]", r#"},{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]"#);
    assert_eq!(error(&twice, &pairs()), "input \"x\" is given twice");
}

#[test]
fn responses_have_the_id_the_types_and_flat_data() {
    let written = reply(Format::Json, &plan(r#","id":"a\"b""#), &two_outputs(), &values());
    assert_eq!(
        written,
        concat!(
            r#"{"model_name":"m","model_version":"1","id":"a\"b","outputs":["#,
            r#"{"name":"a","datatype":"FP32","shape":[2,2],"data":[1.0,2.0,NaN,4.5]},"#,
            r#"{"name":"b","datatype":"BYTES","shape":[2],"data":["yes",{"b64":"/w=="}]}]}"#
        )
    );
    let bare = reply(Format::Json, &plan(""), &two_outputs(), &values());
    assert!(
        bare.starts_with(r#"{"model_name":"m","model_version":"1","outputs":[{"#),
        "{bare}"
    );
}

#[test]
fn returns_the_requested_outputs_in_the_order_of_the_request() {
    let both = plan(r#","outputs":[{"name":"b"},{"name":"a","parameters":{"binary_data":false}}]"#);
    assert_eq!(both.outputs(), Some(&[1, 0][..]));
    let [a, b] = values();
    let written = reply(Format::Json, &both, &two_outputs(), &[b.clone(), a]);
    assert!(
        written.find(r#""name":"b""#) < written.find(r#""name":"a""#),
        "{written}"
    );
    let one = plan(r#","outputs":[{"name":"b"}]"#);
    assert_eq!(one.outputs(), Some(&[1][..]));
    assert!(reply(Format::Json, &one, &two_outputs(), &[b]).contains(r#""outputs":[{"name":"b""#));
    assert_eq!(plan(r#","outputs":[]"#).outputs(), None);
    assert_eq!(plan("").outputs(), None);
}

#[test]
fn refuses_invalid_requested_outputs_and_names_them() {
    let table = [
        (
            r#","outputs":[{"name":"c"}]"#,
            "requested output \"c\": there is no such output; the model returns \"a\" float32[batch, 2], \"b\" string[batch]",
        ),
        (
            r#","outputs":[{"name":"a"},{"name":"a"}]"#,
            "requested output \"a\": it is requested twice; the model returns \"a\" float32[batch, 2], \"b\" string[batch]",
        ),
        (
            r#","outputs":[{}]"#,
            "the body is not a valid application/json request: an element of \"outputs\" has no \"name\"",
        ),
        (
            r#","outputs":{"name":"a"}"#,
            "the body is not a valid application/json request: \"outputs\" must be an array of objects with a name",
        ),
        (
            r#","id":7"#,
            "the body is not a valid application/json request: \"id\" must be a string",
        ),
        (
            r#","parameters":{"binary_data_output":1}"#,
            "the body is not a valid application/json request: binary_data_output must be true or false",
        ),
        (
            r#","outputs":[{"name":"a","parameters":{"classification":3}}]"#,
            "the body is not a valid application/json request: the parameter classification belongs to an extension \
             that is not supported",
        ),
        (
            r#","outputs":[{"name":"a","parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}}]"#,
            "the body is not a valid application/json request: the parameter shared_memory_region belongs to an \
             extension that is not supported",
        ),
    ];
    for (more, expected) in table {
        assert_eq!(error(&request(more), &two_outputs()), expected, "{more}");
    }
}

#[test]
fn other_forms_ignore_the_keys_of_this_protocol() {
    // In row form, `outputs`, `id` and `parameters` may have any type.
    let body = r#"{"id":7,"outputs":"all","parameters":[],"instances":[[1,2]]}"#;
    assert_eq!(inputs(body, &pairs()), [tensor(&[1, 2], &[1f32, 2.])]);
}

#[test]
fn binary_flags_follow_the_request_and_its_outputs() {
    let flags = |more: &str| match plan(more).dialect {
        Dialect::OpenInference { binary, .. } => binary,
        Dialect::Rows | Dialect::Documents(_) | Dialect::Columns => panic!("{more}"),
    };
    assert_eq!(flags(""), [false, false]);
    assert_eq!(flags(r#","parameters":{"binary_data_output":true}"#), [true, true]);
    assert_eq!(
        flags(
            r#","outputs":[{"name":"b","parameters":{"binary_data":false}},{"name":"a"}],"parameters":{"binary_data_output":true}"#
        ),
        [false, true]
    );
    assert_eq!(
        flags(r#","outputs":[{"name":"a","parameters":{"binary_data":true}}]"#),
        [true]
    );
}

#[test]
fn refuses_outputs_that_are_not_tensors_before_the_run() {
    let signature = signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[output("label", DataType::I64, &[-1]), zip_map("p", DataType::I64)],
    );
    let reply_to = |more: &str| {
        decode_str("application/json", &request(more), &signature)
            .unwrap()
            .reply
    };
    let refused = negotiate(None, Format::Csv, &reply_to(""), &signature).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the outputs cannot be written as application/json: output \"p\" is not a tensor; application/jsonlines, text/csv \
         and the \"instances\" and \"inputs\" forms of application/json can hold it"
    );
    assert!(matches!(refused, EncodeError::CannotCarry { .. }));
    let only_label = reply_to(r#","outputs":[{"name":"label"}]"#);
    assert_eq!(negotiate(None, Format::Csv, &only_label, &signature), Ok(Format::Json));
    // The other JSON forms hold any output.
    assert_eq!(
        negotiate(None, Format::Json, &plan_of("[1,2]"), &signature),
        Ok(Format::Json)
    );
}

#[test]
fn samples_of_every_type_survive_the_protocol() {
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        let body = format!(
            r#"{{"inputs":[{{"name":"x","shape":[],"datatype":"{}","data":[{}]}}]}}"#,
            datatype_name(data_type),
            if data_type == DataType::String { "\"\"" } else { "0" }
        );
        let plan = decode_str("application/json", &body, &signature).unwrap().reply;
        let written = reply(Format::Json, &plan, &signature, &[Value::Tensor(sample(data_type))]);
        let again = written.replace("\"outputs\"", "\"inputs\"");
        assert_eq!(inputs(&again, &signature), [sample(data_type)], "{written}");
    }
}
