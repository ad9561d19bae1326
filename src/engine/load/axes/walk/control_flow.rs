//! The control flow operators: `If`, `Loop` and `Scan`.
//!
//! The body of a loop is analysed until the knowledge about its values does not change any more.

use std::rc::Rc;

use super::{Scope, Walk, mixed};
use crate::engine::load::axes::call;
use crate::engine::load::axes::extent::Extent;
use crate::engine::load::axes::value::{AbstractTensor, AbstractValue, Batch, MIXES, Mix};
use crate::engine::load::onnx_file::{Attribute, Graph, Node};

/// Limit on the rounds through the body of a loop.
const MAX_ROUNDS: usize = 8;

impl<'a> Walk<'a> {
    pub(super) fn choose(
        &mut self,
        node: &'a Node,
        inputs: &[Option<&AbstractValue>],
        scope: &Scope<'_, 'a>,
    ) -> Result<Vec<AbstractValue>, Mix> {
        const BRANCHES: Mix = Mix::new("has a condition that depends on the data or on the number of records");
        let condition = same(inputs.first()).ok_or(BRANCHES)?;
        let (Some(yes), Some(no)) = (graph(node, "then_branch"), graph(node, "else_branch")) else {
            return Err(MIXES);
        };
        match condition.number() {
            Some(0) => Ok(self.body(no, Vec::new(), scope)),
            Some(_) => Ok(self.body(yes, Vec::new(), scope)),
            None => {
                let yes = self.body(yes, Vec::new(), scope);
                let no = self.body(no, Vec::new(), scope);
                Ok(self.joined(node, &yes, &no))
            }
        }
    }

    fn joined(&mut self, node: &Node, one: &[AbstractValue], other: &[AbstractValue]) -> Vec<AbstractValue> {
        let pairs = one.iter().zip(other);
        pairs
            .map(|(one, other)| {
                let joined = one.join(other, &mut self.symbols);
                joined.unwrap_or_else(|| {
                    mixed(
                        node,
                        Mix::new("has the records in different places in different branches or rounds"),
                    )
                })
            })
            .collect()
    }

    /// `Loop`, with the inputs `trip count, condition, values...`. The body takes
    /// `round, condition, values...` and returns `condition, values..., elements...`.
    pub(super) fn repeat(
        &mut self,
        node: &'a Node,
        inputs: &[Option<&AbstractValue>],
        scope: &Scope<'_, 'a>,
    ) -> Result<Vec<AbstractValue>, Mix> {
        const ROUNDS: Mix = Mix::new("repeats as often as the data or the number of records determines");
        let body = graph(node, "body").ok_or(MIXES)?;
        for control in inputs.iter().take(2).flatten() {
            same(Some(&Some(*control))).ok_or(ROUNDS)?;
        }
        let initial = carried(inputs.get(2..).unwrap_or_default())?;
        let before = [
            AbstractValue::Tensor(AbstractTensor::scalar()),
            AbstractValue::Tensor(AbstractTensor::scalar()),
        ];
        let (state, outputs) =
            self.fixed_point(node, body, initial, scope, |state| [&before[..], state].concat(), 1)?;
        match outputs.first() {
            Some(AbstractValue::Tensor(condition)) if condition.is_same() => {}
            Some(AbstractValue::Mixed(reason)) => {
                return Ok(vec![AbstractValue::Mixed(Rc::clone(reason)); node.outputs.len()]);
            }
            _ => return Err(ROUNDS),
        }
        let elements = outputs.get(1 + state.len()..).unwrap_or_default();
        let mut values = state;
        for element in elements {
            values.push(self.stacked(node, element, 0));
        }
        Ok(values)
    }

    /// Returns the knowledge about the values that a body carries from round to round, and the
    /// outputs of the last round. The carried values are the outputs from `first` on.
    fn fixed_point(
        &mut self,
        node: &'a Node,
        body: &'a Graph,
        initial: Vec<AbstractValue>,
        scope: &Scope<'_, 'a>,
        arguments: impl Fn(&[AbstractValue]) -> Vec<AbstractValue>,
        first: usize,
    ) -> Result<(Vec<AbstractValue>, Vec<AbstractValue>), Mix> {
        let mut state = initial;
        for _ in 0..MAX_ROUNDS {
            let outputs = self.body(body, arguments(&state), scope);
            let next = outputs.get(first..first + state.len()).ok_or(MIXES)?;
            let next: Vec<AbstractValue> = next.iter().map(without_entries).collect();
            if state.iter().zip(&next).all(|(state, next)| self.covers(state, next)) {
                return Ok((state, outputs));
            }
            state = self.joined(node, &state, &next);
            for value in &state {
                if let AbstractValue::Tensor(AbstractTensor { dims: Some(dims), .. }) = value {
                    self.loop_sizes.extend(dims.iter().filter_map(Extent::symbol));
                }
            }
        }
        Err(Mix::new(
            "changes its values in a way that the analysis does not follow",
        ))
    }

