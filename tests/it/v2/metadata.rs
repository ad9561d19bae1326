//! Metadata: a model's inputs and outputs.

use serde_json::{Value, json};

use super::get;
use crate::harness::Builder;

#[test]
fn a_model_that_is_not_loaded_has_no_metadata() {
    let server = Builder::multi().start();
    server.models().place_scale("m", 2.0);
    for path in ["/v2/models/m", "/v2/models/m/ready", "/v2/models/.", "/v2/models/.."] {
        let error = get(&server, path).expect(404).error();
        assert!(error.contains("is not loaded"), "{path}: {error}");
    }
}

#[test]
fn metadata_has_the_models_names_types_and_shapes() {
    let server = Builder::multi().start();
    let table: [(&str, Value, Value); 4] = [
        (
            "two_inputs",
            json!([
                {"name": "a", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "b", "datatype": "INT64", "shape": [-1]},
            ]),
            json!([
                {"name": "sum", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "positive", "datatype": "BOOL", "shape": [-1]},
            ]),
        ),
        (
            "identity_bfloat16",
            json!([{"name": "x", "datatype": "BF16", "shape": [-1, -1]}]),
            json!([{"name": "y", "datatype": "BF16", "shape": [-1, -1]}]),
        ),
        (
            "scalar",
            json!([{"name": "x", "datatype": "FP32", "shape": []}]),
            json!([{"name": "y", "datatype": "FP32", "shape": []}]),
        ),
        // A client of this protocol cannot request an output that is not a tensor.
        (
            "iris_zipmap",
            json!([{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]),
            json!([{"name": "output_label", "datatype": "INT64", "shape": [-1]}]),
        ),
    ];
    for (model, inputs, outputs) in table {
        let url = server.models().place(model, model);
        server.load(model, &url).expect(200);
        let expected = json!({
            "name": model, "versions": ["1"], "platform": "onnx_onnxv1", "inputs": inputs, "outputs": outputs,
        });
        let metadata = get(&server, &format!("/v2/models/{model}")).expect(200).json();
        assert_eq!(metadata, expected);
    }
}
