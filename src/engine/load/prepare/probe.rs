//! Runs a model on generated data: measures its memory, and compares the answers of two forms and
//! of joined rows.
//!
//! The data consists of small random numbers, which are the same every time. A model that cannot
//! handle them is still a valid model.

use bytes::Bytes;
use half::{bf16, f16};

use crate::engine::onnxruntime::session::{Cancel, Session};
use crate::tensor::{DataType, Dim, InputSpec, Signature, Tensor, Value, element_count};

/// Sizes that are tried for open dimensions other than the first: sequences accept any size, images
/// need some pixels.
const SIZES: [usize; 4] = [1, 8, 32, 224];

/// Largest of these sizes for the additional run. It fits the memory that the child has for a run
/// of the smallest size.
const MAX_LARGER_SIZE: usize = 32;

/// Maximum number of elements of a generated input; larger ones do not resemble real requests.
const MAX_ELEMENTS: usize = 16 << 20;

/// The answers of a model.
#[derive(Debug, PartialEq)]
pub struct Answers {
    /// Answers to the data of two seeds, each run by itself. If the first axis is open, each is one
    /// row.
    alone: [Vec<Value>; 2],
    /// Answer to both rows together.
    together: Option<Vec<Value>>,
    /// Size of the open dimensions other than the first.
    pub size: usize,
}

/// The part of the answers that is compared between forms of a model: as few runs as cover the data
/// of both seeds.
#[derive(Debug, PartialEq)]
pub enum AnswerSample {
    Together(Vec<Value>),
    /// The rows cannot be joined, or the model does not answer them together.
    Alone([Vec<Value>; 2]),
}

/// Runs `session` on generated data; `None` if it does not answer.
pub fn ask(session: &Session, cancel: &Cancel) -> Option<Answers> {
    let run = |inputs: &[Tensor]| session.run(inputs, None, cancel).ok();
    SIZES.into_iter().find_map(|size| {
        let [first, second] = rows(session.signature(), size)?;
        let alone = [run(&first)?, run(&second)?];
        let together = joined(session.signature(), &first, &second).and_then(|joined| run(&joined));
        Some(Answers { alone, together, size })
    })
}

/// Runs `session` on the same data as [`ask`], in fewer runs.
pub fn ask_for_sample(session: &Session, cancel: &Cancel) -> Option<AnswerSample> {
    let run = |inputs: &[Tensor]| session.run(inputs, None, cancel).ok();
    SIZES.into_iter().find_map(|size| {
        let [first, second] = rows(session.signature(), size)?;
        let together = joined(session.signature(), &first, &second).and_then(|joined| run(&joined));
        if let Some(together) = together {
            return Some(AnswerSample::Together(together));
        }
        Some(AnswerSample::Alone([run(&first)?, run(&second)?]))
    })
}

/// One row of each seed.
fn rows(signature: &Signature, size: usize) -> Option<[Vec<Tensor>; 2]> {
    Some([scaled(signature, size, 1, 1.0)?, scaled(signature, size, 2, 1.0)?])
}

/// Both rows together; `None` if they cannot be joined.
fn joined(signature: &Signature, first: &[Tensor], second: &[Tensor]) -> Option<Vec<Tensor>> {
    joined_axis(signature).then(|| join(first, second)).flatten()
}

/// Runs `session` on one record of more data than [`ask`] uses: of the second size that it answers.
/// `None` if only the first axis is open, or if it answers no second size.
pub fn ask_larger(session: &Session, cancel: &Cancel) -> Option<Vec<Value>> {
    let signature = session.signature();
    let is_open = |input: &InputSpec| {
        let dims = input.dims.iter().flatten().skip(1);
        dims.into_iter().any(|dim| matches!(dim, Dim::Dynamic(_)))
    };
    if !signature.inputs.iter().any(is_open) {
        return None;
    }
    let mut answers = SIZES
        .into_iter()
        .filter(|&size| size <= MAX_LARGER_SIZE)
        .filter_map(|size| {
            let inputs = scaled(signature, size, 1, 1.0)?;
            session.run(&inputs, None, cancel).ok()
        });
    answers.nth(1)
}

/// The first data generated for `signature` for which `run` succeeds.
pub fn answered(signature: &Signature, run: impl Fn(&[Tensor]) -> bool) -> Option<Vec<Tensor>> {
    SIZES.into_iter().find_map(|size| {
        let inputs = scaled(signature, size, 1, 1.0)?;
        run(&inputs).then_some(inputs)
    })
}

/// Generates inputs of ones for `signature`, without checking that a model answers them.
pub fn ones(signature: &Signature) -> Option<Vec<Tensor>> {
    let inputs = signature.inputs.iter();
    inputs.map(|input| row(input, SIZES[0], || 1.0)).collect()
}

impl Answers {
    /// Each run: the number of rows along the first axis of the inputs, and the outputs.
    pub fn runs(&self) -> impl Iterator<Item = (usize, &[Value])> {
        let alone = self.alone.iter().map(|outputs| (1, outputs.as_slice()));
        alone.chain(self.together.as_deref().map(|outputs| (2, outputs)))
    }

