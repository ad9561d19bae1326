//! Finds the EXIF orientation in the metadata of a file, as Pillow does, and undoes it.

use memchr::memmem;

use crate::vision::VisionError;
use crate::vision::allocation::reserved;
use crate::vision::picture::Picture;
use crate::vision::resample::Part;

/// The eight orientations of the stored pixels relative to the scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Orientation {
    #[default]
    Upright,
    FlippedLeftRight,
    Rotated180,
    FlippedTopBottom,
    Transposed,
    /// Upright after a clockwise rotation by 90 degrees.
    Rotated90,
    Transversed,
    /// Upright after a clockwise rotation by 270 degrees.
    Rotated270,
}

/// The orientation tag in EXIF and TIFF.
const TAG: u16 = 0x0112;

impl Orientation {
    /// The orientation for a number in EXIF. Unknown numbers mean upright.
    pub(super) fn from_number(number: u32) -> Self {
        match number {
            2 => Self::FlippedLeftRight,
            3 => Self::Rotated180,
            4 => Self::FlippedTopBottom,
            5 => Self::Transposed,
            6 => Self::Rotated90,
            7 => Self::Transversed,
            8 => Self::Rotated270,
            _ => Self::Upright,
        }
    }

    /// Reads the orientation from the metadata of a file. EXIF takes precedence over XMP.
    pub(super) fn from_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Self {
        exif.and_then(in_exif)
            .or_else(|| xmp.and_then(in_xmp))
            .map_or(Self::Upright, Self::from_number)
    }

    /// Whether the orientation swaps rows and columns.
    pub(super) fn swaps_edges(self) -> bool {
        matches!(
            self,
            Self::Transposed | Self::Rotated90 | Self::Transversed | Self::Rotated270
        )
    }

