//! The fast path for floats in text: one pass over the digits, eight at a time, then one
//! multiplication or division.
//!
//! Bodies are mostly digits, so their parser decides what a request in JSON costs. With the general
//! parser alone, which this one falls back on, a number of seven digits takes 230 instructions
//! instead of 140, and a server answers a fifth fewer requests of a thousand numbers
//! (`scripts/bench requests`, JSON of 32 rows).
//!
//! Invariant: a result is the nearest float, as the standard library rounds. A number of which that
//! is not certain gets `None`, and the general parser reads it.

/// Most digits that always fit into a `u64`.
const MAX_DIGITS: usize = 19;

/// Powers of ten that are exact as `f64`.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Powers of ten by which a number grows when up to eight digits are appended.
const SHIFTS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// A decimal number: `digits * 10^exponent`, negated if `is_negative`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    is_negative: bool,
    digits: u64,
    exponent: i32,
    /// Bytes of the number in the text.
    pub length: usize,
}

/// A float type that a decimal number is rounded to.
pub(super) trait Nearest: Sized {
    /// The nearest float; `None` if more digits are needed to know it.
    fn nearest(decimal: Decimal) -> Option<Self>;
}

/// Reads the JSON number at the start of `text`. `None` if there is none, or if it has more digits
/// than fit.
#[inline]
pub(super) fn scan(text: &[u8]) -> Option<Decimal> {
    let is_negative = text.first() == Some(&b'-');
    let first = usize::from(is_negative);
    let mut digits = 0;
    let mut at = append(&mut digits, text, first);
    let mut count = at - first;
    if count == 0 || (count > 1 && text.get(first) == Some(&b'0')) {
        return None;
    }
    let mut exponent = 0;
    if text.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = append(&mut digits, text, fraction);
        let places = at - fraction;
        if places == 0 {
            return None;
        }
        count += places;
        // At most `MAX_DIGITS`, or the number is refused below.
        exponent = -(places.min(MAX_DIGITS + 1) as i32);
    }
    if count > MAX_DIGITS {
        return None;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = text.get(at + 1);
        let from = at + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
        let mut power = 0;
        at = append(&mut power, text, from);
        // A power of four digits is out of any range.
        if !(1..=3).contains(&(at - from)) {
            return None;
        }
        let power = i32::try_from(power).ok()?;
        exponent += if sign == Some(&b'-') { -power } else { power };
    }
    Some(Decimal {
        is_negative,
        digits,
        exponent,
        length: at,
    })
}

/// Appends the digits at `at` to `value`, which wraps if they are too many. Returns their end.
#[inline]
fn append(value: &mut u64, text: &[u8], mut at: usize) -> usize {
    while let Some(Ok(bytes)) = text.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let (count, number) = leading_digits(bytes);
        *value = value.wrapping_mul(SHIFTS[count]).wrapping_add(number);
        at += count;
        if count < 8 {
            return at;
        }
    }
    while let Some(byte) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
    at
}

/// Number of digits at the start of `bytes`, and the number that they form. All bytes are in one
/// word, the first one lowest.
#[inline]
fn leading_digits(bytes: [u8; 8]) -> (usize, u64) {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Digits become 0 to 9. The addition sets the high bit of every byte above that. Only bytes
    // other than digits carry into the next byte, and the first of these decides.
    let word = u64::from_le_bytes(bytes) ^ 0x3030_3030_3030_3030;
    let others = (word.wrapping_add(0x7676_7676_7676_7676) | word) & HIGH;
    let count = (others.trailing_zeros() / 8) as usize;
    if count == 0 {
        return (0, 0);
    }
    // Move the digits to the end of the word, after zeros. Then add up pairs of digits, pairs of
    // these, and pairs of those.
    let word = word << (64 - 8 * count);
    let pairs = word.wrapping_mul(1 + (10 << 8)) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(1 + (100 << 16)) >> 16 & 0x0000_ffff_0000_ffff;
    (count, fours.wrapping_mul(1 + (10_000 << 32)) >> 32)
}

impl Decimal {
    /// The number with at most two roundings: of the digits and of the result. The powers are
    /// exact.
    #[inline]
    fn scaled(self) -> Option<f64> {
        let power = *POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let digits = self.digits as f64;
        let magnitude = if self.exponent < 0 {
            digits / power
        } else {
            digits * power
        };
        Some(if self.is_negative { -magnitude } else { magnitude })
    }
}

impl Nearest for f64 {
    #[inline]
    fn nearest(decimal: Decimal) -> Option<Self> {
        // Up to here, the digits are exact, so the result is rounded once.
        const MAX_EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
        (decimal.digits <= MAX_EXACT).then(|| decimal.scaled()).flatten()
    }
}

