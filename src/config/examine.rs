//! The knobs of the commands that look at a model, and of the process that prepares it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::{ArchiveArgs, archive_name, duration};

pub(super) const PACK_EXAMPLE: &str = "\
Example:
  longshore pack export/ -o model.tar.gz
  aws s3 cp model.tar.gz s3://bucket/segments/de-berlin.tar.gz

What a server would refuse to load is refused here, for the same reason. The prepared form saves a machine of the same kind \
the preparation, and others pass it over; it makes the archive about twice as large.";

pub(super) const INSPECT_EXAMPLE: &str = "\
Example:
  longshore inspect model.tar.gz
  longshore inspect export/ --json | jq -r '.samples[].curl'

The curl commands ask a server that was started with: longshore --model-dir DIRECTORY";

/// `longshore pack`.
#[derive(Debug, Clone, Args)]
pub struct PackArgs {
    /// The model's directory, or a model file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// The archive to write, a .tar.gz
    #[arg(short, long, value_name = "FILE", value_parser = archive_name)]
    pub output: PathBuf,

    /// Replace the archive when it is there already
    #[arg(long)]
    pub force: bool,

    /// Pack the model alone, without its prepared form
    #[arg(long)]
    pub no_prepared: bool,

    #[command(flatten)]
    pub examine: ExamineArgs,
}

/// `longshore inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// The model's directory, a model file, or an archive (.tar.gz, .tar.zst, .tar)
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// Where the sample requests are sent
    #[arg(long, value_name = "URL", default_value = "http://localhost:8080/invocations")]
    pub url: String,

    /// Also write the bodies of the sample requests into this directory: those too long for a
    /// command line are sent from there
    #[arg(long, value_name = "DIR")]
    pub samples: Option<PathBuf>,

    #[command(flatten)]
    pub archives: ArchiveArgs,

    #[command(flatten)]
    pub examine: ExamineArgs,
}

/// What the commands that look at a model have in common.
#[derive(Debug, Clone, Args)]
pub struct ExamineArgs {
    /// Print JSON, for a program
    #[arg(long)]
    pub json: bool,

    /// ONNX Runtime's library [default: beside the executable, in ../lib, or where
    /// scripts/onnxruntime puts it]
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,

    /// A library of custom operators for ONNX Runtime; repeatable [default: none]
    #[arg(long, env = "LONGSHORE_OPERATORS", value_name = "LIBRARY", value_delimiter = ':')]
    pub operators: Vec<PathBuf>,

    /// Time for the model to be prepared; one that takes longer is refused
    #[arg(
        long, env = "LONGSHORE_PREPARE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "60s"
    )]
    pub prepare_timeout: Duration,

    /// Memory that any model may take while it is prepared; large ones may take ten times their
    /// weights
    #[arg(long, env = "LONGSHORE_PREPARE_MEMORY", value_name = "BYTES", default_value = "1GiB")]
    pub prepare_memory: ByteSize,
}

/// `longshore prepare`.
#[derive(Debug, Clone, Args)]
pub struct PrepareArgs {
    /// The folder whose files the process may use
    #[arg(long)]
    pub folder: PathBuf,

    #[arg(long)]
    pub onnxruntime: Option<PathBuf>,

    #[arg(long)]
    pub operators: Vec<PathBuf>,
}
