//! Bodies that do not fit the model: the caller gets a 400 with the name of the input, and other
//! requests are not affected (CT-4).

use std::thread;

use serde_json::{Value, json};

use crate::harness::{Builder, Response, Server};

/// Starts a server with these models under their own names, and one of `place_scale` that must
/// keep answering.
fn with_models(models: &[&str]) -> Server {
    with_builder(Builder::multi(), models)
}

fn with_builder(builder: Builder, models: &[&str]) -> Server {
    let server = builder.start();
    for model in models {
        let url = server.models().place(model, model);
        server.load(model, &url).expect(200);
    }
    let url = server.models().place_scale("bystander", 3.0);
    server.load("bystander", &url).expect(200);
    server
}

#[track_caller]
fn ask(server: &Server, model: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
    let request = Server::invocation(model)
        .header("Content-Type", content_type)
        .body(body);
    let response = server.send(&request);
    server.assert_scales("bystander", 3.0);
    response
}

/// Asserts that each body is refused with a message that contains the words.
#[track_caller]
fn assert_refused(server: &Server, model: &str, content_type: &str, table: &[(&str, &[&str])]) {
    for (body, parts) in table {
        let refusal = ask(server, model, content_type, *body);
        assert_eq!(refusal.status, 400, "{body}: {}", refusal.text());
        assert_eq!(refusal.json()["type"], "BadRequestException", "{body}");
        for part in *parts {
            assert!(
                refusal.message().contains(part),
                "{body}: {part:?} is not in {}",
                refusal.message()
            );
        }
    }
}

