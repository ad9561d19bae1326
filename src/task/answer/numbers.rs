//! Writes numbers as text: the shortest digits that parse to the same number.

use crate::tensor::{DataType, Tensor};

/// The spelling of NaN and the infinities.
pub(super) struct NotFinite {
    nan: &'static [u8],
    positive: &'static [u8],
    negative: &'static [u8],
}

/// The spelling of Python's `json`.
pub(super) const JSON: NotFinite = NotFinite {
    nan: b"NaN",
    positive: b"Infinity",
    negative: b"-Infinity",
};

/// The spelling of `numpy.savetxt`.
pub(super) const CELL: NotFinite = NotFinite {
    nan: b"nan",
    positive: b"inf",
    negative: b"-inf",
};

/// Maximum bytes of an `f32` with its separator.
pub(super) const FLOAT_BYTES: usize = 17;

pub(super) trait Number: Copy {
    fn write(self, not_finite: &NotFinite, out: &mut Vec<u8>);
}

macro_rules! floats {
    ($($float:ty, $printed:ty);+) => { $(
        impl Number for $float {
            #[inline]
            fn write(self, not_finite: &NotFinite, out: &mut Vec<u8>) {
                let number: $printed = self.into();
                if number.is_finite() {
                    out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
                } else if number.is_nan() {
                    out.extend_from_slice(not_finite.nan);
                } else if number > 0.0 {
                    out.extend_from_slice(not_finite.positive);
                } else {
                    out.extend_from_slice(not_finite.negative);
                }
            }
        }
    )+ };
}

floats!(f32, f32; f64, f64; half::f16, f32; half::bf16, f32);

macro_rules! integers {
    ($($integer:ty),+) => { $(
        impl Number for $integer {
            #[inline]
            fn write(self, _: &NotFinite, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
            }
        }
    )+ };
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64, usize);

/// Writes numbers separated by commas.
pub(super) fn write_list<N: Number>(numbers: &[N], not_finite: &NotFinite, out: &mut Vec<u8>) {
    for (i, number) in numbers.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        number.write(not_finite, out);
    }
}

/// Writes elements of a numeric tensor separated by commas.
pub(super) fn write_elements(
    tensor: &Tensor,
    range: std::ops::Range<usize>,
    not_finite: &NotFinite,
    out: &mut Vec<u8>,
) {
    macro_rules! by_type {
        ($($rust:ty),+) => {
            match tensor.data_type() {
                $(<$rust as crate::tensor::Element>::DATA_TYPE => {
                    let numbers = tensor.as_slice::<$rust>().and_then(|all| all.get(range));
                    write_list(numbers.unwrap_or_default(), not_finite, out);
                })+
                DataType::Bool | DataType::String => {}
            }
        };
    }
    by_type!(half::f16, half::bf16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);
}
