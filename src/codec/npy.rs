//! `application/x-npy`: files of `numpy.save`. Reads versions 1 to 3 and writes version 1.0.
//!
//! NumPy's default types are `float64` and `int64`, but most models take `float32`. So numbers are
//! converted to the model's type under the rules of [`numbers`](crate::codec::numbers): rounding
//! is allowed, any other change of the value is an error. An array that already has the model's
//! type is not copied. NumPy has no bfloat16: inputs of that type accept any other float, and
//! outputs are written as `float32`, which holds every bfloat16. Strings are written as `U`,
//! padded with NUL to the longest as in NumPy, or as `S` if one is not UTF-8. Object arrays are
//! refused: they are pickles, which can run code.

mod header;
mod write;

use bytes::Bytes;
use half::f16;

use self::header::NpyHeader;
pub(super) use self::write::encode;
use crate::codec::alloc::{self, NoMemory};
use crate::codec::bind::{Array, RequestArray, bind};
use crate::codec::column::wrong_size;
use crate::codec::element::{ElementKind, with_kind};
use crate::codec::error::{DecodeError, InputError, clipped, excerpt};
use crate::codec::fit::mismatch;
use crate::codec::numbers::{AnyNumber, MAX_STRINGS, Numeric, ValueProblem};
use crate::codec::{DecodedRequest, Dialect, Format, ReplyPlan, Schema};
use crate::tensor::{DataType, InputSpec, Shape, Tensor, element_count};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The number of bytes of a character in a `U` array.
const CHARACTER_BYTES: usize = 4;

/// A parsed NumPy type string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descr {
    stored: Storage,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    /// Never `Bf16` or `String`, which NumPy does not have.
    Fixed(DataType),
    /// UTF-32 strings of this many characters.
    Unicode(usize),
    /// Strings of this many bytes.
    Bytes(usize),
}

impl Descr {
    /// Parses `<f8`, `|b1` or `<U12`. Without a byte order, it is the machine's, as with `=`.
    fn parse(text: &str) -> Option<Self> {
        let (order, name) = match text.as_bytes().first()? {
            b'<' | b'>' | b'|' | b'=' => text.split_at(1),
            _ => ("=", text),
        };
        let stored = match name {
            "f2" => Storage::Fixed(DataType::F16),
            "f4" => Storage::Fixed(DataType::F32),
            "f8" => Storage::Fixed(DataType::F64),
            "i1" => Storage::Fixed(DataType::I8),
            "i2" => Storage::Fixed(DataType::I16),
            "i4" => Storage::Fixed(DataType::I32),
            "i8" => Storage::Fixed(DataType::I64),
            "u1" => Storage::Fixed(DataType::U8),
            "u2" => Storage::Fixed(DataType::U16),
            "u4" => Storage::Fixed(DataType::U32),
            "u8" => Storage::Fixed(DataType::U64),
            "b1" => Storage::Fixed(DataType::Bool),
            _ => {
                let length = |digits: &str| {
                    let digits = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?;
                    // With strings of size 0, a few bytes could claim any number of them.
                    digits.parse().ok().filter(|&length| length > 0)
                };
                match name.split_at_checked(1)? {
                    ("U", digits) => Storage::Unicode(length(digits)?),
                    ("S", digits) => Storage::Bytes(length(digits)?),
                    _ => return None,
                }
            }
        };
        Some(Self {
            stored,
            big_endian: order == ">",
        })
    }

    /// The number of bytes of one element.
    fn size(self) -> Option<usize> {
        match self.stored {
            Storage::Fixed(data_type) => data_type.size(),
            Storage::Unicode(length) => length.checked_mul(CHARACTER_BYTES),
            Storage::Bytes(length) => Some(length),
        }
    }

    fn data_type(self) -> DataType {
        match self.stored {
            Storage::Fixed(data_type) => data_type,
            Storage::Unicode(_) | Storage::Bytes(_) => DataType::String,
        }
    }
}

pub(super) fn decode(body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let stored = StoredArray::parse(body).map_err(|problem| DecodeError::malformed(Format::Npy, problem))?;
    let given = RequestArray {
        name: None,
        array: Array::Stored(stored),
    };
    let inputs = bind(vec![given], schema, "an NPY array")?;
    Ok(DecodedRequest::new(inputs, ReplyPlan::new(Dialect::Rows)))
}

