//! Sample requests: the same inputs in each content type that can hold them.
//!
//! Invariants: the codec decodes a sample to the inputs that it was written from. A client that
//! accepts any type gets a response to it.

use bytes::Bytes;

use super::json::{write_columns_of, write_row_object};
use super::values::{NamedOutput, common_rows, write_all_cells, write_cells, write_row, write_tensor};
use super::{Documents, Format, Schema, decode, negotiate, npy, npz, open_inference};
use crate::tensor::{Tensor, Value};

/// A sample request to a model in one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The name of the form.
    pub name: &'static str,
    pub content_type: &'static str,
    /// The body, or the reason why there is none.
    pub body: Result<Bytes, String>,
}

/// Writes a request with `inputs`, one per input of the signature, in each form.
pub fn samples(schema: &Schema, inputs: &[Tensor]) -> Vec<Sample> {
    let signature = schema.signature();
    // The manifest sets the inputs that a request must not set.
    let settable: Vec<usize> = schema.settable_inputs().collect();
    let mut given = vec![None; inputs.len()];
    for &index in &settable {
        given[index] = inputs.get(index).cloned();
    }
    let inputs = match schema.complete(given, None) {
        Ok(inputs) => inputs.tensors,
        Err(_) => inputs.to_vec(),
    };
    let values: Vec<Value> = inputs.iter().cloned().map(Value::Tensor).collect();
    let named: Vec<NamedOutput<'_>> = settable
        .iter()
        .map(|&index| NamedOutput {
            name: &signature.inputs[index].name,
            value: &values[index],
        })
        .collect();
    let check = |format, body| checked(format, body, schema, &inputs);
    let sample = |name, format: Format, body: Result<Vec<u8>, String>| Sample {
        name,
        content_type: format.media_type(),
        body: body.and_then(|body| check(format, body)),
    };
    let mut samples = vec![
        Sample {
            name: "JSON",
            content_type: Format::Json.media_type(),
            body: json_rows(&named)
                .and_then(|body| check(Format::Json, body))
                .or_else(|_| check(Format::Json, json_columns(&named))),
        },
        sample("Open Inference Protocol", Format::Json, Ok(open_inference(&named))),
        sample("JSON lines", Format::JsonLines, json_lines(&named)),
        sample("CSV", Format::Csv, lines_of_cells(schema, &inputs, false)),
        sample("NPY", Format::Npy, array(&named)),
        sample("NPZ", Format::Npz, arrays(&named)),
        sample("LIBSVM", Format::LibSvm, libsvm(schema, &inputs)),
        sample("raw elements", Format::Octets, elements(schema, &inputs)),
    ];
    if schema.has_named_columns(0) && signature.inputs.len() + schema.columns().len() > 1 {
        samples.push(sample(
            "CSV with a header",
            Format::Csv,
            lines_of_cells(schema, &inputs, true),
        ));
        samples.push(sample("JSON table", Format::Json, table(schema, &inputs)));
    }
    samples
}

/// A cell of each row: the name of its column, its input, and its offset in the row of that input.
struct SampleCell<'a> {
    name: &'a str,
    input: usize,
    offset: usize,
}

/// The cells of a row in the order of a line.
fn cells_of<'a>(schema: &'a Schema, inputs: &[Tensor], rows: usize) -> Vec<SampleCell<'a>> {
    let mut next = vec![0; inputs.len()];
    let mut cells: Vec<SampleCell<'a>> = schema
        .columns()
        .iter()
        .map(|column| {
            let offset = next[column.input];
            next[column.input] += 1;
            SampleCell {
                name: &column.name,
                input: column.input,
                offset,
            }
        })
        .collect();
    for input in schema.settable_inputs() {
        if !cells.iter().any(|cell| cell.input == input) && schema.columns().is_empty() {
            let width = inputs[input].len().checked_div(rows).unwrap_or(0);
            let name = &schema.signature().inputs[input].name;
            cells.extend((0..width).map(|offset| SampleCell { name, input, offset }));
        }
    }
    cells
}

/// The number of rows of a table, if all inputs agree. Values without axes are one row.
fn rows_of_cells(schema: &Schema, inputs: &[Tensor]) -> Result<usize, String> {
    let mut counts = schema
        .settable_inputs()
        .map(|input| inputs[input].shape().first().copied().unwrap_or(1));
    let first = counts.next().unwrap_or(0);
    let is_common = counts.all(|count| count == first);
    is_common
        .then_some(first)
        .ok_or_else(|| "the inputs have no rows in common".to_owned())
}

