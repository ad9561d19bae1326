//! Records: the response has one line per record (BT-7), whatever the first axis of an output
//! means.

use std::slice;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Builder, Request, Response, Server, eventually, in_parallel, longshore};
use crate::support::onnx::{Dim, Graph, Info, Model, Node, Tensor, element};

const LINES: &str = "application/jsonlines";

/// Boxes per record, each with four coordinates and a score.
const BOXES: usize = 10;

/// Returns a model with non-maximum suppression: `x` float32[batch, 50] contains ten boxes, then
/// ten scores. The output is `columns` of the selected indices, between none and ten per record.
fn detector(output_axis: &str, columns: Columns) -> Vec<u8> {
    let slice = |from: &'static str, to: &'static str, output: &'static str| {
        Node::new("Slice", ["x", from, to, "second"], [output])
    };
    let graph = Graph::new()
        .input(Info::floats("x", ["batch".into(), 50.into()]))
        .initializer(Tensor::ints("zero", &[1], &[0]))
        .initializer(Tensor::ints("forty", &[1], &[40]))
        .initializer(Tensor::ints("fifty", &[1], &[50]))
        .initializer(Tensor::ints("second", &[1], &[1]))
        .initializer(Tensor::ints("box_shape", &[3], &[-1, 10, 4]))
        .initializer(Tensor::ints("most", &[1], &[10]))
        .initializer(Tensor::floats("overlap", &[1], &[0.5]))
        .initializer(Tensor::floats("least", &[1], &[0.5]))
        .node(slice("zero", "forty", "flat_boxes"))
        .node(Node::new("Reshape", ["flat_boxes", "box_shape"], ["boxes"]))
        .node(slice("forty", "fifty", "flat_scores"))
        .node(Node::new("Unsqueeze", ["flat_scores", "second"], ["scores"]))
        .node(Node::new(
            "NonMaxSuppression",
            ["boxes", "scores", "most", "overlap", "least"],
            ["selected"],
        ));
    let graph = match columns {
        Columns::All => graph.output(Info::ints("selected", [Dim::from(output_axis), 3.into()])),
        Columns::Last => graph
            .initializer(Tensor::ints("last", &[], &[2]))
            .node(Node::new("Gather", ["selected", "last"], ["index"]).attribute("axis", 1i64))
            .output(Info::ints("index", [Dim::from(output_axis)])),
    };
    Model::new(graph).into_bytes()
}

#[derive(Clone, Copy)]
enum Columns {
    All,
    Last,
}

/// Returns a record in which the detector selects the boxes at `found`.
fn image(found: &[usize]) -> Vec<f32> {
    let boxes = (0..BOXES).flat_map(|at| {
        let corner = 2.0 * at as f32;
        [corner, corner, corner + 1.0, corner + 1.0]
    });
    let scores = (0..BOXES).map(|at| if found.contains(&at) { 0.875 } else { 0.25 });
    boxes.chain(scores).collect()
}

/// Returns a model that computes `time` float32[20, batch, 2] from `x` float32[batch, 3]: `x`
/// times 20 matrices; the elements of each matrix are larger by 1 than those of the previous one.
fn decoder(output_dims: [Dim; 3]) -> Vec<u8> {
    let weights: Vec<f32> = (0..20i16).flat_map(|step| [f32::from(step); 6]).collect();
    let graph = Graph::new()
        .input(Info::floats("x", ["batch".into(), 3.into()]))
        .initializer(Tensor::floats("w", &[20, 3, 2], &weights))
        .node(Node::new("MatMul", ["x", "w"], ["time"]))
        .output(Info::floats("time", output_dims));
    Model::new(graph).into_bytes()
}

/// Returns a model with one node that computes `y` from `x` float32[batch, 2].
fn by_one_node(node: Node, output: Info) -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::floats("x", ["batch".into(), 2.into()]))
        .node(node)
        .output(output);
    Model::new(graph).into_bytes()
}

/// Returns a model that sums all numbers of all records.
fn sum() -> Vec<u8> {
    let node = Node::new("ReduceSum", ["x"], ["y"]).attribute("keepdims", 0i64);
    by_one_node(node, Info::floats("y", []))
}

/// Returns a model that flattens all records to one list.
fn flattened() -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::floats("x", ["batch".into(), 2.into()]))
        .initializer(Tensor::ints("shape", &[1], &[-1]))
        .node(Node::new("Reshape", ["x", "shape"], ["y"]))
        .output(Info::floats("y", ["batch".into()]));
    Model::new(graph).into_bytes()
}

