//! Generates a graph for an artifact that has none: a folder with only a preprocessor file, a
//! tokenizer or labels.
//!
//! Such an artifact is one step of a pipeline: it turns pictures or sentences into tensors for
//! the next container, or the logits of the previous container into labels. The generated graph
//! returns each input unchanged under the same name. So the artifact is loaded, counted,
//! scheduled and unloaded like any other model, and no other code needs a special case.
//!
//! The file format is ONNX (onnx.proto of IR version 8): a `ModelProto` with a `GraphProto` whose
//! outputs are its inputs.

use crate::manifest::{Manifest, Step};
use crate::tensor::{DataType, Dim, InputSpec};

/// The name of the generated graph in an artifact. A file of this name is never read.
pub(super) const FILE: &str = "passthrough.onnx";

/// The IR version and the operator set that were current with ONNX Runtime 1.14. Every later
/// version reads them.
const IR_VERSION: u64 = 8;
const OPSET: u64 = 17;

/// Returns the inputs, which are also the outputs, of an artifact with this manifest and without
/// a graph. Empty if the artifact is not a step of a pipeline.
pub(super) fn ports(manifest: &Manifest) -> Vec<InputSpec> {
    let hints = &manifest.hints;
    let has_settings = |step: &Option<Step>| Step::settings(step.as_ref()).is_some();
    let is_enabled = |step: &Option<Step>| !Step::is_off(step.as_ref());
    if is_enabled(&manifest.image) && (hints.image.is_some() || has_settings(&manifest.image)) {
        let layout = Step::settings(manifest.image.as_ref()).and_then(|settings| settings.get("layout"));
        let is_last = layout
            .and_then(|layout| layout.as_str())
            .is_some_and(|layout| layout.eq_ignore_ascii_case("NHWC"));
        let dims: [&str; 4] = match is_last {
            true => ["batch", "height", "width", "3"],
            false => ["batch", "3", "height", "width"],
        };
        return vec![port("pixel_values", DataType::F32, &dims)];
    }
    if is_enabled(&manifest.audio) && (hints.audio.is_some() || has_settings(&manifest.audio)) {
        return vec![port("input_values", DataType::F32, &["batch", "samples"])];
    }
    if is_enabled(&manifest.text) && hints.tokenizer.is_some() {
        let ids = |name: &str| port(name, DataType::I64, &["batch", "sequence"]);
        return match &hints.text.model_input_names {
            Some(names) => names.iter().map(|name| ids(name)).collect(),
            None => ["input_ids", "attention_mask"].map(ids).into(),
        };
    }
    if is_enabled(&manifest.answer) && !manifest.labels.is_empty() {
        return vec![port(
            "logits",
            DataType::F32,
            &["batch", &manifest.labels.len().to_string()],
        )];
    }
    Vec::new()
}

/// Builds a port with these dimensions: a number is a fixed size, a name is an open dimension.
fn port(name: &str, data_type: DataType, dims: &[&str]) -> InputSpec {
    let dim = |dim: &&str| match dim.parse() {
        Ok(size) => Dim::Fixed(size),
        Err(_) => Dim::Dynamic(Some((*dim).to_owned())),
    };
    InputSpec {
        name: name.to_owned(),
        data_type,
        dims: Some(dims.iter().map(dim).collect()),
    }
}

/// Returns the bytes of an ONNX file whose graph returns `ports` unchanged.
pub(super) fn graph(ports: &[InputSpec]) -> Vec<u8> {
    let mut graph = MessageWriter::default();
    graph.text(2, "passthrough");
    for field in [11, 12] {
        for port in ports {
            graph.message(field, value_info(port));
        }
    }
    let mut opset = MessageWriter::default();
    opset.varint(2, OPSET);
    let mut model = MessageWriter::default();
    model.varint(1, IR_VERSION);
    model.text(2, "longshore");
    model.message(7, graph);
    model.message(8, opset);
    model.0
}

/// A `ValueInfoProto`: the name and the type of an input or output.
fn value_info(port: &InputSpec) -> MessageWriter {
    let mut tensor = MessageWriter::default();
    tensor.varint(1, element_type(port.data_type));
    if let Some(dims) = &port.dims {
        let mut shape = MessageWriter::default();
        for dim in dims {
            let mut dimension = MessageWriter::default();
            match dim {
                Dim::Fixed(size) => dimension.varint(1, *size as u64),
                Dim::Dynamic(Some(name)) => dimension.text(2, name),
                Dim::Dynamic(None) => {}
            }
            shape.message(1, dimension);
        }
        tensor.message(2, shape);
    }
    let mut value_type = MessageWriter::default();
    value_type.message(1, tensor);
    let mut info = MessageWriter::default();
    info.text(1, &port.name);
    info.message(2, value_type);
    info
}

/// The number of an element type in `TensorProto.DataType`.
const fn element_type(data_type: DataType) -> u64 {
    match data_type {
        DataType::F32 => 1,
        DataType::U8 => 2,
        DataType::I8 => 3,
        DataType::U16 => 4,
        DataType::I16 => 5,
        DataType::I32 => 6,
        DataType::I64 => 7,
        DataType::String => 8,
        DataType::Bool => 9,
        DataType::F16 => 10,
        DataType::F64 => 11,
        DataType::U32 => 12,
        DataType::U64 => 13,
        DataType::Bf16 => 16,
    }
}

/// Writes a message of Protocol Buffers.
#[derive(Debug, Default)]
struct MessageWriter(Vec<u8>);

impl MessageWriter {
    fn varint(&mut self, field: u64, value: u64) {
        self.number(field << 3);
        self.number(value);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: Self) {
        self.bytes(field, &message.0);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
