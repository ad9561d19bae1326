//! Named tensors: what `codec` and `engine` hand to each other.
//!
//! The neutral middle between the wire formats and ONNX Runtime: a codec test needs no runtime, an engine test no
//! JSON. What always holds for a [`Tensor`]: its element count equals the product of its shape (checked, never
//! wrapping), and the bytes of a fixed-size element type are little-endian and aligned for that type, so that both
//! sides may borrow them as a slice. A tensor of fixed-size elements is one reference-counted buffer: it can be a
//! window of the request body or memory that ONNX Runtime owns, and passing it on copies nothing.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use half::{bf16, f16};

#[cfg(not(target_endian = "little"))]
compile_error!("tensors are exchanged as little-endian bytes; big-endian targets are not supported");

/// The ONNX tensor element types that the supported content types can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    String,
}

impl DataType {
    pub const ALL: [DataType; 14] = [
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::Bool,
        Self::String,
    ];

    /// Bytes of one element; `None` for strings, whose elements differ in size.
    pub const fn size(self) -> Option<usize> {
        Some(match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::String => return None,
        })
    }

    /// The name used in messages, as NumPy spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is stored as it is in a tensor's buffer. `bool` is not one: its tensors hold one byte, 0 or 1.
pub trait Element: bytemuck::Pod + Send + Sync {
    const DATA_TYPE: DataType;
}

macro_rules! element {
    ($($rust:ty => $data_type:ident),+ $(,)?) => {
        $(impl Element for $rust { const DATA_TYPE: DataType = DataType::$data_type; })+
    };
}

element! {
    f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
}

/// Why a buffer and a shape do not make a tensor.
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
    data: Data,
}

#[derive(Debug, Clone, PartialEq)]
enum Data {
    Fixed(Bytes),
    Strings(Vec<Bytes>),
}

/// Number of elements of `shape`, or `None` when it overflows.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes the tensor empty, whatever the other dimensions claim.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
}

impl Tensor {
    /// Takes over `values` without copying them.
    pub fn from_vec<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Result<Self, TensorError> {
        check_length(&shape, values.len(), "elements", 1)?;
        Ok(Self {
            data_type: T::DATA_TYPE,
            shape,
            data: Data::Fixed(Bytes::from_owner(Elements(values))),
        })
    }

    /// One byte per element; every byte must be 0 or 1, which the caller has checked.
    pub fn from_bools(shape: Vec<usize>, values: Vec<u8>) -> Result<Self, TensorError> {
        debug_assert!(values.iter().all(|&b| b <= 1));
        check_length(&shape, values.len(), "elements", 1)?;
        Ok(Self {
            data_type: DataType::Bool,
            shape,
            data: Data::Fixed(Bytes::from(values)),
        })
    }

    /// Little-endian bytes of fixed-size elements. Borrows `bytes` when it is aligned for the element type, else
    /// copies it once.
    ///
    /// # Panics
    /// When `data_type` is [`DataType::String`]: strings come through [`Tensor::from_strings`].
    pub fn from_bytes(data_type: DataType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, TensorError> {
        let size = data_type.size().expect("string tensors are made by from_strings");
        check_length(&shape, bytes.len(), "bytes", size)?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(size);
        let bytes = if aligned { bytes } else { realign(&bytes) };
        Ok(Self {
            data_type,
            shape,
            data: Data::Fixed(bytes),
        })
    }

    /// Elements are byte strings: ONNX strings are UTF-8 by convention only.
    pub fn from_strings(shape: Vec<usize>, values: Vec<Bytes>) -> Result<Self, TensorError> {
        check_length(&shape, values.len(), "elements", 1)?;
        Ok(Self {
            data_type: DataType::String,
            shape,
            data: Data::Strings(values),
        })
    }

    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match (&self.data, self.data_type.size()) {
            (Data::Fixed(bytes), Some(size)) => bytes.len() / size,
            (Data::Fixed(bytes), None) => bytes.len(),
            (Data::Strings(values), _) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, when `T` is this tensor's element type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        match &self.data {
            Data::Fixed(bytes) if T::DATA_TYPE == self.data_type => bytemuck::try_cast_slice(bytes).ok(),
            Data::Fixed(_) | Data::Strings(_) => None,
        }
    }

