//! A model's graph as plain data: the part of `onnx.proto` that the analysis uses.
//!
//! Only small tensors keep their values, because they hold shapes, axes and scales.

use std::collections::{BTreeMap, HashMap};

/// A model: its graph, its functions, and the versions of the operator sets that it imports.
#[derive(Debug, Default)]
pub struct ModelGraph {
    pub opsets: Opsets,
    pub graph: Graph,
    pub functions: Vec<Function>,
}

/// Version by domain. The domain of the standard is the empty text.
pub type Opsets = BTreeMap<String, i64>;

/// A graph, or the body of a control flow operator.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub constants: Vec<Constant>,
    pub inputs: Vec<GraphInput>,
    pub outputs: Vec<String>,
}

/// An operator of a graph. An omitted optional input or output has an empty name.
#[derive(Debug, Default)]
pub struct Node {
    pub name: String,
    pub operator: String,
    pub domain: String,
    pub overload: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: HashMap<String, Attribute>,
}

/// The value of a node's attribute.
#[derive(Debug)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    /// `None` for a long text.
    Text(Option<String>),
    /// `None` for a long list.
    Ints(Option<Vec<i64>>),
    /// `None` for a long list.
    Floats(Option<Vec<f32>>),
    /// A list of texts, by its length.
    Texts(usize),
    Tensor(Constant),
    Graph(Box<Graph>),
    /// In a function: a reference to the attribute of the calling node with this name.
    Reference(String),
    Other,
}

/// A tensor whose value is in the file.
#[derive(Debug, Default, Clone)]
pub struct Constant {
    pub name: String,
    pub dims: Vec<u64>,
    /// The elements of a small tensor of numbers; an element is `None` if it is not a whole
    /// number.
    pub numbers: Option<Vec<Option<i64>>>,
}

/// An input of a graph.
#[derive(Debug, Default)]
pub struct GraphInput {
    pub name: String,
    /// The declared dimensions of a tensor; `None` if there are none, or if it is not a tensor.
    pub dims: Option<Vec<Dimension>>,
}

/// A declared dimension.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Dimension {
    #[default]
    Open,
    Named(String),
    Fixed(u64),
}

/// An operator that the model defines.
#[derive(Debug, Default)]
pub struct Function {
    pub name: String,
    pub domain: String,
    pub overload: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Default values of attributes that the calling node may omit.
    pub defaults: HashMap<String, Attribute>,
    pub nodes: Vec<Node>,
    pub opsets: Opsets,
}
