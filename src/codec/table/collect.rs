//! Collects rows of cells into inputs.

use std::borrow::Cow;

use crate::codec::column::{ColumnBuilder, column_builder};
use crate::codec::error::{BoxedDecodeError, DecodeError};
use crate::codec::fit::ShapeForm;
use crate::codec::json_reader::JsonReader;
use crate::codec::schema::Schema;
use crate::tensor::Tensor;

use super::{Cells, TableLayout};

/// Collects rows of cells into inputs.
pub struct TableRows<'s> {
    schema: &'s Schema,
    layout: TableLayout,
    /// One for each share in the layout.
    columns: Vec<Box<dyn ColumnBuilder + 's>>,
    count: usize,
}

impl<'s> TableRows<'s> {
    /// `most` limits the number of cells.
    pub fn new(schema: &'s Schema, layout: TableLayout, most: usize) -> Self {
        let most = most / layout.shares.len().max(1);
        let inputs = layout.shares.iter().map(|share| share.input);
        let columns = inputs
            .map(|input| column_builder(&schema.signature().inputs[input], most))
            .collect();
        Self {
            schema,
            layout,
            columns,
            count: 0,
        }
    }

    /// Checks that a row has the width of the first one.
    pub fn check_width(&self, width: usize) -> Result<(), DecodeError> {
        if width == self.layout.width {
            return Ok(());
        }
        let problem = format!(
            "row {} has {width} columns where {} are expected",
            self.count + 1,
            self.layout.width
        );
        Err(self.schema.layout_error(problem))
    }

    /// Adds a row of text cells.
    pub fn push_text(&mut self, cells: &[Cow<'_, str>]) -> Result<(), DecodeError> {
        self.begin(cells.len())?;
        let missing = &self.schema.csv().missing;
        let is_missing = |cell: &str| {
            let cell = cell.trim_ascii();
            cell.is_empty() || missing.iter().any(|other| other == cell)
        };
        for (share, column) in self.layout.shares.iter().zip(&mut self.columns) {
            let mut push = |cell: &str, position: Option<usize>| {
                let pushed = if !missing.is_empty() && is_missing(cell) {
                    column.push_cell("")
                } else {
                    column.push_cell(cell)
                };
                pushed.map_err(|problem| {
                    self.schema
                        .unusable_cell(share.input, cell, position, self.count, problem)
                })
            };
            match &share.cells {
                Cells::Range(range) => {
                    for (position, cell) in range.clone().zip(&cells[range.clone()]) {
                        push(cell, Some(position))?;
                    }
                }
                Cells::Each(each) => {
                    for cell in each {
                        let given = cell.position.map(|position| &*cells[position]);
                        let default = cell
                            .column
                            .and_then(|column| self.schema.columns()[column].default.as_deref());
                        match (given, default) {
                            (Some(given), Some(default)) if is_missing(given) => push(default, None)?,
                            (Some(given), _) => push(given, cell.position)?,
                            (None, default) => push(default.unwrap_or_default(), None)?,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a row of JSON values, each as a reader positioned before it. `None` if the row omits
    /// the cell.
    pub fn push_json(
        &mut self,
        cells: &[Option<JsonReader<'_>>],
        at: &dyn Fn() -> String,
    ) -> Result<(), BoxedDecodeError> {
        self.begin(cells.len())?;
        for (share, column) in self.layout.shares.iter().zip(&mut self.columns) {
            let mut push = |position: Option<usize>, schema_column: Option<usize>| -> Result<(), BoxedDecodeError> {
                let default = schema_column.and_then(|column| self.schema.columns()[column].default.as_deref());
                let of_input = self
                    .schema
                    .rule(share.input)
                    .default
                    .as_ref()
                    .filter(|_| schema_column.is_none());
                if let Some(reader) = position.and_then(|position| cells[position].as_ref()) {
                    let mut reader = reader.clone();
                    let is_absent = default.is_some() && reader.clone().skip_null()?;
                    if !is_absent {
                        let first = reader.peek()?;
                        return column.read(&mut reader, first, 1);
                    }
                }
                if let Some(default) = of_input {
                    let mut reader = JsonReader::new("default", &default.json)?;
                    let first = reader.peek()?;
                    return column.read(&mut reader, first, 1);
                }
                let Some(default) = default else {
                    let name = schema_column.map_or_else(
                        || self.schema.signature().inputs[share.input].name.clone(),
                        |column| self.schema.columns()[column].name.clone(),
                    );
                    return Err(self.schema.missing(&name, at()));
                };
                column.push_cell(default).map_err(|problem| {
                    self.schema
                        .unusable_cell(share.input, default, None, self.count, problem)
                        .into()
                })
            };
            match &share.cells {
                Cells::Range(range) => {
                    for position in range.clone() {
                        push(Some(position), None)?;
                    }
                }
                Cells::Each(each) => {
                    for cell in each {
                        push(cell.position, cell.column)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, width: usize) -> Result<(), DecodeError> {
        self.check_width(width)?;
        self.count += 1;
        Ok(())
    }

    /// Returns the inputs, by their position in the signature, and the number of rows.
    pub fn finish(self) -> Result<(Vec<Option<Tensor>>, usize), DecodeError> {
        let mut tensors = vec![None; self.schema.signature().inputs.len()];
        for (share, column) in self.layout.shares.into_iter().zip(self.columns) {
            let shape = match share.row {
                Some(row) => std::iter::once(self.count).chain(row).collect(),
                None if self.count == 1 => Vec::new(),
                None => vec![self.count],
            };
            tensors[share.input] = Some(column.finish_shaped(shape, ShapeForm::Whole)?);
        }
        Ok((tensors, self.count))
    }
}
