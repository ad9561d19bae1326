//! The outputs of a model, as declared and as returned by a run: how a task finds them, and their
//! numbers.
//!
//! A task finds its outputs by name and shape, with the same code when the model is loaded and
//! when a request is answered. Both kinds are converted to an [`OutputInfo`], so that the same
//! outputs are refused at both times. Only a dynamic dimension can make a difference.

use std::borrow::Cow;
use std::fmt::Write;

use half::{bf16, f16};

use super::error::{TaskError, excerpt};
use super::{AnswerSettings, Task};
use crate::tensor::{DataType, Dim, Signature, Tensor, Value, ValueType};

/// An output of a run.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    pub name: &'a str,
    pub value: &'a Value,
}

/// The name, type and shape of an output, before or after a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OutputInfo<'a> {
    pub name: &'a str,
    /// `None` for lists and maps.
    pub data_type: Option<DataType>,
    /// `None` if the rank is unknown; `None` inside for a dynamic dimension.
    pub dims: Option<Vec<Option<usize>>>,
}

impl<'a> OutputInfo<'a> {
    /// The outputs as the model declares them.
    pub fn declared(signature: &'a Signature) -> Vec<Self> {
        let info = |(name, value_type): (&'a str, &ValueType)| match value_type {
            ValueType::Tensor { data_type, dims } => Self {
                name,
                data_type: Some(*data_type),
                dims: dims.as_ref().map(|dims| dims.iter().map(size).collect()),
            },
            ValueType::Sequence(_) | ValueType::Map { .. } => Self {
                name,
                data_type: None,
                dims: None,
            },
        };
        let outputs = signature.outputs.iter();
        outputs.map(|output| info((&output.name, &output.value_type))).collect()
    }

    /// The outputs as returned by a run.
    pub fn given(outputs: &[Output<'a>]) -> Vec<Self> {
        let info = |output: &Output<'a>| match output.value {
            Value::Tensor(tensor) => Self {
                name: output.name,
                data_type: Some(tensor.data_type()),
                dims: Some(tensor.shape().iter().copied().map(Some).collect()),
            },
            Value::Sequence(_) | Value::Map { .. } => Self {
                name: output.name,
                data_type: None,
                dims: None,
            },
        };
        outputs.iter().map(info).collect()
    }

    /// The name without the additions of exporters: letters and digits in lower case, up to a
    /// colon.
    pub fn plain_name(&self) -> String {
        let name = self.name.split(':').next().unwrap_or_default();
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    }

    pub fn is_float(&self) -> bool {
        matches!(
            self.data_type,
            Some(DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64)
        )
    }

    pub fn is_integer(&self) -> bool {
        self.data_type.is_some_and(DataType::is_number) && !self.is_float()
    }

    pub fn is_number(&self) -> bool {
        self.data_type.is_some_and(DataType::is_number)
    }

    /// Whether the rank is `rank` or unknown.
    pub fn may_have_rank(&self, rank: usize) -> bool {
        self.dims.as_ref().is_none_or(|dims| dims.len() == rank)
    }

    /// The size of an axis, if it is known.
    pub fn dim(&self, axis: usize) -> Option<usize> {
        self.dims.as_ref()?.get(axis).copied().flatten()
    }

    pub fn last_dim(&self) -> Option<usize> {
        self.dims.as_ref()?.last().copied().flatten()
    }

    /// Whether an axis has this size or an unknown one.
    pub fn may_have_dim(&self, axis: usize, size: usize) -> bool {
        self.dim(axis).is_none_or(|own| own == size)
    }
}

fn size(dim: &Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Dynamic(_) => None,
    }
}

/// The description of the output that a task looks for.
pub(super) struct Search<'a> {
    pub task: Task,
    pub settings: &'a AnswerSettings,
    /// Preferred names in the form of [`OutputInfo::plain_name`], in order of preference.
    pub names: &'a [&'a str],
    /// A description of the output that the task reads, for messages.
    pub expected: &'static str,
}

impl Search<'_> {
    /// Finds the output in the settings, else one with a preferred name, else the first one for
    /// which `fits` is true. `fits` must be true in any case.
    pub fn find(&self, infos: &[OutputInfo<'_>], fits: impl Fn(&OutputInfo<'_>) -> bool) -> Result<usize, TaskError> {
        if let Some(wanted) = &self.settings.output {
            let Some(at) = infos.iter().position(|info| info.name == wanted) else {
                return Err(self.refusal(infos, format!("there is no output {}", excerpt(wanted))));
            };
            return match infos.get(at).is_some_and(fits) {
                true => Ok(at),
                false => Err(self.refusal(
                    infos,
                    format!("output {} has a different type or shape", excerpt(wanted)),
                )),
            };
        }
        let plain: Vec<String> = infos.iter().map(OutputInfo::plain_name).collect();
        for name in self.names {
            let at = infos
                .iter()
                .zip(&plain)
                .position(|(info, plain)| plain == name && fits(info));
            if let Some(at) = at {
                return Ok(at);
            }
        }
        let first = infos.iter().position(fits);
        first.ok_or_else(|| self.refusal(infos, "no output matches".to_owned()))
    }

    pub fn refusal(&self, infos: &[OutputInfo<'_>], problem: String) -> TaskError {
        TaskError::Outputs {
            task: self.task,
            problem,
            expected: self.expected,
            given: describe(infos),
        }
    }
}

