//! A model's ONNX Runtime session: its options, its signature, its run.
//!
//! Invariants: a session creates no threads unless it is opened for that ([`RunThreads::Own`]),
//! keeps no arena (freed tensors go back to the allocator, which returns them to the system), and
//! serves any number of concurrent callers. A large session shares the process's thread pool within
//! a run; a small one runs on its caller's thread alone ([`POOLED_WEIGHTS`]).
//!
//! A session on a GPU differs: its device memory belongs to the shared arena (`gpu.rs`), and it
//! runs one request at a time. ONNX Runtime allows concurrent runs there too, but they have caused
//! wrong states and illegal memory accesses, which end the process (onnxruntime#3828,
//! pykeio/ort#348); this is why the `ort` crate requires `&mut` for every run (pykeio/ort#402).
//! TensorRT's provider locks around its one execution context anyway, and a device that is busy
//! with one run has little capacity left for another.

mod cancel;
mod error;
mod message;
mod redact;
mod signature;

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};

use crate::engine::onnxruntime::gpu::Gpu;
use crate::engine::onnxruntime::raw;
use crate::engine::onnxruntime::runtime::Environment;
use crate::engine::run::division::{self, Untrusted, Watched};
use crate::tensor::{OutputRows, Signature, Tensor, Value};

use error::{run_error, session_error};
use redact::without_folders;
use signature::signature;

pub use cancel::Cancel;
pub use error::{RunError, SessionError};
pub use redact::without_places;

/// Bytes of weights from which a session splits its operators over the process's pool. For smaller
/// sessions, waking a thread of the pool costs more than it saves: for 32 rows through an 11 KB
/// model it doubled the CPU time of the request. For larger ones, a single request is faster (1.8
/// times on two cores for a 100 MB ResNet-50).
const POOLED_WEIGHTS: u64 = 16 << 20;

/// Bytes of weights up to which a session uses them as they are in the file. For larger models,
/// ONNX Runtime repacks the weights of its matrix kernels, which makes runs up to three times
/// faster and needs the memory of the weights a second time. For tiny models, the gain is a tenth
/// of a few microseconds, and the copy a third of the model's memory.
const UNPACKED_WEIGHTS: u64 = 64 << 10;

/// Bytes from which a constant counts as large; a string, because ONNX Runtime's option is one.
const LARGE_CONSTANT: &str = "65536";

/// A model's file and its form.
#[derive(Debug, Clone, Copy)]
pub enum ModelForm<'a> {
    /// The uploaded file: ONNX or ORT format, read into memory and optimised.
    Uploaded(&'a Path),
    /// The optimised file in ORT format. It is mapped, and must not change while the session lives.
    Prepared(&'a Path),
    /// The optimised graph in ONNX format. Its large constants are in other files, which are mapped
    /// and must not change while the session lives.
    Graph(&'a Path),
}

/// The files to which an optimised model is written.
#[derive(Debug, Clone, Copy)]
pub enum WrittenForm<'a> {
    /// One file in ORT format.
    Whole(&'a Path),
    /// A graph in ONNX format, and a file in the same folder for the constants of at least `bound`
    /// bytes.
    Split {
        graph: &'a Path,
        constants: &'a Path,
        bound: u64,
    },
}

/// Constants of a model that are in memory already, and copies of constants in the order in which
/// kernels read them.
#[derive(Debug)]
pub struct SharedConstants {
    /// Constants by name. The session uses them in place.
    pub tensors: Vec<(CString, Tensor)>,
    /// The container of the copies. ONNX Runtime finds a copy by its operator and a short hash.
    pub packed: PrepackedWeights,
}

/// The constants that ONNX Runtime folds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    All,
    /// Constants with small results: shapes, masks, biases.
    Small,
}

/// The threads of a large session's runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunThreads {
    /// The caller's thread and those of the process's pool.
    Pool,
    /// The caller's thread alone.
    Caller,
    /// The caller's thread and threads of the session's own, this number in all. They wait actively
    /// between the operators of a run.
    Own(usize),
}

