//! Formats: every model answers its recorded requests in every format that can represent them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::harness::{Builder, Case, Request, Server, Tensor, assert_close, cases, fixture, from_text, to_text};

/// Models with an output that is not per row of the inputs.
const WHOLE: [&str; 3] = ["allocate", "empty_axis", "one_more"];

/// A recorded case of a model, which is loaded under its own name.
struct Trial<'a> {
    server: &'a Server,
    model: &'a str,
    case: Case,
}

/// Loads every model that has cases, and runs `attempt` for each case.
fn for_each_case(mut attempt: impl FnMut(&Trial<'_>)) {
    let server = Builder::multi().start();
    let entries = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap());
    let mut models: Vec<String> = entries
        .filter(|entry| entry.path().join("cases.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    models.sort();
    assert!(models.len() > 25, "{models:?}");
    for model in &models {
        let url = server.models().place(model, model);
        server.load(model, &url).expect(200);
        for case in cases(model) {
            attempt(&Trial {
                server: &server,
                model,
                case,
            });
        }
        server.unload(model).expect(200);
    }
}

impl Trial<'_> {
    #[track_caller]
    fn ask(&self, content_type: &str, accept: &str, body: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
        let request = Server::invocation(self.model)
            .header("Content-Type", content_type)
            .header("Accept", accept)
            .body(body);
        let answer = self.server.send(&request);
        assert_eq!(answer.status, 200, "{self}: {}", answer.text());
        (answer.header("content-type").unwrap().to_owned(), answer.body)
    }

    #[track_caller]
    fn ask_json(&self, body: &Value) -> Value {
        let body = to_text(body, self.has_floats());
        let (content_type, answer) = self.ask("application/json", "*/*", body);
        assert_eq!(content_type, "application/json");
        from_text(&answer)
    }

    fn has_floats(&self) -> bool {
        self.case.inputs.values().any(Tensor::is_float)
    }

    /// Returns the inputs as rows, if all inputs have the same number of rows.
    fn rows(&self) -> Option<Vec<Value>> {
        if let [only] = self.case.inputs.values().collect::<Vec<_>>()[..] {
            return (!only.shape.is_empty()).then(|| only.rows());
        }
        rows_by_name(
            self.case
                .inputs
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.nested())),
        )
    }

    /// Returns the expected predictions: the values of a single output, or an object per row for
    /// several outputs. `None` if the case does not define them, because each row runs alone
    /// (`records.rs` tests these).
    fn predictions(&self) -> Option<Value> {
        let rows = self.rows()?.len();
        match (self.outputs().as_slice(), rows) {
            (_, 0) => Some(json!({"predictions": []})),
            ([(_, whole)], 1) if WHOLE.contains(&self.model) => Some(json!({"predictions": [whole]})),
            _ if WHOLE.contains(&self.model) => None,
            ([(_, only)], _) => Some(json!({"predictions": only})),
            (outputs, _) => Some(json!({"predictions": rows_by_name(outputs.iter().cloned())?})),
        }
    }

    fn columns(&self) -> Value {
        match self.outputs().as_slice() {
            [(_, only)] => json!({"outputs": only}),
            outputs => json!({"outputs": outputs.iter().cloned().collect::<BTreeMap<_, _>>()}),
        }
    }

    /// Returns the outputs by name, as nested lists.
    fn outputs(&self) -> Vec<(String, Value)> {
        let names = self.case.outputs.keys();
        names.map(|name| (name.clone(), self.case.output(name))).collect()
    }

    /// Returns the outputs as tensors, if all of them are tensors.
    fn tensors(&self) -> Option<Vec<(&str, Tensor)>> {
        let names = self.case.outputs.keys();
        names
            .map(|name| Some((name.as_str(), self.case.output_tensor(name)?)))
            .collect()
    }
}

impl std::fmt::Display for Trial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.model, self.case.inputs)
    }
}

/// Returns rows as objects by name, if all values have the same number of rows.
fn rows_by_name(values: impl Iterator<Item = (String, Value)>) -> Option<Vec<Value>> {
    let columns: Option<Vec<(String, Vec<Value>)>> = values
        .map(|(name, value)| Some((name, value.as_array()?.clone())))
        .collect();
    let columns = columns?;
    let count = columns.first()?.1.len();
    let row = |index: usize| {
        columns
            .iter()
            .map(|(name, rows)| (name.clone(), rows[index].clone()))
            .collect()
    };
    let equal = columns.iter().all(|(_, rows)| rows.len() == count);
    equal.then(|| (0..count).map(|index| Value::Object(row(index))).collect())
}

