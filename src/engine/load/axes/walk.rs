//! Walks through a graph in the order of its nodes, including its functions and the bodies of its
//! control flow operators.
//!
//! A function is analysed at each call. The number of steps is limited, because functions that call
//! each other can need any number of them.

mod constant;
mod control_flow;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use constant::{constant_node, constant_value};

use super::call::{Attributes, OperatorCall};
use super::extent::Symbols;
use super::operators;
use super::value::{AbstractTensor, AbstractValue, Mix};
use crate::engine::load::onnx_file::{Attribute, Function, Graph, ModelGraph, Node, Opsets};

/// Limit on the operators that are analysed.
const MAX_STEPS: usize = 500_000;

/// The versions of the standard's operators that the rules cover. Earlier ones broadcast
/// differently, and ONNX Runtime does not guarantee to run them.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=26;

/// Domains whose operators a model may use without importing them.
const ANY_MODELS: [&str; 3] = ["ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"];

/// Limit on the nesting of functions and bodies.
const MAX_DEPTH: usize = 64;

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

fn has_body(node: &Node) -> bool {
    node.domain.is_empty() && operators::CONTROL_FLOW.contains(&&*node.operator)
}

fn is_same(value: &AbstractValue) -> bool {
    match value {
        AbstractValue::Tensor(tensor) | AbstractValue::Sequence(tensor) => tensor.is_same(),
        AbstractValue::Items | AbstractValue::Mixed(_) => false,
    }
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