    /// The little-endian bytes of fixed-size elements (a boolean is one byte, 0 or 1); `None` for strings.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Fixed(bytes) => Some(bytes),
            Data::Strings(_) => None,
        }
    }

    /// The elements of a string tensor.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(values) => Some(values),
            Data::Fixed(_) => None,
        }
    }

    /// The same elements under another shape of the same size.
    pub fn reshape(mut self, shape: Vec<usize>) -> Result<Self, TensorError> {
        check_length(&shape, self.len(), "elements", 1)?;
        self.shape = shape;
        Ok(self)
    }

    /// The rows (what the first axis counts) of all `parts`, one after the other. `None` when the parts differ in
    /// element type or in another axis than the first, or when there is no memory.
    pub fn concatenate(parts: &[&Self]) -> Option<Self> {
        let first = parts.first()?;
        let mut rows = 0usize;
        for part in parts {
            let (&own, others) = part.shape.split_first()?;
            if part.data_type != first.data_type || others != &first.shape[1..] {
                return None;
            }
            rows = rows.checked_add(own)?;
        }
        let mut shape = first.shape.clone();
        shape[0] = rows;
        let data = match &first.data {
            Data::Fixed(_) => Data::Fixed(concatenated(parts.iter().filter_map(|part| part.as_bytes()))?),
            Data::Strings(_) => {
                let mut values = Vec::new();
                let all = || parts.iter().filter_map(|part| part.as_strings());
                values.try_reserve_exact(all().map(<[Bytes]>::len).sum()).ok()?;
                all().for_each(|part| values.extend_from_slice(part));
                Data::Strings(values)
            }
        };
        Some(Self {
            data_type: first.data_type,
            shape,
            data,
        })
    }

    /// Some of the rows, without copying their bytes. `None` when there are none such.
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        let (&all, others) = self.shape.split_first()?;
        if rows.start > rows.end || rows.end > all {
            return None;
        }
        // As many of whatever the data is made of per row as there are in all; an empty tensor has none.
        let part = |length: usize| {
            let each = length.checked_div(all).unwrap_or(0);
            rows.start * each..rows.end * each
        };
        let data = match &self.data {
            Data::Fixed(bytes) => Data::Fixed(bytes.slice(part(bytes.len()))),
            Data::Strings(values) => Data::Strings(values[part(values.len())].to_vec()),
        };
        let mut shape = Vec::with_capacity(self.shape.len());
        shape.push(rows.len());
        shape.extend_from_slice(others);
        Some(Self {
            data_type: self.data_type,
            shape,
            data,
        })
    }

    /// Bytes that the elements take, about.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Fixed(bytes) => bytes.len(),
            Data::Strings(values) => values.iter().map(|v| v.len() + size_of::<Bytes>()).sum(),
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

/// Copies into a buffer that is aligned for every element type.
fn realign(bytes: &[u8]) -> Bytes {
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(Elements(words)).slice(..bytes.len())
}

/// The parts one after the other, aligned for every element type. `None` when there is no memory for them.
fn concatenated<'a>(parts: impl Iterator<Item = &'a Bytes> + Clone) -> Option<Bytes> {
    let length = parts
        .clone()
        .try_fold(0usize, |length, part| length.checked_add(part.len()))?;
    let mut words: Vec<u64> = Vec::new();
    words.try_reserve_exact(length.div_ceil(8)).ok()?;
    words.resize(length.div_ceil(8), 0);
    let mut rest = bytemuck::cast_slice_mut::<u64, u8>(&mut words);
    for part in parts {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    Some(Bytes::from_owner(Elements(words)).slice(..length))
}

/// Lets [`Bytes`] own a typed vector.
struct Elements<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// One dimension of a model's input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// Any size; the model's name for it when it has one.
    Dynamic(Option<String>),
}

