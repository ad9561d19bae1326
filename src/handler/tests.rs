mod memory;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::codec::testing::{input, output, signature, strings, tensor, zip_map};
use crate::engine::{NoRoom, RequestMemory};
use crate::tensor::{DataType, OutputRows, OutputSpec, Tensor};

/// A ledger that reserves nothing.
struct Uncounted;

impl RequestBudget for Uncounted {
    fn reserve(&self, _: u64) -> Result<Option<RequestMemory>, NoRoom> {
        Ok(None)
    }
}

fn manifest(json: serde_json::Value) -> Manifest {
    serde_json::from_value(json).unwrap()
}

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The response to a body, where `run` computes the outputs of each run.
fn answer(
    handler: &Handler,
    model: &Signature,
    content_type: &str,
    text: &str,
    accept: &str,
    run: impl Fn(&[Tensor]) -> Vec<Value>,
) -> String {
    let request = handler
        .decode(content_type, body(text), Documents::One, &Uncounted)
        .map(|decoded| decoded.request)
        .unwrap();
    let (format, reply) = handler.negotiate(Some(accept), Format::Json, &request.reply).unwrap();
    let selected = |all: Vec<Value>| match reply.outputs() {
        None => all,
        Some(outputs) => outputs.iter().map(|&output| all[output].clone()).collect(),
    };
    let runs = match handler.apart(format, &reply, None) {
        None => vec![selected(run(&request.inputs))],
        Some(count) => (0..count)
            .map(|index| selected(run(&model.record(&request.inputs, index))))
            .collect(),
    };
    let encoded = handler.encode(format, &reply, "m", &runs).unwrap();
    String::from_utf8_lossy(&encoded.body).into_owned()
}

/// A classifier with one wide input, as exported by scikit-learn.
fn classifier() -> Signature {
    signature(
        &[input("X", DataType::F32, &[-1, 2])],
        &[
            output("label", DataType::I64, &[-1]),
            output("probabilities", DataType::F32, &[-1, 2]),
        ],
    )
}

fn classify(inputs: &[Tensor]) -> Vec<Value> {
    let records = inputs[0].shape()[0];
    let labels: Vec<i64> = (0..records).map(|record| (record % 2) as i64).collect();
    vec![
        Value::Tensor(tensor(&[records], &labels)),
        Value::Tensor(tensor(&[records, 2], &[0.25f32, 0.75].repeat(records))),
    ]
}

#[test]
fn the_manifest_chooses_renames_and_labels_outputs() {
    let model = classifier();
    let table = [
        (
            json!({}),
            "application/json",
            "{\"predictions\":[{\"label\":0,\"probabilities\":[0.25,0.75]}]}",
        ),
        (
            json!({"outputs": ["probabilities"]}),
            "application/json",
            "{\"predictions\":[[0.25,0.75]]}",
        ),
        (json!({"outputs": ["probabilities"]}), "text/csv", "0.25,0.75\n"),
        (
            json!({"outputs": [{"name": "probabilities", "as": "p"}, "label"]}),
            "application/json",
            "{\"predictions\":[{\"p\":[0.25,0.75],\"label\":0}]}",
        ),
        (
            json!({"labels": ["no", "yes"], "outputs": [{"name": "label", "labels": true}, {"name": "probabilities", "labels": true}]}),
            "application/json",
            "{\"predictions\":[{\"label\":\"no\",\"probabilities\":{\"no\":0.25,\"yes\":0.75}}]}",
        ),
        (
            json!({"labels": ["yes", "no"], "outputs": [{"name": "label", "labels": true}, {"name": "probabilities", "labels": true}]}),
            "text/csv",
            "yes,0.25,0.75\n",
        ),
        (
            json!({"labels": ["no"], "outputs": [{"name": "label", "labels": true}]}),
            "application/jsonlines",
            "\"no\"\n",
        ),
    ];
    for (said, accept, expected) in table {
        let handler = Handler::new(&manifest(said), &model, Tools::default()).unwrap();
        assert_eq!(
            answer(&handler, &model, "text/csv", "1,2\n", accept, classify),
            expected
        );
    }
    let chosen = Handler::new(
        &manifest(json!({"outputs": ["probabilities"]})),
        &model,
        Tools::default(),
    )
    .unwrap();
    // The outputs in a request take precedence; tensors of the protocol keep their numbers.
    let request = r#"{"inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "outputs": [{"name": "label"}]}"#;
    let reply = answer(&chosen, &model, "application/json", request, "*/*", classify);
    assert!(
        reply.contains("\"name\":\"label\"") && !reply.contains("probabilities"),
        "{reply}"
    );
    let request = r#"{"inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}"#;
    let reply = answer(&chosen, &model, "application/json", request, "*/*", classify);
    assert!(
        reply.contains("\"name\":\"probabilities\"") && !reply.contains("label"),
        "{reply}"
    );
}

