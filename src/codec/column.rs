//! Builds one input while it is read: one flat vector of elements, and the shape of their nesting.
//!
//! A counter per depth replaces a vector per array. So a batch costs one growing allocation, and
//! [`MAX_DEPTH`] bounds the depth without recursion. The first array at each depth sets the length
//! of the others.

use std::fmt::{self, Write};

use jiter::Peek;

use crate::codec::alloc;
use crate::codec::element::{ElementKind, read_json, with_kind};
use crate::codec::error::{BoxedDecodeError, DecodeError, InputError, clipped, excerpt};
use crate::codec::fit::{ShapeForm, fit, mismatch};
use crate::codec::json_reader::{JsonReader, too_deep};
use crate::codec::numbers::{MAX_STRINGS, ValueProblem};
use crate::tensor::{DataType, Dim, InputSpec, Shape, Tensor, TensorError};

/// Limit on the nesting of arrays, and so on the rank of an input.
pub(super) const MAX_DEPTH: usize = 32;
/// Limit on the elements that are allocated before the first one is read.
const MAX_CAPACITY: usize = 1 << 16;
/// Limit on the indices in the position that a message shows.
const MAX_PATH: usize = 8;

/// An input that is being read, independent of its element type.
pub(super) trait ColumnBuilder {
    /// Reads the value that starts with `first`. The caller iterates over `outer` (0 or 1)
    /// enclosing arrays.
    fn read(&mut self, reader: &mut JsonReader<'_>, first: Peek, outer: usize) -> Result<(), BoxedDecodeError>;
    /// Appends an element from a CSV cell.
    fn push_cell(&mut self, cell: &str) -> Result<(), ValueProblem>;
    /// Returns the tensor. Its shape is that of the nesting, fitted to the model's shape.
    fn finish(self: Box<Self>, form: ShapeForm) -> Result<Tensor, DecodeError>;
    /// Returns the tensor of `count` rows that were read one after the other. `has_records` says
    /// whether any input of the model counts records on its first axis. If so, an input without
    /// such an axis is either repeated whole in every row, or has the records on another axis.
    fn finish_rows(self: Box<Self>, count: usize, has_records: bool) -> Result<Tensor, DecodeError>;
    /// Returns the tensor with a shape that the caller knows.
    fn finish_shaped(self: Box<Self>, shape: Vec<usize>, form: ShapeForm) -> Result<Tensor, DecodeError>;
}

/// Starts an input of at most `most` elements. Allocates one row or `most` elements, whichever is
/// less.
pub(super) fn column_builder(spec: &InputSpec, most: usize) -> Box<dyn ColumnBuilder + '_> {
    let fixed = spec.dims.iter().flatten().filter_map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Dynamic(_) => None,
    });
    let one_row = fixed.fold(1usize, usize::saturating_mul);
    let capacity = one_row.min(most).min(MAX_CAPACITY);
    with_kind!(spec.data_type, K => Box::new(TypedColumn::<K> {
        spec,
        axes: NestedAxes::default(),
        items: Vec::with_capacity(capacity),
    }))
}

struct TypedColumn<'s, K: ElementKind> {
    spec: &'s InputSpec,
    axes: NestedAxes,
    items: Vec<K::Item>,
}

