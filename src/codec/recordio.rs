//! `application/x-recordio-protobuf`: the records of SageMaker's built-in algorithms, and of the
//! SDK's `RecordSerializer` and `RecordDeserializer`.
//!
//! A body is a sequence of RecordIO frames: a magic number, a length, the bytes, padding to a
//! multiple of four. Each frame holds one record in Protocol Buffers: maps of named vectors, dense
//! or sparse. The vectors of a request are its features. Those of a response are its labels, with
//! one record for each record of the request. A request without features is a response of another
//! container, so the decoder reads its labels: a pipeline passes it on unchanged.
//!
//! The decoder walks the messages in the body (`wire.rs`) and builds no tree in between: it appends
//! the numbers to one vector per feature. It skips unknown fields, as the format requires.

mod wire;
mod write;

use bytes::Bytes;

use self::wire::{ProtoField, ProtoFields, varints};
pub(super) use self::write::{encode, row};
use super::alloc;
use super::bind::{Array, FeatureRows, RequestArray, RowElements, bind, product};
use super::error::{DecodeError, excerpt};
use super::npy::StoredArray;
use super::numbers::MAX_STRINGS;
use super::schema::Schema;
use super::sparse::{MAX_DENSE_BYTES, OutOfBounds, Sparse, SparseError, dense_bytes, too_large};
use super::{DecodedRequest, Format, ReplyPlan};
use crate::tensor::DataType;

const MAGIC: u32 = 0xced7_230a;
/// The length has this many bits. The bits above them number the part of a split record.
const PART_BITS: u32 = 29;
// The field numbers of the messages.
const RECORD_FEATURES: u32 = 1;
const RECORD_LABEL: u32 = 2;
const ENTRY_KEY: u32 = 1;
const ENTRY_VALUE: u32 = 2;
const VALUE_FLOAT32: u32 = 2;
const VALUE_FLOAT64: u32 = 3;
const VALUE_INT32: u32 = 7;
const VALUE_BYTES: u32 = 9;
const TENSOR_VALUES: u32 = 1;
const TENSOR_KEYS: u32 = 2;
const TENSOR_SHAPE: u32 = 3;
const BYTES_VALUE: u32 = 1;
/// Limit on the vectors of a record: each is looked up by its name.
const MAX_FEATURES: usize = 4096;

/// Iterates over the records of a body.
struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let cut = || "it ends in the middle of a record".to_owned();
        let (magic, rest) = self.rest.split_first_chunk::<4>().ok_or_else(cut)?;
        if u32::from_le_bytes(*magic) != MAGIC {
            return Err("a record does not begin with RecordIO's magic number 0xced7230a".to_owned());
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_le_bytes(*length);
        if length >> PART_BITS != 0 {
            return Err("a record is split into parts; write each record whole".to_owned());
        }
        let length = length as usize;
        let record = rest.get(..length).ok_or_else(cut)?;
        self.rest = rest.get(length.next_multiple_of(4)..).ok_or_else(cut)?;
        Ok(Some(record))
    }
}

/// A vector of one record.
#[derive(Default)]
struct Vector<'a> {
    kind: Option<VectorKind>,
    /// The values as little-endian bytes.
    numbers: Vec<u8>,
    strings: Vec<&'a [u8]>,
    keys: Vec<u64>,
    shape: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VectorKind {
    Numbers(DataType),
    Strings,
}

impl<'a> Vector<'a> {
    /// Reads the message `Value`.
    fn read(message: &'a [u8]) -> Result<Self, String> {
        let mut vector = Self::default();
        let mut fields = ProtoFields::new(message);
        while let Some((number, field)) = fields.next()? {
            let kind = match number {
                VALUE_FLOAT32 => VectorKind::Numbers(DataType::F32),
                VALUE_FLOAT64 => VectorKind::Numbers(DataType::F64),
                VALUE_INT32 => VectorKind::Numbers(DataType::I32),
                VALUE_BYTES => VectorKind::Strings,
                _ => continue,
            };
            if vector.kind.is_some() {
                return Err("a value has two types".to_owned());
            }
            vector.kind = Some(kind);
            let message = field.bytes()?;
            match kind {
                VectorKind::Strings => vector.read_strings(message)?,
                VectorKind::Numbers(data_type) => vector.read_tensor(data_type, message)?,
            }
        }
        Ok(vector)
    }

