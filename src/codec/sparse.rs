//! Matrices of which only the elements that are not zero are given, made dense: no model takes them
//! otherwise.
//!
//! Few bytes can claim a matrix of any size, so what a matrix becomes is bounded
//! ([`MAX_DENSE_BYTES`]) and checked before any of it is made. An element that is given twice is
//! refused: some writers mean the sum, others the last.

use super::alloc;
use super::element::{ElementKind, with_kind};
use super::error::{DecodeError, InputError, excerpt};
use super::fit::mismatch;
use super::npy::StoredArray;
use super::numbers::AnyNumber;
use crate::tensor::{DataType, InputSpec, Shape, Tensor};

/// Most bytes that a request becomes when sparse rows are made dense, or compressed arrays are
/// unpacked.
pub(super) const MAX_DENSE_BYTES: usize = 256 << 20;

/// A matrix, its elements by place.
pub(super) struct Sparse {
    rows: usize,
    columns: usize,
    /// For each value its index in the dense matrix, row by row; inside of it.
    places: Vec<usize>,
    values: StoredArray,
}

/// Where a value cannot be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfBounds {
    pub row: u64,
    pub column: u64,
}

/// The reason why places and values make no matrix.
#[derive(Debug)]
pub(super) enum SparseError {
    OutOfBounds(OutOfBounds),
    /// The numbers of places and of values differ.
    Count {
        places: usize,
        values: usize,
    },
    Size,
    NoMemory,
}

impl Sparse {
    /// A matrix of `values` at `places`, which are rows and columns.
    pub fn new(
        shape: [usize; 2],
        places: impl Iterator<Item = (u64, u64)>,
        count: usize,
        values: StoredArray,
    ) -> Result<Self, SparseError> {
        let [rows, columns] = shape;
        rows.checked_mul(columns).ok_or(SparseError::Size)?;
        let mut flat = alloc::with_capacity(count).map_err(|_| SparseError::NoMemory)?;
        for (row, column) in places {
            let inside = |at: u64, size: usize| usize::try_from(at).ok().filter(|&at| at < size);
            let place = inside(row, rows)
                .zip(inside(column, columns))
                .map(|(row, column)| row * columns + column);
            alloc::reserve_one(&mut flat).map_err(|_| SparseError::NoMemory)?;
            flat.push(place.ok_or(SparseError::OutOfBounds(OutOfBounds { row, column }))?);
        }
        if flat.len() != values.len() {
            return Err(SparseError::Count {
                places: flat.len(),
                values: values.len(),
            });
        }
        Ok(Self {
            rows,
            columns,
            places: flat,
            values,
        })
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// All elements in the type of `spec`, under the matrix's shape.
    pub fn dense(self, spec: &InputSpec) -> Result<Tensor, DecodeError> {
        let shape = self.shape();
        if spec.data_type == DataType::String {
            return Err(mismatch(spec, format_args!("a sparse matrix of shape {}", Shape(&shape))).into());
        }
        let bytes = dense_bytes(shape, spec.data_type);
        let count = self.rows * self.columns;
        if bytes.is_none_or(|bytes| bytes > MAX_DENSE_BYTES) {
            return Err(too_large(format_args!("a sparse matrix of shape {}", Shape(&shape))));
        }
        let values = self.values.flat(spec)?;
        let mut seen: Vec<u64> = alloc::with_capacity(count.div_ceil(64))?;
        seen.resize(count.div_ceil(64), 0);
        for &place in &self.places {
            let (word, bit) = (place / 64, 1 << (place % 64));
            if seen[word] & bit != 0 {
                let (row, column) = (place / self.columns, place % self.columns);
                return Err(InputError::Value {
                    name: excerpt(&spec.name),
                    at: format!(" at row {row}, column {column}"),
                    problem: "two values for one place; sum duplicates before sending (sum_duplicates() in SciPy)"
                        .to_owned(),
                }
                .into());
            }
            seen[word] |= bit;
        }
        drop(seen);
        with_kind!(spec.data_type, K => {
            let zero = K::from_number(AnyNumber::Int(0)).map_err(|_| mismatch(spec, "a sparse matrix"))?;
            let mut items = alloc::with_capacity(count)?;
            items.resize(count, zero);
            for (&place, value) in self.places.iter().zip(K::items(&values)) {
                items[place].clone_from(value);
            }
            K::tensor(shape.to_vec(), items)
        })
        .map_err(|error| super::column::wrong_size(spec, &error).into())
    }
}

/// Bytes of a dense matrix; `None` when no number says so.
pub(super) fn dense_bytes([rows, columns]: [usize; 2], data_type: DataType) -> Option<usize> {
    rows.checked_mul(columns)?.checked_mul(data_type.size().unwrap_or(1))
}

#[cold]
pub(super) fn too_large(what: impl std::fmt::Display) -> DecodeError {
    DecodeError::TooLarge {
        what: what.to_string(),
        limit: MAX_DENSE_BYTES,
    }
}
