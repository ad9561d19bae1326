//! What a session takes and gives, in our own words; refused where no content type could carry it.

use ort::value::{Outlet, TensorElementType};

use super::error::{SessionError, session_error};
use crate::engine::output_rows;
use crate::engine::raw::{self, Side};
use crate::tensor::{DataType, Dim, InputSpec, OutputSpec, Signature, ValueType};

pub(super) fn signature(session: &ort::session::Session) -> Result<Signature, SessionError> {
    let inputs = session.inputs().iter().enumerate().map(|(index, input)| {
        let has_shape = raw::has_shape(session, Side::Input, index).map_err(|error| session_error(&error))?;
        match value_type(input.dtype(), has_shape) {
            Some(ValueType::Tensor { data_type, dims }) => Ok(InputSpec {
                name: input.name().to_owned(),
                data_type,
                dims,
            }),
            Some(ValueType::Sequence(_) | ValueType::Map { .. }) | None => Err(unsupported("input", input)),
        }
    });
    let inputs = inputs.collect::<Result<Vec<InputSpec>, _>>()?;
    let outputs = session.outputs().iter().enumerate().map(|(index, output)| {
        let has_shape = raw::has_shape(session, Side::Output, index).map_err(|error| session_error(&error))?;
        let value_type = value_type(output.dtype(), has_shape).ok_or_else(|| unsupported("output", output))?;
        Ok(OutputSpec {
            name: output.name().to_owned(),
            rows: output_rows::declared(&inputs, &value_type),
            value_type,
        })
    });
    let outputs = outputs.collect::<Result<_, _>>()?;
    Ok(Signature { inputs, outputs })
}

fn unsupported(side: &str, outlet: &Outlet) -> SessionError {
    SessionError::Unsupported(format!(
        "{side} \"{}\" is {}, which no content type carries",
        outlet.name(),
        told(outlet.dtype())
    ))
}

/// A type in the words that [`ValueType`] has, as far as it has any.
fn told(value: &ort::value::ValueType) -> String {
    match (value_type(value, false), value) {
        (Some(known), _) => known.to_string(),
        (None, ort::value::ValueType::Sequence(element)) => format!("sequence({})", told(element)),
        (None, ort::value::ValueType::Optional(value)) => format!("optional({})", told(value)),
        (None, ort::value::ValueType::Tensor { ty, .. }) => format!("a tensor of {ty}"),
        (None, ort::value::ValueType::Map { key, value }) => format!("map({key}, {value})"),
    }
}

fn value_type(value: &ort::value::ValueType, has_shape: bool) -> Option<ValueType> {
    match value {
        ort::value::ValueType::Tensor {
            ty,
            shape,
            dimension_symbols,
        } => {
            let dims = shape.iter().zip(dimension_symbols.iter()).map(|(&size, symbol)| {
                usize::try_from(size).map_or_else(
                    |_| Dim::Dynamic((!symbol.is_empty()).then(|| symbol.clone())),
                    Dim::Fixed,
                )
            });
            Some(ValueType::Tensor {
                data_type: data_type(*ty)?,
                dims: has_shape.then(|| dims.collect()),
            })
        }
        ort::value::ValueType::Sequence(element) => Some(ValueType::Sequence(Box::new(value_type(element, false)?))),
        ort::value::ValueType::Map { key, value } => Some(ValueType::Map {
            key: data_type(*key)?,
            value: Box::new(ValueType::Tensor {
                data_type: data_type(*value)?,
                dims: None,
            }),
        }),
        ort::value::ValueType::Optional(_) => None,
    }
}

fn data_type(element: TensorElementType) -> Option<DataType> {
    raw::data_type(element.into())
}
