use bytes::Bytes;
use half::{bf16, f16};

use crate::codec::testing::{
    decode, encoded, identity, input, negotiate, output, pairs, refusal, row_plan, sample, signature, strings, tensor,
};
use crate::codec::{DecodeError, Format};
use crate::tensor::{DataType, Signature, Tensor, Value};

/// A file as `numpy.save` writes it.
fn file(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Bytes {
    let order = if fortran { "True" } else { "False" };
    versioned(
        [1, 0],
        &format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"),
        data,
    )
}

fn versioned(version: [u8; 2], header: &str, data: &[u8]) -> Bytes {
    let mut file = b"\x93NUMPY".to_vec();
    file.extend_from_slice(&version);
    match version[0] {
        1 => file.extend_from_slice(&(header.len() as u16).to_le_bytes()),
        _ => file.extend_from_slice(&(header.len() as u32).to_le_bytes()),
    }
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file.into()
}

fn send(body: Bytes, signature: &Signature) -> Result<Tensor, DecodeError> {
    decode("application/x-npy", body, signature).map(|mut request| request.inputs.remove(0))
}

fn error(body: Bytes, signature: &Signature) -> String {
    send(body, signature).unwrap_err().to_string()
}

fn bytes_of<T: bytemuck::Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

#[test]
fn all_versions_of_the_header_are_read() {
    let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }      \n";
    for version in [[1, 0], [2, 0], [3, 0]] {
        let given = send(
            versioned(version, header, &bytes_of(&[7i32, -1])),
            &identity(DataType::I32),
        );
        assert_eq!(given.unwrap(), tensor(&[2], &[7i32, -1]));
    }
    let unknown = error(versioned([4, 0], header, &[0; 8]), &identity(DataType::I32));
    assert!(unknown.ends_with("version 4.0 is not known"), "{unknown}");
    assert!(error(versioned([1, 1], header, &[0; 8]), &identity(DataType::I32)).ends_with("version 1.1 is not known"));
}

#[test]
fn the_data_is_borrowed_if_it_already_has_the_models_type() {
    let value = Value::Tensor(tensor(&[2, 2], &[1f32, 2., 3., 4.]));
    let body = encoded(Format::Npy, &row_plan(), &pairs(), &[value]).body;
    let data = body.as_ptr().wrapping_add(body.len() - 16);
    let aligned = data.addr().is_multiple_of(4);
    let given = send(body, &pairs()).unwrap();
    assert_eq!(given, tensor(&[2, 2], &[1f32, 2., 3., 4.]));
    assert_eq!(given.as_bytes().unwrap().as_ptr() == data, aligned);
}

#[test]
fn numpys_default_types_are_converted() {
    let doubles = file("<f8", false, "(1, 2)", &bytes_of(&[0.1f64, -2.5]));
    assert_eq!(send(doubles, &pairs()).unwrap(), tensor(&[1, 2], &[0.1f32, -2.5]));
    let row = file("<f8", false, "(2,)", &bytes_of(&[0.1f64, f64::NAN]));
    let row = send(row, &pairs()).unwrap();
    assert_eq!((row.shape(), row.as_slice::<f32>().unwrap()[0]), (&[1, 2][..], 0.1f32));
    let longs = file("<i8", false, "(2,)", &bytes_of(&[16_777_217i64, -1]));
    assert_eq!(send(longs, &pairs()).unwrap(), tensor(&[1, 2], &[16_777_216f32, -1.0]));
}

/// Saves the value 1 as each of NumPy's types, and reads it as each type of a model.
#[test]
fn the_value_1_is_converted_from_every_type_and_byte_order_to_every_type() {
    let saved: [(&str, Vec<u8>); 17] = [
        ("<f2", bytes_of(&[f16::ONE])),
        (">f2", vec![0x3c, 0]),
        ("<f4", bytes_of(&[1f32])),
        (">f4", 1f32.to_be_bytes().to_vec()),
        ("<f8", bytes_of(&[1f64])),
        (">f8", 1f64.to_be_bytes().to_vec()),
        ("|i1", vec![1]),
        ("<i2", vec![1, 0]),
        (">i2", vec![0, 1]),
        ("=i4", vec![1, 0, 0, 0]),
        (">i8", vec![0, 0, 0, 0, 0, 0, 0, 1]),
        ("u1", vec![1]),
        (">u1", vec![1]),
        (">u2", vec![0, 1]),
        ("<u4", vec![1, 0, 0, 0]),
        ("<u8", vec![1, 0, 0, 0, 0, 0, 0, 0]),
        ("|b1", vec![1]),
    ];
    for (descr, data) in saved {
        for data_type in DataType::ALL.into_iter().filter(|t| *t != DataType::String) {
            let given = send(file(descr, false, "()", &data), &identity(data_type)).unwrap();
            let one = match data_type {
                DataType::F16 => tensor(&[], &[f16::ONE]),
                DataType::Bf16 => tensor(&[], &[bf16::ONE]),
                DataType::F32 => tensor(&[], &[1f32]),
                DataType::F64 => tensor(&[], &[1f64]),
                DataType::I8 => tensor(&[], &[1i8]),
                DataType::I16 => tensor(&[], &[1i16]),
                DataType::I32 => tensor(&[], &[1i32]),
                DataType::I64 => tensor(&[], &[1i64]),
                DataType::U8 => tensor(&[], &[1u8]),
                DataType::U16 => tensor(&[], &[1u16]),
                DataType::U32 => tensor(&[], &[1u32]),
                DataType::U64 => tensor(&[], &[1u64]),
                DataType::Bool => Tensor::from_bools(vec![], vec![1]).unwrap(),
                DataType::String => unreachable!(),
            };
            assert_eq!(given, one, "{descr} to {data_type}");
        }
        let error = error(file(descr, false, "()", &data), &identity(DataType::String));
        assert!(error.ends_with("the model takes string of any shape"), "{error}");
    }
}

