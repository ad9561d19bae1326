//! One model's ONNX Runtime session: its options, its signature, its run.
//!
//! What always holds: a session makes no threads, keeps no arena (freed tensors go back to the allocator, which gives them
//! back to the system), and runs for any number of callers at once. A large one shares the process's one pool of threads
//! within a run; a small one runs on its caller's thread alone ([`POOLED_WEIGHTS`]).
//!
//! A session on a GPU is another matter: its memory on the device is the shared arena's (`gpu.rs`), and its runs take turns.
//! ONNX Runtime allows concurrent runs there too, but they have given wrong states and illegal memory accesses, which end the
//! process (onnxruntime#3828, pykeio/ort#348), and are why the `ort` crate wants `&mut` for every run (pykeio/ort#402).
//! TensorRT's provider locks around its one execution context in any case. A device that is busy with one run has little
//! to give to the next.

use std::borrow::Cow;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::RunOptions;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType};

use rustix::io::Errno;

use super::gpu::Gpu;
use super::raw::{self, Side};
use crate::tensor::{DataType, Dim, InputSpec, OutputSpec, Signature, Tensor, Value, ValueType};

/// Why a file did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("ONNX Runtime refuses the model: {0}")]
    Rejected(String),
    #[error("the model's {0}")]
    Unsupported(String),
    #[error("there was no memory left to load the model")]
    OutOfMemory,
    /// Not the model's fault: the process, or the machine, has no file descriptors left.
    #[error("the model's file cannot be opened now: too many files are open")]
    NoDescriptors,
    /// Not the model's fault.
    #[error("the GPU failed: {0}")]
    Device(String),
}

impl SessionError {
    /// Whether it follows from what the model's file holds.
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::Unsupported(_) => true,
            Self::OutOfMemory | Self::NoDescriptors | Self::Device(_) => false,
        }
    }
}

/// Why a run has no outputs.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request's data made an operator fail (an index out of range, shapes that do not fit each other).
    #[error("the model cannot run on this input: {0}")]
    Data(String),
    #[error("there was no memory left to run the model on this input")]
    OutOfMemory,
    #[error("the run was ended")]
    Cancelled,
    #[error("ONNX Runtime failed: {0}")]
    Runtime(String),
}

/// Ends a run from another thread, at its next operator.
pub struct Cancel {
    options: RunOptions,
    /// Remembered here, because what ONNX Runtime says of a run that was ended could as well be a node's name.
    cancelled: AtomicBool,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel")
            .field("cancelled", &self.cancelled)
            .finish_non_exhaustive()
    }
}

impl Cancel {
    pub fn new() -> Result<Self, RunError> {
        let options = RunOptions::new().map_err(|error| run_error(&error))?;
        Ok(Self {
            options,
            cancelled: AtomicBool::new(false),
        })
    }

    pub fn cancel(&self) {
        // The call only sets a flag; it has no way to fail that anyone could act upon.
        self.cancelled.store(true, Ordering::Relaxed);
        let _ = self.options.terminate();
    }

    /// Makes a cancel that was used good for another run.
    pub fn reset(&self) {
        let _ = self.options.unterminate();
        self.cancelled.store(false, Ordering::Relaxed);
    }
}

/// Bytes of weights from which on a session splits its operators over the process's pool. Below, waking a thread of the
/// pool costs more than it saves: for 32 rows through an 11 KB model it doubled the CPU time of the request. Above, a
/// lone request is answered sooner (1.8 times on two cores for a 100 MB ResNet-50).
const POOLED_WEIGHTS: u64 = 16 << 20;

/// Bytes of weights up to which they are used as they lie in the file. Above, ONNX Runtime repacks what its matrix
/// kernels read, which makes runs up to three times faster and takes the weights a second time. For tiny models the gain
/// is a tenth of a few microseconds, and the copy a third of what they take.
const UNPACKED_WEIGHTS: u64 = 64 << 10;