#[test]
fn every_model_answers_rows_of_json() {
    let mut tried = 0;
    for_each_case(|trial| {
        let (Some(rows), Some(expected)) = (trial.rows(), trial.predictions()) else {
            return;
        };
        tried += 1;
        let what = trial.to_string();
        assert_close(&trial.ask_json(&json!({"instances": rows})), &expected, &what);
        // A bare array is also a list of rows.
        assert_close(&trial.ask_json(&json!(rows)), &expected, &what);
        let more = json!({"signature_name": "serving_default", "instances": rows, "configuration": {"deep": [{}]}});
        assert_close(&trial.ask_json(&more), &expected, &what);
    });
    assert!(tried > 40, "{tried}");
}

#[test]
fn every_model_answers_columns_of_json() {
    for_each_case(|trial| {
        let what = trial.to_string();
        let inputs: BTreeMap<&String, Value> = trial
            .case
            .inputs
            .iter()
            .map(|(name, tensor)| (name, tensor.nested()))
            .collect();
        assert_close(&trial.ask_json(&json!({"inputs": inputs})), &trial.columns(), &what);
        if let [only] = inputs.values().collect::<Vec<_>>()[..] {
            assert_close(&trial.ask_json(&json!({"inputs": only})), &trial.columns(), &what);
        }
    });
}

#[test]
fn every_model_answers_the_open_inference_protocol() {
    for_each_case(|trial| {
        let inputs: Vec<Value> = trial
            .case
            .inputs
            .iter()
            .map(|(name, tensor)| {
                json!({
                    "name": name, "shape": tensor.shape, "datatype": tensor.open_inference_type(),
                    "data": tensor.data,
                })
            })
            .collect();
        let body = json!({"id": "request-7", "inputs": inputs});
        let Some(outputs) = trial.tensors() else {
            // The protocol has neither sequences nor maps.
            let body = to_text(&body, trial.has_floats());
            let request = Server::invocation(trial.model)
                .header("Content-Type", "application/json")
                .body(body);
            trial.server.send(&request).expect(406);
            return;
        };
        let answer = trial.ask_json(&body);
        assert_eq!(
            (&answer["id"], &answer["model_name"]),
            (&json!("request-7"), &json!(trial.model))
        );
        assert_eq!(answer["outputs"].as_array().unwrap().len(), outputs.len());
        for (name, expected) in outputs {
            let expected = json!({
                "name": name, "shape": expected.shape, "datatype": expected.open_inference_type(),
                "data": expected.data,
            });
            let answered = answer["outputs"]
                .as_array()
                .unwrap()
                .iter()
                .find(|output| output["name"] == name);
            assert_close(answered.unwrap(), &expected, &trial.to_string());
        }
    });
}

#[test]
fn every_model_answers_binary_tensors_after_a_json_header() {
    for_each_case(|trial| {
        let Some(outputs) = trial.tensors() else { return };
        let mut tail = Vec::new();
        let mut inputs = Vec::new();
        for (name, tensor) in &trial.case.inputs {
            let bytes = tensor.bytes();
            inputs.push(json!({
                "name": name, "shape": tensor.shape, "datatype": tensor.open_inference_type(),
                "parameters": {"binary_data_size": bytes.len()},
            }));
            tail.extend(bytes);
        }
        let wanted: Vec<Value> = outputs
            .iter()
            .map(|(name, _)| json!({"name": name, "parameters": {"binary_data": true}}))
            .collect();
        let header = json!({"inputs": inputs, "outputs": wanted}).to_string();
        let content_type = format!("{TRITON_BINARY};json-header-size={}", header.len());
        let (content_type, answer) = trial.ask(&content_type, "*/*", [header.as_bytes(), &tail].concat());
        let size = content_type
            .strip_prefix(&format!("{TRITON_BINARY};json-header-size="))
            .unwrap();
        let (header, mut tail) = answer.split_at(size.parse().unwrap());
        let header: Value = serde_json::from_slice(header).unwrap();
        for (answered, (name, expected)) in header["outputs"].as_array().unwrap().iter().zip(&outputs) {
            assert_eq!(answered["name"], json!(name));
            assert_eq!(answered["datatype"], expected.open_inference_type());
            assert_eq!(answered["shape"], json!(expected.shape), "{trial}");
            let (bytes, rest) = tail.split_at(
                answered["parameters"]["binary_data_size"]
                    .as_u64()
                    .unwrap()
                    .try_into()
                    .unwrap(),
            );
            tail = rest;
            let data = expected.data_of(bytes);
            assert_close(&json!(data), &json!(expected.data), &trial.to_string());
        }
        assert_eq!(tail, b"", "{trial}");
    });
}