/// The place of an input in a session's signature: among the inputs, or among the optional ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputPlace {
    Required(usize),
    Optional(usize),
}

/// A session and its signature.
#[derive(Debug)]
pub struct Session {
    session: ort::session::Session,
    signature: Signature,
    input_names: Vec<CString>,
    optional_names: Vec<CString>,
    output_names: Vec<CString>,
    /// Locked during a run; `Some` if the session runs one request at a time.
    turn: Option<Mutex<()>>,
    /// Whether runs split their operators over the process's pool.
    is_pooled: bool,
    /// Dropped after the session, which uses them.
    _constants: Option<raw::GivenConstants>,
}

impl Session {
    /// Creates the session of a model with `weights` bytes of weights. The time grows with the size
    /// of the model; call it on a thread that may block.
    pub fn open(environment: &Environment, form: ModelForm<'_>, weights: u64) -> Result<Self, SessionError> {
        let (ModelForm::Uploaded(file) | ModelForm::Prepared(file) | ModelForm::Graph(file)) = form;
        guarded(file, || {
            let builder = options(environment, weights)?;
            let mut builder = match form {
                ModelForm::Uploaded(_) => builder,
                ModelForm::Prepared(_) => builder
                    .with_optimization_level(GraphOptimizationLevel::Disable)?
                    .with_config_entry("session.load_model_format", "ORT")?
                    .with_config_entry("session.use_memory_mapped_ort_model", "1")?
                    .with_config_entry("session.use_ort_model_bytes_for_initializers", "1")?,
                ModelForm::Graph(_) => optimised_graph(builder)?,
            };
            builder.commit_from_file(file)
        })
        .map(|session| session.with_weights(weights))
    }

    /// Like [`Self::open`] for [`ModelForm::Graph`], with the `constants` that are in memory.
    /// `threads` matters for large models only; runs of small ones use the caller's thread.
    pub fn open_shared(
        environment: &Environment,
        graph: &Path,
        weights: u64,
        constants: SharedConstants,
        threads: RunThreads,
    ) -> Result<Self, SessionError> {
        let mut given = None;
        let session = guarded(graph, || {
            let mut builder = optimised_graph(options(environment, weights)?)?;
            builder = match threads {
                RunThreads::Pool => builder,
                RunThreads::Caller => on_callers_thread(builder)?,
                RunThreads::Own(threads) => on_own_threads(builder, threads)?,
            };
            let mut builder = builder.with_prepacked_weights(&constants.packed)?;
            given = Some(raw::give_constants(&mut builder, constants.tensors)?);
            builder.commit_from_file(graph)
        })?;
        let session = session.with_weights(weights);
        Ok(Self {
            _constants: given,
            is_pooled: session.is_pooled && threads != RunThreads::Caller,
            ..session
        })
    }

