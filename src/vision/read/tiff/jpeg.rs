//! Decodes strips and tiles that are JPEG files.
//!
//! The TIFF decoder trusts the sizes in these files, however large, and does not upsample their
//! chroma. So they are decoded like other JPEG files, and copied to their positions.

use tiff::decoder::ChunkType;
use tiff::tags::{PhotometricInterpretation, PlanarConfiguration, Tag};

use super::{FORMAT, Samples, Source, cause};
use crate::vision::allocation::{byte_count, filled};
use crate::vision::header::jpeg::Jpeg;
use crate::vision::read::jpeg::decoded;
use crate::vision::resample::Part;
use crate::vision::{Picture, VisionError};

/// Checks that files of this kind are supported.
pub(super) fn check(
    decoder: &mut Source<'_>,
    photometric: Option<PhotometricInterpretation>,
) -> Result<Samples, VisionError> {
    let planar: Option<u16> = decoder
        .find_tag_unsigned(Tag::PlanarConfiguration)
        .map_err(|error| cause(&error))?;
    let is_planar = planar == Some(PlanarConfiguration::Planar.to_u16());
    match photometric {
        Some(PhotometricInterpretation::BlackIsZero | PhotometricInterpretation::YCbCr) if !is_planar => {
            Ok(Samples::Jpeg { is_rgb: false })
        }
        Some(PhotometricInterpretation::RGB) if !is_planar => Ok(Samples::Jpeg { is_rgb: true }),
        _ => Err(VisionError::unsupported(FORMAT, "JPEG compression of planes or inks")),
    }
}

/// Reads the strips or tiles.
pub(super) fn read(
    decoder: &mut Source<'_>,
    bytes: &[u8],
    (width, height): (u32, u32),
    is_rgb: bool,
) -> Result<Picture, VisionError> {
    let (places, lengths) = match decoder.get_chunk_type() {
        ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
        ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
    };
    let mut list = |tag: Tag| -> Result<Vec<u64>, VisionError> {
        let list = decoder.find_tag_unsigned_vec(tag).map_err(|error| cause(&error))?;
        Ok(list.unwrap_or_default())
    };
    let (places, lengths) = (list(places)?, list(lengths)?);
    // Strips that share bytes would be decoded many times.
    let all = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
    if all > bytes.len() as u64 {
        return Err(VisionError::malformed(FORMAT, "the strips are longer than the file"));
    }
    let tables = decoder.find_tag(Tag::JPEGTables).map_err(|error| cause(&error))?;
    let tables = match tables {
        Some(tables) => tables.into_u8_vec().map_err(|error| cause(&error))?,
        None => Vec::new(),
    };
    let chunk = decoder.chunk_dimensions();
    let across = width.div_ceil(chunk.0.max(1));
    // A single strip may be declared with more rows than the image has.
    let most_rows = match decoder.get_chunk_type() {
        ChunkType::Strip => chunk.1.min(height),
        ChunkType::Tile => chunk.1,
    };
    let mut rgb = filled(0u8, byte_count(width, height, 3)?)?;
    for (index, (place, length)) in (0u32..).zip(places.into_iter().zip(lengths)) {
        let (left, top) = ((index % across) * chunk.0, (index / across).saturating_mul(chunk.1));
        if top >= height {
            break;
        }
        let file = file(bytes, place, length, &tables)?;
        let jpeg = Jpeg::parse(&file)?;
        let header = jpeg.header(file.len());
        if header.width > chunk.0 || header.height > most_rows || header.width == 0 {
            let problem = format!("a strip has {} x {} pixels", header.width, header.height);
            return Err(VisionError::malformed(FORMAT, problem));
        }
        let part = decoded(
            &file,
            &jpeg,
            is_rgb,
            &header,
            Part::whole((header.width, header.height)),
        )?;
        let row_bytes = width.saturating_sub(left).min(part.width) as usize * 3;
        let rows = rgb.chunks_exact_mut(width as usize * 3).skip(top as usize);
        for (row, from) in rows.zip(part.rgb.chunks_exact(part.width as usize * 3)) {
            row[left as usize * 3..][..row_bytes].copy_from_slice(&from[..row_bytes]);
        }
    }
    Ok(Picture { width, height, rgb })
}

/// Makes a complete file of a strip: the common tables come before its frame.
fn file(bytes: &[u8], place: u64, length: u64, tables: &[u8]) -> Result<Vec<u8>, VisionError> {
    let strip = usize::try_from(place)
        .ok()
        .zip(usize::try_from(length).ok())
        .and_then(|(place, length)| bytes.get(place..place.checked_add(length)?))
        .ok_or_else(|| VisionError::truncated(FORMAT))?;
    const END: &[u8] = b"\xff\xd9";
    match (tables.strip_suffix(END), strip.get(2..)) {
        (Some(tables), Some(rest)) if tables.len() >= 2 => Ok([tables, rest].concat()),
        _ => Ok(strip.to_vec()),
    }
}
