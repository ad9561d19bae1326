//! Options for fetching models from stores, and limits on their archives.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::{duration, threads};

/// Options shared by the commands that fetch models.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// Time without data from the store after which a request to it is retried
    #[arg(
        long, env = "LONGSHORE_STORE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "10s",
        help_heading = "Model store"
    )]
    pub store_timeout: Duration,

    /// Number of retries of a request to the store that failed or was interrupted
    #[arg(
        long, env = "LONGSHORE_STORE_RETRIES", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Model store"
    )]
    pub store_retries: u32,

    /// Number of models that are fetched from the store in parallel
    #[arg(
        long, env = "LONGSHORE_DOWNLOADS", value_name = "N", value_parser = threads, default_value = "8",
        help_heading = "Model store"
    )]
    pub downloads: usize,

    /// Disk space in --cache-dir for unpacked models from the store; the least recently used ones
    /// are deleted first
    #[arg(
        long,
        env = "LONGSHORE_ARCHIVE_CACHE_SIZE",
        value_name = "BYTES",
        default_value = "20GiB",
        help_heading = "Model store"
    )]
    pub archive_cache_size: ByteSize,

    #[command(flatten)]
    pub archives: ArchiveArgs,
}

/// Limits on archives.
#[derive(Debug, Clone, Args)]
pub struct ArchiveArgs {
    /// Largest number of entries in an archive
    #[arg(
        long,
        env = "LONGSHORE_MAX_ENTRIES",
        value_name = "N",
        default_value_t = 100_000,
        help_heading = "Archives"
    )]
    pub max_entries: u64,

    /// Largest total size of the unpacked files of an archive
    #[arg(
        long,
        env = "LONGSHORE_MAX_UNPACKED",
        value_name = "BYTES",
        default_value = "20GiB",
        help_heading = "Archives"
    )]
    pub max_unpacked: ByteSize,

    /// Largest ratio of the unpacked size to the archive size; small archives are exempt
    #[arg(
        long, env = "LONGSHORE_MAX_RATIO", value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Archives"
    )]
    pub max_ratio: u64,
}
