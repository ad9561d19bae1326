//! The requests and answers recorded with each model, and JSON with the numbers that JSON lacks.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use serde_json::Value;

use super::models::fixture;

/// A request to a model and the answer that ONNX Runtime gives.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub inputs: BTreeMap<String, Tensor>,
    /// Each output: a [`Tensor`], or plain JSON for a sequence or map.
    pub outputs: BTreeMap<String, Value>,
}

/// Flat data in row-major order. Non-finite floats are the strings `NaN`, `Infinity` and
/// `-Infinity`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<Value>,
}

/// The recorded cases of a model, at least one.
#[track_caller]
pub fn cases(model: &str) -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(fixture(model).join("cases.json")).unwrap()).unwrap();
    assert!(!cases.is_empty());
    cases
}

impl Case {
    /// An output as nested lists.
    pub fn output(&self, name: &str) -> Value {
        let output = &self.outputs[name];
        serde_json::from_value::<Tensor>(output.clone()).map_or_else(|_| output.clone(), |tensor| tensor.nested())
    }

    /// An output that is a tensor.
    pub fn output_tensor(&self, name: &str) -> Option<Tensor> {
        serde_json::from_value(self.outputs[name].clone()).ok()
    }
}

impl Tensor {
    /// The data as nested lists; a scalar is a bare number.
    pub fn nested(&self) -> Value {
        fn nest(shape: &[usize], data: &[Value]) -> Value {
            match shape {
                [] => data[0].clone(),
                [length, rest @ ..] => {
                    let share = data.len() / (*length).max(1);
                    Value::Array(
                        (0..*length)
                            .map(|at| nest(rest, &data[at * share..(at + 1) * share]))
                            .collect(),
                    )
                }
            }
        }
        nest(&self.shape, &self.data)
    }

    /// The rows along the first axis.
    pub fn rows(&self) -> Vec<Value> {
        self.nested().as_array().cloned().unwrap_or_default()
    }

    pub fn is_float(&self) -> bool {
        self.dtype.contains("float")
    }

    /// The name of the element type in the Open Inference Protocol.
    pub fn open_inference_type(&self) -> &'static str {
        match self.dtype.as_str() {
            "bool" => "BOOL",
            "int8" => "INT8",
            "int16" => "INT16",
            "int32" => "INT32",
            "int64" => "INT64",
            "uint8" => "UINT8",
            "uint16" => "UINT16",
            "uint32" => "UINT32",
            "uint64" => "UINT64",
            "float16" => "FP16",
            "bfloat16" => "BF16",
            "float32" => "FP32",
            "float64" => "FP64",
            "string" => "BYTES",
            other => panic!("{other}"),
        }
    }

    /// The data as little-endian bytes. A length precedes each string, as in the binary extension.
    pub fn bytes(&self) -> Vec<u8> {
        self.data.iter().flat_map(|item| self.element_bytes(item)).collect()
    }

    /// Decodes little-endian bytes as this tensor's type: the reverse of [`Self::bytes`].
    #[track_caller]
    pub fn data_of(&self, bytes: &[u8]) -> Vec<Value> {
        macro_rules! numbers {
            ($type:ty) => {{
                let (chunks, rest) = bytes.as_chunks();
                assert!(rest.is_empty(), "{} bytes of {}", bytes.len(), self.dtype);
                chunks.iter().map(|chunk| <$type>::from_le_bytes(*chunk))
            }};
        }
        match self.dtype.as_str() {
            "bool" => bytes.iter().map(|byte| Value::from(*byte != 0)).collect(),
            "int8" => numbers!(i8).map(Value::from).collect(),
            "int16" => numbers!(i16).map(Value::from).collect(),
            "int32" => numbers!(i32).map(Value::from).collect(),
            "int64" => numbers!(i64).map(Value::from).collect(),
            "uint8" => numbers!(u8).map(Value::from).collect(),
            "uint16" => numbers!(u16).map(Value::from).collect(),
            "uint32" => numbers!(u32).map(Value::from).collect(),
            "uint64" => numbers!(u64).map(Value::from).collect(),
            "float16" => numbers!(half::f16).map(|number| from_float(number.to_f64())).collect(),
            "bfloat16" => numbers!(half::bf16).map(|number| from_float(number.to_f64())).collect(),
            "float32" => numbers!(f32).map(|number| from_float(number.into())).collect(),
            "float64" => numbers!(f64).map(from_float).collect(),
            "string" => {
                let mut strings = Vec::new();
                let mut rest = bytes;
                while let Some((length, after)) = rest.split_first_chunk() {
                    let (text, after) = after.split_at(u32::from_le_bytes(*length).try_into().unwrap());
                    strings.push(Value::from(std::str::from_utf8(text).unwrap()));
                    rest = after;
                }
                strings
            }
            other => panic!("{other}"),
        }
    }

    fn element_bytes(&self, item: &Value) -> Vec<u8> {
        macro_rules! integer {
            ($type:ty) => {
                <$type>::try_from(
                    item.as_i64()
                        .map_or_else(|| i128::from(item.as_u64().unwrap()), i128::from),
                )
                .unwrap()
                .to_le_bytes()
                .to_vec()
            };
        }
        match self.dtype.as_str() {
            "bool" => vec![u8::from(item.as_bool().unwrap())],
            "int8" => integer!(i8),
            "int16" => integer!(i16),
            "int32" => integer!(i32),
            "int64" => integer!(i64),
            "uint8" => integer!(u8),
            "uint16" => integer!(u16),
            "uint32" => integer!(u32),
            "uint64" => integer!(u64),
            "float16" => half::f16::from_f64(float(item)).to_le_bytes().to_vec(),
            "bfloat16" => half::bf16::from_f64(float(item)).to_le_bytes().to_vec(),
            "float32" => (float(item) as f32).to_le_bytes().to_vec(),
            "float64" => float(item).to_le_bytes().to_vec(),
            "string" => {
                let text = item.as_str().unwrap().as_bytes();
                [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text].concat()
            }
            other => panic!("{other}"),
        }
    }
}

