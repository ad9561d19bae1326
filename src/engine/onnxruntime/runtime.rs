//! The process-wide ONNX Runtime environment, created once, before any session.
//!
//! ONNX Runtime's defaults suit one model per process: each session has a thread pool, whose
//! threads spin while they wait. With hundreds of models, the spinning threads of idle sessions
//! starve the busy ones. So all sessions that benefit from threads (`session.rs`) share one pool
//! that does not spin. A shared pool that spins takes the time of the threads that answer HTTP: on
//! two cores, a network of 25 MB answers a quarter less. It cannot be made to spin during runs
//! only, because ONNX Runtime heeds `session.force_spinning_stop` in sessions with threads of their
//! own, and ignores it in others. A few sessions have such threads, for runs that are alone
//! (`load/second.rs`).
//!
//! The library is loaded at run time, so that one binary works with the CPU build and with a GPU
//! build. The search covers the folders of [`candidates`], in that order, and no others.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::GlobalThreadPoolOptions;
use ort::session::builder::SessionBuilder;

use crate::engine::onnxruntime::gpu::{self, Gpu};
use crate::engine::onnxruntime::raw;
use crate::engine::onnxruntime::session::without_places;
use crate::engine::run::division;

/// Environment variable with the library's path; the `ort` crate uses the same one.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// File names of the library, without and with its version.
const FILE_NAMES: [&str; 3] = ["libonnxruntime.so", "libonnxruntime.so.1", "libonnxruntime.so.1.31.1"];

