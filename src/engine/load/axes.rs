//! Proves from a model's graph which of its outputs keep the records of a batch apart.
//!
//! Requests of different clients run together only if that changes no output. A trial cannot
//! prove it: a layer that is quantised by the largest value of the whole batch gives the same
//! outputs for small random rows alone and together. So the graph is analysed once, when a model
//! is prepared. For each tensor the walk tracks the axis of the records (`value.rs`). The rule of
//! each operator (`rules/`) returns where that axis goes, or that the operator mixes the records.
//! An operator without a rule mixes them.
//!
//! Invariants: for a batch, a value that is not `Mixed` is the concatenation of the values of its
//! records. Its shape depends only on the shape of the records and on their number. Sizes are
//! tracked as products (`extent.rs`), because exporters compute the shapes for `Reshape`.

mod call;
mod extent;
mod operators;
mod rules;
#[cfg(test)]
mod tests;
mod value;
mod walk;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::load::onnx_file::{self, Dimension, ModelGraph};
use crate::engine::load::ort_file;
use extent::{Extent, Symbols};
use value::{AbstractTensor, AbstractValue, Batch, RecordPlace};
use walk::Walk;

use crate::tensor::OutputRows;

/// The reason that a model without a prepared form is not analysed together with an adapter.
pub const NO_FORM: &str = "the model has no prepared form, which is needed to analyse it with an adapter";

/// The axes of the records in the outputs of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axes {
    /// By the output's name, in the model's order.
    pub outputs: Vec<(String, OutputAxis)>,
    /// The reason that there is no analysis.
    pub unknown: Option<String>,
}

/// The position of the records in an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputAxis {
    /// Along the first axis, one index for each; or in a sequence, one item for each. Each is the
    /// same as for the record alone.
    Records,
    /// Along another axis, or with several indices for each.
    Elsewhere,
    /// Nowhere: the output is the same for every batch.
    Whole,
    /// The records influence each other, or may do so, for this reason.
    Mixed(String),
}

impl OutputAxis {
    /// The relation of the output's entries to the records, if the graph proves one.
    pub fn proven_rows(&self) -> Option<OutputRows> {
        match self {
            Self::Records => Some(OutputRows::PerRecord),
            Self::Elsewhere | Self::Whole => Some(OutputRows::Whole),
            Self::Mixed(_) => None,
        }
    }
}

/// The results of the analysis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    pub axes: Axes,
    /// Values inside the graph by which outputs are chosen, such as the numbers that an `ArgMax`
    /// compares. Each has the records along its first axis.
    pub inner: Vec<String>,
}

impl Axes {
    /// The axes of a model that is not analysed, for this reason.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self {
            outputs: Vec::new(),
            unknown: Some(reason.into()),
        }
    }

    pub fn of(&self, output: &str) -> Option<&OutputAxis> {
        self.outputs
            .iter()
            .find(|(name, _)| name == output)
            .map(|(_, axis)| axis)
    }

    /// Whether an output keeps the records apart.
    pub fn has_records(&self) -> bool {
        self.outputs.iter().any(|(_, axis)| *axis == OutputAxis::Records)
    }

    /// The first reason that an output does not keep the records apart.
    pub fn reason(&self) -> Option<String> {
        if let Some(reason) = &self.unknown {
            return Some(reason.clone());
        }
        self.outputs.iter().find_map(|(name, axis)| match axis {
            OutputAxis::Records => None,
            OutputAxis::Mixed(reason) => Some(reason.clone()),
            OutputAxis::Elsewhere => Some(format!(
                "output {name:?} does not have the records along its first axis"
            )),
            OutputAxis::Whole => Some(format!("output {name:?} does not depend on the records")),
        })
    }
}

/// Reads and analyses the ONNX model in the file at `path`.
pub fn analyse(path: &Path) -> Analysis {
    match onnx_file::graph(path) {
        Ok(model) => analysis(&model),
        Err(error) => Analysis {
            axes: Axes::unknown(format!("the model's graph cannot be analysed: {error}")),
            inner: Vec::new(),
        },
    }
}

