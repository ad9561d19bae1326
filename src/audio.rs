//! Converts sound files to samples at the rate of the model.
//!
//! The WAV reader is our own. `symphonia` brings every container and codec there is. `hound`
//! rejects files that clients do send: 64-bit floats, telephone codecs, the placeholder lengths of
//! a recorder that writes into a pipe, chunks of odd length. The format is only a header and an
//! array.
//!
//! Resampling is the same as `scipy.signal.resample_poly`: one polyphase filter without delay, and
//! as many samples as the rates require. `rubato` works in chunks, with a delay and different
//! lengths.
//!
//! Invariants:
//! - Every function here is pure: no I/O, no HTTP, no ONNX Runtime.
//! - No header can cause more memory use than the size of its file and [`AudioLimits`] allow:
//!   values in a header are checked against the bytes of the file.
//! - Every sample is a finite number; NaN and infinities are refused.
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
