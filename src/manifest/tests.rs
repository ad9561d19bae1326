use std::path::Path;

use serde_json::json;

use super::*;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(Some(text), None)
}

#[test]
fn every_key_survives_a_round_trip() {
    let text = json!({
        "model": "onnx/model.onnx",
        "task": "tabular-classification",
        "columns": ["a", {"name": "b", "aliases": ["B"], "default": 0.5}],
        "inputs": [
            {"name": "x", "aliases": ["features"]},
            {"name": "rate", "constant": 16000},
            {"name": "state", "default": [[0.0, 0.0]]},
        ],
        "unknown_inputs": "ignore",
        "outputs": ["label", {"name": "probabilities", "as": "scores", "labels": true}],
        "labels": ["no", "yes"],
        "csv": {"header": true, "delimiter": ";", "missing": ["NA"]},
        "batching": {"max_rows": 16},
        "warmup": [{"body": [[1, 2]]}],
        "golden": [{"request": {"content_type": "text/csv", "accept": "text/csv", "body": "1,2\n"}, "response": "0\n", "rtol": 0.001, "atol": 0.0}],
    });
    let manifest = parse(&text.to_string()).unwrap();
    assert_eq!(
        manifest.batching,
        NonZeroUsize::new(16).map(|rows| Batching::Allowed(Some(rows)))
    );
    assert_eq!(manifest.columns[1].default, Some(json!(0.5)));
    assert_eq!(serde_json::to_value(&manifest).unwrap(), text);
    let marked = format!("\u{feff}{text}");
    assert_eq!(parse(&marked).unwrap(), manifest);
    assert_eq!(serde_json::to_value(Manifest::default()).unwrap(), json!({}));
}

