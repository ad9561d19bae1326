//! Decodes BMP files.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;

use super::{cause, decode};
use crate::vision::header::Header;
use crate::vision::header::bmp::Bmp;
use crate::vision::{Picture, PictureFormat, VisionError};

pub(super) fn read(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    let bmp = Bmp::parse(bytes)?;
    let decoder = BmpDecoder::new(Cursor::new(bytes));
    let decoder = decoder.map_err(|error| cause(PictureFormat::Bmp, &error))?;
    let mut picture = decode(decoder, PictureFormat::Bmp, header)?;
    if bmp.bits_per_pixel == 16 {
        let green_levels = if bmp.green_mask == Some(0x07e0) { 63 } else { 31 };
        round_down(&mut picture.rgb, green_levels);
    }
    Ok(picture)
}

/// Converts five and six bits to Pillow's levels: Pillow rounds down, the decoder rounds to the
/// nearest.
fn round_down(rgb: &mut [u8], green_levels: u32) {
    let table = |levels: u32| -> [u8; 256] {
        std::array::from_fn(|level| {
            let bits = (level as u32 * levels + 127) / 255;
            (bits * 255 / levels) as u8
        })
    };
    let tables = [table(31), table(green_levels), table(31)];
    for pixel in rgb.as_chunks_mut::<3>().0 {
        for (level, table) in pixel.iter_mut().zip(&tables) {
            *level = table[usize::from(*level)];
        }
    }
}
