//! Decodes images, with the same result as Pillow's
//! `ImageOps.exif_transpose(Image.open(f)).convert("RGB")`.
//!
//! The decoders are those of the `image` crate, except that of the usual JPEG files
//! (`jpeg/sequential.rs`). GIF and TIFF use its lower-level crates directly, because `image` loses
//! what Pillow keeps: the colour under transparent pixels, palettes, and grey with alpha.
//!
//! Invariants:
//! - Alpha is dropped, as in `convert("RGB")`; the colour under it is kept.
//! - Samples with 16 bits are reduced to the upper eight. Pillow does the same for colour. For
//!   grey it clips at 255, which leaves a white image; this behaviour is not copied.
//! - The first frame of an animation is used.
//! - No decoder starts before the size in the header is within the limits. A decoder that panics
//!   on a crafted file causes an error of that file.

mod bmp;
mod gif;
mod jpeg;
pub(super) mod tiff;

use std::error::Error;
use std::io::{self, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError};

use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::header::{Header, checked};
use crate::vision::resample::Part;
use crate::vision::{ImageLimits, Picture, PictureFormat, VisionError};

/// Decodes an image that is within the limits.
pub fn read(bytes: &[u8], limits: &ImageLimits) -> Result<Picture, VisionError> {
    read_part(bytes, limits, &Part::whole)
}

/// Decodes an image of which only a part is needed. The other pixels may be black. `needed` returns
/// the part for the size (width, height) of the upright image.
pub(super) fn read_part(
    bytes: &[u8],
    limits: &ImageLimits,
    needed: &dyn Fn((u32, u32)) -> Part,
) -> Result<Picture, VisionError> {
    let (format, header) = checked(bytes, limits)?;
    let size = (header.width, header.height);
    let decoded = || match format {
        PictureFormat::Jpeg => {
            let needed = needed(header.orientation.upright(size));
            jpeg::read(bytes, &header, header.orientation.stored(needed, size))
        }
        PictureFormat::Png => {
            let mut bounds = image::Limits::no_limits();
            bounds.max_alloc = Some(decoder_memory(&header));
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), bounds);
            decode(decoder.map_err(|error| cause(format, &error))?, format, &header)
        }
        PictureFormat::WebP => {
            let decoder = WebPDecoder::new(Cursor::new(bytes));
            decode(decoder.map_err(|error| cause(format, &error))?, format, &header)
        }
        PictureFormat::Gif => gif::read(bytes),
        PictureFormat::Bmp => bmp::read(bytes, &header),
        PictureFormat::Tiff => tiff::read(bytes),
    };
    let picture = catch_unwind(AssertUnwindSafe(decoded)).unwrap_or_else(|_| {
        let problem = "the decoder failed on damaged data";
        Err(VisionError::malformed(format, problem))
    })?;
    header.orientation.undo(picture)
}

/// Memory limit of a decoder: the estimate from the header, plus tables and metadata.
fn decoder_memory(header: &Header) -> u64 {
    const TABLES: u64 = 16 << 20;
    header.decoding.saturating_add(TABLES)
}

/// Runs a decoder of the `image` crate.
fn decode(mut decoder: impl ImageDecoder, format: PictureFormat, header: &Header) -> Result<Picture, VisionError> {
    check_sizes(format, header, decoder.dimensions())?;
    let mut bounds = image::Limits::no_limits();
    bounds.max_image_width = Some(header.width);
    bounds.max_image_height = Some(header.height);
    bounds.max_alloc = Some(decoder_memory(header));
    decoder.set_limits(bounds).map_err(|error| cause(format, &error))?;
    let colour = decoder.color_type();
    let (channels, sample_bytes) = match colour {
        ColorType::L8 => (1, 1),
        ColorType::La8 => (2, 1),
        ColorType::Rgb8 => (3, 1),
        ColorType::Rgba8 => (4, 1),
        ColorType::L16 => (1, 2),
        ColorType::La16 => (2, 2),
        ColorType::Rgb16 => (3, 2),
        ColorType::Rgba16 => (4, 2),
        other => return Err(VisionError::unsupported(format, format!("pixels of {other:?}"))),
    };
    let mut samples = filled(0u8, byte_count(header.width, header.height, channels * sample_bytes)?)?;
    decoder
        .read_image(&mut samples)
        .map_err(|error| cause(format, &error))?;
    Ok(Picture {
        width: header.width,
        height: header.height,
        rgb: rgb_of(samples, channels, sample_bytes)?,
    })
}

fn check_sizes(format: PictureFormat, header: &Header, found: (u32, u32)) -> Result<(), VisionError> {
    if found == (header.width, header.height) {
        return Ok(());
    }
    let problem = format!(
        "the header has {} x {} pixels, the data {} x {}",
        header.width, header.height, found.0, found.1
    );
    Err(VisionError::malformed(format, problem))
}

/// Converts pixels to RGB: expands grey, drops alpha, and keeps the upper byte of two-byte
/// little-endian samples. Works in place if the pixels become smaller.
fn rgb_of(mut samples: Vec<u8>, channels: usize, sample_bytes: usize) -> Result<Vec<u8>, VisionError> {
    let pixel_bytes = channels * sample_bytes;
    let high = sample_bytes - 1;
    match (channels, sample_bytes) {
        (3, 1) => Ok(samples),
        (1 | 2, _) => {
            let mut rgb = reserved(samples.len() / pixel_bytes * 3)?;
            for pixel in samples.chunks_exact(pixel_bytes) {
                rgb.extend_from_slice(&[pixel[high]; 3]);
            }
            Ok(rgb)
        }
        _ => {
            let pixels = samples.len() / pixel_bytes;
            for pixel in 0..pixels {
                let from = pixel * pixel_bytes + high;
                let colour = [0, 1, 2].map(|channel| samples[from + channel * sample_bytes]);
                samples[pixel * 3..][..3].copy_from_slice(&colour);
            }
            samples.truncate(pixels * 3);
            Ok(samples)
        }
    }
}

/// Converts the error of a decoder.
fn cause(format: PictureFormat, error: &ImageError) -> VisionError {
    match error {
        ImageError::Unsupported(error) => VisionError::unsupported(format, error.to_string()),
        ImageError::Limits(_) => VisionError::malformed(format, "it needs more memory than its header indicates"),
        ImageError::Decoding(_) | ImageError::Encoding(_) | ImageError::Parameter(_) | ImageError::IoError(_) => {
            cause_of(format, error)
        }
    }
}

/// Converts any decoder's error that is not about an unsupported feature.
fn cause_of(format: PictureFormat, error: &(dyn Error + 'static)) -> VisionError {
    let mut source = Some(error);
    while let Some(error) = source {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return VisionError::truncated(format);
        }
        source = error.source();
    }
    VisionError::malformed(format, error.to_string())
}
