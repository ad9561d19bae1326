//! Reads the headers of image files, before any decoding.
//!
//! Our own code reads the sizes, so that all limits are checked before a decoder allocates its
//! first buffer. If a decoder later finds different sizes, the file is refused.

pub(super) mod bmp;
pub(super) mod cursor;
pub(super) mod gif;
pub(super) mod jpeg;
pub(super) mod png;
pub(super) mod webp;

use crate::vision::format::PictureFormat;
use crate::vision::orientation::Orientation;
use crate::vision::read::tiff;
use crate::vision::{ImageLimits, VisionError};

/// The header of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub format: PictureFormat,
    /// Size of the upright image.
    pub width: u32,
    pub height: u32,
    memory: u64,
}

impl Probe {
    /// Peak memory of reading in bytes, including the resulting pixels, without the file.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes of the decoded pixels.
    pub fn picture_bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * 3
    }
}

/// The fields that all header readers return.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Size as stored.
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Peak bytes of the decoder and of the RGB pixels.
    pub decoding: u64,
}

impl Header {
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// Small buffers and tables of every decoder.
const DECODER_BYTES: u64 = 1 << 20;

/// Reads the header of an image and checks it against the limits.
pub fn probe(bytes: &[u8], limits: &ImageLimits) -> Result<Probe, VisionError> {
    let (format, header) = checked(bytes, limits)?;
    let (width, height) = header.orientation.upright((header.width, header.height));
    // Swapping rows and columns needs a copy, after the decoder has been freed.
    let copies = if header.orientation.swaps_edges() { 2 } else { 1 };
    let turning = header.pixels().saturating_mul(3 * copies);
    Ok(Probe {
        format,
        width,
        height,
        memory: header.decoding.max(turning).saturating_add(DECODER_BYTES),
    })
}

/// Returns the format and the header of an image that is within the limits.
pub(super) fn checked(bytes: &[u8], limits: &ImageLimits) -> Result<(PictureFormat, Header), VisionError> {
    let given = bytes.len() as u64;
    if given > limits.bytes {
        return Err(VisionError::TooManyBytes {
            given,
            limit: limits.bytes,
        });
    }
    let format = PictureFormat::from_magic(bytes).ok_or_else(|| not_a_picture(bytes))?;
    let header = match format {
        PictureFormat::Jpeg => jpeg::Jpeg::parse(bytes)?.header(bytes.len()),
        PictureFormat::Png => png::Png::parse(bytes)?.header(),
        PictureFormat::WebP => webp::parse(bytes)?,
        PictureFormat::Gif => gif::Gif::parse(bytes)?.header(),
        PictureFormat::Bmp => bmp::Bmp::parse(bytes)?.header(),
        PictureFormat::Tiff => tiff::header(bytes)?,
    };
    if header.width == 0 || header.height == 0 {
        return Err(VisionError::malformed(
            format,
            format!("it has {} x {} pixels", header.width, header.height),
        ));
    }
    if header.pixels() > limits.pixels {
        return Err(VisionError::TooManyPixels {
            width: header.width,
            height: header.height,
            limit: limits.pixels,
        });
    }
    Ok((format, header))
}

/// Quotes the first bytes, as text if they are printable, else in hexadecimal.
fn not_a_picture(bytes: &[u8]) -> VisionError {
    const QUOTED: usize = 12;
    let head = &bytes[..bytes.len().min(QUOTED)];
    let head = if head.is_empty() {
        "with nothing: the body is empty".to_owned()
    } else if head.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        format!("{:?}", String::from_utf8_lossy(head))
    } else {
        let hexadecimal: Vec<_> = head.iter().map(|byte| format!("{byte:02x}")).collect();
        hexadecimal.join(" ")
    };
    VisionError::NotAPicture { head }
}