#[test]
fn maps_by_class_number_become_maps_by_name() {
    let model = signature(&[input("X", DataType::F32, &[-1, 1])], &[zip_map("p", DataType::I64)]);
    let said = json!({"labels": ["no", "yes"], "outputs": [{"name": "p", "labels": true}]});
    let handler = Handler::new(&manifest(said), &model, Tools::default()).unwrap();
    let run = |_: &[Tensor]| {
        vec![Value::Sequence(vec![Value::Map {
            keys: tensor(&[3], &[0i64, 1, 9]),
            values: tensor(&[3], &[0.5f32, 0.25, 0.25]),
        }])]
    };
    let reply = answer(&handler, &model, "text/csv", "1\n", "application/jsonlines", run);
    assert_eq!(reply, "{\"no\":0.5,\"yes\":0.25,\"9\":0.25}\n");
}

#[test]
fn rejects_a_manifest_that_does_not_match_the_model() {
    let table = [
        (
            json!({"inputs": [{"name": "Y"}]}),
            "the model has no input \"Y\"; it takes \"X\" float32[batch, 2]",
        ),
        (
            json!({"inputs": [{"name": "X"}, {"name": "X"}]}),
            "duplicate name \"X\"",
        ),
        (
            json!({"inputs": [{"name": "X", "default": [1, 2, 3]}]}),
            "the value of \"X\" does not match the input",
        ),
        (
            json!({"inputs": [{"name": "X", "default": ["a", "b"]}]}),
            "is not a number",
        ),
        (json!({"columns": ["a", "b", "c"]}), "there are 3 where 2 are expected"),
        (
            json!({"outputs": ["scores"]}),
            "the model has no output \"scores\"; it gives \"label\"",
        ),
        (json!({"outputs": ["label", "label"]}), "duplicate name \"label\""),
        (
            json!({"outputs": ["label", {"name": "probabilities", "as": "label"}]}),
            "duplicate name \"label\"",
        ),
        (
            json!({"outputs": [{"name": "label", "labels": true}]}),
            "\"labels\" is empty",
        ),
    ];
    for (keys, expected) in table {
        let error = Handler::new(&manifest(keys.clone()), &classifier(), Tools::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{keys}: {error}");
    }
    let texts = signature(
        &[input("X", DataType::F32, &[-1, 2])],
        &[output("y", DataType::String, &[-1])],
    );
    let keys = json!({"labels": ["a"], "outputs": [{"name": "y", "labels": true}]});
    let error = Handler::new(&manifest(keys), &texts, Tools::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("needs whole numbers (classes)"), "{error}");
}

#[test]
fn columns_are_assigned_to_inputs_by_name_or_in_order() {
    let texts = signature(
        &[
            input("Island", DataType::String, &[-1, 1]),
            input("Culmen_Length__mm_", DataType::F32, &[-1, 1]),
        ],
        &[],
    );
    // The cells of a line are in the manifest's order, not in the model's.
    let said = json!({"columns": ["Culmen Length (mm)", {"name": "Island", "default": "Dream"}]});
    let handler = Handler::new(&manifest(said), &texts, Tools::default()).unwrap();
    let expected = [strings(&[1, 1], &[b"Biscoe"]), tensor(&[1, 1], &[39.5f32])];
    assert_eq!(
        handler
            .decode("text/csv", body("39.5,Biscoe\n"), Documents::One, &Uncounted)
            .map(|decoded| decoded.request)
            .unwrap()
            .inputs,
        expected
    );
    let defaulted = handler
        .decode(
            "application/json",
            body(r#"[{"Culmen Length (mm)": 39.5}]"#),
            Documents::One,
            &Uncounted,
        )
        .map(|decoded| decoded.request)
        .unwrap();
    assert_eq!(defaulted.inputs[0], strings(&[1, 1], &[b"Dream"]));

    let wide = signature(
        &[input("a", DataType::F32, &[-1, 2]), input("b", DataType::I64, &[-1])],
        &[],
    );
    let handler = Handler::new(&manifest(json!({"columns": ["p", "q", "r"]})), &wide, Tools::default()).unwrap();
    let inputs = handler
        .decode("text/csv", body("r,q,p\n3,2,1\n"), Documents::One, &Uncounted)
        .map(|decoded| decoded.request)
        .unwrap()
        .inputs;
    assert_eq!(inputs, [tensor(&[1, 2], &[1f32, 2.]), tensor(&[1], &[3i64])]);
}

/// A model, exported for `size` records, that adds the two numbers of each record.
fn sums(size: i64) -> (Signature, impl Fn(&[Tensor]) -> Vec<Value>) {
    let model = signature(
        &[input("x", DataType::F32, &[size, 2])],
        &[output("y", DataType::F32, &[size])],
    );
    let run = move |inputs: &[Tensor]| {
        assert_eq!(inputs[0].shape(), [usize::try_from(size).unwrap(), 2]);
        let sums: Vec<f32> = inputs[0]
            .as_slice::<f32>()
            .unwrap()
            .chunks(2)
            .map(|pair| pair.iter().sum())
            .collect();
        vec![Value::Tensor(tensor(&[sums.len()], &sums))]
    };
    (model, run)
}

#[test]
fn a_model_of_a_fixed_batch_size_answers_any_number_of_records() {
    let npy = |handler: &Handler, model: &Signature, run: &dyn Fn(&[Tensor]) -> Vec<Value>, text: &str| {
        answer(handler, model, "text/csv", text, "application/x-npy", run)
    };
    for size in [1, 2, 4] {
        let (model, run) = sums(size);
        let handler = Handler::new(&manifest(json!({"batching": true})), &model, Tools::default()).unwrap();
        let reply = |text: &str, accept: &str| answer(&handler, &model, "text/csv", text, accept, &run);
        assert_eq!(reply("1,2\n3,4\n5,6\n", "text/csv"), "3.0\n7.0\n11.0\n", "{size}");
        assert_eq!(reply("1,2\n", "text/csv"), "3.0\n", "{size}");
        assert_eq!(
            reply("1,2\n3,4\n5,6\n", "application/json"),
            "{\"predictions\":[3.0,7.0,11.0]}"
        );
        assert!(
            npy(&handler, &model, &run, "1,2\n3,4\n5,6\n").contains("(3,)"),
            "{size}"
        );
        let columns = answer(
            &handler,
            &model,
            "application/json",
            r#"{"inputs": [[1, 2], [3, 4], [5, 6]]}"#,
            "*/*",
            &run,
        );
        assert_eq!(columns, "{\"outputs\":[3.0,7.0,11.0]}");
    }
}

#[test]
fn records_that_may_depend_on_each_other_are_not_divided() {
    let (model, _) = sums(2);
    let handler = Handler::new(&Manifest::default(), &model, Tools::default()).unwrap();
    assert!(
        handler
            .decode("text/csv", body("1,2\n3,4\n"), Documents::One, &Uncounted)
            .map(|decoded| decoded.request)
            .is_ok()
    );
    let error = handler
        .decode("text/csv", body("1,2\n3,4\n5,6\n"), Documents::One, &Uncounted)
        .map(|decoded| decoded.request)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the model takes float32[2, 2]"), "{error}");
}

#[test]
fn an_output_without_an_entry_for_each_record_is_not_joined() {
    let detector = Signature {
        outputs: vec![OutputSpec {
            rows: OutputRows::Whole,
            ..output("boxes", DataType::F32, &[-1, 4])
        }],
        ..signature(&[input("image", DataType::F32, &[1, 2])], &[])
    };
    let run = |_: &[Tensor]| vec![Value::Tensor(tensor(&[2, 4], &[0f32; 8]))];
    let handler = Handler::new(&Manifest::default(), &detector, Tools::default()).unwrap();
    let lines = answer(
        &handler,
        &detector,
        "text/csv",
        "1,2\n3,4\n",
        "application/jsonlines",
        run,
    );
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let request = handler
        .decode("text/csv", body("1,2\n3,4\n"), Documents::One, &Uncounted)
        .map(|decoded| decoded.request)
        .unwrap();
    let runs = [run(&[]), run(&[])];
    let error = handler
        .encode(Format::Npy, &request.reply, "m", &runs)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no entry for each record"), "{error}");
}