/// Writes a line of cells for each row, with an optional header.
fn lines_of_cells(schema: &Schema, inputs: &[Tensor], has_header: bool) -> Result<Vec<u8>, String> {
    let rows = rows_of_cells(schema, inputs)?;
    let cells = cells_of(schema, inputs, rows);
    let mut lines = Vec::with_capacity(rows + 1);
    if has_header {
        let names = cells.iter().map(|cell| Bytes::copy_from_slice(cell.name.as_bytes()));
        let names = Tensor::from_strings(vec![cells.len()], names.collect()).map_err(|error| error.to_string())?;
        let (mut line, mut first) = (Vec::new(), true);
        write_all_cells(&Value::Tensor(names), &mut first, &mut line);
        lines.push(line);
    }
    for row in 0..rows {
        let (mut line, mut first) = (Vec::new(), true);
        for cell in &cells {
            write_cells(
                &element(&inputs[cell.input], rows, row, cell.offset)?,
                0,
                &mut first,
                &mut line,
            );
        }
        lines.push(line);
    }
    Ok(lines.join(&b'\n'))
}

/// Writes `{"dataframe_split": {"columns": [..], "data": [[..], ..]}}`.
fn table(schema: &Schema, inputs: &[Tensor]) -> Result<Vec<u8>, String> {
    let rows = rows_of_cells(schema, inputs)?;
    let cells = cells_of(schema, inputs, rows);
    let mut out = b"{\"dataframe_split\":{\"columns\":".to_vec();
    let names: Vec<&str> = cells.iter().map(|cell| cell.name).collect();
    serde_json::to_writer(&mut out, &names).map_err(|error| error.to_string())?;
    out.extend_from_slice(b",\"data\":[");
    for row in 0..rows {
        out.extend_from_slice(if row > 0 { b",[" } else { b"[" });
        for (position, cell) in cells.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            write_row(&element(&inputs[cell.input], rows, row, cell.offset)?, 0, &mut out);
        }
        out.push(b']');
    }
    out.extend_from_slice(b"]}}");
    Ok(out)
}

/// One element of a row of a tensor, as a tensor of shape `[1]`.
fn element(tensor: &Tensor, rows: usize, row: usize, offset: usize) -> Result<Value, String> {
    let width = tensor.len().checked_div(rows).unwrap_or(0);
    let flat = tensor
        .clone()
        .reshape(vec![tensor.len()])
        .map_err(|error| error.to_string())?;
    let at = row * width + offset;
    let element = flat.rows(at..at + 1).filter(|_| offset < width);
    element
        .map(Value::Tensor)
        .ok_or_else(|| "the columns do not fit the inputs".to_owned())
}

/// Returns `body` if it decodes to `inputs` and has a response.
fn checked(format: Format, body: Vec<u8>, schema: &Schema, inputs: &[Tensor]) -> Result<Bytes, String> {
    let body = Bytes::from(body);
    let request =
        decode(format.media_type(), body.clone(), schema, Documents::One).map_err(|error| error.to_string())?;
    if request.inputs != inputs {
        return Err("it cannot represent these inputs".to_owned());
    }
    negotiate(None, Format::Json, &request.reply, schema.signature()).map_err(|error| error.to_string())?;
    Ok(body)
}

