//! Writes ONNX models. Each type is a message of `onnx.proto`, and each method sets one of its
//! fields.
//!
//! ```ignore
//! let graph = Graph::new()
//!     .input(Info::floats("x", ["batch".into(), 4.into()]))
//!     .initializer(Tensor::floats("w", &[4, 2], &[0.5; 8]))
//!     .node(Node::new("MatMul", ["x", "w"], ["y"]))
//!     .output(Info::floats("y", ["batch".into(), 2.into()]));
//! fs::write("model.onnx", Model::new(graph).into_bytes())?;
//! ```
//!
//! The writer checks nothing: the same calls write the valid models and those that a server must
//! survive.

use super::protobuf::Message;

/// Element types of `TensorProto.DataType`. They are plain numbers, because a hostile model may
/// hold any.
pub mod element {
    pub const FLOAT: i64 = 1;
    pub const UINT8: i64 = 2;
    pub const INT8: i64 = 3;
    pub const INT32: i64 = 6;
    pub const INT64: i64 = 7;
    pub const STRING: i64 = 8;
    pub const BOOL: i64 = 9;
    pub const FLOAT16: i64 = 10;
    pub const DOUBLE: i64 = 11;
}

/// The default versions of models. Every ONNX Runtime of the last years reads them.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// `ModelProto`.
#[derive(Debug, Clone)]
#[must_use]
pub struct Model {
    message: Message,
    ir_version: i64,
    opset: i64,
}

impl Model {
    pub fn new(graph: Graph) -> Self {
        Self {
            message: Message::default().message(7, &graph.0),
            ir_version: IR_VERSION,
            opset: OPSET,
        }
    }

    pub fn ir_version(self, ir_version: i64) -> Self {
        Self { ir_version, ..self }
    }

    /// The version of the standard operators.
    pub fn opset(self, opset: i64) -> Self {
        Self { opset, ..self }
    }

    /// Imports the operators of another domain.
    pub fn import(self, domain: &str, version: i64) -> Self {
        self.field(8, &import(domain, version))
    }

    /// Adds a model-local function. Its domain must be imported.
    pub fn function(self, function: &Function) -> Self {
        self.field(25, &function.0)
    }

    /// Sets a field by its number.
    pub fn field(mut self, field: u64, value: &Message) -> Self {
        self.message = self.message.message(field, value);
        self
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.message
            .int(1, self.ir_version)
            .message(8, &import("", self.opset))
            .into_bytes()
    }
}

fn import(domain: &str, version: i64) -> Message {
    Message::default().bytes(1, domain).int(2, version)
}

/// `GraphProto`.
#[derive(Debug, Clone)]
#[must_use]
pub struct Graph(Message);

impl Graph {
    pub fn new() -> Self {
        Self(Message::default().bytes(2, "graph"))
    }

    /// Adds a node. The order of the nodes must be one in which they can run.
    pub fn node(self, node: Node) -> Self {
        Self(self.0.message(1, &node.0))
    }

    pub fn initializer(self, tensor: Tensor) -> Self {
        Self(self.0.message(5, &tensor.0))
    }

    pub fn sparse_initializer(self, tensor: &SparseTensor) -> Self {
        Self(self.0.message(15, &tensor.0))
    }

    pub fn input(self, info: Info) -> Self {
        Self(self.0.message(11, &info.0))
    }

    pub fn output(self, info: Info) -> Self {
        Self(self.0.message(12, &info.0))
    }

    /// Adds the type of a value inside the graph.
    pub fn value_info(self, info: Info) -> Self {
        Self(self.0.message(13, &info.0))
    }

    pub fn into_message(self) -> Message {
        self.0
    }
}

impl Default for Graph {
    fn default() -> Self {
        Self::new()
    }
}

/// `NodeProto`.
#[derive(Debug, Clone)]
#[must_use]
pub struct Node(Message);

impl Node {
    pub fn new<'a>(
        operator: &str,
        inputs: impl IntoIterator<Item = &'a str>,
        outputs: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut message = Message::default().bytes(4, operator);
        for input in inputs {
            message = message.bytes(1, input);
        }
        for output in outputs {
            message = message.bytes(2, output);
        }
        Self(message)
    }

    pub fn named(self, name: &str) -> Self {
        Self(self.0.bytes(3, name))
    }

    pub fn domain(self, domain: &str) -> Self {
        Self(self.0.bytes(7, domain))
    }

    pub fn attribute(self, name: &str, value: impl Into<Attribute>) -> Self {
        Self(self.0.message(5, &value.into().0.bytes(1, name)))
    }
}

