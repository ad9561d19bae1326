//! LoRA adapters in ONNX Runtime's own format: values for some of a base model's inputs.
//!
//! An exporter such as Olive makes the small matrices of a fine-tuned model inputs of its base
//! model, and writes their values to a file `*.onnx_adapter`. So the base model is one content with
//! one session, and each name adds the values of its own file.
//!
//! ONNX Runtime can activate an adapter for a run (`RunOptionsAddActiveLoraAdapter`). This server
//! passes the adapter's tensors as ordinary inputs of the run instead:
//! - Nothing else happens in ONNX Runtime: its `Run` appends the names and values of the active
//!   adapters to those of the call.
//! - An active adapter is a state of the run's options. Several runs of a request share them, and
//!   other threads hold them (`Cancel`). Ordinary inputs leave no state behind, so none can reach
//!   the run of another model.
//! - The file is untrusted. Only this module reads it, and checks every offset; ONNX Runtime's own
//!   reader never sees it.
//! - The tensors borrow one buffer, which names with an equal file share. A run copies nothing on a
//!   CPU. On a GPU each run copies them to the device, which an active adapter could avoid.
//!
//! Invariants: the memory of an adapter is reserved as long as it exists. Its tensors have the
//! types and shapes that the session declares. Batches are formed per name, so that one run never
//! has the values of two adapters; the values are not joined along the axis of the records.

mod bound;
mod loading;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;

use crate::engine::load::flatbuffer::{FlatTable, Flatbuffer, FlatbufferError};
use crate::engine::memory::ModelReservation;
use crate::tensor::{DataType, Tensor, element_count};

pub use bound::BoundAdapter;
pub use loading::{FoundAdapter, refused, uncounted};

/// The extension of adapters.
pub const EXTENSION: &str = ".onnx_adapter";

/// The name of the adapter that is used where several are next to the model.
pub const FILE: &str = "adapter.onnx_adapter";

/// Limit on the bytes of an adapter.
pub const MAX_BYTES: u64 = 1 << 30;

/// Limit on the parameters of an adapter. Large language models have two for each of a few hundred
/// layers.
const MAX_PARAMETERS: usize = 16 << 10;

/// Limit on the rank of a parameter.
const MAX_RANK: usize = 16;

/// The flatbuffer's identifier, and the only version of the format.
const IDENTIFIER: &[u8; 4] = b"TORT";
const VERSION: i32 = 1;

/// Reason why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("it has {0} bytes, and an adapter may have {MAX_BYTES}")]
    TooLong(u64),
    #[error("it is not an adapter in ONNX Runtime's format; write it with onnxruntime.AdapterFormat or with Olive")]
    NotAnAdapter,
    #[error(transparent)]
    Damaged(#[from] FlatbufferError),
    #[error("it has version {0} of the format, and this server reads version {VERSION}")]
    Version(i32),
    #[error("it has no parameters")]
    Empty,
    #[error("it has {0} parameters, and an adapter may have {MAX_PARAMETERS}")]
    TooMany(usize),
    #[error("it has two parameters {name:?}")]
    Twice { name: String },
    #[error("parameter {name:?} has the data type {code} of ONNX, which is not supported")]
    DataType { name: String, code: i32 },
    #[error("parameter {name:?} has more than {MAX_RANK} dimensions, or an impossible one")]
    Shape { name: String },
    #[error("parameter {name:?} is {tensor}, but it has {given} bytes of data")]
    Length { name: String, tensor: String, given: usize },
    #[error("parameter {name:?} has booleans other than 0 and 1")]
    Boolean { name: String },
    #[error("its parameters share their data")]
    SharedData,
    #[error("parameter {name:?} is not an input of the model, which has the inputs {inputs}")]
    UnknownInput { name: String, inputs: String },
    #[error("parameter {name:?} is {given}, but the model takes {takes}")]
    Mismatch { name: String, given: String, takes: String },
}

/// A named value for an input of a base model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub value: Tensor,
}

impl Parameter {
    /// The type and the shape of the value, like those of an input: `float32[4, 8]`.
    pub fn value_type(&self) -> String {
        described(self.value.data_type(), self.value.shape())
    }
}

/// An adapter in memory, with its memory reservation.
#[derive(Debug)]
pub struct Adapter {
    pub hash: blake3::Hash,
    pub parameters: Vec<Parameter>,
    /// Bytes of its file.
    pub size: u64,
    // Dropped after the parameters, so that the memory is free when the reservation ends. `None`
    // in a command that counts no memory.
    memory: Option<ModelReservation>,
}