/// A model's file, and how it is to be read.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// As it was uploaded: ONNX, or ORT format, read into memory and optimised.
    Uploaded(&'a Path),
    /// Optimised already, in ORT format: mapped, and not to be changed as long as the session lives.
    Prepared(&'a Path),
}

/// A session and what it takes and gives.
#[derive(Debug)]
pub struct Session {
    session: ort::session::Session,
    signature: Signature,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    /// Locked for a run, by sessions whose runs take turns.
    turn: Option<Mutex<()>>,
}

impl Session {
    /// Creates the session of a model with so many bytes of `weights`. Takes as long as the model is large; call it on a
    /// thread that may wait.
    pub fn open(environment: &Environment, form: Form<'_>, weights: u64) -> Result<Self, SessionError> {
        let (Form::Uploaded(file) | Form::Prepared(file)) = form;
        guarded(file, || {
            let builder = options(environment, weights)?;
            let mut builder = match form {
                Form::Uploaded(_) => builder,
                Form::Prepared(_) => builder
                    .with_optimization_level(GraphOptimizationLevel::Disable)?
                    .with_config_entry("session.load_model_format", "ORT")?
                    .with_config_entry("session.use_memory_mapped_ort_model", "1")?
                    .with_config_entry("session.use_ort_model_bytes_for_initializers", "1")?,
            };
            builder.commit_from_file(file)
        })
    }

    /// As [`Self::open`], of an uploaded model on a GPU. TensorRT keeps its engines in `engines`.
    pub fn open_on(
        gpu: &Gpu,
        environment: &Environment,
        model: &Path,
        weights: u64,
        engines: Option<&Path>,
    ) -> Result<Self, SessionError> {
        let session = guarded(model, || {
            options(environment, weights)?
                .with_config_entry("session.use_env_allocators", "1")?
                .with_config_entry("session.record_ep_graph_assignment_info", "1")?
                .with_execution_providers(gpu.providers(engines))?
                .commit_from_file(model)
        })?;
        tracing::debug!(
            model = %model.display(),
            nodes = ?raw::nodes_by_provider(&session.session).unwrap_or_default(),
            "a model's nodes by where they run"
        );
        Ok(Self {
            turn: Some(Mutex::default()),
            ..session
        })
    }

    /// Creates the session of an uploaded model as [`Self::open`] does, and writes its optimised graph to `prepared`, in
    /// ORT format: a file to be opened as [`Form::Prepared`], by the same library on the same kind of processor.
    pub fn convert(
        environment: &Environment,
        model: &Path,
        weights: u64,
        prepared: &Path,
    ) -> Result<Self, SessionError> {
        guarded(model, || {
            options(environment, weights)?
                .with_config_entry("session.save_model_format", "ORT")?
                .with_optimized_model_path(prepared)?
                .commit_from_file(model)
        })
    }

    fn new(session: ort::session::Session) -> Result<Self, SessionError> {
        let signature = signature(&session)?;
        let names = |names: Vec<&str>| -> Result<Vec<CString>, SessionError> {
            names
                .into_iter()
                .map(|name| {
                    CString::new(name)
                        .map_err(|_| SessionError::Unsupported("input or output has a NUL in its name".into()))
                })
                .collect()
        };
        Ok(Self {
            input_names: names(signature.inputs.iter().map(|input| &*input.name).collect())?,
            output_names: names(signature.outputs.iter().map(|output| &*output.name).collect())?,
            signature,
            session,
            turn: None,
        })
    }

    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs the model on one tensor per input, in the signature's order, and returns the outputs with the given
    /// indices (all of them for `None`), in that order. What is not asked for is not computed where that is possible.
    pub fn run(&self, inputs: &[Tensor], outputs: Option<&[usize]>, cancel: &Cancel) -> Result<Vec<Value>, RunError> {
        let names: Vec<*const c_char> = match outputs {
            None => self.output_names.iter().map(|name| name.as_ptr()).collect(),
            Some(indices) => indices
                .iter()
                .filter_map(|&index| self.output_names.get(index))
                .map(|name| name.as_ptr())
                .collect(),
        };
        let _turn = match &self.turn {
            None => None,
            Some(turn) => {
                let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                // Its deadline may have passed while it waited.
                if cancel.cancelled.load(Ordering::Relaxed) {
                    return Err(RunError::Cancelled);
                }
                Some(turn)
            }
        };
        raw::run(&self.session, &self.input_names, inputs, &names, &cancel.options).map_err(|error| {
            if cancel.cancelled.load(Ordering::Relaxed) {
                RunError::Cancelled
            } else {
                run_error(&error)
            }
        })
    }
}

/// What all sessions have in common.
fn options(environment: &Environment, weights: u64) -> Result<SessionBuilder, ort::Error> {
    let mut builder = ort::session::Session::builder(environment)?;
    if weights < POOLED_WEIGHTS {
        // "A pool of its own, of one thread" is the caller's thread: none is made.
        builder = builder
            .with_independent_thread_pool()?
            .with_intra_threads(1)?
            .with_inter_threads(1)?;
    }
    let cpu = ort::ep::CPU::default().with_arena_allocator(false).build();
    Ok(builder
        .with_prepacking(weights > UNPACKED_WEIGHTS)?
        .with_memory_pattern(false)?
        .with_execution_providers([cpu])?)
}

/// Creates a session of the file `model`, whatever is wrong with it.
fn guarded(
    model: &Path,
    create: impl FnOnce() -> Result<ort::session::Session, ort::Error>,
) -> Result<Session, SessionError> {
    // `ort` panics on some declared shapes (a dimension below -1) and unexpected value types.
    let created = catch_unwind(AssertUnwindSafe(|| {
        create().map_err(|error| session_error(&error)).and_then(Session::new)
    }));
    match created {
        Ok(Err(SessionError::Rejected(message))) => Err(SessionError::Rejected(without_folders(message, model))),
        Ok(created) => created,
        Err(_) => Err(SessionError::Rejected(
            "it declares an impossible shape or type".to_owned(),
        )),
    }
}

fn signature(session: &ort::session::Session) -> Result<Signature, SessionError> {
    let inputs = session.inputs().iter().enumerate().map(|(index, input)| {
        let has_shape = raw::has_shape(session, Side::Input, index).map_err(|error| session_error(&error))?;
        match value_type(input.dtype(), has_shape) {
            Some(ValueType::Tensor { data_type, dims }) => Ok(InputSpec {
                name: input.name().to_owned(),
                data_type,
                dims,
            }),
            Some(ValueType::Sequence(_) | ValueType::Map { .. }) | None => Err(unsupported("input", input)),
        }
    });
    let inputs = inputs.collect::<Result<_, _>>()?;
    let outputs = session.outputs().iter().enumerate().map(|(index, output)| {
        let has_shape = raw::has_shape(session, Side::Output, index).map_err(|error| session_error(&error))?;
        let value_type = value_type(output.dtype(), has_shape).ok_or_else(|| unsupported("output", output))?;
        Ok(OutputSpec {
            name: output.name().to_owned(),
            value_type,
        })
    });
    Ok(Signature {
        inputs,
        outputs: outputs.collect::<Result<_, _>>()?,
    })
}

fn unsupported(side: &str, outlet: &Outlet) -> SessionError {
    SessionError::Unsupported(format!(
        "{side} \"{}\" is {}, which no content type carries",
        outlet.name(),
        outlet.dtype()
    ))
}

fn value_type(value: &ort::value::ValueType, has_shape: bool) -> Option<ValueType> {
    match value {
        ort::value::ValueType::Tensor {
            ty,
            shape,
            dimension_symbols,
        } => {
            let dims = shape.iter().zip(dimension_symbols.iter()).map(|(&size, symbol)| {
                usize::try_from(size).map_or_else(
                    |_| Dim::Dynamic((!symbol.is_empty()).then(|| symbol.clone())),
                    Dim::Fixed,
                )
            });
            Some(ValueType::Tensor {
                data_type: data_type(*ty)?,
                dims: has_shape.then(|| dims.collect()),
            })
        }
        ort::value::ValueType::Sequence(element) => Some(ValueType::Sequence(Box::new(value_type(element, false)?))),
        ort::value::ValueType::Map { key, value } => Some(ValueType::Map {
            key: data_type(*key)?,
            value: Box::new(ValueType::Tensor {
                data_type: data_type(*value)?,
                dims: None,
            }),
        }),
        ort::value::ValueType::Optional(_) => None,
    }
}

fn data_type(element: TensorElementType) -> Option<DataType> {
    raw::data_type(element.into())
}

fn session_error(error: &ort::Error) -> SessionError {
    let message = without_places(error.message());
    if says_out_of_memory(&message) {
        SessionError::OutOfMemory
    } else if says_no_descriptors(&message) {
        SessionError::NoDescriptors
    } else if says_device_failed(&message) {
        SessionError::Device(message)
    } else {
        SessionError::Rejected(message)
    }
}

fn run_error(error: &ort::Error) -> RunError {
    let message = without_places(error.message());
    if says_out_of_memory(&message) {
        RunError::OutOfMemory
    } else if says_device_failed(&message) {
        RunError::Runtime(message)
    } else if error.code() == ort::ErrorCode::InvalidArgument || message.contains("while running") {
        // "Non-zero status code returned while running Gather node ...": the graph is sound, or it would not have
        // loaded; what an operator then refuses is the request's data.
        RunError::Data(message)
    } else {
        RunError::Runtime(message)
    }
}

/// As the library words an `errno` (`EMFILE`, `ENFILE`): all that is said, and at the end.
fn says_no_descriptors(message: &str) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| {
        message
            .trim_end()
            .ends_with(&format!("system error number {}", errno.raw_os_error()))
    })
}

