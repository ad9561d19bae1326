//! What a request says about its reply, and which formats can give that.

use super::error::{EncodeError, excerpt, gives};
use super::{Format, csv};
use crate::tensor::{OutputSpec, Signature, ValueType};

/// What the request says about its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyPlan {
    pub(super) dialect: Dialect,
    /// Indices of outputs of the signature, each at most once.
    pub(super) outputs: Option<Vec<usize>>,
}

/// The protocol that the reply belongs to, as far as the format leaves a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dialect {
    /// TF-Serving's `predictions`.
    Rows,
    /// TF-Serving's `outputs`.
    Columns,
    OpenInference {
        id: Option<String>,
        /// For each requested output, whether it is wanted as binary data.
        binary: Vec<bool>,
    },
}

impl ReplyPlan {
    pub(super) const fn new(dialect: Dialect) -> Self {
        Self { dialect, outputs: None }
    }

    /// The outputs to run for, as indices into the signature's; `None` for all of them.
    pub fn outputs(&self) -> Option<&[usize]> {
        self.outputs.as_deref()
    }

    /// The outputs that the reply holds, in its order.
    pub(super) fn selected<'s>(&self, signature: &'s Signature) -> Vec<&'s OutputSpec> {
        match &self.outputs {
            None => signature.outputs.iter().collect(),
            Some(indices) => indices
                .iter()
                .filter_map(|&index| signature.outputs.get(index))
                .collect(),
        }
    }

    /// The format of a reply to a client that leaves it to us. A client of the Open Inference Protocol expects its
    /// protocol, whatever the default for others is.
    pub(super) fn implied_format(&self, default: Format) -> Format {
        match &self.dialect {
            Dialect::Rows | Dialect::Columns => default,
            Dialect::OpenInference { binary, .. } if binary.contains(&true) => Format::TritonBinary,
            Dialect::OpenInference { .. } => Format::Json,
        }
    }

    /// Whether outputs of these types can be given in a format; if not, why.
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
        let problem = match (format, &self.dialect) {
            (Format::Json, Dialect::Rows | Dialect::Columns) | (Format::JsonLines, _) => Ok(()),
            (Format::Json, Dialect::OpenInference { .. }) | (Format::TritonBinary, _) => tensors_only(),
            (Format::Csv, _) => csv::can_carry(selected.iter().map(|output| &output.value_type)),
            (Format::Npy, _) if selected.len() != 1 => Err(format!(
                "an NPY file holds one array, the model gives {}; accept application/json",
                gives(signature)
            )),
            (Format::Npy, _) => tensors_only(),
        };
        problem.map_err(|problem| EncodeError::CannotCarry { format, problem })
    }
}

pub(super) fn not_a_tensor_problem(name: &str) -> String {
    format!(
        "output {} is not a tensor; application/jsonlines, text/csv and the \"instances\" and \"inputs\" forms of \
         application/json carry it",
        excerpt(name)
    )
}