    /// Like [`Self::open`], for an uploaded model on a GPU. TensorRT keeps engines in `engines`.
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
            "number of the model's nodes by execution provider"
        );
        Ok(Self {
            turn: Some(Mutex::default()),
            ..session.with_weights(weights)
        })
    }

    /// Creates the session of an uploaded model like [`Self::open`], and writes the optimised
    /// model. The same library can open it as [`ModelForm::Prepared`] or [`ModelForm::Graph`], on
    /// the same kind of processor.
    pub fn convert(
        environment: &Environment,
        model: &Path,
        weights: u64,
        written: WrittenForm<'_>,
        folding: Folding,
    ) -> Result<Self, SessionError> {
        guarded(model, || {
            let builder = options(environment, weights)?;
            let builder = match folding {
                Folding::All => builder,
                Folding::Small => unfolded(builder)?,
            };
            let mut builder = match written {
                WrittenForm::Whole(file) => builder
                    .with_config_entry("session.save_model_format", "ORT")?
                    .with_optimized_model_path(file)?,
                WrittenForm::Split {
                    graph,
                    constants,
                    bound,
                } => {
                    const OPTION: &str = "session.optimized_model_external_initializers";
                    let name = constants.file_name().unwrap_or_default().to_string_lossy();
                    builder
                        .with_config_entry("session.save_model_format", "ONNX")?
                        .with_config_entry(format!("{OPTION}_file_name"), name)?
                        .with_config_entry(format!("{OPTION}_min_size_in_bytes"), bound.to_string())?
                        .with_optimized_model_path(graph)?
                }
            };
            builder.commit_from_file(model)
        })
        .map(|session| session.with_weights(weights))
    }

    /// Like [`Self::open`], for an uploaded model whose large constants are not folded.
    pub fn open_unfolded(environment: &Environment, model: &Path, weights: u64) -> Result<Self, SessionError> {
        guarded(model, || {
            unfolded(options(environment, weights)?)?.commit_from_file(model)
        })
    }

    /// Creates the session of an uploaded model in memory, without external data.
    pub fn open_bytes(environment: &Environment, model: &[u8], weights: u64) -> Result<Self, SessionError> {
        guarded(Path::new(""), || {
            options(environment, weights)?.commit_from_memory(model)
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
            optional_names: names(signature.optional.iter().map(|input| &*input.name).collect())?,
            output_names: names(signature.outputs.iter().map(|output| &*output.name).collect())?,
            signature,
            session,
            turn: None,
            is_pooled: false,
            _constants: None,
        })
    }

    /// Records whether [`options`] has given a session of this size the process's pool.
    fn with_weights(self, weights: u64) -> Self {
        Self {
            is_pooled: weights >= POOLED_WEIGHTS,
            ..self
        }
    }

    /// Whether runs split their operators over the process's pool.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Adds what is known of the rows of each output beyond the model's declaration.
    pub fn set_rows(&mut self, rows: &[OutputRows]) {
        if rows.len() == self.signature.outputs.len() {
            for (output, &rows) in self.signature.outputs.iter_mut().zip(rows) {
                output.rows = rows;
            }
        }
    }

    fn input_name(&self, place: InputPlace) -> Option<&CStr> {
        let name = match place {
            InputPlace::Required(position) => self.input_names.get(position),
            InputPlace::Optional(position) => self.optional_names.get(position),
        };
        name.map(|name| &**name)
    }

    /// Runs the model on one tensor per input, in the signature's order. Returns the outputs with
    /// the given indices (all for `None`), in that order. ONNX Runtime skips the computation of
    /// other outputs if possible.
    pub fn run(&self, inputs: &[Tensor], outputs: Option<&[usize]>, cancel: &Cancel) -> Result<Vec<Value>, RunError> {
        self.run_given(inputs, &[], outputs, cancel)
    }

    /// Runs like [`Self::run`], with `optional` inputs by their positions in the signature.
    pub fn run_given(
        &self,
        inputs: &[Tensor],
        optional: &[(usize, Tensor)],
        outputs: Option<&[usize]>,
        cancel: &Cancel,
    ) -> Result<Vec<Value>, RunError> {
        debug_assert_eq!(self.input_names.len(), inputs.len());
        let inputs = inputs.iter().enumerate();
        let inputs = inputs.map(|(position, tensor)| (InputPlace::Required(position), tensor));
        let optional = optional.iter();
        let optional = optional.map(|(position, tensor)| (InputPlace::Optional(*position), tensor));
        self.run_placed(inputs.chain(optional), outputs, cancel)
    }

    /// Runs like [`Self::run`], with the inputs by their places.
    pub fn run_placed<'a>(
        &'a self,
        given: impl Iterator<Item = (InputPlace, &'a Tensor)> + Clone,
        outputs: Option<&[usize]>,
        cancel: &Cancel,
    ) -> Result<Vec<Value>, RunError> {
        let given = given.filter_map(|(place, tensor)| Some((self.input_name(place)?, tensor)));
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
                // The deadline may have passed during the wait.
                if cancel.cancelled.load(Ordering::Relaxed) {
                    return Err(RunError::Cancelled);
                }
                Some(turn)
            }
        };
        let is_cancelled = || cancel.cancelled.load(Ordering::Relaxed);
        let run = || raw::run(&self.session, given.clone(), &names, &cancel.options);
        let Watched { result, has_trapped } = if self.is_pooled {
            division::pooled(is_cancelled, run).map_err(|untrusted| match untrusted {
                Untrusted::Cancelled => RunError::Cancelled,
                Untrusted::Disturbed => RunError::Disturbed,
            })?
        } else {
            division::watched(run)
        };
        if has_trapped {
            return Err(RunError::Division);
        }
        result.map_err(|error| {
            if is_cancelled() {
                RunError::Cancelled
            } else {
                run_error(&error)
            }
        })
    }
}

