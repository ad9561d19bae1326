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

use jiter::Peek;

use crate::codec::column::{ColumnBuilder, column_builder};
use crate::codec::element::ElementKind;
use crate::codec::error::{BoxedDecodeError, DecodeError, InputError, describe_inputs, excerpt};
use crate::codec::fit::ShapeForm;
use crate::codec::json_reader::JsonReader;
use crate::codec::schema::{FEATURES, NameTarget, Schema};
use crate::codec::table::{self, TableLayout};
use crate::tensor::{InputSpec, Signature, Tensor};

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

/// The inputs of instances that name inputs.
struct InputColumns<'s> {
    schema: &'s Schema,
    columns: Vec<Box<dyn ColumnBuilder + 's>>,
    /// The optional inputs that the instances set.
    optional: Vec<OptionalColumn<'s>>,
    /// For each input, the number of the last instance that set it; 0 before that.
    seen: Vec<usize>,
    /// The probable index of the next name: most objects have their keys in the model's order.
    guess: usize,
    count: usize,
}

/// An optional input that the first instance sets, so that all instances must.
struct OptionalColumn<'s> {
    /// Its position among the optional inputs of the signature.
    position: usize,
    column: Box<dyn ColumnBuilder + 's>,
    /// The number of instances that have set it.
    seen: usize,
}

impl<'s> InputColumns<'s> {
    fn new(schema: &'s Schema, most: usize) -> Self {
        let inputs = &schema.signature().inputs;
        let most = most / inputs.len().max(1);
        Self {
            schema,
            columns: inputs.iter().map(|input| column_builder(input, most)).collect(),
            optional: Vec::new(),
            seen: vec![0; inputs.len()],
            guess: 0,
            count: 0,
        }
    }

    fn read_value(&mut self, reader: &mut JsonReader<'_>, first: Peek, input: usize) -> Result<(), BoxedDecodeError> {
        self.fill(input, self.count - 1)?;
        self.seen[input] = self.count;
        self.columns[input].read(reader, first, 1)
    }

    /// Adds the default of an input for the instances that omit it, up to number `count`.
    fn fill(&mut self, input: usize, count: usize) -> Result<(), BoxedDecodeError> {
        if self.seen[input] >= count {
            return Ok(());
        }
        let Some(default) = &self.schema.rule(input).default else {
            let name = &self.schema.signature().inputs[input].name;
            return Err(self.schema.missing(name, place(None, self.seen[input] + 1)));
        };
        for _ in self.seen[input]..count {
            let mut reader = JsonReader::new("default", &default.json).map_err(BoxedDecodeError::from)?;
            let first = reader.peek()?;
            self.columns[input].read(&mut reader, first, 1)?;
        }
        self.seen[input] = count;
        Ok(())
    }

    /// Reads the value of the optional input at `position` in the current instance.
    fn read_optional(
        &mut self,
        reader: &mut JsonReader<'_>,
        position: usize,
        at: &dyn Fn() -> String,
    ) -> Result<(), BoxedDecodeError> {
        let schema = self.schema;
        let spec = &schema.signature().optional[position];
        let found = self.optional.iter().position(|own| own.position == position);
        let index = match found {
            Some(index) => index,
            None if self.count == 1 => {
                self.optional.push(OptionalColumn {
                    position,
                    column: column_builder(spec, reader.remaining()),
                    seen: 0,
                });
                self.optional.len() - 1
            }
            None => return Err(partly_given(spec, at())),
        };
        let optional = &mut self.optional[index];
        if optional.seen == self.count {
            let (name, at) = (excerpt(&spec.name), at());
            return Err(InputError::Duplicate { name, at }.into());
        }
        if optional.seen + 1 != self.count {
            return Err(partly_given(spec, at()));
        }
        optional.seen = self.count;
        let first = reader.peek()?;
        optional.column.read(reader, first, 1)
    }

