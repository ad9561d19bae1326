//! Conversion of tokens to the inputs of a model.

use super::*;
use crate::tensor::{DataType, Dim, InputSpec, Signature, Tensor};

fn spec(name: &str, data_type: DataType, dims: &[Option<usize>]) -> InputSpec {
    InputSpec {
        name: name.to_owned(),
        data_type,
        dims: Some(
            dims.iter()
                .map(|dim| dim.map_or(Dim::Dynamic(None), Dim::Fixed))
                .collect(),
        ),
    }
}

fn signature(inputs: Vec<InputSpec>) -> Signature {
    Signature {
        inputs,
        ..Signature::default()
    }
}

fn encoded() -> Encoded {
    Encoded {
        rows: vec![
            TokenRow {
                ids: vec![5, 6, 7],
                type_ids: vec![0, 0, 1],
                ..TokenRow::default()
            },
            TokenRow {
                ids: vec![8],
                type_ids: vec![0],
                ..TokenRow::default()
            },
        ],
        pad_id: 9,
        pad_type_id: 3,
        pad_side: Side::Right,
        least_length: 0,
        multiple_of: 1,
    }
}

fn i64s(tensor: &Tensor) -> &[i64] {
    tensor.as_slice().unwrap()
}

#[test]
fn the_name_of_an_input_determines_its_contents() {
    let open = &[None, None];
    let mut signature = signature(vec![
        spec("token_type_ids", DataType::I64, open),
        spec("serving_default_input_ids:0", DataType::I32, open),
        spec("position_ids", DataType::I64, open),
    ]);
    signature.optional = vec![
        spec("other", DataType::F32, open),
        spec("attention_mask", DataType::F32, open),
    ];
    let inputs = TextInputs::bind(&signature).unwrap().unwrap();
    assert!(inputs.has_mask());
    assert_eq!((inputs.fixed_batch(), inputs.fixed_length()), (None, None));

    let tensors = inputs.tensors(&encoded()).unwrap();
    assert_eq!(tensors.tensors.len(), 3);
    assert_eq!(tensors.tensors[0].shape(), [2, 3]);
    assert_eq!(i64s(&tensors.tensors[0]), [0, 0, 1, 0, 3, 3]);
    assert_eq!(tensors.tensors[1].as_slice::<i32>().unwrap(), [5, 6, 7, 8, 9, 9]);
    assert_eq!(i64s(&tensors.tensors[2]), [0, 1, 2, 0, 1, 2]);
    let (position, mask) = &tensors.optional[0];
    assert_eq!(*position, 1);
    assert_eq!(mask.as_slice::<f32>().unwrap(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);

    let left = Encoded {
        pad_side: Side::Left,
        ..encoded()
    };
    let tensors = inputs.tensors(&left).unwrap();
    assert_eq!(tensors.tensors[1].as_slice::<i32>().unwrap(), [5, 6, 7, 9, 9, 8]);
    assert_eq!(i64s(&tensors.tensors[2]), [0, 1, 2, 1, 1, 0]);
}

#[test]
fn rows_are_padded_to_a_fixed_length() {
    let fixed = &[Some(1), Some(8)];
    let inputs = vec![
        spec("input_ids", DataType::I64, fixed),
        spec("mask", DataType::Bool, fixed),
    ];
    let inputs = TextInputs::bind(&signature(inputs)).unwrap().unwrap();
    assert_eq!((inputs.fixed_batch(), inputs.fixed_length()), (Some(1), Some(8)));
    let options = TokenizeOptions {
        fixed_length: inputs.fixed_length(),
        pad_to_multiple_of: Some(5),
        ..TokenizeOptions::default()
    };
    let tokenizer = tokenizer("word_level");
    for text in ["fox", "the quick brown fox jumps over the lazy dog and the dog sleeps"] {
        let encoded = tokenizer.encode(&[one(text)], &options).unwrap();
        assert_eq!(encoded.length(), 8);
        let tensors = inputs.tensors(&encoded).unwrap();
        assert!(tensors.tensors.iter().all(|tensor| tensor.shape() == [1, 8]));
    }
}

#[test]
fn errors_name_the_inputs_that_texts_cannot_fill() {
    let open = &[None, None];
    let bind = |inputs| TextInputs::bind(&signature(inputs));
    assert_eq!(bind(vec![spec("pixel_values", DataType::F32, open)]), Ok(None));
    assert_eq!(bind(vec![spec("input", DataType::F32, open)]), Ok(None));
    let error = bind(vec![
        spec("input_ids", DataType::I64, open),
        spec("decoder_input_ids", DataType::I64, open),
        spec("past_key_values.0.key", DataType::F32, open),
    ]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("decoder_input_ids, past_key_values.0.key;"), "{error}");
    let table = [
        (
            spec("attention_mask", DataType::F64, open),
            "is float64[?, ?]; tokens need int64 or int32",
        ),
        (
            spec("token_type_ids", DataType::F32, open),
            "is float32[?, ?]; tokens need int64",
        ),
        (
            spec("attention_mask", DataType::I64, &[None]),
            "tokens need the shape [texts, tokens]",
        ),
        (
            spec("attention_mask", DataType::I64, &[None, Some(4)]),
            "one shape for all inputs",
        ),
    ];
    for (other, problem) in table {
        let ids = spec("input_ids", DataType::I64, &[None, Some(8)]);
        let error = bind(vec![ids, other]).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn a_tokenizer_without_a_model_declares_its_outputs() {
    let names =
        |tokenizer: &Tokenizer| -> Vec<String> { tokenizer.outputs().into_iter().map(|(name, _)| name).collect() };
    assert_eq!(
        names(&tokenizer("bert_cased")),
        ["input_ids", "token_type_ids", "attention_mask"]
    );
    assert_eq!(names(&tokenizer("roberta")), ["input_ids", "attention_mask"]);
    let mut config = TokenizerConfig::default();
    let text = r#"{"model_input_names": ["input_ids", "attention_mask", "pixel_values"]}"#;
    config.read("tokenizer_config.json", text).unwrap();
    let named = Tokenizer::parse(&file("bert_cased"), &config, &FileLimits::default()).unwrap();
    assert_eq!(names(&named), ["input_ids", "attention_mask"]);
}