/// The options that all sessions have in common.
fn options(environment: &Environment, weights: u64) -> Result<SessionBuilder, ort::Error> {
    let mut builder = environment.session()?;
    if weights < POOLED_WEIGHTS {
        builder = on_callers_thread(builder)?;
    }
    let cpu = ort::ep::CPU::default().with_arena_allocator(false).build();
    Ok(builder
        .with_prepacking(weights > UNPACKED_WEIGHTS)?
        .with_memory_pattern(false)?
        .with_execution_providers([cpu])?)
}

/// Options for runs on the caller's thread alone: an independent pool of one thread is that thread,
/// and no other is created.
fn on_callers_thread(builder: SessionBuilder) -> Result<SessionBuilder, ort::Error> {
    Ok(builder
        .with_independent_thread_pool()?
        .with_intra_threads(1)?
        .with_inter_threads(1)?)
}

/// Options for runs on `threads` threads, of which all but the caller's belong to the session. A
/// thread without work waits actively for the next operator, but not long, because another request
/// may need its core, and not after the run.
fn on_own_threads(builder: SessionBuilder, threads: usize) -> Result<SessionBuilder, ort::Error> {
    const SPIN_MICROSECONDS: &str = "100";
    Ok(builder
        .with_independent_thread_pool()?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(true)?
        .with_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)?
        .with_config_entry("session.force_spinning_stop", "1")?)
}

/// Options for an optimised graph in ONNX format.
fn optimised_graph(builder: SessionBuilder) -> Result<SessionBuilder, ort::Error> {
    Ok(builder
        .with_optimization_level(GraphOptimizationLevel::Disable)?
        .with_config_entry("session.load_model_format", "ONNX")?)
}

/// Disables the folding of large constants. Two parts of ONNX Runtime replace constants: one
/// computes operators with constant inputs, another widens float16 for operators that support only
/// float32.
fn unfolded(builder: SessionBuilder) -> Result<SessionBuilder, ort::Error> {
    Ok(builder
        .with_config_entry("optimization.constant_folding_max_output_size_in_bytes", LARGE_CONSTANT)?
        .with_config_entry(
            "optimization.disable_specified_optimizers",
            "FuseFp16InitializerToFp32NodeTransformer",
        )?)
}

/// Creates a session of the file `model` and turns every failure into an error.
fn guarded(
    model: &Path,
    create: impl FnOnce() -> Result<ort::session::Session, ort::Error>,
) -> Result<Session, SessionError> {
    // `ort` panics on some declared shapes (a dimension below -1) and unexpected value types.
    let created = catch_unwind(AssertUnwindSafe(|| {
        let created = division::watched(create);
        // The results of these divisions would be constants of every run.
        if created.has_trapped {
            return Err(SessionError::Unsupported(
                "constants are divided: an integer by zero, or the least integer by -1".to_owned(),
            ));
        }
        created
            .result
            .map_err(|error| session_error(&error))
            .and_then(Session::new)
    }));
    match created {
        Ok(Err(SessionError::Rejected(message))) => Err(SessionError::Rejected(without_folders(message, model))),
        Ok(created) => created,
        Err(_) => Err(SessionError::Rejected(
            "it declares an impossible shape or type".to_owned(),
        )),
    }
}
