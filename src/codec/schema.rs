//! The rules by which requests name, order and fill the inputs of one model: its signature and the
//! additions of its manifest.
//!
//! A schema is built once, when the model is loaded, so that a request only looks names up. A model
//! without a manifest has the schema of its signature ([`Schema::of`]).
//!
//! Invariant: the schema's signature has the inputs and outputs of the model, in the same order.
//! Only the names of outputs may differ, because the manifest can rename them.

use std::collections::HashMap;

use bytes::Bytes;

use super::column::column_builder;
use super::error::{DecodeError, InputError, excerpt};
use super::fit::ShapeForm;
use super::json_reader::JsonReader;
use super::table::may_be_one_column;
use crate::tensor::{InputSpec, Inputs, Signature, Tensor};

/// SageMaker's name for the only input of a model.
pub(super) const FEATURES: &str = "features";

/// The rules by which requests name, order and fill the inputs of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    signature: Signature,
    /// One for each input of the signature.
    rules: Vec<InputRule>,
    /// The columns of a table, in the order of a line. Empty if they have no names.
    columns: Vec<TableColumn>,
    /// All names that requests may use.
    names: HashMap<String, NameTarget>,
    /// Whether unknown names are ignored instead of refused.
    ignores_unknown: bool,
    csv: CsvRules,
}

/// The manifest's rules for one input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputRule {
    /// The value of the input if a request omits it.
    pub default: Option<InputDefault>,
    /// Whether the input is always `default`, so that no request may set it.
    pub is_constant: bool,
    pub aliases: Vec<String>,
}

/// The value of an input for requests that omit it.
#[derive(Debug, Clone, PartialEq)]
pub struct InputDefault {
    /// The input of one record if the first axis is open, else the whole input.
    tensor: Tensor,
    /// The value in JSON, in the form of a row.
    pub(super) json: Bytes,
}

impl InputDefault {
    /// Reads the value of an input in the form of an instance.
    pub fn new(spec: &InputSpec, value: &serde_json::Value) -> Result<Self, DecodeError> {
        let json = Bytes::from(value.to_string());
        let read = |outer: usize| -> Result<Tensor, DecodeError> {
            let mut reader = JsonReader::new("default", &json)?;
            let first = reader.peek()?;
            let mut column = column_builder(spec, json.len());
            column.read(&mut reader, first, outer)?;
            match outer {
                0 => column.finish(ShapeForm::Whole),
                _ => column.finish_rows(1, true),
            }
        };
        // The form of an instance, or the whole input if it has the records on another axis.
        let tensor = match read(1) {
            Err(_) if !spec.has_record_axis() => read(0)?,
            row => row?,
        };
        Ok(Self { tensor, json })
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    pub name: String,
    pub aliases: Vec<String>,
    /// The input of the column. The columns of an input are in order.
    pub input: usize,
    /// The cell for rows that omit the column.
    pub default: Option<String>,
}

/// The manifest's rules for CSV bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsvRules {
    pub has_header: Option<bool>,
    pub delimiter: Option<u8>,
    /// Cells that count as empty.
    pub missing: Vec<String>,
}

/// The input or column that a name refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameTarget {
    /// An input, by its position in the signature.
    Input(usize),
    /// One of several columns of an input, by its position among all columns.
    Column(usize),
    /// An optional input, by its position among the optional inputs of the signature.
    Optional(usize),
}

/// The parts of a schema that come from a manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchemaAdditions {
    /// One for each input of the signature, or empty.
    pub rules: Vec<InputRule>,
    pub columns: Vec<TableColumn>,
    pub ignores_unknown: bool,
    pub csv: CsvRules,
}

impl Schema {
    /// The schema of a model without a manifest.
    pub fn of(signature: Signature) -> Self {
        Self::new(signature, SchemaAdditions::default())
    }