impl Adapter {
    /// The names of the parameters.
    pub fn names(&self) -> BTreeSet<String> {
        self.parameters.iter().map(|parameter| parameter.name.clone()).collect()
    }

    /// Bytes that count against the limit.
    pub fn charge(&self) -> u64 {
        self.memory.as_ref().map_or(0, ModelReservation::charge)
    }
}

/// Reads the parameters from the bytes of a file. They borrow `bytes`.
pub fn read(bytes: &Bytes) -> Result<Vec<Parameter>, AdapterError> {
    if bytes.get(4..8) != Some(IDENTIFIER) {
        return Err(AdapterError::NotAnAdapter);
    }
    let mut file = AdapterReader {
        file: Flatbuffer::of_bytes(bytes.clone()),
        bytes,
    };
    file.parameters()
}

struct AdapterReader<'a> {
    file: Flatbuffer,
    bytes: &'a Bytes,
}

impl AdapterReader<'_> {
    fn parameters(&mut self) -> Result<Vec<Parameter>, AdapterError> {
        let root = self.file.root(IDENTIFIER)?;
        match self.file.i32(root, 0)? {
            VERSION => {}
            version => return Err(AdapterError::Version(version)),
        }
        let (start, count) = self.file.vector(root, 3)?.unwrap_or_default();
        match count {
            0 => return Err(AdapterError::Empty),
            1..=MAX_PARAMETERS => {}
            _ => return Err(AdapterError::TooMany(count)),
        }
        let mut parameters = Vec::new();
        let mut names = HashSet::new();
        let mut total = 0;
        for index in 0..count as u64 {
            let place = self.file.follow(start + 4 * index)?;
            let table = self.file.table(place)?;
            let parameter = self.parameter(table)?;
            // Tables may refer to the same bytes, which would be copied if they are not aligned.
            total += parameter.value.byte_len();
            if total > self.bytes.len() {
                return Err(AdapterError::SharedData);
            }
            if !names.insert(parameter.name.clone()) {
                let name = brief(&parameter.name);
                return Err(AdapterError::Twice { name });
            }
            parameters.push(parameter);
        }
        Ok(parameters)
    }

    fn parameter(&mut self, table: FlatTable) -> Result<Parameter, AdapterError> {
        let name = match self.file.offset(table, 0)? {
            Some(place) => self.file.text(place)?,
            None => String::new(),
        };
        let shown = brief(&name);
        let Some(shape) = self.shape(table)? else {
            return Err(AdapterError::Shape { name: shown });
        };
        let code = self.file.i32(table, 2)?;
        // The format numbers the types as ONNX does, and has no strings.
        let known = u64::try_from(code).ok().and_then(DataType::from_onnx);
        let Some(data_type) = known.filter(|data_type| data_type.size().is_some()) else {
            return Err(AdapterError::DataType { name: shown, code });
        };
        let data = self.data(table)?;
        if data_type == DataType::Bool && data.iter().any(|&byte| byte > 1) {
            return Err(AdapterError::Boolean { name: shown });
        }
        let given = data.len();
        let expected = element_count(&shape).and_then(|count| count.checked_mul(data_type.size()?));
        if expected != Some(given) {
            let tensor = described(data_type, &shape);
            return Err(AdapterError::Length {
                name: shown,
                tensor,
                given,
            });
        }
        match Tensor::from_bytes(data_type, shape, data) {
            Ok(value) => Ok(Parameter { name, value }),
            Err(_) => Err(AdapterError::Shape { name: shown }),
        }
    }

    /// The dimensions; `None` if they are too many, or if one is negative.
    fn shape(&mut self, table: FlatTable) -> Result<Option<Vec<usize>>, AdapterError> {
        let Some(dims) = self.file.short_vector(table, 1, 8, MAX_RANK)? else {
            return Ok(None);
        };
        let dims = dims.as_chunks::<8>().0.iter();
        let dims = dims.map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).ok());
        Ok(dims.collect())
    }

    /// The bytes of the value, as a part of the file's.
    fn data(&mut self, table: FlatTable) -> Result<Bytes, AdapterError> {
        let Some((start, length)) = self.file.vector(table, 3)? else {
            return Ok(Bytes::new());
        };
        let range = usize::try_from(start)
            .ok()
            .and_then(|start| Some(start..start.checked_add(length)?))
            .filter(|range| range.end <= self.bytes.len());
        Ok(self.bytes.slice(range.ok_or(FlatbufferError::Malformed)?))
    }
}

fn described(data_type: DataType, shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("{data_type}[{}]", sizes.join(", "))
}

/// Shortens a name for a message.
fn brief(name: &str) -> String {
    name.chars().take(200).collect()
}