/// ONNX Runtime has no error code for a failed allocation, only its C++ exception's text. Names of nodes and operators
/// are in messages too and could be that text, so it counts only where the library puts it: as all that is said, or as
/// all that is said after one of its own introductions, or of a node.
fn says_out_of_memory(message: &str) -> bool {
    let said = said(message);
    let out_of_device_memory = said.starts_with("CUDA failure 2: ")
        || (says_device_failed(message) && (said.contains("_ALLOC_FAILED") || said.contains("_ALLOCATION_FAILED")));
    out_of_device_memory
        || [Some(said), said_of_node(message)]
            .into_iter()
            .flatten()
            .any(|said| ["std::bad_alloc", "bad allocation", "std::bad_array_new_length"].contains(&said))
        || is_cut_short(message)
        // The system's, of a prepared model.
        || (said.starts_with("mmap file ") && said.ends_with(" failed: Cannot allocate memory"))
        // An arena's words, at its limit and at the system's.
        || said.starts_with("Failed to allocate memory for requested buffer of size ")
        || (said.starts_with("Available memory of ") && said.contains(" is smaller than requested bytes of "))
}

/// Whether `message` ends where there was no memory for more of it: so much of a text is kept in the library's string itself.
fn is_cut_short(message: &str) -> bool {
    const KEPT: usize = 15;
    const BEGINNINGS: [&str; 5] = [
        "Non-zero status code returned while running",
        "Load model from ",
        "Exception during loading: ",
        "Exception during initialization: ",
        "Failed to load model with error: ",
    ];
    BEGINNINGS.iter().any(|whole| whole[..KEPT].trim_end() == message)
}