/// An array as NumPy stores it.
pub(super) struct StoredArray {
    descr: Descr,
    header: NpyHeader,
    /// The data. Its length is the one in the header.
    data: Bytes,
}

impl StoredArray {
    /// Parses a file of `numpy.save`.
    pub fn parse(file: &Bytes) -> Result<Self, String> {
        let (header, data_start) = split_header(file)?;
        let header = NpyHeader::parse(header)?;
        let descr = Descr::parse(&header.descr).ok_or_else(|| unsupported(&header.descr))?;
        let data = file.slice(data_start..);
        let count = element_count(&header.shape);
        let size = count
            .zip(descr.size())
            .and_then(|(count, size)| count.checked_mul(size));
        if size != Some(data.len()) {
            return Err(format!(
                "the header declares an array of {} and shape {}, but {} bytes of data follow",
                excerpt(&header.descr),
                clipped(Shape(&header.shape), 120),
                data.len()
            ));
        }
        Ok(Self { descr, header, data })
    }

    /// Creates an array of little-endian numbers in row-major order. `None` if the length of `data`
    /// is wrong, or NumPy has no such type.
    pub fn plain(data_type: DataType, shape: Vec<usize>, data: Bytes) -> Option<Self> {
        let size = data_type.size().filter(|_| data_type != DataType::Bf16)?;
        let bytes = element_count(&shape)?.checked_mul(size)?;
        let descr = Descr {
            stored: Storage::Fixed(data_type),
            big_endian: false,
        };
        (bytes == data.len()).then(|| Self {
            descr,
            header: NpyHeader {
                descr: String::new(),
                fortran_order: false,
                shape,
            },
            data,
        })
    }

    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// The number of elements in the array.
    pub fn len(&self) -> usize {
        element_count(&self.header.shape).unwrap_or(0)
    }

    pub fn data_type(&self) -> DataType {
        self.descr.data_type()
    }

    /// The array's type and shape, for messages.
    pub fn given(&self) -> String {
        format!("{}{}", self.data_type(), clipped(Shape(&self.header.shape), 80))
    }

    /// Converts the elements to the type of `spec`, in row-major order. Keeps the array's shape.
    pub fn tensor(&self, spec: &InputSpec) -> Result<Tensor, DecodeError> {
        tensor(spec, self.descr, &self.header, self.data.clone())
    }

    /// Converts the elements like [`Self::tensor`]; strings are an error. For the values of a
    /// sparse matrix.
    pub fn flat(&self, spec: &InputSpec) -> Result<Tensor, DecodeError> {
        if self.data_type() == DataType::String {
            return Err(mismatch(spec, self.given()).into());
        }
        self.tensor(spec)
    }

    /// Converts the elements to unsigned integers: indices and sizes.
    pub fn indices(&self) -> Result<Vec<u64>, String> {
        let spec = InputSpec {
            name: String::new(),
            data_type: DataType::U64,
            dims: None,
        };
        let whole = |data_type| {
            !matches!(
                data_type,
                DataType::F16 | DataType::F32 | DataType::F64 | DataType::Bool | DataType::String
            )
        };
        if !whole(self.data_type()) {
            return Err(format!("it has {}, but whole numbers are required", self.given()));
        }
        let tensor = self.tensor(&spec).map_err(|error| match error {
            DecodeError::Input(InputError::Value { at, problem, .. }) => format!("a value{at}: {problem}"),
            error => error.to_string(),
        })?;
        Ok(tensor.as_slice::<u64>().map(<[u64]>::to_vec).unwrap_or_default())
    }

