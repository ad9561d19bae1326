//! Decodes JPEG files: the usual ones with the decoder in `sequential.rs`, and the others with that
//! of `image`.

mod bits;
mod colour;
mod huffman;
mod sequential;
mod tables;
mod transform;
mod upsample;
mod zigzag;

use std::borrow::Cow;
use std::io::Cursor;

use fearless_simd::Level;
use image::codecs::jpeg::JpegDecoder;

use super::{cause, decode};
use crate::vision::header::Header;
use crate::vision::header::jpeg::Jpeg;
use crate::vision::resample::Part;
use crate::vision::{Picture, PictureFormat, VisionError};

/// Decodes a file of which only a part is needed.
pub(super) fn read(bytes: &[u8], header: &Header, needed: Part) -> Result<Picture, VisionError> {
    let jpeg = Jpeg::parse(bytes)?;
    let has_no_transform = jpeg.adobe == Some(0);
    decoded(bytes, &jpeg, has_no_transform, header, needed)
}

/// Decodes a parsed file. `is_rgb` means that its three components are red, green and blue.
pub(super) fn decoded(
    bytes: &[u8],
    jpeg: &Jpeg,
    is_rgb: bool,
    header: &Header,
    needed: Part,
) -> Result<Picture, VisionError> {
    let scans = jpeg.scans(bytes)?;
    if !is_rgb
        && scans.len() == 1
        && let Some(picture) = sequential::read(Level::new(), bytes, jpeg, needed)?
    {
        return Ok(picture);
    }
    let bytes = if is_rgb {
        named_as_rgb(bytes, jpeg, &scans)
    } else {
        Cow::Borrowed(bytes)
    };
    let decoder = JpegDecoder::new(Cursor::new(&bytes[..]));
    let decoder = decoder.map_err(|error| cause(PictureFormat::Jpeg, &error))?;
    decode(decoder, PictureFormat::Jpeg, header)
}

/// Renames the three components of a file to "R", "G" and "B".
///
/// Adobe's segment marks files without a colour transform. The decoder takes such a file for CMYK
/// unless its components have these identifiers.
fn named_as_rgb<'a>(bytes: &'a [u8], jpeg: &Jpeg, scans: &[usize]) -> Cow<'a, [u8]> {
    const NAMES: [u8; 3] = *b"RGB";
    let ids: Vec<u8> = jpeg.components.iter().map(|component| component.id).collect();
    if ids.len() != NAMES.len() || ids == NAMES {
        return Cow::Borrowed(bytes);
    }
    let mut renamed = bytes.to_vec();
    for (component, name) in jpeg.components.iter().zip(NAMES) {
        renamed[component.at] = name;
    }
    for &scan in scans {
        let count = usize::from(bytes[scan]);
        for at in (0..count).map(|index| scan + 1 + 2 * index) {
            let position = bytes.get(at).and_then(|id| ids.iter().position(|known| known == id));
            if let Some(position) = position {
                renamed[at] = NAMES[position];
            }
        }
    }
    Cow::Owned(renamed)
}

/// The sets of vector instructions of this machine's processor.
#[cfg(test)]
fn levels() -> impl Iterator<Item = Level> {
    let best = Level::new();
    #[cfg(target_arch = "x86_64")]
    let lesser = [best.as_sse4_2().map(Level::Sse4_2), best.as_avx2().map(Level::Avx2)];
    #[cfg(not(target_arch = "x86_64"))]
    let lesser: [Option<Level>; 0] = [];
    [Level::baseline(), best]
        .into_iter()
        .chain(lesser.into_iter().flatten())
}
