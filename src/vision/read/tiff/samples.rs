//! Converts samples to bytes and colours.

use super::FORMAT;
use crate::vision::VisionError;
use crate::vision::allocation::reserved;

/// Interleaves the samples of separate planes.
pub(super) fn interleaved(
    data: &[u8],
    plane_bytes: usize,
    planes: usize,
    sample_bytes: usize,
) -> Result<Vec<u8>, VisionError> {
    let mut pixels = reserved(plane_bytes * planes)?;
    for at in (0..plane_bytes).step_by(sample_bytes) {
        for plane in 0..planes {
            let sample = data
                .get(plane * plane_bytes + at..)
                .and_then(|rest| rest.get(..sample_bytes));
            pixels.extend_from_slice(sample.ok_or_else(|| VisionError::truncated(FORMAT))?);
        }
    }
    Ok(pixels)
}

/// Expands samples of fewer than eight bits to bytes; the first sample is in the highest bits.
pub(super) fn unpacked(data: &[u8], row_bytes: usize, width: u32, bits: u8) -> Result<Vec<u8>, VisionError> {
    let width = width as usize;
    let in_byte = usize::from(8 / bits);
    let mask = ((1u16 << bits) - 1) as u8;
    let rows = data.chunks_exact(row_bytes.max(1));
    let mut samples = reserved(rows.len() * width)?;
    for row in rows {
        for x in 0..width {
            let Some(byte) = row.get(x / in_byte) else {
                return Err(VisionError::malformed(FORMAT, "the rows are too short"));
            };
            let shift = 8 - usize::from(bits) * (x % in_byte + 1);
            samples.push(byte >> shift & mask);
        }
    }
    Ok(samples)
}

/// Undoes premultiplied alpha, with Pillow's rounding.
pub(super) fn divide_by_alpha(pixels: &mut [u8]) {
    for [red, green, blue, alpha] in pixels.as_chunks_mut::<4>().0 {
        let divide = |level: u8| match *alpha {
            0 => 0,
            255 => level,
            alpha => (u32::from(level) * 255 / u32::from(alpha)).min(255) as u8,
        };
        (*red, *green, *blue) = (divide(*red), divide(*green), divide(*blue));
    }
}

/// Converts inks to colours as Pillow does; 255 is full ink.
pub(super) fn rgb_of_cmyk(mut data: Vec<u8>, samples: usize, sample_bytes: usize) -> Vec<u8> {
    let pixel_bytes = samples * sample_bytes;
    let pixels = data.len() / pixel_bytes;
    for pixel in 0..pixels {
        let from = pixel * pixel_bytes + sample_bytes - 1;
        let [cyan, magenta, yellow, black] = [0, 1, 2, 3].map(|ink| data[from + ink * sample_bytes]);
        let light = u32::from(255 - black);
        let colour = [cyan, magenta, yellow].map(|ink| {
            let product = u32::from(ink) * light + 128;
            (light - ((product + (product >> 8)) >> 8)) as u8
        });
        data[pixel * 3..][..3].copy_from_slice(&colour);
    }
    data.truncate(pixels * 3);
    data
}
