//! Decodes the usual JPEG files, with the same pixels as Pillow: one sequential scan of 8 bits,
//! grey or YCbCr, with chroma of the full size, of half the width, or of half the width and height.
//!
//! Nearly all files of cameras, phones and libraries are of this kind. The decoder of `image`
//! reads the others. It takes half as long again, and its pixels differ by up to 24 levels from
//! those of libjpeg-turbo, which is in Pillow, OpenCV and browsers. This decoder has the
//! arithmetic of libjpeg-turbo.
//!
//! Invariants:
//! - A file that is unusual or damaged is left to the other decoder, which has the messages.
//! - All buffers are allocated before decoding. Except for the pixels, they hold the compressed
//!   data and one row of MCUs.
//! - The vector instructions come from `fearless_simd`, so there is no unsafe code.

use fearless_simd::Level;

use super::bits::{BitReader, ScanData};
use super::huffman::Block;
use super::tables::{ComponentTables, Quantization, Tables};
use super::{colour, transform, upsample};
use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::header::jpeg::{EOI, Jpeg};
use crate::vision::{Picture, VisionError};

/// The marker after the first restart interval. There are eight in turn.
const RST0: u8 = 0xd0;

/// Decodes a file with one scan; `None` if it is not one of the usual kind.
pub(super) fn read(level: Level, bytes: &[u8], jpeg: &Jpeg) -> Result<Option<Picture>, VisionError> {
    let Some(sampling) = sampling(jpeg) else {
        return Ok(None);
    };
    let Some((tables, components)) = Tables::read(bytes, jpeg) else {
        return Ok(None);
    };
    let mut data = ScanData::new(bytes, jpeg.first_data)?;
    let mut output = Output::new(level, jpeg, sampling, components)?;
    let decoded = decode(&mut data, &tables, &mut output);
    Ok(decoded.map(|()| Picture {
        width: jpeg.width.into(),
        height: jpeg.height.into(),
        rgb: output.rgb,
    }))
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
    let interval = tables.restart_interval;
    let all = output.across * output.down;
    let (mut mcu, mut marker) = (0, RST0);
    loop {
        let end = if interval == 0 { all } else { all.min(mcu + interval) };
        let found = data.read_interval()?;
        if found != if end == all { EOI } else { marker } {
            return None;
        }
        let mut bits = data.bits();
        output.planes.iter_mut().for_each(|plane| plane.prediction = 0);
        while mcu < end {
            output.read_mcu(&mut bits, tables, mcu % output.across)?;
            mcu += 1;
            if mcu.is_multiple_of(output.across) {
                if bits.is_overrun() {
                    return None;
                }
                output.write_rows(mcu / output.across - 1);
            }
        }
        if bits.is_overrun() {
            return None;
        }
        if mcu == all {
            return Some(());
        }
        marker = RST0 | ((marker + 1) & 7);
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

struct Output {
    level: Level,
    width: usize,
    height: usize,
    sampling: Sampling,
    /// The numbers of MCUs.
    across: usize,
    down: usize,
    planes: Vec<Plane>,
    block: Block,
    /// Rows of chroma: the sums of two rows, and the upsampled rows.
    sums: Vec<u16>,
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
    ) -> Result<Self, VisionError> {
        let (width, height) = (usize::from(jpeg.width), usize::from(jpeg.height));
        let (across, down) = (width.div_ceil(8 * sampling.0), height.div_ceil(8 * sampling.1));
        let plane = |(index, tables): (usize, ComponentTables)| {
            let blocks = if index == 0 { sampling } else { (1, 1) };
            let stride = across * blocks.0 * 8;
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
        let chroma = if planes.len() > 1 { across * sampling.0 * 8 } else { 0 };
        Ok(Self {
            level,
            width,
            height,
            sampling,
            across,
            down,
            planes,
            block: [0; 128],
            sums: filled(0, chroma)?,
            chroma: [filled(0, chroma)?, filled(0, chroma)?],
            row: filled(0, 3 * width)?,
            rgb: reserved(byte_count(jpeg.width.into(), jpeg.height.into(), 3)?)?,
        })
    }

    /// Decodes the blocks of the MCU in this column.
    fn read_mcu(&mut self, bits: &mut BitReader<'_>, tables: &Tables, column: usize) -> Option<()> {
        for plane in &mut self.planes {
            let (dc, ac) = (tables.dc(plane.dc)?, tables.ac(plane.ac)?);
            for down in 0..plane.blocks.1 {
                for across in 0..plane.blocks.0 {
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
        let end = if mcu_row + 1 == self.down {
            self.height
        } else {
            first + 8 * self.sampling.1 - delay
        };
        for row in first.saturating_sub(delay)..end {
            self.write_row(row, first);
        }
        self.planes.iter_mut().for_each(Plane::advance);
    }

    fn write_row(&mut self, row: usize, first: usize) {
        let luma = &self.planes[0].row(first, row)[..self.width];
        if let [blue, red] = &self.planes[1..] {
            let first = first / self.sampling.1;
            let [cb, cr] = &mut self.chroma;
            let cb = upsampled(self.level, self.sampling, blue, first, row, &mut self.sums, cb);
            let cr = upsampled(self.level, self.sampling, red, first, row, &mut self.sums, cr);
            colour::convert(self.level, luma, cb, cr, &mut self.row);
        } else {
            for (pixel, level) in self.row.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
                *pixel = [*level; 3];
            }
        }
        self.rgb.extend_from_slice(&self.row);
    }
}

/// The chroma of a row of pixels.
fn upsampled<'a>(
    level: Level,
    sampling: Sampling,
    plane: &'a Plane,
    first: usize,
    row: usize,
    sums: &mut [u16],
    pixels: &'a mut [u8],
) -> &'a [u8] {
    let nearest = row / sampling.1;
    let near = &plane.row(first, nearest)[..plane.width];
    match sampling {
        (1, _) => return near,
        // libjpeg-turbo does not blend such narrow pictures.
        _ if plane.width <= 2 => upsample::repeat(near, pixels),
        (_, 1) => upsample::widen_row(level, near, pixels),
        _ => {
            let farther = if row.is_multiple_of(2) {
                nearest.saturating_sub(1)
            } else {
                (nearest + 1).min(plane.height - 1)
            };
            let far = &plane.row(first, farther)[..plane.width];
            let sums = &mut sums[..plane.width];
            upsample::blend_rows(level, near, far, sums);
            upsample::widen_sums(level, sums, pixels);
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;
    use crate::vision::tests::{bytes_of, fixture, json};

    fn decoded(level: Level, bytes: &[u8]) -> Option<Picture> {
        read(level, bytes, &Jpeg::parse(bytes).unwrap()).unwrap()
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
