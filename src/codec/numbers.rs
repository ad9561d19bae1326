//! Numbers between text, element types, and one element type and another.
//!
//! Text goes straight to the element type: no detour by `f64`, which would round `float32` twice and lose the low
//! digits of 64-bit integers. What always holds: a value that the element type cannot hold is a [`Problem`], never
//! another value. Rounding to the nearest float is not a loss in this sense, becoming infinite is.

use half::{bf16, f16};

use crate::codec::decimal::Decimal;
use crate::tensor::{DataType, Element};

/// Why a value is not one of an element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    NotANumber,
    NotWhole,
    OutOfRange,
    NotABoolean,
    NotAString,
    NotBase64,
    /// Null or an empty cell, for an element type without NaN.
    Absent,
    TooManyStrings,
    /// For one element more.
    NoMemory,
}

/// Most strings in one input. A string of no length takes a hundred bytes on its way into a model and as little as one
/// in a body, so the size of the body alone would not bound what a request takes.
pub(super) const MAX_STRINGS: usize = 1 << 20;

impl Problem {
    /// The sentence for the caller; `given` is what was sent, ready to print.
    pub fn describe(self, given: &str, wanted: DataType) -> String {
        match self {
            Self::NotANumber => format!("{given} is not a number, {wanted} is needed"),
            Self::NotWhole => format!("{given} is not a whole number, {wanted} is needed"),
            Self::OutOfRange => format!("{given} is out of range for {wanted}"),
            Self::NotABoolean => format!("{given} is not a boolean; give true, false, 0 or 1"),
            Self::NotAString => format!("{given} is not a string"),
            Self::NotBase64 => format!("{given} is not {{\"b64\": \"base64 text\"}}"),
            Self::NoMemory => "there is no memory left".to_owned(),
            Self::TooManyStrings => format!("more than {MAX_STRINGS} strings; send fewer rows in one request"),
            Self::Absent => format!("{given} given, but {wanted} has no value for missing; only floats have (NaN)"),
        }
    }
}

/// A number on its way from one element type to another, exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i64),
    /// Above the range of `Int`, or from an unsigned type.
    Uint(u64),
    Float(f64),
}

/// An element type that holds numbers.
pub(super) trait Numeric: Element {
    /// Most bytes that a value takes as text.
    const TEXT_BYTES: usize;

    /// Reads a decimal number; floats also read `nan`, `inf` and `infinity` in any case, with or without a sign.
    fn parse(text: &str) -> Result<Self, Problem>;
    /// The value of a scanned number where that is cheap; otherwise [`Numeric::parse`] has to be asked.
    fn from_decimal(decimal: &Decimal) -> Option<Self>;
    fn from_number(number: Number) -> Result<Self, Problem>;
    fn to_number(self) -> Number;
    /// What stands for a missing value.
    fn missing() -> Option<Self>;
    fn from_bool(value: bool) -> Self;
    fn write(self, non_finite: &NonFinite, out: &mut Vec<u8>);
}

/// How a format spells the floats that are no numbers.
pub(super) struct NonFinite {
    pub nan: &'static str,
    pub positive: &'static str,
    pub negative: &'static str,
}

macro_rules! integers {
    ($($int:ident as $wide:ident, $text_bytes:literal);+ $(;)?) => { $(
        impl Numeric for $int {
            const TEXT_BYTES: usize = $text_bytes;

            #[inline]
            fn parse(text: &str) -> Result<Self, Problem> {
                text.parse().or_else(|_| whole(text)?.try_into().map_err(|_| Problem::OutOfRange))
            }

            #[inline]
            fn from_decimal(decimal: &Decimal) -> Option<Self> {
                decimal.integer()?.try_into().ok()
            }

            #[inline]
            fn from_number(number: Number) -> Result<Self, Problem> {
                match number {
                    Number::Int(value) => value.try_into().map_err(|_| Problem::OutOfRange),
                    Number::Uint(value) => value.try_into().map_err(|_| Problem::OutOfRange),
                    // `as` saturates, so that every value outside i128 is outside the integer type too.
                    Number::Float(value) if value.is_finite() && value.trunc() == value => {
                        (value as i128).try_into().map_err(|_| Problem::OutOfRange)
                    }
                    Number::Float(_) => Err(Problem::NotWhole),
                }
            }

            #[inline]
            fn to_number(self) -> Number {
                Number::$wide(self.into())
            }

            fn missing() -> Option<Self> {
                None
            }

            fn from_bool(value: bool) -> Self {
                value.into()
            }

            #[inline]
            fn write(self, _: &NonFinite, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
            }
        }
    )+ };
}

