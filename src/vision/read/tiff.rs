//! Decodes the first image of TIFF files.

mod jpeg;
mod palette;
mod samples;

use std::borrow::Cow;
use std::io::Cursor;

use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::{CompressionMethod, ExtraSamples, PhotometricInterpretation, SampleFormat, Tag};
use tiff::{ColorType, TiffError};

use self::palette::{as_grey, colour_map};
use self::samples::{divide_by_alpha, interleaved, rgb_of_cmyk, unpacked};
use super::{cause_of, rgb_of};
use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::header::Header;
use crate::vision::orientation::Orientation;
use crate::vision::{Picture, PictureFormat, VisionError};

const FORMAT: PictureFormat = PictureFormat::Tiff;

type Source<'a> = Decoder<Cursor<Cow<'a, [u8]>>>;

/// The meaning of the samples of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Samples {
    /// One grey sample with this number of bits, and others that are ignored.
    Grey {
        bits: u8,
        samples: usize,
    },
    /// Indices with this number of bits into the colour map.
    Palette {
        bits: u8,
    },
    /// Grey levels as floats: 0 is black and 255 is white, as in Pillow.
    Float,
    /// Red, green and blue come first, with one or two bytes each.
    Colour {
        bytes: usize,
        samples: usize,
    },
    /// Colours premultiplied by the alpha after them.
    Premultiplied,
    Cmyk {
        bytes: usize,
        samples: usize,
    },
    /// JPEG files, one for each strip or tile.
    Jpeg {
        is_rgb: bool,
    },
}

/// An opened file, before its pixels are read.
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
        // The file is copied.
        Samples::Palette { .. } => 4,
        Samples::Float => 7,
        Samples::Colour { bytes, samples } | Samples::Cmyk { bytes, samples } => (bytes * samples) as u64,
        Samples::Premultiplied => 4,
        // The pixels of the image, and of a strip with its coefficients.
        Samples::Jpeg { .. } => 8,
    };
    let copied = if matches!(samples, Samples::Palette { .. } | Samples::Jpeg { .. }) {
        bytes.len() as u64
    } else {
        0
    };
    Ok(Header {
        width,
        height,
        orientation: Orientation::from_number(orientation.unwrap_or(1)),
        // The samples, and a strip or tile of them a second time.
        decoding: pixels.saturating_mul(decoded).saturating_mul(2).saturating_add(copied),
    })
}

/// Decodes the image.
pub(super) fn read(bytes: &[u8]) -> Result<Picture, VisionError> {
    let Opened {
        mut decoder,
        width,
        height,
        samples,
    } = open(bytes)?;
    if let Samples::Jpeg { is_rgb } = samples {
        return jpeg::read(&mut decoder, bytes, (width, height), is_rgb);
    }
    let planar = decoder.image_buffer_layout().map_err(|error| cause(&error))?;
    let row_bytes = planar.row_stride.map_or(0, |bytes| bytes.get());
    // Twice the maximum of eight bytes per pixel.
    let bound = byte_count(width, height, 16)?;
    if planar.complete_len > bound {
        return Err(VisionError::malformed(
            FORMAT,
            "the samples do not match the image size",
        ));
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
            // The largest value is white, as in Pillow.
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
            let mut rgb = reserved(byte_count(width, height, 3)?)?;
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
        // Handled above.
        Samples::Jpeg { .. } => Ok(data),
    }?;
    if rgb.len() != byte_count(width, height, 3)? {
        return Err(VisionError::malformed(
            FORMAT,
            "the samples do not match the image size",
        ));
    }
    Ok(Picture { width, height, rgb })
}

/// Opens the file and determines the meaning of its samples.
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
    let compression: u16 = decoder
        .find_tag_unsigned(Tag::Compression)
        .map_err(|error| cause(&error))?
        .unwrap_or(1);
    let samples = if CompressionMethod::from_u16_exhaustive(compression) == CompressionMethod::ModernJPEG {
        jpeg::check(&mut decoder, photometric)?
    } else if photometric == Some(PhotometricInterpretation::RGBPalette) {
        // The decoder does not support palettes, so let it read the indices as grey levels.
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
        meaning(&mut decoder)?
    };
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
    // No chunk has more bytes than the file. The pixel buffer is allocated in this module.
    limits.intermediate_buffer_size = bytes.len();
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(|error| cause(&error))?;
    Ok(decoder.with_limits(limits))
}

fn meaning(decoder: &mut Source<'_>) -> Result<Samples, VisionError> {
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

/// Refuses tiles that are much larger than the image, because most of their pixels would be
/// decoded in vain.
fn check_chunks(decoder: &Source<'_>, width: u32, height: u32) -> Result<(), VisionError> {
    const SLACK: u64 = 1 << 26;
    if decoder.get_chunk_type() == ChunkType::Strip {
        return Ok(());
    }
    let (across, down) = decoder.chunk_dimensions();
    let padded = |size: u32, chunk: u32| u64::from(size).next_multiple_of(u64::from(chunk.max(1)));
    let pixels = u64::from(width) * u64::from(height);
    let decoded = padded(width, across).saturating_mul(padded(height, down));
    if decoded > pixels.saturating_mul(2).saturating_add(SLACK) {
        let problem = format!("it has {width} x {height} pixels in tiles of {across} x {down}");
        return Err(VisionError::malformed(FORMAT, problem));
    }
    Ok(())
}

fn sample_bytes(samples: Samples) -> usize {
    match samples {
        Samples::Grey { bits, .. } => usize::from(bits).div_ceil(8),
        Samples::Palette { .. } | Samples::Premultiplied => 1,
        Samples::Float => 4,
        Samples::Colour { bytes, .. } | Samples::Cmyk { bytes, .. } => bytes,
        Samples::Jpeg { .. } => 1,
    }
}

fn cause(error: &TiffError) -> VisionError {
    match error {
        TiffError::UnsupportedError(feature) => VisionError::unsupported(FORMAT, feature.to_string()),
        TiffError::LimitsExceeded => VisionError::malformed(FORMAT, "it needs more memory than its size indicates"),
        TiffError::IoError(error) => cause_of(FORMAT, error),
        TiffError::FormatError(_) | TiffError::IntSizeError | TiffError::UsageError(_) => cause_of(FORMAT, error),
    }
}
