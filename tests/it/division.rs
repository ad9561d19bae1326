//! Integer division errors in the data of a request: this request gets a 400 and others are not
//! affected, both on processors that trap and on those that do not.

use serde_json::{Value, json};

use crate::harness::{Builder, Request, Response, Server, eventually, fixture, in_parallel};
use crate::support::onnx::{Attribute, Graph, Info, Model, Node, Tensor, element};

/// Whether this processor traps when it divides the smallest integer by -1. On other processors
/// the result is the smallest integer.
const TRAPS: bool = cfg!(target_arch = "x86_64");

/// An input of a request: name, type, shape and data.
type Input<'a> = (&'a str, &'a str, &'a [usize], Value);

fn request(name: &str, inputs: &[Input<'_>]) -> Request {
    let inputs: Vec<Value> = inputs
        .iter()
        .map(|(name, datatype, shape, data)| json!({"name": name, "datatype": datatype, "shape": shape, "data": data}))
        .collect();
    Server::invocation(name).json(&json!({"inputs": inputs}))
}

fn divide(a: i64, b: i64) -> Value {
    json!({"inputs": {"a": [a], "b": [b]}})
}

/// Starts a server with a control model, runs `work`, and checks that the same process served all
/// requests.
fn in_one_process(arguments: &[&str], work: impl FnOnce(&Server)) {
    let server = Builder::multi().arguments(arguments).start();
    let url = server.models().place_scale("control", 2.0);
    server.load("control", &url).expect(200);
    let process = server.process();
    work(&server);
    server.assert_scales("control", 2.0);
    assert_eq!(server.process(), process);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
}

#[test]
fn a_division_error_is_a_400_every_time() {
    in_one_process(&[], |server| {
        let url = server.models().place("int_divide", "divide");
        server.load("divide", &url).expect(200);
        for _ in 0..40 {
            if TRAPS {
                let refusal = server.invoke("divide", &divide(i64::MIN, -1)).expect(400);
                assert!(refusal.message().contains("divides integers"), "{}", refusal.message());
            } else {
                let answer = server.invoke("divide", &divide(i64::MIN, -1)).expect(200);
                assert_eq!(answer.json(), json!({"outputs": [i64::MIN]}));
            }
            server.invoke("divide", &divide(7, 0)).expect(400);
            let answer = server.invoke("divide", &divide(-7, 2)).expect(200).json();
            assert_eq!(answer, json!({"outputs": [-3]}));
        }
        // The model is not quarantined.
        server.unload("divide").expect(200);
        server.load("divide", &url).expect(200);
        server.invoke("divide", &divide(7, 2)).expect(200);
    });
}

#[test]
fn concurrent_requests_get_their_own_responses() {
    in_one_process(&[], |server| {
        let url = server.models().place("int_divide", "divide");
        server.load("divide", &url).expect(200);
        let numbers: Vec<i64> = (0..400).collect();
        in_parallel(8, &numbers, |&number| {
            if TRAPS && number % 3 == 0 {
                server.invoke("divide", &divide(i64::MIN, -1)).expect(400);
            } else {
                let answer = server.invoke("divide", &divide(number, 3)).expect(200).json();
                assert_eq!(answer, json!({"outputs": [number / 3]}));
            }
        });
    });
}

/// Returns a model with more than 16 MiB of weights, so that its runs share the pool's threads. It
/// divides `a` by `b` so many times that the pool splits the work, and returns the greatest
/// quotient.
fn pooled(seed: u8) -> Vec<u8> {
    const TIMES: i64 = 150_000;
    let expand = |name: &str, to: &str| Node::new("Expand", [name, "times"], [to]);
    let graph = Graph::new()
        .input(Info::ints("a", [1.into()]))
        .input(Info::ints("b", [1.into()]))
        .initializer(Tensor::raw(
            "ballast",
            element::UINT8,
            &[17 << 20],
            vec![seed; 17 << 20],
        ))
        .initializer(Tensor::ints("times", &[1], &[TIMES]))
        .node(expand("a", "many_a"))
        .node(expand("b", "many_b"))
        .node(Node::new("Div", ["many_a", "many_b"], ["many"]))
        .node(Node::new("ReduceMax", ["many"], ["q"]).attribute("keepdims", 0))
        .node(Node::new("Gather", ["ballast", "b"], ["unused"]))
        .output(Info::any_rank("q", element::INT64))
        .output(Info::any_rank("unused", element::UINT8));
    Model::new(graph).into_bytes()
}

/// Has a model of [`pooled`] divide `a` by `b`.
fn ask_pooled(server: &Server, name: &str, a: i64, b: i64) -> Response {
    let input = |name: &str, value: i64| json!({"name": name, "datatype": "INT64", "shape": [1], "data": [value]});
    let inputs = [input("a", a), input("b", b)];
    server.invoke(name, &json!({"inputs": inputs, "outputs": [{"name": "q"}]}))
}

#[test]
fn a_trap_on_a_thread_of_a_sessions_own_is_that_of_its_run() {
    let arguments = ["--prepare-memory", "2GiB", "--threads", "2", "--log-level", "debug"];
    in_one_process(&arguments, |server| {
        let url = server.models().place_model("large", &pooled(1));
        server.load("large", &url).expect(200);
        let ask = |number: i64| {
            if TRAPS && number % 3 == 0 {
                let refusal = ask_pooled(server, "large", i64::MIN, -1).expect(400);
                assert!(refusal.message().contains("divides integers"), "{}", refusal.message());
            } else {
                let answer = ask_pooled(server, "large", number * 10, 5).expect(200).json();
                assert_eq!(answer["outputs"][0]["data"], json!([number * 2]), "{answer}");
            }
        };
        eventually("runs that are alone lead to a second session", || {
            (1..=6).for_each(ask);
            server.count_in_log("created a second session for runs that are alone") > 0
        });
        (1..=24).for_each(ask);
    });
}

#[test]
fn runs_that_share_the_pool_are_not_mixed_up() {
    in_one_process(&["--prepare-memory", "2GiB"], |server| {
        for (seed, name) in [(1, "bad"), (2, "good")] {
            let url = server.models().place_model(name, &pooled(seed));
            server.load(name, &url).expect(200);
        }
        let numbers: Vec<i64> = (1..=24).collect();
        in_parallel(4, &numbers, |&number| {
            if TRAPS && number % 2 == 0 {
                let refusal = ask_pooled(server, "bad", i64::MIN, -1).expect(400);
                assert!(refusal.message().contains("divides integers"), "{}", refusal.message());
            } else {
                let answer = ask_pooled(server, "good", number * 10, 5).expect(200).json();
                assert_eq!(answer["outputs"][0]["data"], json!([number * 2]), "{answer}");
            }
        });
    });
}

#[test]
fn a_model_that_always_fails_to_divide_loads_and_each_request_gets_a_400() {
    // The trial run during preparation fails too, but generated data proves nothing.
    let graph = Graph::new()
        .input(Info::ints("x", ["n".into()]))
        .initializer(Tensor::ints("zero", &[1], &[0]))
        .initializer(Tensor::ints("least", &[1], &[i64::MIN]))
        .initializer(Tensor::ints("minus", &[1], &[-1]))
        .node(Node::new("Mul", ["x", "zero"], ["zeros"]))
        .node(Node::new("Add", ["zeros", "least"], ["a"]))
        .node(Node::new("Add", ["zeros", "minus"], ["b"]))
        .node(Node::new("Div", ["a", "b"], ["y"]))
        .output(Info::ints("y", ["n".into()]));
    in_one_process(&[], |server| {
        let url = server.models().place_model("always", &Model::new(graph).into_bytes());
        server.load("always", &url).expect(200);
        for _ in 0..3 {
            let expected = if TRAPS { 400 } else { 200 };
            server
                .invoke("always", &json!({"inputs": {"x": [1, 2]}}))
                .expect(expected);
        }
        server.unload("always").expect(200);
        server.load("always", &url).expect(200);
    });
}

#[test]
fn a_division_error_in_constants_fails_the_load_with_a_400() {
    if !TRAPS {
        return;
    }
    for prepare in ["auto", "off"] {
        in_one_process(&["--prepare", prepare], |server| {
            let url = server.models().place("bad/divide_crash", "constants");
            for _ in 0..2 {
                let refusal = server.load("constants", &url).expect(400);
                assert_eq!(refusal.json()["type"], "InvalidModelException");
                for part in ["constants are divided", "-1"] {
                    assert!(refusal.message().contains(part), "{}", refusal.message());
                }
            }
        });
    }
}

#[test]
fn a_server_without_a_supervisor_survives_division_errors() {
    let server = Builder::single(fixture("int_divide"))
        .argument("--supervise=false")
        .start();
    eventually("the model is loaded", || server.ping().status == 200);
    let ask = |a, b| server.send(&Request::post("/invocations").json(&divide(a, b)));
    ask(i64::MIN, -1).expect(if TRAPS { 400 } else { 200 });
    assert_eq!(ask(9, 3).expect(200).json(), json!({"outputs": [3]}));
}

/// Integer types: name, number in an ONNX model, and smallest value.
const TYPES: [(&str, i64, i64); 8] = [
    ("INT8", 3, i8::MIN as i64),
    ("INT16", 5, i16::MIN as i64),
    ("INT32", element::INT32, i32::MIN as i64),
    ("INT64", element::INT64, i64::MIN),
    ("UINT8", element::UINT8, 0),
    ("UINT16", 4, 0),
    ("UINT32", 12, 0),
    ("UINT64", 13, 0),
];

/// Shapes of dividend and divisor.
const SHAPES: [(&[usize], &[usize]); 4] = [(&[4], &[4]), (&[4], &[]), (&[], &[4]), (&[2, 2], &[2])];

#[test]
fn integer_quotients_and_remainders_are_correct_or_a_400() {
    in_one_process(&[], |server| {
        let mut loaded = Vec::new();
        for (operator, fmod) in [("Div", None), ("Mod", Some(0)), ("Mod", Some(1))] {
            for (datatype, number, least) in TYPES {
                let mut node = Node::new(operator, ["a", "b"], ["y"]);
                if let Some(fmod) = fmod {
                    node = node.attribute("fmod", fmod);
                }
                let graph = Graph::new()
                    .input(Info::any_rank("a", number))
                    .input(Info::any_rank("b", number))
                    .node(node)
                    .output(Info::any_rank("y", number));
                let name = format!("{operator} {fmod:?} {datatype}");
                let url = server.models().place_model(&name, &Model::new(graph).into_bytes());
                // ONNX Runtime does not divide every type.
                if server.load(&name, &url).status != 200 {
                    continue;
                }
                for (a, b) in SHAPES {
                    let ask = |dividend: i64, divisor: i64| {
                        let fill = |shape: &[usize], value: i64| json!(vec![value; shape.iter().product()]);
                        let inputs = [
                            ("a", datatype, a, fill(a, dividend)),
                            ("b", datatype, b, fill(b, divisor)),
                        ];
                        let answer = server.send(&request(&name, &inputs));
                        let numbers = || answer.json()["outputs"][0]["data"].as_array().unwrap().clone();
                        match answer.status {
                            200 => Some(numbers()[0].as_i64().unwrap()),
                            400 => None,
                            _ => panic!("{name} {a:?} {b:?}: {} {}", answer.status, answer.text()),
                        }
                    };
                    let what = format!("{name} {a:?} {b:?}");
                    let (plain, expected) = (ask(7, 3), if operator == "Div" { 2 } else { 1 });
                    assert_eq!(plain, Some(expected), "{what}");
                    assert_eq!(ask(7, 0), None, "{what} by 0");
                    assert_eq!(ask(least, 0), None, "{what} of the least by 0");
                    if least < 0 {
                        let by_minus_one = ask(least, -1);
                        if operator == "Mod" {
                            assert!(matches!(by_minus_one, None | Some(0)), "{what}: {by_minus_one:?}");
                        } else {
                            // Narrow integers and vectors of 32-bit integers are divided by
                            // instructions that do not trap, with the same result as on 64-bit
                            // Arm.
                            let must_trap = TRAPS && datatype == "INT64";
                            assert!(!must_trap || by_minus_one.is_none(), "{what}: {by_minus_one:?}");
                            assert!(
                                by_minus_one.is_none_or(|value| value == least),
                                "{what}: {by_minus_one:?}"
                            );
                        }
                    }
                }
                loaded.push(name.clone());
                server.unload(&name).expect(200);
            }
        }
        for always in [
            "Div None INT32",
            "Div None INT64",
            "Mod Some(0) INT32",
            "Mod Some(0) INT64",
        ] {
            assert!(loaded.iter().any(|name| name == always), "{loaded:?}");
        }
    });
}

/// A model with one node, and a request to it.
struct Relative {
    name: String,
    model: Vec<u8>,
    inputs: Vec<(&'static str, &'static str, Vec<usize>, Value)>,
}

fn relative(
    operator: &str,
    inputs: &[(&'static str, &'static str, &[usize], Value)],
    attributes: &[(&str, Attribute)],
) -> Relative {
    let number = |datatype: &str| {
        let known = TYPES.iter().find(|(name, ..)| *name == datatype);
        known.map_or(element::FLOAT, |&(_, number, _)| number)
    };
    let mut node = Node::new(operator, inputs.iter().map(|(name, ..)| *name), ["z"]);
    for (name, value) in attributes {
        node = node.attribute(name, value.clone());
    }
    let graph = inputs.iter().fold(Graph::new(), |graph, (name, datatype, ..)| {
        graph.input(Info::any_rank(name, number(datatype)))
    });
    let graph = match operator {
        // Its output is a sequence.
        "SplitToSequence" => graph
            .node(node)
            .node(Node::new("SequenceLength", ["z"], ["y"]))
            .output(Info::any_rank("y", element::INT64)),
        _ => graph
            .node(node)
            .node(Node::new("Shape", ["z"], ["y"]))
            .output(Info::any_rank("y", element::INT64)),
    };
    Relative {
        name: format!("{operator} of {inputs:?}"),
        model: Model::new(graph).opset(20).ir_version(9).into_bytes(),
        inputs: inputs
            .iter()
            .map(|(name, datatype, shape, data)| (*name, *datatype, shape.to_vec(), data.clone()))
            .collect(),
    }
}

/// Returns operators that compute counts, sizes and steps from integers of the request, with
/// extreme values.
fn relatives() -> Vec<Relative> {
    let floats = |shape: &'static [usize]| -> (&'static str, &'static str, &'static [usize], Value) {
        ("x", "FP32", shape, json!(vec![0.5; shape.iter().product()]))
    };
    let mut all = Vec::new();
    for (start, limit, step) in [
        (0, 9, 0),
        (i64::MIN, i64::MAX, -1),
        (i64::MIN, 0, i64::MIN),
        (0, i64::MIN, -1),
    ] {
        let inputs = [
            ("a", "INT64", &[][..], json!([start])),
            ("b", "INT64", &[], json!([limit])),
            ("c", "INT64", &[], json!([step])),
        ];
        // Other tests cover ranges that are too large for memory.
        if step != -1 || limit == i64::MIN && start != 0 {
            all.push(relative("Range", &inputs, &[]));
        }
    }
    for datatype in ["INT32", "INT64"] {
        for operator in ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSum"] {
            for (shape, axis) in [(&[0, 3][..], 0), (&[3, 0], 1), (&[0], 0), (&[0, 0], 0)] {
                let inputs = [("x", datatype, shape, json!([])), ("n", "INT64", &[1], json!([axis]))];
                all.push(relative(operator, &inputs, &[]));
            }
        }
    }
    for value in [0, -1, 1, i64::MIN, i64::MAX] {
        let scalar = || ("n", "INT64", &[][..], json!([value]));
        let one = || ("n", "INT64", &[1][..], json!([value]));
        let two = || ("n", "INT64", &[2][..], json!([value, value]));
        for shape in [&[4, 4][..], &[0, 4], &[1, 1]] {
            all.push(relative("SplitToSequence", &[floats(shape), scalar()], &[]));
            all.push(relative("Tile", &[floats(&[0, 4]), two()], &[]));
            all.push(relative("Reshape", &[floats(shape), two()], &[]));
            all.push(relative("TopK", &[floats(shape), one()], &[]));
            all.push(relative("CumSum", &[floats(shape), scalar()], &[]));
            all.push(relative("Trilu", &[floats(shape), scalar()], &[]));
            all.push(relative("CenterCropPad", &[floats(shape), two()], &[]));
            for mode in ["reflect", "wrap", "edge", "constant"] {
                let pads = ("n", "INT64", &[4][..], json!([value, value, value, value]));
                if value.unsigned_abs() < 2 {
                    all.push(relative("Pad", &[floats(shape), pads], &[("mode", mode.into())]));
                }
            }
            let step = [
                floats(shape),
                ("starts", "INT64", &[1][..], json!([0])),
                ("ends", "INT64", &[1], json!([i64::MIN])),
                ("axes", "INT64", &[1], json!([0])),
                ("steps", "INT64", &[1], json!([value])),
            ];
            all.push(relative("Slice", &step, &[]));
        }
        let signal = floats(&[1, 16, 1]);
        all.push(relative(
            "STFT",
            &[signal.clone(), scalar(), ("w", "FP32", &[4], json!([1, 1, 1, 1]))],
            &[],
        ));
        all.push(relative("DFT", &[signal, scalar()], &[]));
        for operator in ["HannWindow", "BlackmanWindow", "HammingWindow"] {
            if value < 2 {
                all.push(relative(operator, &[scalar()], &[]));
            }
        }
        let (bins, length, rate) = (
            ("a", "INT64", &[][..], json!([value])),
            ("b", "INT64", &[][..], json!([value])),
            ("c", "INT64", &[][..], json!([value])),
        );
        let low = ("d", "FP32", &[][..], json!([0.0]));
        let high = ("e", "FP32", &[][..], json!([1.0]));
        if value < 2 {
            all.push(relative("MelWeightMatrix", &[bins, length, rate, low, high], &[]));
        }
        all.push(relative(
            "Col2Im",
            &[floats(&[1, 4, 4]), two(), ("k", "INT64", &[2], json!([value, value]))],
            &[],
        ));
        all.push(relative("Gather", &[floats(&[0, 4]), one()], &[]));
        all.push(relative("GatherElements", &[floats(&[1]), one()], &[]));
        all.push(relative(
            "BitShift",
            &[
                ("x", "UINT64", &[1], json!([1])),
                ("n", "UINT64", &[1], json!([value.unsigned_abs()])),
            ],
            &[("direction", "LEFT".into())],
        ));
    }
    for shape in [&[1, 1, 0, 0][..], &[0, 1, 4, 4], &[1, 0, 4, 4], &[1, 1, 0, 4]] {
        for operator in ["GlobalAveragePool", "GlobalMaxPool"] {
            all.push(relative(operator, &[floats(shape)], &[]));
        }
        for operator in ["AveragePool", "MaxPool", "LpPool"] {
            all.push(relative(
                operator,
                &[floats(shape)],
                &[("kernel_shape", (&[2i64, 2][..]).into())],
            ));
        }
        all.push(relative("SpaceToDepth", &[floats(shape)], &[("blocksize", 2.into())]));
        all.push(relative("DepthToSpace", &[floats(shape)], &[("blocksize", 2.into())]));
        all.push(relative("Flatten", &[floats(shape)], &[("axis", 2.into())]));
        all.push(relative("Softmax", &[floats(shape)], &[("axis", 2.into())]));
        all.push(relative("LRN", &[floats(shape)], &[("size", 3.into())]));
        for axis in 0..4 {
            all.push(relative("ArgMax", &[floats(shape)], &[("axis", axis.into())]));
            all.push(relative(
                "Split",
                &[floats(shape)],
                &[("axis", axis.into()), ("num_outputs", 1.into())],
            ));
        }
    }
    all
}

