//! Pictures to tensors, as the model's preprocessor file describes.
//!
//! ```text
//! probe(bytes, limits)           ->  sizes and the memory that reading takes, from the header
//! read(bytes, limits)            ->  RGB pixels, upright
//! Processor::parse(file)         ->  what the file says; kept with the artifact
//! processor.bind(input)          ->  what the model's input leaves of it, or a contradiction
//! bound.apply(picture)           ->  a tensor, and the way back to the picture's coordinates
//! ```
//!
//! What always holds:
//! - Everything here is a pure function of its arguments: no I/O, no state, no ONNX Runtime.
//! - The references are Pillow, transformers' image processors (those with Pillow and NumPy) and
//!   timm's evaluation transform. Lossless pictures give their numbers within one level in 255 at
//!   every pixel; JPEG and lossy WebP differ by as much as decoders do.
//! - A file that asks for a step that is not here is refused by the step's name. No picture is
//!   treated by a part of the steps.
//! - Bounds are asked of the header before anything is decoded; buffers as large as a picture may
//!   fail to be made, and that is an error of one request.

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
mod room;
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

/// Bounds that are asked of a header before anything is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels of a picture.
    pub pixels: u64,
    /// Most bytes of its file.
    pub bytes: u64,
}
