//! Resizes the wanted part of an image in the same way as Pillow's `Image.resize`.
//!
//! Convolutions use `fast_image_resize`, which is derived from Pillow and several times as fast.
//! It convolves columns before rows; Pillow convolves rows before columns. Where a filter
//! overshoots, the first pass clips at black and white, so the order matters (for black text on
//! white most levels differ, by dozens). Therefore each pass is a separate call. The crate's
//! weights have fewer bits: when noise is shrunk, one level in a hundred differs by one and one in
//! a million by two. Enlarged images and the box filter use `convolution.rs`, which has Pillow's
//! arithmetic. Nearest pixels are computed here, because Pillow accumulates their positions.
//!
//! A crop after resizing costs nothing, because only the part that is kept is computed. So an image
//! of 1 x 60,000 pixels whose shortest edge becomes 224 needs no memory for the whole result.

use std::ops::Range;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::vision::VisionError;
use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::convolution::{self, Edge};

/// A resampling filter of Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Nearest,
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
    Hamming,
}

impl Filter {
    /// All filters, in the order of Pillow's numbers.
    const ALL: [Self; 6] = [
        Self::Nearest,
        Self::Lanczos,
        Self::Bilinear,
        Self::Bicubic,
        Self::Box,
        Self::Hamming,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Lanczos => "lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Box => "box",
            Self::Hamming => "hamming",
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The filter for a name in the spelling of Pillow, torchvision or timm: `bicubic`,
    /// `PILImageResampling.BICUBIC`.
    fn from_name(name: &str) -> Option<Self> {
        let name = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
        let name = match name.as_str() {
            "linear" => "bilinear",
            "cubic" => "bicubic",
            "antialias" => "lanczos",
            name => name,
        };
        Self::ALL.into_iter().find(|filter| filter.name() == name)
    }

    /// The convolution, and its reach in source pixels without shrinking. `None` for the nearest
    /// pixel.
    fn kernel(self) -> Option<(FilterType, f64)> {
        match self {
            Self::Nearest => None,
            Self::Lanczos => Some((FilterType::Lanczos3, 3.0)),
            Self::Bilinear => Some((FilterType::Bilinear, 1.0)),
            Self::Bicubic => Some((FilterType::CatmullRom, 2.0)),
            Self::Box => Some((FilterType::Box, 0.5)),
            Self::Hamming => Some((FilterType::Hamming, 1.0)),
        }
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrName;
        impl Visitor<'_> for NumberOrName {
            type Value = Filter;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a filter: ")?;
                for (number, filter) in Filter::ALL.into_iter().enumerate() {
                    let comma = if number == 0 { "" } else { ", " };
                    write!(f, "{comma}{number} or {:?}", filter.name())?;
                }
                Ok(())
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Filter, E> {
                Filter::from_number(number)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Filter, E> {
                u64::try_from(number)
                    .ok()
                    .and_then(Filter::from_number)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Filter, E> {
                Filter::from_name(name).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }
        }
        deserializer.deserialize_any(NumberOrName)
    }
}

/// Rows of pixels with one or three bytes each.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    pub width: u32,
    pub height: u32,
    pub channels: usize,
    pub bytes: &'a [u8],
}

/// A part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

impl Part {
    /// All of an image of this size (width, height).
    pub(super) fn whole((width, height): (u32, u32)) -> Self {
        Self {
            left: 0,
            top: 0,
            width,
            height,
        }
    }
}

/// The settings for resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resampling {
    pub filter: Filter,
    /// Whether the filter grows when shrinking, as in Pillow. OpenCV's does not.
    pub antialias: bool,
}

