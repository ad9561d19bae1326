//! Options of the commands that examine a model, and of the process that prepares it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::{ArchiveArgs, archive_name, duration};

pub(super) const PACK_EXAMPLE: &str = "\
Example:
  longshore pack export/ -o model.tar.gz
  aws s3 cp model.tar.gz s3://bucket/segments/de-berlin.tar.gz

The command refuses a model for the same reasons for which a server would refuse to load it. The archive also contains the \
prepared form of the model: a server on the same kind of machine then needs no preparation, and other servers ignore it. It \
makes the archive about twice as large; leave it out with --no-prepared.";

pub(super) const INSPECT_EXAMPLE: &str = "\
Example:
  longshore inspect model.tar.gz
  longshore inspect export/ --json | jq -r '.samples[].curl'

The curl commands work with a server that was started with: longshore --model-dir DIRECTORY";

/// `longshore pack`.
#[derive(Debug, Clone, Args)]
pub struct PackArgs {
    /// Directory of the model, or a single model file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// Archive to write; its name must end in .tar.gz or .tgz
    #[arg(short, long, value_name = "FILE", value_parser = archive_name)]
    pub output: PathBuf,

    /// Overwrite the archive if it exists
    #[arg(long)]
    pub force: bool,

    /// Pack only the model, without its prepared form
    #[arg(long)]
    pub no_prepared: bool,

    #[command(flatten)]
    pub examine: ExamineArgs,
}

/// `longshore inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Directory of the model, a single model file, or an archive (.tar.gz, .tar.zst, .tar)
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// URL of the example requests that the command prints
    #[arg(long, value_name = "URL", default_value = "http://localhost:8080/invocations")]
    pub url: String,

    /// Directory to which the command writes the bodies of the example requests; curl reads bodies
    /// from there that are too long for a command line
    #[arg(long, value_name = "DIR")]
    pub samples: Option<PathBuf>,

    /// Directory of prepared models, to say how much of the model a server shares with them
    /// [default: longshore-UID in the directory for temporary files]
    #[arg(long, env = "LONGSHORE_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    #[command(flatten)]
    pub archives: ArchiveArgs,

    #[command(flatten)]
    pub examine: ExamineArgs,
}

impl InspectArgs {
    /// `--cache-dir`, or its default.
    pub fn cache_dir(&self) -> PathBuf {
        super::cache_dir(self.cache_dir.as_ref())
    }
}

/// Options shared by the commands that examine a model.
#[derive(Debug, Clone, Args)]
pub struct ExamineArgs {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// Path of the ONNX Runtime library [default: next to the executable, in ../lib or
    /// ../libexec/longshore, or where scripts/onnxruntime installs it]
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,

    /// Path of a library with custom operators for ONNX Runtime; repeatable [default: none]
    #[arg(long, env = "LONGSHORE_OPERATORS", value_name = "LIBRARY", value_delimiter = ':')]
    pub operators: Vec<PathBuf>,

    /// Time limit for the preparation of the model, e.g. 90s or 2min; the command fails after it
    #[arg(
        long, env = "LONGSHORE_PREPARE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "60s"
    )]
    pub prepare_timeout: Duration,

    /// Memory limit for the preparation of the model, in bytes or e.g. 2GiB; a large model may use
    /// up to ten times its weights instead
    #[arg(long, env = "LONGSHORE_PREPARE_MEMORY", value_name = "BYTES", default_value = "1GiB")]
    pub prepare_memory: ByteSize,
}

/// `longshore prepare`.
#[derive(Debug, Clone, Args)]
pub struct PrepareArgs {
    /// Folder whose files the process may use
    #[arg(long)]
    pub folder: PathBuf,

    #[arg(long)]
    pub onnxruntime: Option<PathBuf>,

    #[arg(long)]
    pub operators: Vec<PathBuf>,
}