fn rows(inputs: &[NamedOutput<'_>]) -> Result<usize, String> {
    common_rows(inputs).ok_or_else(|| "the inputs have no rows in common".to_owned())
}

/// Writes `{"instances": [..]}`.
fn json_rows(inputs: &[NamedOutput<'_>]) -> Result<Vec<u8>, String> {
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

/// Writes `{"inputs": {"name": ..}}`.
fn json_columns(inputs: &[NamedOutput<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    write_columns_of("inputs", inputs, &mut out);
    out
}

fn json_lines(inputs: &[NamedOutput<'_>]) -> Result<Vec<u8>, String> {
    Ok(lines(inputs)?.join(&b'\n'))
}

/// Writes each row as JSON.
fn lines(inputs: &[NamedOutput<'_>]) -> Result<Vec<Vec<u8>>, String> {
    let keys: Vec<Vec<u8>> = inputs.iter().map(NamedOutput::json_key).collect();
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

fn open_inference(inputs: &[NamedOutput<'_>]) -> Vec<u8> {
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

/// Writes all inputs by name.
fn arrays(inputs: &[NamedOutput<'_>]) -> Result<Vec<u8>, String> {
    let tensors = open_inference::tensors(inputs).map_err(|name| format!("{name} is not a tensor"))?;
    npz::encode(&tensors).map_err(|error| error.to_string())
}

/// The only input that a request must set.
fn only<'a>(schema: &Schema, inputs: &'a [Tensor]) -> Result<&'a Tensor, String> {
    let index = schema
        .only_input()
        .ok_or("it holds one input, but the model takes several")?;
    inputs.get(index).ok_or_else(|| "the model takes nothing".to_owned())
}

/// Writes `0:0.5 1:2.0`, one line per row.
fn libsvm(schema: &Schema, inputs: &[Tensor]) -> Result<Vec<u8>, String> {
    let tensor = only(schema, inputs)?;
    let rows = tensor
        .shape()
        .first()
        .copied()
        .filter(|_| tensor.data_type().is_number());
    let rows = rows.ok_or("it holds only rows of numbers")?;
    let width = tensor.len().checked_div(rows).unwrap_or(0);
    let mut lines = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut line = Vec::new();
        for index in 0..width {
            line.extend_from_slice(format!("{}{index}:", if index > 0 { " " } else { "" }).as_bytes());
            write_cells(&element(tensor, rows, row, index)?, 0, &mut true, &mut line);
        }
        lines.push(line);
    }
    Ok(lines.join(&b'\n'))
}

fn elements(schema: &Schema, inputs: &[Tensor]) -> Result<Vec<u8>, String> {
    let bytes = only(schema, inputs)?.as_bytes();
    bytes
        .map(|bytes| bytes.to_vec())
        .ok_or_else(|| "strings have no fixed size".to_owned())
}

fn array(inputs: &[NamedOutput<'_>]) -> Result<Vec<u8>, String> {
    match inputs {
        [
            NamedOutput {
                name,
                value: Value::Tensor(tensor),
            },
        ] => npy::encode(name, tensor).map_err(|error| error.to_string()),
        _ => Err(format!(
            "an NPY file holds one array, but the model takes {}",
            inputs.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::schema::{SchemaAdditions, TableColumn};
    use crate::codec::testing::{input, output, sample as extremes, signature, tensor, zip_map};
    use crate::tensor::{DataType, InputSpec, OutputSpec};

    fn texts(inputs: &[InputSpec], outputs: &[OutputSpec], tensors: &[Tensor]) -> Vec<Result<String, String>> {
        samples(&Schema::of(signature(inputs, outputs)), tensors)
            .into_iter()
            .map(|sample| sample.body.map(|body| String::from_utf8_lossy(&body).into_owned()))
            .collect()
    }

    #[test]
    fn one_input_has_a_sample_in_every_form() {
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
        assert!(bodies[5].as_deref().is_ok_and(|npz| npz.contains("x.npy")));
        assert_eq!(bodies[6].as_deref(), Ok("0:0.5 1:-1.0\n0:2.25 1:3.0"));
        assert!(bodies[7].is_ok());
    }

    #[test]
    fn several_inputs_are_named_and_have_no_npy_sample() {
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
    fn samples_of_tables_have_the_names_of_the_columns() {
        let bodies = texts(
            &[
                input("age", DataType::F32, &[-1, 1]),
                input("home town", DataType::String, &[-1, 1]),
            ],
            &[output("y", DataType::F32, &[-1])],
            &[
                tensor(&[1, 1], &[0.5f32]),
                crate::codec::testing::strings(&[1, 1], &[b"a,b"]),
            ],
        );
        assert_eq!(bodies[8].as_deref(), Ok("age,home town\n0.5,\"a,b\""));
        let table = r#"{"dataframe_split":{"columns":["age","home town"],"data":[[0.5,"a,b"]]}}"#;
        assert_eq!(bodies[9].as_deref(), Ok(table));

        let column = |name: &str| TableColumn {
            name: name.to_owned(),
            aliases: Vec::new(),
            input: 0,
            default: None,
        };
        let schema = Schema::new(
            signature(
                &[input("X", DataType::F32, &[-1, 2])],
                &[output("y", DataType::F32, &[-1])],
            ),
            SchemaAdditions {
                columns: vec![column("alcohol"), column("acid")],
                ..SchemaAdditions::default()
            },
        );
        let samples = samples(&schema, &[tensor(&[2, 2], &[1f32, 2., 3., 4.])]);
        assert_eq!(
            samples[8].body.as_ref().map(|body| &body[..]),
            Ok(&b"alcohol,acid\n1.0,2.0\n3.0,4.0"[..])
        );
    }

    #[test]
    fn inputs_without_rows_are_written_in_column_form() {
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
    fn a_form_whose_response_cannot_hold_the_outputs_has_no_sample() {
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
    fn every_element_type_has_samples_in_json_and_the_open_inference_protocol() {
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