fn doubled() -> Vec<u8> {
    by_one_node(
        Node::new("Add", ["x", "x"], ["y"]),
        Info::floats("y", ["batch".into(), 2.into()]),
    )
}

#[track_caller]
fn serving(model: &[u8], manifest: &str, arguments: &[&str]) -> Server {
    let server = Builder::multi().arguments(arguments).start();
    let url = server.models().place_model("m", model);
    std::fs::write(format!("{url}/longshore.json"), manifest).unwrap();
    server.load("m", &url).expect(200);
    server
}

fn asked(content_type: &str, accept: &str, body: String) -> Request {
    Server::invocation("m")
        .header("Content-Type", content_type)
        .header("Accept", accept)
        .body(body)
}

fn json_lines<T: serde::Serialize>(records: &[T]) -> String {
    let line = |record| serde_json::to_string(record).unwrap() + "\n";
    records.iter().map(line).collect()
}

fn csv(records: &[Vec<f32>]) -> String {
    let line = |record: &Vec<f32>| record.iter().map(ToString::to_string).collect::<Vec<_>>().join(",") + "\n";
    records.iter().map(line).collect()
}

/// Sends the records in each format of records, and requests each format of JSON records. All
/// results must be equal.
#[track_caller]
fn predictions(server: &Server, records: &[Vec<f32>]) -> Vec<Value> {
    let instances = json!({"instances": records}).to_string();
    let requests = [
        ("application/json", instances),
        ("application/json", json!(records).to_string()),
        (LINES, json_lines(records)),
        ("text/csv", csv(records)),
    ];
    let mut all: Vec<Vec<Value>> = Vec::new();
    for (content_type, body) in requests {
        let answer = server
            .send(&asked(content_type, "application/json", body.clone()))
            .expect(200);
        all.push(answer.json()["predictions"].as_array().unwrap().clone());
        let answer = server.send(&asked(content_type, LINES, body)).expect(200);
        all.push(
            lines(&answer)
                .iter()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        );
    }
    assert!(all.iter().all(|answer| *answer == all[0]), "{all:?}");
    assert_eq!(all[0].len(), records.len(), "{all:?}");
    all.swap_remove(0)
}

/// Returns the lines of a response; asserts that none is blank and each ends with a line feed.
#[track_caller]
fn lines(answer: &Response) -> Vec<String> {
    let text = answer.text();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    let lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    assert!(lines.iter().all(|line| !line.is_empty()), "{text:?}");
    lines
}

/// Returns the lines of the CSV response, or the message of the refusal.
#[track_caller]
fn csv_lines(server: &Server, content_type: &str, body: String) -> Result<Vec<String>, String> {
    let answer = server.send(&asked(content_type, "text/csv", body));
    match answer.status {
        200 => Ok(lines(&answer)),
        _ => Err(answer.expect(406).message()),
    }
}

#[test]
fn each_image_gets_a_line_with_all_its_detections() {
    // The name of the axis of detections, which the exporter chose, must not matter.
    for axis in ["found", "batch"] {
        let server = serving(&detector(axis, Columns::All), "{}", &[]);
        let selected = |boxes: &[usize]| boxes.iter().map(|at| json!([0, 0, at])).collect::<Value>();
        let images: [&[usize]; 4] = [&[1, 4], &[], &[7], &[0, 2, 4, 6, 8]];
        let records: Vec<Vec<f32>> = images.iter().map(|found| image(found)).collect();
        let expected: Vec<Value> = images.iter().map(|found| selected(found)).collect();
        assert_eq!(predictions(&server, &records), expected);
        for (record, expected) in records.iter().zip(&expected) {
            assert_eq!(predictions(&server, slice::from_ref(record)), slice::from_ref(expected));
        }
        // Ten boxes for ten records: the counts are equal by chance.
        let ten = vec![image(&[3]); 10];
        assert_eq!(predictions(&server, &ten), vec![selected(&[3]); 10]);
        let refusal = csv_lines(&server, LINES, json_lines(&records)).unwrap_err();
        assert!(refusal.contains("output \"selected\" is a nested list"), "{refusal}");
    }
}

#[test]
fn flat_results_are_csv_lines_and_an_empty_list_is_not_a_blank_line() {
    let server = serving(&detector("found", Columns::Last), "{}", &[]);
    let records = [image(&[1, 4]), image(&[]), image(&[7])];
    assert_eq!(predictions(&server, &records), [json!([1, 4]), json!([]), json!([7])]);
    let expected = ["1,4", "[]", "7"].map(ToOwned::to_owned);
    assert_eq!(csv_lines(&server, "text/csv", csv(&records)).unwrap(), expected);
    assert_eq!(csv_lines(&server, LINES, json_lines(&records)).unwrap(), expected);
    let instances = json!({"instances": records}).to_string();
    assert_eq!(csv_lines(&server, "application/json", instances).unwrap(), expected);
    assert_eq!(csv_lines(&server, "text/csv", csv(&records[1..2])).unwrap(), ["[]"]);
}

