//! Resolves a manifest against the signature of its model, or reports where they do not match.

use super::chunks::Chunks;
use super::labels::Labels;
use super::{Handler, Schema};
use crate::codec::{
    CsvRules, DecodeError, InputDefault, InputRule, SchemaAdditions, TableColumn, assign_columns, describe_inputs,
    describe_outputs,
};
use crate::manifest::{self, Manifest, UnknownInputs};
use crate::tensor::{Signature, ValueType};

/// The reason why a manifest does not match its model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    #[error("inputs: the model has no input {name:?}; it takes {takes}")]
    UnknownInput { name: String, takes: String },
    #[error("inputs: duplicate name {name:?}")]
    RepeatedInput { name: String },
    #[error("inputs: the value of {name:?} does not match the input: {source}")]
    Value { name: String, source: Box<DecodeError> },
    #[error("columns: {problem}; the model takes {takes}")]
    Columns { problem: String, takes: String },
    #[error("outputs: the model has no output {name:?}; it gives {gives}")]
    UnknownOutput { name: String, gives: String },
    #[error("outputs: duplicate name {name:?}")]
    RepeatedOutput { name: String },
    #[error("outputs: {name:?} has \"labels\": true, but the manifest's \"labels\" is empty")]
    NoLabels { name: String },
    #[error("outputs: {name:?} is {value_type}; \"labels\" needs whole numbers (classes) or probabilities")]
    NotClasses { name: String, value_type: String },
    #[error("image: {0}")]
    Image(String),
    #[error("text: {0}")]
    Text(String),
    #[error("audio: {0}")]
    Audio(String),
    #[error("task: {0}")]
    Task(String),
}

pub(super) fn resolve(manifest: &Manifest, signature: &Signature) -> Result<Handler, HandlerError> {
    let mut visible = signature.clone();
    let mut rules = rules(manifest, signature)?;
    let (declared, columns) = if manifest.columns.is_empty() {
        let hints = &manifest.hints.columns;
        // The hints of exporters may describe another version of the model, so errors are ignored.
        (hints, columns_of(hints, signature, &rules).unwrap_or_default())
    } else {
        (&manifest.columns, columns_of(&manifest.columns, signature, &rules)?)
    };
    for (index, spec) in signature.inputs.iter().enumerate() {
        let mut own = declared
            .iter()
            .zip(&columns)
            .filter(|(_, column)| column.input == index);
        if let (Some((column, _)), None) = (own.next(), own.next())
            && let (Some(default), None) = (&column.default, &rules[index].default)
        {
            let default = InputDefault::new(spec, default).map_err(|source| HandlerError::Value {
                name: column.name.clone(),
                source: Box::new(source),
            })?;
            rules[index].default = Some(default);
        }
    }
    let (outputs, labels) = outputs(manifest, &mut visible)?;
    let chunks = Chunks::of(signature, manifest.batching);
    if chunks.is_some() {
        Chunks::open(&mut visible);
    }
    let csv = &manifest.csv;
    let additions = SchemaAdditions {
        rules,
        columns,
        ignores_unknown: manifest.unknown_inputs == UnknownInputs::Ignore,
        csv: CsvRules {
            has_header: csv.header,
            delimiter: csv.delimiter.and_then(|delimiter| u8::try_from(delimiter).ok()),
            missing: csv.missing.clone(),
        },
    };
    Ok(Handler {
        schema: Schema::new(visible, additions),
        outputs,
        labels,
        chunks,
        media: None,
        passed_over: Vec::new(),
    })
}

/// Resolves the manifest's rules for each input.
fn rules(manifest: &Manifest, signature: &Signature) -> Result<Vec<InputRule>, HandlerError> {
    let mut rules = vec![InputRule::default(); signature.inputs.len()];
    let mut is_named = vec![false; rules.len()];
    for input in &manifest.inputs {
        let position = signature.inputs.iter().position(|spec| spec.name == input.name);
        let index = position.ok_or_else(|| HandlerError::UnknownInput {
            name: input.name.clone(),
            takes: describe_inputs(signature),
        })?;
        if std::mem::replace(&mut is_named[index], true) {
            return Err(HandlerError::RepeatedInput {
                name: input.name.clone(),
            });
        }
        let value = input.constant.as_ref().or(input.default.as_ref());
        let default = value
            .map(|value| InputDefault::new(&signature.inputs[index], value))
            .transpose();
        rules[index] = InputRule {
            default: default.map_err(|source| HandlerError::Value {
                name: input.name.clone(),
                source: Box::new(source),
            })?,
            is_constant: input.constant.is_some(),
            aliases: input.aliases.clone(),
        };
    }
    Ok(rules)
}