#[test]
fn errors_name_the_path_and_the_nearest_key() {
    let table = [
        ("[]", "expected a JSON object"),
        ("{", "invalid JSON"),
        (
            r#"{"modle": "a.onnx"}"#,
            r#""modle" is not a key of longshore.json; did you mean "model"?"#,
        ),
        (
            r#"{"csv": {"delimeter": ";"}}"#,
            r#""csv.delimeter" is not a key of longshore.json; did you mean "csv.delimiter"?"#,
        ),
        (
            r#"{"columns": ["a", {"name": "b", "defualt": 1}]}"#,
            r#""columns[1].defualt" is not a key of longshore.json; did you mean "columns[1].default"?"#,
        ),
        (
            r#"{"golden": [{"request": {"bdy": 1}, "response": 1}]}"#,
            r#""golden[0].request.bdy" is not a key of longshore.json; did you mean "golden[0].request.body"?"#,
        ),
        (
            r#"{"inputs": [{"nam": "x"}]}"#,
            r#""inputs[0].nam" is not a key of longshore.json; did you mean "inputs[0].name"?"#,
        ),
        (r#"{"zzz": 1}"#, r#""zzz" is not a key of longshore.json"#),
        (r#"{"hints": {}}"#, r#""hints" is not a key of longshore.json"#),
        (
            r#"{"batching": 8}"#,
            r#"batching: expected true, false or {"max_rows": N} with an N of 1 or more"#,
        ),
        (
            r#"{"batching": {"max_rows": 0}}"#,
            r#"batching: expected true, false or {"max_rows": N}"#,
        ),
        (
            r#"{"batching": {"max_rows": 2, "wait": 1}}"#,
            r#""batching.wait" is not a key"#,
        ),
        (r#"{"model": 5}"#, "model: invalid type: integer `5`, expected a string"),
        (
            r#"{"columns": [5]}"#,
            r#"columns[0]: expected a name, or an object with "name""#,
        ),
        (r#"{"csv": {"delimiter": "::"}}"#, "csv.delimiter: "),
        (r#"{"csv": {"delimiter": "x"}}"#, "csv.delimiter: expected one of"),
        (
            r#"{"unknown_inputs": "drop"}"#,
            "unknown_inputs: unknown variant `drop`, expected `refuse` or `ignore`",
        ),
        (
            r#"{"inputs": [{"name": "x", "default": 1, "constant": 2}]}"#,
            r#"inputs[0]: "x" has both "default" and "constant""#,
        ),
        (
            r#"{"inputs": [{"name": "x", "default": {"a": 1}}]}"#,
            "inputs[0].default: expected a number",
        ),
        (
            r#"{"inputs": [{"name": "x"}, {"name": "y", "aliases": ["x"]}]}"#,
            r#"inputs[1]: duplicate name "x""#,
        ),
        (r#"{"columns": ["a", "a"]}"#, r#"columns[1]: duplicate name "a""#),
        (
            r#"{"columns": [{"name": "a", "default": [1]}]}"#,
            "columns[0].default: expected a number, a string or a boolean",
        ),
        (r#"{"warmup": [{}]}"#, r#"warmup[0]: expected either "body" or "file""#),
        (
            r#"{"golden": [{"request": {"body": 1, "file": "a"}, "response": 1}]}"#,
            r#"golden[0].request: expected either"#,
        ),
        (
            r#"{"golden": [{"request": {"body": 1}, "response": 1, "rtol": -1}]}"#,
            "golden[0].rtol: expected a number of 0 or more",
        ),
    ];
    for (text, expected) in table {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn the_keys_of_an_overlay_override_those_of_the_file() {
    let overlay = Overlay::parse(r#"{"outputs": ["p"], "batching": false}"#).unwrap();
    let file = r#"{"outputs": ["label"], "labels": ["a"]}"#;
    let manifest = Manifest::parse(Some(file), Some(&overlay)).unwrap();
    assert_eq!(manifest.outputs[0].name, "p");
    assert_eq!(
        (manifest.batching, manifest.labels),
        (Some(Batching::Never), vec!["a".to_owned()])
    );
    assert_eq!(Manifest::parse(None, Some(&overlay)).unwrap().outputs.len(), 1);
    assert!(Overlay::parse(r#"{"output": ["p"]}"#).is_err());
    assert!(Manifest::parse(Some(r#"{"outputs": 5}"#), Some(&overlay)).is_err());
}

#[test]
fn the_committed_schema_matches_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("container/longshore.schema.json");
    let expected = format!("{:#}\n", schema());
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, expected,
        "write it with: longshore schema > container/longshore.schema.json"
    );
    let properties = schema()["properties"].as_object().unwrap().len();
    assert_eq!(
        properties,
        15,
        "unexpected number of keys in the schema: {:#}",
        schema()
    );
}

#[test]
fn files_of_exporters_fill_the_gaps_of_the_manifest() {
    let read = |sidecar: Sidecar, text: &str| {
        let mut manifest = Manifest::default();
        sidecar.read(text, &mut manifest).map(|_| manifest)
    };
    let mlmodel = "artifact_path: model\nflavors:\n  onnx:\n    data: model.onnx\nsignature:\n  inputs: '[{\"type\": \"double\", \"name\": \"fixed acidity\", \"required\": true},\n    {\"type\": \"string\", \"name\": \"owner''s town\", \"required\": true}]'\n  outputs: '[{\"type\": \"long\"}]'\n  params: null\n";
    let manifest = read(Sidecar::MlModel, mlmodel).unwrap();
    let names: Vec<&str> = manifest
        .hints
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(names, ["fixed acidity", "owner's town"]);
    let folded =
        "signature:\n  inputs: \"[{\\\"type\\\": \\\"double\\\", \\\"name\\\": \\\"sepal\\\n    \\ length\\\"}]\"\n";
    assert_eq!(
        read(Sidecar::MlModel, folded).unwrap().hints.columns,
        [Column::from("sepal length")]
    );
    let tensors = "signature:\n  inputs: '[{\"type\": \"tensor\", \"tensor-spec\": {\"dtype\": \"float32\", \"shape\": [-1, 2]}}]'\n";
    assert_eq!(read(Sidecar::MlModel, tensors).unwrap(), Manifest::default());
    assert_eq!(
        read(Sidecar::MlModel, "flavors:\n  inputs: x\n").unwrap(),
        Manifest::default()
    );
    assert!(read(Sidecar::MlModel, "signature:\n  inputs: '[{'\n").is_err());

    let batching = |text: &str| read(Sidecar::Triton, text).map(|manifest| manifest.batching);
    let allowed = |rows| NonZeroUsize::new(rows).map(|rows| Batching::Allowed(Some(rows)));
    let table = [
        ("name: \"m\"\nmax_batch_size: 8\ndynamic_batching { }\n", allowed(8)),
        (
            "max_batch_size: 8 # rows\ndynamic_batching {\n  max_queue_delay_microseconds: 100\n}\n",
            allowed(8),
        ),
        (
            "max_batch_size: 8\ninput [\n  {\n    name: \"x { dynamic_batching\"\n  }\n]\n",
            None,
        ),
        ("max_batch_size: 0\ndynamic_batching { }\n", None),
        ("max_batch_size: 8 dynamic_batching { }", allowed(8)),
        (
            "parameters { key: \"a#b{\" } max_batch_size: 4 # {\ndynamic_batching: { }\n",
            allowed(4),
        ),
        ("", None),
    ];
    for (text, expected) in table {
        assert_eq!(batching(text), Ok(expected), "{text}");
    }
    for text in ["max_batch_size: many\n", "}\n"] {
        assert!(batching(text).is_err(), "{text}");
    }

    let labels = |sidecar, text: &str| read(sidecar, text).map(|manifest| manifest.labels);
    let config = r#"{"architectures": ["X"], "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}}"#;
    assert_eq!(labels(Sidecar::HuggingFace, config).unwrap(), ["NEGATIVE", "POSITIVE"]);
    assert_eq!(
        labels(Sidecar::HuggingFace, r#"{"id2label": {"1": "x"}}"#).unwrap(),
        [""; 0]
    );
    assert!(labels(Sidecar::HuggingFace, "{").is_err());
    assert_eq!(labels(Sidecar::Labels, "cat\r\ndog\n").unwrap(), ["cat", "dog"]);
    let mut own = parse(r#"{"labels": ["a"]}"#).unwrap();
    assert!(Sidecar::Labels.read("cat\n", &mut own).unwrap());
    assert_eq!(own.labels, ["a"]);
}