/// Describes the outputs for a message: `"logits" float32[?, 2], "boxes" ..`.
pub(super) fn describe(infos: &[OutputInfo<'_>]) -> String {
    const MOST: usize = 8;
    let mut text = String::new();
    for (i, info) in infos.iter().enumerate() {
        if i == MOST {
            let _ = write!(text, " and {} more", infos.len() - MOST);
            break;
        }
        let comma = if i > 0 { ", " } else { "" };
        let _ = write!(text, "{comma}{} ", excerpt(info.name));
        match info.data_type {
            Some(data_type) => {
                let _ = write!(text, "{data_type}");
            }
            None => text.push_str("list or map"),
        }
        if let Some(dims) = &info.dims {
            let dims: Vec<String> = dims
                .iter()
                .take(MOST)
                .map(|dim| dim.map_or_else(|| "?".to_owned(), |size| size.to_string()))
                .collect();
            let _ = write!(text, "[{}]", dims.join(", "));
        }
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The tensor of the output at a position.
pub(super) fn tensor<'a>(task: Task, outputs: &[Output<'a>], at: usize) -> Result<&'a Tensor, TaskError> {
    match outputs.get(at).map(|output| output.value) {
        Some(Value::Tensor(tensor)) => Ok(tensor),
        _ => Err(TaskError::Context {
            task,
            what: "a tensor in place of a list or map",
        }),
    }
}

/// Reads the numbers of a tensor as `f32`, row by row.
pub(super) struct Rows<'a> {
    tensor: &'a Tensor,
    count: usize,
    width: usize,
    buffer: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// Divides a tensor into rows, one for each record. A tensor of one record may lack the axis of
    /// records; `inner` is the rank of a record.
    pub fn new(task: Task, tensor: &'a Tensor, records: usize, inner: usize) -> Result<Self, TaskError> {
        let shape = tensor.shape();
        let is_whole = shape.len() == inner && records == 1;
        let count = if is_whole { Some(1) } else { shape.first().copied() };
        if count != Some(records) || !tensor.data_type().is_number() {
            return Err(TaskError::Context {
                task,
                what: "outputs with a row of numbers for each record",
            });
        }
        Ok(Self {
            tensor,
            count: records,
            width: tensor.len().checked_div(records).unwrap_or(0),
            buffer: Vec::new(),
        })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The number of numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The numbers of a row. Types other than `f32` are converted one row at a time.
    pub fn row(&mut self, row: usize) -> Result<&[f32], TaskError> {
        let start = row * self.width;
        self.part(start..start + self.width)
    }

    /// A range of all numbers.
    pub fn part(&mut self, range: std::ops::Range<usize>) -> Result<&[f32], TaskError> {
        if let Some(floats) = self.tensor.as_slice::<f32>() {
            return Ok(floats.get(range).unwrap_or_default());
        }
        self.buffer.clear();
        let length = range.len();
        self.buffer.try_reserve(length).map_err(|_| TaskError::OutOfMemory)?;
        extend(self.tensor, range, &mut self.buffer);
        Ok(&self.buffer)
    }
}

/// All numbers of a tensor as `f32`.
pub(super) fn floats(tensor: &Tensor) -> Result<Cow<'_, [f32]>, TaskError> {
    if let Some(floats) = tensor.as_slice::<f32>() {
        return Ok(Cow::Borrowed(floats));
    }
    let mut all = Vec::new();
    all.try_reserve_exact(tensor.len())
        .map_err(|_| TaskError::OutOfMemory)?;
    extend(tensor, 0..tensor.len(), &mut all);
    Ok(Cow::Owned(all))
}

/// Appends numbers of a tensor as `f32`; nothing for booleans and strings.
fn extend(tensor: &Tensor, range: std::ops::Range<usize>, out: &mut Vec<f32>) {
    macro_rules! convert {
        ($($rust:ty, $to:expr);+ $(;)?) => {
            match tensor.data_type() {
                $(<$rust as crate::tensor::Element>::DATA_TYPE => {
                    let numbers = tensor.as_slice::<$rust>().and_then(|all| all.get(range));
                    out.extend(numbers.unwrap_or_default().iter().copied().map($to));
                })+
                DataType::Bool | DataType::String => {}
            }
        };
    }
    convert! {
        f32, std::convert::identity;
        f16, f16::to_f32;
        bf16, bf16::to_f32;
        f64, |number| number as f32;
        i8, f32::from;
        i16, f32::from;
        i32, |number| number as f32;
        i64, |number| number as f32;
        u8, f32::from;
        u16, f32::from;
        u32, |number| number as f32;
        u64, |number| number as f32;
    }
}