impl<K: ElementKind> ColumnBuilder for TypedColumn<'_, K> {
    fn read(&mut self, reader: &mut JsonReader<'_>, first: Peek, outer: usize) -> Result<(), BoxedDecodeError> {
        let mut peek = first;
        self.axes.enter(outer);
        loop {
            // The next value starts here.
            if peek == Peek::Array {
                if self.axes.depth == MAX_DEPTH {
                    return Err(reader.malformed(too_deep()));
                }
                self.axes.open().map_err(|uneven| self.uneven(reader, &uneven))?;
                if let Some(next) = reader.enter_array()? {
                    peek = next;
                    continue;
                }
                self.axes.close().map_err(|uneven| self.uneven(reader, &uneven))?;
            } else {
                self.axes.leaf().map_err(|uneven| self.uneven(reader, &uneven))?;
                let in_array = self.axes.depth > outer;
                let plain = reader.numbers(in_array, |text| {
                    let scanned = K::scan(text).filter(|_| alloc::reserve_one(&mut self.items).is_ok());
                    scanned.map(|(item, length)| {
                        self.items.push(item);
                        length
                    })
                });
                match plain.checked_sub(1) {
                    Some(before) => self.axes.pass(before),
                    None => self.read_one(reader, peek)?,
                }
            }
            // The end of a value may also end the arrays around it.
            loop {
                self.axes.advance();
                if self.axes.depth == outer {
                    return Ok(());
                }
                if let Some(next) = reader.next_value()? {
                    peek = next;
                    break;
                }
                self.axes.close().map_err(|uneven| self.uneven(reader, &uneven))?;
            }
        }
    }

    fn push_cell(&mut self, cell: &str) -> Result<(), ValueProblem> {
        self.check_count()?;
        alloc::reserve_one(&mut self.items).map_err(|_| ValueProblem::NoMemory)?;
        self.items.push(K::from_cell(cell)?);
        Ok(())
    }

    fn finish(self: Box<Self>, form: ShapeForm) -> Result<Tensor, DecodeError> {
        let shape = self.axes.shape();
        self.finish_shaped(shape, form)
    }

    fn finish_rows(mut self: Box<Self>, count: usize, has_records: bool) -> Result<Tensor, DecodeError> {
        let shape = self.axes.shape();
        let is_stacked =
            self.spec.has_record_axis() || !has_records && fit(self.spec, shape.clone(), ShapeForm::Rows).is_ok();
        if is_stacked || shape.first() != Some(&count) {
            return self.finish_shaped(shape, ShapeForm::Rows);
        }
        let row = &shape[1..];
        if self.spec.accepts(row) {
            let length = self.items.len() / count.max(1);
            let (first, others) = self.items.split_at(length.min(self.items.len()));
            if others.chunks(length.max(1)).any(|other| other != first) {
                return Err(InputError::Value {
                    name: excerpt(&self.spec.name),
                    at: String::new(),
                    problem: "it has no axis for records, so all instances must give the same value".to_owned(),
                }
                .into());
            }
            self.items.truncate(length);
            let row = row.to_vec();
            return self.finish_shaped(row, ShapeForm::Declared);
        }
        if let Some(axis) = records_axis(self.spec, row) {
            let mut moved = row.to_vec();
            moved.insert(axis, count);
            let inner: usize = row[axis..].iter().product();
            let length: usize = row.iter().product();
            let mut items = alloc::with_capacity(self.items.len())?;
            for outer in 0..length.checked_div(inner).unwrap_or(0) {
                for record in 0..count {
                    let start = record * length + outer * inner;
                    items.extend_from_slice(&self.items[start..start + inner]);
                }
            }
            self.items = items;
            return self.finish_shaped(moved, ShapeForm::Declared);
        }
        self.finish_shaped(shape, ShapeForm::Rows)
    }

    fn finish_shaped(self: Box<Self>, shape: Vec<usize>, form: ShapeForm) -> Result<Tensor, DecodeError> {
        let shape = fit(self.spec, shape, form)
            .map_err(|shape| mismatch(self.spec, format_args!("an array of shape {}", Shape(&shape))))?;
        K::tensor(shape, self.items).map_err(|error| wrong_size(self.spec, &error).into())
    }
}

/// The axis that counts records, other than the first: the only open axis of the input, if the
/// shape `row` of one record has all the other axes.
fn records_axis(spec: &InputSpec, row: &[usize]) -> Option<usize> {
    let dims = spec.dims.as_deref()?;
    let mut open = dims
        .iter()
        .enumerate()
        .filter(|(_, dim)| matches!(dim, Dim::Dynamic(_)));
    let (axis, _) = open.next().filter(|_| open.next().is_none())?;
    let others = dims.iter().enumerate().filter(|(index, _)| *index != axis);
    let is_row = dims.len() == row.len() + 1 && others.zip(row).all(|((_, dim), size)| *dim == Dim::Fixed(*size));
    is_row.then_some(axis)
}

/// The error for data that does not fill its shape.
pub(super) fn wrong_size(spec: &InputSpec, error: &TensorError) -> InputError {
    InputError::Value {
        name: excerpt(&spec.name),
        at: String::new(),
        problem: clipped(error, 200),
    }
}

impl<K: ElementKind> TypedColumn<'_, K> {
    fn check_count(&self) -> Result<(), ValueProblem> {
        if K::DATA_TYPE == DataType::String && self.items.len() >= MAX_STRINGS {
            return Err(ValueProblem::TooManyStrings);
        }
        Ok(())
    }

    fn read_one(&mut self, reader: &mut JsonReader<'_>, first: Peek) -> Result<(), BoxedDecodeError> {
        let start = reader.position();
        alloc::reserve_one(&mut self.items)?;
        match self.check_count().and(read_json::<K>(reader, first)?) {
            Ok(item) => self.items.push(item),
            Err(problem) => return Err(self.unusable(reader, start, first, problem)),
        }
        Ok(())
    }

    #[cold]
    fn uneven(&self, reader: &JsonReader<'_>, uneven: &Uneven) -> BoxedDecodeError {
        self.fault(reader, uneven.to_string())
    }

    /// The error for a value that is not an element of this type. It starts with `peek` at `start`.
    #[cold]
    fn unusable(&self, reader: &JsonReader<'_>, start: usize, peek: Peek, problem: ValueProblem) -> BoxedDecodeError {
        let given = match peek {
            Peek::Object => "an object".to_owned(),
            Peek::String => format!("the string {}", excerpt(reader.since(start).trim_matches('"'))),
            _ => clipped(reader.since(start), 64),
        };
        self.fault(reader, problem.describe(&given, self.spec.data_type))
    }

    fn fault(&self, reader: &JsonReader<'_>, problem: String) -> BoxedDecodeError {
        InputError::Value {
            name: excerpt(&self.spec.name),
            at: self.axes.place(reader.line_number()),
            problem,
        }
        .into()
    }
}