    /// The size of the upright image.
    pub(super) fn upright(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.swaps_edges() {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// The part of the stored image, whose size is given, for a part of the upright image.
    pub(super) fn stored(self, part: Part, (width, height): (u32, u32)) -> Part {
        let part = if self.swaps_edges() {
            Part {
                left: part.top,
                top: part.left,
                width: part.height,
                height: part.width,
            }
        } else {
            part
        };
        let is_from_right = matches!(
            self,
            Self::FlippedLeftRight | Self::Rotated180 | Self::Transversed | Self::Rotated270
        );
        let is_from_bottom = matches!(
            self,
            Self::FlippedTopBottom | Self::Rotated180 | Self::Transversed | Self::Rotated90
        );
        Part {
            left: if is_from_right {
                width - part.left - part.width
            } else {
                part.left
            },
            top: if is_from_bottom {
                height - part.top - part.height
            } else {
                part.top
            },
            ..part
        }
    }

    /// Turns an image upright.
    pub(super) fn undo(self, mut picture: Picture) -> Result<Picture, VisionError> {
        let (width, height) = (picture.width as usize, picture.height as usize);
        let (pixels, rest) = picture.rgb.as_chunks_mut::<3>();
        debug_assert!(rest.is_empty() && pixels.len() == width * height);
        if pixels.is_empty() {
            return Ok(picture);
        }
        match self {
            Self::Upright => return Ok(picture),
            Self::Rotated180 => {
                pixels.reverse();
                return Ok(picture);
            }
            Self::FlippedLeftRight => {
                pixels.chunks_exact_mut(width).for_each(<[_]>::reverse);
                return Ok(picture);
            }
            Self::FlippedTopBottom => {
                let (top, bottom) = pixels.split_at_mut(height / 2 * width);
                let rows = top.chunks_exact_mut(width);
                for (above, below) in rows.zip(bottom.chunks_exact_mut(width).rev()) {
                    above.swap_with_slice(below);
                }
                return Ok(picture);
            }
            Self::Transposed | Self::Rotated90 | Self::Transversed | Self::Rotated270 => {}
        }
        // Row `y` of the upright image is a column of the stored one, read up or down.
        let from_right = matches!(self, Self::Transversed | Self::Rotated270);
        let from_bottom = matches!(self, Self::Rotated90 | Self::Transversed);
        let mut upright: Vec<u8> = reserved(picture.rgb.len())?;
        let (pixels, _) = picture.rgb.as_chunks::<3>();
        for y in 0..width {
            let column = if from_right { width - 1 - y } else { y };
            let column = pixels[column..].iter().step_by(width);
            if from_bottom {
                column.rev().for_each(|pixel| upright.extend_from_slice(pixel));
            } else {
                column.for_each(|pixel| upright.extend_from_slice(pixel));
            }
        }
        Ok(Picture {
            width: picture.height,
            height: picture.width,
            rgb: upright,
        })
    }
}

/// Finds the number in the first directory of EXIF data, with or without the EXIF prefix.
fn in_exif(mut exif: &[u8]) -> Option<u32> {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let little = match exif.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let bytes = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let long = |at: usize| -> Option<u32> {
        let bytes = exif.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    };
    let directory = usize::try_from(long(4)?).ok()?;
    let entries = usize::from(short(directory)?);
    (0..entries)
        .map_while(|entry| directory.checked_add(2 + 12 * entry))
        .map_while(|at| Some((at, short(at)?)))
        .find(|&(_, tag)| tag == TAG)
        .and_then(|(at, _)| match short(at + 2)? {
            1 => exif.get(at + 8).map(|&byte| u32::from(byte)),
            3 => short(at + 8).map(u32::from),
            4 => long(at + 8),
            _ => None,
        })
}

/// Finds the digit in `tiff:Orientation="6"` or `<tiff:Orientation>6`.
fn in_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    memmem::find_iter(xmp, NAME).find_map(|at| {
        let after = &xmp[at + NAME.len()..];
        let value = after.strip_prefix(b"=\"").or_else(|| after.strip_prefix(b">"))?;
        value
            .first()
            .filter(|digit| digit.is_ascii_digit())
            .map(|digit| u32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of 3 x 2 pixels whose red level is the number of the pixel.
    fn numbered() -> Picture {
        Picture {
            width: 3,
            height: 2,
            rgb: (0..6).flat_map(|n| [n, 0, 0]).collect(),
        }
    }

    #[test]
    fn each_orientation_is_undone() {
        let table: [(u32, (u32, u32), [u8; 6]); 9] = [
            (1, (3, 2), [0, 1, 2, 3, 4, 5]),
            (2, (3, 2), [2, 1, 0, 5, 4, 3]),
            (3, (3, 2), [5, 4, 3, 2, 1, 0]),
            (4, (3, 2), [3, 4, 5, 0, 1, 2]),
            (5, (2, 3), [0, 3, 1, 4, 2, 5]),
            (6, (2, 3), [3, 0, 4, 1, 5, 2]),
            (7, (2, 3), [5, 2, 4, 1, 3, 0]),
            (8, (2, 3), [2, 5, 1, 4, 0, 3]),
            (9, (3, 2), [0, 1, 2, 3, 4, 5]),
        ];
        for (number, size, expected) in table {
            let orientation = Orientation::from_number(number);
            assert_eq!(orientation.upright((3, 2)), size, "{number}");
            let upright = orientation.undo(numbered()).unwrap();
            assert_eq!((upright.width, upright.height), size, "{number}");
            let red: Vec<u8> = upright.rgb.chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(red, expected, "{number}");
        }
    }

    #[test]
    fn a_part_of_the_upright_image_is_found_in_the_stored_one() {
        for number in 1..=8 {
            let orientation = Orientation::from_number(number);
            let (width, height) = orientation.upright((3, 2));
            let upright = orientation.undo(numbered()).unwrap();
            for (left, top) in (0..width).flat_map(|left| (0..height).map(move |top| (left, top))) {
                let part = Part {
                    left,
                    top,
                    width: width - left,
                    height: 1,
                };
                let stored = orientation.stored(part, (3, 2));
                let numbers = |picture: &Picture, part: Part| {
                    let rows = part.top..part.top + part.height;
                    let places = rows.flat_map(|y| (part.left..part.left + part.width).map(move |x| (x, y)));
                    let mut numbers: Vec<u8> = places
                        .map(|(x, y)| picture.rgb[(y * picture.width + x) as usize * 3])
                        .collect();
                    numbers.sort_unstable();
                    numbers
                };
                assert_eq!(numbers(&upright, part), numbers(&numbered(), stored), "{number}");
            }
        }
    }

    #[test]
    fn reads_exif_in_both_byte_orders_and_never_past_its_end() {
        let big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let little = b"Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0";
        assert_eq!(in_exif(big), Some(6));
        assert_eq!(in_exif(little), Some(8));
        for end in 0..20 {
            assert_eq!(in_exif(&big[..end.min(18)]), None);
        }
        assert_eq!(in_exif(b"II\x2a\0\xff\xff\xff\xff"), None);
    }

    #[test]
    fn xmp_applies_if_exif_has_no_orientation() {
        let attribute: &[u8] = br#"<rdf:Description tiff:Orientation="3"/>"#;
        let element: &[u8] = b"<tiff:Orientation>6</tiff:Orientation>";
        assert_eq!(
            Orientation::from_metadata(None, Some(attribute)),
            Orientation::Rotated180
        );
        assert_eq!(Orientation::from_metadata(None, Some(element)), Orientation::Rotated90);
        let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0";
        assert_eq!(
            Orientation::from_metadata(Some(exif), Some(element)),
            Orientation::Upright
        );
    }
}
