//! Walks through a graph in the order of its nodes, including its functions and the bodies of its
//! control flow operators.
//!
//! A function is analysed at each call. The body of a loop is analysed until the knowledge about
//! its values does not change any more. The number of steps is limited, because functions that
//! call each other can need any number of them.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::call::{Attributes, OperatorCall};
use super::extent::{Extent, Symbols};
use super::operators;
use super::value::{AbstractTensor, AbstractValue, Batch, MIXES, Mix, SizeEntry};
use crate::engine::load::onnx_file::{Attribute, Constant, Function, Graph, ModelGraph, Node, Opsets};

/// Limit on the operators that are analysed.
const MAX_STEPS: usize = 500_000;

/// The versions of the standard's operators that the rules cover. Earlier ones broadcast
/// differently, and ONNX Runtime does not guarantee to run them.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=26;

/// Domains whose operators a model may use without importing them.
const ANY_MODELS: [&str; 3] = ["ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"];

/// Limit on the nesting of functions and bodies.
const MAX_DEPTH: usize = 64;

/// Limit on the rounds through the body of a loop.
const MAX_ROUNDS: usize = 8;

pub struct Walk<'a> {
    functions: HashMap<(&'a str, &'a str, &'a str), Option<&'a Function>>,
    pub symbols: Symbols,
    /// Sizes that may differ between the rounds of a loop.
    loop_sizes: HashSet<u32>,
    steps: usize,
}

/// The names that are visible to a node.
pub struct Scope<'s, 'a> {
    pub values: HashMap<&'a str, AbstractValue>,
    outer: Option<&'s Scope<'s, 'a>>,
    opsets: &'a Opsets,
    /// The attributes of the node that called the function.
    attributes: Option<&'s Attributes<'a>>,
    depth: usize,
}

impl<'a> Walk<'a> {
    pub fn new(model: &'a ModelGraph) -> Self {
        let mut functions = HashMap::new();
        for function in &model.functions {
            let key = (&*function.domain, &*function.name, &*function.overload);
            // A function that is defined twice, or has the name of a known operator, is ambiguous.
            let is_known = operators::rule(&function.domain, &function.name).is_some();
            let is_new = !functions.contains_key(&key) && !is_known;
            functions.insert(key, is_new.then_some(function));
        }
        Self {
            functions,
            symbols: Symbols::default(),
            loop_sizes: HashSet::new(),
            steps: 0,
        }
    }