    /// Whether `state` covers everything that `next` may be.
    fn covers(&self, state: &AbstractValue, next: &AbstractValue) -> bool {
        match (state, next) {
            (AbstractValue::Tensor(state), AbstractValue::Tensor(next))
            | (AbstractValue::Sequence(state), AbstractValue::Sequence(next)) => {
                state.batch == next.batch
                    && match (&state.dims, &next.dims) {
                        (None, _) => true,
                        (Some(state), Some(next)) => {
                            let covers = |(state, next): (&Extent, &Extent)| {
                                state == next
                                    || (state.symbol().is_some_and(|symbol| self.loop_sizes.contains(&symbol))
                                        && !next.has_batch())
                            };
                            state.len() == next.len() && state.iter().zip(next).all(covers)
                        }
                        (Some(_), None) => false,
                    }
            }
            (AbstractValue::Mixed(_), _) => true,
            (state, next) => state == next,
        }
    }

    /// The elements of all rounds, stacked along a new axis.
    fn stacked(&mut self, node: &Node, element: &AbstractValue, axis: usize) -> AbstractValue {
        let tensor = match element {
            AbstractValue::Tensor(tensor) if tensor.batch != Batch::Sizes => tensor,
            AbstractValue::Mixed(reason) => return AbstractValue::Mixed(Rc::clone(reason)),
            _ => return mixed(node, MIXES),
        };
        let dims = tensor.dims.as_ref().map(|dims| {
            let mut dims = dims.clone();
            dims.insert(axis.min(dims.len()), self.symbols.fresh());
            dims
        });
        let place = tensor
            .place()
            .map(|place| place.at(place.axis + usize::from(place.axis >= axis)));
        AbstractValue::Tensor(AbstractTensor::placed(dims, place))
    }

    /// `Scan`, with the inputs `values..., sequences...`. The body takes and returns
    /// `values..., elements...`.
    pub(super) fn scan(
        &mut self,
        node: &'a Node,
        inputs: &[Option<&AbstractValue>],
        scope: &Scope<'_, 'a>,
        opset: i64,
    ) -> Result<Vec<AbstractValue>, Mix> {
        const NOT_FOLLOWED: Mix = Mix::new("iterates over axes that the analysis does not follow");
        let body = graph(node, "body").ok_or(MIXES)?;
        let sequences = match node.attributes.get("num_scan_inputs") {
            Some(Attribute::Int(count)) => usize::try_from(*count).map_err(|_| NOT_FOLLOWED)?,
            _ => return Err(NOT_FOLLOWED),
        };
        let (initial, sequences) = inputs
            .split_at_checked(inputs.len().checked_sub(sequences).ok_or(NOT_FOLLOWED)?)
            .ok_or(NOT_FOLLOWED)?;
        let axes_of = |name: &str| match node.attributes.get(name) {
            Some(Attribute::Ints(Some(axes))) => Ok(axes.clone()),
            Some(_) => Err(NOT_FOLLOWED),
            None => Ok(Vec::new()),
        };
        let (input_axes, output_axes) = (axes_of("scan_input_axes")?, axes_of("scan_output_axes")?);
        if opset < 9 || output_axes.iter().any(|&axis| axis < 0) {
            return Err(NOT_FOLLOWED);
        }
        let mut elements = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let Some(AbstractValue::Tensor(sequence)) = sequence else {
                return Err(NOT_FOLLOWED);
            };
            let axis = call::axis(input_axes.get(index).copied().unwrap_or(0), sequence.rank())?;
            if sequence.batch == Batch::Sizes || sequence.place().is_some_and(|place| place.axis == axis) {
                return Err(Mix::new("iterates over the records of a batch"));
            }
            let dims = sequence.dims.as_ref().map(|dims| {
                let mut dims = dims.clone();
                if axis < dims.len() {
                    dims.remove(axis);
                }
                dims
            });
            let place = sequence
                .place()
                .map(|place| place.at(place.axis - usize::from(place.axis > axis)));
            elements.push(AbstractValue::Tensor(AbstractTensor::placed(dims, place)));
        }
        let initial = carried(initial)?;
        let (state, outputs) =
            self.fixed_point(node, body, initial, scope, |state| [state, &elements[..]].concat(), 0)?;
        let given = outputs.get(state.len()..).unwrap_or_default();
        let mut values = state;
        for (index, element) in given.iter().enumerate() {
            let axis = output_axes.get(index).copied().unwrap_or(0);
            let axis = usize::try_from(axis).map_err(|_| NOT_FOLLOWED)?;
            values.push(self.stacked(node, element, axis));
        }
        Ok(values)
    }
}

fn graph<'a>(node: &'a Node, name: &str) -> Option<&'a Graph> {
    match node.attributes.get(name)? {
        Attribute::Graph(graph) => Some(graph),
        _ => None,
    }
}

/// The tensor, if it is the same for every batch.
fn same<'v>(value: Option<&Option<&'v AbstractValue>>) -> Option<&'v AbstractTensor> {
    match value.copied().flatten()? {
        AbstractValue::Tensor(tensor) if tensor.is_same() => Some(tensor),
        _ => None,
    }
}

fn without_entries(value: &AbstractValue) -> AbstractValue {
    match value {
        AbstractValue::Tensor(tensor) => AbstractValue::Tensor(tensor.without_entries()),
        other => other.clone(),
    }
}

/// The values that a loop starts with.
fn carried(inputs: &[Option<&AbstractValue>]) -> Result<Vec<AbstractValue>, Mix> {
    let carried = inputs.iter().map(|value| match value {
        Some(AbstractValue::Tensor(tensor)) if tensor.batch == Batch::Sizes => {
            Err(Mix::new("computes with the number of records"))
        }
        Some(value) => Ok(without_entries(value)),
        None => Err(MIXES),
    });
    carried.collect()
}