/// Reads and analyses the model in the file at `path`, which is in ONNX Runtime's own format.
pub fn analyse_ort_format(path: &Path) -> Analysis {
    match ort_file::graph(path) {
        Ok(model) => Analysis {
            // No further outputs can be added to it.
            inner: Vec::new(),
            ..analysis(&model)
        },
        Err(error) => Analysis {
            axes: Axes::unknown(format!("the model's graph cannot be analysed: {error}")),
            inner: Vec::new(),
        },
    }
}

/// Analyses the prepared form in the file at `path`, in either format, for requests that all have
/// the same values of the inputs with the names `fixed`. The values are not known, and their sizes
/// only where the model declares them.
pub fn analyse_with_fixed(path: &Path, fixed: &BTreeSet<String>) -> Axes {
    let graph = if path.extension().is_some_and(|kind| kind == "onnx") {
        let graph = onnx_file::graph(path).map_err(|error| error.to_string());
        graph.map(|mut model| {
            // A prepared form has its nodes in reverse.
            model.graph.nodes.reverse();
            model
        })
    } else {
        ort_file::graph(path).map_err(|error| error.to_string())
    };
    match graph {
        Ok(model) => with_fixed(model, fixed),
        Err(error) => Axes::unknown(format!("the model's graph cannot be analysed: {error}")),
    }
}

fn with_fixed(mut model: ModelGraph, fixed: &BTreeSet<String>) -> Axes {
    // The values that the model has for these inputs do not apply.
    let constants = &mut model.graph.constants;
    constants.retain(|constant| !fixed.contains(&constant.name));
    analysis_with_fixed(&model, fixed).axes
}

fn analysis(model: &ModelGraph) -> Analysis {
    analysis_with_fixed(model, &BTreeSet::new())
}

fn analysis_with_fixed(model: &ModelGraph, fixed: &BTreeSet<String>) -> Analysis {
    let mut walk = Walk::new(model);
    let inputs = inputs(model, fixed, &mut walk.symbols);
    let values = match inputs {
        Ok(inputs) => walk.model(model, inputs),
        Err(reason) => {
            let outputs = model.graph.outputs.iter();
            let mixed = || OutputAxis::Mixed(reason.clone());
            return Analysis {
                axes: Axes {
                    outputs: outputs.map(|name| (name.clone(), mixed())).collect(),
                    unknown: None,
                },
                inner: Vec::new(),
            };
        }
    };
    let outputs = model.graph.outputs.iter().map(|name| {
        let axis = match values.get(&**name) {
            Some(value) => output_axis(value),
            None => OutputAxis::Mixed(format!("output {name:?} is not computed by the graph")),
        };
        (name.clone(), axis)
    });
    Analysis {
        axes: Axes {
            outputs: outputs.collect(),
            unknown: None,
        },
        inner: inner_values(model, &values),
    }
}

fn output_axis(value: &AbstractValue) -> OutputAxis {
    match value {
        AbstractValue::Tensor(tensor) => match &tensor.batch {
            Batch::Same => OutputAxis::Whole,
            Batch::Records(place) if *place == RecordPlace::plain(0) => OutputAxis::Records,
            Batch::Records(_) => OutputAxis::Elsewhere,
            Batch::Sizes => OutputAxis::Mixed("the output depends on the number of records".to_owned()),
        },
        AbstractValue::Items => OutputAxis::Records,
        AbstractValue::Sequence(tensor) if tensor.is_same() => OutputAxis::Whole,
        AbstractValue::Sequence(_) => OutputAxis::Elsewhere,
        AbstractValue::Mixed(reason) => OutputAxis::Mixed(reason.to_string()),
    }
}

