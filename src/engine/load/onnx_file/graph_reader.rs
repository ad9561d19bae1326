//! Reads a model's graph, within limits.
//!
//! The file is untrusted, and the analysis of its graph decides whether requests of different
//! clients are batched. So this reader and ONNX Runtime must see the same graph. A field that
//! Protocol Buffers would merge or overwrite if it occurs twice is an error here.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::ScanError;
use super::graph::{Attribute, Constant, Dimension, Function, Graph, GraphInput, ModelGraph, Node, Opsets};
use super::scanner::MAX_DEPTH;
use super::wire::{MAX_STRING, Wire, WireField};

/// Limit on the nodes of all graphs and functions.
pub(super) const MAX_NODES: usize = 200_000;

/// Limit on the bytes of names and lists that are kept.
const MAX_KEPT: u64 = 64 << 20;

/// Limit on the elements of a list, or of a tensor, that is kept.
pub const MAX_ELEMENTS: usize = 256;

/// Limit on the dimensions of a tensor.
const MAX_RANK: usize = 64;

pub(super) struct GraphReader<R> {
    wire: Wire<R>,
    nodes: usize,
    kept: u64,
}

type Result<T> = std::result::Result<T, ScanError>;

impl<R: Read + Seek> GraphReader<R> {
    pub(super) fn new(file: R) -> Self {
        Self {
            wire: Wire::new(file),
            nodes: 0,
            kept: 0,
        }
    }

    pub(super) fn model(&mut self, end: u64) -> Result<ModelGraph> {
        let mut model = ModelGraph::default();
        let mut has_graph = false;
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (7, WireField::Bytes(end)) => {
                    once(&mut has_graph, "two graphs")?;
                    model.graph = self.graph(end, 0)?;
                }
                (8, WireField::Bytes(end)) => self.opset(end, &mut model.opsets)?,
                (25, WireField::Bytes(end)) => {
                    let function = self.function(end)?;
                    model.functions.push(function);
                }
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(model)
    }

    fn graph(&mut self, end: u64, depth: usize) -> Result<Graph> {
        if depth > MAX_DEPTH {
            return Err(ScanError::TooDeep);
        }
        let mut graph = Graph::default();
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => {
                    let node = self.node(end, depth)?;
                    graph.nodes.push(node);
                }
                (5, WireField::Bytes(end)) => {
                    let constant = self.tensor(end)?;
                    graph.constants.push(constant);
                }
                (11, WireField::Bytes(end)) => {
                    let input = self.value_info(end)?;
                    graph.inputs.push(input);
                }
                (12, WireField::Bytes(end)) => {
                    let output = self.value_info(end)?;
                    graph.outputs.push(output.name);
                }
                (15, WireField::Bytes(end)) => {
                    let constant = self.sparse_tensor(end)?;
                    graph.constants.push(constant);
                }
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(graph)
    }

    fn function(&mut self, end: u64) -> Result<Function> {
        let mut function = Function::default();
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => function.name = self.name(end)?,
                (4, WireField::Bytes(end)) => function.inputs.push(self.name(end)?),
                (5, WireField::Bytes(end)) => function.outputs.push(self.name(end)?),
                (7, WireField::Bytes(end)) => {
                    let node = self.node(end, 0)?;
                    function.nodes.push(node);
                }
                (9, WireField::Bytes(end)) => self.opset(end, &mut function.opsets)?,
                (10, WireField::Bytes(end)) => function.domain = self.domain(end)?,
                (11, WireField::Bytes(end)) => {
                    let (name, value) = self.attribute(end, 0)?;
                    add(&mut function.defaults, name, value)?;
                }
                (13, WireField::Bytes(end)) => function.overload = self.name(end)?,
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(function)
    }

