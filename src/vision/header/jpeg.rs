//! Reads the segments of a JPEG file up to its first scan, and finds its scans.

use super::Header;
use super::cursor::Bytes;
use crate::vision::orientation::Orientation;
use crate::vision::{PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Jpeg;

/// A frame of a JPEG file.
#[derive(Debug, Clone)]
pub(in crate::vision) struct Jpeg {
    pub width: u16,
    pub height: u16,
    pub components: Vec<Component>,
    /// The colour transform of Adobe's segment: 0 none, 1 YCbCr, 2 YCCK.
    pub adobe: Option<u8>,
    pub progressive: bool,
    orientation: Orientation,
    /// The positions of the first scan's header and of the data after it.
    pub first_scan: usize,
    pub first_data: usize,
    scan_components: u8,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::vision) struct Component {
    /// The position of the component's identifier in the file.
    pub at: usize,
    pub id: u8,
    /// The number of the component's quantization table.
    pub quantization: u8,
    /// Sampling factors.
    pub horizontal: u8,
    pub vertical: u8,
}

/// A marker and the contents of its segment.
pub(in crate::vision) struct Segment<'a> {
    pub marker: u8,
    /// The position of the contents.
    pub at: usize,
    pub contents: &'a [u8],
}

const SOF0: u8 = 0xc0;
const SOF1: u8 = 0xc1;
const SOF2: u8 = 0xc2;
pub(in crate::vision) const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;
const SOF15: u8 = 0xcf;
const SOI: u8 = 0xd8;
pub(in crate::vision) const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
pub(in crate::vision) const DQT: u8 = 0xdb;
pub(in crate::vision) const DRI: u8 = 0xdd;
const APP1: u8 = 0xe1;
const APP14: u8 = 0xee;

impl Jpeg {
    /// Reads the segments before the first scan.
    pub(in crate::vision) fn parse(bytes: &[u8]) -> Result<Self, VisionError> {
        let mut at = 2;
        let mut frame: Option<(u8, u16, u16, Vec<Component>)> = None;
        let (mut exif, mut xmp, mut adobe) = (None, None, None);
        loop {
            let Segment {
                marker,
                at: contents_at,
                contents,
            } = segment(bytes, at)?;
            match marker {
                EOI => return Err(VisionError::malformed(FORMAT, "there is no scan")),
                DHT | JPG | DAC => {}
                SOF0..=SOF15 if frame.is_some() => {
                    return Err(VisionError::malformed(FORMAT, "there are two frame headers"));
                }
                SOF0..=SOF15 => frame = Some(frame_header(bytes, marker, contents_at, contents)?),
                APP1 if exif.is_none() && contents.starts_with(b"Exif\0") => exif = Some(contents),
                APP1 if xmp.is_none() => {
                    xmp = contents.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0");
                }
                APP14 if contents.starts_with(b"Adobe") => adobe = contents.get(11).copied(),
                SOS => {
                    let Some((kind, width, height, components)) = frame else {
                        return Err(VisionError::malformed(FORMAT, "a scan comes before the frame header"));
                    };
                    return Ok(Self {
                        width,
                        height,
                        components,
                        adobe,
                        progressive: kind == SOF2,
                        orientation: Orientation::from_metadata(exif, xmp),
                        first_scan: contents_at,
                        first_data: contents_at + contents.len(),
                        scan_components: contents.first().copied().unwrap_or(0),
                    });
                }
                _ => {}
            }
            at = contents_at + contents.len();
        }
    }

    /// Follows the scans to the end of the image, and returns the position of each scan's header.
    ///
    /// The decoder fills missing data with grey, so truncated files have to be found here.
    pub(in crate::vision) fn scans(&self, bytes: &[u8]) -> Result<Vec<usize>, VisionError> {
        let mut scans = vec![self.first_scan];
        let mut at = self.first_data;
        loop {
            let marker_at = next_marker(bytes, at)?;
            let segment = segment(bytes, marker_at)?;
            match segment.marker {
                EOI => return Ok(scans),
                SOS => scans.push(segment.at),
                _ => {}
            }
            at = segment.at + segment.contents.len();
        }
    }