    /// Whether the answers of another form are equal to the last bit.
    pub fn agree(&self, other: &AnswerSample) -> bool {
        match other {
            AnswerSample::Together(together) => self.together.as_ref() == Some(together),
            AnswerSample::Alone(alone) => self.alone == *alone,
        }
    }

    /// For each output, whether each row has the same answer alone and joined. `None` if that was
    /// not observed: the first axis is fixed, or the answer does not depend on the data.
    pub fn independent_rows(&self) -> Option<Vec<bool>> {
        let together = self.together.as_ref()?;
        let [first, second] = &self.alone;
        if first == second {
            return None;
        }
        let pairs = together.iter().zip(first.iter().zip(second));
        let holds = pairs.map(|(together, (first, second))| holds(together, first, second).unwrap_or(false));
        Some(holds.collect())
    }
}

/// Whether rows can be joined along the first axis of every input.
fn joined_axis(signature: &Signature) -> bool {
    let is_free = |dims: &Option<Vec<Dim>>| {
        dims.as_ref()
            .is_some_and(|dims| matches!(dims.first(), Some(Dim::Dynamic(_))))
    };
    !signature.inputs.is_empty() && signature.inputs.iter().all(|input| is_free(&input.dims))
}

/// Whether `together` is `first` followed by `second`, except for rounding: the number of rows
/// decides which kernels run.
fn holds(together: &Value, first: &Value, second: &Value) -> Option<bool> {
    let rows = |value: &Value| match value {
        Value::Tensor(tensor) => tensor.shape().first().copied(),
        Value::Sequence(items) => Some(items.len()),
        Value::Map { .. } => None,
    };
    if rows(together)? != rows(first)? + rows(second)? {
        return Some(false);
    }
    let expected = [numbers_of(first)?, numbers_of(second)?].concat();
    let found = numbers_of(together)?;
    let near = |(found, expected): (&f64, &f64)| {
        found == expected
            || (found.is_nan() && expected.is_nan())
            || (found - expected).abs() <= 1e-5 + 1e-3 * expected.abs()
    };
    Some(found.len() == expected.len() && found.iter().zip(&expected).all(near))
}

/// All numbers of a value, in order.
pub(super) fn numbers_of(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Tensor(tensor) => numbers(tensor),
        Value::Sequence(items) => {
            let items: Vec<Vec<f64>> = items.iter().map(numbers_of).collect::<Option<_>>()?;
            Some(items.concat())
        }
        Value::Map { keys, values } => Some([numbers(keys)?, numbers(values)?].concat()),
    }
}

fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    macro_rules! of {
        ($type:ty) => {
            tensor
                .as_slice::<$type>()?
                .iter()
                .map(|&value| value as f64)
                .collect()
        };
    }
    Some(match tensor.data_type() {
        DataType::F16 => tensor.as_slice::<f16>()?.iter().map(|value| value.to_f64()).collect(),
        DataType::Bf16 => tensor.as_slice::<bf16>()?.iter().map(|value| value.to_f64()).collect(),
        DataType::F32 => of!(f32),
        DataType::F64 => of!(f64),
        DataType::I8 => of!(i8),
        DataType::I16 => of!(i16),
        DataType::I32 => of!(i32),
        DataType::I64 => of!(i64),
        DataType::U8 => of!(u8),
        DataType::U16 => of!(u16),
        DataType::U32 => of!(u32),
        DataType::U64 => of!(u64),
        DataType::Bool => tensor.as_bytes()?.iter().map(|&value| f64::from(value)).collect(),
        // A label becomes its hash.
        DataType::String => tensor.as_strings()?.iter().map(label).collect(),
    })
}

fn label(text: &Bytes) -> f64 {
    let hash = blake3::hash(text);
    let bytes: [u8; 4] = std::array::from_fn(|index| hash.as_bytes()[index]);
    f64::from(u32::from_le_bytes(bytes))
}

/// Generates a row for each input. Floating-point numbers are multiplied by `factor`.
pub(super) fn scaled(signature: &Signature, size: usize, seed: u64, factor: f64) -> Option<Vec<Tensor>> {
    let inputs = signature.inputs.iter();
    inputs
        .map(|input| {
            let mut float = random(seed);
            row(input, size, move || float() * factor)
        })
        .collect()
}

/// Generates numbers from -1 to 1 in steps of a hundredth, which are short enough to be displayed.
fn random(seed: u64) -> impl FnMut() -> f64 {
    // Two rows must also differ where a value has only two choices, so one bit of a simple
    // generator is not enough.
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mixed = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let fraction = ((mixed ^ (mixed >> 32)) >> 40) as f64 / f64::from(1 << 23) - 1.0;
        (fraction * 100.0).round() / 100.0
    }
}

