//! The response that a request selects, and the formats that can hold it.

use super::by_record::{ByRecord, RecordDivision, divide};
use super::error::{EncodeError, describe_outputs, excerpt};
use super::{Format, LIBSVM_REQUESTS_ONLY, csv};
use crate::tensor::{OutputRows, OutputSpec, Records, Signature, Tensor, Value, ValueType};

/// The response that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyPlan {
    pub(super) dialect: Dialect,
    /// The selected outputs, as indices into the signature, each at most once. `None` selects all.
    pub(super) outputs: Option<Vec<usize>>,
    /// The number of records, if the format of the request counts them: one per line or instance.
    pub(super) counted: Option<usize>,
    /// The records in the inputs.
    pub(super) records: Records,
    /// Whether the response has the form of SageMaker's built-in algorithms.
    pub(super) has_scores: bool,
}

/// The protocol of the response, for formats that leave a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dialect {
    /// TF-Serving's `predictions`.
    Rows,
    /// [`Dialect::Rows`] with a document for each document of the request. Holds the number of
    /// records in each.
    Documents(Vec<usize>),
    /// TF-Serving's `outputs`.
    Columns,
    OpenInference {
        id: Option<String>,
        /// For each requested output, whether the request wants binary data.
        binary: Vec<bool>,
    },
}

