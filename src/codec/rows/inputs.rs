//! The inputs of instances that name inputs, collected instance by instance.

use jiter::Peek;

use super::{ObjectOutcome, duplicate_input, partly_given, place, unknown_input};
use crate::codec::column::{ColumnBuilder, column_builder};
use crate::codec::error::{BoxedDecodeError, DecodeError, InputError, excerpt};
use crate::codec::fit::ShapeForm;
use crate::codec::json_reader::JsonReader;
use crate::codec::schema::{NameTarget, Schema};
use crate::tensor::Tensor;

/// The inputs of instances that name inputs.
pub(super) struct InputColumns<'s> {
    schema: &'s Schema,
    columns: Vec<Box<dyn ColumnBuilder + 's>>,
    /// The optional inputs that the instances set.
    optional: Vec<OptionalColumn<'s>>,
    /// For each input, the number of the last instance that set it; 0 before that.
    seen: Vec<usize>,
    /// The probable index of the next name: most objects have their keys in the model's order.
    guess: usize,
    /// Number of the current instance.
    pub(super) count: usize,
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
    pub(super) fn new(schema: &'s Schema, most: usize) -> Self {
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

    pub(super) fn read_value(
        &mut self,
        reader: &mut JsonReader<'_>,
        first: Peek,
        input: usize,
    ) -> Result<(), BoxedDecodeError> {
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

    pub(super) fn read_object(&mut self, reader: &mut JsonReader<'_>) -> Result<ObjectOutcome, BoxedDecodeError> {
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
    pub(super) fn read_members(&mut self, members: Vec<(String, JsonReader<'_>)>) -> Result<(), BoxedDecodeError> {
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
    pub(super) fn finish(mut self) -> Result<Vec<Option<Tensor>>, DecodeError> {
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
