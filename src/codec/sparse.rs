//! Sparse matrices, which the decoder makes dense because models take only dense tensors.
//!
//! A few bytes can claim a matrix of any size. So the dense size is checked against a limit
//! ([`MAX_DENSE_BYTES`]) before the allocation. Two values for the same element are an error,
//! because some writers mean their sum and others the last value.

use super::alloc;
use super::element::{ElementKind, with_kind};
use super::error::{DecodeError, InputError, excerpt};
use super::fit::mismatch;
use super::npy::StoredArray;
use super::numbers::AnyNumber;
use crate::tensor::{DataType, InputSpec, Shape, Tensor};

/// Limit on the bytes of a request after sparse rows are made dense or compressed arrays are
/// unpacked.
pub(super) const MAX_DENSE_BYTES: usize = 256 << 20;

/// A sparse matrix: values with their positions.
pub(super) struct Sparse {
    rows: usize,
    columns: usize,
    /// The index of each value in the dense matrix, in row-major order. Always inside the matrix.
    positions: Vec<usize>,
    values: StoredArray,
}

/// A position outside the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfBounds {
    pub row: u64,
    pub column: u64,
}

/// The reasons why positions and values do not form a matrix.
#[derive(Debug)]
pub(super) enum SparseError {
    OutOfBounds(OutOfBounds),
    /// The numbers of positions and of values differ.
    Count {
        positions: usize,
        values: usize,
    },
    Size,
    NoMemory,
}

impl Sparse {
    /// Creates a matrix with `values` at `positions`, which are pairs of row and column.
    pub fn new(
        shape: [usize; 2],
        positions: impl Iterator<Item = (u64, u64)>,
        count: usize,
        values: StoredArray,
    ) -> Result<Self, SparseError> {
        let [rows, columns] = shape;
        rows.checked_mul(columns).ok_or(SparseError::Size)?;
        let mut flat = alloc::with_capacity(count).map_err(|_| SparseError::NoMemory)?;
        for (row, column) in positions {
            let inside = |at: u64, size: usize| usize::try_from(at).ok().filter(|&at| at < size);
            let position = inside(row, rows)
                .zip(inside(column, columns))
                .map(|(row, column)| row * columns + column);
            alloc::reserve_one(&mut flat).map_err(|_| SparseError::NoMemory)?;
            flat.push(position.ok_or(SparseError::OutOfBounds(OutOfBounds { row, column }))?);
        }
        if flat.len() != values.len() {
            return Err(SparseError::Count {
                positions: flat.len(),
                values: values.len(),
            });
        }
        Ok(Self {
            rows,
            columns,
            positions: flat,
            values,
        })
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Converts the matrix to a dense tensor of the type of `spec`.
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
        for &position in &self.positions {
            let (word, bit) = (position / 64, 1 << (position % 64));
            if seen[word] & bit != 0 {
                let (row, column) = (position / self.columns, position % self.columns);
                return Err(InputError::Value {
                    name: excerpt(&spec.name),
                    at: format!(" at row {row}, column {column}"),
                    problem: "two values for one element; sum duplicates before sending (sum_duplicates() in SciPy)"
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
            for (&position, value) in self.positions.iter().zip(K::items(&values)) {
                items[position].clone_from(value);
            }
            K::tensor(shape.to_vec(), items)
        })
        .map_err(|error| super::column::wrong_size(spec, &error).into())
    }
}

/// The bytes of a dense matrix. `None` on overflow.
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
