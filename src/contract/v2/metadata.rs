//! `GET /v2/models/{name}`: the inputs and outputs of a model.

use actix_web::HttpResponse;
use tokio::time::Instant;

use super::check;
use crate::codec::datatype_name;
use crate::contract::AppState;
use crate::contract::error::Error;
use crate::tensor::{DataType, Dim, InputSpec, OutputSpec, Signature, ValueType};
use crate::wire::v2::{ANY_SIZE, ModelMetadata, PLATFORM, TensorMetadata, V2ModelPath, VERSION};

/// Answers with the model's metadata. Loads the model from the store if necessary, because the
/// signature is known only for loaded models.
pub(super) async fn model(state: &AppState, model: &V2ModelPath) -> Result<HttpResponse, Error> {
    let deadline = Instant::now() + state.settings.request_timeout;
    check(state, model, deadline).await?;
    let handle = state.catalog.get(&model.name, deadline).await?;
    Ok(HttpResponse::Ok().json(of(&model.name, handle.as_ref().signature())))
}

fn of<'a>(name: &'a str, signature: &'a Signature) -> ModelMetadata<'a> {
    ModelMetadata {
        name,
        versions: [VERSION],
        platform: PLATFORM,
        inputs: signature.inputs.iter().map(input).collect(),
        outputs: signature.outputs.iter().filter_map(output).collect(),
    }
}

fn input(spec: &InputSpec) -> TensorMetadata<'_> {
    tensor(&spec.name, spec.data_type, spec.dims.as_deref())
}

/// Leaves out sequences and maps, because the protocol cannot carry them.
fn output(spec: &OutputSpec) -> Option<TensorMetadata<'_>> {
    match &spec.value_type {
        ValueType::Tensor { data_type, dims } => Some(tensor(&spec.name, *data_type, dims.as_deref())),
        ValueType::Sequence(_) | ValueType::Map { .. } => None,
    }
}

/// Describes a tensor. `dims` of `None` means any number of dimensions, which the protocol cannot
/// express; one dimension of any size is the closest.
fn tensor<'a>(name: &'a str, data_type: DataType, dims: Option<&[Dim]>) -> TensorMetadata<'a> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
        Dim::Dynamic(_) => ANY_SIZE,
    };
    TensorMetadata {
        name,
        datatype: datatype_name(data_type),
        shape: dims.map_or_else(|| vec![ANY_SIZE], |dims| dims.iter().map(size).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::OutputRows;

    #[test]
    fn metadata_lists_tensors_and_leaves_out_maps() {
        let signature = Signature {
            optional: Vec::new(),
            inputs: vec![
                InputSpec {
                    name: "x".to_owned(),
                    data_type: DataType::F32,
                    dims: Some(vec![Dim::Dynamic(Some("batch".to_owned())), Dim::Fixed(4)]),
                },
                InputSpec {
                    name: "any".to_owned(),
                    data_type: DataType::String,
                    dims: None,
                },
            ],
            outputs: vec![
                OutputSpec {
                    name: "label".to_owned(),
                    value_type: ValueType::Tensor {
                        data_type: DataType::I64,
                        dims: Some(vec![]),
                    },
                    rows: OutputRows::Whole,
                },
                OutputSpec {
                    name: "probabilities".to_owned(),
                    value_type: ValueType::Map {
                        key: DataType::I64,
                        value: Box::new(ValueType::Tensor {
                            data_type: DataType::F32,
                            dims: None,
                        }),
                    },
                    rows: OutputRows::Whole,
                },
            ],
        };
        let metadata = serde_json::to_value(of("m", &signature)).unwrap();
        let expected = serde_json::json!({
            "name": "m", "versions": ["1"], "platform": "onnx_onnxv1",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "any", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [{"name": "label", "datatype": "INT64", "shape": []}],
        });
        assert_eq!(metadata, expected);
    }
}
