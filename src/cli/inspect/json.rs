//! The report of `longshore inspect --json`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{ExampleRequest, HandlerSummary};
use crate::engine::{Examination, ExaminedModel, OutputAxis, Packing};
use crate::tensor::{Dim, InputSpec, ValueType};

pub fn report(
    examination: &Examination,
    requests: &[ExampleRequest],
    summary: &HandlerSummary,
) -> serde_json::Result<Value> {
    let model = examination.model_in_artifact();
    let external: Vec<&String> = examination.external.iter().map(|(name, _)| name).collect();
    let header = examination.header.as_ref();
    let mut report = json!({
        "model": model,
        "found_because": examination.found.to_string(),
        "format": if examination.is_ort_format { "ort" } else { "onnx" },
        "ir_version": header.map(|header| header.ir_version),
        "opsets": header.map(|header| &header.opsets),
        "producer": header.map(|header| &header.producer),
        "producer_version": header.map(|header| &header.producer_version),
        "operators": header.map(|header| &header.operators),
        "external_data": external,
        "bytes": examination.weights,
        "content": examination.content.to_string(),
        "packed": packing(&examination.packing),
        "adapter": adapter(examination),
        "batching": examination.manifest.batching,
        "manifest": super::manifest::report(&examination.manifest)?,
        "steps": summary.steps,
        "example": summary.curl,
    });
    let more = match &examination.loaded {
        Err(error) => json!({"refused": error.to_string()}),
        Ok(loaded) => described(loaded, examination, requests),
    };
    if let (Value::Object(report), Value::Object(more)) = (&mut report, more) {
        report.extend(more);
    }
    Ok(report)
}

fn described(loaded: &ExaminedModel, examination: &Examination, requests: &[ExampleRequest]) -> Value {
    let described = |inputs: &[InputSpec]| -> Vec<Value> {
        let inputs = inputs.iter();
        inputs
            .map(|input| {
                json!({"name": input.name, "type": input.data_type.name(), "shape": input.dims.as_deref().map(shape)})
            })
            .collect()
    };
    let outputs = loaded.signature.outputs.iter();
    let outputs: Vec<Value> = outputs
        .map(|output| match &output.value_type {
            ValueType::Tensor { data_type, dims } => {
                json!({
                    "name": output.name, "type": data_type.name(), "shape": dims.as_deref().map(shape),
                    "rows": output.rows,
                })
            }
            other @ (ValueType::Sequence(_) | ValueType::Map { .. }) => {
                json!({"name": output.name, "type": other.to_string(), "rows": output.rows})
            }
        })
        .collect();
    let findings = &loaded.findings;
    let joining = super::joining(loaded, examination);
    let records: Map<String, Value> = findings
        .axes
        .outputs
        .iter()
        .map(|(output, axis)| (output.clone(), records(axis)))
        .collect();
    let (samples, unfit): (Vec<&ExampleRequest>, Vec<&ExampleRequest>) =
        requests.iter().partition(|request| request.sample.body.is_ok());
    json!({
        "inputs": described(&loaded.signature.inputs),
        "optional_inputs": described(&loaded.signature.optional),
        "outputs": outputs,
        "measured": {
            "private_bytes": findings.private,
            "mapped_bytes": findings.mapped,
            "load_peak_bytes": findings.load_peak.max(findings.private),
            "run_peak_bytes": findings.run_peak,
            "independent_rows": findings.independent_rows,
        },
        "large_constants": loaded.constants.iter().map(|constant| json!({
            "bytes": constant.bytes,
            "is_copied": !constant.is_read,
            "prepared_models": constant.models,
        })).collect::<Vec<_>>(),
        "joined": joining.is_ok(),
        "joined_why_not": joining.as_ref().err().map(ToString::to_string),
        "records": records,
        "has_prepared_form": findings.prepared,
        "samples": samples.into_iter().map(sample).collect::<Vec<_>>(),
        "unfit": unfit.into_iter().map(sample).collect::<Vec<_>>(),
    })
}

/// Returns the position of a batch's records in an output.
fn records(axis: &OutputAxis) -> Value {
    match axis {
        OutputAxis::Records => json!("first axis"),
        OutputAxis::Elsewhere => json!("another axis"),
        OutputAxis::Whole => json!("none"),
        OutputAxis::Mixed(why) => json!({"mixed": why}),
    }
}

/// Returns a size as a number, a named dimension as its name, and others as null.
fn shape(dims: &[Dim]) -> Vec<Value> {
    dims.iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => json!(size),
            Dim::Dynamic(name) => json!(name),
        })
        .collect()
}

fn sample(request: &ExampleRequest) -> Value {
    let mut sample = Map::new();
    sample.insert("name".to_owned(), json!(request.sample.name));
    sample.insert("content_type".to_owned(), json!(request.sample.content_type));
    match &request.sample.body {
        Err(why) => sample.insert("why".to_owned(), json!(why)),
        Ok(body) => match std::str::from_utf8(body) {
            Ok(text) => sample.insert("body".to_owned(), json!(text)),
            Err(_) => sample.insert("body_base64".to_owned(), json!(STANDARD.encode(body))),
        },
    };
    if let Some(curl) = &request.curl {
        sample.insert("curl".to_owned(), json!(curl));
    }
    Value::Object(sample)
}

/// Returns the file of the adapter and the types of its values by name; null without an adapter.
fn adapter(examination: &Examination) -> Value {
    let Some(file) = &examination.adapter else {
        return Value::Null;
    };
    let values = examination.loaded.iter().flat_map(ExaminedModel::adapter_values);
    let values: Map<String, Value> = values
        .map(|(name, value_type)| (name.to_owned(), json!(value_type)))
        .collect();
    json!({"file": file.strip_prefix(&examination.folder).unwrap_or(file), "values": values})
}

fn packing(packing: &Packing) -> Value {
    match packing {
        Packing::None => Value::Null,
        Packing::Usable(description) => json!({"used_here": true, "prepared_for": description.platform}),
        Packing::Unusable { description, why } => json!({
            "used_here": false,
            "why": why,
            "prepared_for": description.as_ref().map(|description| &description.platform),
        }),
    }
}
