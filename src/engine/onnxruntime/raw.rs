//! The parts of ONNX Runtime's C API that the `ort` crate's safe API does not cover. Almost all
//! `unsafe` code of this crate is here; the rest is the allocator (`allocator.rs`), the crash
//! handlers (`crash.rs`, `division/trap.rs`) and mapped files (`constants/mapped.rs`,
//! `mapping.rs`).
//!
//! Seven things need it:
//! - **Concurrent runs.** `ort::session::Session::run` takes `&mut self`, so one session could
//!   serve one request at a time. The C API documents `Run` as thread-safe for a session ("multiple
//!   threads can run the same session"), which holds for the CPU execution provider; sessions with
//!   another provider run one request at a time (`session.rs`). [`run`] calls it behind `&Session`.
//! - **Borrowed tensors.** Inputs are slices of the request body, and outputs are the memory that
//!   ONNX Runtime allocated. Nothing is copied, except strings and an output that aliases an input.
//! - **Undeclared shapes.** The C API distinguishes a scalar from a value of unknown rank; `ort`
//!   does not.
//! - **One arena for all sessions on a GPU** ([`share_arena`]).
//! - **The execution providers of a graph's nodes** ([`nodes_by_provider`]).
//! - **Constants in memory of ours** ([`give_constants`]), which several sessions use in place.
//! - **The profile of one run** ([`profile`]).

#![expect(unsafe_code, reason = "the C API of ONNX Runtime; every block says why it is sound")]

mod value;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::slice;

use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::sys::{OrtTypeInfo, OrtValue};
use ort::{AsPointer, ortsys};

use crate::tensor::{Tensor, Value};

use value::{OwnedValue, input_value, output_value};

pub use value::data_type;

/// Disables ONNX Runtime's telemetry.
///
/// Official builds from 1.29 on start an uploader while the environment is created, before the API
/// call that disables it can be made. An environment variable, which the library reads at that
/// moment, prevents the start. Call this first in `main`: it does nothing and returns false if
/// other threads already run, or if that cannot be determined.
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

/// Ends the process at once, without running C++ static destructors. A thread that is still inside
/// a session would crash in them, and freeing one session after another is wasted work when all of
/// the memory is about to be freed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` is in every libc, takes any status and touches no memory of ours.
    unsafe extern "C" {
        safe fn _exit(code: i32) -> !;
    }
    _exit(code)
}

/// Whether the `index`-th input (or output) declares a shape. Without a shape, every rank is
/// accepted.
pub fn has_shape(session: &Session, side: Side, index: usize) -> ort::Result<bool> {
    let mut info: *mut OrtTypeInfo = ptr::null_mut();
    let session = session.ptr();
    match side {
        // SAFETY: the session is alive, `info` is a valid place for the result; an index out of
        // range is an error.
        Side::Input => ortsys![unsafe SessionGetInputTypeInfo(session, index, &mut info)?],
        // SAFETY: as above.
        Side::Overridable => ortsys![unsafe SessionGetOverridableInitializerTypeInfo(session, index, &mut info)?],
        // SAFETY: as above.
        Side::Output => ortsys![unsafe SessionGetOutputTypeInfo(session, index, &mut info)?],
    }
    // SAFETY: `info` was filled by the call above and is released once, here; nothing that borrows
    // from it is left.
    unsafe {
        let has_shape = tensor_has_shape(info);
        (ortsys![ReleaseTypeInfo])(info);
        has_shape
    }
}

/// Whether `info` describes a tensor, or an optional tensor, that declares a shape.
///
/// # Safety
/// `info` must point to a live type info.
unsafe fn tensor_has_shape(info: *const OrtTypeInfo) -> ort::Result<bool> {
    let (mut optional, mut contained, mut tensor) = (ptr::null(), ptr::null_mut(), ptr::null());
    // SAFETY: `info` is alive, and both places are valid. The result borrows from `info`; it is
    // null for another type.
    ortsys![unsafe CastTypeInfoToOptionalTypeInfo(info, &mut optional)?];
    if !optional.is_null() {
        // SAFETY: `optional` lives as long as `info`. The result is a copy that we own.
        ortsys![unsafe GetOptionalContainedTypeInfo(optional, &mut contained)?];
        // SAFETY: the copy is alive, it is not optional itself, and it is released once, here.
        return unsafe {
            let has_shape = tensor_has_shape(contained);
            (ortsys![ReleaseTypeInfo])(contained);
            has_shape
        };
    }
    // SAFETY: as above.
    ortsys![unsafe CastTypeInfoToTensorInfo(info, &mut tensor)?];
    // SAFETY: it is not null, and it borrows from `info`.
    Ok(!tensor.is_null() && unsafe { (ortsys![TensorTypeAndShape_HasShape])(tensor) })
}

#[derive(Debug, Clone, Copy)]
pub enum Side {
    Input,
    /// Inputs with an initializer.
    Overridable,
    Output,
}

/// Makes a run with these options write its profile to a file whose name starts with `prefix`.
pub fn profile(options: &mut RunOptions, prefix: &CStr) -> ort::Result<()> {
    // SAFETY: the options are alive and borrowed mutably, so that no run uses them; the prefix is
    // NUL-terminated, and the library copies it.
    ortsys![unsafe RunOptionsEnableProfiling(options.ptr().cast_mut(), prefix.as_ptr())?];
    Ok(())
}