/// What `message` says of a node when it begins with the node's description. A description is names of the uploader's
/// choice between words of the library. It is taken to end where it can end first, so that a name that is made to look like
/// the end leaves more to be said than the library does, never less.
fn said_of_node(message: &str) -> Option<&str> {
    const DESCRIPTIONS: [&[&str]; 3] = [
        &["Exception while pre-packing node '", "': "],
        &["This is an invalid model. In Node, (", ", Error "],
        &["Node (", ") Op (", ") "],
    ];
    let message = without_introduction(message);
    DESCRIPTIONS.iter().find_map(|words| {
        let (first, others) = words.split_first()?;
        let rest = message.strip_prefix(first)?;
        others
            .iter()
            .try_fold(rest, |rest, word| rest.split_once(word).map(|(_, rest)| rest))
    })
}

/// Whether CUDA or one of its libraries has failed, which is neither the model's nor the request's fault.
fn says_device_failed(message: &str) -> bool {
    let said = said(message);
    ["CUDA", "CUBLAS", "CUDNN", "CUFFT", "CURAND"].iter().any(|library| {
        said.strip_prefix(library)
            .is_some_and(|rest| rest.starts_with(" failure "))
    })
}

/// What the library says before what is to be said.
const INTRODUCTIONS: [&str; 5] = [
    "Status Message: ",
    "Exception during loading: ",
    "Exception during initialization: ",
    "Exception caught: ",
    "Failed to load model with error: ",
];

/// `message` without an introduction that it begins with.
fn without_introduction(message: &str) -> &str {
    INTRODUCTIONS
        .iter()
        .find_map(|introduction| message.strip_prefix(introduction))
        .unwrap_or(message)
}

/// What `message` says after the library's last introduction.
fn said(message: &str) -> &str {
    let said = INTRODUCTIONS
        .iter()
        .filter_map(|introduction| Some(message.rfind(introduction)? + introduction.len()))
        .max()
        .map_or(message, |start| &message[start..]);
    // A status within a status: "[ONNXRuntimeError] : 1 : FAIL : ...".
    said.strip_prefix("[ONNXRuntimeError] : ")
        .and_then(|status| status.splitn(3, " : ").nth(2))
        .unwrap_or(said)
}

