//! Converts YCbCr to RGB, with the same result as libjpeg-turbo, which Pillow uses.

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x16};

/// The factors of JFIF, as parts of 65,536. Those of 1 and more are split into a whole number and
/// the rest, which has 16 bits.
const RED_OF_CR: i16 = 26_345; // 1.402 = 1 + 0.402
const BLUE_OF_CB: i16 = -14_942; // 1.772 = 2 - 0.228
const GREEN_OF_CB: i32 = -22_554; // -0.34414
const GREEN_OF_CR: i32 = 18_734; // -0.71414 = -1 + 0.28586

#[inline(always)]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i16::from(y), i16::from(cb) - 128, i16::from(cr) - 128);
    let part = |chroma: i16, factor: i16| {
        let doubled = ((i32::from(2 * chroma) * i32::from(factor)) >> 16) as i16;
        // Rounds.
        (doubled + 1) >> 1
    };
    let green = (i32::from(cb) * GREEN_OF_CB + i32::from(cr) * GREEN_OF_CR + 0x8000) >> 16;
    let levels = [
        y + cr + part(cr, RED_OF_CR),
        y - cr + green as i16,
        y + 2 * cb + part(cb, BLUE_OF_CB),
    ];
    levels.map(|level| level.clamp(0, 255) as u8)
}

/// Converts a row of pixels. `cb` and `cr` may have more samples.
pub(super) fn convert(level: Level, y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    dispatch!(level, simd => convert_with(simd, y, &cb[..y.len()], &cr[..y.len()], rgb));
}

/// The pixels that are converted at once.
const LANES: usize = 16;

/// For each vector of the result and each colour: the pixel that each byte comes from, or an index
/// out of range, which stands for zero.
const ORDER: [[[u8; LANES]; 3]; 3] = {
    let mut order = [[[u8::MAX; LANES]; 3]; 3];
    let mut at = 0;
    while at < 3 * LANES {
        order[at / LANES][at % 3][at % LANES] = (at / 3) as u8;
        at += 1;
    }
    order
};

#[inline(always)]
fn convert_with<S: Simd>(simd: S, y: &[u8], cb: &[u8], cr: &[u8], result: &mut [u8]) {
    let (ys, last_y) = y.as_chunks::<LANES>();
    let (cbs, last_cb) = cb.as_chunks::<LANES>();
    let (crs, last_cr) = cr.as_chunks::<LANES>();
    let (results, last) = result.as_chunks_mut::<{ 3 * LANES }>();
    for (((result, y), cb), cr) in results.iter_mut().zip(ys).zip(cbs).zip(crs) {
        let mut colours = [[0u8; LANES]; 3];
        for lane in 0..LANES {
            let pixel = rgb(y[lane], cb[lane], cr[lane]);
            for (colour, level) in colours.iter_mut().zip(pixel) {
                colour[lane] = level;
            }
        }
        let [red, green, blue] = colours.map(|colour| u8x16::load_array(simd, colour));
        for (order, to) in ORDER.iter().zip(result.as_chunks_mut::<LANES>().0) {
            let bytes = red.swizzle_dyn_precise(order[0])
                | green.swizzle_dyn_precise(order[1])
                | blue.swizzle_dyn_precise(order[2]);
            bytes.store_array(to);
        }
    }
    let last = last.as_chunks_mut::<3>().0;
    for (((pixel, y), cb), cr) in last.iter_mut().zip(last_y).zip(last_cb).zip(last_cr) {
        *pixel = rgb(*y, *cb, *cr);
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;

    #[test]
    fn every_colour_is_that_of_the_formula() {
        let rounded = |value: f64| (value.round().clamp(0.0, 255.0)) as u8;
        let (mut different, mut all) = (0, 0);
        for level in levels() {
            for cb in (0..=255u8).step_by(3) {
                for cr in (0..=255u8).step_by(5) {
                    let y: Vec<u8> = (0..=255).step_by(7).collect();
                    let mut pixels = vec![0; 3 * y.len()];
                    convert(level, &y, &vec![cb; y.len()], &vec![cr; y.len()], &mut pixels);
                    let (blue, red) = (f64::from(cb) - 128.0, f64::from(cr) - 128.0);
                    for (pixel, y) in pixels.as_chunks::<3>().0.iter().zip(y) {
                        let y = f64::from(y);
                        let exact = [
                            rounded(y + 1.402 * red),
                            rounded(y - 0.344_136_286 * blue - 0.714_136_286 * red),
                            rounded(y + 1.772 * blue),
                        ];
                        assert!(pixel.iter().zip(exact).all(|(one, other)| one.abs_diff(other) <= 1));
                        different += usize::from(*pixel != exact);
                        all += 1;
                    }
                }
            }
        }
        // Halves are rounded differently.
        assert!(different * 100 < all, "{different} of {all}");
    }
}