    fn read_strings(&mut self, message: &'a [u8]) -> Result<(), String> {
        let mut fields = ProtoFields::new(message);
        while let Some((number, field)) = fields.next()? {
            if number == BYTES_VALUE {
                self.strings.push(field.bytes()?);
            }
        }
        Ok(())
    }

    fn read_tensor(&mut self, data_type: DataType, message: &'a [u8]) -> Result<(), String> {
        let mut fields = ProtoFields::new(message);
        while let Some((number, field)) = fields.next()? {
            match number {
                TENSOR_VALUES => self.read_values(data_type, field)?,
                TENSOR_KEYS => varints(field, |key| self.keys.push(key))?,
                TENSOR_SHAPE => varints(field, |size| self.shape.push(size))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_values(&mut self, data_type: DataType, field: ProtoField<'a>) -> Result<(), String> {
        match (data_type, field) {
            (DataType::I32, field) => varints(field, |value| {
                // Negative numbers are sign-extended to ten bytes.
                self.numbers.extend_from_slice(&(value as u32).to_le_bytes());
            }),
            (DataType::F32, ProtoField::Bytes(packed)) if packed.len().is_multiple_of(4) => {
                self.numbers.extend_from_slice(packed);
                Ok(())
            }
            (DataType::F64, ProtoField::Bytes(packed)) if packed.len().is_multiple_of(8) => {
                self.numbers.extend_from_slice(packed);
                Ok(())
            }
            (DataType::F32, ProtoField::Fixed32(value)) => {
                self.numbers.extend_from_slice(&value);
                Ok(())
            }
            (DataType::F64, ProtoField::Fixed64(value)) => {
                self.numbers.extend_from_slice(&value);
                Ok(())
            }
            (_, _) => Err("values are not numbers of their type".to_owned()),
        }
    }

    fn len(&self) -> usize {
        match self.kind {
            Some(VectorKind::Numbers(data_type)) => self.numbers.len() / data_type.size().unwrap_or(1),
            Some(VectorKind::Strings) | None => self.strings.len(),
        }
    }

    /// Whether the vector is sparse. The SDK writes a row of zeros as a shape alone.
    fn is_sparse(&self) -> bool {
        !self.keys.is_empty() || (self.len() == 0 && !self.shape.is_empty() && !self.shape.contains(&0))
    }

    /// The number of elements, including those that a sparse vector omits.
    fn width(&self) -> Result<usize, String> {
        if self.shape.is_empty() && self.is_sparse() {
            return Err("sparse values have no shape".to_owned());
        }
        let sizes: Option<Vec<usize>> = self.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let claimed = sizes.and_then(|sizes| product(&sizes));
        match (self.is_sparse(), claimed) {
            (true, Some(width)) => Ok(width),
            (false, _) if self.shape.is_empty() => Ok(self.len()),
            (false, Some(width)) if width == self.len() => Ok(width),
            (_, _) => Err(format!(
                "{} values do not fill the shape {:?}",
                self.len(),
                short(&self.shape)
            )),
        }
    }
}

fn short(sizes: &[u64]) -> &[u64] {
    &sizes[..sizes.len().min(8)]
}

/// The vectors with one name in all records so far.
struct Feature {
    name: String,
    kind: VectorKind,
    width: usize,
    shape: Vec<u64>,
    rows: usize,
    numbers: Vec<u8>,
    strings: Vec<Bytes>,
    /// The positions of the values, after the first sparse row.
    positions: Option<Vec<(u64, u64)>>,
}

impl Feature {
    fn new(name: &str, vector: &Vector<'_>) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            kind: vector.kind.ok_or("it has no values")?,
            width: vector.width()?,
            shape: vector.shape.clone(),
            rows: 0,
            numbers: Vec::new(),
            strings: Vec::new(),
            positions: None,
        })
    }

    fn push(&mut self, vector: &Vector<'_>, body: &Bytes) -> Result<(), DecodeError> {
        let problem = |problem: String| malformed(format!("feature {}: {problem}", excerpt(&self.name)));
        if vector.kind.is_some_and(|kind| kind != self.kind) || vector.kind.is_none() {
            return Err(problem(format!(
                "record {} does not have values of the same type as the first",
                self.rows
            )));
        }
        let width = vector.width().map_err(problem)?;
        if width != self.width {
            let text = format!(
                "record {} has {width} values where {} are expected",
                self.rows, self.width
            );
            return Err(problem(text));
        }
        let (row, count) = (self.rows as u64, vector.len());
        if vector.is_sparse() || self.positions.is_some() {
            if vector.is_sparse() && vector.keys.len() != count {
                return Err(problem(format!(
                    "record {row} has {count} values for {} keys",
                    vector.keys.len()
                )));
            }
            // The positions in dense rows.
            let width = self.width as u64;
            let dense = |rows: std::ops::Range<u64>| rows.flat_map(move |row| (0..width).map(move |key| (row, key)));
            if self.positions.is_none() {
                let mut before = alloc::with_capacity(self.rows.saturating_mul(self.width))?;
                before.extend(dense(0..row));
                self.positions = Some(before);
            }
            if let Some(positions) = &mut self.positions {
                positions.try_reserve(count).map_err(|_| DecodeError::OutOfMemory)?;
                match vector.is_sparse() {
                    true => positions.extend(vector.keys.iter().map(|&key| (row, key))),
                    false => positions.extend(dense(row..row + 1)),
                }
            }
        }
        if self.strings.len() + vector.strings.len() > MAX_STRINGS {
            return Err(problem(format!(
                "more than {MAX_STRINGS} strings; send fewer records in one request"
            )));
        }
        self.strings
            .extend(vector.strings.iter().map(|string| body.slice_ref(string)));
        self.numbers
            .try_reserve(vector.numbers.len())
            .map_err(|_| DecodeError::OutOfMemory)?;
        self.numbers.extend_from_slice(&vector.numbers);
        self.rows += 1;
        Ok(())
    }

    fn into_given(self) -> Result<RequestArray, DecodeError> {
        let problem = |problem: String| malformed(format!("feature {}: {problem}", excerpt(&self.name)));
        let numbers = |data_type, shape: Vec<usize>, bytes: Vec<u8>| {
            StoredArray::plain(data_type, shape, bytes.into())
                .ok_or_else(|| problem("its values do not fill it".to_owned()))
        };
        let elements = match (self.kind, self.positions) {
            (VectorKind::Strings, _) => RowElements::Strings(self.strings),
            (VectorKind::Numbers(data_type), None) => {
                RowElements::Numbers(numbers(data_type, vec![self.rows, self.width], self.numbers)?)
            }
            (VectorKind::Numbers(data_type), Some(positions)) => {
                let count = positions.len();
                let values = numbers(data_type, vec![count], self.numbers)?;
                let sparse = Sparse::new([self.rows, self.width], positions.into_iter(), count, values);
                RowElements::Sparse(sparse.map_err(|error| match error {
                    SparseError::OutOfBounds(OutOfBounds { row, column }) => {
                        problem(format!("record {row} has the key {column}, but {} values", self.width))
                    }
                    SparseError::Count { positions, values } => {
                        problem(format!("{values} values for {positions} keys"))
                    }
                    SparseError::Size => too_large("the sparse feature"),
                    SparseError::NoMemory => DecodeError::OutOfMemory,
                })?)
            }
        };
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        Ok(RequestArray {
            name: Some(self.name),
            array: Array::Rows(FeatureRows {
                rows: self.rows,
                width: self.width,
                shape,
                elements,
            }),
        })
    }
}

/// Reads the name and the vector of a map entry.
fn entry(message: &[u8]) -> Result<(&str, &[u8]), String> {
    let (mut name, mut value) = (&b""[..], &b""[..]);
    let mut fields = ProtoFields::new(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            ENTRY_KEY => name = field.bytes()?,
            ENTRY_VALUE => value = field.bytes()?,
            _ => {}
        }
    }
    let name = std::str::from_utf8(name).map_err(|_| "a name is not UTF-8".to_owned())?;
    Ok((name, value))
}