/// Resizes an image to `size` (width, height) and returns a part of the result.
pub(super) fn resized_part(
    source: Pixels<'_>,
    size: (u32, u32),
    part: Part,
    resampling: Resampling,
) -> Result<Vec<u8>, VisionError> {
    if (source.width, source.height) == size {
        return copied(source, part);
    }
    let scale = |from: u32, to: u32| f64::from(from) / f64::from(to);
    let scale = (scale(source.width, size.0), scale(source.height, size.1));
    if resampling.filter.kernel().is_none() {
        return nearest(source, scale, part);
    }
    let rows = sources(source.height, size.1, part.top..part.top + part.height, resampling);
    let down = Edge {
        source: source.height,
        resized: size.1,
        wanted: part.top..part.top + part.height,
    };
    let all_columns = source.width == size.0 && part.left == 0 && part.width == source.width;
    if all_columns {
        return columns(source, 0, &down, resampling);
    }
    let across = Edge {
        source: source.width,
        resized: size.0,
        wanted: part.left..part.left + part.width,
    };
    let narrow = rows_of(source, rows.clone(), &across, resampling)?;
    if source.height == size.1 {
        return Ok(narrow);
    }
    let narrow = Pixels {
        width: part.width,
        height: rows.end - rows.start,
        channels: source.channels,
        bytes: &narrow,
    };
    columns(narrow, rows.start, &down, resampling)
}

/// The part of an image that decides a part of the image resized to `size`.
pub(super) fn source_of(source: (u32, u32), size: (u32, u32), part: Part, resampling: Resampling) -> Part {
    let across = sources(source.0, size.0, part.left..part.left + part.width, resampling);
    let down = sources(source.1, size.1, part.top..part.top + part.height, resampling);
    Part {
        left: across.start,
        top: down.start,
        width: across.end - across.start,
        height: down.end - down.start,
    }
}

/// The pixels of an edge that a pass reads for the wanted ones, and one more at each end for float
/// rounding.
fn sources(source: u32, resized: u32, wanted: Range<u32>, resampling: Resampling) -> Range<u32> {
    if source == resized {
        return wanted;
    }
    let scale = f64::from(source) / f64::from(resized);
    let reach = resampling.filter.kernel().map_or(0.0, |(_, reach)| reach);
    let reach = if resampling.antialias {
        reach * scale.max(1.0)
    } else {
        reach
    };
    let first = (f64::from(wanted.start) + 0.5) * scale - reach - 1.0;
    let last = (f64::from(wanted.end) - 0.5) * scale + reach + 1.0;
    first.floor().max(0.0) as u32..last.ceil().min(f64::from(source)) as u32
}

/// Whether to use the plain convolution: for enlarged edges, and for the box filter.
fn is_plain(edge: &Edge, filter: Filter) -> bool {
    edge.source != edge.resized && (edge.source < edge.resized || filter == Filter::Box)
}

/// Resizes along the rows.
fn rows_of(source: Pixels<'_>, rows: Range<u32>, edge: &Edge, resampling: Resampling) -> Result<Vec<u8>, VisionError> {
    if is_plain(edge, resampling.filter) {
        return convolution::across(source, rows, edge, resampling.filter);
    }
    let (width, height) = (edge.wanted.end - edge.wanted.start, rows.end - rows.start);
    let mut narrow = filled(0u8, byte_count(width, height, source.channels)?)?;
    let (left, crop_width) = stretch(edge, 0);
    let crop = Crop {
        left,
        top: rows.start.into(),
        width: crop_width,
        height: height.into(),
    };
    pass(source, &mut narrow, (width, height), crop, resampling)?;
    Ok(narrow)
}

/// Resizes along the columns. `source` begins with row `first_row` and has the part's width.
fn columns(source: Pixels<'_>, first_row: u32, edge: &Edge, resampling: Resampling) -> Result<Vec<u8>, VisionError> {
    if is_plain(edge, resampling.filter) {
        return convolution::down(source, first_row, edge, resampling.filter);
    }
    let height = edge.wanted.end - edge.wanted.start;
    let mut result = filled(0u8, byte_count(source.width, height, source.channels)?)?;
    let (top, crop_height) = stretch(edge, first_row);
    let crop = Crop {
        left: 0.0,
        top,
        width: source.width.into(),
        height: within(top, crop_height, source.height),
    };
    pass(source, &mut result, (source.width, height), crop, resampling)?;
    Ok(result)
}