/// Folder of the library that `scripts/onnxruntime` downloads, relative to a checkout's root.
const CHECKOUT_FOLDER: &str = ".onnxruntime";

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "ONNX Runtime's library was not found; run scripts/onnxruntime in a checkout, or set {LIBRARY_VARIABLE} to \
         libonnxruntime.so of release 1.31 or newer (looked in {looked_in})"
    )]
    NotFound { looked_in: String },
    #[error("{path}, which --onnxruntime or {LIBRARY_VARIABLE} names, does not exist")]
    Missing { path: String },
    #[error("failed to load {path} as ONNX Runtime 1.31 or newer")]
    Load {
        path: String,
        #[source]
        source: ort::LoadDynamicError,
    },
    #[error("{path}, which --operators or LONGSHORE_OPERATORS names, cannot be read: {source}")]
    OperatorsFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{path}, which --operators or LONGSHORE_OPERATORS names, is not a library of operators for this ONNX Runtime: {message}; \
         expected a shared library for this machine that exports RegisterCustomOps"
    )]
    Operators { path: String, message: String },
    #[error("failed to create ONNX Runtime's environment")]
    Environment(#[from] ort::Error),
    #[error("failed to install the signal handler for integer divisions without a result")]
    Signal(#[source] std::io::Error),
    #[error("--provider {provider} cannot be used with {library}: {message} ({explanation})")]
    Provider {
        provider: &'static str,
        library: String,
        message: String,
        explanation: &'static str,
    },
}

/// The shared libraries that run models.
#[derive(Debug, Clone, Default)]
pub struct Libraries {
    /// ONNX Runtime's library, if its path is configured.
    pub onnxruntime: Option<PathBuf>,
    /// Libraries of custom operators. The administrator of the server trusts them as much as the
    /// server itself.
    pub operators: Vec<PathBuf>,
}

/// ONNX Runtime's environment, with the operators that every session gets.
#[derive(Debug, Clone)]
pub struct Environment {
    ort: ort::environment::Environment,
    operators: Arc<[Operators]>,
}

/// A library of custom operators.
#[derive(Debug)]
struct Operators {
    /// Its canonical path. The dynamic loader recognises a loaded library by its path and does not
    /// open the file again, so a sandboxed process can create sessions with libraries that it can
    /// no longer read.
    path: PathBuf,
    hash: blake3::Hash,
}

impl Environment {
    /// Creates the options of a new session, with the custom operators registered.
    pub fn session(&self) -> Result<SessionBuilder, ort::Error> {
        let builder = ort::session::Session::builder(&self.ort)?;
        self.operators.iter().try_fold(builder, |builder, operators| {
            Ok(builder.with_operator_library(&operators.path)?)
        })
    }

    /// The hashes of the custom operator libraries; empty if there are none.
    pub fn operators(&self) -> String {
        let hashes = self.operators.iter().map(|operators| operators.hash.to_hex());
        hashes.map(|hash| hash.to_string()).collect::<Vec<_>>().join(" ")
    }
}

/// Loads the libraries and creates the environment with a pool of `threads` threads, including the
/// caller's. With a `gpu`, also checks that sessions can be created on it, and returns it if so.
pub fn start(
    libraries: &Libraries,
    threads: usize,
    gpu: Option<Gpu>,
) -> Result<(Environment, Option<Gpu>), RuntimeError> {
    let path = find(libraries.onnxruntime.as_deref())?;
    division::install().map_err(RuntimeError::Signal)?;
    tracing::debug!(path = %path.display(), "loading ONNX Runtime");
    let builder = ort::init_from(&path).map_err(|source| RuntimeError::Load {
        path: path.display().to_string(),
        source,
    })?;
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_spin_control(false)?;
    let environment = builder
        .with_name("longshore")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()?;
    // First, so that the process-wide registries are not part of any library's measurement.
    warm_up(&environment, None)?;
    let operators = libraries
        .operators
        .iter()
        .map(|path| load_operators(&environment, path));
    let environment = Environment {
        operators: operators.collect::<Result<_, _>>()?,
        ort: environment,
    };
    let Some(gpu) = gpu else {
        return Ok((environment, None));
    };
    let Err(error) = warm_up(&environment.ort, Some(&gpu)) else {
        return Ok((environment, Some(gpu)));
    };
    let message = without_places(error.message());
    let explanation = gpu::explanation(&message);
    if gpu.required {
        return Err(RuntimeError::Provider {
            provider: gpu.provider.name(),
            library: path.display().to_string(),
            explanation,
            message,
        });
    }
    tracing::warn!("models run on the CPU, because the GPU cannot be used: {message} ({explanation})");
    Ok((environment, None))
}

/// Loads a library of custom operators for the life of the process, and checks that it can be
/// registered.
fn load_operators(environment: &ort::environment::Environment, path: &Path) -> Result<Operators, RuntimeError> {
    let unreadable = |source| RuntimeError::OperatorsFile {
        path: path.display().to_string(),
        source,
    };
    // The loader would search the system's folders for a path without a folder.
    let real = path.canonicalize().map_err(unreadable)?;
    let mut hasher = blake3::Hasher::new();
    let file = File::open(&real).map_err(unreadable)?;
    hasher.update_reader(file).map_err(unreadable)?;
    let builder = ort::session::Session::builder(environment)?
        .with_operator_library(&real)
        .map_err(|error| RuntimeError::Operators {
            path: path.display().to_string(),
            message: without_places(error.message()),
        })?;
    // Keep the builder: ONNX Runtime unloads a library with the last options or session that
    // use it.
    std::mem::forget(builder);
    Ok(Operators {
        path: real,
        hash: hasher.finalize(),
    })
}

/// Creates and drops a session of one operator. The first session of a process creates the operator
/// registries, 1.3 MB that would otherwise be charged to the first model. The first one on a GPU
/// creates CUDA's context, some hundred MB.
fn warm_up(environment: &ort::environment::Environment, gpu: Option<&Gpu>) -> ort::Result<()> {
    /// An ONNX model, `y = Identity(x)` over one float, as protobuf.
    const IDENTITY: &[u8] = b"\x08\x08::\
        \x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity\x12\x04warm\
        Z\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
        b\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
        B\x02\x10\x11";
    let mut builder = ort::session::Session::builder(environment)?;
    if let Some(gpu) = gpu {
        // The order matters: the arena belongs to the provider, whose library this call loads, and
        // this call has the better error if the library cannot be loaded.
        builder = builder.with_execution_providers(gpu.providers(None))?;
        raw::share_arena(environment, gpu.device, gpu.limit())?;
        builder = builder.with_config_entry("session.use_env_allocators", "1")?;
    }
    builder.commit_from_memory(IDENTITY).map(drop)
}

/// Finds the library: `library` (the value of [`LIBRARY_VARIABLE`]) if given, otherwise the first
/// candidate that exists.
fn find(library: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    if let Some(library) = library {
        return if library.is_file() {
            Ok(library.to_owned())
        } else {
            Err(RuntimeError::Missing {
                path: library.display().to_string(),
            })
        };
    }
    let executable = env::current_exe()
        .and_then(|path| path.canonicalize())
        .unwrap_or_default();
    let folders = candidates(&executable);
    folders
        .iter()
        .flat_map(|folder| FILE_NAMES.iter().map(move |name| folder.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| RuntimeError::NotFound {
            looked_in: folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Folders that may contain the library: the executable's folder; `../lib`, as in the image;
/// `../libexec/longshore`, as in a Python environment; the folder of `scripts/onnxruntime`, if
/// cargo built the executable (`target/<profile>/`, or `target/<profile>/deps/` for test programs).
fn candidates(executable: &Path) -> Vec<PathBuf> {
    let Some(folder) = executable.parent() else {
        return Vec::new();
    };
    let mut folders = vec![folder.to_owned()];
    if let Some(parent) = folder.parent() {
        folders.push(parent.join("lib"));
        // `pip install --target` leaves out what a wheel has in `lib`.
        folders.push(parent.join("libexec/longshore"));
    }
    if let Some(target) = folder.ancestors().find(|path| path.ends_with("target"))
        && let Some(checkout) = target.parent()
    {
        folders.push(checkout.join(CHECKOUT_FOLDER));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_order_is_the_executables_folder_then_lib_then_libexec_then_the_checkout() {
        let table: [(&str, &[&str]); 3] = [
            (
                "/usr/bin/longshore",
                &["/usr/bin", "/usr/lib", "/usr/libexec/longshore"],
            ),
            (
                "/src/longshore/target/release/longshore",
                &[
                    "/src/longshore/target/release",
                    "/src/longshore/target/lib",
                    "/src/longshore/target/libexec/longshore",
                    "/src/longshore/.onnxruntime",
                ],
            ),
            (
                "/src/longshore/target/debug/deps/it-0123",
                &[
                    "/src/longshore/target/debug/deps",
                    "/src/longshore/target/debug/lib",
                    "/src/longshore/target/debug/libexec/longshore",
                    "/src/longshore/.onnxruntime",
                ],
            ),
        ];
        for (executable, folders) in table {
            let expected: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
            assert_eq!(candidates(Path::new(executable)), expected);
        }
    }

    #[test]
    fn a_library_path_that_does_not_exist_is_in_the_error() {
        let error = find(Some(Path::new("/nowhere/libonnxruntime.so"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nowhere/libonnxruntime.so, which --onnxruntime or ORT_DYLIB_PATH names, does not exist"
        );
    }
}