/// What a model takes as one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    pub name: String,
    pub data_type: DataType,
    /// `None` when the model does not say the rank.
    pub dims: Option<Vec<Dim>>,
}

impl InputSpec {
    /// Whether a tensor of `shape` may be given for this input.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        match &self.dims {
            None => true,
            Some(dims) => {
                dims.len() == shape.len()
                    && dims.iter().zip(shape).all(|(dim, &size)| match dim {
                        Dim::Fixed(fixed) => *fixed == size,
                        Dim::Dynamic(_) => true,
                    })
            }
        }
    }
}

/// `float32[batch, 32]`: the element type and the shape, as messages and the README write them.
impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_type(f, self.data_type, self.dims.as_deref())
    }
}

/// What a model gives as one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    pub name: String,
    pub value_type: ValueType,
}

/// The ONNX value types that outputs may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    Tensor {
        data_type: DataType,
        dims: Option<Vec<Dim>>,
    },
    Sequence(Box<ValueType>),
    Map {
        key: DataType,
        value: Box<ValueType>,
    },
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor { data_type, dims } => write_type(f, *data_type, dims.as_deref()),
            Self::Sequence(element) => write!(f, "sequence({element})"),
            Self::Map { key, value } => write!(f, "map({key}, {value})"),
        }
    }
}

/// The inputs and outputs of a model, in the model's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    pub inputs: Vec<InputSpec>,
    pub outputs: Vec<OutputSpec>,
}

/// An output of a run. Sequences and maps come from scikit-learn exports (`ZipMap`) and sequence operators.
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

fn write_type(f: &mut fmt::Formatter<'_>, data_type: DataType, dims: Option<&[Dim]>) -> fmt::Result {
    let Some(dims) = dims else {
        return write!(f, "{data_type} of any shape");
    };
    write!(f, "{data_type}[")?;
    for (i, dim) in dims.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        match dim {
            Dim::Fixed(size) => write!(f, "{size}")?,
            Dim::Dynamic(Some(name)) => f.write_str(name)?,
            Dim::Dynamic(None) => f.write_str("?")?,
        }
    }
    f.write_str("]")
}