/// Generates one row of data from the numbers of `float`.
fn row(input: &InputSpec, size: usize, mut float: impl FnMut() -> f64) -> Option<Tensor> {
    let any = [Dim::Dynamic(None)];
    let shape: Vec<usize> = input
        .dims
        .as_deref()
        .unwrap_or(&any)
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim {
            Dim::Fixed(fixed) => *fixed,
            Dim::Dynamic(_) if axis == 0 => 1,
            Dim::Dynamic(_) => size,
        })
        .collect();
    let count = element_count(&shape).filter(|&count| count <= MAX_ELEMENTS)?;
    macro_rules! floats {
        ($convert:expr) => {
            Tensor::from_vec(shape, (0..count).map(|_| $convert(float())).collect())
        };
    }
    macro_rules! integers {
        ($type:ty) => {
            // For indices and counts, 0 and 1 are almost always in range.
            Tensor::from_vec(shape, (0..count).map(|_| (float() > 0.0) as $type).collect())
        };
    }
    let tensor = match input.data_type {
        DataType::F16 => floats!(f16::from_f64),
        DataType::Bf16 => floats!(bf16::from_f64),
        DataType::F32 => floats!(|value| value as f32),
        DataType::F64 => floats!(|value| value),
        DataType::I8 => integers!(i8),
        DataType::I16 => integers!(i16),
        DataType::I32 => integers!(i32),
        DataType::I64 => integers!(i64),
        DataType::U8 => integers!(u8),
        DataType::U16 => integers!(u16),
        DataType::U32 => integers!(u32),
        DataType::U64 => integers!(u64),
        DataType::Bool => Tensor::from_bools(shape, (0..count).map(|_| u8::from(float() > 0.0)).collect()),
        DataType::String => Tensor::from_strings(
            shape,
            (0..count)
                .map(|_| Bytes::from_static(if float() > 0.0 { b"a" } else { b"b" }))
                .collect(),
        ),
    };
    tensor.ok()
}

/// Joins the rows of both, one after the other.
fn join(first: &[Tensor], second: &[Tensor]) -> Option<Vec<Tensor>> {
    first
        .iter()
        .zip(second)
        .map(|(first, second)| {
            let mut shape = first.shape().to_vec();
            *shape.first_mut()? += second.shape().first()?;
            match (first.as_bytes(), second.as_bytes()) {
                (Some(one), Some(other)) => {
                    Tensor::from_bytes(first.data_type(), shape, Bytes::from([&one[..], &other[..]].concat())).ok()
                }
                _ => Tensor::from_strings(shape, [first.as_strings()?, second.as_strings()?].concat()).ok(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Value {
        Value::Tensor(Tensor::from_vec(vec![values.len()], values.to_vec()).unwrap())
    }

    fn answers(first: &[f32], second: &[f32], together: Option<&[f32]>) -> Answers {
        Answers {
            alone: [vec![tensor(first)], vec![tensor(second)]],
            together: together.map(|together| vec![tensor(together)]),
            size: 1,
        }
    }

    #[test]
    fn rows_are_independent_if_joining_does_not_change_their_answers() {
        type Case<'a> = (&'a [f32], &'a [f32], Option<&'a [f32]>, Option<bool>);
        let table: [Case<'_>; 7] = [
            (&[1.0], &[2.0], Some(&[1.0, 2.0]), Some(true)),
            (&[1.0], &[2.0], Some(&[1.000_001, 2.0]), Some(true)),
            (&[f32::NAN], &[2.0], Some(&[f32::NAN, 2.0]), Some(true)),
            (&[1.0], &[2.0], Some(&[1.1, 2.0]), Some(false)),
            // A sum over all rows.
            (&[1.0], &[2.0], Some(&[3.0]), Some(false)),
            // Nothing can be concluded.
            (&[1.0], &[1.0], Some(&[1.0, 1.0]), None),
            (&[1.0], &[2.0], None, None),
        ];
        for (first, second, together, expected) in table {
            assert_eq!(
                answers(first, second, together).independent_rows(),
                expected.map(|expected| vec![expected]),
                "{first:?} {second:?} {together:?}"
            );
        }
    }

    #[test]
    fn generated_rows_differ_and_match_the_models_inputs() {
        for data_type in DataType::ALL {
            let input = InputSpec {
                name: "x".to_owned(),
                data_type,
                dims: Some(vec![Dim::Dynamic(None), Dim::Fixed(64), Dim::Dynamic(None)]),
            };
            let [one, other] = [1, 2].map(|seed| row(&input, 8, random(seed)).unwrap());
            assert_eq!((one.data_type(), one.shape()), (data_type, &[1, 64, 8][..]));
            assert_ne!(one, other, "{data_type}");
            assert_eq!(
                Some(&one),
                row(&input, 8, random(1)).as_ref(),
                "the data is reproducible"
            );
            let joined = join(&[one], &[other]).unwrap();
            assert_eq!(joined[0].shape(), [2, 64, 8]);
        }
    }
}