#[test]
fn refuses_values_that_do_not_fit_the_models_type_and_names_their_position() {
    let table: [(&str, Vec<u8>, DataType, &str); 9] = [
        (
            "<f8",
            bytes_of(&[1.0f64, 2.5]),
            DataType::I64,
            "input \"x\" at [0, 1]: 2.5 is not a whole number, int64 is needed",
        ),
        (
            "<f8",
            bytes_of(&[1.0f64, f64::NAN]),
            DataType::I32,
            "input \"x\" at [0, 1]: NaN is not a whole number, int32 is needed",
        ),
        (
            "<f8",
            bytes_of(&[1e300f64, 0.0]),
            DataType::F32,
            "input \"x\" at [0, 0]: 1e300 is out of range for float32",
        ),
        (
            "<f8",
            bytes_of(&[1.0f64, 65520.0]),
            DataType::F16,
            "input \"x\" at [0, 1]: 65520.0 is out of range for float16",
        ),
        (
            "<i8",
            bytes_of(&[1i64, -1]),
            DataType::U64,
            "input \"x\" at [0, 1]: -1 is out of range for uint64",
        ),
        (
            "<i8",
            bytes_of(&[1i64, 128]),
            DataType::I8,
            "input \"x\" at [0, 1]: 128 is out of range for int8",
        ),
        (
            "<u8",
            bytes_of(&[1u64, u64::MAX]),
            DataType::I64,
            "input \"x\" at [0, 1]: 18446744073709551615 is out of range for int64",
        ),
        (
            "<i8",
            bytes_of(&[1i64, 2]),
            DataType::Bool,
            "input \"x\" at [0, 1]: 2 is not a boolean; give true, false, 0 or 1",
        ),
        (
            "|b1",
            vec![1, 2],
            DataType::Bool,
            "input \"x\" at [0, 1]: 2 is not a boolean; give true, false, 0 or 1",
        ),
    ];
    for (descr, data, data_type, expected) in table {
        assert_eq!(
            error(file(descr, false, "(1, 2)", &data), &identity(data_type)),
            expected
        );
    }
    let third = error(
        file("<f8", true, "(2, 3)", &bytes_of(&[0.0f64, 0.0, 0.0, 0.5, 0.0, 0.0])),
        &identity(DataType::I64),
    );
    assert_eq!(
        third,
        "input \"x\" at [1, 1]: 0.5 is not a whole number, int64 is needed"
    );
}

#[test]
fn fortran_order_is_transposed() {
    // numpy.asfortranarray(numpy.arange(24).reshape(2, 3, 4)), saved.
    let saved: Vec<i32> = (0..24).map(|i| (i % 2) * 12 + (i / 2 % 3) * 4 + i / 6).collect();
    let expected = tensor(&[2, 3, 4], &(0..24).collect::<Vec<i32>>());
    let given = send(
        file("<i4", true, "(2, 3, 4)", &bytes_of(&saved)),
        &identity(DataType::I32),
    );
    assert_eq!(given.unwrap(), expected);
    let wide: Vec<i64> = saved.iter().map(|&v| i64::from(v)).collect();
    assert_eq!(
        send(
            file("<i8", true, "(2, 3, 4)", &bytes_of(&wide)),
            &identity(DataType::I32)
        )
        .unwrap(),
        expected
    );
    let texts = send(file("|S1", true, "(2, 2)", b"acbd"), &identity(DataType::String)).unwrap();
    assert_eq!(texts, strings(&[2, 2], &[b"a", b"b", b"c", b"d"]));
    for (shape, dims) in [("(0, 3)", [0, 3]), ("(3, 0)", [3, 0])] {
        assert_eq!(
            send(file("<i4", true, shape, &[]), &identity(DataType::I32))
                .unwrap()
                .shape(),
            dims
        );
    }
    assert_eq!(
        send(file("<i4", true, "()", &[7, 0, 0, 0]), &identity(DataType::I32)).unwrap(),
        tensor(&[], &[7i32])
    );
}

