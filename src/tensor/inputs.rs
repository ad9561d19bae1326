//! The inputs of one request.

use super::{Signature, Tensor};

/// The tensors that a model runs on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// One for each input of the signature, in its order.
    pub tensors: Vec<Tensor>,
    /// The optional inputs that the request sets, each with its position in the signature's list.
    /// Positions are unique.
    pub optional: Vec<(usize, Tensor)>,
}

impl Inputs {
    /// The approximate number of bytes of all tensors.
    pub fn byte_len(&self) -> usize {
        self.all().map(Tensor::byte_len).sum()
    }

    /// Extracts the record at `index` without copying its bytes. An optional input with an open
    /// first axis has a row for each record. Any other optional input belongs to every record.
    pub fn record(&self, signature: &Signature, index: usize) -> Self {
        let optional = self.optional.iter().map(|(position, tensor)| {
            let row = signature.optional.get(*position).map(|spec| spec.record(tensor, index));
            (*position, row.unwrap_or_else(|| tensor.clone()))
        });
        Self {
            tensors: signature.record(&self.tensors, index),
            optional: optional.collect(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors
            .iter()
            .chain(self.optional.iter().map(|(_, tensor)| tensor))
    }
}

impl From<Vec<Tensor>> for Inputs {
    fn from(tensors: Vec<Tensor>) -> Self {
        Self {
            tensors,
            optional: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DataType, Dim, InputSpec};

    #[test]
    fn a_record_has_its_row_of_an_optional_input_or_shares_an_input_without_rows() {
        let spec = |dims| InputSpec {
            name: "x".to_owned(),
            data_type: DataType::I64,
            dims: Some(dims),
        };
        let vector = |values: &[i64]| Tensor::from_vec(vec![values.len()], values.to_vec()).unwrap();
        let scalar = Tensor::from_vec(vec![], vec![7i64]).unwrap();
        let signature = Signature {
            inputs: vec![spec(vec![Dim::Dynamic(None)])],
            optional: vec![spec(vec![]), spec(vec![Dim::Dynamic(None)])],
            outputs: Vec::new(),
        };
        let inputs = Inputs {
            tensors: vec![vector(&[1, 2, 3])],
            optional: vec![(1, vector(&[4, 5, 6])), (0, scalar.clone())],
        };
        let expected = Inputs {
            tensors: vec![vector(&[2])],
            optional: vec![(1, vector(&[5])), (0, scalar)],
        };
        assert_eq!(inputs.record(&signature, 1), expected);
        assert_eq!(inputs.byte_len(), 7 * 8);
    }
}
