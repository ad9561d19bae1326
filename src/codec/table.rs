//! Tables: rows of cells, and the assignment of the cells to inputs.
//!
//! The cells of a row are assigned by position, in the order of the manifest's columns or of the
//! model's inputs, or by the names in a header. In both cases a request has one [`TableLayout`],
//! and its rows are read straight into the inputs.
//!
//! Invariants: each cell of an input has one source, and the cells of an input are read in order.

mod collect;

use std::borrow::Cow;
use std::ops::Range;

use crate::codec::error::{BoxedDecodeError, DecodeError, InputError, describe_inputs, excerpt};
use crate::codec::numbers::ValueProblem;
use crate::codec::schema::{NameTarget, Schema};
use crate::tensor::{Dim, InputSpec, Signature};

pub(super) use collect::TableRows;

/// The positions of the cells of each input in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableLayout {
    shares: Vec<Share>,
    /// The number of cells in a row.
    pub width: usize,
}

/// The cells of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Share {
    input: usize,
    /// The sizes of the axes after the first. `None` for an input without axes.
    row: Option<Vec<usize>>,
    cells: Cells,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cells {
    /// A range of the row.
    Range(Range<usize>),
    /// Cells anywhere in the row, or with defaults.
    Each(Vec<Cell>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cell {
    /// The position in the row. `None` if rows do not have the column.
    position: Option<usize>,
    /// The column of the schema, if there is one.
    column: Option<usize>,
}

/// The result of matching a row of names with the schema.
pub(super) struct NamedLayout<'a> {
    /// Names that the schema does not have.
    pub unknown: Vec<&'a str>,
    /// A name for the same input or column as an earlier name.
    pub repeated: Option<&'a str>,
    /// The number of known names.
    pub known: usize,
    /// The layout, or the name of a column that is missing.
    pub layout: Result<TableLayout, String>,
}

impl TableLayout {
    /// Assigns the cells of a row of `width` cells by position.
    pub fn by_position(schema: &Schema, width: usize) -> Result<Self, String> {
        let columns = schema.columns();
        if !columns.is_empty() {
            if width != columns.len() {
                return Err(format!(
                    "row 1 has {width} columns where {} are expected",
                    columns.len()
                ));
            }
            let positions: Vec<Option<usize>> = (0..width).map(Some).collect();
            return Self::of_columns(schema, &positions, &vec![None; schema.signature().inputs.len()], width);
        }
        let needed: Vec<usize> = schema.inputs_without_default().collect();
        let settable: Vec<usize> = schema.settable_inputs().collect();
        assign(schema, &needed, width).or_else(|problem| {
            if settable == needed {
                return Err(problem);
            }
            assign(schema, &settable, width).map_err(|_| problem)
        })
    }

    /// Assigns the cells of a row by column name.
    pub fn by_name<'a>(schema: &Schema, names: &[&'a str]) -> NamedLayout<'a> {
        let mut columns = vec![None; schema.columns().len()];
        let mut inputs = vec![None; schema.signature().inputs.len()];
        let mut named = NamedLayout {
            unknown: Vec::new(),
            repeated: None,
            known: 0,
            layout: Err(String::new()),
        };
        for (position, &name) in names.iter().enumerate() {
            let slot = match schema.find(name) {
                Some(NameTarget::Column(column)) => &mut columns[column],
                Some(NameTarget::Input(input)) if schema.is_one_column(input) => &mut inputs[input],
                Some(NameTarget::Input(_) | NameTarget::Optional(_)) | None => {
                    named.unknown.push(name);
                    continue;
                }
            };
            named.known += 1;
            if slot.replace(position).is_some() {
                named.repeated.get_or_insert(name);
            }
        }
        named.layout = Self::of_columns(schema, &columns, &inputs, names.len());
        named
    }

    /// The layout of rows of `width` cells, with the positions of the schema's columns and of the
    /// inputs of one column. The error is the name of a missing column.
    fn of_columns(
        schema: &Schema,
        columns: &[Option<usize>],
        inputs: &[Option<usize>],
        width: usize,
    ) -> Result<Self, String> {
        let mut shares = Vec::new();
        for (input, spec) in schema.signature().inputs.iter().enumerate() {
            let own = schema
                .columns()
                .iter()
                .enumerate()
                .filter(|(_, column)| column.input == input);
            let mut cells: Vec<Cell> = own
                .map(|(index, _)| Cell {
                    position: columns[index],
                    column: Some(index),
                })
                .collect();
            match cells.as_mut_slice() {
                [] => {
                    let Some(position) = inputs[input] else {
                        // The default of the input, if there is one, applies to all rows.
                        if schema.rule(input).default.is_none() {
                            return Err(spec.name.clone());
                        }
                        continue;
                    };
                    cells.push(Cell {
                        position: Some(position),
                        column: None,
                    });
                }
                [only] => only.position = only.position.or(inputs[input]),
                _ => {}
            }
            if cells.iter().all(|cell| cell.position.is_none()) && schema.rule(input).default.is_some() {
                continue;
            }
            for cell in &cells {
                if let (None, Some(column)) = (cell.position, cell.column) {
                    let column = &schema.columns()[column];
                    if column.default.is_none() {
                        return Err(column.name.clone());
                    }
                }
            }
            let row = row_of(spec, cells.len()).ok_or_else(|| spec.name.clone())?;
            shares.push(Share {
                input,
                row,
                cells: Cells::Each(cells),
            });
        }
        Ok(Self { shares, width })
    }

    /// The layout of rows whose cells have this order. A row may omit some of them.
    pub fn of_order(schema: &Schema, order: &[NameTarget]) -> Result<Self, String> {
        let mut columns = vec![None; schema.columns().len()];
        let mut inputs = vec![None; schema.signature().inputs.len()];
        for (position, target) in order.iter().enumerate() {
            match *target {
                NameTarget::Column(column) => columns[column] = Some(position),
                NameTarget::Input(input) => inputs[input] = Some(position),
                // Optional inputs have no columns in a table.
                NameTarget::Optional(_) => {}
            }
        }
        let layout = Self::of_columns(schema, &columns, &inputs, order.len());
        layout.map_err(|missing| format!("input {} cannot be set by columns", excerpt(&missing)))
    }

    /// Whether a row with these cells can be read.
    pub fn reads(&self, schema: &Schema, cells: &[Cow<'_, str>]) -> bool {
        let mut rows = TableRows::new(schema, self.clone(), cells.len());
        rows.push_text(cells).is_ok()
    }
}

