//! Upsamples chroma, with the same result as libjpeg-turbo's default ("fancy"), which Pillow uses.
//!
//! A sample lies between the pixels that it stands for. So a pixel has three quarters of the
//! sample that is nearer, and a quarter of the next one.

use fearless_simd::{Level, Simd, dispatch};

/// Adds three times the nearer row to the farther row.
pub(super) fn blend_rows(level: Level, near: &[u8], far: &[u8], sums: &mut [u16]) {
    dispatch!(level, simd => blend_rows_with(simd, near, far, sums));
}

#[inline(always)]
fn blend_rows_with<S: Simd>(_: S, near: &[u8], far: &[u8], sums: &mut [u16]) {
    for ((sum, near), far) in sums.iter_mut().zip(near).zip(far) {
        *sum = u16::from(*near) * 3 + u16::from(*far);
    }
}

/// Makes two pixels from each of at least two sums of rows.
pub(super) fn widen_sums(level: Level, sums: &[u16], pixels: &mut [u8]) {
    dispatch!(level, simd => widen_with(simd, sums, pixels, Sixteenths));
}

/// Makes two pixels from each of at least two samples of a row.
pub(super) fn widen_row(level: Level, samples: &[u8], pixels: &mut [u8]) {
    dispatch!(level, simd => widen_with(simd, samples, pixels, Quarters));
}

/// Makes two equal pixels from each sample.
pub(super) fn repeat(samples: &[u8], pixels: &mut [u8]) {
    for (pixels, sample) in pixels.as_chunks_mut::<2>().0.iter_mut().zip(samples) {
        *pixels = [*sample; 2];
    }
}

/// The arithmetic of a row: the pixels to the left and to the right of a sample.
trait Blend<T> {
    fn left(&self, sample: T, previous: T) -> u8;
    fn right(&self, sample: T, next: T) -> u8;
}

/// For samples.
struct Quarters;

impl Blend<u8> for Quarters {
    #[inline(always)]
    fn left(&self, sample: u8, previous: u8) -> u8 {
        ((u16::from(sample) * 3 + u16::from(previous) + 1) >> 2) as u8
    }

    #[inline(always)]
    fn right(&self, sample: u8, next: u8) -> u8 {
        ((u16::from(sample) * 3 + u16::from(next) + 2) >> 2) as u8
    }
}

/// For sums of four samples.
struct Sixteenths;

impl Blend<u16> for Sixteenths {
    #[inline(always)]
    fn left(&self, sample: u16, previous: u16) -> u8 {
        ((sample * 3 + previous + 8) >> 4) as u8
    }

    #[inline(always)]
    fn right(&self, sample: u16, next: u16) -> u8 {
        ((sample * 3 + next + 7) >> 4) as u8
    }
}

#[inline(always)]
fn widen_with<S: Simd, T: Copy>(_: S, samples: &[T], pixels: &mut [u8], blend: impl Blend<T>) {
    let pixels = &mut pixels.as_chunks_mut::<2>().0[..samples.len()];
    let ([first, second, ..], [.., before, last]) = (samples, samples) else {
        return;
    };
    let [first_pixels, middle @ .., last_pixels] = pixels else {
        return;
    };
    *first_pixels = [blend.left(*first, *first), blend.right(*first, *second)];
    for (pixels, samples) in middle.iter_mut().zip(samples.windows(3)) {
        *pixels = [blend.left(samples[1], samples[0]), blend.right(samples[1], samples[2])];
    }
    *last_pixels = [blend.left(*last, *before), blend.right(*last, *last)];
}
