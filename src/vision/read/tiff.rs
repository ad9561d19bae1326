//! The first picture of TIFF files.

use std::borrow::Cow;
use std::io::Cursor;

use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::{CompressionMethod, ExtraSamples, PhotometricInterpretation, SampleFormat, Tag};
use tiff::{ColorType, TiffError};

use super::{cause_of, rgb_of};
use crate::vision::header::Header;
use crate::vision::orientation::Orientation;
use crate::vision::room::{byte_count, filled, room_for};
use crate::vision::{Picture, PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Tiff;

type Source<'a> = Decoder<Cursor<Cow<'a, [u8]>>>;

/// The meaning of the samples of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Samples {
    /// One sample of so many bits, and others that do not count.
    Grey {
        bits: u8,
        samples: usize,
    },
    /// Indices of so many bits into the colour map.
    Palette {
        bits: u8,
    },
    /// Grey levels as floats: 0 is black and 255 white, as in Pillow.
    Float,
    /// Red, green and blue in front, of one or two bytes.
    Colour {
        bytes: usize,
        samples: usize,
    },
    /// Colours that are multiplied by the alpha behind them.
    Premultiplied,
    Cmyk {
        bytes: usize,
        samples: usize,
    },
}

/// A file as far as it is known before its pixels are read.
struct Opened<'a> {
    decoder: Source<'a>,
    width: u32,
    height: u32,
    samples: Samples,
}

/// Reads the header.
pub(in crate::vision) fn header(bytes: &[u8]) -> Result<Header, VisionError> {
    let Opened {
        mut decoder,
        width,
        height,
        samples,
    } = open(bytes)?;
    let orientation = decoder.find_tag_unsigned(Tag::Orientation).ok().flatten();
    let pixels = u64::from(width) * u64::from(height);
    let decoded = match samples {
        Samples::Grey { bits, samples } => 3 + samples as u64 * u64::from(bits).div_ceil(8),
        // A copy of the file is made.
        Samples::Palette { .. } => 4,
        Samples::Float => 7,
        Samples::Colour { bytes, samples } | Samples::Cmyk { bytes, samples } => (bytes * samples) as u64,
        Samples::Premultiplied => 4,
    };
    let copied = if matches!(samples, Samples::Palette { .. }) {
        bytes.len() as u64
    } else {
        0
    };
    Ok(Header {
        width,
        height,
        orientation: Orientation::from_number(orientation.unwrap_or(1)),
        // The samples, and once more a strip or tile of them.
        decoding: pixels.saturating_mul(decoded).saturating_mul(2).saturating_add(copied),
    })
}

/// Reads the picture.
pub(super) fn read(bytes: &[u8]) -> Result<Picture, VisionError> {
    let Opened {
        mut decoder,
        width,
        height,
        samples,
    } = open(bytes)?;
    let planar = decoder.image_buffer_layout().map_err(|error| cause(&error))?;
    let row_bytes = planar.row_stride.map_or(0, |bytes| bytes.get());
    // Twice the bound of a picture's bytes: eight bytes a pixel are the most that is read.
    let bound = byte_count(width, height, 16)?;
    if planar.complete_len > bound {
        return Err(VisionError::malformed(FORMAT, "its samples do not fit its sizes"));
    }
    let mut data = filled(0u8, planar.complete_len)?;
    decoder.read_image_bytes(&mut data).map_err(|error| cause(&error))?;
    let plane_bytes = planar.plane_stride.map_or(0, |bytes| bytes.get());
    if planar.planes > 1 {
        data = interleaved(&data, plane_bytes, planar.planes, sample_bytes(samples))?;
    }
    let rgb = match samples {
        Samples::Grey { bits: 8, samples } => rgb_of(data, samples, 1),
        Samples::Grey { bits: 16, samples } => rgb_of(data, samples, 2),
        Samples::Grey { bits, .. } => {
            // As Pillow: the largest value is white.
            let scale = 255 / ((1u16 << bits) - 1) as u8;
            rgb_of(
                unpacked(&data, row_bytes, width, bits)?
                    .into_iter()
                    .map(|level| level * scale)
                    .collect(),
                1,
                1,
            )
        }
        Samples::Palette { bits } => {
            let map = colour_map(&mut decoder, bits)?;
            let indices = if bits == 8 {
                data
            } else {
                unpacked(&data, row_bytes, width, bits)?
            };
            let mut rgb = room_for(byte_count(width, height, 3)?)?;
            indices
                .iter()
                .for_each(|&index| rgb.extend_from_slice(&map[usize::from(index)]));
            Ok(rgb)
        }
        Samples::Float => {
            let levels = data
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&level| f32::from_ne_bytes(level) as u8);
            rgb_of(levels.collect(), 1, 1)
        }
        Samples::Colour { bytes, samples } => rgb_of(data, samples, bytes),
        Samples::Premultiplied => {
            divide_by_alpha(&mut data);
            rgb_of(data, 4, 1)
        }
        Samples::Cmyk { bytes, samples } => Ok(rgb_of_cmyk(data, samples, bytes)),
    }?;
    if rgb.len() != byte_count(width, height, 3)? {
        return Err(VisionError::malformed(FORMAT, "its samples do not fit its sizes"));
    }
    Ok(Picture { width, height, rgb })
}