/// Whether a row of the input can be one cell.
pub(super) fn may_be_one_column(input: &InputSpec) -> bool {
    let mut dims = input.dims.iter().flatten().skip(1);
    dims.all(|dim| match dim {
        Dim::Fixed(size) => *size == 1,
        Dim::Dynamic(_) => true,
    })
}

/// The sizes of the axes after the first, for an input whose rows have `width` cells. `None` if its
/// rows cannot have that many.
fn row_of(spec: &InputSpec, width: usize) -> Option<Option<Vec<usize>>> {
    match width_of(spec)? {
        RowWidth::Known { width: own, row } => (own == width).then_some(row),
        RowWidth::Open { mut row, axis } => {
            let others = row.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, dim)| *dim);
            let unit = others.fold(1, usize::saturating_mul);
            if width == 0 || unit == 0 || !width.is_multiple_of(unit) {
                return None;
            }
            row[axis] = width / unit;
            Some(Some(row))
        }
    }
}

/// The number of cells in one row of an input.
enum RowWidth {
    Known {
        width: usize,
        row: Option<Vec<usize>>,
    },
    /// The axis at this position after the first is open. So the number of cells is any multiple of
    /// the product of the others.
    Open {
        row: Vec<usize>,
        axis: usize,
    },
}

/// The width of a row. `None` if several axes are unknown, so that the cells of a row could have
/// several shapes.
fn width_of(spec: &InputSpec) -> Option<RowWidth> {
    let Some(dims) = &spec.dims else {
        return Some(RowWidth::Open { row: vec![0], axis: 0 });
    };
    let Some((_, dims)) = dims.split_first() else {
        return Some(RowWidth::Known { width: 1, row: None });
    };
    let mut open = None;
    let mut row = Vec::with_capacity(dims.len());
    for (axis, dim) in dims.iter().enumerate() {
        match dim {
            Dim::Fixed(size) => row.push(*size),
            Dim::Dynamic(_) => {
                row.push(0);
                if open.replace(axis).is_some() {
                    return None;
                }
            }
        }
    }
    Some(match open {
        Some(axis) => RowWidth::Open { row, axis },
        None => RowWidth::Known {
            width: row.iter().copied().fold(1, usize::saturating_mul),
            row: Some(row),
        },
    })
}

/// Returns the input of each of `count` columns. The columns are assigned to `inputs` in order;
/// each gets as many as one of its rows has.
pub fn assign_columns(signature: &Signature, inputs: &[usize], count: usize) -> Result<Vec<usize>, String> {
    let layout = assign(&Schema::of(signature.clone()), inputs, count).map_err(|problem| {
        problem
            .replace("row 1 has", "there are")
            .replace(" columns where", " where")
    })?;
    let share = |share: Share| match share.cells {
        Cells::Range(range) => std::iter::repeat_n(share.input, range.len()),
        Cells::Each(cells) => std::iter::repeat_n(share.input, cells.len()),
    };
    Ok(layout.shares.into_iter().flat_map(share).collect())
}

