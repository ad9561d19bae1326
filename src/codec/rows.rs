//! Reads instances, which become rows of the inputs: TF-Serving's row form and JSON Lines.
//!
//! An instance is one of these:
//!
//! | instance | for |
//! |---|---|
//! | an object by the names of inputs | any model |
//! | an object by the names of columns | a model whose manifest names its columns |
//! | `{"features": [..]}`, `{"data": {"features": {"values": [..]}}}` | any model; the row form of SageMaker's own algorithms |
//! | the row itself | a model with one input to set |
//! | a list of cells in the order of a CSV line | a model with several inputs |
//!
//! Invariant: all instances of a request have the form of the first one.

mod inputs;

use jiter::Peek;

use crate::codec::element::ElementKind;
use crate::codec::error::{BoxedDecodeError, DecodeError, InputError, describe_inputs, excerpt};
use crate::codec::json_reader::JsonReader;
use crate::codec::schema::{FEATURES, NameTarget, Schema};
use crate::codec::table::{self, TableLayout};
use crate::tensor::{InputSpec, Signature, Tensor};

use inputs::InputColumns;

#[cold]
pub(super) fn unknown_input(signature: &Signature, name: &str, at: String) -> BoxedDecodeError {
    InputError::Unknown {
        name: excerpt(name),
        at,
        takes: describe_inputs(signature),
    }
    .into()
}

#[cold]
pub(super) fn duplicate_input(signature: &Signature, index: usize, at: String) -> BoxedDecodeError {
    InputError::Duplicate {
        name: excerpt(signature.all_inputs().nth(index).map_or("", |input| &input.name)),
        at,
    }
    .into()
}

/// Whether the next object is a binary string (`{"b64": ".."}`) for a model with one string input,
/// and not an object by input name.
pub(super) fn is_binary_string(reader: &JsonReader<'_>, schema: &Schema) -> Result<bool, BoxedDecodeError> {
    let Some(input) = schema.only_input().map(|index| &schema.signature().inputs[index]) else {
        return Ok(false);
    };
    if input.data_type != <String as ElementKind>::DATA_TYPE || input.name == "b64" {
        return Ok(false);
    }
    let mut ahead = reader.clone();
    Ok(ahead.peek()? == Peek::Object && ahead.enter_object()? == Some("b64"))
}

/// Collects instances into inputs.
pub(super) struct InstanceRows<'s> {
    schema: &'s Schema,
    /// Limit on the number of elements.
    most: usize,
    form: Option<InstanceForm<'s>>,
    count: usize,
}