/// Writes a concrete shape as `[2, 32]`.
pub struct Shape<'a>(pub &'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_does_not_match_the_shape_is_refused() {
        let error = Tensor::from_vec(vec![2, 3], vec![0f32; 5]).unwrap_err();
        assert_eq!(error.to_string(), "the shape [2, 3] needs 6 elements, 5 given");
        let error = Tensor::from_bytes(DataType::F64, vec![2], Bytes::from_static(&[0; 15])).unwrap_err();
        assert_eq!(error.to_string(), "the shape [2] needs 16 bytes, 15 given");
    }

    #[test]
    fn a_declared_shape_that_overflows_is_refused_without_allocating() {
        let shape = vec![usize::MAX, 2];
        assert_eq!(element_count(&shape), None);
        assert!(matches!(
            Tensor::from_vec(shape, Vec::<u8>::new()),
            Err(TensorError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_zero_dimension_empties_a_shape_however_large_the_others_are() {
        assert_eq!(element_count(&[usize::MAX, 0, 7]), Some(0));
        assert!(
            Tensor::from_vec(vec![usize::MAX, 0, 7], Vec::<f32>::new())
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_scalar_has_one_element() {
        let tensor = Tensor::from_vec(vec![], vec![7i64]).unwrap();
        assert_eq!((tensor.len(), tensor.as_slice::<i64>().unwrap()), (1, &[7i64][..]));
    }

    #[test]
    fn unaligned_bytes_are_copied_and_aligned_ones_are_borrowed() {
        let body = Bytes::from_owner(Elements(vec![1.5f64, 2.5]));
        let aligned = Tensor::from_bytes(DataType::F64, vec![2], body.clone()).unwrap();
        assert_eq!(aligned.as_bytes().unwrap().as_ptr(), body.as_ptr());

        let mut shifted = vec![0u8; 17];
        shifted[1..].copy_from_slice(&body);
        let shifted = Bytes::from(shifted);
        for offset in 1..8 {
            let mut padded = vec![0u8; offset];
            padded.extend_from_slice(&shifted[1..]);
            let window = Bytes::from(padded).slice(offset..);
            let tensor = Tensor::from_bytes(DataType::F64, vec![2], window).unwrap();
            assert_eq!(tensor.as_slice::<f64>().unwrap(), &[1.5, 2.5]);
        }
    }

    #[test]
    fn elements_are_only_read_as_their_own_type() {
        let tensor = Tensor::from_vec(vec![1], vec![1i32]).unwrap();
        assert!(tensor.as_slice::<f32>().is_none());
        assert!(tensor.as_slice::<u32>().is_none());
        assert!(tensor.as_slice::<i32>().is_some());
    }

    fn floats(rows: Range<u16>, width: u16) -> Tensor {
        let values = rows
            .clone()
            .flat_map(|row| (0..width).map(move |column| f64::from(row * width + column)));
        Tensor::from_vec(vec![rows.len(), width.into()], values.collect()).unwrap()
    }

    fn strings(rows: Range<u16>) -> Tensor {
        let values = rows.clone().map(|row| Bytes::from(format!("row {row}")));
        Tensor::from_strings(vec![rows.len(), 1], values.collect()).unwrap()
    }

    #[test]
    fn rows_are_what_concatenating_put_together() {
        let cuts = [0u16, 1, 1, 4, 7, 12];
        for make in [|rows| floats(rows, 3), |rows| floats(rows, 0), strings] {
            let parts: Vec<Tensor> = cuts.windows(2).map(|cut| make(cut[0]..cut[1])).collect();
            let whole = Tensor::concatenate(&parts.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(whole, make(0..12));
            for (cut, part) in cuts.windows(2).zip(&parts) {
                assert_eq!(whole.rows(cut[0].into()..cut[1].into()).as_ref(), Some(part));
            }
            assert_eq!(whole.rows(11..13), None);
        }
    }

    #[test]
    fn rows_share_the_bytes_of_the_whole() {
        let whole = floats(0..4, 2);
        let part = whole.rows(1..3).unwrap();
        assert_eq!(part.as_slice::<f64>().unwrap(), &[2.0, 3.0, 4.0, 5.0]);
        assert_eq!(
            part.as_bytes().unwrap().as_ptr(),
            whole.as_bytes().unwrap()[16..].as_ptr()
        );
    }

    #[test]
    fn what_differs_in_more_than_its_rows_is_not_concatenated() {
        let scalar = Tensor::from_vec(vec![], vec![1f64]).unwrap();
        let other_type = Tensor::from_vec(vec![1, 3], vec![1f32; 3]).unwrap();
        let rows = floats(0..2, 3);
        for other in [&floats(0..2, 2), &other_type, &scalar] {
            assert_eq!(Tensor::concatenate(&[&rows, other]), None);
            assert_eq!(Tensor::concatenate(&[other, &rows]), None);
        }
        assert_eq!(Tensor::concatenate(&[]), None);
        assert_eq!(scalar.rows(0..1), None);
    }

    #[test]
    fn an_input_accepts_what_its_dimensions_allow() {
        let spec = InputSpec {
            name: "x".into(),
            data_type: DataType::F32,
            dims: Some(vec![Dim::Dynamic(Some("batch".into())), Dim::Fixed(32)]),
        };
        assert_eq!(spec.to_string(), "float32[batch, 32]");
        let table: [(&[usize], bool); 5] = [
            (&[1, 32], true),
            (&[0, 32], true),
            (&[1, 31], false),
            (&[32], false),
            (&[1, 1, 32], false),
        ];
        for (shape, accepted) in table {
            assert_eq!(spec.accepts(shape), accepted, "{shape:?}");
        }
    }
}