    fn node(&mut self, end: u64, depth: usize) -> Result<Node> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(ScanError::TooManyNodes);
        }
        let mut node = Node::default();
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => node.inputs.push(self.name(end)?),
                (2, WireField::Bytes(end)) => node.outputs.push(self.name(end)?),
                (3, WireField::Bytes(end)) => node.name = self.name(end)?,
                (4, WireField::Bytes(end)) => node.operator = self.name(end)?,
                (5, WireField::Bytes(end)) => {
                    let (name, value) = self.attribute(end, depth)?;
                    add(&mut node.attributes, name, value)?;
                }
                (7, WireField::Bytes(end)) => node.domain = self.domain(end)?,
                (8, WireField::Bytes(end)) => node.overload = self.name(end)?,
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(node)
    }

    /// Reads the name and the value of an attribute. Its type decides which field holds the value.
    fn attribute(&mut self, end: u64, depth: usize) -> Result<(String, Attribute)> {
        let (mut name, mut kind, mut reference) = (String::new(), None, String::new());
        let (mut int, mut float, mut text) = (0, 0f32, Some(String::new()));
        let (mut ints, mut floats, mut texts) = (Some(Vec::new()), Some(Vec::new()), 0);
        let (mut tensor, mut graph) = (None, None);
        let (mut has_tensor, mut has_graph) = (false, false);
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => name = self.name(end)?,
                (2, WireField::Fixed32(bytes)) => float = f32::from_le_bytes(bytes),
                (3, WireField::Number(number)) => int = number as i64,
                (4, WireField::Bytes(end)) => text = self.text(end)?,
                (5, WireField::Bytes(end)) => {
                    once(&mut has_tensor, "an attribute with two tensors")?;
                    tensor = Some(self.tensor(end)?);
                }
                (6, WireField::Bytes(end)) => {
                    once(&mut has_graph, "an attribute with two graphs")?;
                    graph = Some(Box::new(self.graph(end, depth + 1)?));
                }
                (7, field) => self.floats(field, &mut floats)?,
                (8, field) => self.ints(field, &mut ints)?,
                (9, WireField::Bytes(end)) => {
                    texts += 1;
                    self.wire.skip_to(end)?;
                }
                (20, WireField::Number(number)) => kind = Some(number),
                (21, WireField::Bytes(end)) => reference = self.name(end)?,
                (_, field) => self.wire.skip(&field)?,
            }
        }
        let value = match kind {
            _ if !reference.is_empty() => Attribute::Reference(reference),
            Some(1) => Attribute::Float(float),
            Some(2) => Attribute::Int(int),
            Some(3) => Attribute::Text(text),
            Some(4) => tensor.map_or(Attribute::Other, Attribute::Tensor),
            Some(5) => graph.map_or(Attribute::Other, Attribute::Graph),
            Some(6) => Attribute::Floats(floats),
            Some(7) => Attribute::Ints(ints),
            Some(8) => Attribute::Texts(texts),
            Some(_) | None => Attribute::Other,
        };
        Ok((name, value))
    }

    fn tensor(&mut self, end: u64) -> Result<Constant> {
        let mut constant = Constant::default();
        let mut dims = Some(Vec::new());
        let (mut data_type, mut is_external) = (0, false);
        let (mut ints, mut floats, mut doubles) = (Some(Vec::new()), Some(Vec::new()), Some(Vec::new()));
        let mut raw: Option<Vec<u8>> = None;
        let (mut has_raw, mut has_typed) = (false, false);
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, field) => self.ints(field, &mut dims)?,
                (2, WireField::Number(number)) => data_type = number,
                (4, field) => {
                    has_typed = true;
                    self.floats(field, &mut floats)?;
                }
                (5 | 7, field) => {
                    has_typed = true;
                    self.ints(field, &mut ints)?;
                }
                (8, WireField::Bytes(end)) => constant.name = self.name(end)?,
                (9, WireField::Bytes(end)) => {
                    has_raw = true;
                    raw = self.raw(end)?;
                }
                (10, field) => {
                    has_typed = true;
                    self.doubles(field, &mut doubles)?;
                }
                (14, WireField::Number(number)) => is_external = number != 0,
                (_, field) => self.wire.skip(&field)?,
            }
        }
        let dims = dims.filter(|dims| dims.len() <= MAX_RANK).unwrap_or_default();
        let dims: Option<Vec<u64>> = dims.iter().map(|&dim| u64::try_from(dim).ok()).collect();
        constant.dims = dims.ok_or(ScanError::Ambiguous("a tensor with a negative dimension"))?;
        let whole = |value: f64| (value.fract() == 0.0 && value.abs() < 2f64.powi(24)).then_some(value as i64);
        let numbers: Option<Vec<Option<i64>>> = match (has_raw, has_typed) {
            _ if is_external => None,
            (true, true) => None,
            (true, false) => raw.and_then(|raw| decoded(data_type, &raw)),
            (false, _) => match data_type {
                1 => floats.map(|values| values.into_iter().map(|value| whole(f64::from(value))).collect()),
                11 => doubles.map(|values| values.into_iter().map(whole).collect()),
                2..=7 | 9 => ints.map(|values| values.into_iter().map(Some).collect()),
                _ => None,
            },
        };
        let count = constant
            .dims
            .iter()
            .try_fold(1u64, |count, &dim| count.checked_mul(dim));
        constant.numbers = numbers.filter(|numbers| count == Some(numbers.len() as u64));
        self.keep(constant.numbers.as_ref().map_or(0, |numbers| 16 * numbers.len() as u64))?;
        Ok(constant)
    }

    /// Reads a sparse tensor, which has the name of its values, but its own dimensions.
    fn sparse_tensor(&mut self, end: u64) -> Result<Constant> {
        let mut constant = Constant::default();
        let (mut dims, mut has_values) = (Some(Vec::new()), false);
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => {
                    once(&mut has_values, "a sparse tensor with two lists of values")?;
                    constant.name = self.tensor(end)?.name;
                }
                (3, field) => self.ints(field, &mut dims)?,
                (_, field) => self.wire.skip(&field)?,
            }
        }
        let dims: Option<Vec<u64>> = dims
            .unwrap_or_default()
            .iter()
            .map(|&dim| u64::try_from(dim).ok())
            .collect();
        constant.dims = dims.ok_or(ScanError::Ambiguous("a tensor with a negative dimension"))?;
        Ok(constant)
    }

    fn value_info(&mut self, end: u64) -> Result<GraphInput> {
        let mut input = GraphInput::default();
        let mut has_type = false;
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => input.name = self.name(end)?,
                (2, WireField::Bytes(end)) => {
                    once(&mut has_type, "an input or output with two types")?;
                    input.dims = self.value_type(end)?;
                }
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(input)
    }

    /// The dimensions of a type; `None` if it is not that of a tensor.
    fn value_type(&mut self, end: u64) -> Result<Option<Vec<Dimension>>> {
        let (mut dims, mut has_kind) = (None, false);
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => {
                    once(&mut has_kind, "a type of two kinds")?;
                    dims = self.tensor_type(end)?;
                }
                (4 | 5 | 8 | 9, WireField::Bytes(end)) => {
                    once(&mut has_kind, "a type of two kinds")?;
                    self.wire.skip_to(end)?;
                }
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(dims)
    }

    fn tensor_type(&mut self, end: u64) -> Result<Option<Vec<Dimension>>> {
        let (mut dims, mut has_shape) = (None, false);
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (2, WireField::Bytes(end)) => {
                    once(&mut has_shape, "a type with two shapes")?;
                    dims = Some(self.shape(end)?);
                }
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(dims)
    }

    fn shape(&mut self, end: u64) -> Result<Vec<Dimension>> {
        let mut dims = Vec::new();
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => {
                    let mut dim = Dimension::Open;
                    while let Some((number, field)) = self.wire.field(end)? {
                        match (number, field) {
                            (1, WireField::Number(size)) => {
                                dim = i64::try_from(size).map_or(Dimension::Open, |size| Dimension::Fixed(size as u64));
                            }
                            (2, WireField::Bytes(end)) => {
                                let name = self.name(end)?;
                                dim = if name.is_empty() {
                                    Dimension::Open
                                } else {
                                    Dimension::Named(name)
                                };
                            }
                            (_, field) => self.wire.skip(&field)?,
                        }
                    }
                    if dims.len() >= MAX_RANK {
                        return Err(ScanError::Ambiguous("a shape of more than 64 dimensions"));
                    }
                    dims.push(dim);
                }
                (_, field) => self.wire.skip(&field)?,
            }
        }
        Ok(dims)
    }

    fn opset(&mut self, end: u64, opsets: &mut Opsets) -> Result<()> {
        let (mut domain, mut version) = (String::new(), 0);
        while let Some((number, field)) = self.wire.field(end)? {
            match (number, field) {
                (1, WireField::Bytes(end)) => domain = self.domain(end)?,
                (2, WireField::Number(number)) => version = number as i64,
                (_, field) => self.wire.skip(&field)?,
            }
        }
        match opsets.insert(domain, version) {
            Some(before) if before != version => Err(ScanError::Ambiguous("two versions of an operator set")),
            Some(_) | None if opsets.len() > 1000 => Err(ScanError::Ambiguous("more than 1000 operator sets")),
            Some(_) | None => Ok(()),
        }
    }

    fn name(&mut self, end: u64) -> Result<String> {
        self.keep(end - self.wire.position)?;
        self.wire.string(end)
    }

    /// Reads a domain. That of the standard has two names.
    fn domain(&mut self, end: u64) -> Result<String> {
        let domain = self.name(end)?;
        Ok(if domain == "ai.onnx" { String::new() } else { domain })
    }

    /// Reads a text; `None` if it is long.
    fn text(&mut self, end: u64) -> Result<Option<String>> {
        if end - self.wire.position > MAX_STRING {
            self.wire.skip_to(end)?;
            return Ok(None);
        }
        self.name(end).map(Some)
    }

    fn raw(&mut self, end: u64) -> Result<Option<Vec<u8>>> {
        if end - self.wire.position > 8 * MAX_ELEMENTS as u64 {
            self.wire.skip_to(end)?;
            return Ok(None);
        }
        self.wire.bytes(end).map(Some)
    }

    /// Adds the integers of a field, packed or not, to `list`, which becomes `None` once it is
    /// too long.
    fn ints(&mut self, field: WireField, list: &mut Option<Vec<i64>>) -> Result<()> {
        match field {
            WireField::Number(number) => push(list, number as i64),
            WireField::Bytes(end) => {
                while self.wire.position < end {
                    let number = self.wire.varint(end)?;
                    push(list, number as i64);
                    if list.is_none() {
                        self.wire.skip_to(end)?;
                    }
                }
            }
            field @ (WireField::Fixed32(_) | WireField::Fixed64(_)) => self.wire.skip(&field)?,
        }
        self.keep(8)
    }

    fn floats(&mut self, field: WireField, list: &mut Option<Vec<f32>>) -> Result<()> {
        match field {
            WireField::Fixed32(bytes) => push(list, f32::from_le_bytes(bytes)),
            WireField::Bytes(end) => match self.raw(end)? {
                Some(bytes) => bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .for_each(|bytes| push(list, f32::from_le_bytes(*bytes))),
                None => *list = None,
            },
            field @ (WireField::Number(_) | WireField::Fixed64(_)) => self.wire.skip(&field)?,
        }
        self.keep(8)
    }

    fn doubles(&mut self, field: WireField, list: &mut Option<Vec<f64>>) -> Result<()> {
        match field {
            WireField::Fixed64(bytes) => push(list, f64::from_le_bytes(bytes)),
            WireField::Bytes(end) => match self.raw(end)? {
                Some(bytes) => bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .for_each(|bytes| push(list, f64::from_le_bytes(*bytes))),
                None => *list = None,
            },
            field @ (WireField::Number(_) | WireField::Fixed32(_)) => self.wire.skip(&field)?,
        }
        self.keep(8)
    }

    fn keep(&mut self, bytes: u64) -> Result<()> {
        self.kept += bytes;
        if self.kept > MAX_KEPT {
            return Err(ScanError::TooManyNodes);
        }
        Ok(())
    }
}

