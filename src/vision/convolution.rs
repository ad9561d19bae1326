//! Pillow's convolution of bytes, bit for bit.
//!
//! It is used where `fast_image_resize` is not close enough: the 16-bit weights of that crate are
//! visible when an image is enlarged, and its box filter covers different pixels at the ends.
//! Images that are enlarged are small, so plain loops are fast enough.

use std::ops::Range;

use crate::vision::VisionError;
use crate::vision::allocation::{byte_count, reserved};
use crate::vision::resample::{Filter, Pixels};

/// Fractional bits of a weight, as in Pillow.
const PRECISION: u32 = 32 - 8 - 2;

/// The weights for one pixel, and the first source pixel that they apply to.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The pixels of an edge before and after resizing, and the range to compute.
pub(super) struct Edge {
    pub source: u32,
    pub resized: u32,
    pub wanted: Range<u32>,
}

/// Convolves along the rows `rows` of the source; the result has only the wanted columns.
pub(super) fn across(
    source: Pixels<'_>,
    rows: Range<u32>,
    edge: &Edge,
    filter: Filter,
) -> Result<Vec<u8>, VisionError> {
    let taps = taps(edge, filter);
    let width = edge.wanted.end - edge.wanted.start;
    let mut result = reserved(byte_count(width, rows.end - rows.start, source.channels)?)?;
    let row_bytes = source.width as usize * source.channels;
    let wanted = rows.start as usize * row_bytes..rows.end as usize * row_bytes;
    for row in source.bytes[wanted].chunks_exact(row_bytes) {
        if source.channels == 1 {
            convolve_row::<1>(row, &taps, &mut result);
        } else {
            convolve_row::<3>(row, &taps, &mut result);
        }
    }
    Ok(result)
}

fn convolve_row<const CHANNELS: usize>(row: &[u8], taps: &[Taps], result: &mut Vec<u8>) {
    let pixels = row.as_chunks::<CHANNELS>().0;
    for Taps { first, weights } in taps {
        let mut sums = [HALF; CHANNELS];
        for (pixel, weight) in pixels[*first..].iter().zip(weights) {
            for (sum, level) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(*level) * weight;
            }
        }
        result.extend_from_slice(&sums.map(level));
    }
}

/// Convolves along columns. The source begins with row `first_row`.
pub(super) fn down(source: Pixels<'_>, first_row: u32, edge: &Edge, filter: Filter) -> Result<Vec<u8>, VisionError> {
    let taps = taps(edge, filter);
    let height = edge.wanted.end - edge.wanted.start;
    let mut result = reserved(byte_count(source.width, height, source.channels)?)?;
    let row_bytes = source.width as usize * source.channels;
    let mut sums: Vec<i32> = reserved(row_bytes)?;
    for Taps { first, weights } in &taps {
        sums.clear();
        sums.resize(row_bytes, HALF);
        let rows = source.bytes[(first - first_row as usize) * row_bytes..].chunks_exact(row_bytes);
        for (row, weight) in rows.zip(weights) {
            for (sum, level) in sums.iter_mut().zip(row) {
                *sum += i32::from(*level) * weight;
            }
        }
        result.extend(sums.iter().map(|sum| level(*sum)));
    }
    Ok(result)
}

/// One half, for rounding.
const HALF: i32 = 1 << (PRECISION - 1);

fn level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn taps(edge: &Edge, filter: Filter) -> Vec<Taps> {
    let (weight, reach) = kernel(filter);
    let scale = f64::from(edge.source) / f64::from(edge.resized);
    let growth = scale.max(1.0);
    let (reach, shrink) = (reach * growth, 1.0 / growth);
    let taps = |at: u32| {
        let centre = (f64::from(at) + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let last = (centre + reach + 0.5).min(f64::from(edge.source)) as usize;
        let weights: Vec<f64> = (first..last)
            .map(|place| weight((place as f64 - centre + 0.5) * shrink))
            .collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let weight = if sum == 0.0 { weight } else { weight / sum };
            let scaled = weight * f64::from(1u32 << PRECISION);
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        };
        Taps {
            first,
            weights: weights.into_iter().map(fixed).collect(),
        }
    };
    edge.wanted.clone().map(taps).collect()
}

/// The weight function of the distance from the centre, and its support.
fn kernel(filter: Filter) -> (fn(f64) -> f64, f64) {
    match filter {
        // `Nearest` is never convolved; a box of one pixel would be equivalent.
        Filter::Nearest | Filter::Box => (|x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }, 0.5),
        Filter::Bilinear => (|x| (1.0 - x.abs()).max(0.0), 1.0),
        Filter::Hamming => (hamming, 1.0),
        Filter::Bicubic => (bicubic, 2.0),
        Filter::Lanczos => (lanczos, 3.0),
    }
}

fn hamming(x: f64) -> f64 {
    match x.abs() {
        0.0 => 1.0,
        1.0.. => 0.0,
        x => {
            let x = x * std::f64::consts::PI;
            x.sin() / x * (0.54 + 0.46 * x.cos())
        }
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 {
            return 1.0;
        }
        let x = x * std::f64::consts::PI;
        x.sin() / x
    };
    if (-3.0..3.0).contains(&x) {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}