    fn read_object(&mut self, reader: &mut JsonReader<'_>) -> Result<ObjectOutcome, BoxedDecodeError> {
        let signature = self.schema.signature();
        let mut given = 0;
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            let index = match self.find(name) {
                Some(NameTarget::Input(index)) => index,
                Some(NameTarget::Column(_)) if given == 0 => return Ok(ObjectOutcome::HasColumns),
                Some(NameTarget::Optional(position)) => {
                    let (line, count) = (reader.line_number(), self.count);
                    self.read_optional(reader, position, &|| place(line, count))?;
                    key = reader.next_key()?;
                    continue;
                }
                None if self.schema.ignores_unknown() => {
                    reader.skip()?;
                    key = reader.next_key()?;
                    continue;
                }
                Some(NameTarget::Column(_)) | None => {
                    let name = name.to_owned();
                    return Err(unknown_input(signature, &name, self.place(reader)));
                }
            };
            if self.seen[index] == self.count {
                return Err(duplicate_input(signature, index, self.place(reader)));
            }
            given += 1;
            let first = reader.peek()?;
            self.read_value(reader, first, index)?;
            key = reader.next_key()?;
        }
        if given == 0 && !self.schema.columns().is_empty() {
            return Ok(ObjectOutcome::HasColumns);
        }
        self.check_complete(given, &|| self.place(reader))?;
        Ok(ObjectOutcome::Done)
    }

    /// Checks that the current instance sets every input without a default. `given` is the number
    /// of inputs that it sets.
    fn check_complete(&self, given: usize, at: &dyn Fn() -> String) -> Result<(), BoxedDecodeError> {
        if given == self.columns.len() {
            return Ok(());
        }
        let missing = |input: &usize| self.seen[*input] != self.count;
        match self.schema.inputs_without_default().find(missing) {
            Some(index) => Err(self.schema.missing(&self.schema.signature().inputs[index].name, at())),
            None => Ok(()),
        }
    }

    /// Reads an object from its members.
    fn read_members(&mut self, members: Vec<(String, JsonReader<'_>)>) -> Result<(), BoxedDecodeError> {
        let signature = self.schema.signature();
        let mut given = 0;
        for (name, mut value) in members {
            let index = match self.schema.find(&name) {
                Some(NameTarget::Input(index)) => index,
                Some(NameTarget::Optional(position)) => {
                    let count = self.count;
                    self.read_optional(&mut value, position, &|| place(None, count))?;
                    continue;
                }
                Some(NameTarget::Column(_)) | None if self.schema.ignores_unknown() => continue,
                Some(NameTarget::Column(_)) | None => {
                    return Err(unknown_input(signature, &name, place(None, self.count)));
                }
            };
            if self.seen[index] == self.count {
                return Err(duplicate_input(signature, index, place(None, self.count)));
            }
            given += 1;
            let first = value.peek()?;
            self.read_value(&mut value, first, index)?;
        }
        self.check_complete(given, &|| place(None, self.count))
    }

    fn find(&mut self, name: &str) -> Option<NameTarget> {
        let inputs = &self.schema.signature().inputs;
        if inputs.get(self.guess).is_some_and(|input| input.name == name) {
            self.guess += 1;
            return Some(NameTarget::Input(self.guess - 1));
        }
        let found = self.schema.find(name);
        self.guess = match found {
            Some(NameTarget::Input(index)) => index + 1,
            Some(NameTarget::Column(_) | NameTarget::Optional(_)) | None => 0,
        };
        found
    }

    #[cold]
    fn place(&self, reader: &JsonReader<'_>) -> String {
        place(reader.line_number(), self.count)
    }

    /// Returns the inputs that the request sets. The optional ones follow, if it sets any.
    fn finish(mut self) -> Result<Vec<Option<Tensor>>, DecodeError> {
        let (schema, optional) = (self.schema, std::mem::take(&mut self.optional));
        let count = self.count;
        let mut inputs = self.finish_inputs()?;
        if optional.is_empty() {
            return Ok(inputs);
        }
        let first = inputs.len();
        inputs.resize(schema.empty_slots().len(), None);
        let has_records = schema.signature().has_open_records();
        for OptionalColumn { position, column, seen } in optional {
            if seen != count {
                let spec = &schema.signature().optional[position];
                return Err(partly_given(spec, place(None, seen + 1)).into());
            }
            inputs[first + position] = Some(column.finish_rows(count, has_records)?);
        }
        Ok(inputs)
    }

    fn finish_inputs(mut self) -> Result<Vec<Option<Tensor>>, DecodeError> {
        let count = self.count;
        for input in 0..self.columns.len() {
            // `Schema::complete` sets an input that no instance sets to its default.
            if self.seen[input] > 0 {
                self.fill(input, count)?;
            }
        }
        let inputs = self.columns.into_iter().zip(self.seen).enumerate();
        let has_records = self.schema.signature().has_open_records();
        let tensor = |(index, (column, seen)): (usize, (Box<dyn ColumnBuilder + 's>, usize))| {
            if count == 0 {
                let is_left_out = self.schema.rule(index).default.is_some();
                return match is_left_out {
                    true => Ok(None),
                    false => column.finish_shaped(vec![0], ShapeForm::Rows).map(Some),
                };
            }
            if seen == 0 {
                return Ok(None);
            }
            column.finish_rows(count, has_records).map(Some)
        };
        inputs.map(tensor).collect()
    }
}
