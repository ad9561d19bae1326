//! Decodes the first frame of GIF files.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::cause_of;
use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::header::gif::Gif;
use crate::vision::{Picture, PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Gif;

pub(super) fn read(bytes: &[u8]) -> Result<Picture, VisionError> {
    let screen = Gif::parse(bytes)?;
    let frame_bytes = byte_count(screen.frame_width, screen.frame_height, 1)?;
    if frame_bytes == 0 {
        return Err(VisionError::malformed(FORMAT, "the first frame has no pixels"));
    }
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    if let Some(limit) = NonZeroU64::new(frame_bytes as u64) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    let mut decoder = options.read_info(bytes).map_err(|error| cause_of(FORMAT, &error))?;
    let frame = decoder.next_frame_info().map_err(|error| cause_of(FORMAT, &error))?;
    let Some(frame) = frame else {
        return Err(VisionError::malformed(FORMAT, "it has no frame"));
    };
    if (u32::from(frame.width), u32::from(frame.height)) != (screen.frame_width, screen.frame_height) {
        return Err(VisionError::malformed(FORMAT, "the first frame has two sizes"));
    }
    // As in Pillow, indices outside the palette are shades of grey.
    let mut palette: [[u8; 3]; 256] = std::array::from_fn(|index| [index as u8; 3]);
    let transparent = frame.transparent;
    let colours = decoder
        .palette()
        .map_err(|error: DecodingError| cause_of(FORMAT, &error))?;
    for (colour, given) in palette.iter_mut().zip(colours.as_chunks::<3>().0) {
        *colour = *given;
    }
    let mut indices = filled(0u8, frame_bytes)?;
    decoder
        .read_into_buffer(&mut indices)
        .map_err(|error| cause_of(FORMAT, &error))?;
    let background = palette[usize::from(transparent.unwrap_or(0))];
    paint(&screen, &indices, &palette, background)
}

/// Draws the frame on the screen; the other pixels are the background.
fn paint(screen: &Gif, indices: &[u8], palette: &[[u8; 3]; 256], background: [u8; 3]) -> Result<Picture, VisionError> {
    let mut rgb = reserved(byte_count(screen.width, screen.height, 3)?)?;
    let fill = |rgb: &mut Vec<u8>, pixels: u32| (0..pixels).for_each(|_| rgb.extend_from_slice(&background));
    let mut rows = indices.chunks_exact(screen.frame_width as usize);
    for y in 0..screen.height {
        match y.checked_sub(screen.top).and_then(|_| rows.next()) {
            Some(row) => {
                fill(&mut rgb, screen.left);
                row.iter()
                    .for_each(|&index| rgb.extend_from_slice(&palette[usize::from(index)]));
                fill(&mut rgb, screen.width - screen.left - screen.frame_width);
            }
            None => fill(&mut rgb, screen.width),
        }
    }
    Ok(Picture {
        width: screen.width,
        height: screen.height,
        rgb,
    })
}
