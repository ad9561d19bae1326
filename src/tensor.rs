//! Tensors: the data that `codec` and `engine` exchange.
//!
//! This module is the neutral middle between the wire formats and ONNX Runtime: a codec test needs
//! no runtime, and an engine test no JSON.
//!
//! Invariants of a [`Tensor`]:
//! - The number of elements equals the product of the shape (checked, never wrapping).
//! - The bytes of a fixed-size element type are little-endian and aligned for that type, so both
//!   sides may borrow them as a slice.
//!
//! A tensor of fixed-size elements is one reference-counted buffer. The buffer may be a part of the
//! request body or memory that ONNX Runtime owns, and cloning a tensor does not copy it.

mod data_type;
mod inputs;
mod records;
mod rows;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

pub use data_type::{DataType, Element};
pub use inputs::Inputs;
pub use records::Records;
pub use signature::{Dim, InputSpec, OutputRows, OutputSpec, Signature, ValueType};

#[cfg(not(target_endian = "little"))]
compile_error!("tensors are exchanged as little-endian bytes; big-endian targets are not supported");

/// The reasons why a buffer and a shape do not form a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("the shape {} has more elements than memory can hold", Shape(.shape))]
    TooLarge { shape: Vec<usize> },
    #[error("the shape {} needs {expected} {unit}, {given} given", Shape(.shape))]
    Length {
        shape: Vec<usize>,
        expected: usize,
        given: usize,
        unit: &'static str,
    },
}

/// A dense tensor: element type, shape, data in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    data_type: DataType,
    shape: Vec<usize>,
    data: TensorData,
}

#[derive(Debug, Clone, PartialEq)]
enum TensorData {
    Fixed(Bytes),
    Strings(Vec<Bytes>),
}

/// An output of a run. Sequences and maps come from scikit-learn exports (`ZipMap`) and sequence
/// operators.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Tensor(Tensor),
    Sequence(Vec<Value>),
    /// `keys` is a vector of int64 or string, `values` a vector of the same length.
    Map {
        keys: Tensor,
        values: Tensor,
    },
}

impl Value {
    /// The number of entries along the first axis, or in the sequence. `None` for scalars and maps,
    /// which have no axis.
    pub fn entries(&self) -> Option<usize> {
        match self {
            Self::Tensor(tensor) => tensor.shape().first().copied(),
            Self::Sequence(values) => Some(values.len()),
            Self::Map { .. } => None,
        }
    }
}

/// The number of elements of `shape`. `None` on overflow.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero makes the tensor empty, whatever the other dimensions.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
}

impl Tensor {
    /// Creates a tensor that owns `values`, without a copy.
    pub fn from_vec<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Result<Self, TensorError> {
        check_length(&shape, values.len(), "elements", 1)?;
        Ok(Self {
            data_type: T::DATA_TYPE,
            shape,
            data: TensorData::Fixed(Bytes::from_owner(OwnedElements(values))),
        })
    }

    /// Creates a tensor of booleans, one byte per element. The caller has checked that every byte
    /// is 0 or 1.
    pub fn from_bools(shape: Vec<usize>, values: Vec<u8>) -> Result<Self, TensorError> {
        debug_assert!(values.iter().all(|&b| b <= 1));
        check_length(&shape, values.len(), "elements", 1)?;
        Ok(Self {
            data_type: DataType::Bool,
            shape,
            data: TensorData::Fixed(Bytes::from(values)),
        })
    }

    /// Creates a tensor from the little-endian bytes of fixed-size elements. Borrows `bytes` if it
    /// is aligned for the element type, else copies it once.
    ///
    /// # Panics
    /// If `data_type` is [`DataType::String`]: use [`Tensor::from_strings`].
    pub fn from_bytes(data_type: DataType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, TensorError> {
        let size = data_type.size().expect("from_strings creates string tensors");
        check_length(&shape, bytes.len(), "bytes", size)?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(size);
        let bytes = if aligned { bytes } else { realign(&bytes) };
        Ok(Self {
            data_type,
            shape,
            data: TensorData::Fixed(bytes),
        })
    }

    /// Creates a tensor of byte strings: ONNX strings are UTF-8 only by convention.
    pub fn from_strings(shape: Vec<usize>, values: Vec<Bytes>) -> Result<Self, TensorError> {
        check_length(&shape, values.len(), "elements", 1)?;
        Ok(Self {
            data_type: DataType::String,
            shape,
            data: TensorData::Strings(values),
        })
    }

    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match (&self.data, self.data_type.size()) {
            (TensorData::Fixed(bytes), Some(size)) => bytes.len() / size,
            (TensorData::Fixed(bytes), None) => bytes.len(),
            (TensorData::Strings(values), _) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, if `T` is this tensor's element type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        match &self.data {
            TensorData::Fixed(bytes) if T::DATA_TYPE == self.data_type => bytemuck::try_cast_slice(bytes).ok(),
            TensorData::Fixed(_) | TensorData::Strings(_) => None,
        }
    }

    /// The little-endian bytes of fixed-size elements (a boolean is one byte, 0 or 1); `None` for
    /// strings.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.data {
            TensorData::Fixed(bytes) => Some(bytes),
            TensorData::Strings(_) => None,
        }
    }

    /// The elements of a string tensor.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            TensorData::Strings(values) => Some(values),
            TensorData::Fixed(_) => None,
        }
    }

    /// Changes the shape to another one of the same size.
    pub fn reshape(mut self, shape: Vec<usize>) -> Result<Self, TensorError> {
        check_length(&shape, self.len(), "elements", 1)?;
        self.shape = shape;
        Ok(self)
    }

    /// The approximate number of bytes of the elements.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            TensorData::Fixed(bytes) => bytes.len(),
            TensorData::Strings(values) => values.iter().map(|v| v.len() + size_of::<Bytes>()).sum(),
        }
    }
}

fn check_length(shape: &[usize], given: usize, unit: &'static str, element_size: usize) -> Result<(), TensorError> {
    let expected = element_count(shape)
        .and_then(|n| n.checked_mul(element_size))
        .ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec() })?;
    if expected != given {
        return Err(TensorError::Length {
            shape: shape.to_vec(),
            expected,
            given,
            unit,
        });
    }
    Ok(())
}

/// Copies `bytes` into a buffer that is aligned for every element type.
fn realign(bytes: &[u8]) -> Bytes {
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(OwnedElements(words)).slice(..bytes.len())
}

/// Lets [`Bytes`] own a typed vector.
struct OwnedElements<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for OwnedElements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Displays a shape as `[2, 32]`.
pub struct Shape<'a>(pub &'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0).finish()
    }
}