impl ReplyPlan {
    pub(super) const fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            outputs: None,
            counted: None,
            records: Records::One,
            has_scores: false,
        }
    }

    /// The plan of a request in row form with `count` records.
    pub(super) fn counted(count: usize) -> Self {
        Self {
            counted: Some(count),
            ..Self::new(Dialect::Rows)
        }
    }

    /// Completes the plan with the records in the inputs.
    pub(super) fn for_inputs(self, signature: &Signature, inputs: &[Tensor]) -> Self {
        let records = match (signature.records(inputs), self.counted) {
            // For example a model without inputs.
            (Records::One, Some(count)) if count != 1 => Records::Together(count),
            (records, _) => records,
        };
        Self { records, ..self }
    }

    /// Whether the response has a part for each record instead of whole tensors.
    pub fn is_by_record(&self, format: Format) -> bool {
        match (format, &self.dialect) {
            (Format::Json, _) if self.has_scores => true,
            (Format::JsonLines | Format::Csv | Format::RecordIo, _)
            | (Format::Json, Dialect::Rows | Dialect::Documents(_)) => true,
            (Format::Json, Dialect::Columns | Dialect::OpenInference { .. })
            | (Format::Npy | Format::Npz | Format::TritonBinary | Format::LibSvm | Format::Octets, _) => false,
        }
    }

    /// The number of records, if the model takes them only together. Outputs that do not follow the
    /// records then cannot be split.
    fn inseparable(&self) -> Option<usize> {
        match self.records {
            Records::Together(count) if self.counted.is_some() => Some(count),
            Records::Together(_) | Records::Separable(_) | Records::One => None,
        }
    }

    /// Selects these outputs, unless the request has selected others.
    pub fn choose(&mut self, outputs: &[usize]) {
        if self.outputs.is_none() {
            self.keep_only(outputs);
        }
    }

    /// Restricts the plan to these outputs.
    pub(super) fn keep_only(&mut self, outputs: &[usize]) {
        if let Dialect::OpenInference { binary, .. } = &mut self.dialect {
            let chosen = outputs.iter().map(|&output| binary.get(output) == Some(&true));
            *binary = chosen.collect();
        }
        self.outputs = Some(outputs.to_vec());
    }

    /// The records in the request.
    pub fn records(&self) -> Records {
        self.records
    }

    /// Whether the response may have class names: its readers are people or programs that do not
    /// work on tensors.
    pub fn has_names(&self, format: Format) -> bool {
        let is_tensors = matches!(self.dialect, Dialect::OpenInference { .. });
        match format {
            Format::Json => !is_tensors,
            Format::JsonLines | Format::Csv | Format::RecordIo => true,
            Format::Npy | Format::Npz | Format::TritonBinary | Format::LibSvm | Format::Octets => false,
        }
    }

    /// The outputs to compute, as indices into the signature. `None` for all.
    pub fn outputs(&self) -> Option<&[usize]> {
        self.outputs.as_deref()
    }

    /// The outputs in the response, in its order.
    pub fn selected<'s>(&self, signature: &'s Signature) -> Vec<&'s OutputSpec> {
        self.specs(signature).collect()
    }

    pub(super) fn specs<'s>(&self, signature: &'s Signature) -> impl Iterator<Item = &'s OutputSpec> {
        let (all, chosen) = match &self.outputs {
            None => (signature.outputs.as_slice(), &[][..]),
            Some(indices) => (&[][..], indices.as_slice()),
        };
        let chosen = chosen.iter().filter_map(|&index| signature.outputs.get(index));
        all.iter().chain(chosen)
    }

    /// The format of the response if the client does not choose one. A client of the Open Inference
    /// Protocol expects that protocol, whatever the default for others.
    pub(super) fn implied_format(&self, default: Format) -> Format {
        match &self.dialect {
            Dialect::Rows | Dialect::Documents(_) | Dialect::Columns => default,
            Dialect::OpenInference { binary, .. } if binary.contains(&true) => Format::TritonBinary,
            Dialect::OpenInference { .. } => Format::Json,
        }
    }

    /// Checks whether a format can hold the selected outputs, as far as their types tell.
    pub(super) fn fits(&self, format: Format, signature: &Signature) -> Result<(), EncodeError> {
        let selected = self.selected(signature);
        let not_a_tensor = || {
            selected
                .iter()
                .find(|output| !matches!(output.value_type, ValueType::Tensor { .. }))
        };
        let tensors_only = || match not_a_tensor() {
            None => Ok(()),
            Some(output) => Err(not_a_tensor_problem(&output.name)),
        };
        let one_array = |holds: &str| match selected.as_slice() {
            [only] if is_array(&only.value_type) => Ok(()),
            [only] => Err(not_a_tensor_problem(&only.name)),
            _ => Err(format!(
                "{holds} holds one array, the model returns {}; name one, as in {}; output=NAME, or accept application/json",
                describe_outputs(signature),
                format.media_type()
            )),
        };
        let arrays_only = || match selected.iter().find(|output| !is_array(&output.value_type)) {
            None => Ok(()),
            Some(output) => Err(not_a_tensor_problem(&output.name)),
        };
        let problem = match (format, &self.dialect) {
            (Format::Json | Format::JsonLines, _) if self.has_scores => self.can_be_lines(&selected),
            (Format::LibSvm, _) => Err(LIBSVM_REQUESTS_ONLY.to_owned()),
            (Format::RecordIo, _) => self.can_be_lines(&selected).and_then(|()| arrays_only()),
            (Format::Octets, _) => one_array("an octet stream"),
            (Format::Npy, _) => one_array("an NPY file"),
            (Format::Npz, _) => arrays_only(),
            (Format::Json, Dialect::Rows | Dialect::Columns) => Ok(()),
            (Format::JsonLines, _) | (Format::Json, Dialect::Documents(_)) => self.can_be_lines(&selected),
            (Format::Json, Dialect::OpenInference { .. }) | (Format::TritonBinary, _) => tensors_only(),
            (Format::Csv, _) => self.can_be_lines(&selected).and_then(|()| csv::can_carry(&selected)),
        };
        problem.map_err(|problem| EncodeError::CannotCarry { format, problem })
    }

    /// Checks whether each record can have a line, as far as that is known before the run.
    fn can_be_lines(&self, selected: &[&OutputSpec]) -> Result<(), String> {
        match self.inseparable() {
            Some(records) if selected.iter().any(|output| output.rows == OutputRows::Whole) => {
                Err(together_problem(records))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Splits the outputs by record, for formats with a line per record.
    pub(super) fn lines<'a>(
        &self,
        format: Format,
        selected: &[&'a OutputSpec],
        runs: &'a [Vec<Value>],
    ) -> Result<ByRecord<'a>, EncodeError> {
        match (divide(selected, self.records, runs), self.counted) {
            (RecordDivision::ByRecord(by_record), _) => Ok(by_record),
            (RecordDivision::Whole { records }, Some(_)) if records != 1 => Err(EncodeError::CannotCarry {
                format,
                problem: together_problem(records),
            }),
            (RecordDivision::Whole { .. }, _) => Ok(ByRecord::one(selected, runs)),
        }
    }
}

/// Whether an output of this type can be written as one array: a tensor, a map from a class to a
/// number, or a list of such maps.
fn is_array(value_type: &ValueType) -> bool {
    match value_type {
        ValueType::Tensor { .. } => true,
        ValueType::Sequence(element) => matches!(&**element, ValueType::Map { value, .. } if is_array(value)),
        ValueType::Map { value, .. } => is_array(value),
    }
}

fn together_problem(records: usize) -> String {
    format!(
        "the model answers the {records} records of the request together; send one record at a time, or accept \
         application/json"
    )
}

pub(super) fn not_a_tensor_problem(name: &str) -> String {
    format!(
        "output {} is not a tensor; application/jsonlines, text/csv and the \"instances\" and \"inputs\" forms of \
         application/json can hold it",
        excerpt(name)
    )
}