#[test]
fn no_count_size_or_step_in_a_request_ends_the_process() {
    in_one_process(&["--request-timeout", "20s", "--memory-limit", "2GiB"], |server| {
        let (mut answered, mut loaded) = (0, 0);
        let relatives: Vec<(usize, Relative)> = relatives().into_iter().enumerate().collect();
        let statuses = in_parallel(2, &relatives, |(number, relative)| {
            let name = format!("relative{number}");
            let url = server.models().place_model(&name, &relative.model);
            if server.load(&name, &url).status != 200 {
                return None;
            }
            let inputs: Vec<Input<'_>> = relative
                .inputs
                .iter()
                .map(|(name, datatype, shape, data)| (*name, *datatype, &**shape, data.clone()))
                .collect();
            let answer = server.send(&request(&name, &inputs));
            assert!(
                [200, 400, 507].contains(&answer.status),
                "{}: {} {}",
                relative.name,
                answer.status,
                answer.text()
            );
            server.unload(&name).expect(200);
            Some(answer.status)
        });
        for status in statuses.into_iter().flatten() {
            loaded += 1;
            answered += usize::from(status == 200);
        }
        // Guards against a test in which every request is refused early.
        assert!(loaded > 100 && answered > 50, "{loaded} loaded, {answered} answered");
    });
}