/// `message` without the folders in which `model` lies: where this machine keeps them is nobody's business.
fn without_folders(message: String, model: &Path) -> String {
    model
        .ancestors()
        .skip(1)
        .map(|folder| folder.to_string_lossy())
        .filter(|folder| folder.len() > 1)
        .fold(message, |message, folder| message.replace(&*folder, "..."))
}

/// The part of a message that is about the model, on one line: without places in the library's source
/// (`/onnxruntime_src/.../file.cc:123 function(...) [with T = ...]` or `file.cc:123 function`), without this machine's path
/// of the file and its name, which is in what follows a message of CUDA, and without the middle of names that go on for
/// megabytes.
pub fn without_places(message: &str) -> String {
    let mut message = message.split_whitespace().map(brief_word).collect::<Vec<_>>().join(" ");
    if let Some(end) = message.find(" ; GPU=") {
        message.truncate(end);
    }
    while let Some(start) = message.find("/onnxruntime_src/")
        && let Some(end) = message[start..].find(") ")
    {
        message.replace_range(start..start + end + 2, "");
        if message[start..].starts_with("[with ")
            && let Some(end) = message[start..].find("] ")
        {
            message.replace_range(start..start + end + 2, "");
        }
    }
    if message.starts_with("Load model from ")
        && let Some((_, rest)) = message.split_once(" failed:")
    {
        message = rest.to_owned();
    }
    let mut words = message.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if is_place(word) {
            // The function's name.
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// `file.cc:123`
fn is_place(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else {
        return false;
    };
    [".cc", ".h"].iter().any(|ending| file.ends_with(ending)) && line.parse::<u32>().is_ok()
}

/// A word, or the beginning of one that is a name as no message should repeat it.
fn brief_word(word: &str) -> Cow<'_, str> {
    const LONGEST: usize = 200;
    if word.len() <= LONGEST {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("{}...", &word[..word.floor_char_boundary(LONGEST)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_is_what_the_library_says_not_what_a_node_is_called() {
        let table = [
            ("std::bad_alloc", true),
            ("Exception during loading: std::bad_alloc", true),
            ("Exception while pre-packing node 'a': std::bad_alloc", true),
            ("Exception during initialization: std::bad_alloc", true),
            ("Failed to load model with error: std::bad_alloc", true),
            (
                "Non-zero status code returned while running ConstantOfShape node. Name:'' Status Message: std::bad_alloc",
                true,
            ),
            (
                "Non-zero status code returned while running Add node. Name:'a' Status Message: Failed to allocate \
                 memory for requested buffer of size 17592186044416",
                true,
            ),
            (
                "Exception during initialization: Available memory of 1024 is smaller than requested bytes of 4096",
                true,
            ),
            // Cut short for want of memory.
            ("Non-zero status", true),
            ("Load model from", true),
            ("Failed to load", true),
            ("Load model", false),
            ("CUDA failure 2: out of memory", true),
            ("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory", true),
            (
                "Non-zero status code returned while running Conv node. Name:'c' Status Message: CUDA failure 2: out of \
                 memory",
                true,
            ),
            (
                "Non-zero status code returned while running Gemm node. Name:'g' Status Message: CUBLAS failure 3: \
                 CUBLAS_STATUS_ALLOC_FAILED",
                true,
            ),
            (
                "Exception during initialization: CUDNN failure 5003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                true,
            ),
            ("CUDA failure 700: an illegal memory access was encountered", false),
            ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", false),
            (
                "This is an invalid model. Error in Node:CUDA failure 2: out of memory",
                false,
            ),
            (
                "This is an invalid model. In Node, (\"\", Abs, \"\", -1) : (\"x\": tensor(float),) -> (\"z\",) , Error \
                 std::bad_alloc",
                true,
            ),
            ("Node (a) Op (Abs) std::bad_alloc", true),
            (
                "Exception during initialization: Node (a) Op (Abs) std::bad_alloc",
                true,
            ),
            // Names that end, or begin, as messages do.
            (
                "This is an invalid model. In Node, (\"\", f, \"\", -1) : (\"x\": tensor(float),) -> (\"z\",) , Error \
                 Unrecognized attribute: a for operator , Error std::bad_alloc",
                false,
            ),
            (
                "This is an invalid model. In Node, (\", Error std::bad_alloc\", Abs, \"\", -1) : (\"x\",) -> (\"z\",) , Error \
                 Unrecognized attribute: a for operator Abs",
                false,
            ),
            (
                "Node (a) Op (Abs) std::bad_alloc) Op (Abs) [ShapeInferenceError] Incompatible dimensions",
                false,
            ),
            (
                "Node (a) Op (Abs) [TypeInferenceError] no type for ) std::bad_alloc",
                false,
            ),
            ("Exception while pre-packing node 'a': std::bad_alloc': no", false),
            (
                "This is an invalid model. Error: two nodes with same node name (, Error std::bad_alloc",
                false,
            ),
            ("No Op registered for bad_alloc with domain_version of 17", false),
            (
                "Non-zero status code returned while running Gather node. Name:'std::bad_alloc' Status Message: \
                 indices element out of data bounds",
                false,
            ),
        ];
        for (message, expected) in table {
            assert_eq!(says_out_of_memory(message), expected, "{message}");
        }
    }

    #[test]
    fn a_device_that_fails_is_told_from_a_model_that_fails() {
        let table = [
            ("CUDA failure 700: an illegal memory access was encountered", true),
            (
                "Non-zero status code returned while running Conv node. Name:'c' Status Message: CUDNN failure 4: \
                 CUDNN_STATUS_INTERNAL_ERROR",
                true,
            ),
            (
                "Exception during initialization: CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED",
                true,
            ),
            (
                "Non-zero status code returned while running Gather node. Name:'CUDA failure 1' Status Message: indices \
                 element out of data bounds",
                false,
            ),
            ("Protobuf parsing failed.", false),
        ];
        for (message, expected) in table {
            assert_eq!(says_device_failed(message), expected, "{message}");
        }
    }

    #[test]
    fn folders_are_cut_from_messages() {
        let message = "path: \"/opt/ml/models/secret.bin\" allowed: \"/opt/ml/models/a/model\"".to_owned();
        assert_eq!(
            without_folders(message, Path::new("/opt/ml/models/a/model/model.onnx")),
            "path: \".../secret.bin\" allowed: \"...\""
        );
    }

    #[test]
    fn names_that_go_on_for_ever_are_cut_in_messages_and_what_follows_them_is_kept() {
        let message = format!(
            "No Op registered for {} with domain_version of 17",
            "\u{e9}".repeat(1 << 20)
        );
        let brief = without_places(&message);
        assert!(brief.len() < 300, "{}", brief.len());
        assert!(brief.ends_with("... with domain_version of 17"), "{brief}");
    }

    #[test]
    fn places_are_cut_from_messages() {
        let table = [
            (
                "/onnxruntime_src/core/graph/model.cc:180 onnxruntime::Model::Model(ModelProto&&) Unsupported IR version: 99",
                "Unsupported IR version: 99",
            ),
            (
                "Load model from /opt/ml/models/x/model.onnx failed:Protobuf parsing failed.",
                "Protobuf parsing failed.",
            ),
            (
                "Load model from /m.onnx failed:/onnxruntime_src/a.cc:1 f(int) Type Error: no",
                "Type Error: no",
            ),
            (
                "Exception during initialization: /onnxruntime_src/b.cc:2 g(const T&, int) [ONNXRuntimeError] : 1 :\n no\n",
                "Exception during initialization: [ONNXRuntimeError] : 1 : no",
            ),
            (
                "/onnxruntime_src/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, Status> \
                 onnxruntime::CudaCall(ERRTYPE, const char*, int) [with ERRTYPE = cudaError; bool THRW = true] \
                 /onnxruntime_src/core/providers/cuda/cuda_call.cc:121 std::conditional_t<THRW, void, Status> \
                 onnxruntime::CudaCall(ERRTYPE, const char*, int) [with ERRTYPE = cudaError; bool THRW = true] CUDA failure \
                 2: out of memory ; GPU=0 ; hostname=ip-10-0-0-1 ; file=/onnxruntime_src/a.cc ; line=1 ; \
                 expr=cudaMalloc((void**)&p, size);",
                "CUDA failure 2: out of memory",
            ),
            ("/onnxruntime_src/oddly cut", "/onnxruntime_src/oddly cut"),
            (
                "[ONNXRuntimeError] : 1 : FAIL : inference_session.cc:2226 operator() ORT model verification failed.",
                "[ONNXRuntimeError] : 1 : FAIL : ORT model verification failed.",
            ),
            ("tensor.h:7", ""),
            ("input:0 tensor.cc: x.cc:y", "input:0 tensor.cc: x.cc:y"),
        ];
        for (message, expected) in table {
            assert_eq!(without_places(message), expected);
        }
    }
}
