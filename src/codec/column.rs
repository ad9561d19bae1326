//! One input while it is being read: its elements in one flat vector, its shape learnt on the way.
//!
//! Nested arrays are read with a counter per depth instead of a vector per array, so a batch costs one allocation
//! that doubles, and depth is bounded by [`MAX_DEPTH`] without any recursion. The first array at each depth says how
//! long the others have to be.

use jiter::Peek;

use crate::codec::element::{Kind, read_json, with_kind};
use crate::codec::error::{DecodeError, Fault, InputError, clipped, excerpt};
use crate::codec::fit::{Form, fit, mismatch};
use crate::codec::json_reader::{Reader, too_deep};
use crate::codec::numbers::Problem;
use crate::tensor::{Dim, InputSpec, Shape, Tensor, TensorError};

/// Deepest nesting of arrays; also the highest rank that can be given.
pub(super) const MAX_DEPTH: usize = 32;
/// Most elements that are made room for before the first one is seen.
const MAX_ROOM: usize = 1 << 16;
/// Most indices in a message that says where something is.
const MAX_PATH: usize = 8;

/// An input being read, whatever its element type.
pub(super) trait Column {
    /// Reads the value that `first` begins, inside of `outer` arrays (0 or 1) that the caller walks through.
    fn read(&mut self, reader: &mut Reader<'_>, first: Peek, outer: usize) -> Result<(), Fault>;
    /// Adds an element from a CSV cell.
    fn push_cell(&mut self, cell: &str) -> Result<(), Problem>;
    /// The tensor, shaped as it was nested and fitted to the model's shape.
    fn finish(self: Box<Self>, form: Form) -> Result<Tensor, DecodeError>;
    /// The tensor under a shape that is known otherwise.
    fn finish_shaped(self: Box<Self>, shape: Vec<usize>, form: Form) -> Result<Tensor, DecodeError>;
}

/// Starts an input of which at most `most` elements can come.
pub(super) fn column(spec: &InputSpec, most: usize) -> Box<dyn Column + '_> {
    let fixed = spec.dims.iter().flatten().filter_map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Dynamic(_) => None,
    });
    let one_row = fixed.fold(1usize, usize::saturating_mul);
    let room = one_row.min(most).min(MAX_ROOM);
    with_kind!(spec.data_type, K => Box::new(Typed::<K> {
        spec,
        axes: Axes::default(),
        items: Vec::with_capacity(room),
    }))
}

struct Typed<'s, K: Kind> {
    spec: &'s InputSpec,
    axes: Axes,
    items: Vec<K::Item>,
}

impl<K: Kind> Column for Typed<'_, K> {
    fn read(&mut self, reader: &mut Reader<'_>, first: Peek, outer: usize) -> Result<(), Fault> {
        let mut peek = first;
        self.axes.enter(outer);
        loop {
            // A value begins.
            if peek == Peek::Array {
                if self.axes.depth == MAX_DEPTH {
                    return Err(reader.malformed(too_deep()));
                }
                self.axes.open().map_err(|uneven| self.uneven(reader, uneven))?;
                if let Some(next) = reader.enter_array()? {
                    peek = next;
                    continue;
                }
                self.axes.close().map_err(|uneven| self.uneven(reader, uneven))?;
            } else {
                self.axes.leaf().map_err(|uneven| self.uneven(reader, uneven))?;
                let start = reader.position();
                match read_json::<K>(reader, peek)? {
                    Ok(item) => self.items.push(item),
                    Err(problem) => return Err(self.unusable(reader, start, peek, problem)),
                }
            }
            // A value has ended, and with it perhaps the arrays around it.
            loop {
                self.axes.advance();
                if self.axes.depth == outer {
                    return Ok(());
                }
                if let Some(next) = reader.next_value()? {
                    peek = next;
                    break;
                }
                self.axes.close().map_err(|uneven| self.uneven(reader, uneven))?;
            }
        }
    }

    fn push_cell(&mut self, cell: &str) -> Result<(), Problem> {
        self.items.push(K::from_cell(cell)?);
        Ok(())
    }

    fn finish(self: Box<Self>, form: Form) -> Result<Tensor, DecodeError> {
        let shape = self.axes.shape();
        self.finish_shaped(shape, form)
    }

    fn finish_shaped(self: Box<Self>, shape: Vec<usize>, form: Form) -> Result<Tensor, DecodeError> {
        let shape = fit(self.spec, shape, form)
            .map_err(|shape| mismatch(self.spec, format_args!("an array of shape {}", Shape(&shape))))?;
        K::tensor(shape, self.items).map_err(|error| wrong_size(self.spec, &error).into())
    }
}