#[test]
fn strings_lose_only_their_padding() {
    let utf32 = |text: &str, big: bool| -> Vec<u8> {
        let units = text.chars().map(u32::from);
        units
            .flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() })
            .collect()
    };
    let any = identity(DataType::String);
    let expected = strings(&[2], &["é\u{1f600}".as_bytes(), b"a\0b"]);
    for (descr, big) in [("<U3", false), (">U3", true)] {
        let data = utf32("é\u{1f600}\0a\0b", big);
        assert_eq!(send(file(descr, false, "(2,)", &data), &any).unwrap(), expected);
    }
    assert_eq!(
        send(file("|S2", false, "(2,)", b"a\0\xff\xfe"), &any).unwrap(),
        strings(&[2], &[b"a", b"\xff\xfe"])
    );
    let surrogate = error(file("<U1", false, "(1,)", &0xd800u32.to_le_bytes()), &any);
    assert_eq!(surrogate, "input \"x\" at [0]: a character that is not in Unicode");
    let number = error(file("<U1", false, "(1,)", &utf32("1", false)), &pairs());
    assert_eq!(
        number,
        "input \"x\": given string[1], the model takes float32[batch, 2]"
    );
}

#[test]
fn refuses_unsupported_numpy_types_and_names_them() {
    let table = [
        (
            "|O",
            "\"|O\" is an array of Python objects, which are not loaded; send numbers or strings",
        ),
        ("<c8", "\"<c8\" is complex; send real numbers"),
        ("<M8[ns]", "\"<M8[ns]\" is a date or duration; send numbers"),
        (
            "<V2",
            "\"<V2\" is raw memory (bfloat16 is saved like this); send float32",
        ),
        ("<f16", "NumPy type \"<f16\" is not supported"),
        ("<U0", "NumPy type \"<U0\" is not supported"),
        ("<U+1", "NumPy type \"<U+1\" is not supported"),
        ("é", "its header is not understood at \"'é', 'fortran_order\""),
        ("", "NumPy type \"\" is not supported"),
    ];
    for (descr, expected) in table {
        let error = error(file(descr, false, "(1,)", &[0; 16]), &identity(DataType::F32));
        assert!(error.ends_with(expected), "{descr}: {error}");
    }
    let structured = versioned(
        [1, 0],
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        &[0; 4],
    );
    assert!(error(structured, &identity(DataType::F32)).ends_with("is a structured array; send a plain one"));
}

#[test]
fn the_data_must_have_the_size_in_the_header() {
    let any = identity(DataType::F32);
    for (shape, data) in [("(2,)", 7), ("(2,)", 9), ("(2,)", 0), ("()", 0), ("(0,)", 1)] {
        let error = error(file("<f4", false, shape, &vec![0; data]), &any);
        assert!(
            error.ends_with(&format!(", but {data} bytes of data follow")),
            "{error}"
        );
    }
    let enormous = error(file("<f8", false, "(1152921504606846976, 2)", &[0; 8]), &any);
    assert_eq!(
        enormous,
        "the body is not a valid application/x-npy request: the header declares an array of \"<f8\" and shape \
         [1152921504606846976, 2], but 8 bytes of data follow"
    );
    let empty = error(file("<f4", false, "(1152921504606846976, 0)", &[]), &any);
    assert_eq!(
        empty,
        "input \"x\": given float32[1152921504606846976, 0], the model takes float32 of any shape"
    );
    let strings = error(
        file("<U99999999999999999999", false, "(1,)", &[]),
        &identity(DataType::String),
    );
    assert!(strings.ends_with("is not supported"), "{strings}");
}

#[test]
fn refuses_bodies_that_are_not_npy_files() {
    let any = identity(DataType::F32);
    for body in [&b"[1, 2]"[..], b"\x93NUMPZ\x01\0", b"PK\x03\x04"] {
        assert!(error(Bytes::from_static(body), &any).ends_with("it does not begin with \\x93NUMPY"));
    }
    for body in [
        &b"\x93NUMPY"[..],
        b"\x93NUMPY\x01",
        b"\x93NUMPY\x01\0\x05",
        b"\x93NUMPY\x01\0\x05\0abc",
        b"\x93NUMPY\x02\0\xff\xff\xff\xff{}",
    ] {
        assert!(error(Bytes::from_static(body), &any).ends_with("it ends before its header does"));
    }
}