integers! {
    i8 as Int, 4; i16 as Int, 6; i32 as Int, 11; i64 as Int, 20;
    u8 as Uint, 3; u16 as Uint, 5; u32 as Uint, 10; u64 as Uint, 20;
}

macro_rules! floats {
    ($($float:ident: parsed as $parsed:ident by $narrow:expr, scanned by $cheap:expr, printed as $printed:ident, $text_bytes:literal);+ $(;)?) => { $(
        impl Numeric for $float {
            const TEXT_BYTES: usize = $text_bytes;

            #[inline]
            fn parse(text: &str) -> Result<Self, Problem> {
                let parsed: $parsed = text.parse().map_err(|_| Problem::NotANumber)?;
                let value: $float = $narrow(parsed);
                // Infinity is a value, a finite number too large to be told from it is not.
                if value.is_infinite() && text.bytes().any(|b| b.is_ascii_digit()) {
                    return Err(Problem::OutOfRange);
                }
                Ok(value)
            }

            #[inline]
            fn from_decimal(decimal: &Decimal) -> Option<Self> {
                $cheap(decimal)
            }

            #[inline]
            fn from_number(number: Number) -> Result<Self, Problem> {
                let wide = match number {
                    Number::Int(value) => value as f64,
                    Number::Uint(value) => value as f64,
                    Number::Float(value) => value,
                };
                let value = Self::from_wide(wide);
                if value.is_infinite() && wide.is_finite() {
                    return Err(Problem::OutOfRange);
                }
                Ok(value)
            }

            #[inline]
            fn to_number(self) -> Number {
                Number::Float(self.into())
            }

            fn missing() -> Option<Self> {
                Some(Self::NAN)
            }

            fn from_bool(value: bool) -> Self {
                Self::from_wide(f64::from(u8::from(value)))
            }

            #[inline]
            fn write(self, non_finite: &NonFinite, out: &mut Vec<u8>) {
                let value: $printed = self.into();
                if value.is_finite() {
                    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
                } else {
                    out.extend_from_slice(non_finite.spell(value.into()).as_bytes());
                }
            }
        }
    )+ };
}

/// The nearest value of a float type.
trait FromWide {
    fn from_wide(value: f64) -> Self;
}

impl FromWide for f64 {
    fn from_wide(value: f64) -> Self {
        value
    }
}

impl FromWide for f32 {
    fn from_wide(value: f64) -> Self {
        value as f32
    }
}

impl FromWide for f16 {
    fn from_wide(value: f64) -> Self {
        f16::from_f64(value)
    }
}

impl FromWide for bf16 {
    fn from_wide(value: f64) -> Self {
        bf16::from_f64(value)
    }
}

floats! {
    f64: parsed as f64 by std::convert::identity, scanned by Decimal::float, printed as f64, 25;
    f32: parsed as f32 by std::convert::identity, scanned by Decimal::single, printed as f32, 16;
    f16: parsed as f64 by f16::from_f64, scanned by |_| None, printed as f32, 16;
    bf16: parsed as f64 by bf16::from_f64, scanned by |_| None, printed as f32, 16;
}

impl NonFinite {
    fn spell(&self, value: f64) -> &'static str {
        if value.is_nan() {
            self.nan
        } else if value > 0.0 {
            self.positive
        } else {
            self.negative
        }
    }
}

