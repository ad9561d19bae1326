//! Reads the chunks of a WebP file.

use super::Header;
use super::cursor::Bytes;
use crate::vision::orientation::Orientation;
use crate::vision::{PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::WebP;

/// Bytes before the first chunk.
const PREFIX: usize = 12;
/// Bytes before the contents of a chunk: name and length.
const FRAME: usize = 8;

/// Reads the size from the first chunk, and the metadata from the others.
pub(in crate::vision) fn parse(bytes: &[u8]) -> Result<Header, VisionError> {
    let source = Bytes { bytes, format: FORMAT };
    let contents = PREFIX + FRAME;
    // Upper bounds of the decoder's buffers in bytes per pixel: YUV planes, the pixels with
    // alpha, and the canvas for animations.
    let (width, height, bytes_per_pixel) = match source.slice(PREFIX, 4)? {
        b"VP8 " => {
            if source.slice(contents + 3, 3)? != [0x9d, 0x01, 0x2a] {
                return Err(VisionError::malformed(FORMAT, "the first frame is not a key frame"));
            }
            let size = |at| source.u16_le(at).map(|size| u32::from(size & 0x3fff));
            (size(contents + 6)?, size(contents + 8)?, 6)
        }
        b"VP8L" => {
            if source.u8(contents)? != 0x2f {
                return Err(VisionError::malformed(
                    FORMAT,
                    "the lossless data has the wrong signature",
                ));
            }
            let sizes = source.u32_le(contents + 1)?;
            ((sizes & 0x3fff) + 1, (sizes >> 14 & 0x3fff) + 1, 9)
        }
        b"VP8X" => (
            source.u24_le(contents + 4)? + 1,
            source.u24_le(contents + 7)? + 1,
            if source.u8(contents)? & 2 == 0 { 12 } else { 18 },
        ),
        name => {
            let problem = format!(
                "the first chunk is {:?}, expected VP8, VP8L or VP8X",
                String::from_utf8_lossy(name)
            );
            return Err(VisionError::malformed(FORMAT, problem));
        }
    };
    let (mut exif, mut xmp) = (None, None);
    let mut at = PREFIX;
    while let (Ok(name), Ok(length)) = (source.slice(at, 4), source.u32_le(at + 4)) {
        let Ok(contents) = source.slice(at + FRAME, length as usize) else {
            break;
        };
        match name {
            b"EXIF" => exif = exif.or(Some(contents)),
            b"XMP " => xmp = xmp.or(Some(contents)),
            _ => {}
        }
        // Chunks have an even length.
        at += FRAME + (length as usize).next_multiple_of(2);
    }
    Ok(Header {
        width,
        height,
        orientation: Orientation::from_metadata(exif, xmp),
        decoding: (u64::from(width) * u64::from(height)).saturating_mul(bytes_per_pixel),
    })
}
