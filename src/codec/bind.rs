//! Arrays, with names or without, become the inputs of a model: the rules that all array formats share.
//!
//! A name is looked up as every other name is ([`Schema::find_input`]). An array without a name, or the only array of a
//! request under a name that fits nothing, goes to the only input that a request has to give: so the reply of one
//! container is a request to the next, whatever its outputs are called. Defaults fill what is left ([`Schema::complete`]).
//! Numbers are converted to the model's type and shapes fitted as NPY always was.

use super::column::wrong_size;
use super::error::{DecodeError, InputError, excerpt, takes};
use super::fit::{Form, fit, mismatch};
use super::npy::Stored;
use super::schema::Schema;
use super::sparse::Sparse;
use crate::tensor::{DataType, InputSpec, Shape, Tensor};

/// An array of a request.
pub(super) struct Given {
    /// `None` where the format has no names, or the request has one that says nothing.
    pub name: Option<String>,
    pub array: Array,
}

pub(super) enum Array {
    /// Numbers or strings as NumPy stores them.
    Stored(Stored),
    /// A matrix of which only some elements are given.
    Sparse(Sparse),
}

/// The inputs that `given` makes. `what` is an array of the format, for messages.
pub(super) fn bind(given: Vec<Given>, schema: &Schema, what: &'static str) -> Result<Vec<Tensor>, DecodeError> {
    let signature = schema.signature();
    let is_only = given.len() == 1;
    let mut inputs: Vec<Option<Tensor>> = vec![None; signature.inputs.len()];
    for Given { name, array } in given {
        let named = name.as_deref().and_then(|name| schema.find_input(name));
        let index = match (named, &name) {
            (Some(index), _) => index,
            (None, Some(_)) if !is_only && schema.ignores_unknown() => continue,
            (None, Some(name)) if !is_only => {
                return Err(InputError::Unknown {
                    name: excerpt(name),
                    at: String::new(),
                    takes: takes(signature),
                }
                .into());
            }
            (None, name) => schema.only_input().ok_or_else(|| match name {
                Some(name) => InputError::Unknown {
                    name: excerpt(name),
                    at: String::new(),
                    takes: takes(signature),
                },
                None => InputError::Unnamed {
                    what,
                    takes: takes(signature),
                    instead: "send application/x-npz or application/json with the inputs by name",
                },
            })?,
        };
        let Some((spec, place)) = signature.inputs.get(index).zip(inputs.get_mut(index)) else {
            continue;
        };
        if place.is_some() {
            return Err(InputError::Duplicate {
                name: excerpt(&spec.name),
                at: String::new(),
            }
            .into());
        }
        *place = Some(array.tensor(spec)?);
    }
    schema.complete(inputs, None)
}

impl Array {
    fn tensor(self, spec: &InputSpec) -> Result<Tensor, DecodeError> {
        match self {
            Self::Stored(stored) => of_stored(spec, &stored),
            Self::Sparse(sparse) => {
                let given = || format!("a sparse matrix of shape {}", Shape(&sparse.shape()));
                let shape = fit(spec, sparse.shape().to_vec(), Form::Whole).map_err(|_| mismatch(spec, given()))?;
                reshaped(spec, sparse.dense(spec)?, shape)
            }
        }
    }
}

fn of_stored(spec: &InputSpec, stored: &Stored) -> Result<Tensor, DecodeError> {
    if (stored.data_type() == DataType::String) != (spec.data_type == DataType::String) {
        return Err(mismatch(spec, stored.given()).into());
    }
    let shape = fit(spec, stored.shape().to_vec(), Form::Whole).map_err(|_| mismatch(spec, stored.given()))?;
    reshaped(spec, stored.tensor(spec)?, shape)
}

fn reshaped(spec: &InputSpec, tensor: Tensor, shape: Vec<usize>) -> Result<Tensor, DecodeError> {
    tensor.reshape(shape).map_err(|error| wrong_size(spec, &error).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::schema::{Additions, InputRule};
    use crate::codec::testing::{input, signature, tensor};
    use crate::tensor::DataType::{F32, F64, I64};
    use bytes::Bytes;

    fn array(name: Option<&str>, shape: &[usize], values: &[f64]) -> Given {
        let data = Bytes::copy_from_slice(bytemuck::cast_slice(values));
        Given {
            name: name.map(str::to_owned),
            array: Array::Stored(Stored::plain(F64, shape.to_vec(), data).unwrap()),
        }
    }

    /// Inputs `a` and `b`; `b` has a default where there is one.
    fn schema(default: Option<Tensor>) -> Schema {
        let signature = signature(&[input("a", F32, &[-1, 2]), input("b", I64, &[-1])], &[]);
        let rule = InputRule {
            default,
            ..InputRule::default()
        };
        Schema::new(
            signature,
            Additions {
                rules: vec![InputRule::default(), rule],
                ..Additions::default()
            },
        )
    }

    #[test]
    fn arrays_go_to_the_inputs_that_they_name() {
        let given = vec![array(Some("b"), &[1], &[7.]), array(Some("a"), &[2], &[1., 2.])];
        let inputs = bind(given, &schema(None), "an array").unwrap();
        assert_eq!(inputs, [tensor(&[1, 2], &[1f32, 2.]), tensor(&[1], &[7i64])]);
    }

    #[test]
    fn the_only_array_goes_to_the_only_input_that_has_no_default() {
        let default = tensor(&[1], &[5i64]);
        let schema = schema(Some(default));
        for name in [None, Some("arr_0"), Some("probabilities"), Some("a")] {
            let inputs = bind(vec![array(name, &[2, 2], &[1., 2., 3., 4.])], &schema, "an array").unwrap();
            let expected = [tensor(&[2, 2], &[1f32, 2., 3., 4.]), tensor(&[2], &[5i64, 5])];
            assert_eq!(inputs, expected, "{name:?}");
        }
    }

    #[test]
    fn names_that_fit_nothing_are_refused_by_name() {
        let refusal = |given| bind(given, &schema(None), "an array").unwrap_err().to_string();
        let one = |name| array(name, &[2], &[1., 2.]);
        let table = [
            (vec![one(None)], "an array cannot say which input it is for"),
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
}