/// Assigns `width` cells to `inputs` in order. Each gets as many as one of its rows has.
fn assign(schema: &Schema, inputs: &[usize], width: usize) -> Result<TableLayout, String> {
    let specs = &schema.signature().inputs;
    let widths: Option<Vec<RowWidth>> = inputs.iter().map(|&input| width_of(&specs[input])).collect();
    let widths = widths.ok_or_else(|| {
        "columns cannot be assigned to an input with several axes of unknown size; send JSON or NPY".to_owned()
    })?;
    let known = |width: &RowWidth| match width {
        RowWidth::Known { width, .. } => *width,
        RowWidth::Open { .. } => 0,
    };
    let taken = widths.iter().map(known).fold(0, usize::saturating_add);
    let open = widths
        .iter()
        .filter(|width| matches!(width, RowWidth::Open { .. }))
        .count();
    if open > 1 {
        return Err("columns cannot be assigned to several inputs of unknown width; send JSON".to_owned());
    }
    if width < taken || (open == 0 && width != taken) {
        let least = if open == 0 { "" } else { "at least " };
        return Err(format!("row 1 has {width} columns where {least}{taken} are expected"));
    }
    let mut shares = Vec::with_capacity(inputs.len());
    let mut start = 0;
    for (&input, width_of) in inputs.iter().zip(widths) {
        let (own, row) = match width_of {
            RowWidth::Known { width, row } => (width, row),
            RowWidth::Open { mut row, axis } => {
                let rest = width - taken;
                let others = row.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, dim)| *dim);
                let unit = others.fold(1, usize::saturating_mul);
                if rest == 0 || unit == 0 || !rest.is_multiple_of(unit) {
                    return Err(format!(
                        "row 1 has {rest} columns for the input of unknown width where a multiple of {unit} is expected"
                    ));
                }
                row[axis] = rest / unit;
                (rest, Some(row))
            }
        };
        shares.push(Share {
            input,
            row,
            cells: Cells::Range(start..start + own),
        });
        start += own;
    }
    Ok(TableLayout { shares, width })
}

impl Schema {
    /// Limit on the cells of a line that are kept. A longer line is refused by its number of cells.
    pub(super) fn most_cells(&self) -> usize {
        /// Limit on the columns of a header if unknown ones are ignored.
        const MOST: usize = 1 << 16;
        let width = |input: usize| match width_of(&self.signature().inputs[input]) {
            Some(RowWidth::Known { width, .. }) => width,
            Some(RowWidth::Open { .. }) | None => usize::MAX,
        };
        let own = self.settable_inputs().map(width).fold(1, usize::saturating_add);
        let own = own.max(self.columns().len().saturating_add(1));
        if self.ignores_unknown() { own.max(MOST) } else { own }
    }

    /// The error for rows with a wrong layout.
    #[cold]
    pub(super) fn layout_error(&self, problem: String) -> DecodeError {
        InputError::Layout {
            problem,
            takes: describe_inputs(self.signature()),
        }
        .into()
    }

    /// The error for a request that omits the input or column of this name.
    #[cold]
    pub(super) fn missing(&self, name: &str, at: String) -> BoxedDecodeError {
        InputError::Missing {
            name: excerpt(name),
            at,
            takes: describe_inputs(self.signature()),
        }
        .into()
    }

    #[cold]
    fn unusable_cell(
        &self,
        input: usize,
        cell: &str,
        position: Option<usize>,
        row: usize,
        problem: ValueProblem,
    ) -> DecodeError {
        if problem == ValueProblem::NoMemory {
            return DecodeError::OutOfMemory;
        }
        let spec = &self.signature().inputs[input];
        let given = match (position, cell.is_empty()) {
            (None, _) => format!("the default {}", excerpt(cell)),
            (Some(_), true) => "an empty cell".to_owned(),
            (Some(_), false) => excerpt(cell),
        };
        let mut problem = problem.describe(&given, spec.data_type);
        if row == 1 && position.is_some() {
            problem.push_str(
                "; the first line counts as a header only if it holds the names of the inputs, or with the parameter \
                 header=present",
            );
        }
        InputError::Value {
            name: excerpt(&spec.name),
            at: position.map_or_else(
                || format!(" at row {row}"),
                |at| format!(" at row {row} column {}", at + 1),
            ),
            problem,
        }
        .into()
    }
}

#[cfg(test)]
mod tests;
