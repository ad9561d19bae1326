//! The inputs and outputs that a model declares: names, element types, and shapes with open
//! dimensions.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DataType;

/// One dimension of a model's input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// Any size, with the model's name for it if it has one.
    Dynamic(Option<String>),
}

/// The declaration of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    pub name: String,
    pub data_type: DataType,
    /// `None` if the model does not declare the rank.
    pub dims: Option<Vec<Dim>>,
}

impl InputSpec {
    /// Whether the first axis is open, so that it counts records.
    pub fn has_record_axis(&self) -> bool {
        match self.dims.as_deref() {
            Some([Dim::Dynamic(_), ..]) | None => true,
            Some([Dim::Fixed(_), ..] | []) => false,
        }
    }

    /// Whether the input accepts a tensor of `shape`.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        match &self.dims {
            None => true,
            Some(dims) => {
                dims.len() == shape.len()
                    && dims.iter().zip(shape).all(|(dim, &size)| match dim {
                        Dim::Fixed(fixed) => *fixed == size,
                        Dim::Dynamic(_) => true,
                    })
            }
        }
    }
}

/// Displays the element type and the shape as in messages and the README: `float32[batch, 32]`.
impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_type(f, self.data_type, self.dims.as_deref())
    }
}

/// The declaration of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    pub name: String,
    pub value_type: ValueType,
    pub rows: OutputRows,
}

/// The relation between an output's entries, which its first axis counts, and the records of a
/// request.
///
/// This is a property of the model, determined once when it is loaded: in a single request the
/// numbers may be equal by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputRows {
    /// The output has one entry for each record, in the order of the records.
    #[default]
    PerRecord,
    /// The entries do not follow the records. The whole output of a run answers the one record of
    /// that run.
    Whole,
}

/// The ONNX value types that outputs may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    Tensor {
        data_type: DataType,
        dims: Option<Vec<Dim>>,
    },
    Sequence(Box<ValueType>),
    Map {
        key: DataType,
        value: Box<ValueType>,
    },
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor { data_type, dims } => write_type(f, *data_type, dims.as_deref()),
            Self::Sequence(element) => write!(f, "sequence({element})"),
            Self::Map { key, value } => write!(f, "map({key}, {value})"),
        }
    }
}

/// The inputs and outputs of a model, in the model's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    pub inputs: Vec<InputSpec>,
    /// Inputs that a request may omit: the model has a value for them, or works without.
    pub optional: Vec<InputSpec>,
    pub outputs: Vec<OutputSpec>,
}

impl Signature {
    /// Whether the first axis of any input counts records.
    pub fn has_open_records(&self) -> bool {
        self.inputs.iter().any(InputSpec::has_record_axis)
    }
}

impl Signature {
    /// The inputs, and after them the optional ones.
    pub fn all_inputs(&self) -> impl Iterator<Item = &InputSpec> {
        self.inputs.iter().chain(&self.optional)
    }
}

fn write_type(f: &mut fmt::Formatter<'_>, data_type: DataType, dims: Option<&[Dim]>) -> fmt::Result {
    let Some(dims) = dims else {
        return write!(f, "{data_type} of any shape");
    };
    write!(f, "{data_type}[")?;
    for (i, dim) in dims.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        match dim {
            Dim::Fixed(size) => write!(f, "{size}")?,
            Dim::Dynamic(Some(name)) => f.write_str(name)?,
            Dim::Dynamic(None) => f.write_str("?")?,
        }
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_accepts_the_shapes_that_fit_its_dimensions() {
        let spec = InputSpec {
            name: "x".into(),
            data_type: DataType::F32,
            dims: Some(vec![Dim::Dynamic(Some("batch".into())), Dim::Fixed(32)]),
        };
        assert_eq!(spec.to_string(), "float32[batch, 32]");
        let table: [(&[usize], bool); 5] = [
            (&[1, 32], true),
            (&[0, 32], true),
            (&[1, 31], false),
            (&[32], false),
            (&[1, 1, 32], false),
        ];
        for (shape, accepted) in table {
            assert_eq!(spec.accepts(shape), accepted, "{shape:?}");
        }
    }
}
