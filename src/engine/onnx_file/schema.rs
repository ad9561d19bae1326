//! The part of `onnx.proto` that is looked into, by its field numbers; all else is skipped over.

/// The messages of `onnx.proto` that are looked into.
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

/// What a length-delimited field holds.
pub(super) enum Content {
    Message(Message),
    OperatorName,
    ExternalEntry,
    Producer,
    ProducerVersion,
    OperatorSet,
    InputOrOutput,
    Skipped,
}

pub(super) fn content(message: Message, field: u64) -> Content {
    match (message, field) {
        (Message::Model, 7) | (Message::Attribute, 6 | 11) => Content::Message(Message::Graph),
        (Message::Function, 11) => Content::Message(Message::Attribute),
        (Message::Model, 25) => Content::Message(Message::Function),
        (Message::Graph, 1) | (Message::Function, 7) => Content::Message(Message::Node),
        (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::SparseTensor, 1 | 2) => {
            Content::Message(Message::Tensor)
        }
        (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Content::Message(Message::SparseTensor),
        (Message::Model, 2) => Content::Producer,
        (Message::Model, 3) => Content::ProducerVersion,
        (Message::Model, 8) => Content::OperatorSet,
        (Message::Graph, 11 | 12) => Content::InputOrOutput,
        (Message::Node, 4) => Content::OperatorName,
        (Message::Node, 5) => Content::Message(Message::Attribute),
        (Message::Tensor, 13) => Content::ExternalEntry,
        (
            Message::Model
            | Message::Graph
            | Message::Function
            | Message::Node
            | Message::Attribute
            | Message::Tensor
            | Message::SparseTensor,
            _,
        ) => Content::Skipped,
    }
}
