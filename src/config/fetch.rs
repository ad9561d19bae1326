//! How models are fetched from stores, and what their archives may hold.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::{duration, threads};

/// What everyone who fetches models has in common.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// Time for the store to send something; then the request to it is made again
    #[arg(
        long, env = "LONGSHORE_STORE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "10s",
        help_heading = "Model store"
    )]
    pub store_timeout: Duration,

    /// Times that a request to the store is made again when it failed or was cut short
    #[arg(
        long, env = "LONGSHORE_STORE_RETRIES", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Model store"
    )]
    pub store_retries: u32,

    /// Models that are fetched from the store at once
    #[arg(
        long, env = "LONGSHORE_DOWNLOADS", value_name = "N", value_parser = threads, default_value = "8",
        help_heading = "Model store"
    )]
    pub downloads: usize,

    /// Disk that models fetched from the store may take, unpacked, in --cache-dir; what was not used for longest goes first
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

/// How much an archive may hold.
#[derive(Debug, Clone, Args)]
pub struct ArchiveArgs {
    /// Most entries that an archive may have
    #[arg(
        long,
        env = "LONGSHORE_MAX_ENTRIES",
        value_name = "N",
        default_value_t = 100_000,
        help_heading = "Archives"
    )]
    pub max_entries: u64,

    /// Most bytes that an archive may unpack to
    #[arg(
        long,
        env = "LONGSHORE_MAX_UNPACKED",
        value_name = "BYTES",
        default_value = "20GiB",
        help_heading = "Archives"
    )]
    pub max_unpacked: ByteSize,

    /// Most bytes that a byte of an archive may unpack to, once it is beyond what small archives unpack to
    #[arg(
        long, env = "LONGSHORE_MAX_RATIO", value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Archives"
    )]
    pub max_ratio: u64,
}