/// Reads the named vectors of a record: its features, or with `labels` its labels.
fn vectors(record: &[u8], labels: bool) -> Result<Vec<(&str, Vector<'_>)>, String> {
    let wanted = if labels { RECORD_LABEL } else { RECORD_FEATURES };
    let mut found = Vec::new();
    let mut fields = ProtoFields::new(record);
    while let Some((number, field)) = fields.next()? {
        if number != wanted {
            continue;
        }
        if found.len() == MAX_FEATURES {
            return Err(format!("a record has more than {MAX_FEATURES} features"));
        }
        let (name, value) = entry(field.bytes()?)?;
        found.push((name, Vector::read(value)?));
    }
    Ok(found)
}

/// Whether a record has labels but no features.
fn has_labels_only(record: &[u8]) -> Result<bool, String> {
    Ok(vectors(record, false)?.is_empty() && !vectors(record, true)?.is_empty())
}

fn malformed(problem: impl Into<String>) -> DecodeError {
    DecodeError::malformed(Format::RecordIo, problem)
}

pub(super) fn decode(body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let mut frames = Frames { rest: body };
    let mut features: Vec<Feature> = Vec::new();
    let mut count = 0usize;
    let mut labels = false;
    while let Some(record) = frames
        .next()
        .map_err(|problem| malformed(format!("record {count}: {problem}")))?
    {
        let at = |problem: String| malformed(format!("record {count}: {problem}"));
        if count == 0 {
            labels = has_labels_only(record).map_err(at)?;
        }
        let vectors = vectors(record, labels).map_err(at)?;
        if vectors.is_empty() {
            return Err(at("it has no features".to_owned()));
        }
        for (index, (name, vector)) in vectors.iter().enumerate() {
            let guess = features.get(index).is_some_and(|feature| feature.name == *name);
            let position = match guess {
                true => Some(index),
                false => features.iter().position(|feature| feature.name == *name),
            };
            let position = match position {
                Some(position) => position,
                None if count == 0 => {
                    let feature = Feature::new(name, vector);
                    features.push(feature.map_err(|problem| at(format!("feature {}: {problem}", excerpt(name))))?);
                    features.len() - 1
                }
                None => return Err(at(format!("the first record has no feature {}", excerpt(name)))),
            };
            if features[position].rows != count {
                return Err(at(format!("it has feature {} twice", excerpt(name))));
            }
            features[position].push(vector, body)?;
        }
        count += 1;
        if let Some(absent) = features.iter().find(|feature| feature.rows != count) {
            let name = excerpt(&absent.name);
            return Err(malformed(format!("record {} has no feature {name}", count - 1)));
        }
        let widths = features
            .iter()
            .map(|feature| feature.width.saturating_mul(feature.rows));
        if widths.fold(0, usize::saturating_add) > MAX_DENSE_BYTES {
            return Err(too_large("the records"));
        }
    }
    let given = features
        .into_iter()
        .map(Feature::into_given)
        .collect::<Result<_, _>>()?;
    let inputs = bind(given, schema, "a record")?;
    Ok(DecodedRequest::new(inputs, ReplyPlan::counted(count)))
}

/// Estimates the bytes of all records once they are dense.
pub(super) fn decoded_bytes(body: &Bytes, schema: &Schema) -> Option<usize> {
    let mut frames = Frames { rest: body };
    let first = frames.next().ok()??;
    let labels = has_labels_only(first).ok()?;
    let mut row = 0usize;
    for (name, vector) in vectors(first, labels).ok()? {
        let input = schema.find_input(name).or_else(|| schema.only_input())?;
        let data_type = schema.signature().inputs.get(input)?.data_type;
        row = row.checked_add(dense_bytes([1, vector.width().ok()?], data_type)?)?;
    }
    let mut count = 1usize;
    while frames.next().ok()?.is_some() {
        count += 1;
    }
    row.checked_mul(count)
}

#[cfg(test)]
mod tests;
