//! Environment variables of AWS's own images that are not part of the contract. Longshore reads
//! them, so that deployments written for these images work unchanged.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

use crate::config::{duration, threads};

/// Variables that AWS's images read by convention, as hidden arguments: they have no public flags.
#[derive(Debug, Clone, Args)]
pub struct Conventions {
    #[arg(
        long = "sagemaker-base-dir",
        env = "SAGEMAKER_BASE_DIR",
        default_value = "/opt/ml",
        hide = true
    )]
    pub base_dir: PathBuf,
    #[arg(
        long = "sagemaker-batch", env = "SAGEMAKER_BATCH", action = ArgAction::Set, default_value_t = false,
        value_parser = BoolishValueParser::new(), hide = true
    )]
    pub batch: bool,
    #[arg(
        long = "sagemaker-max-payload-in-mb",
        env = "SAGEMAKER_MAX_PAYLOAD_IN_MB",
        hide = true
    )]
    pub max_payload_in_mb: Option<u64>,
    #[arg(long = "sagemaker-max-request-size", env = "SAGEMAKER_MAX_REQUEST_SIZE", hide = true)]
    pub max_request_size: Option<u64>,
    #[arg(long = "sagemaker-model-server-timeout", env = "SAGEMAKER_MODEL_SERVER_TIMEOUT", value_parser = duration, hide = true)]
    pub model_server_timeout: Option<Duration>,
    #[arg(
        long = "sagemaker-model-server-workers", env = "SAGEMAKER_MODEL_SERVER_WORKERS", value_parser = threads,
        hide = true
    )]
    pub model_server_workers: Option<usize>,
}
