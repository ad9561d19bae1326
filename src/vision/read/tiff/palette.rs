//! Reads palettes. The decoder does not support them, so it is given a file that declares grey
//! levels; these are the indices.

use tiff::tags::{PhotometricInterpretation, Tag};

use super::{FORMAT, Source, cause};
use crate::vision::VisionError;
use crate::vision::allocation::reserved;

/// Copies the file with its pixels declared as grey levels.
pub(super) fn as_grey(bytes: &[u8]) -> Result<Vec<u8>, VisionError> {
    let not_found = || VisionError::malformed(FORMAT, "the directory cannot be read");
    let little = bytes.first() == Some(&b'I');
    let number = |at: usize, count: usize| -> Option<usize> {
        let field = bytes.get(at..at.checked_add(count)?)?;
        let fold = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        let value = if little {
            field.iter().rev().fold(0, fold)
        } else {
            field.iter().fold(0, fold)
        };
        usize::try_from(value).ok()
    };
    let find = || -> Option<usize> {
        // BigTIFF has wider fields.
        let big = number(2, 2)? == 43;
        let (directory, count_bytes, entry_bytes, value_at) = if big {
            (number(8, 8)?, 8, 20, 12)
        } else {
            (number(4, 4)?, 2, 12, 8)
        };
        let entries = number(directory, count_bytes)?;
        let first = directory.checked_add(count_bytes)?;
        (0..entries)
            .map_while(|index| first.checked_add(entry_bytes * index))
            .map_while(|at| Some((at, number(at, 2)?)))
            .find(|&(_, tag)| tag == usize::from(Tag::PhotometricInterpretation.to_u16()))
            .map(|(at, _)| at + value_at)
    };
    let at = find().ok_or_else(not_found)?;
    let mut grey: Vec<u8> = reserved(bytes.len())?;
    grey.extend_from_slice(bytes);
    let value = PhotometricInterpretation::BlackIsZero.to_u16();
    let value = if little {
        value.to_le_bytes()
    } else {
        value.to_be_bytes()
    };
    grey.get_mut(at..at + 2).ok_or_else(not_found)?.copy_from_slice(&value);
    Ok(grey)
}

/// Reads the colours of a palette, and keeps the upper eight of their 16 bits.
pub(super) fn colour_map(decoder: &mut Source<'_>, bits: u8) -> Result<[[u8; 3]; 256], VisionError> {
    let map: Vec<u16> = decoder
        .find_tag_unsigned_vec(Tag::ColorMap)
        .map_err(|error| cause(&error))?
        .unwrap_or_default();
    let count = 1usize << bits;
    if map.len() < 3 * count {
        return Err(VisionError::malformed(FORMAT, "the colour map is too short"));
    }
    let mut colours = [[0; 3]; 256];
    for (index, colour) in colours.iter_mut().enumerate().take(count) {
        *colour = [0, 1, 2].map(|channel| (map[channel * count + index] >> 8) as u8);
    }
    Ok(colours)
}