const TRITON_BINARY: &str = "application/vnd.sagemaker-triton.binary+json";

#[test]
fn every_model_answers_json_lines_with_a_line_per_row() {
    // BT-6, BT-7
    let mut tried = 0;
    for_each_case(|trial| {
        let rows = trial.rows().filter(|rows| !rows.is_empty());
        let (Some(rows), Some(expected)) = (rows, trial.predictions()) else {
            return;
        };
        tried += 1;
        let lines: Vec<String> = rows.iter().map(|row| to_text(row, trial.has_floats())).collect();
        let expected = expected["predictions"].as_array().unwrap();
        assert_eq!(expected.len(), rows.len(), "{trial}");
        for body in [lines.join("\n"), lines.join("\n") + "\n", lines.join("\r\n") + "\r\n"] {
            let (content_type, answer) = trial.ask("application/jsonlines", "application/jsonlines", body);
            assert_eq!(content_type, "application/jsonlines");
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.ends_with('\n') && !answer.contains("\n\n"), "{answer:?}");
            let answered: Vec<Value> = answer.lines().map(|line| from_text(line.as_bytes())).collect();
            assert_close(&json!(answered), &json!(expected), &trial.to_string());
        }
    });
    assert!(tried > 30, "{tried}");
}

#[test]
fn csv_requests_are_answered_with_a_line_per_row() {
    // BT-7, BT-9. The columns are in the order of the model's inputs.
    let table: [(&str, &[&str]); 6] = [
        ("mlp", &["features"]),
        ("trees", &["X"]),
        ("external", &["x"]),
        ("iris_zipmap", &["X"]),
        ("iris_zipmap_str", &["X"]),
        ("columns", &["age", "income", "city"]),
    ];
    let server = Builder::multi().start();
    for (model, inputs) in table {
        let url = server.models().place(model, model);
        server.load(model, &url).expect(200);
        for case in cases(model) {
            let trial = Trial {
                server: &server,
                model,
                case,
            };
            let columns: Vec<Vec<Value>> = inputs.iter().map(|name| trial.case.inputs[*name].rows()).collect();
            let lines: Vec<String> = (0..columns[0].len())
                .map(|row| {
                    columns
                        .iter()
                        .flat_map(|column| cells(&column[row]))
                        .collect::<Vec<_>>()
                        .join(",")
                })
                .collect();
            let outputs = trial.outputs();
            let expected: Vec<Vec<String>> = (0..columns[0].len())
                .map(|row| outputs.iter().flat_map(|(_, value)| cells(&value[row])).collect())
                .collect();
            for body in [lines.join("\n"), lines.join("\n") + "\n", lines.join("\r\n") + "\r\n"] {
                let (content_type, answer) = trial.ask("text/csv", "text/csv", body);
                assert_eq!(content_type, "text/csv");
                let answer = String::from_utf8(answer).unwrap();
                assert!(answer.ends_with('\n'), "{answer:?}");
                let answered: Vec<Vec<String>> = answer
                    .lines()
                    .map(|line| line.split(',').map(str::to_owned).collect())
                    .collect();
                assert_eq!(answered.len(), expected.len(), "{trial}: {answer}");
                for (answered, expected) in answered.iter().zip(&expected) {
                    assert_close(&numbers(answered), &numbers(expected), &trial.to_string());
                }
            }
        }
    }
}

/// Returns the cells of a row; those of a map are in the order of its keys.
fn cells(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(cells).collect(),
        Value::Object(items) => items.values().flat_map(cells).collect(),
        Value::String(text) => vec![text.clone()],
        Value::Null | Value::Bool(_) | Value::Number(_) => vec![value.to_string()],
    }
}

/// Converts cells that are numbers to floats.
fn numbers(cells: &[String]) -> Value {
    cells
        .iter()
        .map(|cell| cell.parse::<f64>().map_or_else(|_| json!(cell), |number| json!(number)))
        .collect()
}

