//! Reads the graph from a file in ONNX Runtime's own format: a flatbuffer with the schema
//! `ort.fbs`.
//!
//! Packed prepared forms have this format, and so may uploads. ONNX Runtime runs the graph in
//! this file, so this graph is analysed, and not that of the model it was made from. The file is
//! untrusted: every offset is checked. The number of nodes and bytes that are read is limited,
//! because tables may refer to each other any number of times.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::engine::load::flatbuffer::{FlatTable, Flatbuffer, FlatbufferError};
use crate::engine::load::onnx_file::graph::{Attribute, Constant, Dimension, Graph, GraphInput, ModelGraph, Node};
use crate::engine::load::onnx_file::{MAX_ELEMENTS, decoded};

/// Limit on the nesting of graphs.
const MAX_DEPTH: usize = 32;

/// Limit on the nodes of all graphs.
const MAX_NODES: usize = 200_000;

/// Limit on the total number of inputs, outputs, attributes, dimensions and the like.
const MAX_PARTS: usize = 5_000_000;

#[derive(Debug, thiserror::Error)]
pub enum OrtFileError {
    #[error("it is not a flatbuffer of ONNX Runtime, or it is damaged")]
    Malformed,
    #[error("its graph exceeds the limits on size and nesting")]
    TooLarge,
    #[error("it has {0}, which is not analysed")]
    Unsupported(&'static str),
    #[error("read the file")]
    Io(#[from] io::Error),
}

impl From<FlatbufferError> for OrtFileError {
    fn from(error: FlatbufferError) -> Self {
        match error {
            FlatbufferError::Malformed => Self::Malformed,
            FlatbufferError::LongText => Self::TooLarge,
            FlatbufferError::Io(source) => Self::Io(source),
        }
    }
}

type Result<T> = std::result::Result<T, OrtFileError>;

/// Reads the graph of the file at `path`.
pub fn graph(path: &Path) -> Result<ModelGraph> {
    let mut reader = OrtGraphReader {
        file: Flatbuffer::of_file(File::open(path)?)?,
        nodes: 0,
        parts: 0,
    };
    reader.model()
}

struct OrtGraphReader {
    file: Flatbuffer,
    nodes: usize,
    parts: usize,
}

impl OrtGraphReader {
    fn model(&mut self) -> Result<ModelGraph> {
        let session = self.file.root(b"ORTM")?;
        let model = self.table(session, 1)?.ok_or(OrtFileError::Malformed)?;
        let mut opsets = std::collections::BTreeMap::new();
        for import in self.tables(model, 1)? {
            let domain = self.domain(import, 0)?;
            opsets.insert(domain, self.file.i64(import, 1)?);
        }
        let graph = self.table(model, 7)?.ok_or(OrtFileError::Malformed)?;
        Ok(ModelGraph {
            opsets,
            graph: self.graph(graph, 0)?,
            functions: Vec::new(),
        })
    }

    fn graph(&mut self, graph: FlatTable, depth: usize) -> Result<Graph> {
        if depth > MAX_DEPTH {
            return Err(OrtFileError::TooLarge);
        }
        if let Some(optimizations) = self.table(graph, 8)?
            && !self.tables(optimizations, 0)?.is_empty()
        {
            return Err(OrtFileError::Unsupported(
                "optimisations that are applied during the load",
            ));
        }
        let mut constants = Vec::new();
        for tensor in self.tables(graph, 0)? {
            constants.push(self.tensor(tensor)?);
        }
        for sparse in self.tables(graph, 7)? {
            let values = self.table(sparse, 0)?.ok_or(OrtFileError::Malformed)?;
            constants.push(Constant {
                name: self.text(values, 0)?,
                dims: self.dims(sparse, 2)?,
                numbers: None,
            });
        }
        let mut shapes = HashMap::new();
        for value in self.tables(graph, 1)? {
            let name = self.text(value, 0)?;
            shapes.insert(name, self.shape(value)?);
        }
        let inputs = self.texts(graph, 5)?.into_iter().map(|name| GraphInput {
            dims: shapes.get(&name).cloned().flatten(),
            name,
        });
        let inputs = inputs.collect();
        let outputs = self.texts(graph, 6)?;
        let mut nodes = Vec::new();
        for node in self.tables(graph, 2)? {
            nodes.push(self.node(node, depth)?);
        }
        Ok(Graph {
            nodes: in_order(nodes),
            constants,
            inputs,
            outputs,
        })
    }

    fn node(&mut self, node: FlatTable, depth: usize) -> Result<Node> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(OrtFileError::TooLarge);
        }
        // A node that an execution provider has compiled.
        if self.file.i32(node, 6)? != 0 {
            return Err(OrtFileError::Unsupported("a compiled node"));
        }
        let mut attributes = HashMap::new();
        for attribute in self.tables(node, 10)? {
            let name = self.text(attribute, 0)?;
            if attributes.insert(name, self.attribute(attribute, depth)?).is_some() {
                return Err(OrtFileError::Malformed);
            }
        }
        Ok(Node {
            name: self.text(node, 0)?,
            operator: self.text(node, 5)?,
            domain: self.domain(node, 2)?,
            overload: String::new(),
            inputs: self.texts(node, 8)?,
            outputs: self.texts(node, 9)?,
            attributes,
        })
    }

