use proptest::prelude::*;

use super::*;

const PYTHON: NonFinite = NonFinite {
    nan: "NaN",
    positive: "Infinity",
    negative: "-Infinity",
};

#[test]
fn integers_are_exact_in_every_notation() {
    let table: [(&str, Result<i64, ValueProblem>); 24] = [
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
        ("9223372036854775808", Err(ValueProblem::OutOfRange)),
        ("1e19", Err(ValueProblem::OutOfRange)),
        ("1e400", Err(ValueProblem::OutOfRange)),
        ("1e99999999999999999999", Err(ValueProblem::OutOfRange)),
        ("3.5", Err(ValueProblem::NotWhole)),
        ("1e-1", Err(ValueProblem::NotWhole)),
        ("1e-99999999999999999999", Err(ValueProblem::NotWhole)),
        (
            "0.12345678901234567890123456789012345678901234567890",
            Err(ValueProblem::NotWhole),
        ),
        ("", Err(ValueProblem::NotANumber)),
        (".", Err(ValueProblem::NotANumber)),
        ("1e", Err(ValueProblem::NotANumber)),
        ("0x10", Err(ValueProblem::NotANumber)),
    ];
    for (text, expected) in table {
        assert_eq!(i64::parse(text), expected, "{text:?}");
    }
    assert_eq!(u64::parse("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(u64::parse("1.8446744073709551615e19"), Ok(u64::MAX));
    assert_eq!(u64::parse("18446744073709551616"), Err(ValueProblem::OutOfRange));
    assert_eq!(u8::parse("-0"), Ok(0));
    assert_eq!(u8::parse("-1"), Err(ValueProblem::OutOfRange));
    assert_eq!(i8::parse("128"), Err(ValueProblem::OutOfRange));
}

#[test]
fn a_long_number_is_checked_by_its_value_not_its_length() {
    let zeros = "0".repeat(4000);
    assert_eq!(i32::parse(&format!("{zeros}7.{zeros}")), Ok(7));
    assert_eq!(i32::parse(&format!("7{zeros}e-4000")), Ok(7));
    assert_eq!(i32::parse(&format!("7{zeros}")), Err(ValueProblem::OutOfRange));
    assert_eq!(i32::parse(&format!("7.{zeros}1")), Err(ValueProblem::NotWhole));
}

#[test]
fn floats_round_once_and_do_not_overflow_to_infinity() {
    // The first is just below the midpoint of two float32 values, the second just above. They
    // differ only in digits that float64 drops.
    assert_eq!(f32::parse("1.00000017881393432617187499"), Ok(1.000_000_1));
    assert_eq!(f32::parse("1.00000017881393432617187501"), Ok(1.000_000_2));
    assert_eq!(f32::parse("3.4028235e38"), Ok(f32::MAX));
    assert_eq!(f32::parse("3.5e38"), Err(ValueProblem::OutOfRange));
    assert_eq!(f64::parse("1e400"), Err(ValueProblem::OutOfRange));
    assert_eq!(f64::parse("-1e999"), Err(ValueProblem::OutOfRange));
    assert_eq!(f64::parse("1e-400"), Ok(0.0));
    assert_eq!(f16::parse("65504"), Ok(f16::MAX));
    assert_eq!(f16::parse("65520"), Err(ValueProblem::OutOfRange));
    assert_eq!(bf16::parse("3.3895314e38"), Ok(bf16::MAX));
    assert_eq!(f32::parse("-Infinity"), Ok(f32::NEG_INFINITY));
    assert!(f64::parse("NaN").unwrap().is_nan());
    assert_eq!(f64::parse("one"), Err(ValueProblem::NotANumber));
}

#[test]
fn numbers_of_other_types_are_converted_if_they_fit() {
    assert_eq!(f32::from_number(AnyNumber::Float(0.1)), Ok(0.1));
    assert_eq!(f32::from_number(AnyNumber::Float(1e300)), Err(ValueProblem::OutOfRange));
    assert_eq!(f32::from_number(AnyNumber::Float(f64::INFINITY)), Ok(f32::INFINITY));
    assert_eq!(i32::from_number(AnyNumber::Float(-7.0)), Ok(-7));
    assert_eq!(i32::from_number(AnyNumber::Float(7.5)), Err(ValueProblem::NotWhole));
    assert_eq!(
        i32::from_number(AnyNumber::Float(f64::NAN)),
        Err(ValueProblem::NotWhole)
    );
    assert_eq!(u64::from_number(AnyNumber::Float(2f64.powi(63))), Ok(1 << 63));
    assert_eq!(
        u64::from_number(AnyNumber::Float(2f64.powi(64))),
        Err(ValueProblem::OutOfRange)
    );
    assert_eq!(i64::from_number(AnyNumber::Float(-(2f64.powi(63)))), Ok(i64::MIN));
    assert_eq!(i64::from_number(AnyNumber::Float(1e300)), Err(ValueProblem::OutOfRange));
    assert_eq!(
        i64::from_number(AnyNumber::Uint(u64::MAX)),
        Err(ValueProblem::OutOfRange)
    );
    assert_eq!(u8::from_number(AnyNumber::Int(-1)), Err(ValueProblem::OutOfRange));
    assert_eq!(f16::from_number(AnyNumber::Int(70_000)), Err(ValueProblem::OutOfRange));
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
    fn any_text_is_a_number_or_a_problem(text in "[-+0-9.eE]{0,40}") {
        if let Ok(value) = i64::parse(&text) {
            prop_assert!((value as f64 - text.parse::<f64>().unwrap()).abs() <= (value as f64).abs() * 1e-15);
        }
    }
}

#[test]
fn a_scanned_number_ends_where_json_says() {
    type Scanned<T> = Option<(T, usize)>;
    let table: [(&str, Scanned<f64>, Scanned<i64>); 24] = [
        ("0", Some((0.0, 1)), Some((0, 1))),
        ("-7]", Some((-7.0, 2)), Some((-7, 2))),
        ("-0.0]", Some((-0.0, 4)), None),
        ("12,", Some((12.0, 2)), Some((12, 2))),
        ("1.25 ", Some((1.25, 4)), None),
        ("1e5", Some((1e5, 3)), None),
        ("1.5E-07", Some((1.5e-7, 7)), None),
        ("1e+22", Some((1e22, 5)), None),
        (
            "9223372036854775807",
            Some((9_223_372_036_854_775_807.0, 19)),
            Some((i64::MAX, 19)),
        ),
        ("9999999999999999999", Some((1e19, 19)), None),
        ("10000000000000000000", Some((1e19, 20)), None),
        ("0.1234567890123456789", Some((0.123_456_789_012_345_68, 21)), None),
        ("1e400", None, None),
        ("01", None, None),
        ("-", None, None),
        ("", None, None),
        (".5", None, None),
        ("1.", None, None),
        ("1.e5", None, None),
        ("1e", None, None),
        ("1e+", None, None),
        ("+1", None, None),
        ("NaN", None, None),
        ("-Infinity", None, None),
    ];
    for (text, float, integer) in table {
        let scanned = f64::scan(text.as_bytes()).map(|(value, length)| (value.to_bits(), length));
        assert_eq!(
            scanned,
            float.map(|(value, length)| (value.to_bits(), length)),
            "{text:?}"
        );
        assert_eq!(i64::scan(text.as_bytes()), integer, "{text:?}");
    }
    assert_eq!(u8::scan(b"255"), Some((255, 3)));
    assert_eq!(u8::scan(b"256"), None);
    assert_eq!(f32::scan(b"3.5e38"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn scanned_floats_equal_those_of_the_standard_library(
        text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?"
    ) {
        if let Some((value, length)) = f64::scan(text.as_bytes()) {
            prop_assert_eq!((value.to_bits(), length), (text.parse::<f64>().unwrap().to_bits(), text.len()));
        }
        if let Some((value, length)) = f32::scan(text.as_bytes()) {
            prop_assert_eq!((value.to_bits(), length), (text.parse::<f32>().unwrap().to_bits(), text.len()));
        }
    }

    /// The decimal expansion of the midpoint of two `f32` is the hardest case.
    #[test]
    fn scanned_singles_are_correct_next_to_a_midpoint(bits in 0x0100_0000u32..0x7e00_0000, digits in 14usize..30) {
        let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
        let text = format!("{middle:.digits$e}");
        let (value, _) = f32::scan(text.as_bytes()).unwrap();
        prop_assert_eq!(value.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{}", text);
    }
}
