//! Causes of refusal: of pictures, which a caller sends, and of processors, which an artifact
//! brings.

use crate::vision::PictureFormat;

/// Why a picture did not become a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VisionError {
    #[error(
        "the bytes begin as no picture format that is read ({}); they begin {head}",
        PictureFormat::names()
    )]
    NotAPicture { head: String },
    #[error("the picture has {given} bytes; at most {limit} are accepted")]
    TooManyBytes { given: u64, limit: u64 },
    #[error("the picture has {width} x {height} = {} pixels; at most {limit} are accepted", pixels(.width, .height))]
    TooManyPixels { width: u32, height: u32, limit: u64 },
    /// The bytes are cut short, contradict themselves, or are damaged.
    #[error("the {format} picture cannot be read: {problem}")]
    Malformed { format: PictureFormat, problem: String },
    /// The file may be sound, but uses a feature that no reader here has.
    #[error("the {format} picture uses {feature}, which is not supported")]
    Unsupported { format: PictureFormat, feature: String },
    /// The picture is sound, but the processor makes no tensor of it.
    #[error("the picture has {width} x {height} pixels: {problem}")]
    Shape { width: u32, height: u32, problem: String },
    /// For this request alone.
    #[error("there is no memory left for the picture; try again later, or send a smaller one")]
    OutOfMemory,
}

impl VisionError {
    pub(super) fn malformed(format: PictureFormat, problem: impl Into<String>) -> Self {
        Self::Malformed {
            format,
            problem: bounded(problem.into()),
        }
    }

    pub(super) fn unsupported(format: PictureFormat, feature: impl Into<String>) -> Self {
        Self::Unsupported {
            format,
            feature: bounded(feature.into()),
        }
    }

    pub(super) fn truncated(format: PictureFormat) -> Self {
        Self::malformed(format, "it ends too early; the file is truncated")
    }
}

fn pixels(width: &u32, height: &u32) -> u64 {
    u64::from(*width) * u64::from(*height)
}

/// Most bytes of a problem: decoders quote from the file.
const PROBLEM_BYTES: usize = 240;

fn bounded(mut problem: String) -> String {
    if problem.len() > PROBLEM_BYTES {
        let end = (0..=PROBLEM_BYTES)
            .rev()
            .find(|&end| problem.is_char_boundary(end))
            .unwrap_or(0);
        problem.truncate(end);
        problem.push('…');
    }
    problem
}

/// Why a preprocessor file does not describe an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessorError {
    #[error("it is not JSON: {0}")]
    Json(String),
    #[error("expected a JSON object")]
    NotAnObject,
    /// A key of the manifest's object; files of other programs may have keys of their own.
    #[error("{key:?} is not a key for pictures{}", .nearest.as_ref().map(|known| format!("; did you mean {known:?}?")).unwrap_or_default())]
    UnknownKey { key: String, nearest: Option<String> },
    #[error("{key}: {problem}")]
    Value { key: String, problem: String },
    /// A processor of transformers that does more than resize, crop, scale and pad.
    #[error("{name} needs {step}, which is not supported")]
    Unsupported { name: String, step: String },
    #[error("the model's input {input} takes no picture: {problem}")]
    Input { input: String, problem: String },
    #[error("the file makes pictures of {file}, the model takes {model} (height x width)")]
    SizeMismatch { file: String, model: String },
    #[error("neither the file nor the model says the size of a picture; set \"size\"")]
    OpenSize,
}

impl ProcessorError {
    pub(super) fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value {
            key: key.into(),
            problem: problem.into(),
        }
    }
}
