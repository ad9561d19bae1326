//! Tables in JSON, in the forms of pandas' `to_json` and MLflow's clients.
//!
//! | form | written by |
//! |---|---|
//! | `{"columns": [..], "data": [[..], ..]}` | `orient="split"`, MLflow's `dataframe_split` |
//! | `{"column": {"0": .., "1": ..}, ..}` | `orient="columns"`, pandas' default |
//! | `{"0": {"column": ..}, ..}` | `orient="index"` |
//! | `{"schema": .., "data": [{..}, ..]}` | `orient="table"` |
//! | `{"column": [..], ..}`, `{"column": .., ..}` | hand-written requests |
//!
//! Lists of objects and of lists (`orient="records"`, `"values"`) are instances.

use jiter::Peek;

use super::{finish, read_column};
use crate::codec::error::{DecodeError, excerpt};
use crate::codec::json_reader::JsonReader;
use crate::codec::rows::{InstanceRows, is_binary_string, unknown_input};
use crate::codec::schema::{NameTarget, Schema};
use crate::tensor::{Inputs, Records};

/// Reads a table that names its columns separately from its rows.
pub(super) fn split(reader: &mut JsonReader<'_>, schema: &Schema) -> Result<(Inputs, usize), DecodeError> {
    let malformed = |reader: &JsonReader<'_>| -> DecodeError {
        reader
            .malformed("a table must have \"columns\", a list of names, and \"data\", a list of rows")
            .into()
    };
    if reader.peek()? != Peek::Object {
        return Err(malformed(reader));
    }
    let (mut columns, mut data) = (None, None);
    let mut key = reader.enter_object()?;
    while let Some(name) = key {
        match name {
            "columns" => columns = Some(reader.postpone()?),
            "data" => data = Some(reader.postpone()?),
            _ => reader.skip()?,
        }
        key = reader.next_key()?;
    }
    let (Some(mut columns), Some(mut data)) = (columns, data) else {
        return Err(malformed(reader));
    };
    if columns.peek()? != Peek::Array || data.peek()? != Peek::Array {
        return Err(malformed(reader));
    }
    let names = names(&mut columns)?;
    // False if the model's columns have no names and it knows none of the names in the table. The
    // columns are then assigned by position.
    let is_named = names.iter().any(|name| schema.find(name).is_some()) || schema.has_named_columns(names.len());
    let mut rows = InstanceRows::new(schema, data.remaining());
    let mut next = data.enter_array()?;
    let mut row = 0;
    while let Some(first) = next {
        if first != Peek::Array {
            return Err(malformed(&data));
        }
        let mut cells = Vec::with_capacity(names.len());
        let mut cell = data.enter_array()?;
        while cell.is_some() {
            cells.push(data.postpone()?);
            cell = data.next_value()?;
        }
        row += 1;
        if cells.len() != names.len() {
            let given = cells.len();
            let problem = format!(
                "row {row} of the table has {given} values where {} columns are named",
                names.len()
            );
            return Err(data.malformed(problem).into());
        }
        if is_named {
            rows.push_record(names.iter().cloned().zip(cells).collect())?;
        } else {
            let cells: Vec<Option<JsonReader<'_>>> = cells.into_iter().map(Some).collect();
            rows.push_list(&cells)?;
        }
        next = data.next_value()?;
    }
    finish(rows, schema)
}

/// Reads a list of names. Numbers, pandas' default names, are used as written.
fn names(reader: &mut JsonReader<'_>) -> Result<Vec<String>, DecodeError> {
    let mut names = Vec::new();
    let mut next = reader.enter_array()?;
    while let Some(first) = next {
        names.push(match first {
            Peek::String => reader.string()?.as_str().to_owned(),
            Peek::Array | Peek::Object | Peek::Null | Peek::True | Peek::False => {
                return Err(reader.malformed("the name of a column must be a string").into());
            }
            number => reader.number(number)?.to_owned(),
        });
        next = reader.next_value()?;
    }
    Ok(names)
}

