//! Reads the chunks of a PNG file.

use super::Header;
use super::cursor::Bytes;
use crate::vision::orientation::Orientation;
use crate::vision::{PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Png;

/// The relevant fields of the header chunk and of other chunks.
#[derive(Debug, Clone, Copy)]
pub(in crate::vision) struct Png {
    width: u32,
    height: u32,
    bytes_per_pixel: u64,
    is_grey: bool,
    orientation: Orientation,
}

/// Bytes before the first chunk.
const SIGNATURE: usize = 8;
/// Bytes of a chunk around its contents: length, name, checksum.
const FRAME: usize = 12;

impl Png {
    pub(in crate::vision) fn parse(bytes: &[u8]) -> Result<Self, VisionError> {
        let source = Bytes { bytes, format: FORMAT };
        if source.slice(SIGNATURE + 4, 4)? != b"IHDR" {
            return Err(VisionError::malformed(FORMAT, "the first chunk is not a header"));
        }
        let (width, height) = (source.u32_be(16)?, source.u32_be(20)?);
        let (depth, colour) = (source.u8(24)?, source.u8(25)?);
        if width > i32::MAX as u32 || height > i32::MAX as u32 {
            let problem = format!("it has {width} x {height} pixels");
            return Err(VisionError::malformed(FORMAT, problem));
        }
        let (mut exif, mut xmp, mut transparent) = (None, None, false);
        let mut at = SIGNATURE;
        // A truncated chunk ends the loop; the decoder reports it if it matters.
        while let (Ok(length), Ok(name)) = (source.u32_be(at), source.slice(at + 4, 4)) {
            let Ok(contents) = source.slice(at + 8, length as usize) else {
                break;
            };
            match name {
                b"eXIf" => exif = exif.or(Some(contents)),
                b"iTXt" => xmp = xmp.or_else(|| contents.strip_prefix(b"XML:com.adobe.xmp\0")),
                b"tRNS" => transparent = true,
                b"IEND" => break,
                _ => {}
            }
            at += length as usize + FRAME;
        }
        let channels = match colour {
            0 => 1,
            4 => 2,
            6 => 4,
            // A palette is expanded to RGB.
            _ => 3,
        };
        let channels = channels + u64::from(transparent);
        Ok(Self {
            width,
            height,
            bytes_per_pixel: if depth == 16 { 2 * channels } else { channels },
            is_grey: matches!(colour, 0 | 4),
            orientation: Orientation::from_metadata(exif, xmp),
        })
    }

    pub(in crate::vision) fn header(&self) -> Header {
        let pixels = u64::from(self.width) * u64::from(self.height);
        // Grey is expanded into a second buffer; colours are packed in place.
        let spread = if self.is_grey { 3 } else { 0 };
        Header {
            width: self.width,
            height: self.height,
            orientation: self.orientation,
            decoding: pixels.saturating_mul(self.bytes_per_pixel + spread),
        }
    }
}