/// Opens the file and decides what its samples mean.
fn open(bytes: &[u8]) -> Result<Opened<'_>, VisionError> {
    let mut decoder = decoder(Cow::Borrowed(bytes))?;
    let photometric = decoder
        .find_tag_unsigned::<u16>(Tag::PhotometricInterpretation)
        .map_err(|error| cause(&error))?
        .and_then(PhotometricInterpretation::from_u16);
    let bits: Vec<u8> = decoder
        .find_tag_unsigned_vec(Tag::BitsPerSample)
        .map_err(|error| cause(&error))?
        .unwrap_or_else(|| vec![1]);
    let samples = if photometric == Some(PhotometricInterpretation::RGBPalette) {
        // The decoder reads no palettes; to it the indices are levels of grey.
        decoder = self::decoder(Cow::Owned(as_grey(bytes)?))?;
        match bits[..] {
            [bits @ (1 | 2 | 4 | 8)] => Samples::Palette { bits },
            _ => {
                return Err(VisionError::unsupported(
                    FORMAT,
                    format!("a palette with {bits:?} bits"),
                ));
            }
        }
    } else {
        samples(&mut decoder)?
    };
    let compression: u16 = decoder
        .find_tag_unsigned(Tag::Compression)
        .map_err(|error| cause(&error))?
        .unwrap_or(1);
    if matches!(
        CompressionMethod::from_u16_exhaustive(compression),
        CompressionMethod::JPEG | CompressionMethod::ModernJPEG
    ) {
        // Each strip is a JPEG file with sizes of its own, which the decoder believes.
        return Err(VisionError::unsupported(FORMAT, "JPEG compression"));
    }
    let (width, height) = decoder.dimensions().map_err(|error| cause(&error))?;
    check_chunks(&decoder, width, height)?;
    Ok(Opened {
        decoder,
        width,
        height,
        samples,
    })
}

