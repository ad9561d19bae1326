//! Reads the blocks of a GIF file up to its first frame.

use super::Header;
use super::cursor::Bytes;
use crate::vision::orientation::Orientation;
use crate::vision::{PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Gif;

/// The screen of a GIF file and the position of the first frame on it.
#[derive(Debug, Clone, Copy)]
pub(in crate::vision) struct Gif {
    /// Size of the image: the screen, or more if the frame extends beyond it, as in Pillow.
    pub width: u32,
    pub height: u32,
    pub left: u32,
    pub top: u32,
    pub frame_width: u32,
    pub frame_height: u32,
}

/// Bytes before the global palette.
const SCREEN: usize = 13;

impl Gif {
    pub(in crate::vision) fn parse(bytes: &[u8]) -> Result<Self, VisionError> {
        let source = Bytes { bytes, format: FORMAT };
        let (width, height) = (source.u16_le(6)?, source.u16_le(8)?);
        let flags = source.u8(10)?;
        let mut at = SCREEN + palette_bytes(flags);
        loop {
            match source.u8(at)? {
                // An extension has its kind, then blocks of up to 255 bytes until an empty one.
                b'!' => {
                    at += 2;
                    loop {
                        let length = usize::from(source.u8(at)?);
                        at += 1 + length;
                        if length == 0 {
                            break;
                        }
                    }
                }
                b',' => break,
                b';' => return Err(VisionError::malformed(FORMAT, "it has no frame")),
                // Bytes between blocks are skipped, as Pillow does.
                _ => at += 1,
            }
        }
        let [left, top, frame_width, frame_height] = [1, 3, 5, 7].map(|offset| source.u16_le(at + offset));
        let (left, top) = (u32::from(left?), u32::from(top?));
        let (frame_width, frame_height) = (u32::from(frame_width?), u32::from(frame_height?));
        Ok(Self {
            width: u32::from(width).max(left + frame_width),
            height: u32::from(height).max(top + frame_height),
            left,
            top,
            frame_width,
            frame_height,
        })
    }

    pub(in crate::vision) fn header(&self) -> Header {
        let pixels = u64::from(self.width) * u64::from(self.height);
        Header {
            width: self.width,
            height: self.height,
            orientation: Orientation::Upright,
            // The indices of the frame and the pixels of the image.
            decoding: pixels * 3 + u64::from(self.frame_width) * u64::from(self.frame_height),
        }
    }
}

fn palette_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) }
}
