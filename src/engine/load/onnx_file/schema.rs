//! The field numbers of `onnx.proto` that the scanner reads; it skips all others.

/// The messages of `onnx.proto` that the scanner enters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
}

/// The content of a length-delimited field.
pub(super) enum FieldContent {
    Message(Message),
    OperatorName,
    ExternalEntry,
    Producer,
    ProducerVersion,
    OperatorSet,
    InputOrOutput,
    Skipped,
}

pub(super) fn content(message: Message, field: u64) -> FieldContent {
    match (message, field) {
        (Message::Model, 7) | (Message::Attribute, 6 | 11) => FieldContent::Message(Message::Graph),
        (Message::Function, 11) => FieldContent::Message(Message::Attribute),
        (Message::Model, 25) => FieldContent::Message(Message::Function),
        (Message::Graph, 1) | (Message::Function, 7) => FieldContent::Message(Message::Node),
        (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::SparseTensor, 1 | 2) => {
            FieldContent::Message(Message::Tensor)
        }
        (Message::Graph, 15) | (Message::Attribute, 22 | 23) => FieldContent::Message(Message::SparseTensor),
        (Message::Model, 2) => FieldContent::Producer,
        (Message::Model, 3) => FieldContent::ProducerVersion,
        (Message::Model, 8) => FieldContent::OperatorSet,
        (Message::Graph, 11 | 12) => FieldContent::InputOrOutput,
        (Message::Node, 4) => FieldContent::OperatorName,
        (Message::Node, 5) => FieldContent::Message(Message::Attribute),
        (Message::Tensor, 13) => FieldContent::ExternalEntry,
        (
            Message::Model
            | Message::Graph
            | Message::Function
            | Message::Node
            | Message::Attribute
            | Message::Tensor
            | Message::SparseTensor,
            _,
        ) => FieldContent::Skipped,
    }
}

/// Numbers of the fields that are rewritten.
pub(super) mod number {
    pub const MODEL_GRAPH: u64 = 7;
    pub const MODEL_FUNCTIONS: u64 = 25;
    pub const GRAPH_NODE: u64 = 1;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const GRAPH_SPARSE_INITIALIZER: u64 = 15;
    pub const FUNCTION_NODE: u64 = 7;
    pub const NODE_ATTRIBUTE: u64 = 5;
    pub const ATTRIBUTE_TENSOR: u64 = 5;
    pub const ATTRIBUTE_GRAPH: u64 = 6;
    pub const ATTRIBUTE_TENSORS: u64 = 10;
    pub const ATTRIBUTE_GRAPHS: u64 = 11;
    pub const TENSOR_DIMS: u64 = 1;
    pub const TENSOR_DATA_TYPE: u64 = 2;
    pub const TENSOR_NAME: u64 = 8;
    pub const TENSOR_EXTERNAL_DATA: u64 = 13;
    pub const ENTRY_KEY: u64 = 1;
    pub const ENTRY_VALUE: u64 = 2;
    pub const TENSOR_RAW_DATA: u64 = 9;
    pub const TENSOR_DATA_LOCATION: u64 = 14;
}