/// Assigns each column to an input: by name if all names match, else in order.
fn columns_of(
    declared: &[manifest::Column],
    signature: &Signature,
    rules: &[InputRule],
) -> Result<Vec<TableColumn>, HandlerError> {
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let schema = Schema::of(signature.clone());
    let of_name = |column: &manifest::Column| {
        let mut names = std::iter::once(&column.name).chain(&column.aliases);
        names.find_map(|name| schema.input_of_column(name))
    };
    let by_name: Option<Vec<usize>> = declared.iter().map(of_name).collect();
    let distinct = |inputs: &Vec<usize>| {
        let mut sorted = inputs.clone();
        sorted.sort_unstable();
        sorted.windows(2).all(|pair| pair[0] != pair[1])
    };
    let inputs = match by_name.filter(distinct) {
        Some(inputs) => inputs,
        None => {
            let open = rules.iter().enumerate().filter(|(_, rule)| rule.default.is_none());
            let open: Vec<usize> = open.map(|(index, _)| index).collect();
            assign_columns(signature, &open, declared.len()).map_err(|problem| HandlerError::Columns {
                problem,
                takes: describe_inputs(signature),
            })?
        }
    };
    let column = |(column, input): (&manifest::Column, usize)| TableColumn {
        name: column.name.clone(),
        aliases: column.aliases.clone(),
        input,
        default: column.default.as_ref().map(|default| match default {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        }),
    };
    Ok(declared.iter().zip(inputs).map(column).collect())
}

/// Returns the indices of the outputs in responses, and the labels of each output of the model.
/// Renames outputs in the signature.
#[expect(clippy::type_complexity, reason = "two answers to one list, used once")]
fn outputs(
    manifest: &Manifest,
    signature: &mut Signature,
) -> Result<(Option<Vec<usize>>, Vec<Option<Labels>>), HandlerError> {
    let mut labels = vec![None; signature.outputs.len()];
    let mut chosen = Vec::with_capacity(manifest.outputs.len());
    let names: Vec<String> = signature.outputs.iter().map(|output| output.name.clone()).collect();
    for output in &manifest.outputs {
        let name = &output.name;
        let position = names.iter().position(|own| own == name);
        let index = position.ok_or_else(|| HandlerError::UnknownOutput {
            name: name.clone(),
            gives: describe_outputs(signature),
        })?;
        if chosen.contains(&index) {
            return Err(HandlerError::RepeatedOutput { name: name.clone() });
        }
        chosen.push(index);
        if output.labels {
            if manifest.labels.is_empty() {
                return Err(HandlerError::NoLabels { name: name.clone() });
            }
            let value_type = &signature.outputs[index].value_type;
            if !Labels::fit(value_type) {
                return Err(HandlerError::NotClasses {
                    name: name.clone(),
                    value_type: value_type.to_string(),
                });
            }
            labels[index] = Some(Labels::new(&manifest.labels));
        }
        if let Some(rename) = &output.rename {
            signature.outputs[index].name.clone_from(rename);
        }
    }
    let mut selected = chosen.iter().map(|&index| &signature.outputs[index].name);
    while let Some(name) = selected.next() {
        if selected.clone().any(|other| other == name) {
            return Err(HandlerError::RepeatedOutput { name: name.clone() });
        }
    }
    Ok(((!chosen.is_empty()).then_some(chosen), labels))
}

impl Labels {
    /// Whether values of this type can be class numbers, or a number for each class.
    fn fit(value_type: &ValueType) -> bool {
        match value_type {
            ValueType::Tensor { data_type, .. } => data_type.is_number(),
            ValueType::Sequence(element) => Self::fit(element),
            ValueType::Map { key, .. } => key.is_number(),
        }
    }
}