    /// The only element, if it is a string.
    pub fn text(&self) -> Option<String> {
        let spec = InputSpec {
            name: String::new(),
            data_type: DataType::String,
            dims: None,
        };
        if self.data_type() != DataType::String || self.len() != 1 {
            return None;
        }
        let tensor = self.tensor(&spec).ok()?;
        let [text] = tensor.as_strings()? else { return None };
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Splits off the header's text. Also returns the start of the data.
fn split_header(body: &[u8]) -> Result<(&[u8], usize), String> {
    let short = || "it ends before its header does".to_owned();
    let rest = body.strip_prefix(MAGIC).ok_or("it does not begin with \\x93NUMPY")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let (length, rest) = match version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        [major, minor] => return Err(format!("version {major}.{minor} is not known")),
    };
    let header = rest.get(..length).ok_or_else(short)?;
    Ok((header, body.len() - rest.len() + length))
}

fn unsupported(descr: &str) -> String {
    let given = excerpt(descr);
    match descr.trim_start_matches(['<', '>', '|', '=']).chars().next() {
        Some('O') => format!("{given} is an array of Python objects, which are not loaded; send numbers or strings"),
        Some('[' | '(') => format!("{given} is a structured array; send a plain one"),
        Some('c') => format!("{given} is complex; send real numbers"),
        Some('M' | 'm') => format!("{given} is a date or duration; send numbers"),
        Some('V') => format!("{given} is raw memory (bfloat16 is saved like this); send float32"),
        _ => format!("NumPy type {given} is not supported"),
    }
}

/// Converts the elements to the model's type, in row-major order, with the header's shape.
fn tensor(spec: &InputSpec, descr: Descr, header: &NpyHeader, data: Bytes) -> Result<Tensor, DecodeError> {
    let is_text = matches!(descr.stored, Storage::Unicode(_) | Storage::Bytes(_));
    if is_text && element_count(&header.shape).is_none_or(|count| count > MAX_STRINGS) {
        let problem = ValueProblem::TooManyStrings.describe("", DataType::String);
        return Err(value_error(spec, MAX_STRINGS, header, problem).into());
    }
    let stored = match descr.stored {
        Storage::Unicode(length) => {
            let strings = data
                .chunks_exact(length * CHARACTER_BYTES)
                .enumerate()
                .map(|(i, element)| {
                    unicode(element, descr.big_endian)
                        .ok_or_else(|| value_error(spec, i, header, "a character that is not in Unicode".to_owned()))
                });
            return arranged::<String>(spec, header, strings.collect::<Result<_, _>>()?);
        }
        Storage::Bytes(length) => {
            let strings = (0..data.len() / length).map(|i| {
                let element = &data[i * length..(i + 1) * length];
                let used = element.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
                data.slice(i * length..i * length + used)
            });
            return arranged::<String>(spec, header, strings.collect());
        }
        Storage::Fixed(data_type) => data_type,
    };
    if stored == DataType::Bool
        && let Some(at) = data.iter().position(|&byte| byte > 1)
    {
        let problem = ValueProblem::NotABoolean.describe(&data[at].to_string(), stored);
        return Err(value_error(spec, at, header, problem).into());
    }
    let row_major = !header.fortran_order || header.shape.len() < 2;
    let little = !descr.big_endian || stored.size() == Some(1);
    if stored == spec.data_type && little && row_major {
        let tensor = Tensor::from_bytes(stored, header.shape.clone(), data);
        return tensor.map_err(|error| wrong_size(spec, &error).into());
    }
    with_kind!(spec.data_type, K => {
        let converted = match stored {
            DataType::F16 => convert::<f16, K>(&data, descr.big_endian),
            DataType::F32 => convert::<f32, K>(&data, descr.big_endian),
            DataType::F64 => convert::<f64, K>(&data, descr.big_endian),
            DataType::I8 => convert::<i8, K>(&data, descr.big_endian),
            DataType::I16 => convert::<i16, K>(&data, descr.big_endian),
            DataType::I32 => convert::<i32, K>(&data, descr.big_endian),
            DataType::I64 => convert::<i64, K>(&data, descr.big_endian),
            DataType::U8 | DataType::Bool => convert::<u8, K>(&data, descr.big_endian),
            DataType::U16 => convert::<u16, K>(&data, descr.big_endian),
            DataType::U32 => convert::<u32, K>(&data, descr.big_endian),
            DataType::U64 => convert::<u64, K>(&data, descr.big_endian),
            // `Descr` never has these types; a mismatch would be the right error.
            DataType::Bf16 | DataType::String => return Err(mismatch(spec, stored).into()),
        };
        let items = converted.map_err(|(at, number, problem)| {
            if problem == ValueProblem::NoMemory {
                return DecodeError::OutOfMemory;
            }
            let given = match number {
                AnyNumber::Int(value) => value.to_string(),
                AnyNumber::Uint(value) => value.to_string(),
                AnyNumber::Float(value) => format!("{value:?}"),
            };
            value_error(spec, at, header, problem.describe(&given, spec.data_type)).into()
        })?;
        arranged::<K>(spec, header, items)
    })
}

/// An element type that a file can store.
trait FromFile: Numeric {
    fn from_file(bytes: &[u8], big_endian: bool) -> Self;
}

macro_rules! from_file {
    ($($rust:ty),+) => { $(
        impl FromFile for $rust {
            #[inline]
            fn from_file(bytes: &[u8], big_endian: bool) -> Self {
                let bytes = bytes.try_into().expect("the data is split into elements of this size");
                if big_endian { Self::from_be_bytes(bytes) } else { Self::from_le_bytes(bytes) }
            }
        }
    )+ };
}

from_file!(f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

/// Converts the elements to `K`. The error has the position and the value of the first misfit.
fn convert<S: FromFile, K: ElementKind>(
    data: &[u8],
    big_endian: bool,
) -> Result<Vec<K::Item>, (usize, AnyNumber, ValueProblem)> {
    let mut items = alloc::with_capacity(data.len() / size_of::<S>())
        .map_err(|_| (0, AnyNumber::Int(0), ValueProblem::NoMemory))?;
    for (i, element) in data.chunks_exact(size_of::<S>()).enumerate() {
        let number = S::from_file(element, big_endian).to_number();
        items.push(K::from_number(number).map_err(|problem| (i, number, problem))?);
    }
    Ok(items)
}

/// Decodes a `U` element and removes its padding with NUL characters.
fn unicode(element: &[u8], big_endian: bool) -> Option<Bytes> {
    let mut text = String::with_capacity(element.len() / CHARACTER_BYTES);
    let mut used = 0;
    for unit in element.chunks_exact(CHARACTER_BYTES) {
        let c = char::from_u32(u32::from_file(unit, big_endian))?;
        text.push(c);
        if c != '\0' {
            used = text.len();
        }
    }
    text.truncate(used);
    Some(text.into())
}

/// Builds a tensor from items in the file's order.
fn arranged<K: ElementKind>(spec: &InputSpec, header: &NpyHeader, items: Vec<K::Item>) -> Result<Tensor, DecodeError> {
    let items = if header.fortran_order {
        row_major(&items, &header.shape)?
    } else {
        items
    };
    K::tensor(header.shape.clone(), items).map_err(|error| wrong_size(spec, &error).into())
}

/// Reorders column-major items to row-major order.
fn row_major<T: Clone>(items: &[T], shape: &[usize]) -> Result<Vec<T>, NoMemory> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1usize;
    for &dim in shape {
        strides.push(stride);
        // Wraps only if an axis has size 0, so that there are no items.
        stride = stride.wrapping_mul(dim);
    }
    let mut index = vec![0usize; shape.len()];
    let mut at = 0usize;
    let mut ordered = alloc::with_capacity(items.len())?;
    for _ in 0..items.len() {
        ordered.push(items[at].clone());
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
            at -= strides[axis] * shape[axis];
        }
    }
    Ok(ordered)
}

/// The error for the element at `position` in the file's order.
#[cold]
fn value_error(spec: &InputSpec, position: usize, header: &NpyHeader, problem: String) -> InputError {
    let mut rest = position;
    let mut axes: Vec<usize> = header.shape.clone();
    if !header.fortran_order {
        axes.reverse();
    }
    let mut index: Vec<usize> = axes
        .into_iter()
        .map(|dim| {
            let at = rest % dim;
            rest /= dim;
            at
        })
        .collect();
    if !header.fortran_order {
        index.reverse();
    }
    InputError::Value {
        name: excerpt(&spec.name),
        at: format!(" at {}", clipped(Shape(&index), 80)),
        problem,
    }
}

#[cfg(test)]
mod tests;
