//! ONNX Runtime's C API, where the `ort` crate's safe one does not reach. Almost all of the crate's `unsafe` is here; the
//! rest is the allocator (`allocator.rs`) and the handler that says whose run crashed the library (`crash.rs`).
//!
//! Five things need it:
//! - **Concurrent runs.** `ort::session::Session::run` takes `&mut self`, so one session could serve one request at a
//!   time. The C API's `Run` is documented as thread-safe for a session ("multiple threads can run the same session"),
//!   and is so for the CPU execution provider; sessions with another one take turns (`session.rs`). [`run`] calls it behind
//!   `&Session`.
//! - **Borrowed tensors.** Inputs are handed over as windows of the request body, outputs are taken over as the memory
//!   ONNX Runtime allocated. Nothing is copied on the way, except strings and an output that aliases an input.
//! - **Shapes that are not declared.** The C API tells a scalar from a value of unknown rank; `ort` does not.
//! - **One arena for all sessions on a GPU** ([`share_arena`]), and **where a graph's nodes run** ([`nodes_by_provider`]).

#![expect(unsafe_code, reason = "the C API of ONNX Runtime; every block says why it is sound")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::OnceLock;

use bytes::Bytes;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, Session};
use ort::sys::{ONNXTensorElementDataType as ElementType, ONNXType, OrtTypeInfo, OrtValue};
use ort::{AsPointer, ortsys};

use crate::tensor::{DataType, Tensor, Value};

/// Keeps ONNX Runtime from reporting home.
///
/// Official builds from 1.29 on start an uploader while the environment is created, before the API call that turns it
/// off can be made. A variable, read by the library at that moment, keeps it from starting. Call this first of all in
/// `main`: it returns false, having done nothing, when other threads run already or that cannot be known.
#[must_use]
pub fn disable_telemetry() -> bool {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "1") {
        return true;
    }
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone {
        // SAFETY: the process environment is not synchronised, and this is the only thread.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
    alone
}

/// Ends the process at once, without running C++ static destructors: a thread that is still inside a session would
/// crash in them, and giving memory back one session at a time is wasted work when all of it goes.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` is in every libc, takes any status and touches no memory of ours.
    unsafe extern "C" {
        safe fn _exit(code: i32) -> !;
    }
    _exit(code)
}

