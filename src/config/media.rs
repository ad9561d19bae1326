//! Limits on the pictures, texts and sounds of requests.

use bytesize::ByteSize;
use clap::Args;

/// Options of `serve` for requests with pictures, texts or sound.
#[derive(Debug, Clone, Args)]
pub struct MediaArgs {
    /// Largest picture in a request, in pixels; checked in the header of the picture before it is
    /// decoded
    #[arg(
        long, env = "LONGSHORE_MAX_PIXELS", value_name = "N", default_value_t = 64_000_000,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Pictures, texts and sound"
    )]
    pub max_pixels: u64,

    /// Longest text in a request, in bytes or e.g. 1MiB
    #[arg(
        long,
        env = "LONGSHORE_MAX_TEXT",
        value_name = "SIZE",
        default_value = "1MiB",
        help_heading = "Pictures, texts and sound"
    )]
    pub max_text: ByteSize,

    /// Largest number of tokens in all texts of a request together, including padding
    #[arg(
        long, env = "LONGSHORE_MAX_TOKENS", value_name = "N", default_value_t = 16_000_000,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Pictures, texts and sound"
    )]
    pub max_tokens: u64,

    /// Longest sound in a request, in samples of one channel, before and after resampling; half an
    /// hour at 16 kHz has 29 million
    #[arg(
        long, env = "LONGSHORE_MAX_SAMPLES", value_name = "N", default_value_t = 100_000_000,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Pictures, texts and sound"
    )]
    pub max_samples: u64,
}