    /// Analyses the model's main graph, whose inputs are `values`.
    pub fn model(
        &mut self,
        model: &'a ModelGraph,
        values: HashMap<&'a str, AbstractValue>,
    ) -> HashMap<&'a str, AbstractValue> {
        let mut scope = Scope {
            values,
            outer: None,
            opsets: &model.opsets,
            attributes: None,
            depth: 0,
        };
        self.constants(&model.graph, &mut scope);
        self.nodes(&model.graph.nodes, &mut scope);
        scope.values
    }

    fn constants(&mut self, graph: &'a Graph, scope: &mut Scope<'_, 'a>) {
        for constant in &graph.constants {
            let value = AbstractValue::Tensor(constant_value(constant));
            scope.define(&constant.name, value);
        }
    }

    fn nodes(&mut self, nodes: &'a [Node], scope: &mut Scope<'_, 'a>) {
        for node in nodes {
            let values = self.node(node, scope);
            let mut values = values.into_iter();
            for name in node.outputs.iter().map(|name| &**name) {
                let value = values.next();
                if !name.is_empty() {
                    let missing = || mixed(node, Mix::new("has an unknown output"));
                    scope.define(name, value.unwrap_or_else(missing));
                }
            }
        }
    }

    fn node(&mut self, node: &'a Node, scope: &Scope<'_, 'a>) -> Vec<AbstractValue> {
        let all = |value: AbstractValue| vec![value; node.outputs.len()];
        self.steps += 1;
        if self.steps > MAX_STEPS || scope.depth > MAX_DEPTH {
            return all(AbstractValue::Mixed(
                "the graph has too many operators to be analysed".into(),
            ));
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for name in &node.inputs {
            inputs.push(match &**name {
                "" => None,
                name => match scope.find(name) {
                    Some(AbstractValue::Mixed(reason)) => return all(AbstractValue::Mixed(Rc::clone(reason))),
                    Some(value) => Some(value),
                    None => return all(mixed(node, Mix::new("has an input that is not computed before it"))),
                },
            });
        }
        let key = (&*node.domain, &*node.operator, &*node.overload);
        if let Some(function) = self.functions.get(&key).copied() {
            return match function {
                Some(function) => self.function(function, node, &inputs, scope),
                None => all(mixed(node, Mix::new("is a function with an ambiguous name"))),
            };
        }
        let Some(&opset) = scope.opsets.get(&node.domain).or_else(|| {
            const ANY: &i64 = &1;
            ANY_MODELS.contains(&&*node.domain).then_some(ANY)
        }) else {
            return all(mixed(
                node,
                Mix::new("belongs to an operator set that the model does not import"),
            ));
        };
        if node.domain.is_empty() && !OPSETS.contains(&opset) {
            return all(mixed(
                node,
                Mix::new("belongs to an unknown version of the operator set"),
            ));
        }
        let outcome = match (&*node.domain, &*node.operator) {
            ("", "If") => self.choose(node, &inputs, scope),
            ("", "Loop") => self.repeat(node, &inputs, scope),
            ("", "Scan") => self.scan(node, &inputs, scope, opset),
            ("", operators::CONSTANT) => constant_node(node, scope),
            (domain, operator) => match operators::rule(domain, operator) {
                None => Err(Mix {
                    text: "is not an operator that is known to keep the records of a batch apart",
                    always: true,
                }),
                Some(rule) => {
                    let mut call = OperatorCall {
                        operator,
                        node,
                        outer: scope.attributes,
                        opset,
                        inputs: inputs.clone(),
                        symbols: &mut self.symbols,
                    };
                    rule(&mut call)
                }
            },
        };
        match outcome {
            Ok(values) => values,
            // No input depends on the batch, so the outputs do not either.
            Err(mix) if !mix.always && inputs.iter().flatten().all(|input| is_same(input)) && !has_body(node) => {
                all(AbstractValue::Tensor(AbstractTensor::same(None)))
            }
            Err(mix) => all(mixed(node, mix)),
        }
    }

    fn function(
        &mut self,
        function: &'a Function,
        node: &'a Node,
        inputs: &[Option<&AbstractValue>],
        scope: &Scope<'_, 'a>,
    ) -> Vec<AbstractValue> {
        let mut attributes: Attributes<'a> = function.defaults.iter().map(|(name, value)| (&**name, value)).collect();
        for (name, value) in &node.attributes {
            match value {
                Attribute::Reference(outer) => {
                    match scope.attributes.and_then(|attributes| attributes.get(&**outer)) {
                        Some(value) => attributes.insert(name, value),
                        None => attributes.remove(&**name),
                    };
                }
                value => drop(attributes.insert(name, value)),
            }
        }
        let mut values = HashMap::new();
        for (name, value) in function.inputs.iter().zip(inputs) {
            if let Some(value) = value {
                values.insert(&**name, (*value).clone());
            }
        }
        let absent: HashSet<&str> = function
            .inputs
            .iter()
            .enumerate()
            .filter(|(index, _)| inputs.get(*index).copied().flatten().is_none())
            .map(|(_, name)| &**name)
            .collect();
        let mut inner = Scope {
            values,
            outer: None,
            opsets: &function.opsets,
            attributes: Some(&attributes),
            depth: scope.depth + 1,
        };
        if !absent.is_empty() {
            // Nodes that use the missing input have one input less, which changes their meaning.
            let text = Mix::new("is a function that is called without an input");
            let uses = |node: &Node| node.inputs.iter().any(|name| absent.contains(&**name));
            if function.nodes.iter().any(uses) {
                return vec![mixed(node, text); node.outputs.len()];
            }
        }
        self.nodes(&function.nodes, &mut inner);
        let outputs = function.outputs.iter().map(|name| {
            let value = inner.values.get(&**name).cloned();
            value.unwrap_or_else(|| mixed(node, Mix::new("is a function that does not compute this output")))
        });
        outputs.collect()
    }

    /// Analyses a body whose inputs are `values`, and returns its outputs.
    fn body(&mut self, graph: &'a Graph, values: Vec<AbstractValue>, scope: &Scope<'_, 'a>) -> Vec<AbstractValue> {
        let named = graph.inputs.iter().map(|input| &*input.name).zip(values).collect();
        let mut inner = Scope {
            values: named,
            outer: Some(scope),
            opsets: scope.opsets,
            attributes: scope.attributes,
            depth: scope.depth + 1,
        };
        self.constants(graph, &mut inner);
        self.nodes(&graph.nodes, &mut inner);
        let outputs = graph.outputs.iter().map(|name| {
            let value = inner.find(name).cloned();
            value.unwrap_or_else(|| AbstractValue::Mixed("a body has an output that it does not compute".into()))
        });
        outputs.collect()
    }

    fn choose(
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
    fn repeat(
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
    fn scan(
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
            let axis = super::call::axis(input_axes.get(index).copied().unwrap_or(0), sequence.rank())?;
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

impl<'a> Scope<'_, 'a> {
    fn find(&self, name: &str) -> Option<&AbstractValue> {
        let mut scope = self;
        loop {
            match (scope.values.get(name), scope.outer) {
                (Some(value), _) => return Some(value),
                (None, Some(outer)) => scope = outer,
                (None, None) => return None,
            }
        }
    }

    fn define(&mut self, name: &'a str, value: AbstractValue) {
        let twice = || AbstractValue::Mixed("a value of the graph is defined twice".into());
        let known = self.values.entry(name);
        known.and_modify(|known| *known = twice()).or_insert(value);
    }
}

fn graph<'a>(node: &'a Node, name: &str) -> Option<&'a Graph> {
    match node.attributes.get(name)? {
        Attribute::Graph(graph) => Some(graph),
        _ => None,
    }
}

fn has_body(node: &Node) -> bool {
    node.domain.is_empty() && operators::CONTROL_FLOW.contains(&&*node.operator)
}

/// The tensor, if it is the same for every batch.
fn same<'v>(value: Option<&Option<&'v AbstractValue>>) -> Option<&'v AbstractTensor> {
    match value.copied().flatten()? {
        AbstractValue::Tensor(tensor) if tensor.is_same() => Some(tensor),
        _ => None,
    }
}