    /// The schema of a model with a manifest. A name that fits several things refers to the first.
    pub fn new(signature: Signature, additions: SchemaAdditions) -> Self {
        let SchemaAdditions {
            mut rules,
            columns,
            ignores_unknown,
            csv,
        } = additions;
        rules.resize(signature.inputs.len(), InputRule::default());
        let mut names = HashMap::new();
        let mut add = |name: &str, target| {
            names.entry(name.to_owned()).or_insert(target);
        };
        for (index, input) in signature.inputs.iter().enumerate() {
            add(&input.name, NameTarget::Input(index));
        }
        let only = |column: &TableColumn| columns.iter().filter(|other| other.input == column.input).count() == 1;
        for (index, column) in columns.iter().enumerate() {
            let target = if only(column) {
                NameTarget::Input(column.input)
            } else {
                NameTarget::Column(index)
            };
            add(&column.name, target);
            column.aliases.iter().for_each(|alias| add(alias, target));
        }
        for (index, (input, rule)) in signature.inputs.iter().zip(&rules).enumerate() {
            rule.aliases
                .iter()
                .for_each(|alias| add(alias, NameTarget::Input(index)));
            // TensorFlow's tensor names end in the number of the operator's output.
            if let Some(short) = input.name.strip_suffix(":0") {
                add(short, NameTarget::Input(index));
            }
        }
        for (index, input) in signature.optional.iter().enumerate() {
            add(&input.name, NameTarget::Optional(index));
        }
        let mut schema = Self {
            signature,
            rules,
            columns,
            names,
            ignores_unknown,
            csv,
        };
        if let Some(only) = schema.only_input() {
            schema
                .names
                .entry(FEATURES.to_owned())
                .or_insert(NameTarget::Input(only));
        }
        schema
    }

    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    pub fn columns(&self) -> &[TableColumn] {
        &self.columns
    }

    pub(super) fn csv(&self) -> &CsvRules {
        &self.csv
    }

    pub(super) fn ignores_unknown(&self) -> bool {
        self.ignores_unknown
    }

    pub(super) fn rule(&self, input: usize) -> &InputRule {
        &self.rules[input]
    }