#[test]
fn a_decoder_with_time_as_first_axis_returns_all_steps_of_each_record() {
    let fixed = || [20.into(), "batch".into(), 2.into()];
    let misnamed = || ["batch".into(), "time".into(), 2.into()];
    for (dims, arguments) in [
        (fixed(), &[][..]),
        (misnamed(), &[]),
        (fixed(), &["--prepare", "off"]),
        (misnamed(), &["--prepare", "off"]),
    ] {
        let server = serving(&decoder(dims), "{}", arguments);
        let record = |factor: f32| vec![factor, 0.0, 0.0];
        let steps = |factor: f32| {
            let step = |step: i16| json!([[f32::from(step) * factor, f32::from(step) * factor]]);
            (0..20).map(step).collect::<Value>()
        };
        for factors in [&[1.0][..], &[1.0, 0.5, 2.0]] {
            let records: Vec<Vec<f32>> = factors.iter().map(|&factor| record(factor)).collect();
            let expected: Vec<Value> = factors.iter().map(|&factor| steps(factor)).collect();
            assert_eq!(predictions(&server, &records), expected);
            csv_lines(&server, LINES, json_lines(&records)).unwrap_err();
        }
        // A request with whole tensors gets whole tensors.
        let columns = json!({"inputs": [record(1.0), record(0.5)]});
        let whole = server.invoke("m", &columns).expect(200).json();
        assert_eq!(whole["outputs"][3], json!([[3.0, 3.0], [1.5, 1.5]]));
    }
}

#[test]
fn a_sequence_whose_length_differs_from_the_records_is_given_to_each_record() {
    let server = Builder::multi().start();
    let url = server.models().place("one_more", "m");
    server.load("m", &url).expect(200);
    let last = json!([-1.0, -1.0]);
    assert_eq!(
        predictions(&server, &[vec![1.0, 2.0], vec![3.0, 4.0]]),
        [json!([[1.0, 2.0], last]), json!([[3.0, 4.0], last])]
    );
    // The sequence has three tensors for any number of records, also for three.
    let kind = Info::sequence("y", element::FLOAT);
    let server = serving(
        &by_one_node(Node::new("SequenceConstruct", ["x", "x", "x"], ["y"]), kind),
        "{}",
        &[],
    );
    for count in 1..5u8 {
        let records: Vec<Vec<f32>> = (0..count).map(|at| vec![f32::from(at), 0.5]).collect();
        let expected: Vec<Value> = records
            .iter()
            .map(|record| json!([[record], [record], [record]]))
            .collect();
        assert_eq!(predictions(&server, &records), expected);
    }
}

#[test]
fn no_records_give_no_lines() {
    for model in [detector("found", Columns::All), sum(), doubled()] {
        let server = serving(&model, "{}", &[]);
        let answer = server.invoke("m", &json!({"instances": []})).expect(200);
        assert_eq!(answer.json(), json!({"predictions": []}));
    }
}

#[test]
fn every_kind_of_model_returns_a_line_for_each_record() {
    let kinds: [(Vec<u8>, usize); 7] = [
        (doubled(), 2),
        (sum(), 2),
        (flattened(), 2),
        (detector("found", Columns::All), 50),
        (detector("found", Columns::Last), 50),
        (decoder([20.into(), "batch".into(), 2.into()]), 3),
        (decoder([1.into(), "batch".into(), 2.into()]), 3),
    ];
    // Pseudorandom numbers, the same in every run.
    let number = |at: usize| ((at * 7919 + 13) % 200) as f32 / 100.0 - 1.0;
    in_parallel(2, &kinds, |(model, width)| {
        for arguments in [&[][..], &["--prepare", "off"]] {
            let server = serving(model, "{}", arguments);
            for count in [1, 2, 3, 10, 20] {
                let records: Vec<Vec<f32>> = (0..count)
                    .map(|record| (0..*width).map(|at| number(record * width + at)).collect())
                    .collect();
                let together = predictions(&server, &records);
                // Without a trial, counts that are equal by chance cannot be detected.
                if arguments.is_empty() {
                    for (record, answer) in records.iter().zip(&together) {
                        assert_eq!(predictions(&server, slice::from_ref(record)), slice::from_ref(answer));
                    }
                }
                for (content_type, body) in [(LINES, json_lines(&records)), ("text/csv", csv(&records))] {
                    if let Ok(lines) = csv_lines(&server, content_type, body) {
                        assert_eq!(lines.len(), count);
                    }
                }
            }
        }
    });
}

