//! The reader against the committed adapters and damaged ones, and the check against a signature.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::engine::load::content::ContentHash;
use crate::engine::onnxruntime::session::InputPlace;
use crate::tensor::{Dim, InputSpec, OutputRows, OutputSpec, Signature, ValueType};

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adapters").join(name)).unwrap()
}

/// Replaces the only occurrence of `from`.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    let [at] = *places else { panic!("{places:?}") };
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

fn refusal(bytes: Vec<u8>) -> String {
    read(&bytes.into()).unwrap_err().to_string()
}

#[test]
fn an_adapter_has_its_names_types_and_shapes() {
    let parameters = read(&fixture("second.onnx_adapter").into()).unwrap();
    let found: BTreeMap<&str, String> = parameters
        .iter()
        .map(|parameter| (&*parameter.name, parameter.value_type()))
        .collect();
    let expected = [
        ("layers.0.lora_A.weight", "float32[8, 4]"),
        ("layers.0.lora_B.weight", "float32[4, 6]"),
        ("layers.1.lora_A.weight", "float32[6, 4]"),
        ("layers.1.lora_B.weight", "float32[4, 3]"),
    ];
    assert_eq!(found, expected.map(|(name, text)| (name, text.to_owned())).into());
    let values = parameters[0].value.as_slice::<f32>().unwrap();
    assert!(values.iter().all(|value| value.abs() <= 1.0) && values.iter().any(|&value| value != 0.0));
}

#[test]
fn the_values_borrow_the_file() {
    let bytes = Bytes::from(fixture("first.onnx_adapter"));
    for parameter in read(&bytes).unwrap() {
        let value = parameter.value.as_bytes().unwrap();
        assert!(bytes.as_ptr_range().contains(&value.as_ptr()), "{}", parameter.name);
    }
}

#[test]
fn a_damaged_adapter_is_refused_with_the_reason() {
    let good = fixture("first.onnx_adapter");
    let dims = |rows: i64, columns: i64| [rows.to_le_bytes(), columns.to_le_bytes()].concat();
    assert!(refusal(b"PK\x03\x04 an archive".to_vec()).contains("not an adapter in ONNX Runtime's format"));
    assert_eq!(refusal(good[..good.len() / 2].to_vec()), "it is damaged");
    let longer = replaced(&good, &dims(8, 2), &dims(8, 3));
    let text = "parameter \"layers.0.lora_A.weight\" is float32[8, 3], but it has 64 bytes of data";
    assert_eq!(refusal(longer), text);
    let endless = replaced(&good, &dims(8, 2), &dims(i64::MAX, i64::MAX));
    assert!(refusal(endless).contains("but it has 64 bytes of data"));
    let negative = replaced(&good, &dims(8, 2), &dims(-8, -2));
    assert!(refusal(negative).contains("more than 16 dimensions, or an impossible one"));
    let twice = replaced(&good, b"layers.1.lora_A", b"layers.0.lora_A");
    assert_eq!(refusal(twice), "it has two parameters \"layers.0.lora_A.weight\"");
}

#[test]
fn no_damage_makes_the_reader_fail_in_another_way_than_with_an_error() {
    let good = fixture("first.onnx_adapter");
    for length in 0..good.len() {
        let _ = read(&good[..length].to_vec().into());
    }
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if let Ok(parameters) = read(&bytes.into()) {
                let total: usize = parameters.iter().map(|parameter| parameter.value.byte_len()).sum();
                assert!(total <= good.len());
            }
        }
    }
}

fn input(name: &str, data_type: DataType, dims: &[Dim]) -> InputSpec {
    InputSpec {
        name: name.to_owned(),
        data_type,
        dims: Some(dims.to_vec()),
    }
}

/// A base model with an input `x` of records, a required input `a` and an optional one `b`.
fn base() -> Signature {
    let rank = || Dim::Dynamic(Some("r".to_owned()));
    let records = || Dim::Dynamic(Some("n".to_owned()));
    Signature {
        inputs: vec![
            input("a", DataType::F32, &[Dim::Fixed(2), rank()]),
            input("x", DataType::F32, &[records(), Dim::Fixed(2)]),
        ],
        optional: vec![
            input("threshold", DataType::F32, &[]),
            input("b", DataType::F16, &[rank(), Dim::Fixed(2)]),
        ],
        outputs: vec![OutputSpec {
            name: "y".to_owned(),
            value_type: ValueType::Tensor {
                data_type: DataType::F32,
                dims: Some(vec![records()]),
            },
            rows: OutputRows::PerRecord,
        }],
    }
}

fn bind(parameters: &[(&str, DataType, &[usize])]) -> Result<BoundAdapter, AdapterError> {
    let parameters = parameters.iter().map(|&(name, data_type, shape)| {
        let bytes = vec![0; element_count(shape).unwrap() * data_type.size().unwrap()];
        Parameter {
            name: name.to_owned(),
            value: Tensor::from_bytes(data_type, shape.to_vec(), bytes.into()).unwrap(),
        }
    });
    let adapter = Adapter {
        hash: blake3::hash(b"adapter"),
        parameters: parameters.collect(),
        size: 0,
        memory: None,
    };
    BoundAdapter::new(Arc::new(adapter), &ContentHash::of(&blake3::hash(b"base")), &base())
}

#[test]
fn requests_do_not_see_the_inputs_that_the_adapter_gives() {
    let bound = bind(&[("b", DataType::F16, &[3, 2]), ("a", DataType::F32, &[2, 3])]).unwrap();
    let names: Vec<&str> = bound.signature().all_inputs().map(|input| &*input.name).collect();
    assert_eq!(names, ["x", "threshold"]);
    let tensor = |value: f32| Tensor::from_vec(vec![1], vec![value]).unwrap();
    let (tensors, optional) = ([tensor(1.0)], [(0, tensor(2.0))]);
    let places: Vec<InputPlace> = bound.given(&tensors, &optional).map(|(place, _)| place).collect();
    let expected = [
        InputPlace::Required(1),
        InputPlace::Optional(0),
        InputPlace::Optional(1),
        InputPlace::Required(0),
    ];
    assert_eq!(places, expected);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_with_what_the_model_takes() {
    let table: [(&str, DataType, &[usize], &str); 4] = [
        (
            "c",
            DataType::F32,
            &[2, 3],
            "parameter \"c\" is not an input of the model, which has the inputs \"a\", \"x\", \"threshold\", \"b\"",
        ),
        (
            "a",
            DataType::F32,
            &[3, 3],
            "parameter \"a\" is float32[3, 3], but the model takes float32[2, r]",
        ),
        (
            "a",
            DataType::F32,
            &[2],
            "parameter \"a\" is float32[2], but the model takes float32[2, r]",
        ),
        (
            "b",
            DataType::F32,
            &[3, 2],
            "parameter \"b\" is float32[3, 2], but the model takes float16[r, 2]",
        ),
    ];
    for (name, data_type, shape, expected) in table {
        let refusal = bind(&[(name, data_type, shape)]).unwrap_err();
        assert_eq!(refusal.to_string(), expected);
    }
}

#[test]
fn the_content_covers_the_base_model_and_the_adapter() {
    let bound = bind(&[("a", DataType::F32, &[2, 3])]).unwrap();
    let base = ContentHash::of(&blake3::hash(b"base"));
    assert_ne!(*bound.content(), base);
    assert_eq!(*bound.content(), base.with(&ContentHash::of(&blake3::hash(b"adapter"))));
}