/// `AttributeProto` without its name, created from the value.
#[derive(Debug, Clone)]
#[must_use]
pub struct Attribute(Message);

impl Attribute {
    fn of(kind: i64, value: Message) -> Self {
        Self(value.int(20, kind))
    }

    /// Refers, in a function, to the value of the calling node's attribute.
    pub fn reference(kind: i64, name: &str) -> Self {
        Self::of(kind, Message::default().bytes(21, name))
    }

    pub fn sparse_tensor(tensor: &SparseTensor) -> Self {
        Self::of(11, Message::default().message(22, &tensor.0))
    }
}

impl From<f32> for Attribute {
    fn from(value: f32) -> Self {
        Self::of(1, Message::default().float(2, value))
    }
}

impl From<i64> for Attribute {
    fn from(value: i64) -> Self {
        Self::of(2, Message::default().int(3, value))
    }
}

impl From<&str> for Attribute {
    fn from(value: &str) -> Self {
        Self::of(3, Message::default().bytes(4, value))
    }
}

impl From<Tensor> for Attribute {
    fn from(value: Tensor) -> Self {
        Self::of(4, Message::default().message(5, &value.0))
    }
}

impl From<Graph> for Attribute {
    fn from(value: Graph) -> Self {
        Self::of(5, Message::default().message(6, &value.0))
    }
}

impl From<&[f32]> for Attribute {
    fn from(values: &[f32]) -> Self {
        Self::of(6, Message::default().floats(7, values.iter().copied()))
    }
}

impl From<&[i64]> for Attribute {
    fn from(values: &[i64]) -> Self {
        Self::of(7, Message::default().ints(8, values.iter().copied()))
    }
}

impl From<&[&str]> for Attribute {
    fn from(values: &[&str]) -> Self {
        let add = |message: Message, value: &&str| message.bytes(9, value);
        Self::of(8, values.iter().fold(Message::default(), add))
    }
}

/// `FunctionProto`: an operator that the model defines.
#[derive(Debug, Clone)]
#[must_use]
pub struct Function(Message);

impl Function {
    pub fn new(domain: &str, name: &str) -> Self {
        let message = Message::default().bytes(1, name).bytes(10, domain);
        Self(message.message(9, &import("", OPSET)))
    }

    /// Imports the operators of another domain, or of the function's own.
    pub fn import(self, domain: &str, version: i64) -> Self {
        Self(self.0.message(9, &import(domain, version)))
    }

    pub fn input(self, name: &str) -> Self {
        Self(self.0.bytes(4, name))
    }

    pub fn output(self, name: &str) -> Self {
        Self(self.0.bytes(5, name))
    }

    /// Declares an attribute that callers may set.
    pub fn attribute(self, name: &str) -> Self {
        Self(self.0.bytes(6, name))
    }

    pub fn node(self, node: Node) -> Self {
        Self(self.0.message(7, &node.0))
    }
}

/// `TensorProto`.
#[derive(Debug, Clone)]
#[must_use]
pub struct Tensor(Message);

impl Tensor {
    /// A tensor without data.
    pub fn empty(name: &str, element: i64, dims: &[i64]) -> Self {
        let message = Message::default().ints(1, dims.iter().copied());
        Self(message.int(2, element).bytes(8, name))
    }

    /// Data in row-major order as little-endian bytes, the form that exporters write.
    pub fn raw(name: &str, element: i64, dims: &[i64], data: impl AsRef<[u8]>) -> Self {
        Self(Self::empty(name, element, dims).0.bytes(9, data))
    }

    pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::raw(name, element::FLOAT, dims, data)
    }

    pub fn ints(name: &str, dims: &[i64], values: &[i64]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::raw(name, element::INT64, dims, data)
    }

    pub fn bools(name: &str, dims: &[i64], values: &[bool]) -> Self {
        let data: Vec<u8> = values.iter().map(|&value| value.into()).collect();
        Self::raw(name, element::BOOL, dims, data)
    }

    pub fn strings(name: &str, dims: &[i64], values: &[&str]) -> Self {
        let add = |message: Message, value: &&str| message.bytes(6, value);
        Self(values.iter().fold(Self::empty(name, element::STRING, dims).0, add))
    }

    /// Integers in the field of their type instead of raw bytes.
    pub fn typed_ints(name: &str, dims: &[i64], values: &[i64]) -> Self {
        let message = Self::empty(name, element::INT64, dims).0;
        Self(message.ints(7, values.iter().copied()))
    }

    /// Floats in the field of their type instead of raw bytes.
    pub fn typed_floats(name: &str, dims: &[i64], values: &[f32]) -> Self {
        let message = Self::empty(name, element::FLOAT, dims).0;
        Self(message.floats(4, values.iter().copied()))
    }

    /// A float tensor with its data in another file. `entries` are `location`, `offset` and
    /// `length`.
    pub fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Self {
        let mut message = Self::empty(name, element::FLOAT, dims).0.int(14, 1);
        for (key, value) in entries {
            message = message.message(13, &Message::default().bytes(1, key).bytes(2, value));
        }
        Self(message)
    }
}

/// `SparseTensorProto`.
#[derive(Debug, Clone)]
#[must_use]
pub struct SparseTensor(Message);

impl SparseTensor {
    /// A tensor of `dims` with `values` at `indices` and 0 elsewhere. Its name is that of the
    /// values.
    pub fn new(values: Tensor, indices: Tensor, dims: &[i64]) -> Self {
        let message = Message::default().message(1, &values.0).message(2, &indices.0);
        Self(message.ints(3, dims.iter().copied()))
    }
}

/// `ValueInfoProto`: the name and type of a graph's input or output.
#[derive(Debug, Clone)]
#[must_use]
pub struct Info(Message);

impl Info {
    pub fn tensor(name: &str, element: i64, dims: impl IntoIterator<Item = Dim>) -> Self {
        Self::typed(name, &tensor_type(element, dims))
    }

    pub fn floats(name: &str, dims: impl IntoIterator<Item = Dim>) -> Self {
        Self::tensor(name, element::FLOAT, dims)
    }

    pub fn ints(name: &str, dims: impl IntoIterator<Item = Dim>) -> Self {
        Self::tensor(name, element::INT64, dims)
    }

    /// A tensor of any rank.
    pub fn any_rank(name: &str, element: i64) -> Self {
        Self::typed(name, &Message::default().int(1, element))
    }

    /// A sequence of tensors of any rank.
    pub fn sequence(name: &str, element: i64) -> Self {
        let tensor = Message::default().message(1, &Message::default().int(1, element));
        let kind = Message::default().message(4, &Message::default().message(1, &tensor));
        Self(Message::default().bytes(1, name).message(2, &kind))
    }

    /// An optional tensor.
    pub fn optional(name: &str, element: i64, dims: impl IntoIterator<Item = Dim>) -> Self {
        let kind = Message::default().message(1, &tensor_type(element, dims));
        let kind = Message::default().message(9, &Message::default().message(1, &kind));
        Self(Message::default().bytes(1, name).message(2, &kind))
    }

    pub fn untyped(name: &str) -> Self {
        Self(Message::default().bytes(1, name))
    }

    fn typed(name: &str, tensor: &Message) -> Self {
        let kind = Message::default().message(1, tensor);
        Self(Message::default().bytes(1, name).message(2, &kind))
    }
}

/// `TypeProto.Tensor`.
fn tensor_type(element: i64, dims: impl IntoIterator<Item = Dim>) -> Message {
    let mut shape = Message::default();
    for dim in dims {
        let dim = match dim {
            Dim::Fixed(size) => Message::default().int(1, size),
            Dim::Symbol(symbol) => Message::default().bytes(2, symbol),
            Dim::Open => Message::default(),
        };
        shape = shape.message(1, &dim);
    }
    Message::default().int(1, element).message(2, &shape)
}

/// One dimension of an [`Info`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Fixed(i64),
    /// Open, but the same size wherever the symbol occurs.
    Symbol(String),
    Open,
}

impl From<i64> for Dim {
    fn from(size: i64) -> Self {
        Self::Fixed(size)
    }
}

impl From<&str> for Dim {
    fn from(symbol: &str) -> Self {
        Self::Symbol(symbol.to_owned())
    }
}
