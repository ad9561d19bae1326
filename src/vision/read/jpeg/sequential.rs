//! Decodes the usual JPEG files, with the same pixels as Pillow: one sequential scan of 8 bits,
//! grey or YCbCr, with chroma of the full size, of half the width, or of half the width and height.
//!
//! Nearly all files of cameras, phones and libraries are of this kind. The decoder of `image`
//! reads the others. It takes half as long again, and its pixels differ by up to 24 levels from
//! those of libjpeg-turbo, which is in Pillow, OpenCV and browsers. This decoder has the
//! arithmetic of libjpeg-turbo.
//!
//! The steps of a model may need only a part of the picture. The decoder transforms only the blocks
//! of this part, and stops after its last row. The other pixels are black.
//!
//! Invariants:
//! - A file that is unusual or damaged is left to the other decoder, which has the messages.
//! - All buffers are allocated before decoding. Except for the pixels, they hold the compressed
//!   data and one row of MCUs.
//! - `fearless_simd` supplies the vector instructions, so the decoder needs no unsafe code.

use std::ops::Range;

use fearless_simd::Level;

use super::bits::{BitReader, ScanData};
use super::huffman::Block;
use super::tables::{ComponentTables, Quantization, Tables};
use super::{colour, transform, upsample};
use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::header::jpeg::{EOI, Jpeg};
use crate::vision::resample::Part;
use crate::vision::{Picture, VisionError};

/// The marker after the first restart interval. Eight markers take turns.
const RST0: u8 = 0xd0;

/// Decodes a part of a file with one scan; `None` if it is not one of the usual kind.
pub(super) fn read(level: Level, bytes: &[u8], jpeg: &Jpeg, needed: Part) -> Result<Option<Picture>, VisionError> {
    let Some(sampling) = sampling(jpeg) else {
        return Ok(None);
    };
    let Some((tables, components)) = Tables::read(bytes, jpeg) else {
        return Ok(None);
    };
    let mut data = ScanData::new(bytes, jpeg.first_data)?;
    let mut output = Output::new(level, jpeg, sampling, components, needed)?;
    let decoded = decode(&mut data, &tables, &mut output);
    Ok(decoded.map(|()| output.into_picture(jpeg)))
}

/// The blocks of luma in an MCU, across and down. Chroma has one block.
type Sampling = (usize, usize);

/// The sampling of a file whose pixels are grey or YCbCr.
fn sampling(jpeg: &Jpeg) -> Option<Sampling> {
    let factors = |index: usize| {
        let component = &jpeg.components[index];
        (usize::from(component.horizontal), usize::from(component.vertical))
    };
    let ids: Vec<u8> = jpeg.components.iter().map(|component| component.id).collect();
    match ids.len() {
        _ if jpeg.progressive => None,
        // The factors of a single component mean nothing.
        1 => Some((1, 1)),
        3 if matches!(jpeg.adobe, None | Some(1)) && ids != *b"RGB" => {
            let is_usual = matches!(factors(0), (1 | 2, 1) | (2, 2)) && factors(1) == (1, 1) && factors(2) == (1, 1);
            is_usual.then(|| factors(0))
        }
        _ => None,
    }
}

fn decode(data: &mut ScanData<'_>, tables: &Tables, output: &mut Output) -> Option<()> {
    let across = output.mcus.across;
    let all = across * output.mcus.down;
    let last = across * output.mcus.rows.end;
    let interval = match tables.restart_interval {
        0 => all,
        interval => interval,
    };
    let (mut mcu, mut marker) = (0, RST0);
    while mcu < last {
        let end = all.min(mcu + interval);
        let expected = if end == all { EOI } else { marker };
        if data.read_interval()? != expected {
            return None;
        }
        let mut bits = data.bits();
        output.planes.iter_mut().for_each(|plane| plane.prediction = 0);
        while mcu < end.min(last) {
            let (row, column) = (mcu / across, mcu % across);
            output.read_mcu(&mut bits, tables, row, column)?;
            mcu += 1;
            if column + 1 == across {
                if bits.is_overrun() {
                    return None;
                }
                output.write_rows(row);
            }
        }
        if bits.is_overrun() {
            return None;
        }
        marker = RST0 | ((marker + 1) & 7);
    }
    Some(())
}

/// The MCUs of a picture.
struct Mcus {
    /// The numbers of MCUs.
    across: usize,
    down: usize,
    /// The MCUs that are needed.
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Mcus {
    fn new((width, height): (usize, usize), sampling: Sampling, columns: &Range<usize>, rows: &Range<usize>) -> Self {
        let (across, down) = (width.div_ceil(8 * sampling.0), height.div_ceil(8 * sampling.1));
        // Upsampling needs a sample of chroma on each side.
        let needed = |pixels: &Range<usize>, factor: usize, count: usize| {
            let first = pixels.start.saturating_sub(factor) / (8 * factor);
            first..(pixels.end + factor).div_ceil(8 * factor).min(count)
        };
        Self {
            columns: needed(columns, sampling.0, across),
            rows: needed(rows, sampling.1, down),
            across,
            down,
        }
    }
}

/// The samples of a component in one row of MCUs, after the last row of samples above it.
struct Plane {
    /// The blocks of an MCU, across and down.
    blocks: Sampling,
    factors: Quantization,
    /// The numbers of the Huffman tables.
    dc: usize,
    ac: usize,
    /// The first coefficient of the last block.
    prediction: i32,
    /// The samples that the picture needs.
    width: usize,
    height: usize,
    stride: usize,
    samples: Vec<u8>,
}

impl Plane {
    /// A row of samples, by its number in the picture. The strip begins with row `first`.
    fn row(&self, first: usize, row: usize) -> &[u8] {
        &self.samples[(row + 1 - first) * self.stride..][..self.stride]
    }