/// Reads a document whose members are inputs or columns. The document is one record, or each member
/// is a list or an object of values.
pub(super) fn by_name(
    mut start: JsonReader<'_>,
    members: &[(String, JsonReader<'_>)],
    schema: &Schema,
) -> Result<(Inputs, usize), DecodeError> {
    let (mut lists, mut objects, mut has_columns, mut optional) = (0, 0, false, 0);
    for (name, value) in members {
        if let Some(NameTarget::Optional(_)) = schema.find(name) {
            optional += 1;
            continue;
        }
        let mut ahead = value.clone();
        match ahead.peek()? {
            Peek::Array => lists += 1,
            Peek::Object if !is_binary_string(value, schema)? => objects += 1,
            _ => {}
        }
        has_columns |= matches!(schema.find(name), Some(NameTarget::Column(_)));
    }
    if objects == members.len() || (lists == members.len() && has_columns) {
        return by_column(members, schema);
    }
    if lists + optional == members.len() {
        let mut tensors = schema.empty_slots();
        for (name, value) in members {
            match schema.find_slot(name) {
                Some(index) => read_column(&mut value.clone(), schema, index, &mut tensors)?,
                None if schema.ignores_unknown() => {}
                None => return Err(unknown_input(schema.signature(), name, String::new()).into()),
            }
        }
        let inputs = schema.complete(tensors, None)?;
        let count = match schema.signature().records(&inputs.tensors) {
            Records::Separable(count) | Records::Together(count) => count,
            Records::One => 1,
        };
        return Ok((inputs, count));
    }
    let mut rows = InstanceRows::new(schema, start.remaining());
    rows.read(&mut start, Peek::Object)?;
    finish(rows, schema)
}

/// Reads an object of columns that is in the place of an object of inputs.
pub(super) fn columns_of_inputs(reader: &mut JsonReader<'_>, schema: &Schema) -> Result<Inputs, DecodeError> {
    let start = reader.clone();
    let mut members = Vec::new();
    let mut key = reader.enter_object()?;
    while let Some(name) = key {
        let name = name.to_owned();
        members.push((name, reader.postpone()?));
        key = reader.next_key()?;
    }
    Ok(by_name(start, &members, schema)?.0)
}

/// Reads columns, each of which is a list of values or an object of values by row label.
fn by_column(members: &[(String, JsonReader<'_>)], schema: &Schema) -> Result<(Inputs, usize), DecodeError> {
    let mut columns = Vec::with_capacity(members.len());
    let mut labels: Option<Vec<String>> = None;
    for (name, value) in members {
        let mut reader = value.clone();
        let (mut own, mut cells) = (Vec::new(), Vec::new());
        if reader.peek()? == Peek::Object {
            let mut key = reader.enter_object()?;
            while let Some(label) = key {
                own.push(label.to_owned());
                cells.push(reader.postpone()?);
                key = reader.next_key()?;
            }
        } else {
            let mut next = reader.enter_array()?;
            while next.is_some() {
                own.push(String::new());
                cells.push(reader.postpone()?);
                next = reader.next_value()?;
            }
        }
        match &labels {
            None => labels = Some(own),
            Some(first) if *first == own => {}
            Some(_) => {
                let problem = format!(
                    "column {} does not have the same rows as the columns before it",
                    excerpt(name)
                );
                return Err(reader.malformed(problem).into());
            }
        }
        columns.push((name, cells));
    }
    let count = labels.map_or(0, |labels| labels.len());
    let most = members.first().map_or(0, |(_, reader)| reader.remaining());
    let mut rows = InstanceRows::new(schema, most);
    for row in 0..count {
        rows.push_record(
            columns
                .iter()
                .map(|(name, cells)| ((*name).clone(), cells[row].clone()))
                .collect(),
        )?;
    }
    finish(rows, schema)
}

/// Reads a document whose members are records by label. `None` if the document has another form.
pub(super) fn by_index(
    members: &[(String, JsonReader<'_>)],
    schema: &Schema,
) -> Result<Option<(Inputs, usize)>, DecodeError> {
    let Some((_, first)) = members.first() else {
        return Ok(None);
    };
    let mut rows = InstanceRows::new(schema, first.remaining());
    for (position, (_, value)) in members.iter().enumerate() {
        let mut reader = value.clone();
        if reader.peek()? != Peek::Object {
            return Ok(None);
        }
        let mut ahead = reader.clone();
        let is_record = ahead.enter_object()?.is_some_and(|name| schema.find(name).is_some());
        if position == 0 && !is_record {
            return Ok(None);
        }
        rows.read(&mut reader, Peek::Object)?;
    }
    finish(rows, schema).map(Some)
}

/// Reads the columns that hold the row labels from the schema of a table.
pub(super) fn primary_key(reader: &mut JsonReader<'_>) -> Result<Vec<String>, DecodeError> {
    if reader.peek()? != Peek::Object {
        return Ok(Vec::new());
    }
    let mut key = reader.enter_object()?;
    let mut labels = Vec::new();
    while let Some(name) = key {
        if name == "primaryKey" && reader.peek()? == Peek::Array {
            labels = names(reader)?;
        } else {
            reader.skip()?;
        }
        key = reader.next_key()?;
    }
    Ok(labels)
}

/// Reads records without the members in `skipped`.
pub(super) fn records_without(
    reader: &mut JsonReader<'_>,
    skipped: &[String],
    schema: &Schema,
) -> Result<(Inputs, usize), DecodeError> {
    let malformed = |reader: &JsonReader<'_>| -> DecodeError {
        reader
            .malformed("\"data\" must be a list of records if the document has a \"schema\"")
            .into()
    };
    if reader.peek()? != Peek::Array {
        return Err(malformed(reader));
    }
    let mut rows = InstanceRows::new(schema, reader.remaining());
    let mut next = reader.enter_array()?;
    while let Some(first) = next {
        if first != Peek::Object {
            return Err(malformed(reader));
        }
        let mut members = Vec::new();
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            let name = name.to_owned();
            let value = reader.postpone()?;
            if schema.find(&name).is_some() || !skipped.contains(&name) {
                members.push((name, value));
            }
            key = reader.next_key()?;
        }
        rows.push_record(members)?;
        next = reader.next_value()?;
    }
    finish(rows, schema)
}