/// Whether the `index`-th input (or output) declares a shape at all. Without one every rank is accepted.
pub fn has_shape(session: &Session, side: Side, index: usize) -> ort::Result<bool> {
    let mut info: *mut OrtTypeInfo = ptr::null_mut();
    let session = session.ptr();
    match side {
        // SAFETY: the session is alive, `info` is a valid place for the result; an index out of range is an error.
        Side::Input => ortsys![unsafe SessionGetInputTypeInfo(session, index, &mut info)?],
        // SAFETY: as above.
        Side::Output => ortsys![unsafe SessionGetOutputTypeInfo(session, index, &mut info)?],
    }
    let mut tensor = ptr::null();
    // SAFETY: `info` was filled by the call above and is released once, below; `tensor` borrows from it, is null for a
    // value that is no tensor, and is not used after the release.
    unsafe {
        let cast = (ortsys![CastTypeInfoToTensorInfo])(info, &mut tensor);
        let has_shape = !tensor.is_null() && (ortsys![TensorTypeAndShape_HasShape])(tensor);
        (ortsys![ReleaseTypeInfo])(info);
        ort::Error::result_from_status(cast)?;
        Ok(has_shape)
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Side {
    Input,
    Output,
}

/// Makes an arena for the memory of the CUDA device `device`, of at most `limit` bytes, for all sessions of `environment`
/// that have `session.use_env_allocators` set. Once per device.
pub fn share_arena(environment: &Environment, device: u16, limit: Option<usize>) -> ort::Result<()> {
    /// Extends by growing steps, so that what different models leave behind is in few pieces.
    const NEXT_POWER_OF_TWO: usize = 0;
    const WITHOUT_LIMIT: usize = 0;
    let memory = MemoryInfo::new(
        AllocationDevice::CUDA,
        device.into(),
        AllocatorType::Arena,
        MemoryType::Default,
    )?;
    let keys = [c"max_mem".as_ptr(), c"arena_extend_strategy".as_ptr()];
    let values = [limit.unwrap_or(WITHOUT_LIMIT), NEXT_POWER_OF_TWO];
    let mut configuration = ptr::null_mut();
    // SAFETY: both arrays have as many items as is said, the keys are NUL-terminated, and `configuration` is a valid place
    // for the result.
    ortsys![unsafe CreateArenaCfgV2(keys.as_ptr(), values.as_ptr(), keys.len(), &mut configuration)?];
    // SAFETY: environment, memory info and configuration are alive, the environment synchronises changes to its allocators
    // and copies what it needs; there are no provider options. The configuration is ours and released once.
    unsafe {
        let status = (ortsys![CreateAndRegisterAllocatorV2])(
            environment.ptr().cast_mut(),
            c"CUDAExecutionProvider".as_ptr(),
            memory.ptr(),
            configuration,
            ptr::null(),
            ptr::null(),
            0,
        );
        (ortsys![ReleaseArenaCfg])(configuration);
        ort::Error::result_from_status(status)
    }
}

/// How many of the graph's nodes which execution provider runs. The session must have been created with
/// `session.record_ep_graph_assignment_info` set.
pub fn nodes_by_provider(session: &Session) -> ort::Result<BTreeMap<String, usize>> {
    let (mut parts, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive, and both places are valid. The array belongs to the session.
    ortsys![unsafe Session_GetEpGraphAssignmentInfo(session.ptr(), &mut parts, &mut count)?];
    let mut nodes = BTreeMap::new();
    if count == 0 {
        return Ok(nodes);
    }
    // SAFETY: the library has just said that `count` items lie there; they live as long as the session.
    for &part in unsafe { slice::from_raw_parts(parts, count) } {
        let (mut name, mut of_part, mut count) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `part` is one of the session's; the place is valid.
        ortsys![unsafe EpAssignedSubgraph_GetEpName(part, &mut name)?];
        // SAFETY: as above. The array is not looked at.
        ortsys![unsafe EpAssignedSubgraph_GetNodes(part, &mut of_part, &mut count)?];
        // SAFETY: a NUL-terminated text that belongs to the session.
        let name = unsafe { CStr::from_ptr(name) };
        *nodes.entry(name.to_string_lossy().into_owned()).or_default() += count;
    }
    Ok(nodes)
}

/// Runs `session` and returns the values of `output_names`, in that order.
///
/// May be called from any number of threads for one session that has the CPU's execution provider alone.
pub fn run(
    session: &Session,
    input_names: &[CString],
    inputs: &[Tensor],
    output_names: &[*const c_char],
    options: &RunOptions,
) -> ort::Result<Vec<Value>> {
    debug_assert_eq!(input_names.len(), inputs.len());
    let given = inputs.iter().map(input_value).collect::<ort::Result<Vec<_>>>()?;
    let input_values: Vec<*const OrtValue> = given.iter().map(|value| value.0.as_ptr().cast_const()).collect();
    let input_names: Vec<*const c_char> = input_names.iter().map(|name| name.as_ptr()).collect();
    let mut outputs: Vec<*mut OrtValue> = vec![ptr::null_mut(); output_names.len()];

    // SAFETY:
    // - `Run` may be called concurrently for one session; it takes the session as `*mut` only because C has no notion
    //   of shared mutability, and `ort` never forms a `&mut Session` while we hold `&Session`.
    // - The names are NUL-terminated and outlive the call, as do the input values and the buffers they borrow
    //   (`inputs` is borrowed for the whole function). ONNX Runtime does not write to graph inputs.
    // - The run options may be told to terminate by another thread meanwhile: that is what the C API has the call for,
    //   and it does nothing but set a flag that the run reads.
    // - `outputs` has a null pointer per name, which asks ONNX Runtime to allocate; what it has not filled stays null.
    let status = unsafe {
        (ortsys![Run])(
            session.ptr().cast_mut(),
            options.ptr(),
            input_names.as_ptr(),
            input_values.as_ptr(),
            input_values.len(),
            output_names.as_ptr(),
            output_names.len(),
            outputs.as_mut_ptr(),
        )
    };
    let outputs: Vec<Option<OwnedValue>> = outputs
        .into_iter()
        .map(|value| NonNull::new(value).map(OwnedValue))
        .collect();
    // SAFETY: `status` is what `Run` returned; ownership of a failure passes to the error.
    unsafe { ort::Error::result_from_status(status) }?;

    outputs
        .into_iter()
        .map(|value| match value {
            Some(value) => output_value(value, inputs),
            None => Err(ort::Error::new("the model left an output without a value")),
        })
        .collect()
}

/// A value to be released by us. It may outlive its session: ONNX Runtime counts references to the allocator that made
/// a tensor's memory, and the tensor holds one; initializers that are outputs are copied by the run.
struct OwnedValue(NonNull<OrtValue>);

// SAFETY: an OrtValue is a reference-counted handle without thread affinity; `OwnedValue` is its only owner here.
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

    /// Elements of a sequence, or 2 (keys, values) for a map.
    fn children(&self) -> ort::Result<Vec<OwnedValue>> {
        let mut count = 0;
        // SAFETY: the value is alive and `count` is a valid place for the result.
        ortsys![unsafe GetValueCount(self.0.as_ptr(), &mut count)?];
        let allocator = Allocator::default();
        (0..count)
            .map(|index| {
                let index = i32::try_from(index).map_err(|_| ort::Error::new("a sequence is too long"))?;
                let mut child = ptr::null_mut();
                // SAFETY: the value and the allocator are alive; `child` is a valid place for a new value of ours.
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

fn input_value(tensor: &Tensor) -> ort::Result<OwnedValue> {
    let shape: Vec<i64> = tensor
        .shape()
        .iter()
        .map(|&dim| i64::try_from(dim).map_err(|_| ort::Error::new("a dimension does not fit int64")))
        .collect::<ort::Result<_>>()?;
    let element = element_type(tensor.data_type());
    let mut value = ptr::null_mut();
    if let Some(bytes) = tensor.as_bytes() {
        let memory = cpu_memory()?;
        // SAFETY: `Tensor` guarantees that the bytes are as long as shape and type need and aligned for the type. The
        // value borrows them: the caller keeps the tensor until the value is released, and ONNX Runtime only reads.
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
    // SAFETY: the allocator and the shape are alive; `value` is a valid place for a new value of ours.
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
        // SAFETY: `index` is below the element count that the value was created with; ONNX Runtime resizes its own
        // string to `text.len()` and returns where it lies.
        ortsys![unsafe GetResizedStringTensorElementBuffer(owned.0.as_ptr(), index, text.len(), &mut buffer)?];
        // SAFETY: `buffer` holds `text.len()` bytes of the value's own memory; the regions cannot overlap.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len()) };
    }
    Ok(owned)
}

/// Where inputs lie. Made once: it is the same for all of them.
fn cpu_memory() -> ort::Result<&'static MemoryInfo<'static>> {
    static MEMORY: OnceLock<MemoryInfo<'static>> = OnceLock::new();
    if let Some(memory) = MEMORY.get() {
        return Ok(memory);
    }
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
    Ok(MEMORY.get_or_init(|| memory))
}

fn output_value(value: OwnedValue, inputs: &[Tensor]) -> ort::Result<Value> {
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
        "the model returned a value that is no tensor, sequence or map",
    ))
}

fn output_tensor(value: OwnedValue, inputs: &[Tensor]) -> ort::Result<Tensor> {
    let (data_type, shape) = value.tensor_type()?;
    let tensor = match data_type.size() {
        None => Tensor::from_strings(shape, output_strings(&value)?),
        Some(size) => {
            let length = crate::tensor::element_count(&shape)
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

fn output_bytes(value: OwnedValue, length: usize, inputs: &[Tensor]) -> ort::Result<Bytes> {
    let data = value.data()?.cast::<u8>().cast_const();
    let memory = OutputMemory {
        data,
        length,
        _value: value,
    };
    // A graph that passes an input through returns the input's own buffer, which this value does not keep alive.
    let aliases_an_input = inputs.iter().filter_map(Tensor::as_bytes).any(|input| {
        let start = input.as_ptr().addr();
        (start..start + input.len()).contains(&data.addr())
    });
    Ok(if aliases_an_input {
        Bytes::copy_from_slice(memory.as_ref())
    } else {
        Bytes::from_owner(memory)
    })
}

/// The memory of an output tensor, released with it.
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
        // SAFETY: ONNX Runtime allocated `length` bytes for the tensor's shape and type and initialised them in the
        // run; they live as long as `_value`, and nothing writes to them any more.
        unsafe { slice::from_raw_parts(self.data, self.length) }
    }
}

fn output_strings(value: &OwnedValue) -> ort::Result<Vec<Bytes>> {
    let (_, shape) = value.tensor_type()?;
    let count = crate::tensor::element_count(&shape).unwrap_or(0);
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

/// `count` zeros, or the error that a failed allocation of ONNX Runtime's own gives.
fn zeroed<T: Clone + Default>(count: usize) -> ort::Result<Vec<T>> {
    let mut items = Vec::new();
    items
        .try_reserve_exact(count)
        .map_err(|_| ort::Error::new("std::bad_alloc"))?;
    items.resize(count, T::default());
    Ok(items)
}

/// The element type of ours for one of ONNX Runtime's, when there is one.
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
