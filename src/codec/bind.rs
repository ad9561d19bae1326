//! Assigns the arrays of a request to the inputs of a model. All array formats share these rules.
//!
//! A named array goes to the input of that name ([`Schema::find_slot`]). An array without a name
//! goes to the only input that a request must set. So does a single array with an unknown name: the
//! response of one container is then a request to the next, whatever the names of its outputs.
//! Defaults fill the other inputs ([`Schema::complete`]). Numbers are converted to the model's
//! type, and shapes are fitted to the input.

use super::column::wrong_size;
use super::error::{DecodeError, InputError, describe_inputs, excerpt};
use super::fit::{ShapeForm, fit, mismatch};
use super::npy::StoredArray;
use super::schema::Schema;
use super::sparse::Sparse;
use crate::tensor::{DataType, Dim, InputSpec, Inputs, Shape, Tensor};

/// An array of a request.
pub(super) struct RequestArray {
    /// `None` if the format has no names, or the name in the request carries no meaning.
    pub name: Option<String>,
    pub array: Array,
}

pub(super) enum Array {
    /// Numbers or strings as NumPy stores them.
    Stored(StoredArray),
    /// A sparse matrix.
    Sparse(Sparse),
    /// One row per record. A row is a flat list of elements; the model knows its shape.
    Rows(FeatureRows),
}

/// Rows with the same number of elements.
pub(super) struct FeatureRows {
    pub rows: usize,
    /// The number of elements in each row.
    pub width: usize,
    /// The shape of a row, if the request gives it.
    pub shape: Option<Vec<usize>>,
    pub elements: RowElements,
}

pub(super) enum RowElements {
    /// An array of shape `[rows, width]`.
    Numbers(StoredArray),
    /// Strings of the same shape, row by row.
    Strings(Vec<bytes::Bytes>),
    /// A matrix of the same shape.
    Sparse(Sparse),
}

/// Assigns the arrays in `given` to inputs. `what` names an array of the format in messages.
pub(super) fn bind(given: Vec<RequestArray>, schema: &Schema, what: &'static str) -> Result<Inputs, DecodeError> {
    let signature = schema.signature();
    let is_only = given.len() == 1;
    let mut inputs = schema.empty_slots();
    for RequestArray { name, array } in given {
        let named = name.as_deref().and_then(|name| schema.find_slot(name));
        let index = match (named, &name) {
            (Some(index), _) => index,
            (None, Some(_)) if !is_only && schema.ignores_unknown() => continue,
            (None, Some(name)) if !is_only => {
                return Err(InputError::Unknown {
                    name: excerpt(name),
                    at: String::new(),
                    takes: describe_inputs(signature),
                }
                .into());
            }
            (None, name) => schema.only_input().ok_or_else(|| match name {
                Some(name) => InputError::Unknown {
                    name: excerpt(name),
                    at: String::new(),
                    takes: describe_inputs(signature),
                },
                None => InputError::Unnamed {
                    what,
                    takes: describe_inputs(signature),
                    instead: "send application/x-npz or application/json with the inputs by name",
                },
            })?,
        };
        let (spec, slot) = (schema.input_at(index), &mut inputs[index]);
        if slot.is_some() {
            return Err(InputError::Duplicate {
                name: excerpt(&spec.name),
                at: String::new(),
            }
            .into());
        }
        *slot = Some(array.tensor(spec)?);
    }
    schema.complete(inputs, None)
}

impl Array {
    fn tensor(self, spec: &InputSpec) -> Result<Tensor, DecodeError> {
        match self {
            Self::Stored(stored) => of_stored(spec, &stored),
            Self::Sparse(sparse) => {
                let given = || format!("a sparse matrix of shape {}", Shape(&sparse.shape()));
                let shape =
                    fit(spec, sparse.shape().to_vec(), ShapeForm::Whole).map_err(|_| mismatch(spec, given()))?;
                reshaped(spec, sparse.dense(spec)?, shape)
            }
            Self::Rows(rows) => rows.tensor(spec),
        }
    }
}

fn of_stored(spec: &InputSpec, stored: &StoredArray) -> Result<Tensor, DecodeError> {
    if (stored.data_type() == DataType::String) != (spec.data_type == DataType::String) {
        return Err(mismatch(spec, stored.given()).into());
    }
    let shape = fit(spec, stored.shape().to_vec(), ShapeForm::Whole).map_err(|_| mismatch(spec, stored.given()))?;
    reshaped(spec, stored.tensor(spec)?, shape)
}

fn reshaped(spec: &InputSpec, tensor: Tensor, shape: Vec<usize>) -> Result<Tensor, DecodeError> {
    tensor.reshape(shape).map_err(|error| wrong_size(spec, &error).into())
}

impl FeatureRows {
    fn tensor(self, spec: &InputSpec) -> Result<Tensor, DecodeError> {
        let shape = self.shape(spec);
        let given = |data_type: DataType| mismatch(spec, format_args!("{data_type}{}", Shape(&shape)));
        let tensor = match self.elements {
            RowElements::Strings(_) if spec.data_type != DataType::String => return Err(given(DataType::String).into()),
            RowElements::Numbers(stored) if spec.data_type == DataType::String => {
                return Err(given(stored.data_type()).into());
            }
            RowElements::Strings(items) => {
                let fitted = fit(spec, shape.clone(), ShapeForm::Rows).map_err(|_| given(DataType::String))?;
                return Tensor::from_strings(fitted, items).map_err(|error| wrong_size(spec, &error).into());
            }
            RowElements::Numbers(stored) => {
                let fitted = fit(spec, shape.clone(), ShapeForm::Rows).map_err(|_| given(stored.data_type()))?;
                (stored.tensor(spec)?, fitted)
            }
            RowElements::Sparse(sparse) => {
                let fitted = fit(spec, shape.clone(), ShapeForm::Rows)
                    .map_err(|_| mismatch(spec, format_args!("sparse rows of shape {}", Shape(&shape))))?;
                (sparse.dense(spec)?, fitted)
            }
        };
        reshaped(spec, tensor.0, tensor.1)
    }