impl Nearest for f32 {
    /// Rounds the `f64`, which differs from the number by less than two units in its last place.
    /// That is right unless it is about that close to the middle between two `f32`.
    #[inline]
    fn nearest(decimal: Decimal) -> Option<Self> {
        const DROPPED: u32 = f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS;
        const MIDDLE: u64 = 1 << (DROPPED - 1);
        const DOUBT: u64 = 4;
        let wide = decimal.scaled()?;
        let dropped = wide.to_bits() & ((1 << DROPPED) - 1);
        // Below and above, an `f32` has fewer digits or none.
        let is_normal = (f64::from(Self::MIN_POSITIVE)..f64::from(Self::MAX)).contains(&wide.abs());
        let is_certain = decimal.digits == 0 || (is_normal && dropped.abs_diff(MIDDLE) > DOUBT);
        is_certain.then_some(wide as Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_ends_where_json_says() {
        /// Digits, exponent and length.
        type Scanned = (u64, i32, usize);
        let table: [(&str, Option<Scanned>); 24] = [
            ("0", Some((0, 0, 1))),
            ("-0.0]", Some((0, -1, 4))),
            ("12,", Some((12, 0, 2))),
            ("1.25 ", Some((125, -2, 4))),
            ("12345678", Some((12_345_678, 0, 8))),
            ("123456789.012345678,", Some((123_456_789_012_345_678, -9, 19))),
            ("1e5", Some((1, 5, 3))),
            ("1.5E-07", Some((15, -8, 7))),
            ("1e+22", Some((1, 22, 5))),
            ("9999999999999999999", Some((9_999_999_999_999_999_999, 0, 19))),
            ("10000000000000000000", None),
            ("0.1234567890123456789", None),
            ("01", None),
            ("00000000000.5", None),
            ("-", None),
            ("", None),
            (".5", None),
            ("1.", None),
            ("1.e5", None),
            ("1e", None),
            ("1e+", None),
            ("1e0001", None),
            ("+1", None),
            ("NaN", None),
        ];
        for (text, expected) in table {
            // Text that follows a number may not change it.
            for after in ["", "]", ",  -7.5e3 ,12", "\u{b5}0000000", "x1234567"] {
                let whole = format!("{text}{after}");
                let found = scan(whole.as_bytes());
                let found = found.map(|found| (found.digits, found.exponent, found.length));
                if after.is_empty() || expected.is_some_and(|(_, _, length)| length == text.len()) {
                    assert_eq!(found, expected, "{whole:?}");
                }
            }
        }
    }

    #[test]
    fn every_byte_but_a_digit_ends_the_digits() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut bytes = *b"90123456";
                bytes[place] = byte;
                let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let text = std::str::from_utf8(&bytes[..count]).unwrap();
                assert_eq!(leading_digits(bytes), (count, text.parse().unwrap_or(0)), "{bytes:?}");
            }
        }
    }

    #[test]
    fn numbers_near_the_middle_of_two_floats_have_no_result() {
        fn nearest<F: Nearest>(text: &str) -> Option<F> {
            F::nearest(scan(text.as_bytes()).unwrap())
        }
        assert_eq!(nearest::<f32>("16777217"), None);
        assert_eq!(nearest::<f64>("16777217"), Some(16_777_217.0));
        assert_eq!(nearest::<f64>("9007199254740993"), None);
        assert_eq!(nearest::<f32>("1.000000178813934326"), None);
        assert_eq!(nearest::<f32>("1e-40"), None);
        assert_eq!(nearest::<f32>("3.5e38"), None);
        assert_eq!(nearest::<f32>("-0").map(f32::to_bits), Some((-0f32).to_bits()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn results_are_those_of_the_standard_library(
            text in "-?(0|[1-9][0-9]{0,12})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?",
            after in "[\\], \\n}0-9a-z\\.]{0,9}",
        ) {
            let decimal = scan(text.as_bytes());
            if let Some(decimal) = decimal {
                prop_assert_eq!(decimal.length, text.len());
                if let Some(value) = f64::nearest(decimal) {
                    prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
                }
                if let Some(value) = f32::nearest(decimal) {
                    prop_assert_eq!(value.to_bits(), text.parse::<f32>().unwrap().to_bits());
                }
            }
            prop_assert_eq!(scan(format!("{text}] {after}").as_bytes()), decimal);
        }

        /// Decimal expansions of a middle between two `f32`, cut off: the hardest numbers.
        #[test]
        fn results_are_right_next_to_the_middle(bits in 0x0100_0000u32..0x7e00_0000, digits in 14usize..18) {
            let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
            let text = format!("{middle:.digits$e}");
            if let Some(value) = scan(text.as_bytes()).and_then(f32::nearest) {
                prop_assert_eq!(value.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{}", text);
            }
        }
    }
}