#[test]
fn an_array_is_for_a_model_with_one_input() {
    let two = signature(
        &[input("a", DataType::F32, &[-1]), input("b", DataType::I64, &[-1, 3])],
        &[],
    );
    assert_eq!(
        error(file("<f4", false, "(1,)", &[0; 4]), &two),
        "an NPY array does not name its input; send application/x-npz or application/json with the inputs by name; the model takes \"a\" float32[batch], \"b\" int64[batch, 3]"
    );
}

#[test]
fn writes_the_same_file_as_numpy() {
    let body = encoded(
        Format::Npy,
        &row_plan(),
        &pairs(),
        &[Value::Tensor(tensor(&[2, 1], &[1f32, -2.0]))],
    )
    .body;
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }";
    let mut expected = b"\x93NUMPY\x01\0\x76\0".to_vec();
    expected.extend_from_slice(header.as_bytes());
    expected.resize(127, b' ');
    expected.push(b'\n');
    expected.extend_from_slice(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    assert_eq!(body, expected);
    for (shape, written) in [(vec![], "()"), (vec![1], "(1,)"), (vec![1, 1, 1], "(1, 1, 1)")] {
        let body = encoded(
            Format::Npy,
            &row_plan(),
            &pairs(),
            &[Value::Tensor(tensor(&shape, &[0u8]))],
        )
        .body;
        let text = String::from_utf8_lossy(&body[10..128]).into_owned();
        assert!(
            text.contains(&format!(
                "'descr': '|u1', 'fortran_order': False, 'shape': {written}, }}"
            )),
            "{text}"
        );
        assert_eq!(body.len(), 129);
    }
}

#[test]
fn samples_of_every_type_survive_a_file() {
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        let body = encoded(
            Format::Npy,
            &row_plan(),
            &signature,
            &[Value::Tensor(sample(data_type))],
        )
        .body;
        assert_eq!(send(body, &signature).unwrap(), sample(data_type), "{data_type}");
    }
    let bytes = strings(&[2], &[b"\xff", b"abc"]);
    let body = encoded(
        Format::Npy,
        &row_plan(),
        &identity(DataType::String),
        &[Value::Tensor(bytes.clone())],
    )
    .body;
    assert!(String::from_utf8_lossy(&body).contains("'|S3'"));
    assert_eq!(send(body, &identity(DataType::String)).unwrap(), bytes);
}

#[test]
fn refuses_to_pad_strings_beyond_the_limit() {
    let long = Bytes::from(vec![b'a'; 1 << 20]);
    let mut items = vec![Bytes::from_static(b"b"); 99];
    items.push(long);
    let uneven = Tensor::from_strings(vec![100], items).unwrap();
    let error = refusal(
        Format::Npy,
        &row_plan(),
        &identity(DataType::String),
        &[Value::Tensor(uneven)],
    );
    assert_eq!(
        error.to_string(),
        "the outputs cannot be written as application/x-npy: the strings of output \"x\" are too uneven in length; accept \
         application/json"
    );
}

#[test]
fn a_file_holds_the_first_output_or_the_one_that_the_request_names() {
    let two = signature(
        &[input("x", DataType::F32, &[-1])],
        &[output("a", DataType::F32, &[-1]), output("b", DataType::I64, &[-1])],
    );
    // scikit-learn's container returns the predictions, which come first.
    let chosen = |accept: &str| crate::codec::negotiate(Some(accept), Format::Json, &row_plan(), &two);
    let (format, plan) = chosen("application/x-npy").unwrap();
    assert_eq!((format, plan.outputs()), (Format::Npy, Some(&[0][..])));
    let (format, plan) = chosen("application/x-npy; output=b").unwrap();
    assert_eq!((format, plan.outputs()), (Format::Npy, Some(&[1][..])));
    let (format, plan) = chosen("application/json; output=\"b\"").unwrap();
    assert_eq!((format, plan.outputs()), (Format::Json, Some(&[1][..])));
    assert_eq!(
        chosen("application/x-npy; output=c").unwrap_err().to_string(),
        "the outputs cannot be written as application/x-npy: the model has no output \"c\"; it returns \"a\" float32[batch], \"b\" \
         int64[batch]"
    );
    let one = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"outputs":[{"name":"b"}]}"#;
    let plan = decode("application/json", Bytes::from(one), &two).unwrap().reply;
    assert_eq!(
        negotiate(Some("application/x-npy"), Format::Json, &plan, &two),
        Ok(Format::Npy)
    );
    assert_eq!(
        encoded(Format::Npy, &plan, &two, &[Value::Tensor(tensor(&[1], &[7i64]))])
            .body
            .len(),
        136
    );
}