    fn attribute(&mut self, attribute: FlatTable, depth: usize) -> Result<Attribute> {
        Ok(match self.file.i32(attribute, 2)? {
            1 => Attribute::Float(f32::from_bits(self.file.i32(attribute, 3)? as u32)),
            2 => Attribute::Int(self.file.i64(attribute, 4)?),
            3 => Attribute::Text(Some(self.text(attribute, 5)?)),
            4 => {
                let tensor = self.table(attribute, 6)?.ok_or(OrtFileError::Malformed)?;
                Attribute::Tensor(self.tensor(tensor)?)
            }
            5 => {
                let graph = self.table(attribute, 7)?.ok_or(OrtFileError::Malformed)?;
                Attribute::Graph(Box::new(self.graph(graph, depth + 1)?))
            }
            6 => {
                let bytes = self.file.short_vector(attribute, 8, 4, MAX_ELEMENTS)?;
                let float = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
                Attribute::Floats(bytes.map(|bytes| bytes.as_chunks::<4>().0.iter().map(float).collect()))
            }
            7 => {
                let bytes = self.file.short_vector(attribute, 9, 8, MAX_ELEMENTS)?;
                let int = |bytes: &[u8; 8]| i64::from_le_bytes(*bytes);
                Attribute::Ints(bytes.map(|bytes| bytes.as_chunks::<8>().0.iter().map(int).collect()))
            }
            8 => Attribute::Texts(self.file.vector(attribute, 10)?.map_or(0, |(_, length)| length)),
            _ => Attribute::Other,
        })
    }