    /// The shape of all rows together. A row has the shape in the request, else the shape in the
    /// model, else it is a flat list.
    fn shape(&self, spec: &InputSpec) -> Vec<usize> {
        let mut shape = vec![self.rows];
        match (&self.shape, row_shape(spec)) {
            (Some(row), _) if product(row) == Some(self.width) && row.len() > 1 => shape.extend(row),
            (_, Some(row)) if product(&row) == Some(self.width) => shape.extend(row),
            (_, _) => shape.push(self.width),
        }
        shape
    }
}

/// The shape of one row of an input, if the model fixes every axis of it.
pub(super) fn row_shape(spec: &InputSpec) -> Option<Vec<usize>> {
    let (_, row) = spec.dims.as_deref()?.split_first()?;
    row.iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Dynamic(_) => None,
        })
        .collect()
}

pub(super) fn product(sizes: &[usize]) -> Option<usize> {
    sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::schema::{InputDefault, InputRule, SchemaAdditions};
    use crate::codec::testing::{input, signature, tensor};
    use crate::tensor::DataType::{F32, F64, I64};
    use bytes::Bytes;

    fn array(name: Option<&str>, shape: &[usize], values: &[f64]) -> RequestArray {
        let data = Bytes::copy_from_slice(bytemuck::cast_slice(values));
        RequestArray {
            name: name.map(str::to_owned),
            array: Array::Stored(StoredArray::plain(F64, shape.to_vec(), data).unwrap()),
        }
    }

    /// Inputs `a` and `b`; `default` is that of `b`.
    fn schema(default: Option<i64>) -> Schema {
        let signature = signature(&[input("a", F32, &[-1, 2]), input("b", I64, &[-1])], &[]);
        let default = default.map(|value| InputDefault::new(&signature.inputs[1], &value.into()).unwrap());
        let rule = InputRule {
            default,
            ..InputRule::default()
        };
        Schema::new(
            signature,
            SchemaAdditions {
                rules: vec![InputRule::default(), rule],
                ..SchemaAdditions::default()
            },
        )
    }

    #[test]
    fn a_named_array_goes_to_the_input_of_that_name() {
        let given = vec![array(Some("b"), &[1], &[7.]), array(Some("a"), &[2], &[1., 2.])];
        let inputs = bind(given, &schema(None), "an array").unwrap().tensors;
        assert_eq!(inputs, [tensor(&[1, 2], &[1f32, 2.]), tensor(&[1], &[7i64])]);
    }

    #[test]
    fn the_only_array_goes_to_the_only_input_that_has_no_default() {
        let schema = schema(Some(5));
        for name in [None, Some("arr_0"), Some("probabilities"), Some("a")] {
            let given = vec![array(name, &[2, 2], &[1., 2., 3., 4.])];
            let inputs = bind(given, &schema, "an array").unwrap().tensors;
            let expected = [tensor(&[2, 2], &[1f32, 2., 3., 4.]), tensor(&[2], &[5i64, 5])];
            assert_eq!(inputs, expected, "{name:?}");
        }
    }

    #[test]
    fn refuses_unknown_repeated_and_missing_names_with_the_name() {
        let refusal = |given| bind(given, &schema(None), "an array").unwrap_err().to_string();
        let one = |name| array(name, &[2], &[1., 2.]);
        let table = [
            (vec![one(None)], "an array does not name its input"),
            (vec![one(Some("x"))], "the model has no input \"x\""),
            (vec![one(Some("a")), one(Some("x"))], "the model has no input \"x\""),
            (vec![one(Some("a")), one(Some("a"))], "input \"a\" is given twice"),
            (vec![one(Some("a"))], "input \"b\" is missing"),
            (vec![array(Some("b"), &[1], &[1.5])], "1.5 is not a whole number"),
        ];
        for (given, text) in table {
            let refusal = refusal(given);
            assert!(refusal.contains(text), "{refusal}");
        }
    }

    #[test]
    fn rows_take_the_shape_of_the_model() {
        let rows = |dims: &[i64], width: usize, shape: Option<Vec<usize>>| {
            let data = Bytes::from(vec![0; 2 * width * 8]);
            let rows = FeatureRows {
                rows: 2,
                width,
                shape,
                elements: RowElements::Numbers(StoredArray::plain(F64, vec![2, width], data).unwrap()),
            };
            rows.tensor(&input("x", F32, dims))
                .map(|tensor| tensor.shape().to_vec())
        };
        assert_eq!(rows(&[-1, 3], 3, None).unwrap(), [2, 3]);
        assert_eq!(rows(&[-1], 1, None).unwrap(), [2]);
        assert_eq!(rows(&[-1, 1], 1, None).unwrap(), [2, 1]);
        assert_eq!(rows(&[-1, 1, 2, 2], 4, None).unwrap(), [2, 1, 2, 2]);
        assert_eq!(rows(&[-1, -1, -1], 6, Some(vec![3, 2])).unwrap(), [2, 3, 2]);
        assert_eq!(rows(&[-1, -1], 5, Some(vec![5])).unwrap(), [2, 5]);
        assert!(rows(&[-1, 3], 4, None).is_err());
    }
}
