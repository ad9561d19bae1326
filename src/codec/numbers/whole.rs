//! Parses whole numbers in any notation with exact decimal arithmetic. Float arithmetic would lose
//! the low digits.

use super::ValueProblem;

/// Parses a decimal number whose value is whole, in any notation (`3`, `3.0`, `1e3`, `2500e-2`).
/// The result is exact: 128 bits hold more than any element type, and digits beyond them need only
/// a check for zero.
#[cold]
pub(super) fn whole(text: &str) -> Result<i128, ValueProblem> {
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
        return Err(ValueProblem::NotANumber);
    }

    // The value is `digits * 10^scale`; `digits` ends at the last digit that is not zero.
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
            _ => return Err(ValueProblem::NotANumber),
        }
    }
    if digits == Some(0) {
        return Ok(0);
    }
    let scale = exponent - fraction.len() as i64 + i64::from(zeros);
    if scale < 0 {
        return Err(ValueProblem::NotWhole);
    }
    let scale = u32::try_from(scale).unwrap_or(u32::MAX);
    let magnitude = digits.and_then(|d| shift(d, scale)).ok_or(ValueProblem::OutOfRange)?;
    Ok(if negative { -magnitude } else { magnitude })
}

/// Computes `value * 10^places`. `None` on overflow.
fn shift(value: i128, places: u32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    10i128.checked_pow(places).and_then(|power| value.checked_mul(power))
}

/// Parses an exponent. Its magnitude is capped at a value that no number of digits can offset.
fn parse_exponent(text: &[u8]) -> Result<i64, ValueProblem> {
    const LIMIT: i64 = i64::MAX / 4;
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return Err(ValueProblem::NotANumber);
    }
    let mut value = 0i64;
    for &b in digits {
        if !b.is_ascii_digit() {
            return Err(ValueProblem::NotANumber);
        }
        value = value.saturating_mul(10).saturating_add(i64::from(b - b'0')).min(LIMIT);
    }
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whole_agrees_with_exact_decimal_arithmetic(digits in 0u32..1_000_000, exponent in -8i32..8) {
            let value = i128::from(digits) * 10i128.pow(8);
            let scaled = if exponent >= 0 { value * 10i128.pow(exponent as u32) } else {
                let power = 10i128.pow(-exponent as u32);
                value / power
            };
            let expected = if scaled % 10i128.pow(8) == 0 { Ok(scaled / 10i128.pow(8)) } else { Err(ValueProblem::NotWhole) };
            prop_assert_eq!(whole(&format!("{digits}e{exponent}")), expected);
        }
    }
}