/// The form of the instances of a request.
enum InstanceForm<'s> {
    /// Values by input, with any nesting.
    Inputs(InputColumns<'s>),
    /// Cells, by column name or by position.
    Cells(Box<table::TableRows<'s>>),
}

/// The outcome of reading an object by input names.
enum ObjectOutcome {
    Done,
    /// The instance is an object by column names.
    HasColumns,
}

impl<'s> InstanceRows<'s> {
    /// `most` limits the number of elements of all inputs together.
    pub fn new(schema: &'s Schema, most: usize) -> Self {
        Self {
            schema,
            most,
            form: None,
            count: 0,
        }
    }

    /// Reads the instance that starts with `first`.
    pub fn read(&mut self, reader: &mut JsonReader<'_>, first: Peek) -> Result<(), BoxedDecodeError> {
        self.count += 1;
        match first {
            Peek::Object if !is_binary_string(reader, self.schema)? => self.read_object(reader),
            _ => self.read_bare(reader, first),
        }
    }

    /// Reads an instance without names.
    fn read_bare(&mut self, reader: &mut JsonReader<'_>, first: Peek) -> Result<(), BoxedDecodeError> {
        if let Some(only) = self.schema.only_input()
            && !matches!(self.form, Some(InstanceForm::Cells(_)))
        {
            return self.inputs()?.read_value(reader, first, only);
        }
        if first != Peek::Array {
            return Err(InputError::Unnamed {
                what: "an instance that is neither an object nor a list",
                takes: describe_inputs(self.schema.signature()),
                instead: "give objects by input name, or a list of the columns",
            }
            .into());
        }
        self.read_list(reader)
    }

    /// Reads a list of cells.
    fn read_list(&mut self, reader: &mut JsonReader<'_>) -> Result<(), BoxedDecodeError> {
        let mut cells = Vec::new();
        let mut next = reader.enter_array()?;
        while next.is_some() {
            cells.push(Some(reader.postpone()?));
            next = reader.next_value()?;
        }
        self.push_cells(&cells, reader.line_number(), |schema| {
            TableLayout::by_position(schema, cells.len())
        })
    }

    fn read_object(&mut self, reader: &mut JsonReader<'_>) -> Result<(), BoxedDecodeError> {
        if let Some(row) = self.built_in_row(reader)? {
            return Ok(row);
        }
        if !matches!(self.form, Some(InstanceForm::Cells(_))) {
            let (start, is_first) = (reader.clone(), self.form.is_none());
            match self.inputs()?.read_object(reader)? {
                ObjectOutcome::Done => return Ok(()),
                ObjectOutcome::HasColumns => *reader = start,
            }
            if is_first {
                self.form = None;
            }
        }
        self.read_columns(reader)
    }

    /// Reads an instance in the form of SageMaker's own algorithms, unless `features` or `data` is
    /// a name of the model.
    fn built_in_row(&mut self, reader: &mut JsonReader<'_>) -> Result<Option<()>, BoxedDecodeError> {
        let mut ahead = reader.clone();
        let is_built_in = match ahead.enter_object()? {
            Some(name) if name == FEATURES => self.schema.find(name).is_none(),
            Some("data") => self.schema.find("data").is_none() && ahead.peek()? == Peek::Object,
            Some(_) | None => false,
        };
        if !is_built_in {
            return Ok(None);
        }
        let mut key = reader.enter_object()?;
        let mut is_given = false;
        while let Some(name) = key {
            match name {
                "data" if !is_given => {
                    is_given = true;
                    self.built_in_features(reader)?;
                }
                FEATURES if !is_given => {
                    is_given = true;
                    self.read_values(reader)?;
                }
                // Labels, weights and the like.
                _ => reader.skip()?,
            }
            key = reader.next_key()?;
        }
        Ok(Some(()))
    }

    /// Reads `{"features": {"values": [..]}}`.
    fn built_in_features(&mut self, reader: &mut JsonReader<'_>) -> Result<(), BoxedDecodeError> {
        let malformed = |reader: &JsonReader<'_>| {
            reader.malformed("\"data\" of an instance must be {\"features\": {\"values\": [..]}}")
        };
        if reader.peek()? != Peek::Object || reader.enter_object()? != Some(FEATURES) {
            return Err(malformed(reader));
        }
        if reader.peek()? != Peek::Object {
            return Err(malformed(reader));
        }
        let mut is_given = false;
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            match name {
                "values" if !is_given => {
                    is_given = true;
                    self.read_values(reader)?;
                }
                "keys" => {
                    return Err(
                        reader.malformed("sparse \"features\" with \"keys\" are not supported; send all \"values\"")
                    );
                }
                _ => reader.skip()?,
            }
            key = reader.next_key()?;
        }
        if !is_given || reader.next_key()?.is_some() {
            return Err(malformed(reader));
        }
        Ok(())
    }

    /// Reads the values of one row, which are a flat list whatever the shape of the input.
    fn read_values(&mut self, reader: &mut JsonReader<'_>) -> Result<(), BoxedDecodeError> {
        let first = reader.peek()?;
        let only = self
            .schema
            .only_input()
            .map(|input| &self.schema.signature().inputs[input]);
        let is_deep = only
            .and_then(|spec| spec.dims.as_ref())
            .is_some_and(|dims| dims.len() > 2);
        if is_deep && first == Peek::Array {
            return self.read_list(reader);
        }
        self.read_bare(reader, first)
    }

    /// Reads an object by column names.
    fn read_columns(&mut self, reader: &mut JsonReader<'_>) -> Result<(), BoxedDecodeError> {
        let mut members = Vec::new();
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            let name = name.to_owned();
            members.push((name, reader.postpone()?));
            key = reader.next_key()?;
        }
        self.push_columns(members, reader.line_number())
    }

    /// Adds an instance with these members.
    pub fn push_record(&mut self, members: Vec<(String, JsonReader<'_>)>) -> Result<(), BoxedDecodeError> {
        self.count += 1;
        // A list is not a cell but the row of an input with an open width.
        let is_list = |value: &JsonReader<'_>| matches!(value.clone().peek(), Ok(Peek::Array));
        let is_cell = |(name, value): &(String, JsonReader<'_>)| match self.schema.find(name) {
            Some(NameTarget::Column(_)) | None => true,
            Some(NameTarget::Optional(_)) => false,
            Some(NameTarget::Input(input)) => self.schema.is_one_column(input) && !is_list(value),
        };
        if (!members.is_empty() && members.iter().all(is_cell)) || matches!(self.form, Some(InstanceForm::Cells(_))) {
            return self.push_columns(members, None);
        }
        self.inputs()?.read_members(members)
    }

    /// Adds a row of named cells.
    fn push_columns(
        &mut self,
        members: Vec<(String, JsonReader<'_>)>,
        line: Option<usize>,
    ) -> Result<(), BoxedDecodeError> {
        // All rows have the layout of the schema's columns, whatever the order of the members.
        let order = self.schema.table_order();
        let mut row: Vec<Option<JsonReader<'_>>> = vec![None; order.len()];
        for (name, cell) in members {
            let target = self.schema.find(&name);
            let Some(position) = order.iter().position(|own| Some(*own) == target) else {
                if self.schema.ignores_unknown() {
                    continue;
                }
                return Err(unknown_input(self.schema.signature(), &name, self.place(line)));
            };
            if row[position].replace(cell).is_some() {
                let (name, at) = (excerpt(&name), self.place(line));
                return Err(InputError::Duplicate { name, at }.into());
            }
        }
        self.push_cells(&row, line, |schema| TableLayout::of_order(schema, &order))
    }

    /// Adds an instance that is a list of cells.
    pub fn push_list(&mut self, cells: &[Option<JsonReader<'_>>]) -> Result<(), BoxedDecodeError> {
        self.count += 1;
        self.push_cells(cells, None, |schema| TableLayout::by_position(schema, cells.len()))
    }

    /// Adds a row of cells in the layout of the first row.
    fn push_cells(
        &mut self,
        cells: &[Option<JsonReader<'_>>],
        line: Option<usize>,
        layout: impl FnOnce(&Schema) -> Result<TableLayout, String>,
    ) -> Result<(), BoxedDecodeError> {
        let at = self.place(line);
        if self.form.is_none() {
            let layout =
                layout(self.schema).map_err(|problem| BoxedDecodeError::from(self.schema.layout_error(problem)))?;
            let rows = table::TableRows::new(self.schema, layout, self.most);
            self.form = Some(InstanceForm::Cells(Box::new(rows)));
        }
        match &mut self.form {
            Some(InstanceForm::Cells(rows)) => rows.push_json(cells, &|| at.clone()),
            Some(InstanceForm::Inputs(_)) | None => Err(mixed(self.schema)),
        }
    }

    fn inputs(&mut self) -> Result<&mut InputColumns<'s>, BoxedDecodeError> {
        let (schema, most, count) = (self.schema, self.most, self.count);
        let form = self
            .form
            .get_or_insert_with(|| InstanceForm::Inputs(InputColumns::new(schema, most)));
        match form {
            InstanceForm::Inputs(inputs) => {
                inputs.count = count;
                Ok(inputs)
            }
            InstanceForm::Cells(_) => Err(mixed(schema)),
        }
    }

    fn place(&self, line: Option<usize>) -> String {
        place(line, self.count)
    }

    /// Returns the inputs that the request sets, and the number of instances.
    pub fn finish(self) -> Result<(Vec<Option<Tensor>>, usize), DecodeError> {
        match self.form {
            Some(InstanceForm::Cells(rows)) => rows.finish(),
            Some(InstanceForm::Inputs(inputs)) => Ok((inputs.finish()?, self.count)),
            None => Ok((InputColumns::new(self.schema, 0).finish()?, 0)),
        }
    }
}

#[cold]
fn mixed(schema: &Schema) -> BoxedDecodeError {
    let problem = "some instances are lists of columns, others name inputs; give all in the same form".to_owned();
    schema.layout_error(problem).into()
}

#[cold]
fn partly_given(spec: &InputSpec, at: String) -> BoxedDecodeError {
    InputError::Value {
        name: excerpt(&spec.name),
        at,
        problem: "the input is optional: give it in all instances or in none".to_owned(),
    }
    .into()
}

fn place(line: Option<usize>, count: usize) -> String {
    match line {
        Some(line) => format!(" at line {line}"),
        None => format!(" in instance [{}]", count - 1),
    }
}
