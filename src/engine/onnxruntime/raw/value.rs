//! Converts tensors and other values between our types and ONNX Runtime's, without copying.
//!
//! Invariants: a value is released once, by its owner here; the memory of an output lives as long
//! as a tensor that refers to it.

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::OnceLock;

use bytes::Bytes;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::sys::{ONNXTensorElementDataType as ElementType, ONNXType, OrtValue};
use ort::{AsPointer, ortsys};

use crate::tensor::{DataType, Tensor, Value, element_count};

/// A value that this module releases. It may outlive its session: ONNX Runtime counts references to
/// the allocator of a tensor's memory, and the tensor holds one; a run copies initializers that are
/// outputs.
pub(super) struct OwnedValue(pub(super) NonNull<OrtValue>);

// SAFETY: an OrtValue is a reference-counted handle without thread affinity; `OwnedValue` is its
// only owner here.
unsafe impl Send for OwnedValue {}
// SAFETY: shared access only reads the tensor's memory, which nothing writes after the run.
unsafe impl Sync for OwnedValue {}

impl Drop for OwnedValue {
    fn drop(&mut self) {
        // SAFETY: we own the value and release it once.
        unsafe { (ortsys![ReleaseValue])(self.0.as_ptr()) };
    }
}

impl OwnedValue {
    fn from_out(value: *mut OrtValue) -> ort::Result<Self> {
        NonNull::new(value)
            .map(Self)
            .ok_or_else(|| ort::Error::new("ONNX Runtime returned a null value"))
    }

    fn kind(&self) -> ort::Result<ONNXType> {
        let mut kind = ONNXType::ONNX_TYPE_UNKNOWN;
        // SAFETY: the value is alive and `kind` is a valid place for the result.
        ortsys![unsafe GetValueType(self.0.as_ptr(), &mut kind)?];
        Ok(kind)
    }

    /// The elements of a sequence, or the keys and the values of a map.
    fn children(&self) -> ort::Result<Vec<OwnedValue>> {
        let mut count = 0;
        // SAFETY: the value is alive and `count` is a valid place for the result.
        ortsys![unsafe GetValueCount(self.0.as_ptr(), &mut count)?];
        let allocator = Allocator::default();
        (0..count)
            .map(|index| {
                let index = i32::try_from(index).map_err(|_| ort::Error::new("a sequence is too long"))?;
                let mut child = ptr::null_mut();
                // SAFETY: the value and the allocator are alive; `child` is a valid place for a new
                // value of ours.
                ortsys![unsafe GetValue(self.0.as_ptr(), index, allocator.ptr().cast_mut(), &mut child)?];
                OwnedValue::from_out(child)
            })
            .collect()
    }

    fn tensor_type(&self) -> ort::Result<(DataType, Vec<usize>)> {
        let mut element = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        let mut dims: *const i64 = ptr::null();
        let mut rank = 0;
        // SAFETY: the value is alive; the three places are valid.
        ortsys![unsafe GetTensorElementTypeAndShapeDataReference(self.0.as_ptr(), &mut element, &mut dims, &mut rank)?];
        let data_type = data_type(element)
            .ok_or_else(|| ort::Error::new("the model returned an element type that is not supported"))?;
        let dims = if rank == 0 {
            &[][..]
        } else {
            // SAFETY: `dims` points to `rank` sizes owned by the value, which outlives this use.
            unsafe { slice::from_raw_parts(dims, rank) }
        };
        let shape = dims
            .iter()
            .map(|&dim| usize::try_from(dim).map_err(|_| ort::Error::new("the model returned a negative dimension")))
            .collect::<ort::Result<Vec<usize>>>()?;
        Ok((data_type, shape))
    }

    fn data(&self) -> ort::Result<*mut c_void> {
        let mut data = ptr::null_mut();
        // SAFETY: the value is a tensor of fixed-size elements and alive.
        ortsys![unsafe GetTensorMutableData(self.0.as_ptr(), &mut data)?];
        Ok(data)
    }
}

pub(super) fn input_value(tensor: &Tensor) -> ort::Result<OwnedValue> {
    let shape: Vec<i64> = tensor
        .shape()
        .iter()
        .map(|&dim| i64::try_from(dim).map_err(|_| ort::Error::new("a dimension does not fit int64")))
        .collect::<ort::Result<_>>()?;
    let element = element_type(tensor.data_type());
    let mut value = ptr::null_mut();
    if let Some(bytes) = tensor.as_bytes() {
        let memory = cpu_memory()?;
        // SAFETY: `Tensor` guarantees that the bytes are as long as shape and type need and aligned
        // for the type. The value borrows them: the caller keeps the tensor until the value is
        // released, and ONNX Runtime only reads.
        ortsys![unsafe CreateTensorWithDataAsOrtValue(
            memory.ptr(),
            bytes.as_ptr().cast_mut().cast(),
            bytes.len(),
            shape.as_ptr(),
            shape.len(),
            element,
            &mut value
        )?];
        return OwnedValue::from_out(value);
    }
    let allocator = Allocator::default();
    // SAFETY: the allocator and the shape are alive; `value` is a valid place for a new value of
    // ours.
    ortsys![unsafe CreateTensorAsOrtValue(
        allocator.ptr().cast_mut(),
        shape.as_ptr(),
        shape.len(),
        element,
        &mut value
    )?];
    let owned = OwnedValue::from_out(value)?;
    for (index, text) in tensor.as_strings().unwrap_or_default().iter().enumerate() {
        let mut buffer: *mut c_char = ptr::null_mut();
        // SAFETY: `index` is below the element count that the value was created with; ONNX Runtime
        // resizes its own string to `text.len()` and returns its address.
        ortsys![unsafe GetResizedStringTensorElementBuffer(owned.0.as_ptr(), index, text.len(), &mut buffer)?];
        // SAFETY: `buffer` holds `text.len()` bytes of the value's own memory; the regions cannot
        // overlap.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len()) };
    }
    Ok(owned)
}