/// Creates an arena of at most `limit` bytes for the memory of the CUDA device `device`. All
/// sessions of `environment` with `session.use_env_allocators` share it. Call it once per device.
pub fn share_arena(environment: &Environment, device: u16, limit: Option<usize>) -> ort::Result<()> {
    /// Extends the arena by growing steps, which leaves less fragmentation between models.
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
    // SAFETY: both arrays have `keys.len()` items, the keys are NUL-terminated, and
    // `configuration` is a valid place for the result.
    ortsys![unsafe CreateArenaCfgV2(keys.as_ptr(), values.as_ptr(), keys.len(), &mut configuration)?];
    // SAFETY: environment, memory info and configuration are alive, the environment synchronises
    // changes to its allocators and copies what it needs; there are no provider options. The
    // configuration is ours and released once.
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

/// Constants that a session uses. Drop them after the session.
pub struct GivenConstants {
    _values: Vec<OwnedValue>,
    // After the values, which borrow from them.
    _tensors: Vec<(CString, Tensor)>,
}

impl std::fmt::Debug for GivenConstants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenConstants").finish_non_exhaustive()
    }
}

/// Makes the session of `builder` use `constants`, by name, in place of those of its model. Keep
/// the result as long as the session.
pub fn give_constants(builder: &mut SessionBuilder, constants: Vec<(CString, Tensor)>) -> ort::Result<GivenConstants> {
    let mut values = Vec::with_capacity(constants.len());
    for (name, tensor) in &constants {
        let value = input_value(tensor)?;
        // SAFETY: the options are alive, and the name is NUL-terminated and copied. The session
        // keeps the address of the value, which the caller keeps as long as the session, together
        // with the tensor that it borrows from. ONNX Runtime does not write to constants.
        ortsys![unsafe AddInitializer(builder.ptr_mut(), name.as_ptr(), value.0.as_ptr())?];
        values.push(value);
    }
    Ok(GivenConstants {
        _values: values,
        _tensors: constants,
    })
}

/// Counts the graph's nodes by the execution provider that runs them. The session must have been
/// created with `session.record_ep_graph_assignment_info`.
pub fn nodes_by_provider(session: &Session) -> ort::Result<BTreeMap<String, usize>> {
    let (mut parts, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive, and both places are valid. The array belongs to the session.
    ortsys![unsafe Session_GetEpGraphAssignmentInfo(session.ptr(), &mut parts, &mut count)?];
    let mut nodes = BTreeMap::new();
    if count == 0 {
        return Ok(nodes);
    }
    // SAFETY: the library has just returned an array of `count` items, which live as long as the
    // session.
    for &part in unsafe { slice::from_raw_parts(parts, count) } {
        let (mut name, mut of_part, mut count) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `part` is one of the session's; the place is valid.
        ortsys![unsafe EpAssignedSubgraph_GetEpName(part, &mut name)?];
        // SAFETY: as above. The array is not read.
        ortsys![unsafe EpAssignedSubgraph_GetNodes(part, &mut of_part, &mut count)?];
        // SAFETY: a NUL-terminated string that belongs to the session.
        let name = unsafe { CStr::from_ptr(name) };
        *nodes.entry(name.to_string_lossy().into_owned()).or_default() += count;
    }
    Ok(nodes)
}

/// Runs `session` on the named `inputs` and returns the values of `output_names`, in that order.
///
/// Any number of threads may call this for one session that uses only the CPU execution provider.
pub fn run<'a>(
    session: &Session,
    inputs: impl Iterator<Item = (&'a CStr, &'a Tensor)>,
    output_names: &[*const c_char],
    options: &RunOptions,
) -> ort::Result<Vec<Value>> {
    let (input_names, inputs): (Vec<*const c_char>, Vec<&Tensor>) =
        inputs.map(|(name, tensor)| (name.as_ptr(), tensor)).unzip();
    let given = inputs
        .iter()
        .map(|tensor| input_value(tensor))
        .collect::<ort::Result<Vec<_>>>()?;
    let input_values: Vec<*const OrtValue> = given.iter().map(|value| value.0.as_ptr().cast_const()).collect();
    let mut outputs: Vec<*mut OrtValue> = vec![ptr::null_mut(); output_names.len()];

    // SAFETY:
    // - `Run` may be called concurrently for one session; it takes the session as `*mut` only
    //   because C has no notion of shared mutability, and `ort` never forms a `&mut Session` while
    //   we hold `&Session`.
    // - The names are NUL-terminated and outlive the call, as do the input values and the buffers
    //   they borrow (the tensors are borrowed for the whole function). ONNX Runtime does not write
    //   to graph inputs.
    // - Another thread may terminate the run through its options meanwhile. The C API allows that;
    //   the call only sets a flag that the run reads.
    // - `outputs` has a null pointer per name, which makes ONNX Runtime allocate the value; outputs
    //   that it does not fill stay null.
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
            Some(value) => output_value(value, &inputs),
            None => Err(ort::Error::new("the model left an output without a value")),
        })
        .collect()
}
