//! Generates random graphs of the operators that the analysis knows.

use proptest::prelude::*;

use super::onnx::{Dim, Graph, Info, Model, Node, Tensor as Constant, element};

/// Number of records for which the generator computes shapes. No other extent has this value.
const MANY: usize = 7;

/// A step of a random graph: an operator, and numbers that determine its inputs and attributes.
#[derive(Debug, Clone)]
pub struct Step {
    kind: u8,
    choices: [u8; 4],
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..KINDS, any::<[u8; 4]>()).prop_map(|(kind, choices)| Step { kind, choices });
    prop::collection::vec(step, 1..7)
}

const KINDS: u8 = 34;

/// A graph under construction, with the shapes of its values for [`MANY`] records.
struct Growing {
    graph: Graph,
    values: Vec<(String, Vec<usize>)>,
    count: usize,
}

impl Growing {
    fn name(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    fn floats(&mut self, dims: &[usize]) -> String {
        let name = self.name();
        let count: usize = dims.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|index| ((index * 37 + 11) % 17) as f32 / 8.0 - 1.0)
            .collect();
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        self.graph = std::mem::take(&mut self.graph).initializer(Constant::floats(&name, &dims, &values));
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let name = self.name();
        let constant = Constant::ints(&name, &[values.len() as i64], values);
        self.graph = std::mem::take(&mut self.graph).initializer(constant);
        name
    }

    fn scalar(&mut self, value: i64) -> String {
        let name = self.name();
        let constant = Constant::ints(&name, &[], &[value]);
        self.graph = std::mem::take(&mut self.graph).initializer(constant);
        name
    }

    fn add(&mut self, node: impl FnOnce(&str) -> Node) -> String {
        let name = self.name();
        self.graph = std::mem::take(&mut self.graph).node(node(&name));
        name
    }

    fn op(&mut self, operator: &str, inputs: &[&str]) -> String {
        self.add(|name| Node::new(operator, inputs.iter().copied(), [name]))
    }

    /// `x.shape[axis]` as a list of one element.
    fn size_of(&mut self, x: &str, axis: usize) -> String {
        let (shape, index) = (self.op("Shape", &[x]), self.ints(&[axis as i64]));
        self.op("Gather", &[&shape, &index])
    }