    /// Keeps the last row of samples for the next row of MCUs.
    fn advance(&mut self) {
        let last = self.samples.len() - self.stride;
        self.samples.copy_within(last.., 0);
    }
}

/// Upsamples the chroma of a row of pixels.
struct Upsampler {
    level: Level,
    sampling: Sampling,
    /// The samples across that are upsampled.
    samples: Range<usize>,
    /// The sums of two rows.
    sums: Vec<u16>,
}

impl Upsampler {
    /// The chroma of row `row`. The strip of the plane begins with its row `first`.
    fn row<'a>(&mut self, plane: &'a Plane, first: usize, row: usize, pixels: &'a mut [u8]) -> &'a [u8] {
        let nearest = row / self.sampling.1;
        let near = &plane.row(first, nearest)[self.samples.clone()];
        match self.sampling {
            (1, _) => return near,
            // libjpeg-turbo does not blend such narrow pictures.
            _ if plane.width <= 2 => upsample::repeat(near, pixels),
            (_, 1) => upsample::widen_row(self.level, near, pixels),
            _ => {
                let farther = if row.is_multiple_of(2) {
                    nearest.saturating_sub(1)
                } else {
                    (nearest + 1).min(plane.height - 1)
                };
                let far = &plane.row(first, farther)[self.samples.clone()];
                upsample::blend_rows(self.level, near, far, &mut self.sums);
                upsample::widen_sums(self.level, &self.sums, pixels);
            }
        }
        pixels
    }
}

struct Output {
    level: Level,
    height: usize,
    sampling: Sampling,
    mcus: Mcus,
    /// The pixels across that are made: those of the needed MCUs.
    columns: Range<usize>,
    /// The rows of pixels that are made: those that are needed.
    rows: Range<usize>,
    planes: Vec<Plane>,
    block: Block,
    upsampler: Upsampler,
    chroma: [Vec<u8>; 2],
    /// A row of pixels, and all rows so far.
    row: Vec<u8>,
    rgb: Vec<u8>,
}

impl Output {
    fn new(
        level: Level,
        jpeg: &Jpeg,
        sampling: Sampling,
        components: Vec<ComponentTables>,
        needed: Part,
    ) -> Result<Self, VisionError> {
        let (width, height) = (usize::from(jpeg.width), usize::from(jpeg.height));
        let range = |start: u32, length: u32| start as usize..(start + length) as usize;
        let rows = range(needed.top, needed.height);
        let mcus = Mcus::new((width, height), sampling, &range(needed.left, needed.width), &rows);
        let columns = mcus.columns.start * 8 * sampling.0..width.min(mcus.columns.end * 8 * sampling.0);
        let samples = columns.start / sampling.0..columns.end.div_ceil(sampling.0);
        let plane = |(index, tables): (usize, ComponentTables)| {
            let blocks = if index == 0 { sampling } else { (1, 1) };
            let stride = mcus.across * blocks.0 * 8;
            Ok(Plane {
                blocks,
                factors: tables.quantization,
                dc: tables.dc,
                ac: tables.ac,
                prediction: 0,
                width: (width * blocks.0).div_ceil(sampling.0),
                height: (height * blocks.1).div_ceil(sampling.1),
                stride,
                samples: filled(0, stride * (1 + blocks.1 * 8))?,
            })
        };
        let planes: Vec<Plane> = components
            .into_iter()
            .enumerate()
            .map(plane)
            .collect::<Result<_, _>>()?;
        let chroma = if planes.len() > 1 { samples.len() } else { 0 };
        let mut rgb = reserved(byte_count(jpeg.width.into(), jpeg.height.into(), 3)?)?;
        rgb.resize(3 * width * rows.start, 0);
        Ok(Self {
            level,
            height,
            sampling,
            mcus,
            columns,
            rows,
            planes,
            block: [0; 128],
            chroma: [filled(0, 2 * chroma)?, filled(0, 2 * chroma)?],
            upsampler: Upsampler {
                level,
                sampling,
                samples,
                sums: filled(0, chroma)?,
            },
            row: filled(0, 3 * width)?,
            rgb,
        })
    }

