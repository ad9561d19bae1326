//! The header of a BMP file.

use super::Header;
use super::cursor::Bytes;
use crate::vision::orientation::Orientation;
use crate::vision::{PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Bmp;

/// The header of a BMP file.
#[derive(Debug, Clone, Copy)]
pub(in crate::vision) struct Bmp {
    width: u32,
    height: u32,
    pub bits_per_pixel: u16,
    /// The mask of green, if the file has masks.
    pub green_mask: Option<u32>,
}

impl Bmp {
    pub(in crate::vision) fn parse(bytes: &[u8]) -> Result<Self, VisionError> {
        const BITFIELDS: u32 = 3;
        let source = Bytes { bytes, format: FORMAT };
        if source.u32_le(14)? == 12 {
            return Ok(Self {
                width: source.u16_le(18)?.into(),
                height: source.u16_le(20)?.into(),
                bits_per_pixel: source.u16_le(24)?,
                green_mask: None,
            });
        }
        // With a negative height, the rows go from top to bottom.
        let signed = |at| source.u32_le(at).map(|size| size as i32);
        let (width, height) = (signed(18)?, signed(22)?);
        let compression = source.u32_le(30)?;
        Ok(Self {
            width: u32::try_from(width).unwrap_or(0),
            height: height.unsigned_abs(),
            bits_per_pixel: source.u16_le(28)?,
            green_mask: if compression == BITFIELDS {
                Some(source.u32_le(58)?)
            } else {
                None
            },
        })
    }

    pub(in crate::vision) fn header(&self) -> Header {
        let pixels = u64::from(self.width) * u64::from(self.height);
        let bytes_per_pixel = if self.bits_per_pixel == 32 { 4 } else { 3 };
        Header {
            width: self.width,
            height: self.height,
            orientation: Orientation::Upright,
            // The pixels, and a row as stored.
            decoding: (pixels * bytes_per_pixel).saturating_add(u64::from(self.width) * 4),
        }
    }
}