/// The shape of nested arrays: the length of the arrays at each depth, and the progress in the open
/// ones.
struct NestedAxes {
    /// The number of open arrays.
    depth: usize,
    /// The greatest depth so far.
    deepest: usize,
    /// The depth of the values; `None` before the first one.
    rank: Option<usize>,
    sizes: [Option<usize>; MAX_DEPTH],
    /// The number of complete values in the open array of each depth.
    counts: [usize; MAX_DEPTH],
}

/// Arrays of different lengths or depths. The first value that differs is inside
/// [`NestedAxes::depth`] arrays.
enum Uneven {
    ArrayForValue,
    ValueForArray,
    Length { given: usize, expected: usize },
}

impl fmt::Display for Uneven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArrayForValue => f.write_str("an array where the earlier elements are values"),
            Self::ValueForArray => f.write_str("a value where the earlier elements are arrays"),
            Self::Length { given, expected } => {
                write!(
                    f,
                    "uneven arrays: length {given} where the earlier arrays have length {expected}"
                )
            }
        }
    }
}

impl Default for NestedAxes {
    fn default() -> Self {
        Self {
            depth: 0,
            deepest: 0,
            rank: None,
            sizes: [None; MAX_DEPTH],
            counts: [0; MAX_DEPTH],
        }
    }
}

impl NestedAxes {
    /// Starts a value inside `outer` arrays.
    fn enter(&mut self, outer: usize) {
        self.depth = outer;
        self.deepest = self.deepest.max(outer);
    }

    /// Opens an array. The caller has checked the depth against [`MAX_DEPTH`].
    fn open(&mut self) -> Result<(), Uneven> {
        if self.rank.is_some_and(|rank| self.depth >= rank) {
            return Err(Uneven::ArrayForValue);
        }
        self.counts[self.depth] = 0;
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        Ok(())
    }

    /// Starts a value that is not an array.
    #[inline]
    fn leaf(&mut self) -> Result<(), Uneven> {
        if self.rank == Some(self.depth) {
            return Ok(());
        }
        if self.rank.is_some() || self.deepest != self.depth {
            return Err(Uneven::ValueForArray);
        }
        self.rank = Some(self.depth);
        Ok(())
    }

    /// Counts one complete value.
    #[inline]
    fn advance(&mut self) {
        self.pass(1);
    }

    /// Counts complete values of the innermost array.
    #[inline]
    fn pass(&mut self, values: usize) {
        if let Some(innermost) = self.depth.checked_sub(1) {
            self.counts[innermost] += values;
        }
    }

    /// Closes the innermost array.
    fn close(&mut self) -> Result<(), Uneven> {
        self.depth -= 1;
        let given = self.counts[self.depth];
        let expected = *self.sizes[self.depth].get_or_insert(given);
        if given != expected {
            return Err(Uneven::Length { given, expected });
        }
        Ok(())
    }

    /// The shape so far. An array that the caller iterates over is never closed here, so its size
    /// is the number of its values so far.
    fn shape(&self) -> Vec<usize> {
        let rank = self.rank.unwrap_or(self.deepest);
        let size = |axis: usize| self.sizes[axis].unwrap_or(self.counts[axis]);
        (0..rank).map(size).collect()
    }

    /// The position of the next value, for messages: ` at [2][0]`, or with the line of the row.
    fn place(&self, line: Option<usize>) -> String {
        let mut place = String::new();
        let path = &self.counts[..self.depth];
        let path = match line {
            Some(line) => {
                let inner = path.get(1..).unwrap_or_default();
                let _ = write!(place, " at line {line}{}", if inner.is_empty() { "" } else { ", " });
                inner
            }
            None => {
                place.push_str(if path.is_empty() { "" } else { " at " });
                path
            }
        };
        for index in path.iter().take(MAX_PATH) {
            let _ = write!(place, "[{index}]");
        }
        if path.len() > MAX_PATH {
            place.push_str("[…]");
        }
        place
    }
}
