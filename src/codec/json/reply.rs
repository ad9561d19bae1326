//! Responses as requests: a container of a pipeline reads the response of the container before it.
//!
//! A response names the outputs of another model. The decoder reads those that are inputs of this
//! model and skips the others. If no name is known, a single output becomes the only input.

use jiter::Peek;

use super::{finish, instances, starts_with_object};
use crate::codec::error::DecodeError;
use crate::codec::fit::ShapeForm;
use crate::codec::json_reader::JsonReader;
use crate::codec::rows::InstanceRows;
use crate::codec::schema::Schema;
use crate::tensor::Inputs;

/// Reads the value of `predictions`.
pub(super) fn predictions(reader: &mut JsonReader<'_>, schema: &Schema) -> Result<(Inputs, usize), DecodeError> {
    let first = reader.peek()?;
    if !starts_with_object(reader, first, schema)? {
        return instances(reader, first, schema, ShapeForm::Whole);
    }
    let mut rows = InstanceRows::new(schema, reader.remaining());
    let mut next = reader.enter_array()?;
    while let Some(first) = next {
        if first == Peek::Object {
            let (mut known, mut others) = (Vec::new(), Vec::new());
            let mut key = reader.enter_object()?;
            while let Some(name) = key {
                let is_known = schema.find(name).is_some();
                let name = name.to_owned();
                let member = (name, reader.postpone()?);
                if is_known {
                    known.push(member)
                } else {
                    others.push(member)
                }
                key = reader.next_key()?;
            }
            if let (true, [(name, _)], Some(index)) = (known.is_empty(), others.as_mut_slice(), schema.only_input()) {
                name.clone_from(&schema.signature().inputs[index].name);
                known = others;
            }
            rows.push_record(known)?;
        } else {
            rows.read(reader, first)?;
        }
        next = reader.next_value()?;
    }
    finish(rows, schema)
}
