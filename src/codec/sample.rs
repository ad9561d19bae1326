//! Requests that a person can start from: the same inputs in each content type that can carry them.
//!
//! What always holds: a sample is decoded by this very module to the inputs that it was written from, and its reply can be
//! given to a client that does not care how.

use bytes::Bytes;

use super::json::{write_columns_of, write_row_object};
use super::values::{Output, common_rows, write_cells, write_row, write_tensor};
use super::{Documents, Format, Schema, decode, negotiate, npy, open_inference};
use crate::tensor::{Tensor, Value};

/// A request to a model in one of the forms that it can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What the form is called.
    pub name: &'static str,
    pub content_type: &'static str,
    /// The body, or why there is none.
    pub body: Result<Bytes, String>,
}

/// A request with `inputs`, one per input of the signature, in each form.
pub fn samples(schema: &Schema, inputs: &[Tensor]) -> Vec<Sample> {
    let signature = schema.signature();
    let values: Vec<Value> = inputs.iter().cloned().map(Value::Tensor).collect();
    let named: Vec<Output<'_>> = signature
        .inputs
        .iter()
        .zip(&values)
        .map(|(input, value)| Output {
            name: &input.name,
            value,
        })
        .collect();
    let check = |format, body| checked(format, body, schema, inputs);
    let sample = |name, format: Format, body: Result<Vec<u8>, String>| Sample {
        name,
        content_type: format.media_type(),
        body: body.and_then(|body| check(format, body)),
    };
    vec![
        Sample {
            name: "JSON",
            content_type: Format::Json.media_type(),
            body: json_rows(&named)
                .and_then(|body| check(Format::Json, body))
                .or_else(|_| check(Format::Json, json_columns(&named))),
        },
        sample("Open Inference Protocol", Format::Json, Ok(open_inference(&named))),
        sample("JSON lines", Format::JsonLines, json_lines(&named)),
        sample("CSV", Format::Csv, cells(&named)),
        sample("NPY", Format::Npy, array(&named)),
    ]
}

/// `body`, when it is read as it is meant.
fn checked(format: Format, body: Vec<u8>, schema: &Schema, inputs: &[Tensor]) -> Result<Bytes, String> {
    let body = Bytes::from(body);
    let request =
        decode(format.media_type(), body.clone(), schema, Documents::One).map_err(|error| error.to_string())?;
    if request.inputs != inputs {
        return Err("it cannot say what these inputs are".to_owned());
    }
    negotiate(None, Format::Json, &request.reply, schema.signature()).map_err(|error| error.to_string())?;
    Ok(body)
}