/// The start (relative to `first`) and length of the source pixels for the wanted pixels.
fn stretch(edge: &Edge, first: u32) -> (f64, f64) {
    let scale = f64::from(edge.source) / f64::from(edge.resized);
    let start = (f64::from(edge.wanted.start) * scale - f64::from(first)).max(0.0);
    let length = f64::from(edge.wanted.end - edge.wanted.start) * scale;
    (start, within(start, length, edge.source - first))
}

/// Shortens the length so that it ends within the image even after rounding.
fn within(start: f64, length: f64, whole: u32) -> f64 {
    let whole = f64::from(whole);
    let mut length = length.min(whole - start);
    while start + length > whole {
        length = length.next_down();
    }
    length
}

struct Crop {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

fn pass(
    source: Pixels<'_>,
    result: &mut [u8],
    (width, height): (u32, u32),
    crop: Crop,
    resampling: Resampling,
) -> Result<(), VisionError> {
    let algorithm = match resampling.filter.kernel() {
        None => ResizeAlg::Nearest,
        Some((kernel, _)) if resampling.antialias => ResizeAlg::Convolution(kernel),
        Some((kernel, _)) => ResizeAlg::Interpolation(kernel),
    };
    let pixel = if source.channels == 1 {
        PixelType::U8
    } else {
        PixelType::U8x3
    };
    // The crate only refuses sizes that do not match the buffers, which are made here.
    let wrong = |problem: &dyn std::fmt::Display| VisionError::Shape {
        width: source.width,
        height: source.height,
        problem: format!("it cannot be resized to {width} x {height}: {problem}"),
    };
    let from = ImageRef::new(source.width, source.height, source.bytes, pixel).map_err(|error| wrong(&error))?;
    let mut to = Image::from_slice_u8(width, height, result, pixel).map_err(|error| wrong(&error))?;
    let options = ResizeOptions::new()
        .resize_alg(algorithm)
        .crop(crop.left, crop.top, crop.width, crop.height)
        .use_alpha(false);
    Resizer::new()
        .resize(&from, &mut to, &options)
        .map_err(|error| wrong(&error))
}

/// Copies a part of the image without resizing.
fn copied(source: Pixels<'_>, part: Part) -> Result<Vec<u8>, VisionError> {
    let mut result = reserved(byte_count(part.width, part.height, source.channels)?)?;
    let row_bytes = source.width as usize * source.channels;
    let rows = source.bytes.chunks_exact(row_bytes).skip(part.top as usize);
    for row in rows.take(part.height as usize) {
        let from = part.left as usize * source.channels;
        result.extend_from_slice(&row[from..from + part.width as usize * source.channels]);
    }
    Ok(result)
}

fn nearest(source: Pixels<'_>, scale: (f64, f64), part: Part) -> Result<Vec<u8>, VisionError> {
    let across = places(scale.0, part.left, part.width, source.width);
    let down = places(scale.1, part.top, part.height, source.height);
    let mut result = reserved(byte_count(part.width, part.height, source.channels)?)?;
    let row_bytes = source.width as usize * source.channels;
    for y in down {
        let row = &source.bytes[y * row_bytes..][..row_bytes];
        for &x in &across {
            result.extend_from_slice(&row[x * source.channels..][..source.channels]);
        }
    }
    Ok(result)
}

/// The source pixels for `count` pixels from `first` on, accumulated as in Pillow.
fn places(scale: f64, first: u32, count: u32, source: u32) -> Vec<usize> {
    let mut place = scale * 0.5;
    (0..first).for_each(|_| place += scale);
    let mut places = Vec::with_capacity(count as usize);
    for _ in 0..count {
        places.push((place as usize).min(source as usize - 1));
        place += scale;
    }
    places
}