/// Batch transform: the records are the lines of a file, several in a request, and the job joins
/// the responses.
#[test]
fn a_batch_job_gets_its_results_in_the_order_of_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.onnx"), detector("found", Columns::Last)).unwrap();
    let server = Builder::single(folder.path())
        .environment("SAGEMAKER_BATCH", "true")
        .start();
    eventually("the container is healthy", || server.ping().status == 200);
    let found: Vec<Vec<usize>> = (0..40)
        .map(|at| (0..at % 11).map(|index| index % 10).collect())
        .collect();
    let records: Vec<Vec<f32>> = found.iter().map(|found| image(found)).collect();
    for (content_type, line) in [(LINES, json_lines as fn(&[Vec<f32>]) -> String), ("text/csv", csv)] {
        let mut answered = Vec::new();
        for chunk in records.chunks(7) {
            let request = Request::post("/invocations")
                .header("Content-Type", content_type)
                .header("Accept", LINES)
                .body(line(chunk));
            answered.extend(lines(&server.send(&request).expect(200)));
        }
        let expected: Vec<String> = found
            .iter()
            .map(|found| {
                let mut found = found.clone();
                found.dedup();
                found.sort_unstable();
                found.dedup();
                json!(found).to_string()
            })
            .collect();
        assert_eq!(answered, expected);
    }
}

#[test]
fn records_that_run_one_by_one_are_not_batched_with_other_requests() {
    let server = serving(
        &detector("found", Columns::Last),
        r#"{"batching": true}"#,
        &["--threads", "1"],
    );
    thread::scope(|scope| {
        for client in 0..8usize {
            let server = &server;
            scope.spawn(move || {
                let records = [image(&[client]), image(&[]), image(&[client, 9])];
                let expected = [json!([client]), json!([]), json!([client, 9])];
                let expected = json!({"predictions": expected});
                for _ in 0..20 {
                    let answer = server.invoke("m", &json!({"instances": records})).expect(200);
                    assert_eq!(answer.json(), expected);
                }
            });
        }
    });
    assert_eq!(server.metric("longshore_batch_requests_count"), 0);
}

/// Returns a model that counts step by step to the largest number of `x` int64[batch].
fn counter() -> Vec<u8> {
    let body = Graph::new()
        .input(Info::ints("step", []))
        .input(Info::tensor("go_on", element::BOOL, []))
        .input(Info::floats("before", []))
        .initializer(Tensor::floats("one", &[], &[1.0]))
        .node(Node::new("Identity", ["go_on"], ["going_on"]))
        .node(Node::new("Add", ["before", "one"], ["after"]))
        .output(Info::tensor("going_on", element::BOOL, []))
        .output(Info::floats("after", []));
    let graph = Graph::new()
        .input(Info::ints("x", ["batch".into()]))
        .initializer(Tensor::floats("zero", &[], &[0.0]))
        .node(Node::new("ReduceMax", ["x"], ["steps"]).attribute("keepdims", 0i64))
        .node(Node::new("Loop", ["steps", "", "zero"], ["y"]).attribute("body", body))
        .output(Info::floats("y", []));
    Model::new(graph).into_bytes()
}

#[test]
fn records_that_run_one_by_one_stop_at_the_deadline_of_their_request() {
    let server = serving(&counter(), "{}", &["--request-timeout", "2s", "--threads", "1"]);
    let few = server.invoke("m", &json!({"instances": [3, 5, 4]})).expect(200);
    assert_eq!(few.json(), json!({"predictions": [3.0, 5.0, 4.0]}));
    // Each record ends long before the deadline, but all together do not.
    let many = vec![100_000; 10_000];
    server.invoke("m", &json!({"instances": many})).expect(504);
    server.wait_for_running(0);
    server.invoke("m", &json!({"instances": [1, 2]})).expect(200);
}

#[test]
fn inspect_lists_outputs_that_are_not_per_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let path = path.to_str().unwrap();
    for (model, rows) in [(detector("batch", Columns::All), "whole"), (doubled(), "per_record")] {
        std::fs::write(path, model).unwrap();
        let report = longshore(["inspect", path, "--json"]).json();
        assert_eq!(report["outputs"][0]["rows"], rows);
        let text = longshore(["inspect", path]).output();
        assert_eq!(text.contains("not per record"), rows == "whole", "{text}");
    }
}
