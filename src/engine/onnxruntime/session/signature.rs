//! The inputs and outputs of a session in our own types; refuses types that no content type
//! supports.

use ort::value::TensorElementType;

use super::error::{SessionError, session_error};
use crate::engine::load::output_rows;
use crate::engine::onnxruntime::raw::{self, Side};
use crate::tensor::{DataType, Dim, InputSpec, OutputSpec, Signature, ValueType};

pub(super) fn signature(session: &ort::session::Session) -> Result<Signature, SessionError> {
    let has_shape = |side, index| raw::has_shape(session, side, index).map_err(|error| session_error(&error));
    let (mut inputs, mut optional) = (Vec::new(), Vec::new());
    for (index, input) in session.inputs().iter().enumerate() {
        // ONNX Runtime runs without a missing optional input, and accepts a plain tensor for a
        // given one.
        let (list, dtype) = match input.dtype() {
            ort::value::ValueType::Optional(contained) => (&mut optional, &**contained),
            dtype => (&mut inputs, dtype),
        };
        let spec = input_spec(input.name(), dtype, has_shape(Side::Input, index)?);
        list.push(spec.ok_or_else(|| unsupported("input", input.name(), input.dtype()))?);
    }
    for (index, input) in session.overridable_initializers().iter().enumerate() {
        let spec = input_spec(input.name(), input.dtype(), has_shape(Side::Overridable, index)?);
        // An input of an unsupported type keeps its initializer.
        optional.extend(spec);
    }
    let outputs = session.outputs().iter().enumerate().map(|(index, output)| {
        let value_type = value_type(output.dtype(), has_shape(Side::Output, index)?)
            .ok_or_else(|| unsupported("output", output.name(), output.dtype()))?;
        Ok(OutputSpec {
            name: output.name().to_owned(),
            rows: output_rows::declared(&inputs, &value_type),
            value_type,
        })
    });
    let outputs = outputs.collect::<Result<_, _>>()?;
    Ok(Signature {
        inputs,
        optional,
        outputs,
    })
}

fn input_spec(name: &str, dtype: &ort::value::ValueType, has_shape: bool) -> Option<InputSpec> {
    match value_type(dtype, has_shape)? {
        ValueType::Tensor { data_type, dims } => Some(InputSpec {
            name: name.to_owned(),
            data_type,
            dims,
        }),
        ValueType::Sequence(_) | ValueType::Map { .. } => None,
    }
}

fn unsupported(side: &str, name: &str, dtype: &ort::value::ValueType) -> SessionError {
    SessionError::Unsupported(format!(
        "{side} \"{name}\" is {}, which no content type carries",
        type_name(dtype)
    ))
}

/// Describes a type in the words of [`ValueType`], as far as they cover it.
fn type_name(value: &ort::value::ValueType) -> String {
    match (value_type(value, false), value) {
        (Some(known), _) => known.to_string(),
        (None, ort::value::ValueType::Sequence(element)) => format!("sequence({})", type_name(element)),
        (None, ort::value::ValueType::Optional(value)) => format!("optional({})", type_name(value)),
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
