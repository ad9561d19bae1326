//! The inverse cosine transform of blocks, with the same result as libjpeg-turbo's default
//! ("islow"), which Pillow uses.
//!
//! Two passes of one-dimensional transforms (Loeffler, Ligtenberg and Moschytz) work on integers
//! with 13 fractional bits. Each lane of a vector is a column. Between the passes the block is
//! transposed. As in libjpeg-turbo's vector code, the rotations multiply pairs of 16 bits and add
//! the products.

use fearless_simd::{Level, Simd, dispatch, i8x16, i16x8, i32x4, prelude::*};

use super::huffman::Block;
use super::tables::Quantization;

/// Fractional bits of the factors.
const FACTOR_BITS: u32 = 13;
/// Fractional bits between the passes.
const BETWEEN_BITS: u32 = 2;
/// The transform's factor of 8, as bits.
const SCALE_BITS: u32 = 3;
const FIRST_SHIFT: u32 = FACTOR_BITS - BETWEEN_BITS;
const SECOND_SHIFT: u32 = FACTOR_BITS + BETWEEN_BITS + SCALE_BITS;

const fn fixed(factor: f64) -> i16 {
    (factor * (1 << FACTOR_BITS) as f64 + 0.5) as i16
}

const F_0_298: i16 = fixed(0.298_631_336);
const F_0_390: i16 = fixed(0.390_180_644);
const F_0_541: i16 = fixed(0.541_196_100);
const F_0_765: i16 = fixed(0.765_366_865);
const F_0_899: i16 = fixed(0.899_976_223);
const F_1_175: i16 = fixed(1.175_875_602);
const F_1_501: i16 = fixed(1.501_321_110);
const F_1_847: i16 = fixed(1.847_759_065);
const F_1_961: i16 = fixed(1.961_570_560);
const F_2_053: i16 = fixed(2.053_119_869);
const F_2_562: i16 = fixed(2.562_915_447);
const F_3_072: i16 = fixed(3.072_711_026);

/// Rows of a block.
type Rows<S> = [i16x8<S>; 8];

/// A row with 32 bits in each column.
#[derive(Clone, Copy)]
struct Wide<S: Simd>(i32x4<S>, i32x4<S>);

impl<S: Simd> Wide<S> {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0, self.1 + other.1)
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self(self.0 - other.0, self.1 - other.1)
    }
}

/// Two rows, of which each column has its numbers side by side.
#[derive(Clone, Copy)]
struct Pair<S: Simd>(i16x8<S>, i16x8<S>);

impl<S: Simd> Pair<S> {
    #[inline(always)]
    fn new(one: i16x8<S>, other: i16x8<S>) -> Self {
        let (low, high) = one.interleave(other);
        Self(low, high)
    }

    /// The sum of the rows multiplied by these factors.
    #[inline(always)]
    fn times(self, simd: S, one: i16, other: i16) -> Wide<S> {
        let factors: i16x8<S> = [one, other, one, other, one, other, one, other].simd_into(simd);
        Wide(
            self.0.pairwise_dot_product(factors),
            self.1.pairwise_dot_product(factors),
        )
    }
}

/// Transforms the columns, and rounds the result to fewer fractional bits.
#[inline(always)]
fn columns<S: Simd, const SHIFT: u32>(simd: S, rows: Rows<S>) -> Rows<S> {
    let wide = |row: i16x8<S>| {
        let (low, high) = row.widen();
        Wide(low << FACTOR_BITS, high << FACTOR_BITS)
    };
    let (sum, difference) = (wide(rows[0] + rows[4]), wide(rows[0] - rows[4]));
    let pair = Pair::new(rows[2], rows[6]);
    let two = pair.times(simd, F_0_541, F_0_541 - F_1_847);
    let three = pair.times(simd, F_0_541 + F_0_765, F_0_541);
    let even = [
        sum.plus(three),
        difference.plus(two),
        difference.minus(two),
        sum.minus(three),
    ];

    let pair = Pair::new(rows[7] + rows[3], rows[5] + rows[1]);
    let three = pair.times(simd, F_1_175 - F_1_961, F_1_175);
    let four = pair.times(simd, F_1_175, F_1_175 - F_0_390);
    let outer = Pair::new(rows[7], rows[1]);
    let inner = Pair::new(rows[5], rows[3]);
    let odd = [
        outer.times(simd, -F_0_899, F_1_501 - F_0_899).plus(four),
        inner.times(simd, -F_2_562, F_3_072 - F_2_562).plus(three),
        inner.times(simd, F_2_053 - F_2_562, -F_2_562).plus(four),
        outer.times(simd, F_0_298 - F_0_899, -F_0_899).plus(three),
    ];

    let half = i32x4::splat(simd, 1 << (SHIFT - 1));
    let rounded = |Wide(low, high): Wide<S>| ((low + half) >> SHIFT).saturating_narrow((high + half) >> SHIFT);
    [
        rounded(even[0].plus(odd[0])),
        rounded(even[1].plus(odd[1])),
        rounded(even[2].plus(odd[2])),
        rounded(even[3].plus(odd[3])),
        rounded(even[3].minus(odd[3])),
        rounded(even[2].minus(odd[2])),
        rounded(even[1].minus(odd[1])),
        rounded(even[0].minus(odd[0])),
    ]
}

/// Three perfect shuffles transpose a block.
#[inline(always)]
fn transposed<S: Simd>(rows: Rows<S>) -> Rows<S> {
    shuffled(shuffled(shuffled(rows)))
}