fn rows(inputs: &[Output<'_>]) -> Result<usize, String> {
    common_rows(inputs).ok_or_else(|| "the inputs have no rows in common".to_owned())
}

/// `{"instances": [..]}`.
fn json_rows(inputs: &[Output<'_>]) -> Result<Vec<u8>, String> {
    let mut out = b"{\"instances\":[".to_vec();
    for (row, line) in lines(inputs)?.into_iter().enumerate() {
        if row > 0 {
            out.push(b',');
        }
        out.extend(line);
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// `{"inputs": {"name": ..}}`.
fn json_columns(inputs: &[Output<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    write_columns_of("inputs", inputs, &mut out);
    out
}

fn json_lines(inputs: &[Output<'_>]) -> Result<Vec<u8>, String> {
    Ok(lines(inputs)?.join(&b'\n'))
}

/// The rows, each as JSON.
fn lines(inputs: &[Output<'_>]) -> Result<Vec<Vec<u8>>, String> {
    let keys: Vec<Vec<u8>> = inputs.iter().map(Output::json_key).collect();
    let line = |row| {
        let mut line = Vec::new();
        match inputs {
            [only] => write_row(only.value, row, &mut line),
            several => write_row_object(several, &keys, row, &mut line),
        }
        line
    };
    Ok((0..rows(inputs)?).map(line).collect())
}

fn open_inference(inputs: &[Output<'_>]) -> Vec<u8> {
    let mut out = b"{\"inputs\":[".to_vec();
    for (at, input) in inputs.iter().enumerate() {
        if let Value::Tensor(tensor) = input.value {
            if at > 0 {
                out.push(b',');
            }
            open_inference::write_declaration(input.name, tensor, &mut out);
            out.extend_from_slice(b",\"data\":");
            write_tensor(tensor, &[tensor.len()], 0..tensor.len(), &mut out);
            out.push(b'}');
        }
    }
    out.extend_from_slice(b"]}");
    out
}

fn cells(inputs: &[Output<'_>]) -> Result<Vec<u8>, String> {
    // Values without axes are one row.
    let is_scalar = |input: &Output<'_>| matches!(input.value, Value::Tensor(tensor) if tensor.shape().is_empty());
    let rows = if inputs.iter().all(is_scalar) { 1 } else { rows(inputs)? };
    let line = |row| {
        let (mut line, mut first) = (Vec::new(), true);
        for input in inputs {
            write_cells(input.value, row, &mut first, &mut line);
        }
        line
    };
    Ok((0..rows).map(line).collect::<Vec<_>>().join(&b'\n'))
}

fn array(inputs: &[Output<'_>]) -> Result<Vec<u8>, String> {
    match inputs {
        [
            Output {
                name,
                value: Value::Tensor(tensor),
            },
        ] => npy::encode(name, tensor).map_err(|error| error.to_string()),
        _ => Err(format!("an NPY file holds one array, the model takes {}", inputs.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{input, output, sample as extremes, signature, tensor, zip_map};
    use crate::tensor::{DataType, InputSpec, OutputSpec};

    fn texts(inputs: &[InputSpec], outputs: &[OutputSpec], tensors: &[Tensor]) -> Vec<Result<String, String>> {
        samples(&Schema::of(signature(inputs, outputs)), tensors)
            .into_iter()
            .map(|sample| sample.body.map(|body| String::from_utf8_lossy(&body).into_owned()))
            .collect()
    }

    #[test]
    fn one_input_is_asked_for_in_every_form() {
        let bodies = texts(
            &[input("x", DataType::F32, &[-1, 2])],
            &[output("y", DataType::F32, &[-1])],
            &[tensor(&[2, 2], &[0.5f32, -1.0, 2.25, 3.0])],
        );
        let expected = [
            r#"{"instances":[[0.5,-1.0],[2.25,3.0]]}"#,
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[0.5,-1.0,2.25,3.0]}]}"#,
            "[0.5,-1.0]\n[2.25,3.0]",
            "0.5,-1.0\n2.25,3.0",
        ];
        for (body, expected) in bodies.iter().zip(expected) {
            assert_eq!(body.as_deref(), Ok(expected));
        }
        assert!(bodies[4].as_deref().is_ok_and(|npy| npy.contains("NUMPY")));
    }

    #[test]
    fn several_inputs_are_named_and_do_not_fit_into_one_array() {
        let bodies = texts(
            &[input("a", DataType::F32, &[-1, 2]), input("b", DataType::I64, &[-1])],
            &[output("y", DataType::F32, &[-1])],
            &[tensor(&[1, 2], &[0.5f32, 1.0]), tensor(&[1], &[7i64])],
        );
        assert_eq!(bodies[0].as_deref(), Ok(r#"{"instances":[{"a":[0.5,1.0],"b":7}]}"#));
        assert_eq!(bodies[2].as_deref(), Ok(r#"{"a":[0.5,1.0],"b":7}"#));
        assert_eq!(bodies[3].as_deref(), Ok("0.5,1.0,7"));
        assert!(bodies[4].is_err());
    }

    #[test]
    fn inputs_without_rows_are_columns() {
        let bodies = texts(
            &[input("x", DataType::F32, &[])],
            &[output("y", DataType::F32, &[])],
            &[tensor(&[], &[0.5f32])],
        );
        assert_eq!(bodies[0].as_deref(), Ok(r#"{"inputs":{"x":0.5}}"#));
        assert!(bodies[2].is_err());
        assert_eq!(bodies[3].as_deref(), Ok("0.5"));
    }

    #[test]
    fn a_protocol_that_cannot_carry_the_reply_is_not_offered() {
        let bodies = texts(
            &[input("x", DataType::F32, &[-1, 2])],
            &[zip_map("probabilities", DataType::I64)],
            &[tensor(&[1, 2], &[0.5f32, 1.0])],
        );
        assert!(bodies[0].is_ok() && bodies[2].is_ok() && bodies[3].is_ok());
        let refusal = bodies[1].as_ref().unwrap_err();
        assert!(refusal.contains("not a tensor"), "{refusal}");
    }

    #[test]
    fn every_element_type_survives_the_forms_that_are_offered() {
        for data_type in DataType::ALL {
            let inputs = [extremes(data_type)];
            let signature = signature(&[input("x", data_type, &[-1, 2])], &[output("y", data_type, &[-1, 2])]);
            let samples = samples(&Schema::of(signature.clone()), &inputs);
            assert!(
                samples[0].body.is_ok() && samples[1].body.is_ok(),
                "{data_type}: {samples:?}"
            );
        }
    }
}