    fn tensor(&mut self, tensor: FlatTable) -> Result<Constant> {
        let name = self.text(tensor, 0)?;
        let dims = self.dims(tensor, 2)?;
        let count = dims.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim));
        let data_type = self.file.i32(tensor, 3)?;
        let raw = self.file.short_vector(tensor, 4, 1, 8 * MAX_ELEMENTS)?;
        let numbers = raw.and_then(|raw| decoded(u64::try_from(data_type).ok()?, &raw));
        Ok(Constant {
            name,
            dims,
            numbers: numbers.filter(|numbers| count == Some(numbers.len() as u64)),
        })
    }

    fn dims(&mut self, table: FlatTable, field: usize) -> Result<Vec<u64>> {
        let bytes = self
            .file
            .short_vector(table, field, 8, 64)?
            .ok_or(OrtFileError::TooLarge)?;
        let dims = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::try_from(i64::from_le_bytes(*bytes)));
        dims.collect::<std::result::Result<_, _>>()
            .map_err(|_| OrtFileError::Malformed)
    }

    /// The declared dimensions of a value; `None` if it is not a tensor.
    fn shape(&mut self, value: FlatTable) -> Result<Option<Vec<Dimension>>> {
        let Some(kind) = self.table(value, 2)? else {
            return Ok(None);
        };
        if self.file.u8(kind, 1)? != 1 {
            return Ok(None);
        }
        let Some(tensor) = self.table(kind, 2)? else {
            return Ok(None);
        };
        let Some(shape) = self.table(tensor, 1)? else {
            return Ok(None);
        };
        let mut dims = Vec::new();
        for dim in self.tables(shape, 0)? {
            let Some(dim) = self.table(dim, 0)? else {
                dims.push(Dimension::Open);
                continue;
            };
            dims.push(match self.file.u8(dim, 0)? {
                1 => u64::try_from(self.file.i64(dim, 1)?).map_or(Dimension::Open, Dimension::Fixed),
                2 => match self.text(dim, 2)? {
                    name if name.is_empty() => Dimension::Open,
                    name => Dimension::Named(name),
                },
                _ => Dimension::Open,
            });
        }
        Ok(Some(dims))
    }

    fn domain(&mut self, table: FlatTable, field: usize) -> Result<String> {
        let domain = self.text(table, field)?;
        Ok(if domain == "ai.onnx" { String::new() } else { domain })
    }

    fn count(&mut self, parts: usize) -> Result<()> {
        self.parts = self.parts.saturating_add(parts);
        if self.parts > MAX_PARTS {
            return Err(OrtFileError::TooLarge);
        }
        Ok(())
    }

    fn text(&mut self, table: FlatTable, field: usize) -> Result<String> {
        self.count(1)?;
        match self.file.offset(table, field)? {
            Some(place) => Ok(self.file.text(place)?),
            None => Ok(String::new()),
        }
    }

    fn texts(&mut self, table: FlatTable, field: usize) -> Result<Vec<String>> {
        let places = self.places(table, field)?;
        let texts = places.into_iter().map(|place| Ok(self.file.text(place)?));
        texts.collect()
    }

    fn table(&mut self, table: FlatTable, field: usize) -> Result<Option<FlatTable>> {
        match self.file.offset(table, field)? {
            Some(place) => Ok(Some(self.file.table(place)?)),
            None => Ok(None),
        }
    }

    fn tables(&mut self, table: FlatTable, field: usize) -> Result<Vec<FlatTable>> {
        let places = self.places(table, field)?;
        let tables = places.into_iter().map(|place| Ok(self.file.table(place)?));
        tables.collect()
    }

    /// The positions that a vector of offsets refers to.
    fn places(&mut self, table: FlatTable, field: usize) -> Result<Vec<u64>> {
        let Some((start, length)) = self.file.vector(table, field)? else {
            return Ok(Vec::new());
        };
        self.count(length)?;
        (0..length)
            .map(|index| Ok(self.file.follow(start + 4 * index as u64)?))
            .collect()
    }
}

/// Sorts the nodes into an order in which they can run; the file has them in the order of their
/// numbers. Nodes that cannot run come last.
fn in_order(nodes: Vec<Node>) -> Vec<Node> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in &node.outputs {
            producers.insert(output, index);
        }
    }
    let mut followers = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0usize; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let mut names: Vec<&str> = node.inputs.iter().map(|name| &**name).collect();
        for attribute in node.attributes.values() {
            used_outside(attribute, &mut names);
        }
        for name in names {
            if let Some(&producer) = producers.get(name)
                && !name.is_empty()
            {
                followers[producer].push(index);
                missing[index] += 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..nodes.len()).filter(|&index| missing[index] == 0).collect();
    let mut next = 0;
    while let Some(&index) = order.get(next) {
        next += 1;
        for &follower in &followers[index] {
            missing[follower] -= 1;
            if missing[follower] == 0 {
                order.push(follower);
            }
        }
    }
    order.extend((0..nodes.len()).filter(|&index| missing[index] > 0));
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| nodes[index].take()).collect()
}

/// Adds the names that the body of a control flow operator uses, including those it defines.
fn used_outside<'a>(attribute: &'a Attribute, names: &mut Vec<&'a str>) {
    if let Attribute::Graph(graph) = attribute {
        names.extend(graph.outputs.iter().map(|name| &**name));
        for node in &graph.nodes {
            names.extend(node.inputs.iter().map(|name| &**name));
            node.attributes
                .values()
                .for_each(|attribute| used_outside(attribute, names));
        }
    }
}
