//! Converts images to tensors with the steps of the model's preprocessor file.
//!
//! ```text
//! probe(bytes, limits)           ->  size and memory requirement, from the header
//! read(bytes, limits)            ->  RGB pixels, upright
//! Processor::parse(file)         ->  the keys of the file; kept with the artifact
//! processor.bind(input)          ->  the steps for the model's input, or a contradiction
//! bound.apply(picture)           ->  a tensor, and the mapping back to the image's coordinates
//! bound.read(bytes, limits)      ->  the same from a file, of which it decodes what is needed
//! ```
//!
//! Types and functions say "picture" for an image of a request, so that it is not confused with a
//! container image.
//!
//! Invariants:
//! - Every function here is pure: no I/O, no state, no ONNX Runtime.
//! - The references are Pillow, transformers' image processors (those with Pillow and NumPy) and
//!   timm's evaluation transform. For lossless images and the usual JPEG files, every pixel is
//!   within one level of 255; for other JPEG files and lossy WebP the difference is that of the
//!   decoders.
//! - A file that needs an unsupported step is refused by the name of the step. No image is
//!   processed with only some of the steps.
//! - Limits are checked against the header before decoding. Allocations of the size of an image may
//!   fail; such a failure is an error of one request.
mod allocation;
mod bound;
mod convolution;
mod error;
mod family;
mod format;
mod header;
mod keys;
mod levels;
mod orientation;
mod picture;
mod placement;
mod plan;
mod processor;
mod read;
mod resample;
mod shape;
mod size;
mod spec;
mod steps;
#[cfg(test)]
mod tests;

pub use bound::Bound;
pub use error::{ProcessorError, VisionError};
pub use format::{PictureFormat, is_picture};
pub use header::{Probe, probe};
pub use picture::Picture;
pub use placement::Placement;
pub use processor::Processor;
pub use read::read;

/// Limits that are checked against the header before decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Maximum pixels of an image.
    pub pixels: u64,
    /// Maximum bytes of its file.
    pub bytes: u64,
}