/// Returns the abstract values of the model's inputs, which have the records along their first
/// axis, apart from those with the names `fixed`. `Err` if some input does not; then the model has
/// no batches. The names of other dimensions are ignored, because no run checks that two dimensions
/// of one name have the same size.
fn inputs<'a>(
    model: &'a ModelGraph,
    fixed: &BTreeSet<String>,
    symbols: &mut Symbols,
) -> Result<HashMap<&'a str, AbstractValue>, String> {
    let constants: std::collections::HashSet<&str> =
        model.graph.constants.iter().map(|constant| &*constant.name).collect();
    let mut values = HashMap::new();
    let mut first_axis: Option<&str> = None;
    let mut has_records = false;
    for input in &model.graph.inputs {
        // Requests cannot set this input, because it has a constant value.
        if constants.contains(&*input.name) {
            continue;
        }
        if fixed.contains(&input.name) {
            let dims = input.dims.as_ref();
            let dims = dims.map(|dims| dims.iter().map(|dim| extent(dim, symbols)).collect());
            if values
                .insert(&*input.name, AbstractValue::Tensor(AbstractTensor::same(dims)))
                .is_some()
            {
                return Err(twice(&input.name));
            }
            continue;
        }
        has_records = true;
        let open = || format!("input {:?} does not have an open first axis", input.name);
        let (first, others) = input.dims.as_deref().and_then(<[_]>::split_first).ok_or_else(open)?;
        match (first, first_axis) {
            (Dimension::Fixed(_), _) => return Err(open()),
            (Dimension::Named(name), Some(known)) if name != known => {
                return Err(format!(
                    "the first axes of the inputs have the names {known:?} and {name:?}"
                ));
            }
            (Dimension::Named(name), _) => first_axis = Some(name),
            (Dimension::Open, _) => {}
        }
        let others = others.iter().map(|dim| extent(dim, symbols));
        let dims = std::iter::once(Extent::BATCH).chain(others).collect();
        let value = AbstractValue::Tensor(AbstractTensor::records(Some(dims), RecordPlace::plain(0)));
        if values.insert(&*input.name, value).is_some() {
            return Err(twice(&input.name));
        }
    }
    if !has_records {
        return Err("the model has no inputs".to_owned());
    }
    Ok(values)
}

fn extent(dim: &Dimension, symbols: &mut Symbols) -> Extent {
    match dim {
        Dimension::Fixed(size) => Extent::known(*size),
        Dimension::Named(_) | Dimension::Open => symbols.fresh(),
    }
}

fn twice(input: &str) -> String {
    format!("there are two inputs {input:?}")
}

/// Operators whose outputs hide small differences of their inputs.
const CHOOSING: [&str; 12] = [
    "ArgMax",
    "ArgMin",
    "ArrayFeatureExtractor",
    "Binarizer",
    "Cast",
    "Equal",
    "Greater",
    "Less",
    "LabelEncoder",
    "TopK",
    "GreaterOrEqual",
    "LessOrEqual",
];

/// Limit on the inner values that are exposed for the trial.
const MAX_INNER: usize = 8;

/// Finds the values by which choosing operators choose. Only operators whose choice reaches an
/// output without a computation in between count.
fn inner_values(model: &ModelGraph, values: &HashMap<&str, AbstractValue>) -> Vec<String> {
    const PASSING: [&str; 8] = [
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "ZipMap",
        "Transpose",
    ];
    let mut producers = HashMap::new();
    for node in &model.graph.nodes {
        for output in &node.outputs {
            producers.insert(&**output, node);
        }
    }
    let mut inner = Vec::new();
    let mut waiting: Vec<(&str, bool)> = model.graph.outputs.iter().map(|name| (&**name, false)).collect();
    let mut steps = 0;
    while let Some((name, was_chosen)) = waiting.pop() {
        steps += 1;
        if steps > 1000 || inner.len() >= MAX_INNER {
            break;
        }
        let node = producers.get(name);
        let operator = node.map_or("", |node| &*node.operator);
        let is_choosing = CHOOSING.contains(&operator);
        if is_choosing || PASSING.contains(&operator) {
            let inputs = node.map_or(&[][..], |node| &node.inputs);
            waiting.extend(inputs.iter().map(|input| (&**input, was_chosen || is_choosing)));
        } else if was_chosen
            && node.is_some()
            && values
                .get(name)
                .is_some_and(|value| output_axis(value) == OutputAxis::Records)
            && !inner.iter().any(|known| known == name)
            && !model.graph.outputs.iter().any(|output| output == name)
        {
            inner.push(name.to_owned());
        }
    }
    inner
}