#[inline(always)]
fn shuffled<S: Simd>(rows: Rows<S>) -> Rows<S> {
    let (a, b) = rows[0].interleave(rows[4]);
    let (c, d) = rows[1].interleave(rows[5]);
    let (e, f) = rows[2].interleave(rows[6]);
    let (g, h) = rows[3].interleave(rows[7]);
    [a, b, c, d, e, f, g, h]
}

/// Transforms a block to eight rows of samples. They begin at the start of `samples`, at a
/// distance of `stride`.
pub(super) fn inverse(level: Level, block: &Block, factors: &Quantization, samples: &mut [u8], stride: usize) {
    dispatch!(level, simd => inverse_with(simd, block, factors, samples, stride));
}

#[inline(always)]
fn inverse_with<S: Simd>(simd: S, block: &Block, factors: &Quantization, samples: &mut [u8], stride: usize) {
    let (block, factors) = (block.as_chunks::<8>().0, factors.as_chunks::<8>().0);
    let mut rows: Rows<S> = [i16x8::splat(simd, 0); 8];
    for ((row, coefficients), factors) in rows.iter_mut().zip(block).zip(factors) {
        *row = i16x8::load_array_ref(simd, coefficients) * i16x8::load_array_ref(simd, factors);
    }
    let rows = transposed(columns::<S, FIRST_SHIFT>(simd, rows));
    let rows = transposed(columns::<S, SECOND_SHIFT>(simd, rows));
    let middle: i8x16<S> = i8x16::splat(simd, i8::MIN);
    for (pair, to) in rows.as_chunks::<2>().0.iter().zip(samples.chunks_mut(2 * stride)) {
        // From -128..=127 to 0..=255.
        let levels = (pair[0].saturating_narrow(pair[1]) ^ middle)
            .to_array()
            .map(|level| level as u8);
        to[..8].copy_from_slice(&levels[..8]);
        to[stride..stride + 8].copy_from_slice(&levels[8..]);
    }
}

/// Transforms a block of which only the first coefficient is not zero.
pub(super) fn inverse_of_flat(first: i16, samples: &mut [u8], stride: usize) {
    let level =
        ((i32::from(first) << BETWEEN_BITS) + (1 << (BETWEEN_BITS + SCALE_BITS - 1))) >> (BETWEEN_BITS + SCALE_BITS);
    let level = (level + 128).clamp(0, 255) as u8;
    for row in samples.chunks_mut(stride).take(8) {
        row[..8].fill(level);
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels;
    use super::*;

    /// The transform in floating point.
    fn exact(coefficients: &[f64; 64]) -> [f64; 64] {
        let cosine = |place: usize, frequency: usize| {
            let norm = if frequency == 0 { 0.125f64.sqrt() } else { 0.5 };
            norm * (std::f64::consts::PI * frequency as f64 * (2 * place + 1) as f64 / 16.0).cos()
        };
        std::array::from_fn(|at| {
            let terms = (0..64).map(|from| coefficients[from] * cosine(at / 8, from / 8) * cosine(at % 8, from % 8));
            terms.sum::<f64>() + 128.0
        })
    }

    fn samples(level: Level, block: &Block, factors: &Quantization) -> Vec<u8> {
        let mut samples = vec![0; 64];
        inverse(level, block, factors, &mut samples, 8);
        samples
    }

    #[test]
    fn samples_are_those_of_the_exact_transform_rounded() {
        let mut random = 1u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 16
        };
        for round in 0..500 {
            let mut block: Block = [0; 128];
            let factors: Quantization = std::array::from_fn(|_| (next() % 20 + 1) as i16);
            for (at, coefficient) in block[..64].iter_mut().enumerate() {
                let reach = 600 / (1 + at as i32) / i32::from(factors[at]) + 1;
                *coefficient = (next() as i32 % (2 * reach + 1) - reach) as i16;
            }
            let exact = exact(&std::array::from_fn(|at| f64::from(block[at]) * f64::from(factors[at])));
            for level in levels() {
                for (sample, exact) in samples(level, &block, &factors).into_iter().zip(exact) {
                    let difference = (f64::from(sample) - exact.clamp(0.0, 255.0)).abs();
                    assert!(
                        difference < 0.6,
                        "{level:?}, round {round}: {sample} instead of {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_flat_block_has_the_same_samples_by_both_functions() {
        for first in (i16::MIN..=i16::MAX).step_by(7) {
            let mut flat = [0; 64];
            inverse_of_flat(first, &mut flat, 8);
            let mut block: Block = [0; 128];
            block[0] = first;
            for level in levels() {
                // Beyond 13 bits, which no file needs, the intermediate results saturate.
                if first.unsigned_abs() < 1 << 13 {
                    assert_eq!(samples(level, &block, &[1; 64]), flat, "{first}");
                }
            }
        }
    }

    /// Damaged files have coefficients that are out of range.
    #[test]
    fn extreme_coefficients_have_the_same_samples_at_every_level() {
        for extreme in [i16::MIN, i16::MAX, -2048, 2047] {
            for pattern in 1u64..64 {
                let mut block: Block = [0; 128];
                for (at, coefficient) in block[..64].iter_mut().enumerate() {
                    if (pattern.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> at) & 1 == 1 {
                        *coefficient = if at % 3 == 0 { extreme } else { extreme.wrapping_neg() };
                    }
                }
                let mut all = levels().map(|level| samples(level, &block, &[255; 64]));
                let first = all.next().unwrap();
                assert!(all.all(|other| other == first));
            }
        }
    }
}