    /// Looks up `name` as it is, or as exporters write it: they replace every character that is not
    /// a letter, a digit or `_`.
    pub(super) fn find(&self, name: &str) -> Option<NameTarget> {
        let found = self.names.get(name).or_else(|| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let exported: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
            self.names.get(&exported)
        });
        found.copied()
    }

    /// Finds the one-column input with the name of a column.
    pub fn input_of_column(&self, name: &str) -> Option<usize> {
        self.find_input(name).filter(|&input| self.is_one_column(input))
    }

    /// Finds an input by name, without the optional inputs.
    pub(super) fn find_input(&self, name: &str) -> Option<usize> {
        match self.find(name)? {
            NameTarget::Input(index) => Some(index),
            NameTarget::Column(_) | NameTarget::Optional(_) => None,
        }
    }

    /// Finds the slot of an input by name. [`Self::complete`] takes the slots: first the inputs of
    /// the signature, then the optional inputs.
    pub(super) fn find_slot(&self, name: &str) -> Option<usize> {
        match self.find(name)? {
            NameTarget::Input(index) => Some(index),
            NameTarget::Optional(index) => Some(self.rules.len() + index),
            NameTarget::Column(_) => None,
        }
    }

    /// The input of a slot.
    pub(super) fn input_at(&self, slot: usize) -> &InputSpec {
        let Signature { inputs, optional, .. } = &self.signature;
        inputs.get(slot).unwrap_or_else(|| &optional[slot - inputs.len()])
    }

    /// An empty slot for each input.
    pub(super) fn empty_slots(&self) -> Vec<Option<Tensor>> {
        vec![None; self.rules.len() + self.signature.optional.len()]
    }

    /// Whether one cell, or one value in an object, is a row of the input.
    pub(super) fn is_one_column(&self, input: usize) -> bool {
        match self.columns.iter().filter(|column| column.input == input).count() {
            0 => may_be_one_column(&self.signature.inputs[input]),
            columns => columns == 1,
        }
    }

    /// Whether the columns of a table with `width` columns have names, so that a header can name
    /// them.
    pub(super) fn has_named_columns(&self, width: usize) -> bool {
        if !self.columns.is_empty() {
            return true;
        }
        match self.signature.inputs.as_slice() {
            [_] if width != 1 => false,
            inputs => inputs.iter().all(may_be_one_column),
        }
    }

    /// The columns of a table in the order of the model's inputs. An input of one column counts as
    /// that column.
    pub(super) fn table_order(&self) -> Vec<NameTarget> {
        let targets = self.settable_inputs().flat_map(|input| {
            let own = self
                .columns
                .iter()
                .enumerate()
                .filter(move |(_, column)| column.input == input);
            let own: Vec<NameTarget> = own.map(|(index, _)| NameTarget::Column(index)).collect();
            match own.len() {
                0 | 1 if self.is_one_column(input) => vec![NameTarget::Input(input)],
                _ => own,
            }
        });
        targets.collect()
    }

    /// The inputs that every request must set.
    pub(super) fn inputs_without_default(&self) -> impl Iterator<Item = usize> {
        let rules = self.rules.iter().enumerate();
        rules.filter(|(_, rule)| rule.default.is_none()).map(|(index, _)| index)
    }

    /// The inputs that a request may set.
    pub fn settable_inputs(&self) -> impl Iterator<Item = usize> {
        let rules = self.rules.iter().enumerate();
        rules.filter(|(_, rule)| !rule.is_constant).map(|(index, _)| index)
    }

    /// The only input that a request must set. `None` if there are several, or none.
    pub(super) fn only_input(&self) -> Option<usize> {
        if self.rules.len() == 1 {
            return Some(0);
        }
        // If the columns belong to several inputs, a list is a row of all columns.
        if let Some(first) = self.columns.first()
            && self.columns.iter().any(|column| column.input != first.input)
        {
            return None;
        }
        let mut open = self.inputs_without_default();
        open.next().filter(|_| open.next().is_none())
    }

    /// Returns all inputs in the model's order. `given` has the slots that the request sets: first
    /// the inputs, then the optional ones. Defaults fill the inputs that it omits. `records` is the
    /// number of records, if the request counts them. Otherwise the first input with an open first
    /// axis gives it.
    pub(super) fn complete(
        &self,
        mut given: Vec<Option<Tensor>>,
        records: Option<usize>,
    ) -> Result<Inputs, DecodeError> {
        let optional = given.split_off(self.rules.len().min(given.len()));
        let optional = optional.into_iter().enumerate();
        let optional = optional.filter_map(|(position, tensor)| Some((position, tensor?)));
        given.resize(self.rules.len(), None);
        let pairs = || self.signature.inputs.iter().zip(&given);
        let counted = || pairs().find_map(|(spec, tensor)| first_axis(spec, tensor.as_ref()?));
        let records = records.or_else(counted).unwrap_or(1);
        let symbol = self.signature.record_symbol();
        let complete = |(index, tensor): (usize, Option<Tensor>)| {
            let spec = &self.signature.inputs[index];
            let rule = &self.rules[index];
            match (tensor, &rule.default) {
                (Some(_), Some(_)) if rule.is_constant => Err(InputError::Value {
                    name: excerpt(&spec.name),
                    at: String::new(),
                    problem: "the model's manifest sets this input; leave it out".to_owned(),
                }
                .into()),
                (Some(tensor), _) => Ok(tensor),
                (None, Some(default)) => repeated(spec, &default.tensor, records, symbol),
                (None, None) => Err(self.missing(&spec.name, String::new()).into()),
            }
        };
        let tensors = given.into_iter().enumerate().map(complete);
        Ok(Inputs {
            tensors: tensors.collect::<Result<_, _>>()?,
            optional: optional.collect(),
        })
    }
}

/// The number of records in the tensor of an input with an open first axis.
fn first_axis(spec: &InputSpec, tensor: &Tensor) -> Option<usize> {
    let is_open = spec.has_record_axis();
    tensor.shape().first().copied().filter(|_| is_open)
}