/// A number of `cases.json`.
fn float(item: &Value) -> f64 {
    item.as_f64().unwrap_or_else(|| item.as_str().unwrap().parse().unwrap())
}

/// The reverse of [`float`].
fn from_float(number: f64) -> Value {
    if number.is_nan() {
        Value::from("NaN")
    } else if number.is_infinite() {
        Value::from(if number > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        Value::from(number)
    }
}

/// Asserts that two JSON values are equal, with a relative tolerance of 1e-5 for numbers.
#[track_caller]
pub fn assert_close(actual: &Value, expected: &Value, what: &str) {
    assert!(
        close(actual, expected),
        "{what}\nexpected: {expected}\n  actual: {actual}"
    );
}

fn close(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, e)| close(a, e))
        }
        (Value::Object(actual), Value::Object(expected)) => {
            let same_keys = actual.keys().eq(expected.keys());
            same_keys && actual.values().zip(expected.values()).all(|(a, e)| close(a, e))
        }
        (Value::Number(actual), Value::Number(expected)) if expected.is_f64() => {
            let (actual, expected) = (actual.as_f64().unwrap(), expected.as_f64().unwrap());
            // Near zero a float32 has few digits, so its text is not close to the f64.
            (actual - expected).abs() <= 1e-5 * expected.abs() || actual as f32 == expected as f32
        }
        _ => actual == expected,
    }
}

/// JSON text of `value`. With `floats`, the strings `NaN`, `Infinity` and `-Infinity` become bare
/// words.
pub fn to_text(value: &Value, floats: bool) -> String {
    let text = value.to_string();
    if !floats {
        return text;
    }
    NOT_NUMBERS
        .iter()
        .fold(text, |text, word| text.replace(&format!("\"{word}\""), word))
}

/// Parses JSON in which non-finite floats are bare words, and turns these into strings.
#[track_caller]
pub fn from_text(text: &[u8]) -> Value {
    let mut strict = Vec::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let [first, ..] = *rest {
        let word = NOT_NUMBERS
            .iter()
            .find(|word| !quoted && rest.starts_with(word.as_bytes()));
        let length = match (word, first) {
            (Some(word), _) => {
                strict.extend_from_slice(format!("\"{word}\"").as_bytes());
                rest = &rest[word.len()..];
                continue;
            }
            (None, b'\\') if quoted => 2,
            (None, b'"') => {
                quoted = !quoted;
                1
            }
            (None, _) => 1,
        };
        strict.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    match serde_json::from_slice(&strict) {
        Ok(value) => value,
        Err(error) => panic!("{error} in {}", String::from_utf8_lossy(text)),
    }
}

/// The longest comes first, because it ends with another of them.
const NOT_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