    /// Adds a step; `None` if it does not fit.
    fn grow(&mut self, step: &Step) -> Option<()> {
        let [a, b, c, d] = step.choices.map(usize::from);
        let (x, dims) = self.values[self.values.len() - 1 - a % self.values.len().min(3)].clone();
        let (other, other_dims) = self.values[b % self.values.len()].clone();
        let rank = dims.len();
        let axis = if rank == 0 { 0 } else { b % rank };
        let x = &*x;
        let (name, result) = match step.kind {
            0 => (self.op(["Relu", "Tanh", "Sigmoid", "Neg", "Abs"][c % 5], &[x]), dims),
            1 => {
                // A constant with some of the axes; the others have one index.
                let own: Vec<usize> = dims
                    .iter()
                    .skip(c % (rank + 1))
                    .map(|&dim| if d & 1 == dim & 1 { 1 } else { dim })
                    .collect();
                let w = self.floats(&own);
                (self.op(["Add", "Mul", "Sub"][d % 3], &[x, &w]), dims)
            }
            2 => (
                self.op(["Add", "Mul", "Max"][c % 3], &[x, &other]),
                broadcast(&dims, &other_dims)?,
            ),
            3 => {
                let last = *dims.last()?;
                let w = self.floats(&[last, 1 + c % 4]);
                (self.op("MatMul", &[x, &w]), [&dims[..rank - 1], &[1 + c % 4]].concat())
            }
            4 => {
                let (one, two) = (
                    dims.last()?,
                    other_dims.len().checked_sub(2).map(|axis| other_dims[axis])?,
                );
                (rank >= 2 && *one == two && dims[..rank - 2] == other_dims[..other_dims.len() - 2]).then_some(())?;
                (
                    self.op("MatMul", &[x, &other]),
                    [&dims[..rank - 1], &[*other_dims.last()?]].concat(),
                )
            }
            5 => {
                let mut order: Vec<usize> = (0..rank).collect();
                if rank >= 2 {
                    order.swap(c % rank, d % rank);
                    order.rotate_left(b % rank);
                }
                let perm: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
                let name = self.add(|name| Node::new("Transpose", [x], [name]).attribute("perm", &perm[..]));
                (name, order.iter().map(|&axis| dims[axis]).collect())
            }
            6 => {
                // Two axes become one; the others are copied or open.
                (rank >= 2).then_some(())?;
                let at = c % (rank - 1);
                let mut result = dims;
                let merged = result.remove(at) * result[at];
                result[at] = merged;
                let target: Vec<i64> = result
                    .iter()
                    .enumerate()
                    .map(|(index, &dim)| {
                        if index == at {
                            -1
                        } else if index < at && d & 1 == 0 {
                            0
                        } else {
                            dim as i64
                        }
                    })
                    .collect();
                let s = self.ints(&target);
                (self.op("Reshape", &[x, &s]), result)
            }
            7 => {
                // An axis becomes two.
                let dim = *dims.get(axis)?;
                let part = (2..=4).find(|part| dim % part == 0)?;
                let mut result = dims;
                result[axis] = dim / part;
                result.insert(axis + 1, part);
                let target: Vec<i64> = result
                    .iter()
                    .enumerate()
                    .map(|(index, &dim)| if index == axis { -1 } else { dim as i64 })
                    .collect();
                let s = self.ints(&target);
                (self.op("Reshape", &[x, &s]), result)
            }
            8 => {
                // To a computed shape: the sizes of a value, and one open size.
                (rank >= 1).then_some(())?;
                let open = c % rank;
                let parts: Vec<String> = (0..rank)
                    .map(|index| {
                        if index == open {
                            self.ints(&[-1])
                        } else {
                            self.size_of(x, index)
                        }
                    })
                    .collect();
                let mut inputs: Vec<&str> = parts.iter().map(|part| &**part).collect();
                if d & 1 == 1 && rank >= 2 {
                    inputs.swap(0, rank - 1);
                }
                let s = self.add(|name| Node::new("Concat", inputs, [name]).attribute("axis", 0));
                let mut result = dims;
                if d & 1 == 1 && rank >= 2 {
                    result.swap(0, rank - 1);
                }
                (self.op("Reshape", &[x, &s]), result)
            }
            9 => {
                let s = self.ints(&[-1, *dims.last()? as i64 * if d & 1 == 0 { 1 } else { 2 }]);
                let total: usize = dims.iter().product();
                let last = dims.last()? * if d & 1 == 0 { 1 } else { 2 };
                total.is_multiple_of(last).then_some(())?;
                (self.op("Reshape", &[x, &s]), vec![total / last, last])
            }
            10 => {
                let (first, second) = dims.split_at(c % (rank + 1));
                let at = (c % (rank + 1)) as i64;
                let name = self.add(|name| Node::new("Flatten", [x], [name]).attribute("axis", at));
                (name, vec![first.iter().product(), second.iter().product()])
            }
            11 => (
                self.add(|name| {
                    Node::new(["Softmax", "LogSoftmax"][c % 2], [x], [name]).attribute("axis", axis as i64)
                }),
                dims,
            ),
            12 => {
                let keeps = c & 1;
                let operator = ["ReduceMax", "ReduceMean", "ReduceL2"][d % 3];
                let name = self.add(|name| {
                    Node::new(operator, [x], [name])
                        .attribute("axes", &[axis as i64][..])
                        .attribute("keepdims", keeps as i64)
                });
                let mut result = dims;
                if keeps == 1 {
                    *result.get_mut(axis)? = 1
                } else {
                    (axis < result.len()).then(|| result.remove(axis))?;
                }
                (name, result)
            }
            13 => {
                let mut result = dims.clone();
                *result.get_mut(axis)? += other_dims.get(axis)?;
                (dims.len() == other_dims.len()).then_some(())?;
                (
                    self.add(|name| Node::new("Concat", [x, &other], [name]).attribute("axis", axis as i64)),
                    result,
                )
            }
            14 => {
                let dim = *dims.get(axis)?;
                // Never empty: GRU ends the process on a sequence without steps.
                let (start, end) = match (dim % MANY, d & 1) {
                    (0, 0) => (0, 1),
                    (0, _) => (0, i64::MAX),
                    (_, 0) => (c % dim.max(1), i64::MAX),
                    (_, _) => (c % dim.max(1), dim as i64),
                };
                let (s, e, k) = (self.ints(&[start as i64]), self.ints(&[end]), self.ints(&[axis as i64]));
                let mut result = dims;
                result[axis] = if end == 1 { 1 } else { dim - start };
                (self.op("Slice", &[x, &s, &e, &k]), result)
            }
            15 => {
                (rank >= 1).then_some(())?;
                let index = self.scalar((c & 1) as i64 - 1);
                let name = self.add(|name| Node::new("Gather", [x, &index], [name]).attribute("axis", axis as i64));
                let mut result = dims;
                result.remove(axis);
                (name, result)
            }
            16 => {
                let at = c % (rank + 1);
                let s = self.ints(&[at as i64]);
                let mut result = dims;
                result.insert(at, 1);
                (self.op("Unsqueeze", &[x, &s]), result)
            }
            17 => {
                let at = dims.iter().position(|&dim| dim == 1)?;
                let s = self.ints(&[at as i64]);
                let mut result = dims;
                result.remove(at);
                (self.op("Squeeze", &[x, &s]), result)
            }
            18 => {
                // A constant with one row for each record of the input.
                let size = self.size_of("x", 0);
                let rest = self.ints(&[3]);
                let s = self.add(|name| Node::new("Concat", [&*size, &*rest], [name]).attribute("axis", 0));
                let w = self.floats(&[1, 3]);
                (self.op("Expand", &[&w, &s]), vec![MANY, 3])
            }
            19 => {
                let mut repeats = vec![1i64; rank];
                *repeats.get_mut(axis)? = 2;
                let s = self.ints(&repeats);
                let mut result = dims;
                result[axis] *= 2;
                (self.op("Tile", &[x, &s]), result)
            }
            20 => {
                let w = self.floats(&[*dims.last()?]);
                (self.op("LayerNormalization", &[x, &w, &w]), dims)
            }
            21 => {
                let k = self.scalar(axis as i64);
                (rank >= 1).then_some(())?;
                (self.op("CumSum", &[x, &k]), dims)
            }
            22 => {
                (rank >= 1).then_some(())?;
                let k = self.ints(&[1]);
                let name = self.name();
                self.graph = std::mem::take(&mut self.graph)
                    .node(Node::new("TopK", [x, &k], [&*name, ""]).attribute("axis", axis as i64));
                let mut result = dims;
                result[axis] = 1;
                (name, result)
            }
            23 => {
                (rank >= 1).then_some(())?;
                let index = self.add(|name| Node::new("ArgMax", [x], [name]).attribute("axis", axis as i64));
                let name = self.add(|name| Node::new("Cast", [&*index], [name]).attribute("to", 1));
                let mut result = dims;
                result[axis] = 1;
                (name, result)
            }
            24 => {
                let (q, s, z) = (self.name(), self.name(), self.name());
                self.graph =
                    std::mem::take(&mut self.graph).node(Node::new("DynamicQuantizeLinear", [x], [&*q, &*s, &*z]));
                (self.op("DequantizeLinear", &[&q, &s, &z]), dims)
            }
            25 => {
                (dims.get(axis)? % 2 == 0).then_some(())?;
                let (one, two) = (self.name(), self.name());
                self.graph = std::mem::take(&mut self.graph)
                    .node(Node::new("Split", [x], [&*one, &*two]).attribute("axis", axis as i64));
                let mut result = dims;
                result[axis] /= 2;
                (if c & 1 == 0 { one } else { two }, result)
            }
            26 => {
                (rank >= 1).then_some(())?;
                let mut pads = vec![0i64; 2 * rank];
                pads[axis + rank * (c & 1)] = 1;
                let s = self.ints(&pads);
                let mut result = dims;
                result[axis] += 1;
                (self.op("Pad", &[x, &s]), result)
            }
            27 => {
                // A range as long as an axis of the value, added along its last axis.
                let size = self.size_of(x, axis);
                let empty = self.ints(&[]);
                let limit = self.op("Reshape", &[&size, &empty]);
                let (zero, step) = (self.scalar(0), self.scalar(1));
                let range = self.op("Range", &[&zero, &limit, &step]);
                let range = self.add(|name| Node::new("Cast", [&*range], [name]).attribute("to", 1));
                let result = broadcast(&dims, &[*dims.get(axis)?])?;
                (self.op("Add", &[x, &range]), result)
            }
            28 => {
                (rank == 3).then_some(())?;
                let w = self.floats(&[2, dims[1], 2]);
                (dims[2] >= 2).then_some(())?;
                (self.op("Conv", &[x, &w]), vec![dims[0], 2, dims[2] - 1])
            }
            29 => {
                (rank == 3 && dims[2] >= 2).then_some(())?;
                let name = self.add(|name| {
                    Node::new(["MaxPool", "AveragePool"][c % 2], [x], [name]).attribute("kernel_shape", &[2i64][..])
                });
                (name, vec![dims[0], dims[1], dims[2] - 1])
            }
            30 => {
                (rank >= 2).then_some(())?;
                let w = self.floats(&[dims[1]]);
                let v = self.op("Abs", &[&w]);
                (self.op("BatchNormalization", &[x, &w, &w, &w, &v]), dims)
            }
            31 => {
                (rank == 3).then_some(())?;
                let (w, r) = (self.floats(&[1, 6, dims[2]]), self.floats(&[1, 6, 2]));
                let name = self.add(|name| Node::new("GRU", [x, &w, &r], [name]).attribute("hidden_size", 2));
                (name, vec![dims[0], 1, dims[1], 2])
            }
            32 => {
                (rank == 2).then_some(())?;
                let equation = ["ab,bc->ac", "ab,bc->ca", "ba,bc->ac"][c % 3];
                let (inner, kept) = if c % 3 == 2 {
                    (dims[0], dims[1])
                } else {
                    (dims[1], dims[0])
                };
                let w = self.floats(&[inner, 3]);
                let name = self.add(|name| Node::new("Einsum", [x, &w], [name]).attribute("equation", equation));
                (name, if c % 3 == 1 { vec![3, kept] } else { vec![kept, 3] })
            }
            _ => {
                // A loop of two rounds.
                let (trips, name) = (self.scalar(2), self.name());
                let body = Graph::new()
                    .input(Info::ints("i", []))
                    .input(Info::tensor("c", element::BOOL, []))
                    .input(Info::any_rank("v", element::FLOAT))
                    .node(Node::new("Identity", ["c"], ["d"]))
                    .node(match c % 2 {
                        0 => Node::new("Sin", ["v"], ["w"]),
                        _ => Node::new("Softmax", ["v"], ["w"]).attribute("axis", axis as i64),
                    })
                    .output(Info::tensor("d", element::BOOL, []))
                    .output(Info::any_rank("w", element::FLOAT));
                self.graph = std::mem::take(&mut self.graph)
                    .node(Node::new("Loop", [&*trips, "", x], [&*name]).attribute("body", body));
                (name, dims)
            }
        };
        (result.len() <= 5 && result.iter().product::<usize>() <= 4096).then_some(())?;
        self.values.push((name, result));
        Some(())
    }
}

fn broadcast(one: &[usize], other: &[usize]) -> Option<Vec<usize>> {
    let rank = one.len().max(other.len());
    (0..rank)
        .map(|axis| {
            let at = |dims: &[usize]| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
            match (at(one), at(other)) {
                (1, dim) | (dim, 1) => Some(dim),
                (one, other) => (one == other).then_some(one),
            }
        })
        .collect()
}

pub fn model(steps: &[Step]) -> Vec<u8> {
    let mut growing = Growing {
        graph: Graph::new().input(Info::floats("x", [Dim::from("n"), 3.into(), 4.into()])),
        values: vec![("x".to_owned(), vec![MANY, 3, 4])],
        count: 0,
    };
    for step in steps {
        // Nodes of a step that does not fit are not used.
        let _ = growing.grow(step);
    }
    let (last, _) = growing.values.last().cloned().unwrap();
    let graph = growing
        .graph
        .node(Node::new("Identity", [&*last], ["y"]))
        .output(Info::any_rank("y", element::FLOAT));
    Model::new(graph).into_bytes()
}