fn push<T>(list: &mut Option<Vec<T>>, element: T) {
    match list {
        Some(elements) if elements.len() < MAX_ELEMENTS => elements.push(element),
        Some(_) => *list = None,
        None => {}
    }
}

fn once(seen: &mut bool, what: &'static str) -> Result<()> {
    if std::mem::replace(seen, true) {
        return Err(ScanError::Ambiguous(what));
    }
    Ok(())
}

fn add(attributes: &mut HashMap<String, Attribute>, name: String, value: Attribute) -> Result<()> {
    match attributes.insert(name, value) {
        Some(_) => Err(ScanError::Ambiguous("two attributes of one name")),
        None => Ok(()),
    }
}

/// Decodes the little-endian elements of a small tensor. An element is `None` if it is not a whole
/// number.
pub fn decoded(data_type: u64, raw: &[u8]) -> Option<Vec<Option<i64>>> {
    macro_rules! whole {
        ($type:ty) => {{
            let (values, rest) = raw.as_chunks::<{ size_of::<$type>() }>();
            let values = values
                .iter()
                .map(|bytes| i64::try_from(<$type>::from_le_bytes(*bytes)).ok());
            rest.is_empty().then(|| values.collect())
        }};
    }
    macro_rules! float {
        ($type:ty) => {{
            let (values, rest) = raw.as_chunks::<{ size_of::<$type>() }>();
            let values = values.iter().map(|bytes| {
                let value = f64::from(<$type>::from_le_bytes(*bytes));
                (value.fract() == 0.0 && value.abs() < 2f64.powi(24)).then_some(value as i64)
            });
            rest.is_empty().then(|| values.collect())
        }};
    }
    match data_type {
        1 => float!(f32),
        2 | 9 => whole!(u8),
        3 => whole!(i8),
        4 => whole!(u16),
        5 => whole!(i16),
        6 => whole!(i32),
        7 => whole!(i64),
        11 => float!(f64),
        _ => None,
    }
}