/// The memory info of inputs. Created once, because it is the same for all of them.
fn cpu_memory() -> ort::Result<&'static MemoryInfo<'static>> {
    static MEMORY: OnceLock<MemoryInfo<'static>> = OnceLock::new();
    if let Some(memory) = MEMORY.get() {
        return Ok(memory);
    }
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
    Ok(MEMORY.get_or_init(|| memory))
}

pub(super) fn output_value(value: OwnedValue, inputs: &[&Tensor]) -> ort::Result<Value> {
    let kind = value.kind()?;
    if kind == ONNXType::ONNX_TYPE_TENSOR {
        return output_tensor(value, inputs).map(Value::Tensor);
    }
    if kind == ONNXType::ONNX_TYPE_SEQUENCE {
        let elements = value.children()?.into_iter().map(|child| output_value(child, inputs));
        return Ok(Value::Sequence(elements.collect::<ort::Result<_>>()?));
    }
    if kind == ONNXType::ONNX_TYPE_MAP {
        let mut children = value.children()?.into_iter();
        let (Some(keys), Some(values)) = (children.next(), children.next()) else {
            return Err(ort::Error::new("the model returned a map without keys and values"));
        };
        return Ok(Value::Map {
            keys: output_tensor(keys, inputs)?,
            values: output_tensor(values, inputs)?,
        });
    }
    Err(ort::Error::new(
        "the model returned a value that is not a tensor, a sequence or a map",
    ))
}

fn output_tensor(value: OwnedValue, inputs: &[&Tensor]) -> ort::Result<Tensor> {
    let (data_type, shape) = value.tensor_type()?;
    let tensor = match data_type.size() {
        None => Tensor::from_strings(shape, output_strings(&value)?),
        Some(size) => {
            let length = element_count(&shape)
                .and_then(|count| count.checked_mul(size))
                .ok_or_else(|| ort::Error::new("the model returned a tensor larger than memory"))?;
            let bytes = if length == 0 {
                Bytes::new()
            } else {
                output_bytes(value, length, inputs)?
            };
            Tensor::from_bytes(data_type, shape, bytes)
        }
    };
    tensor.map_err(ort::Error::wrap)
}

fn output_bytes(value: OwnedValue, length: usize, inputs: &[&Tensor]) -> ort::Result<Bytes> {
    let data = value.data()?.cast::<u8>().cast_const();
    let memory = OutputMemory {
        data,
        length,
        _value: value,
    };
    // A graph that passes an input through returns the input's own buffer, which this value does
    // not keep alive.
    let aliases_an_input = inputs.iter().filter_map(|input| input.as_bytes()).any(|input| {
        let start = input.as_ptr().addr();
        (start..start + input.len()).contains(&data.addr())
    });
    Ok(if aliases_an_input {
        Bytes::copy_from_slice(memory.as_ref())
    } else {
        Bytes::from_owner(memory)
    })
}

/// The memory of an output tensor. It is freed on drop.
struct OutputMemory {
    data: *const u8,
    length: usize,
    _value: OwnedValue,
}

// SAFETY: `data` points into memory that `_value` owns; see `OwnedValue`.
unsafe impl Send for OutputMemory {}
// SAFETY: as above, and it is only read.
unsafe impl Sync for OutputMemory {}

impl AsRef<[u8]> for OutputMemory {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: ONNX Runtime allocated `length` bytes for the tensor's shape and type and
        // initialised them in the run; they live as long as `_value`, and nothing writes to them
        // any more.
        unsafe { slice::from_raw_parts(self.data, self.length) }
    }
}

fn output_strings(value: &OwnedValue) -> ort::Result<Vec<Bytes>> {
    let (_, shape) = value.tensor_type()?;
    let count = element_count(&shape).unwrap_or(0);
    let mut length = 0;
    // SAFETY: the value is a string tensor and alive.
    ortsys![unsafe GetStringTensorDataLength(value.0.as_ptr(), &mut length)?];
    let (mut content, mut offsets) = (zeroed::<u8>(length)?, zeroed::<usize>(count)?);
    if count > 0 {
        // SAFETY: both buffers have the lengths that are passed with them.
        ortsys![unsafe GetStringTensorContent(
            value.0.as_ptr(),
            content.as_mut_ptr().cast(),
            content.len(),
            offsets.as_mut_ptr(),
            offsets.len()
        )?];
    }
    let content = Bytes::from(content);
    let ends = offsets.iter().skip(1).copied().chain([length]);
    offsets
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            (start <= end && end <= length)
                .then(|| content.slice(start..end))
                .ok_or_else(|| ort::Error::new("ONNX Runtime returned string offsets out of order"))
        })
        .collect()
}

/// Allocates `count` zeros. A failure has the same text as a failed allocation of ONNX Runtime.
fn zeroed<T: Clone + Default>(count: usize) -> ort::Result<Vec<T>> {
    let mut items = Vec::new();
    items
        .try_reserve_exact(count)
        .map_err(|_| ort::Error::new("std::bad_alloc"))?;
    items.resize(count, T::default());
    Ok(items)
}

/// Maps ONNX Runtime's element type to ours, if it is supported.
pub fn data_type(element: ElementType) -> Option<DataType> {
    DataType::ALL
        .into_iter()
        .find(|&data_type| element_type(data_type) == element)
}

fn element_type(data_type: DataType) -> ElementType {
    match data_type {
        DataType::F16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::F32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::F64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::I8 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::I16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::I32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::I64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::U8 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::U16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::U32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::U64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Bool => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::String => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}
