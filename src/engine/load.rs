//! From an artifact to a session, in three stages: identify, prepare, create.
//!
//! - Identify: `artifact` opens the files (`onnx_file`, `ort_file`), `content` hashes them,
//!   `quarantine` refuses what crashed a process, `packed` finds the prepared form in the archive.
//! - Prepare: `preparing` asks the cache or a child process (`prepare`), which works on a private
//!   copy in a `workplace`. `axes` and `output_rows` decide from the graph and a trial whether
//!   requests may be batched.
//! - Create: `resident` makes one session for all names of the same content.
//!
//! `examine` goes through the same stages for commands that do not serve.

pub(in crate::engine) mod artifact;
pub(in crate::engine) mod axes;
pub(in crate::engine) mod content;
pub(in crate::engine) mod examine;
pub(in crate::engine) mod locale;
pub(in crate::engine) mod onnx_file;
pub(in crate::engine) mod ort_file;
pub(in crate::engine) mod output_rows;
pub(in crate::engine) mod packed;
pub(in crate::engine) mod prepare;
pub(in crate::engine) mod preparing;
pub(in crate::engine) mod quarantine;
pub(in crate::engine) mod resident;
pub(in crate::engine) mod workplace;
