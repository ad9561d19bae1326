//! Sound to samples at the rate of the model.
//!
//! WAV is read here and not by a library. `symphonia` brings every container and codec there is;
//! `hound` refuses what people send: 64-bit floats, telephone sound, the lengths that a recorder
//! writes into a pipe, an odd chunk with its padding. The format is a header and an array.
//!
//! Resampling is `scipy.signal.resample_poly`: one filter in its phases, without delay, with as many
//! samples as the rates say. `rubato` works in chunks, with a delay and lengths of its own.
//!
//! What always holds:
//! - Everything here is a pure function of its arguments: no I/O, no HTTP, no ONNX Runtime.
//! - No header makes more memory than its file and [`AudioLimits`] allow. What a header says is
//!   checked against the bytes that are there.
//! - A sample is a number: NaN and infinities are refused.

mod error;
mod g711;
mod input;
mod processor;
mod resample;
#[cfg(test)]
mod tests;
mod wav;

pub use error::{AudioError, AudioProcessorError};
pub use input::{AudioInput, Samples};
pub use processor::{AudioProcessor, SampleType};
pub use resample::{resample, resampled_length};
pub use wav::{AudioLimits, SampleFormat, Sound, WavProbe, is_wav, probe, read};