    pub(in crate::vision) fn header(&self, file_bytes: usize) -> Header {
        let pixels = u64::from(self.width) * u64::from(self.height);
        let largest = |factor: fn(&Component) -> u8| {
            let factors = self.components.iter().map(factor);
            u64::from(factors.max().unwrap_or(1).max(1))
        };
        let (across, down) = (largest(|c| c.horizontal), largest(|c| c.vertical));
        let columns = u64::from(self.width).div_ceil(8 * across);
        let rows = u64::from(self.height).div_ceil(8 * down);
        let samples = |rows: u64| -> u64 {
            let blocks = self
                .components
                .iter()
                .map(|c| u64::from(c.horizontal) * u64::from(c.vertical));
            rows * columns * 64 * blocks.sum::<u64>()
        };
        // A row of blocks and its copies for upsampling, two bytes per sample.
        let row = self.components.len() as u64 * columns * across * 8 * down * 8 * 2 * 3;
        let whole = self.progressive || usize::from(self.scan_components) < self.components.len();
        let coefficients = if whole { samples(rows) * 2 } else { 0 };
        // Grey is decoded as one byte per pixel, then expanded to three.
        let output = if self.components.len() == 1 { 4 } else { 3 } * pixels;
        Header {
            width: self.width.into(),
            height: self.height.into(),
            orientation: self.orientation,
            // The decoder of `image` copies the file, which may itself be a copy with renamed
            // components. The one of usual files needs less.
            decoding: output + coefficients + row + 2 * file_bytes as u64,
        }
    }
}

/// Reads a frame header: the kind of frame, its size and components.
fn frame_header(
    bytes: &[u8],
    marker: u8,
    at: usize,
    contents: &[u8],
) -> Result<(u8, u16, u16, Vec<Component>), VisionError> {
    let kind = match marker {
        SOF0 | SOF1 | SOF2 => marker,
        0xc3 | 0xc7 | 0xcb | 0xcf => return Err(VisionError::unsupported(FORMAT, "lossless coding")),
        0xc5 | 0xc6 => return Err(VisionError::unsupported(FORMAT, "hierarchical coding")),
        _ => return Err(VisionError::unsupported(FORMAT, "arithmetic coding")),
    };
    let source = Bytes { bytes, format: FORMAT };
    let precision = source.u8(at)?;
    let (height, width) = (source.u16_be(at + 1)?, source.u16_be(at + 3)?);
    let count = usize::from(source.u8(at + 5)?);
    if precision != 8 {
        let feature = format!("samples of {precision} bits");
        return Err(VisionError::unsupported(FORMAT, feature));
    }
    if height == 0 {
        return Err(VisionError::unsupported(FORMAT, "a height that follows the first scan"));
    }
    if !matches!(count, 1 | 3 | 4) {
        return Err(VisionError::unsupported(FORMAT, format!("{count} colour components")));
    }
    let Some(listed) = contents.get(6..6 + 3 * count) else {
        return Err(VisionError::malformed(FORMAT, "the frame header is too short"));
    };
    let mut components = Vec::with_capacity(count);
    for (index, component) in listed.chunks_exact(3).enumerate() {
        let (horizontal, vertical) = (component[1] >> 4, component[1] & 15);
        if !(1..=4).contains(&horizontal) || !(1..=4).contains(&vertical) {
            let problem = format!("invalid sampling factor {horizontal} x {vertical}");
            return Err(VisionError::malformed(FORMAT, problem));
        }
        components.push(Component {
            at: at + 6 + 3 * index,
            id: component[0],
            quantization: component[2],
            horizontal,
            vertical,
        });
    }
    let is_finer = |component: &Component| {
        component.horizontal > components[0].horizontal || component.vertical > components[0].vertical
    };
    // The decoder of `image` returns other colours for such a file, and no error.
    if components.iter().any(is_finer) {
        return Err(VisionError::unsupported(FORMAT, "chroma that is finer than luma"));
    }
    Ok((kind, width, height, components))
}

/// Finds the next segment at or after `at`. Skips bytes between segments, as libjpeg does.
pub(in crate::vision) fn segment(bytes: &[u8], mut at: usize) -> Result<Segment<'_>, VisionError> {
    let source = Bytes { bytes, format: FORMAT };
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += memchr::memchr(0xff, rest).ok_or_else(|| VisionError::truncated(FORMAT))?;
        while source.u8(at)? == 0xff {
            at += 1;
        }
        let marker = source.u8(at)?;
        at += 1;
        match marker {
            // Stuffing, or a marker without contents.
            0 | 1 | 0xd0..=SOI => {}
            EOI => {
                return Ok(Segment {
                    marker,
                    at,
                    contents: &[],
                });
            }
            _ => {
                let length = usize::from(source.u16_be(at)?);
                let Some(length) = length.checked_sub(2) else {
                    let problem = format!("the segment of marker {marker:#04x} has no length");
                    return Err(VisionError::malformed(FORMAT, problem));
                };
                return Ok(Segment {
                    marker,
                    at: at + 2,
                    contents: source.slice(at + 2, length)?,
                });
            }
        }
    }
}

/// Finds the first marker after `at` that is not part of a scan's data.
fn next_marker(bytes: &[u8], mut at: usize) -> Result<usize, VisionError> {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += memchr::memchr(0xff, rest).ok_or_else(|| VisionError::truncated(FORMAT))?;
        match bytes.get(at + 1) {
            None => return Err(VisionError::truncated(FORMAT)),
            Some(0 | 0xd0..=0xd7) => at += 2,
            Some(0xff) => at += 1,
            Some(_) => return Ok(at),
        }
    }
}