/// A declared shape that the data does not fill.
pub(super) fn wrong_size(spec: &InputSpec, error: &TensorError) -> InputError {
    InputError::Value {
        name: excerpt(&spec.name),
        at: String::new(),
        problem: clipped(error, 200),
    }
}

impl<K: Kind> Typed<'_, K> {
    #[cold]
    fn uneven(&self, reader: &Reader<'_>, uneven: Uneven) -> Fault {
        self.fault(reader, uneven.depth, uneven.problem)
    }

    /// The value that `peek` began at `start` is no element of this type.
    #[cold]
    fn unusable(&self, reader: &Reader<'_>, start: usize, peek: Peek, problem: Problem) -> Fault {
        let given = match peek {
            Peek::Object => "an object".to_owned(),
            Peek::String => format!("the string {}", excerpt(reader.since(start).trim_matches('"'))),
            _ => clipped(reader.since(start), 64),
        };
        self.fault(reader, self.axes.depth, problem.describe(&given, self.spec.data_type))
    }

    fn fault(&self, reader: &Reader<'_>, depth: usize, problem: String) -> Fault {
        InputError::Value {
            name: excerpt(&self.spec.name),
            at: self.axes.place(depth, reader.line_number()),
            problem,
        }
        .into()
    }
}

/// The shape of nested arrays: how long the arrays at each depth are, and how far the open ones have got.
struct Axes {
    /// Arrays that are open.
    depth: usize,
    /// The greatest depth so far.
    deepest: usize,
    /// The depth at which values stand, once there has been one.
    rank: Option<usize>,
    sizes: [Option<usize>; MAX_DEPTH],
    /// Values that are complete in the open array of each depth.
    counts: [usize; MAX_DEPTH],
}

/// Arrays of different lengths or depths.
struct Uneven {
    depth: usize,
    problem: String,
}

impl Default for Axes {
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

impl Axes {
    /// Begins a value inside of `outer` arrays.
    fn enter(&mut self, outer: usize) {
        self.depth = outer;
        self.deepest = self.deepest.max(outer);
    }

    /// An array begins. The caller has checked that there is a depth left.
    fn open(&mut self) -> Result<(), Uneven> {
        if self.rank.is_some_and(|rank| self.depth >= rank) {
            return Err(self.uneven(self.depth, || "an array where the ones before have values".to_owned()));
        }
        self.counts[self.depth] = 0;
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        Ok(())
    }

    /// A value that is no array begins.
    #[inline]
    fn leaf(&mut self) -> Result<(), Uneven> {
        if self.rank == Some(self.depth) {
            return Ok(());
        }
        if self.rank.is_some() || self.deepest != self.depth {
            return Err(self.uneven(self.depth, || "a value where the ones before have arrays".to_owned()));
        }
        self.rank = Some(self.depth);
        Ok(())
    }

    /// A value is complete.
    #[inline]
    fn advance(&mut self) {
        if let Some(innermost) = self.depth.checked_sub(1) {
            self.counts[innermost] += 1;
        }
    }

    /// The innermost array ends.
    fn close(&mut self) -> Result<(), Uneven> {
        self.depth -= 1;
        let given = self.counts[self.depth];
        let expected = *self.sizes[self.depth].get_or_insert(given);
        if given != expected {
            return Err(self.uneven(self.depth, || {
                format!("uneven arrays: {given} values where the ones before have {expected}")
            }));
        }
        Ok(())
    }

    #[cold]
    fn uneven(&self, depth: usize, problem: impl FnOnce() -> String) -> Uneven {
        Uneven {
            depth,
            problem: problem(),
        }
    }

    /// The outer array that a caller walks through never closes here: its size is how far it has got.
    fn shape(&self) -> Vec<usize> {
        let rank = self.rank.unwrap_or(self.deepest);
        let size = |axis: usize| self.sizes[axis].unwrap_or(self.counts[axis]);
        (0..rank).map(size).collect()
    }

    /// Where the value is that stands inside of `depth` arrays: ` at [2][0]`, or with the line that the row is.
    fn place(&self, depth: usize, line: Option<usize>) -> String {
        use std::fmt::Write;
        let mut place = String::new();
        let path = &self.counts[..depth];
        let path = match line {
            Some(line) => {
                let _ = write!(place, " at line {line}");
                path.get(1..).unwrap_or_default()
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