fn is_same(value: &AbstractValue) -> bool {
    match value {
        AbstractValue::Tensor(tensor) | AbstractValue::Sequence(tensor) => tensor.is_same(),
        AbstractValue::Items | AbstractValue::Mixed(_) => false,
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

/// Builds the message `Operator "name" mixes the records of a batch`, with the name of the node
/// or of its first output.
fn mixed(node: &Node, mix: Mix) -> AbstractValue {
    let name = if node.name.is_empty() {
        node.outputs.first().map_or("", |name| name)
    } else {
        &node.name
    };
    let short = |text: &str| -> String { text.chars().take(100).collect() };
    AbstractValue::Mixed(format!("{} {:?} {}", short(&node.operator), short(name), mix.text).into())
}

fn constant_node(node: &Node, scope: &Scope<'_, '_>) -> Result<Vec<AbstractValue>, Mix> {
    const NAMES: [&str; 7] = [
        "value",
        "value_int",
        "value_ints",
        "value_float",
        "value_floats",
        "value_string",
        "value_strings",
    ];
    let found = NAMES.iter().find_map(|name| node.attributes.get(*name));
    let found = match found {
        Some(Attribute::Reference(outer)) => scope.attributes.and_then(|outside| outside.get(&**outer).copied()),
        found => found,
    };
    let whole = |value: f32| {
        if value.fract() == 0.0 && value.abs() < 16_777_216.0 {
            SizeEntry::Number(value as i64)
        } else {
            SizeEntry::Same
        }
    };
    let list = |length: usize| Some(vec![Extent::known(length as u64)]);
    let tensor = match found {
        Some(Attribute::Tensor(constant)) => constant_value(constant),
        Some(Attribute::Int(value)) => AbstractTensor::sizes(vec![SizeEntry::Number(*value)], true),
        Some(Attribute::Float(value)) => AbstractTensor::sizes(vec![whole(*value)], true),
        Some(Attribute::Ints(Some(values))) => {
            AbstractTensor::sizes(values.iter().map(|&value| SizeEntry::Number(value)).collect(), false)
        }
        Some(Attribute::Floats(Some(values))) => {
            AbstractTensor::sizes(values.iter().map(|&value| whole(value)).collect(), false)
        }
        Some(Attribute::Text(_)) => AbstractTensor::scalar(),
        Some(Attribute::Texts(count)) => AbstractTensor::same(list(*count)),
        // A sparse tensor, or a long list.
        Some(_) | None => AbstractTensor::same(None),
    };
    Ok(vec![AbstractValue::Tensor(tensor)])
}

fn constant_value(constant: &Constant) -> AbstractTensor {
    let entries = match (&constant.numbers, constant.dims.len()) {
        (Some(numbers), 0 | 1) => {
            let entry = |number: &Option<i64>| number.map_or(SizeEntry::Same, SizeEntry::Number);
            Some(numbers.iter().map(entry).collect())
        }
        _ => None,
    };
    AbstractTensor {
        entries,
        ..AbstractTensor::same(Some(constant.dims.iter().map(|&dim| Extent::known(dim)).collect()))
    }
}
