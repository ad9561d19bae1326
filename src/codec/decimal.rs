//! Scans a decimal number in one pass: its end and, for nearly every number in practice, its value.
//!
//! Bodies are mostly digits. Finding the end of a number before parsing it would read each digit
//! twice. This scan accumulates the digits on the way, and two steps of `f64` arithmetic compute
//! the float. It does so only if the result is provably the correctly rounded one. Otherwise
//! [`Decimal::float`] and [`Decimal::single`] return `None`, and the caller parses the text with
//! the standard library.

/// The largest number of digits that always fits into a `u64`.
const MAX_DIGITS: usize = 19;
/// Powers of ten that are exact as `f64`.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// The largest integer up to which all integers are exact as `f64`.
const MAX_EXACT: u64 = 1 << 53;

/// `±digits * 10^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    pub negative: bool,
    pub digits: u64,
    pub exponent: i32,
    /// The position after the number.
    pub end: usize,
}

/// Scans the JSON number that starts at `start`. `None` if the text is not a number, or has more
/// digits than fit; the caller then decides which.
#[inline]
pub(super) fn scan(text: &[u8], start: usize) -> Option<Decimal> {
    let negative = text.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let mut digits = 0u64;
    let mut at = run(text, first, &mut digits);
    let integer = at - first;
    if integer == 0 || (integer > 1 && text[first] == b'0') {
        return None;
    }
    let mut exponent = 0i32;
    let mut count = integer;
    if text.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = run(text, fraction, &mut digits);
        if at == fraction {
            return None;
        }
        count += at - fraction;
        // At most MAX_DIGITS, or the check below rejects the number.
        exponent = -((at - fraction).min(MAX_DIGITS + 1) as i32);
    }
    if count > MAX_DIGITS {
        return None;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = text.get(at + 1);
        let from = at + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
        let mut power = 0u64;
        at = run(text, from, &mut power);
        // Three digits cover more than the range of any float.
        if !(1..=3).contains(&(at - from)) {
            return None;
        }
        exponent += if sign == Some(&b'-') {
            -(power as i32)
        } else {
            power as i32
        };
    }
    Some(Decimal {
        negative,
        digits,
        exponent,
        end: at,
    })
}

/// Accumulates the digits at `at` into `value`, which wraps if there are too many. Returns the
/// position after them.
#[inline]
fn run(text: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(digit) = text.get(at).map(|b| b.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

impl Decimal {
    /// The nearest `f64`. Both operands are exact, so there is a single rounding.
    #[inline]
    pub fn float(&self) -> Option<f64> {
        if self.digits > MAX_EXACT {
            return None;
        }
        self.scaled()
    }

    /// The nearest `f32`. The intermediate `f64` is off by less than two units in its last place
    /// (one half from the digits, one half from the power of ten). So rounding it again is correct
    /// unless it is that close to the midpoint of two `f32`. Outside the normal range of `f32`,
    /// rounding drops other bits, so the caller parses the text.
    #[inline]
    pub fn single(&self) -> Option<f32> {
        const DROPPED: u32 = f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS;
        const MIDDLE: u64 = 1 << (DROPPED - 1);
        const DOUBT: u64 = 4;
        let wide = self.scaled()?;
        let dropped = wide.to_bits() & ((1 << DROPPED) - 1);
        let normal = (f64::from(f32::MIN_POSITIVE)..f64::from(f32::MAX)).contains(&wide.abs());
        if dropped.abs_diff(MIDDLE) <= DOUBT || (!normal && self.digits != 0) {
            return None;
        }
        Some(wide as f32)
    }

    #[inline]
    fn scaled(&self) -> Option<f64> {
        let power = *POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let digits = self.digits as f64;
        let magnitude = if self.exponent < 0 {
            digits / power
        } else {
            digits * power
        };
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// The value, if the number is written as an integer.
    #[inline]
    pub fn integer(&self) -> Option<i128> {
        let magnitude = i128::from(self.digits);
        (self.exponent == 0).then_some(if self.negative { -magnitude } else { magnitude })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Option<Decimal> {
        scan(text.as_bytes(), 0)
    }

    #[test]
    fn a_number_ends_where_json_says() {
        type Scanned = (u64, i32, usize);
        let table: [(&str, Option<Scanned>); 22] = [
            ("0", Some((0, 0, 1))),
            ("-0.0]", Some((0, -1, 4))),
            ("12,", Some((12, 0, 2))),
            ("1.25 ", Some((125, -2, 4))),
            ("1e5", Some((1, 5, 3))),
            ("1.5E-07", Some((15, -8, 7))),
            ("1e+22", Some((1, 22, 5))),
            ("9999999999999999999", Some((9_999_999_999_999_999_999, 0, 19))),
            ("10000000000000000000", None),
            ("0.1234567890123456789", None),
            ("01", None),
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
            ("-Infinity", None),
        ];
        for (text, expected) in table {
            let scanned = whole(text).map(|d| (d.digits, d.exponent, d.end));
            assert_eq!(scanned, expected, "{text:?}");
        }
    }

    #[test]
    fn does_not_round_numbers_near_the_midpoint_of_two_singles() {
        // 16777217 is the midpoint of two f32 values; so is 1.00000017881393432617187500 in 27
        // digits.
        assert_eq!(whole("16777217").unwrap().single(), None);
        assert_eq!(whole("16777217").unwrap().float(), Some(16_777_217.0));
        assert_eq!(whole("1.000000178813934326").unwrap().single(), None);
        assert_eq!(whole("1e-40").unwrap().single(), None);
        assert_eq!(whole("3.5e38").unwrap().single(), None);
        assert_eq!(whole("-0").unwrap().single().map(f32::to_bits), Some((-0f32).to_bits()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn values_equal_those_of_the_standard_library(
            text in "-?(0|[1-9][0-9]{0,12})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?"
        ) {
            if let Some(decimal) = whole(&text) {
                prop_assert_eq!(decimal.end, text.len());
                if let Some(value) = decimal.float() {
                    prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
                }
                if let Some(value) = decimal.single() {
                    prop_assert_eq!(value.to_bits(), text.parse::<f32>().unwrap().to_bits());
                }
                if let Some(value) = decimal.integer() {
                    prop_assert_eq!(value as f64, text.parse::<f64>().unwrap());
                }
            }
        }

        /// The decimal expansion of the midpoint of two `f32`, cut to 17 digits, is the hardest
        /// case.
        #[test]
        fn singles_are_correct_next_to_a_midpoint(bits in 0x0100_0000u32..0x7e00_0000, digits in 14usize..18) {
            let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
            let text = format!("{middle:.digits$e}");
            if let Some(value) = whole(&text).and_then(|decimal| decimal.single()) {
                prop_assert_eq!(value.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{}", text);
            }
        }
    }
}
