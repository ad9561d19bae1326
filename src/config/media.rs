//! Bounds on the pictures, texts and sounds of requests.

use bytesize::ByteSize;
use clap::Args;

use crate::audio::AudioLimits;
use crate::handler::MediaLimits;
use crate::text;

/// The knobs of `serve` for requests that are no tensors.
#[derive(Debug, Clone, Args)]
pub struct MediaArgs {
    /// Pixels of the largest picture in a request; its header says them before it is decoded
    #[arg(
        long, env = "LONGSHORE_MAX_PIXELS", value_name = "N", default_value_t = 64_000_000,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Pictures, texts and sound"
    )]
    pub max_pixels: u64,

    /// Longest text in a request
    #[arg(
        long,
        env = "LONGSHORE_MAX_TEXT",
        value_name = "SIZE",
        default_value = "1MiB",
        help_heading = "Pictures, texts and sound"
    )]
    pub max_text: ByteSize,

    /// Most tokens of the texts of a request together, with their padding
    #[arg(
        long, env = "LONGSHORE_MAX_TOKENS", value_name = "N", default_value_t = 16_000_000,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Pictures, texts and sound"
    )]
    pub max_tokens: u64,

    /// Most samples of a sound in a request, of one channel, before and after resampling; half an
    /// hour at 16 kHz has 29 million
    #[arg(
        long, env = "LONGSHORE_MAX_SAMPLES", value_name = "N", default_value_t = 100_000_000,
        value_parser = clap::value_parser!(u64).range(1..), help_heading = "Pictures, texts and sound"
    )]
    pub max_samples: u64,
}

impl MediaArgs {
    pub fn limits(&self) -> MediaLimits {
        MediaLimits {
            pixels: self.max_pixels,
            text: text::TextLimits {
                text_bytes: usize::try_from(self.max_text.as_u64()).unwrap_or(usize::MAX),
                tokens: usize::try_from(self.max_tokens).unwrap_or(usize::MAX),
                ..text::TextLimits::default()
            },
            audio: AudioLimits {
                samples: self.max_samples,
                ..AudioLimits::default()
            },
        }
    }
}