fn decoder(bytes: Cow<'_, [u8]>) -> Result<Source<'_>, VisionError> {
    let mut limits = Limits::default();
    // No chunk has more bytes than the file; the buffer of pixels is made here.
    limits.intermediate_buffer_size = bytes.len();
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(|error| cause(&error))?;
    Ok(decoder.with_limits(limits))
}

fn samples(decoder: &mut Source<'_>) -> Result<Samples, VisionError> {
    let colour = decoder.colortype().map_err(|error| cause(&error))?;
    let formats: Vec<u16> = decoder
        .find_tag_unsigned_vec(Tag::SampleFormat)
        .map_err(|error| cause(&error))?
        .unwrap_or_default();
    let format = formats
        .first()
        .map_or(SampleFormat::Uint, |&format| SampleFormat::from_u16_exhaustive(format));
    let extra: Vec<u16> = decoder
        .find_tag_unsigned_vec(Tag::ExtraSamples)
        .map_err(|error| cause(&error))?
        .unwrap_or_default();
    let premultiplied = extra.first() == Some(&ExtraSamples::AssociatedAlpha.to_u16());
    let bytes = |bits: u8| usize::from(bits / 8);
    match (colour, format) {
        (ColorType::Gray(bits @ (1 | 2 | 4 | 8 | 16)), SampleFormat::Uint) => Ok(Samples::Grey { bits, samples: 1 }),
        (ColorType::Gray(32), SampleFormat::IEEEFP) => Ok(Samples::Float),
        (
            ColorType::Multiband {
                bit_depth: bits @ (8 | 16),
                num_samples: samples @ 2,
            },
            SampleFormat::Uint,
        ) => Ok(Samples::Grey {
            bits,
            samples: samples.into(),
        }),
        (ColorType::RGBA(8), SampleFormat::Uint) if premultiplied => Ok(Samples::Premultiplied),
        (ColorType::RGB(bits @ (8 | 16)), SampleFormat::Uint) => Ok(Samples::Colour {
            bytes: bytes(bits),
            samples: 3,
        }),
        (ColorType::RGBA(bits @ (8 | 16)), SampleFormat::Uint) => Ok(Samples::Colour {
            bytes: bytes(bits),
            samples: 4,
        }),
        (ColorType::CMYK(bits @ (8 | 16)), SampleFormat::Uint) => Ok(Samples::Cmyk {
            bytes: bytes(bits),
            samples: 4,
        }),
        (ColorType::CMYKA(bits @ (8 | 16)), SampleFormat::Uint) => Ok(Samples::Cmyk {
            bytes: bytes(bits),
            samples: 5,
        }),
        (colour, format) => Err(VisionError::unsupported(
            FORMAT,
            format!("samples of {colour:?} as {format:?}"),
        )),
    }
}

/// Refuses tiles that are much larger than the picture, which would be decoded only to be cut off.
fn check_chunks(decoder: &Source<'_>, width: u32, height: u32) -> Result<(), VisionError> {
    const SPARE: u64 = 1 << 26;
    if decoder.get_chunk_type() == ChunkType::Strip {
        return Ok(());
    }
    let (across, down) = decoder.chunk_dimensions();
    let padded = |size: u32, chunk: u32| u64::from(size).next_multiple_of(u64::from(chunk.max(1)));
    let pixels = u64::from(width) * u64::from(height);
    let decoded = padded(width, across).saturating_mul(padded(height, down));
    if decoded > pixels.saturating_mul(2).saturating_add(SPARE) {
        let problem = format!("it has {width} x {height} pixels in tiles of {across} x {down}");
        return Err(VisionError::malformed(FORMAT, problem));
    }
    Ok(())
}

/// The file with its pixels declared as levels of grey.
fn as_grey(bytes: &[u8]) -> Result<Vec<u8>, VisionError> {
    let not_found = || VisionError::malformed(FORMAT, "its directory cannot be read");
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
    let mut grey: Vec<u8> = room_for(bytes.len())?;
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

/// The colours of a palette; of their 16 bits the higher eight count.
fn colour_map(decoder: &mut Source<'_>, bits: u8) -> Result<[[u8; 3]; 256], VisionError> {
    let map: Vec<u16> = decoder
        .find_tag_unsigned_vec(Tag::ColorMap)
        .map_err(|error| cause(&error))?
        .unwrap_or_default();
    let count = 1usize << bits;
    if map.len() < 3 * count {
        return Err(VisionError::malformed(FORMAT, "its colour map is too short"));
    }
    let mut colours = [[0; 3]; 256];
    for (index, colour) in colours.iter_mut().enumerate().take(count) {
        *colour = [0, 1, 2].map(|channel| (map[channel * count + index] >> 8) as u8);
    }
    Ok(colours)
}

fn sample_bytes(samples: Samples) -> usize {
    match samples {
        Samples::Grey { bits, .. } => usize::from(bits).div_ceil(8),
        Samples::Palette { .. } | Samples::Premultiplied => 1,
        Samples::Float => 4,
        Samples::Colour { bytes, .. } | Samples::Cmyk { bytes, .. } => bytes,
    }
}

/// Pixels whose samples come one after another, from planes of single samples.
fn interleaved(data: &[u8], plane_bytes: usize, planes: usize, sample_bytes: usize) -> Result<Vec<u8>, VisionError> {
    let mut pixels = room_for(plane_bytes * planes)?;
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

/// One byte for each sample of fewer than eight bits, the first in the highest bits.
fn unpacked(data: &[u8], row_bytes: usize, width: u32, bits: u8) -> Result<Vec<u8>, VisionError> {
    let width = width as usize;
    let in_byte = usize::from(8 / bits);
    let mask = ((1u16 << bits) - 1) as u8;
    let rows = data.chunks_exact(row_bytes.max(1));
    let mut samples = room_for(rows.len() * width)?;
    for row in rows {
        for x in 0..width {
            let Some(byte) = row.get(x / in_byte) else {
                return Err(VisionError::malformed(FORMAT, "its rows are too short"));
            };
            let shift = 8 - usize::from(bits) * (x % in_byte + 1);
            samples.push(byte >> shift & mask);
        }
    }
    Ok(samples)
}

/// Undoes the multiplication of colours by alpha, rounding as Pillow does.
fn divide_by_alpha(pixels: &mut [u8]) {
    for [red, green, blue, alpha] in pixels.as_chunks_mut::<4>().0 {
        let divide = |level: u8| match *alpha {
            0 => 0,
            255 => level,
            alpha => (u32::from(level) * 255 / u32::from(alpha)).min(255) as u8,
        };
        (*red, *green, *blue) = (divide(*red), divide(*green), divide(*blue));
    }
}

/// The colours that Pillow makes of inks: 255 is full ink.
fn rgb_of_cmyk(mut data: Vec<u8>, samples: usize, sample_bytes: usize) -> Vec<u8> {
    let pixel_bytes = samples * sample_bytes;
    let pixels = data.len() / pixel_bytes;
    for pixel in 0..pixels {
        let from = pixel * pixel_bytes + sample_bytes - 1;
        let [cyan, magenta, yellow, black] = [0, 1, 2, 3].map(|ink| data[from + ink * sample_bytes]);
        let light = u32::from(255 - black);
        let colour = [cyan, magenta, yellow].map(|ink| {
            let product = u32::from(ink) * light + 128;
            (light - (product + (product >> 8) >> 8)) as u8
        });
        data[pixel * 3..][..3].copy_from_slice(&colour);
    }
    data.truncate(pixels * 3);
    data
}

fn cause(error: &TiffError) -> VisionError {
    match error {
        TiffError::UnsupportedError(feature) => VisionError::unsupported(FORMAT, feature.to_string()),
        TiffError::LimitsExceeded => VisionError::malformed(FORMAT, "it needs more memory than its sizes say"),
        TiffError::IoError(error) => cause_of(FORMAT, error),
        TiffError::FormatError(_) | TiffError::IntSizeError | TiffError::UsageError(_) => cause_of(FORMAT, error),
    }
}