    /// Decodes the blocks of an MCU.
    fn read_mcu(&mut self, bits: &mut BitReader<'_>, tables: &Tables, row: usize, column: usize) -> Option<()> {
        let is_needed = self.mcus.rows.contains(&row) && self.mcus.columns.contains(&column);
        for plane in &mut self.planes {
            let (dc, ac) = (tables.dc(plane.dc)?, tables.ac(plane.ac)?);
            for down in 0..plane.blocks.1 {
                for across in 0..plane.blocks.0 {
                    if !is_needed {
                        bits.read_block(dc, ac, &mut plane.prediction, &mut self.block)?;
                        continue;
                    }
                    self.block[..64].fill(0);
                    let last = bits.read_block(dc, ac, &mut plane.prediction, &mut self.block)?;
                    let at = (1 + down * 8) * plane.stride + (column * plane.blocks.0 + across) * 8;
                    let samples = &mut plane.samples[at..];
                    if last == 0 {
                        let first = self.block[0].wrapping_mul(plane.factors[0]);
                        transform::inverse_of_flat(first, samples, plane.stride);
                    } else {
                        transform::inverse(self.level, &self.block, &plane.factors, samples, plane.stride);
                    }
                }
            }
        }
        Some(())
    }

    /// Writes the pixels that can be made after this row of MCUs. Where chroma has half the height,
    /// the last row of pixels needs the next row of MCUs.
    fn write_rows(&mut self, mcu_row: usize) {
        let first = mcu_row * 8 * self.sampling.1;
        let delay = self.sampling.1 - 1;
        let end = if mcu_row + 1 == self.mcus.down {
            self.height
        } else {
            first + 8 * self.sampling.1 - delay
        };
        for row in self.rows.start.max(first.saturating_sub(delay))..self.rows.end.min(end) {
            self.write_row(row, first);
        }
        self.planes.iter_mut().for_each(Plane::advance);
    }

    fn write_row(&mut self, row: usize, first: usize) {
        let luma = &self.planes[0].row(first, row)[self.columns.clone()];
        let pixels = &mut self.row[3 * self.columns.start..3 * self.columns.end];
        if let [blue, red] = &self.planes[1..] {
            let first = first / self.sampling.1;
            let [cb, cr] = &mut self.chroma;
            let cb = self.upsampler.row(blue, first, row, cb);
            let cr = self.upsampler.row(red, first, row, cr);
            colour::convert(self.level, luma, cb, cr, pixels);
        } else {
            for (pixel, level) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
                *pixel = [*level; 3];
            }
        }
        self.rgb.extend_from_slice(&self.row);
    }

    fn into_picture(mut self, jpeg: &Jpeg) -> Picture {
        self.rgb.resize(self.row.len() * self.height, 0);
        Picture {
            width: jpeg.width.into(),
            height: jpeg.height.into(),
            rgb: self.rgb,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use crate::vision::tests::{bytes_of, fixture, json};

    fn decoded(level: Level, bytes: &[u8]) -> Option<Picture> {
        let jpeg = Jpeg::parse(bytes).unwrap();
        let whole = Part::whole((jpeg.width.into(), jpeg.height.into()));
        read(level, bytes, &jpeg, whole).unwrap()
    }

    #[test]
    fn pixels_of_usual_files_are_those_of_pillow_at_every_level() {
        let expected = json("reading.json");
        for name in [
            "420",
            "422",
            "444",
            "grey",
            "large-420",
            "orientation-1",
            "trailing-bytes",
        ] {
            let name = format!("{name}.jpg");
            let bytes = std::fs::read(fixture("pictures").join(&name)).unwrap();
            for level in levels() {
                let picture = decoded(level, &bytes).expect(&name);
                assert!(picture.rgb == bytes_of(&expected[&name]["rgb"]), "{name}, {level:?}");
            }
        }
    }

    #[test]
    fn a_part_has_the_pixels_of_the_whole() {
        for name in ["420", "422", "444", "grey", "large-420", "restarts"] {
            let bytes = std::fs::read(fixture("pictures").join(format!("{name}.jpg"))).unwrap();
            let jpeg = Jpeg::parse(&bytes).unwrap();
            let whole = decoded(Level::new(), &bytes).unwrap();
            let (width, height) = (whole.width, whole.height);
            let lefts = (0..width).step_by(3);
            for (left, top) in lefts.flat_map(|left| (0..height).step_by(3).map(move |top| (left, top))) {
                let part = Part {
                    left,
                    top,
                    width: (width - left).div_ceil(2),
                    height: (height - top).div_ceil(3),
                };
                let partial = read(Level::new(), &bytes, &jpeg, part).unwrap().expect(name);
                assert_eq!(partial.rgb.len(), whole.rgb.len());
                for row in top..top + part.height {
                    let at = 3 * (row * width + left) as usize..3 * (row * width + left + part.width) as usize;
                    assert!(partial.rgb[at.clone()] == whole.rgb[at], "{name}, {part:?}, row {row}");
                }
            }
        }
    }

    #[test]
    fn leaves_other_files_to_the_other_decoder() {
        for name in [
            "progressive",
            "grey-progressive",
            "keep-rgb",
            "adobe-rgb",
            "cmyk",
            "ycck",
        ] {
            let bytes = std::fs::read(fixture("pictures").join(format!("{name}.jpg"))).unwrap();
            assert!(decoded(Level::new(), &bytes).is_none(), "{name}");
        }
    }
}