/// The value of a decimal number that is whole however it is written (`3`, `3.0`, `1e3`, `2500e-2`). Exact: 128 bits
/// hold more than any element type, and the digits beyond them are only asked whether they are zero.
#[cold]
fn whole(text: &str) -> Result<i128, Problem> {
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let split = unsigned.iter().position(|b| matches!(b, b'e' | b'E'));
    let (mantissa, exponent) = match split {
        Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
        None => (unsigned, 0),
    };
    let point = mantissa.iter().position(|&b| b == b'.');
    let (integer, fraction) = match point {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    if integer.is_empty() && fraction.is_empty() {
        return Err(Problem::NotANumber);
    }

    // The value is `digits * 10^scale`, where `digits` ends at the last digit that is not zero.
    let mut digits = Some(0i128);
    let mut zeros = 0u32;
    for &b in integer.iter().chain(fraction) {
        match b {
            b'0' => zeros = zeros.saturating_add(1),
            b'1'..=b'9' => {
                digits = digits
                    .and_then(|d| shift(d, zeros.saturating_add(1)))
                    .and_then(|d| d.checked_add(i128::from(b - b'0')));
                zeros = 0;
            }
            _ => return Err(Problem::NotANumber),
        }
    }
    if digits == Some(0) {
        return Ok(0);
    }
    let scale = exponent - fraction.len() as i64 + i64::from(zeros);
    if scale < 0 {
        return Err(Problem::NotWhole);
    }
    let scale = u32::try_from(scale).unwrap_or(u32::MAX);
    let magnitude = digits.and_then(|d| shift(d, scale)).ok_or(Problem::OutOfRange)?;
    Ok(if negative { -magnitude } else { magnitude })
}

/// `value * 10^places`, unless that is too large.
fn shift(value: i128, places: u32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    10i128.checked_pow(places).and_then(|power| value.checked_mul(power))
}

/// An exponent, held at a magnitude that no number of digits can make up for.
fn parse_exponent(text: &[u8]) -> Result<i64, Problem> {
    const LIMIT: i64 = i64::MAX / 4;
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return Err(Problem::NotANumber);
    }
    let mut value = 0i64;
    for &b in digits {
        if !b.is_ascii_digit() {
            return Err(Problem::NotANumber);
        }
        value = value.saturating_mul(10).saturating_add(i64::from(b - b'0')).min(LIMIT);
    }
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PYTHON: NonFinite = NonFinite {
        nan: "NaN",
        positive: "Infinity",
        negative: "-Infinity",
    };

    #[test]
    fn integers_are_exact_and_whole_however_they_are_written() {
        let table: [(&str, Result<i64, Problem>); 24] = [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("3.0", Ok(3)),
            ("1e3", Ok(1000)),
            ("1E+3", Ok(1000)),
            ("2500e-2", Ok(25)),
            ("-1.25e2", Ok(-125)),
            ("0.00e-99999999999999999999", Ok(0)),
            ("0e99999999999999999999", Ok(0)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036854775807.000", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(Problem::OutOfRange)),
            ("1e19", Err(Problem::OutOfRange)),
            ("1e400", Err(Problem::OutOfRange)),
            ("1e99999999999999999999", Err(Problem::OutOfRange)),
            ("3.5", Err(Problem::NotWhole)),
            ("1e-1", Err(Problem::NotWhole)),
            ("1e-99999999999999999999", Err(Problem::NotWhole)),
            (
                "0.12345678901234567890123456789012345678901234567890",
                Err(Problem::NotWhole),
            ),
            ("", Err(Problem::NotANumber)),
            (".", Err(Problem::NotANumber)),
            ("1e", Err(Problem::NotANumber)),
            ("0x10", Err(Problem::NotANumber)),
        ];
        for (text, expected) in table {
            assert_eq!(i64::parse(text), expected, "{text:?}");
        }
        assert_eq!(u64::parse("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(u64::parse("1.8446744073709551615e19"), Ok(u64::MAX));
        assert_eq!(u64::parse("18446744073709551616"), Err(Problem::OutOfRange));
        assert_eq!(u8::parse("-0"), Ok(0));
        assert_eq!(u8::parse("-1"), Err(Problem::OutOfRange));
        assert_eq!(i8::parse("128"), Err(Problem::OutOfRange));
    }

    #[test]
    fn a_long_run_of_digits_is_judged_by_its_value() {
        let zeros = "0".repeat(4000);
        assert_eq!(i32::parse(&format!("{zeros}7.{zeros}")), Ok(7));
        assert_eq!(i32::parse(&format!("7{zeros}e-4000")), Ok(7));
        assert_eq!(i32::parse(&format!("7{zeros}")), Err(Problem::OutOfRange));
        assert_eq!(i32::parse(&format!("7.{zeros}1")), Err(Problem::NotWhole));
    }

    #[test]
    fn floats_round_once_and_refuse_to_become_infinite() {
        // Halfway between two float32 values in decimal, just above it in the digits that float64 drops.
        assert_eq!(f32::parse("1.00000017881393432617187499"), Ok(1.000_000_1));
        assert_eq!(f32::parse("1.00000017881393432617187501"), Ok(1.000_000_2));
        assert_eq!(f32::parse("3.4028235e38"), Ok(f32::MAX));
        assert_eq!(f32::parse("3.5e38"), Err(Problem::OutOfRange));
        assert_eq!(f64::parse("1e400"), Err(Problem::OutOfRange));
        assert_eq!(f64::parse("-1e999"), Err(Problem::OutOfRange));
        assert_eq!(f64::parse("1e-400"), Ok(0.0));
        assert_eq!(f16::parse("65504"), Ok(f16::MAX));
        assert_eq!(f16::parse("65520"), Err(Problem::OutOfRange));
        assert_eq!(bf16::parse("3.3895314e38"), Ok(bf16::MAX));
        assert_eq!(f32::parse("-Infinity"), Ok(f32::NEG_INFINITY));
        assert!(f64::parse("NaN").unwrap().is_nan());
        assert_eq!(f64::parse("one"), Err(Problem::NotANumber));
    }

    #[test]
    fn numbers_of_other_types_are_taken_when_they_fit() {
        assert_eq!(f32::from_number(Number::Float(0.1)), Ok(0.1));
        assert_eq!(f32::from_number(Number::Float(1e300)), Err(Problem::OutOfRange));
        assert_eq!(f32::from_number(Number::Float(f64::INFINITY)), Ok(f32::INFINITY));
        assert_eq!(i32::from_number(Number::Float(-7.0)), Ok(-7));
        assert_eq!(i32::from_number(Number::Float(7.5)), Err(Problem::NotWhole));
        assert_eq!(i32::from_number(Number::Float(f64::NAN)), Err(Problem::NotWhole));
        assert_eq!(u64::from_number(Number::Float(2f64.powi(63))), Ok(1 << 63));
        assert_eq!(u64::from_number(Number::Float(2f64.powi(64))), Err(Problem::OutOfRange));
        assert_eq!(i64::from_number(Number::Float(-(2f64.powi(63)))), Ok(i64::MIN));
        assert_eq!(i64::from_number(Number::Float(1e300)), Err(Problem::OutOfRange));
        assert_eq!(i64::from_number(Number::Uint(u64::MAX)), Err(Problem::OutOfRange));
        assert_eq!(u8::from_number(Number::Int(-1)), Err(Problem::OutOfRange));
        assert_eq!(f16::from_number(Number::Int(70_000)), Err(Problem::OutOfRange));
    }

    #[test]
    fn text_bytes_bound_the_longest_value_of_each_type() {
        fn longest<T: Numeric>(values: &[T]) {
            for &value in values {
                let mut out = Vec::new();
                value.write(&PYTHON, &mut out);
                assert!(out.len() <= T::TEXT_BYTES, "{}", String::from_utf8_lossy(&out));
            }
        }
        longest(&[i8::MIN, i8::MAX]);
        longest(&[i16::MIN, i16::MAX]);
        longest(&[i32::MIN, i32::MAX]);
        longest(&[i64::MIN, i64::MAX]);
        longest(&[u8::MAX]);
        longest(&[u16::MAX]);
        longest(&[u32::MAX]);
        longest(&[u64::MAX]);
        longest(&[
            f64::MIN,
            f64::MIN_POSITIVE,
            -2.225_073_858_507_201e-308,
            f64::NEG_INFINITY,
        ]);
        longest(&[f32::MIN, f32::MIN_POSITIVE, -1.175_494_4e-38, -0.000_012_345_678]);
        longest(&[f16::MIN, f16::MIN_POSITIVE]);
        longest(&[bf16::MIN, bf16::MIN_POSITIVE]);
    }

    proptest! {
        #[test]
        fn written_numbers_are_read_back_bit_for_bit(float in any::<f64>(), single in any::<f32>(), int in any::<i64>()) {
            fn again<T: Numeric>(value: T) -> T {
                let mut out = Vec::new();
                value.write(&PYTHON, &mut out);
                assert!(out.len() <= T::TEXT_BYTES);
                T::parse(std::str::from_utf8(&out).unwrap()).unwrap()
            }
            prop_assert!(float.is_nan() || again(float).to_bits() == float.to_bits());
            prop_assert!(single.is_nan() || again(single).to_bits() == single.to_bits());
            prop_assert_eq!(again(int), int);
        }

        #[test]
        fn whole_agrees_with_exact_decimal_arithmetic(digits in 0u32..1_000_000, exponent in -8i32..8) {
            let value = i128::from(digits) * 10i128.pow(8);
            let scaled = if exponent >= 0 { value * 10i128.pow(exponent as u32) } else {
                let power = 10i128.pow(-exponent as u32);
                value / power
            };
            let expected = if scaled % 10i128.pow(8) == 0 { Ok(scaled / 10i128.pow(8)) } else { Err(Problem::NotWhole) };
            prop_assert_eq!(whole(&format!("{digits}e{exponent}")), expected);
        }

        #[test]
        fn any_text_is_a_number_or_a_problem(text in "[-+0-9.eE]{0,40}") {
            if let Ok(value) = i64::parse(&text) {
                prop_assert!((value as f64 - text.parse::<f64>().unwrap()).abs() <= (value as f64).abs() * 1e-15);
            }
        }
    }
}
