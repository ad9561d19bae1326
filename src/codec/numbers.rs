//! Conversion of numbers between text and element types, and between element types.
//!
//! Text is parsed directly as the element type. A detour through `f64` would round `float32` twice
//! and lose the low digits of 64-bit integers.
//!
//! Invariant: a value that the element type cannot hold is a [`ValueProblem`], and never becomes
//! another value. Rounding to the nearest float is allowed; overflow to infinity is not.

mod decimal;
#[cfg(test)]
mod tests;
mod whole;

use half::{bf16, f16};
use lexical_parse_float::{FromLexicalWithOptions, Options, format};

use crate::tensor::{DataType, Element};

use decimal::Nearest;
use whole::whole;

/// The reasons why a value cannot be an element of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueProblem {
    NotANumber,
    NotWhole,
    OutOfRange,
    NotABoolean,
    NotAString,
    NotBase64,
    /// Null or an empty cell, although the element type has no NaN.
    Absent,
    TooManyStrings,
    /// The allocation for the next element failed.
    NoMemory,
}

/// Limit on the strings in one input. An empty string takes a hundred bytes on its way into a model
/// but as little as one byte in a body, so the size of the body alone would not bound the memory.
pub(super) const MAX_STRINGS: usize = 1 << 20;

impl ValueProblem {
    /// Writes the message for the caller; `given` describes the value in the request.
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
            Self::Absent => {
                format!("{given} given, but {wanted} has no missing value; only float types have one (NaN)")
            }
        }
    }
}

/// An exact number between two element types.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AnyNumber {
    Int(i64),
    /// Above the range of `Int`, or from an unsigned type.
    Uint(u64),
    Float(f64),
}

/// An element type that holds numbers.
pub(super) trait Numeric: Element {
    /// Limit on the bytes of a value as text.
    const TEXT_BYTES: usize;

    /// Parses a decimal number. Float types also accept `nan`, `inf` and `infinity` in any case,
    /// with or without a sign.
    fn parse(text: &str) -> Result<Self, ValueProblem>;
    /// Parses the JSON number at the start of `text` in one pass, and returns its length. `None`
    /// for other text and for what takes more than one pass; [`Numeric::parse`] then decides.
    fn scan(text: &[u8]) -> Option<(Self, usize)>;
    fn from_number(number: AnyNumber) -> Result<Self, ValueProblem>;
    fn to_number(self) -> AnyNumber;
    /// The missing value of the type: NaN, or `None` for integers.
    fn missing() -> Option<Self>;
    fn from_bool(value: bool) -> Self;
    fn write(self, non_finite: &NonFinite, out: &mut Vec<u8>);
}

/// The names of the non-finite floats in a format.
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
            fn parse(text: &str) -> Result<Self, ValueProblem> {
                text.parse().or_else(|_| whole(text)?.try_into().map_err(|_| ValueProblem::OutOfRange))
            }

            #[inline]
            fn scan(text: &[u8]) -> Option<(Self, usize)> {
                let (value, length) = scan_integer(text)?;
                Some((value.try_into().ok()?, length))
            }

            #[inline]
            fn from_number(number: AnyNumber) -> Result<Self, ValueProblem> {
                match number {
                    AnyNumber::Int(value) => value.try_into().map_err(|_| ValueProblem::OutOfRange),
                    AnyNumber::Uint(value) => value.try_into().map_err(|_| ValueProblem::OutOfRange),
                    // `as` saturates, so every value outside i128 is outside the integer type too.
                    AnyNumber::Float(value) if value.is_finite() && value.trunc() == value => {
                        (value as i128).try_into().map_err(|_| ValueProblem::OutOfRange)
                    }
                    AnyNumber::Float(_) => Err(ValueProblem::NotWhole),
                }
            }

            #[inline]
            fn to_number(self) -> AnyNumber {
                AnyNumber::$wide(self.into())
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
    ($($float:ident: parsed as $parsed:ident by $narrow:expr, scanned by $scan:expr, printed as $printed:ident, $text_bytes:literal);+ $(;)?) => { $(
        impl Numeric for $float {
            const TEXT_BYTES: usize = $text_bytes;

            #[inline]
            fn parse(text: &str) -> Result<Self, ValueProblem> {
                let parsed: $parsed = text.parse().map_err(|_| ValueProblem::NotANumber)?;
                let value: $float = $narrow(parsed);
                // Infinity itself is allowed; a finite number that rounds to infinity is not.
                if value.is_infinite() && text.bytes().any(|b| b.is_ascii_digit()) {
                    return Err(ValueProblem::OutOfRange);
                }
                Ok(value)
            }

            #[inline]
            fn scan(text: &[u8]) -> Option<(Self, usize)> {
                $scan(text)
            }

            #[inline]
            fn from_number(number: AnyNumber) -> Result<Self, ValueProblem> {
                let wide = match number {
                    AnyNumber::Int(value) => value as f64,
                    AnyNumber::Uint(value) => value as f64,
                    AnyNumber::Float(value) => value,
                };
                let value = Self::from_wide(wide);
                if value.is_infinite() && wide.is_finite() {
                    return Err(ValueProblem::OutOfRange);
                }
                Ok(value)
            }

            #[inline]
            fn to_number(self) -> AnyNumber {
                AnyNumber::Float(self.into())
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

/// Conversion to the nearest value of a float type.
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
    f64: parsed as f64 by std::convert::identity, scanned by scan_float::<f64>, printed as f64, 25;
    f32: parsed as f32 by std::convert::identity, scanned by scan_float::<f32>, printed as f32, 16;
    f16: parsed as f64 by f16::from_f64, scanned by |_| None, printed as f32, 16;
    bf16: parsed as f64 by bf16::from_f64, scanned by |_| None, printed as f32, 16;
}

/// Parses the JSON number at the start of `text`, rounded to the nearest float. A number that
/// rounds to infinity is left to [`Numeric::parse`], which refuses it.
#[inline]
fn scan_float<F: Nearest + FromLexicalWithOptions<Options = Options> + Into<f64> + Copy>(
    text: &[u8],
) -> Option<(F, usize)> {
    let decimal = decimal::scan(text);
    let nearest = decimal.and_then(|decimal| Some((F::nearest(decimal)?, decimal.length)));
    nearest.or_else(|| scan_hard_float(text))
}

/// Parses any JSON number, as [`scan_float`] does.
#[cold]
fn scan_hard_float<F: FromLexicalWithOptions<Options = Options> + Into<f64> + Copy>(text: &[u8]) -> Option<(F, usize)> {
    const OPTIONS: Options = Options::new();
    let scanned = F::from_lexical_partial_with_options::<{ format::JSON }>(text, &OPTIONS);
    scanned.ok().filter(|&(value, _)| value.into().is_finite())
}

/// Parses the JSON integer at the start of `text`. `None` for a number with a point or an exponent,
/// and for one of more digits than always fit into a `u64`.
#[inline]
fn scan_integer(text: &[u8]) -> Option<(i128, usize)> {
    const MAX_DIGITS: usize = 19;
    let is_negative = text.first() == Some(&b'-');
    let digits = &text[usize::from(is_negative)..];
    let count = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
    let is_integer = !matches!(digits.get(count), Some(b'.' | b'e' | b'E'));
    if !is_integer || count == 0 || count > MAX_DIGITS || (count > 1 && digits[0] == b'0') {
        return None;
    }
    let add = |value: u64, digit: &u8| value * 10 + u64::from(digit - b'0');
    let magnitude = i128::from(digits[..count].iter().fold(0, add));
    let value = if is_negative { -magnitude } else { magnitude };
    Some((value, count + usize::from(is_negative)))
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