/// Repeats a default for `records` records along the axis that counts them, if there is one.
fn repeated(spec: &InputSpec, default: &Tensor, records: usize, symbol: Option<&str>) -> Result<Tensor, DecodeError> {
    let axis = spec.record_axis(symbol);
    match axis {
        Some(axis) if default.shape().get(axis) == Some(&1) && records != 1 => {
            default.repeated(axis, records).ok_or(DecodeError::OutOfMemory)
        }
        Some(_) | None => Ok(default.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::testing::{input, signature, tensor};
    use crate::tensor::DataType::{F32, I64};

    fn column(name: &str, input: usize) -> TableColumn {
        TableColumn {
            name: name.to_owned(),
            aliases: Vec::new(),
            input,
            default: None,
        }
    }

    #[test]
    fn finds_names_of_the_graph_of_columns_and_of_exporters() {
        let signature = signature(
            &[
                input("Culmen_Length__mm_", F32, &[-1, 1]),
                input("image:0", F32, &[-1, 2]),
            ],
            &[],
        );
        let schema = Schema::new(
            signature,
            SchemaAdditions {
                columns: vec![column("length", 0), column("red", 1), column("blue", 1)],
                ..SchemaAdditions::default()
            },
        );
        let table = [
            ("Culmen_Length__mm_", Some(NameTarget::Input(0))),
            ("Culmen Length (mm)", Some(NameTarget::Input(0))),
            ("length", Some(NameTarget::Input(0))),
            ("image:0", Some(NameTarget::Input(1))),
            ("image", Some(NameTarget::Input(1))),
            ("blue", Some(NameTarget::Column(2))),
            ("features", None),
            ("Length", None),
        ];
        for (name, expected) in table {
            assert_eq!(schema.find(name), expected, "{name}");
        }
    }

    #[test]
    fn a_default_with_the_records_on_another_axis_is_repeated_along_it() {
        // The axis that counts records has the same name as in `x`.
        let signature = signature(&[input("x", F32, &[-1]), input("h", I64, &[2, -1, 2])], &[]);
        for value in [json!([[1, 2], [3, 4]]), json!([[[1, 2]], [[3, 4]]])] {
            let default = Some(InputDefault::new(&signature.inputs[1], &value).unwrap());
            let rules = vec![
                InputRule::default(),
                InputRule {
                    default,
                    ..InputRule::default()
                },
            ];
            let schema = Schema::new(
                signature.clone(),
                SchemaAdditions {
                    rules,
                    ..SchemaAdditions::default()
                },
            );
            let inputs = schema
                .complete(vec![Some(tensor(&[3], &[1f32, 2., 3.]))], None)
                .unwrap();
            let expected = tensor(&[2, 3, 2], &[1i64, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]);
            assert_eq!(inputs.tensors[1], expected);
        }
    }

    #[test]
    fn defaults_are_repeated_for_each_record() {
        let signature = signature(
            &[input("x", F32, &[-1]), input("k", I64, &[-1, 2]), input("s", I64, &[])],
            &[],
        );
        let default = |input: usize, value| InputRule {
            default: Some(InputDefault::new(&signature.inputs[input], &value).unwrap()),
            ..InputRule::default()
        };
        let schema = Schema::new(
            signature.clone(),
            SchemaAdditions {
                rules: vec![InputRule::default(), default(1, json!([7, 8])), default(2, json!(9))],
                ..SchemaAdditions::default()
            },
        );
        assert_eq!(schema.only_input(), Some(0));
        let x = tensor(&[2], &[1f32, 2.]);
        let inputs = schema.complete(vec![Some(x.clone())], None).unwrap().tensors;
        assert_eq!(inputs, [x, tensor(&[2, 2], &[7i64, 8, 7, 8]), tensor(&[], &[9i64])]);
        let missing = schema.complete(Vec::new(), None).unwrap_err();
        assert!(missing.to_string().starts_with("input \"x\" is missing"), "{missing}");
    }
}