#[test]
fn json_that_does_not_fit_one_input_is_refused_by_its_name() {
    let server = with_models(&["mlp"]);
    let long = format!("[{}1]", "1,".repeat(32));
    let table: [(&str, &[&str]); 22] = [
        ("", &[]),
        ("   ", &[]),
        ("{", &[]),
        ("nonsense", &[]),
        ("{}", &["instances"]),
        ("[]garbage", &[]),
        (r#"{"instances": 1}"#, &["instances"]),
        (r#"{"instances": {}}"#, &["instances"]),
        (r#"{"instances": [[1, 2, 3]]}"#, &["features", "32"]),
        (r#"{"instances": [[[1]]]}"#, &["features"]),
        (r#"{"instances": [[1], [1, 2]]}"#, &["features"]),
        (r#"{"instances": ["a"]}"#, &["features"]),
        (r#"{"instances": [[true]]}"#, &["features"]),
        (r#"{"instances": [[null]]}"#, &["features"]),
        (r#"{"instances": [{"features": [1]}]}"#, &["features", "32"]),
        (r#"{"instances": [{"wrong": [1]}]}"#, &["wrong", "features"]),
        (r#"{"instances": [], "inputs": []}"#, &["instances", "inputs"]),
        (r#"{"inputs": {"wrong": [[1]]}}"#, &["wrong", "features"]),
        (r#"{"inputs": {}}"#, &["features", "missing"]),
        (
            r#"{"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}"#,
            &["features"],
        ),
        (
            r#"{"inputs": [{"name": "features", "shape": [1, 32], "datatype": "INT64", "data": [1]}]}"#,
            &["features"],
        ),
        (&format!(r#"{{"instances": [{long}]}}"#), &["features", "33"]),
    ];
    assert_refused(&server, "mlp", "application/json", &table);
}

#[test]
fn json_that_does_not_fit_several_inputs_is_refused_by_the_name_of_the_one() {
    let server = with_models(&["two_inputs"]);
    let table: [(&str, &[&str]); 9] = [
        (r#"{"instances": [[1, 2, 3]]}"#, &["\"a\"", "\"b\""]),
        (r#"{"instances": [{"a": [1, 2, 3]}]}"#, &["\"b\"", "missing"]),
        (r#"{"instances": [{"a": [1, 2, 3], "b": 1, "c": 1}]}"#, &["\"c\""]),
        (
            r#"{"instances": [{"a": [1, 2, 3], "b": 1}, {"a": [1, 2, 3]}]}"#,
            &["\"b\"", "missing"],
        ),
        (r#"{"instances": [{"a": [1, 2], "b": 1}]}"#, &["\"a\""]),
        (r#"{"instances": [{"a": [1, 2, 3], "b": 1.5}]}"#, &["\"b\""]),
        (r#"{"instances": [{"a": [1, 2, 3], "b": 1e30}]}"#, &["\"b\""]),
        (r#"{"instances": [{"a": [1, 2, 3], "b": NaN}]}"#, &["\"b\""]),
        (r#"{"inputs": {"a": [[1, 2, 3]], "b": "x"}}"#, &["\"b\""]),
    ];
    assert_refused(&server, "two_inputs", "application/json", &table);
}

#[test]
fn numbers_out_of_range_of_the_element_type_are_refused() {
    let types = [
        ("int8", "127", "128"),
        ("int8", "-128", "-129"),
        ("uint8", "255", "256"),
        ("uint8", "0", "-1"),
        ("int16", "32767", "32768"),
        ("uint16", "65535", "65536"),
        ("int32", "2147483647", "2147483648"),
        ("uint32", "4294967295", "4294967296"),
        ("int64", "9223372036854775807", "9223372036854775808"),
        ("int64", "-9223372036854775808", "-9223372036854775809"),
        ("uint64", "18446744073709551615", "18446744073709551616"),
        ("int32", "7", "7.5"),
        ("bool", "true", "2"),
        ("string", "\"2\"", "2"),
        ("float32", "1e38", "1e39"),
    ];
    let models: std::collections::BTreeSet<String> =
        types.iter().map(|(dtype, ..)| format!("identity_{dtype}")).collect();
    let server = with_models(&models.iter().map(String::as_str).collect::<Vec<_>>());
    for (dtype, good, bad) in types {
        let model = format!("identity_{dtype}");
        let body = |number: &str| format!(r#"{{"instances": [[{number}, {number}]]}}"#);
        let answer = ask(&server, &model, "application/json", body(good)).expect(200);
        let expected: Value = serde_json::from_str(good).unwrap();
        assert_eq!(
            answer.json()["predictions"][0][0].to_string().parse::<f64>().ok(),
            expected.to_string().parse().ok()
        );
        assert_refused(&server, &model, "application/json", &[(&body(bad), &["\"x\""])]);
    }
}

#[test]
fn csv_json_lines_and_arrays_that_do_not_fit_are_refused() {
    let server = with_models(&["mlp", "columns"]);
    let csv: [(&str, &[&str]); 5] = [
        ("", &["empty"]),
        ("1,2,3\n", &["features", "32"]),
        ("\n\n", &[]),
        ("a\n", &["features"]),
        ("\"unclosed\n", &[]),
    ];
    assert_refused(&server, "mlp", "text/csv", &csv);
    let csv: [(&str, &[&str]); 3] = [
        ("41,52000\n", &["age", "income", "city"]),
        ("41,much,Oslo\n", &["income"]),
        ("41,52000,Oslo\n41,52000\n", &["row 2"]),
    ];
    assert_refused(&server, "columns", "text/csv", &csv);
    let lines: [(&str, &[&str]); 4] = [
        ("", &["lines"]),
        ("{\"age\": 1, \"income\": 2, \"city\": \"Oslo\"}\n{\"age\": 1\n", &["2"]),
        ("{\"age\": 1, \"income\": 2}\n", &["city", "missing"]),
        ("{\"age\": 1, \"income\": 2, \"city\": 3}\n", &["city"]),
    ];
    assert_refused(&server, "columns", "application/jsonlines", &lines);
    let npy: [&[u8]; 6] = [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x00\x00",
        b"\x93NUMPY\x01\x00\xff\xff{'descr': '<f4'",
        b"\x93NUMPY\x01\x00\x3b\x00{'descr': '|O', 'fortran_order': False, 'shape': (1, 32), }\n",
        b"\x93NUMPY\x01\x00\x3c\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 32), }\n",
    ];
    for body in npy {
        ask(&server, "mlp", "application/x-npy", body).expect(400);
    }
}

#[test]
fn binary_requests_whose_sizes_do_not_add_up_are_refused() {
    let server = with_models(&["mlp"]);
    let header = |size: u64| {
        json!({"inputs": [{"name": "features", "shape": [1, 32], "datatype": "FP32", "parameters": {"binary_data_size": size}}]})
            .to_string()
    };
    let good = header(128);
    let body = |header: &str, tail: usize| [header.as_bytes(), &vec![0; tail]].concat();
    let kind = |size: &str| format!("application/vnd.sagemaker-triton.binary+json;json-header-size={size}");
    ask(&server, "mlp", &kind(&good.len().to_string()), body(&good, 128)).expect(200);
    let bodies = [
        (kind(&good.len().to_string()), body(&good, 127)),
        (kind(&good.len().to_string()), body(&good, 129)),
        (kind(&good.len().to_string()), body(&good, 0)),
        (kind(&(good.len() - 1).to_string()), body(&good, 128)),
        (kind(&header(u64::MAX).len().to_string()), body(&header(u64::MAX), 128)),
        (kind("0"), body(&good, 128)),
        (kind("-1"), body(&good, 128)),
        (kind("1e3"), body(&good, 128)),
        (kind(""), body(&good, 128)),
        (kind("99999999"), body(&good, 128)),
        (kind("99999999999999999999999999"), body(&good, 128)),
        (
            "application/vnd.sagemaker-triton.binary+json".to_owned(),
            body(&good, 128),
        ),
    ];
    for (content_type, body) in bodies {
        let refusal = ask(&server, "mlp", &content_type, body);
        assert_eq!(refusal.status, 400, "{content_type}: {}", refusal.text());
    }
}

#[test]
fn json_nested_a_hundred_thousand_levels_deep_is_refused() {
    let server = with_models(&["mlp", "any_rank"]);
    let depth = 100_000;
    for model in ["mlp", "any_rank"] {
        for (open, close) in [
            ("[", "]"),
            ("{\"instances\":", "}"),
            ("{\"inputs\":[", "]}"),
            ("{\"x\":", "}"),
        ] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for body in [
                nested.clone(),
                format!("{{\"instances\": {nested}}}"),
                format!("{{\"ignored\": {nested}}}"),
                open.repeat(depth),
            ] {
                ask(&server, model, "application/json", body.clone()).expect(400);
                ask(&server, model, "application/jsonlines", body).expect(400);
            }
        }
    }
}

#[test]
fn invalid_utf8_is_refused_in_text_formats() {
    let server = with_models(&["identity_string"]);
    for content_type in ["application/json", "application/jsonlines", "text/csv"] {
        for body in [
            &b"{\"instances\": [[\"\xff\", \"\"]]}"[..],
            b"[\"\xc3\", \"\"]\n",
            b"\xff\xfe,b\n",
        ] {
            ask(&server, "identity_string", content_type, body).expect(400);
        }
    }
}

#[test]
fn data_that_an_operator_rejects_gets_a_400() {
    let server = with_models(&["nan", "allocate"]);
    // Each vector fits its input, but their lengths differ.
    let refusal = ask(
        &server,
        "nan",
        "application/json",
        r#"{"inputs": {"x": [1, 2, 3], "y": [1, 2]}}"#,
    )
    .expect(400);
    assert!(
        refusal.message().contains("quotient") || refusal.message().contains("Div"),
        "{}",
        refusal.message()
    );
    for shape in ["[-1]", "[-9223372036854775808]"] {
        ask(
            &server,
            "allocate",
            "application/json",
            format!(r#"{{"inputs": {shape}}}"#),
        )
        .expect(400);
    }
    server.wait_for_running(0);
}

#[test]
fn a_run_that_needs_too_much_memory_gets_a_507_and_other_requests_are_answered() {
    // MM-5. A request of a few bytes can ask for a tensor of any size, so the allocator has to
    // refuse it. A wrong server would fill the memory, hence the short deadline.
    let server = with_builder(
        Builder::multi().arguments(["--memory-limit", "1GiB", "--request-timeout", "5s"]),
        &["allocate"],
    );
    let before = server.process().anonymous_memory();
    for shape in ["[4398046511104]", "[2097152, 2097152]"] {
        for _ in 0..3 {
            let refusal = ask(
                &server,
                "allocate",
                "application/json",
                format!(r#"{{"inputs": {shape}}}"#),
            )
            .expect(507);
            assert_eq!(refusal.json()["type"], "InsufficientMemoryException");
        }
    }
    // The product of these sizes overflows 64 bits.
    let refusal = ask(
        &server,
        "allocate",
        "application/json",
        r#"{"inputs": [4611686018427387904, 4]}"#,
    );
    assert!([400, 507].contains(&refusal.status), "{}", refusal.text());
    let answer = ask(&server, "allocate", "application/json", r#"{"inputs": [3, 4]}"#).expect(200);
    assert_eq!(answer.json(), json!({"outputs": 12.0}));
    let grown = server.process().anonymous_memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown}");
    server.unload("allocate").expect(200);
}

#[test]
fn bodies_that_need_too_much_memory_get_a_507_and_the_server_keeps_running() {
    // Each body fits alone and decodes to several times its size; together they do not fit.
    let server = with_builder(
        Builder::multi().arguments(["--memory-limit", "64MiB"]),
        &["identity_float64"],
    );
    let body = format!("[{}[0,0]]", "[0,0],".repeat(1_500_000));
    let request = Server::invocation("identity_float64")
        .header("Content-Type", "application/json")
        .body(body);
    let mut refused = 0;
    thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| server.send(&request))).collect();
        for call in calls {
            let response = call.join().unwrap();
            assert!([200, 507].contains(&response.status), "{}", response.text());
            refused += usize::from(response.status == 507);
        }
    });
    assert!(refused > 0, "all bodies fitted into memory, so the test proves nothing");
    for _ in 0..20 {
        server.invoke("identity_float64", &json!([[1.5, 2.5]])).expect(200);
        server.assert_scales("bystander", 3.0);
    }
    server.unload("identity_float64").expect(200);
}