#[test]
fn models_of_one_array_answer_numpy_files() {
    let mut tried = 0;
    for_each_case(|trial| {
        let ([input], Some(outputs)) = (&trial.case.inputs.values().collect::<Vec<_>>()[..], trial.tensors()) else {
            return;
        };
        let ([(_, expected)], Some(descr)) = (&outputs[..], numpy_type(&input.dtype)) else {
            return;
        };
        tried += 1;
        let (content_type, answer) = trial.ask("application/x-npy", "application/x-npy", npy(descr, input));
        assert_eq!(content_type, "application/x-npy");
        let (header, data) = answer[10..].split_at(usize::from(u16::from_le_bytes([answer[8], answer[9]])));
        assert_eq!(&answer[..8], b"\x93NUMPY\x01\x00");
        assert!(
            header.ends_with(b"\n") && (header.len() + 10).is_multiple_of(64),
            "{}",
            header.len()
        );
        let header = String::from_utf8(header.to_vec()).unwrap();
        let descr = numpy_type(&expected.dtype).unwrap();
        for part in [
            format!("'descr': '{descr}'"),
            format!("'shape': {}", tuple(&expected.shape)),
            "'fortran_order': False".to_owned(),
        ] {
            assert!(header.contains(&part), "{part} is not in {header}");
        }
        assert_close(
            &json!(expected.data_of(data)),
            &json!(expected.data),
            &trial.to_string(),
        );
    });
    assert!(tried > 25, "{tried}");
}

/// Returns the NumPy type; NumPy has neither bfloat16 nor strings of any length.
fn numpy_type(dtype: &str) -> Option<&'static str> {
    Some(match dtype {
        "bool" => "|b1",
        "int8" => "|i1",
        "int16" => "<i2",
        "int32" => "<i4",
        "int64" => "<i8",
        "uint8" => "|u1",
        "uint16" => "<u2",
        "uint32" => "<u4",
        "uint64" => "<u8",
        "float16" => "<f2",
        "float32" => "<f4",
        "float64" => "<f8",
        _ => return None,
    })
}

/// Returns the bytes that `numpy.save` writes.
fn npy(descr: &str, tensor: &Tensor) -> Vec<u8> {
    let shape = tuple(&tensor.shape);
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let padding = 63 - (10 + header.len()) % 64;
    let header = format!("{header}{}\n", " ".repeat(padding));
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &tensor.bytes()].concat()
}

fn tuple(shape: &[usize]) -> String {
    match shape {
        [only] => format!("({only},)"),
        _ => format!(
            "({})",
            shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    }
}

#[test]
fn the_big_model_answers() {
    let server = Builder::multi().start();
    let url = server.models().place_big("big");
    server.load("big", &url).expect(200);
    let answer = server
        .invoke("big", &json!({"instances": [vec![1.0; 1024], vec![0.5; 1024]]}))
        .expect(200);
    assert_eq!(answer.json(), json!({"predictions": [1_048_576.0, 524_288.0]}));
}

#[test]
fn a_container_of_a_pipeline_reads_the_response_of_the_previous_one() {
    // MC-4, MC-6: the pipeline passes on the body and the Content-Type unchanged, with parameters.
    let server = Builder::multi().start();
    let url = server.models().place("mlp", "mlp");
    server.load("mlp", &url).expect(200);
    let url = server.models().place("identity_float32", "next");
    server.load("next", &url).expect(200);
    let rows = cases("mlp")[1].inputs["features"].rows();
    for accept in [
        "text/csv",
        "application/json",
        "application/jsonlines",
        "application/x-npy",
    ] {
        let request = Server::invocation("mlp")
            .json(&json!({"instances": rows}))
            .header("Accept", accept);
        let first = server.send(&request).expect(200);
        let body = match accept {
            // The keys of requests and responses differ, as in TF-Serving.
            "application/json" => first.text().replace("predictions", "instances").into_bytes(),
            _ => first.body.clone(),
        };
        for content_type in [
            first.header("content-type").unwrap(),
            &format!("{}; charset=UTF-8", accept.to_uppercase()),
        ] {
            let request = Server::invocation("next")
                .header("Content-Type", content_type)
                .header("Accept", accept);
            let second = server.send(&request.body(body.clone())).expect(200);
            assert_eq!(
                (&second.body, second.header("content-type")),
                (&first.body, first.header("content-type"))
            );
        }
    }
    let list = server.send(&Request::get("/models")).expect(200).json();
    assert_eq!(list["models"].as_array().unwrap().len(), 2);
}
